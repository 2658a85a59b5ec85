//! AMD's virtualization: turning it on, the control block, entering a guest.
//!
//! Spec: APM volume 2, chapter 15 and appendices B and C.

mod start_state;

use crate::cpu::Cpu;
use crate::frame::FrameBox;
use crate::memory::{self, Table};
use crate::raw;
use crate::registers::Registers;
use crate::vendor::{Entry, Event, Exit, Machine, MemoryFault, PortAccess};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_abi::DomainSlot;
use hv_abi::call::Error;
use hv_abi::domain::VcpuState;
use hv_core::asid::Tag;
use hv_core::decode::{MAX_LENGTH, Mode, Segment};
use hv_core::guest_page::Paging;
use hv_x86::cpuid::{SVM_EDX_DECODE_ASSISTS, SVM_EDX_NRIP_SAVE};
use hv_x86::svm::{
    self, EVENT_ERROR_VALID, EVENT_EXCEPTION, EVENT_INTERRUPT, EVENT_NMI, EVENT_VALID, INTERCEPT1_CPUID,
    INTERCEPT1_HLT, INTERCEPT1_INIT, INTERCEPT1_INTR, INTERCEPT1_INVD, INTERCEPT1_INVLPGA, INTERCEPT1_IOIO,
    INTERCEPT1_MSR, INTERCEPT1_NMI, INTERCEPT1_RDPMC, INTERCEPT1_SHUTDOWN, INTERCEPT1_SMI,
    INTERCEPT1_TASK_SWITCH, INTERCEPT1_VINTR, INTERCEPT2_CLGI, INTERCEPT2_MONITOR, INTERCEPT2_MWAIT,
    INTERCEPT2_SKINIT, INTERCEPT2_STGI, INTERCEPT2_VMLOAD, INTERCEPT2_VMMCALL, INTERCEPT2_VMRUN,
    INTERCEPT2_VMSAVE, INTERCEPT2_WBINVD, INTERCEPT2_XSETBV, VINTR_IGNORE_TPR, VINTR_IRQ, VINTR_MASKING,
    VINTR_VECTOR_SHIFT, Vmcb,
};
use hv_x86::{Exception, Gpa, Hpa, PAGE_SIZE, cpuid, low8, low32, msr, reg};

/// Physical addresses of the permission maps, the same for all guests.
static PORT_MAP: AtomicU64 = AtomicU64::new(0);
static MSR_MAP: AtomicU64 = AtomicU64::new(0);
/// Leaf 0x8000_000A EDX: CPUID itself is slow where this node is a guest.
static FEATURES: AtomicU32 = AtomicU32::new(0);

/// Whether this processor's SVM has a feature.
fn has(feature: u32) -> bool {
    FEATURES.load(Ordering::Relaxed) & feature != 0
}

/// Registers that are the guest's own in the control block and need no policy.
const DIRECT_MSRS: [u32; 10] = [
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

unsafe extern "C" {
    fn run_guest(registers: *mut Registers, vmcb: u64, host_vmcb: u64);
    fn after_guest();
}

/// A vCPU under SVM.
pub(crate) struct Svm {
    vmcb: FrameBox<Vmcb>,
    tag: Tag,
    /// An event whose delivery an exit interrupted.
    interrupted: u64,
    /// The external interrupt that the guest is to take when it resumes.
    given: Option<u8>,
}

/// Frames that have just been taken: nothing else uses them.
struct Map {
    base: Hpa,
    bytes: u64,
}

impl Map {
    /// So many pages, full of ones.
    fn new(pages: usize) -> Option<Self> {
        let map = Self { base: memory::take_contiguous(pages)?, bytes: pages as u64 * PAGE_SIZE };
        let ones = [0xff; 4096];
        for page in (0..map.bytes).step_by(ones.len()) {
            // SAFETY: these frames were just taken.
            let _ = unsafe { memory::write(map.base.after(page), &ones) };
        }
        Some(map)
    }

    /// Clears bits of a byte.
    fn clear(&self, offset: u64, bits: u8) {
        assert!(offset < self.bytes, "a register beyond the map");
        let mut byte = [0];
        let _ = memory::read(self.base.after(offset), &mut byte);
        // SAFETY: these frames are this map's.
        let _ = unsafe { memory::write(self.base.after(offset), &byte.map(|byte| byte & !bits)) };
    }
}

/// Builds the permission maps: every port and nearly every MSR exits
/// (APM 15.10.1, 15.11).
fn permission_maps() -> Option<(Hpa, Hpa)> {
    let (ports, msrs) = (Map::new(3)?, Map::new(2)?);
    for register in DIRECT_MSRS {
        // Two bits each, in a section for each range of numbers.
        let (section, index) =
            if register >= 0xc000_0000 { (0x800, register - 0xc000_0000) } else { (0, register) };
        msrs.clear(section + u64::from(index / 4), 3 << (index % 4 * 2));
    }
    Some((ports.base, msrs.base))
}

/// Fills the parts of a control block that do not change.
fn init_control(vmcb: &mut Vmcb, root: Table, tsc_offset: u64) {
    let control = &mut vmcb.control;
    // #DB and #AC, whose delivery can repeat without end; #MC, which is the host's.
    control.intercept_exceptions = 1 << DEBUG | 1 << ALIGNMENT | 1 << MACHINE_CHECK;
    control.intercept1 = INTERCEPT1_INTR
        | INTERCEPT1_NMI
        | INTERCEPT1_SMI
        | INTERCEPT1_INIT
        | INTERCEPT1_RDPMC
        | INTERCEPT1_CPUID
        | INTERCEPT1_INVD
        | INTERCEPT1_HLT
        | INTERCEPT1_INVLPGA
        | INTERCEPT1_IOIO
        | INTERCEPT1_MSR
        | INTERCEPT1_TASK_SWITCH
        | INTERCEPT1_SHUTDOWN;
    control.intercept2 = INTERCEPT2_VMRUN
        | INTERCEPT2_VMMCALL
        | INTERCEPT2_VMLOAD
        | INTERCEPT2_VMSAVE
        | INTERCEPT2_STGI
        | INTERCEPT2_CLGI
        | INTERCEPT2_SKINIT
        | INTERCEPT2_WBINVD
        | INTERCEPT2_MONITOR
        | INTERCEPT2_MWAIT
        | INTERCEPT2_XSETBV;
    control.iopm_base = PORT_MAP.load(Ordering::Relaxed);
    control.msrpm_base = MSR_MAP.load(Ordering::Relaxed);
    control.tsc_offset = tsc_offset;
    control.vintr = VINTR_MASKING;
    control.nested_enable = 1;
    control.nested_cr3 = root.address().0;
}

impl Svm {
    /// Chooses what the guest finds when it resumes (APM 15.20, 15.21).
    fn prepare(&mut self, entry: &Entry) {
        let interrupted = core::mem::take(&mut self.interrupted);
        let control = &mut self.vmcb.control;
        control.vintr = VINTR_MASKING | u64::from(entry.task_priority_class);
        control.intercept1 &= !INTERCEPT1_VINTR;
        self.given = None;
        control.event_injection = match entry.event {
            Event::None => 0,
            // A virtual interrupt (15.21.4) is taken as any interrupt is, before the first
            // instruction. An injected one is not: with it some emulators remember an
            // exception that they may raise once more at any later exit.
            Event::Interrupt(vector) if !entry.window => {
                control.vintr |= VINTR_IRQ | VINTR_IGNORE_TPR | u64::from(vector) << VINTR_VECTOR_SHIFT;
                self.given = Some(vector);
                0
            }
            Event::Interrupt(vector) => u64::from(vector) | EVENT_INTERRUPT | EVENT_VALID,
            Event::Interrupted => interrupted,
            Event::Exception(exception) => {
                let error = exception.error_code.map_or(0, |code| EVENT_ERROR_VALID | u64::from(code) << 32);
                u64::from(exception.vector) | EVENT_EXCEPTION | EVENT_VALID | error
            }
            Event::Nmi => 2 | EVENT_NMI | EVENT_VALID,
        };
        if entry.window {
            control.vintr |= VINTR_IRQ | VINTR_IGNORE_TPR;
            control.intercept1 |= INTERCEPT1_VINTR;
        }
    }

    /// Whether the processor saved this program's own state as the guest's. No
    /// processor does; QEMU does when CPU 0 leaves a guest just as another CPU
    /// restores x87 state (see [`hv_core::xsave`]): nested paging then stays on,
    /// the first fetch fails in it and guest mode is left a second time. Whose
    /// state is lost so is told apart from guests that fail by themselves.
    fn holds_host_state(&self) -> bool {
        let after: unsafe extern "C" fn() = after_guest;
        let root = x86_64::registers::control::Cr3::read_raw().0.start_address().as_u64();
        self.vmcb.save.rip == after as usize as u64 && self.vmcb.save.cr3 == root
    }

    /// What the control block says of the exit. Only the low half of the code
    /// counts: some report -1 in 32 bits.
    fn exit(&self) -> Exit {
        let control = &self.vmcb.control;
        match low32(control.exit_code) {
            svm::EXIT_INTR | svm::EXIT_NMI | svm::EXIT_SMI | svm::EXIT_INIT | svm::EXIT_VINTR => {
                Exit::Interruption
            }
            svm::EXIT_CPUID => Exit::Cpuid,
            svm::EXIT_HLT => Exit::Halt,
            svm::EXIT_IOIO => Exit::Port(port_access(control.exit_info1, control.exit_info2)),
            svm::EXIT_MSR => Exit::Msr { write: control.exit_info1 & 1 == 1 },
            svm::EXIT_NPF => Exit::Memory(MemoryFault {
                gpa: Gpa(control.exit_info2),
                write: control.exit_info1 & svm::NPF_WRITE != 0,
                implicit: control.exit_info1 & (svm::NPF_FETCH | svm::NPF_TABLE_WALK) != 0,
            }),
            svm::EXIT_VMMCALL => Exit::Hypercall(&[0x0f, 0x01, 0xd9]),
            svm::EXIT_XSETBV => Exit::Xsetbv,
            // Caches are coherent: nothing to write back for a guest.
            svm::EXIT_WBINVD => Exit::Nothing(&[0x0f, 0x09]),
            svm::EXIT_INVD => Exit::Nothing(&[0x0f, 0x08]),
            svm::EXIT_RDPMC => Exit::Exception(Exception::GENERAL_PROTECTION),
            EXIT_DEBUG => Exit::Exception(Exception { vector: DEBUG, error_code: None }),
            EXIT_MACHINE_CHECK => Exit::MachineCheck,
            EXIT_ALIGNMENT => Exit::Exception(Exception { vector: ALIGNMENT, error_code: Some(0) }),
            svm::EXIT_INVLPGA | svm::EXIT_VMRUN..=svm::EXIT_SKINIT | svm::EXIT_MONITOR | svm::EXIT_MWAIT => {
                Exit::Exception(Exception::INVALID_OPCODE)
            }
            svm::EXIT_TASK_SWITCH => Exit::Fatal("hardware task switch"),
            svm::EXIT_SHUTDOWN => Exit::TripleFault,
            svm::EXIT_INVALID => Exit::Fatal("processor state that the hardware refuses"),
            code => Exit::Unexpected(u64::from(code)),
        }
    }
}

/// Vector of #DB.
const DEBUG: u8 = 1;
/// Vector of #AC.
const ALIGNMENT: u8 = 17;
const EXIT_DEBUG: u32 = svm::EXIT_EXCEPTION + DEBUG as u32;
/// Vector of #MC.
const MACHINE_CHECK: u8 = 18;
const EXIT_MACHINE_CHECK: u32 = svm::EXIT_EXCEPTION + MACHINE_CHECK as u32;
const EXIT_ALIGNMENT: u32 = svm::EXIT_EXCEPTION + ALIGNMENT as u32;

/// The exit qualification of a port access (APM 15.10.2).
fn port_access(information: u64, next_rip: u64) -> PortAccess {
    PortAccess {
        port: hv_x86::low16(information >> 16),
        width: low8(information >> 4) & 7,
        input: information & svm::IOIO_IN != 0,
        string: information & svm::IOIO_STRING != 0,
        next_rip,
    }
}

impl Machine for Svm {
    fn missing_feature() -> Option<&'static str> {
        let extended = raw::cpuid(0x8000_0000, 0).eax;
        if extended < 0x8000_000a || raw::cpuid(0x8000_0001, 0).ecx & cpuid::E1_ECX_SVM == 0 {
            return Some("AMD SVM");
        }
        if raw::cpuid(0x8000_000a, 0).edx & cpuid::SVM_EDX_NPT == 0 {
            return Some("nested paging");
        }
        // SAFETY: processors with SVM have it.
        if unsafe { raw::read_msr(msr::VM_CR) } & msr::VM_CR_SVMDIS != 0 {
            return Some("SVM (disabled by firmware)");
        }
        None
    }

    fn init() -> Option<()> {
        FEATURES.store(raw::cpuid(0x8000_000a, 0).edx, Ordering::Relaxed);
        let (ports, msrs) = permission_maps()?;
        PORT_MAP.store(ports.0, Ordering::Relaxed);
        MSR_MAP.store(msrs.0, Ordering::Relaxed);
        Some(())
    }

    fn enable(cpu: &Cpu) {
        // SAFETY: every processor in 64-bit mode has it.
        let efer = unsafe { raw::read_msr(msr::EFER) } | reg::EFER_SVME;
        // SAFETY: support was checked at start.
        unsafe { raw::write_msr(msr::EFER, efer) };
        if let Some(area) = memory::take_frame() {
            // SAFETY: the frame belongs to the processor from now on.
            unsafe { raw::write_msr(msr::VM_HSAVE_PA, area.0) };
        }
        // SAFETY: VMSAVE writes this CPU's own page, which nothing else uses.
        unsafe {
            core::arch::asm!("vmsave rax", in("rax") cpu.host_vmcb, options(nostack, preserves_flags));
        };
    }

    fn new(root: Table, tsc_offset: u64) -> Option<Self> {
        let mut vmcb = FrameBox::new()?;
        init_control(&mut vmcb, root, tsc_offset);
        start_state::real_mode(&mut vmcb, 0);
        Some(Self { vmcb, tag: Tag::NONE, interrupted: 0, given: None })
    }

    fn real_mode(&mut self, vector: u8) {
        start_state::real_mode(&mut self.vmcb, vector);
        self.vmcb.control.interrupt_shadow = 0;
        // Its translations were made under other control registers.
        (self.tag, self.interrupted, self.given) = (Tag::NONE, 0, None);
    }

    fn described(&mut self, state: &VcpuState) -> Result<(), Error> {
        self.real_mode(0);
        start_state::described(&mut self.vmcb, state)
    }

    fn run(&mut self, cpu: &Cpu, registers: &mut Registers, entry: &Entry) -> Exit {
        let flush = cpu.asids.lock().assign(&mut self.tag);
        self.vmcb.control.asid = self.tag.asid();
        self.vmcb.control.tlb_control = if flush { svm::TLB_FLUSH_ALL } else { svm::TLB_KEEP };
        self.prepare(entry);
        self.vmcb.save.rax = registers.rax;
        self.vmcb.save.rsp = registers.rsp;
        let address = self.vmcb.address().0;
        // SAFETY: both control blocks are whole and owned; the guest reaches only
        // memory its nested tables map.
        unsafe { run_guest(registers, address, cpu.host_vmcb) };
        registers.rax = self.vmcb.save.rax;
        registers.rsp = self.vmcb.save.rsp;
        let event = self.vmcb.control.exit_interrupt_info;
        if svm::delivered_again(event) {
            self.interrupted = event;
        }
        // Taken, or its delivery has begun.
        if self.vmcb.control.vintr & VINTR_IRQ == 0 || event & EVENT_VALID != 0 {
            self.given = None;
        }
        if self.holds_host_state() {
            return Exit::Fatal("the emulated processor lost its state");
        }
        self.exit()
    }

    fn has_interrupted_event(&self) -> bool {
        self.interrupted != 0
    }

    fn untaken_interrupt(&mut self) -> Option<u8> {
        self.given.take()
    }

    fn takes_interrupts(&self) -> bool {
        self.interrupt_flag() && self.takes_nmi()
    }

    fn interrupt_flag(&self) -> bool {
        self.vmcb.save.rflags & reg::RFLAGS_IF != 0
    }

    fn takes_nmi(&self) -> bool {
        self.vmcb.control.interrupt_shadow & 1 == 0
    }

    fn task_priority_class(&self) -> u8 {
        low8(self.vmcb.control.vintr) & 15
    }

    fn fetched(&self) -> Option<&[u8]> {
        let control = &self.vmcb.control;
        let count = usize::from(control.fetched).min(MAX_LENGTH);
        (count != 0 && has(SVM_EDX_DECODE_ASSISTS)).then(|| control.instruction.get(..count)).flatten()
    }

    fn next_rip(&self) -> Option<u64> {
        let next = self.vmcb.control.next_rip;
        (next != 0 && has(SVM_EDX_NRIP_SAVE)).then_some(next)
    }

    fn rip(&self) -> u64 {
        self.vmcb.save.rip
    }

    fn go_to(&mut self, rip: u64) {
        self.vmcb.save.rip = if self.mode() == Mode::Long { rip } else { rip & 0xffff_ffff };
        self.vmcb.control.interrupt_shadow &= !1;
    }

    fn linear_rip(&self) -> u64 {
        let save = &self.vmcb.save;
        if self.mode() == Mode::Long { save.rip } else { save.cs.base.wrapping_add(save.rip) & 0xffff_ffff }
    }

    fn mode(&self) -> Mode {
        let save = &self.vmcb.save;
        // Attribute bits 9 and 10: L and D (APM figure 4-20 as the VMCB packs it).
        if save.efer & reg::EFER_LMA != 0 && save.cs.attributes & 1 << 9 != 0 {
            Mode::Long
        } else if save.cs.attributes & 1 << 10 != 0 {
            Mode::Bits32
        } else {
            Mode::Bits16
        }
    }

    fn flags(&self) -> u64 {
        self.vmcb.save.rflags
    }

    fn segment_base(&self, segment: Segment) -> u64 {
        let save = &self.vmcb.save;
        match segment {
            Segment::Fs => save.fs.base,
            Segment::Gs => save.gs.base,
            // 64-bit mode has no others (APM 4.5.3).
            _ if self.mode() == Mode::Long => 0,
            Segment::Es => save.es.base,
            Segment::Cs => save.cs.base,
            Segment::Ss => save.ss.base,
            Segment::Ds => save.ds.base,
        }
    }

    fn set_fault_address(&mut self, linear: u64) {
        self.vmcb.save.cr2 = linear;
    }

    fn paging(&self) -> Paging {
        let save = &self.vmcb.save;
        Paging { cr0: save.cr0, cr3: save.cr3, cr4: save.cr4, efer: save.efer }
    }

    fn privilege(&self) -> u8 {
        self.vmcb.save.cpl
    }

    fn efer(&self) -> u64 {
        self.vmcb.save.efer & !reg::EFER_SVME
    }

    fn set_efer(&mut self, value: u64) {
        let old = self.vmcb.save.efer;
        self.vmcb.save.efer = value & !reg::EFER_LMA | old & reg::EFER_LMA | reg::EFER_SVME;
    }

    fn pat(&self) -> u64 {
        self.vmcb.save.pat
    }

    fn set_pat(&mut self, value: u64) {
        self.vmcb.save.pat = value;
    }

    fn log_state(&self, domain: DomainSlot, index: u32) {
        let save = &self.vmcb.save;
        log::warn!(
            "domain slot {domain} vcpu {index}: triple fault at {:#x}, CR2 {:#x}, CR3 {:#x}, CR0 {:#x}, RSP {:#x}, event {:#x}",
            save.rip,
            save.cr2,
            save.cr3,
            save.cr0,
            save.rsp,
            self.vmcb.control.exit_interrupt_info
        );
    }
}
