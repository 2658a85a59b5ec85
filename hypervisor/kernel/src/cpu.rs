//! One processor: its block at GS, descriptor tables, interrupt vectors.

use crate::apic;
use crate::frame::{FrameBox, Page};
use crate::memory;
use crate::vendor::{Host, Machine};
use crate::watch::Mutex;
use crate::{raw, speculation};
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use hv_core::asid::Asids;
use hv_x86::{PAGE_SIZE, cpuid, msr, reg};

/// Most CPUs in use.
pub(crate) const MAX_CPUS: usize = 64;
/// Bytes of a CPU's stack in ring 0.
pub(crate) const STACK_BYTES: u64 = 32 * 1024;
/// Vector of #MC, marked where it found a CPU asleep.
pub(crate) const VECTOR_MACHINE_CHECK: u8 = 18;
/// Vector of the local timer.
pub(crate) const VECTOR_TIMER: u8 = 0xf0;
/// Vector: look at the running vCPU's requests.
pub(crate) const VECTOR_KICK: u8 = 0xf1;
/// Vector: choose again what to run.
pub(crate) const VECTOR_RESCHEDULE: u8 = 0xf2;
/// Vector: stop, the node is going down.
pub(crate) const VECTOR_STOP: u8 = 0xf3;
/// First vector of devices bound to dom0.
pub(crate) const VECTOR_DEVICES: u8 = 0x30;
/// Vector of spurious interrupts.
pub(crate) const VECTOR_SPURIOUS: u8 = 0xff;

/// A processor. Shared by reference; the first fields are known to assembly.
#[repr(C, align(64))]
pub(crate) struct Cpu {
    self_pointer: AtomicU64,
    kernel_rsp: AtomicU64,
    eoi: AtomicU64,
    tss: AtomicU64,
    scratch: AtomicU64,
    pending: [AtomicU64; 4],
    /// What each entry and exit does: `hv_core::speculation::STEP_*`.
    pub(crate) steps: AtomicU64,
    /// SPEC_CTRL of the guest, and of ring 0.
    pub(crate) guest_control: AtomicU64,
    pub(crate) own_control: AtomicU64,
    /// The guest of which predictions may be left here; 0 for none.
    pub(crate) trained: AtomicU32,
    /// Number, 0 for the boot processor.
    pub(crate) number: u32,
    /// Local APIC identifier.
    pub(crate) apic_id: u32,
    /// Tags of this CPU.
    pub(crate) asids: Mutex<Asids>,
    /// Where VMSAVE keeps the host's hidden state.
    pub(crate) host_vmcb: u64,
    /// What the timer is set for.
    pub(crate) armed_ns: AtomicU64,
    /// Where it was when it was told to stop for good.
    pub(crate) stopped_at: AtomicU64,
    /// What it does: see [`crate::watch`].
    pub(crate) progress: AtomicU64,
    /// When it looks at the others next.
    pub(crate) look_ns: AtomicU64,
    /// When it looks at its machine-check banks next.
    pub(crate) banks_ns: AtomicU64,
    tss_page: Mutex<FrameBox<Page>>,
    gdt: Mutex<[u64; 8]>,
}

const _: () = {
    assert!(offset_of!(Cpu, kernel_rsp) == 8);
    assert!(offset_of!(Cpu, eoi) == 16);
    assert!(offset_of!(Cpu, tss) == 24);
    assert!(offset_of!(Cpu, scratch) == 32);
    assert!(offset_of!(Cpu, pending) == 40);
    assert!(offset_of!(Cpu, steps) == 72);
    assert!(offset_of!(Cpu, guest_control) == 80);
    assert!(offset_of!(Cpu, own_control) == 88);
};

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(0);
static HOST_XCR0: AtomicU64 = AtomicU64::new(0);
/// Physical address of the interrupt descriptor table, shared by all.
static IDT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn interrupt_entries();
    fn system_call_entry();
}

/// CPUs in use.
pub(crate) fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// CPU number `number`, if it is in use.
pub(crate) fn by_number(number: u32) -> Option<&'static Cpu> {
    let pointer = CPUS.get(number as usize)?.load(Ordering::Acquire);
    // SAFETY: the pointer is null or a block that is never freed.
    unsafe { pointer.cast_const().as_ref() }
}

/// Whether an address is that of a CPU's block.
pub(crate) fn is_block(address: u64) -> bool {
    CPUS.iter().any(|cpu| address != 0 && cpu.load(Ordering::Acquire) as u64 == address)
}

/// The CPU this runs on.
pub(crate) fn current() -> &'static Cpu {
    let pointer: *const Cpu;
    // SAFETY: GS holds this CPU's block, whose first word points to itself.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly))
    };
    // SAFETY: blocks are never freed.
    unsafe { &*pointer }
}

/// A pointer operand for LGDT and LIDT.
#[repr(C, packed)]
struct DescriptorPointer {
    limit: u16,
    base: u64,
}

impl Cpu {
    /// Makes the block of the next CPU.
    pub(crate) fn create(apic_id: u32) -> Option<&'static Self> {
        let number = COUNT.load(Ordering::Relaxed);
        let slot = CPUS.get(number as usize)?;
        let frame = memory::take_frame()?;
        // Stacks of the interrupts that must not trust the current one: #DF, NMI
        // and #MC (APM 8.9.4), of a page each.
        let mut tss = FrameBox::<Page>::new()?;
        for offset in [0x24, 0x2c, 0x34] {
            let top = memory::map_stack(PAGE_SIZE)?;
            if let Some(slot) = tss.get_mut(offset..offset + 8) {
                slot.copy_from_slice(&top.to_le_bytes());
            }
        }
        // No port is open to ring 3: the permission map lies beyond the limit.
        if let Some(slot) = tss.get_mut(0x66..0x68) {
            slot.copy_from_slice(&0x68_u16.to_le_bytes());
        }
        let host = FrameBox::<Page>::new()?;
        let asid_count = raw::cpuid(0x8000_000a, 0).ebx.max(2);
        let cpu = Self {
            self_pointer: AtomicU64::new(memory::direct(frame)),
            kernel_rsp: AtomicU64::new(0),
            eoi: AtomicU64::new(apic::eoi_address()),
            tss: AtomicU64::new(memory::direct(tss.address())),
            scratch: AtomicU64::new(0),
            pending: [const { AtomicU64::new(0) }; 4],
            steps: AtomicU64::new(0),
            guest_control: AtomicU64::new(0),
            own_control: AtomicU64::new(0),
            trained: AtomicU32::new(0),
            number,
            apic_id,
            asids: Mutex::new(Asids::new(number, asid_count)),
            host_vmcb: host.address(),
            armed_ns: AtomicU64::new(u64::MAX),
            stopped_at: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            look_ns: AtomicU64::new(0),
            banks_ns: AtomicU64::new(0),
            tss_page: Mutex::new(tss),
            gdt: Mutex::new([0; 8]),
        };
        core::mem::forget(host);
        const { assert!(size_of::<Cpu>() <= 4096) };
        let pointer = memory::direct(frame) as *mut Self;
        // SAFETY: the frame is fresh, large enough and page aligned.
        unsafe { pointer.write(cpu) };
        slot.store(pointer, Ordering::Release);
        COUNT.store(number + 1, Ordering::Release);
        by_number(number)
    }

    /// Makes this block the running CPU's own: tables, registers, system calls.
    pub(crate) fn install(&'static self) {
        self.load_tables();
        let pointer = self.self_pointer.load(Ordering::Relaxed);
        // SAFETY: the block lives for ever; ring 0 reads it through GS.
        unsafe { raw::write_msr(msr::GS_BASE, pointer) };
        // SAFETY: the value that ring 3 sees as its GS base.
        unsafe { raw::write_msr(msr::KERNEL_GS_BASE, 0) };
        // SAFETY: selectors of the table just loaded: ring 0 at 8, ring 3 at 0x10.
        unsafe { raw::write_msr(msr::STAR, 0x10 << 48 | 8 << 32) };
        let entry: unsafe extern "C" fn() = system_call_entry;
        // SAFETY: the entry saves everything it changes.
        unsafe { raw::write_msr(msr::LSTAR, entry as usize as u64) };
        let mask = reg::RFLAGS_IF | reg::RFLAGS_DF | reg::RFLAGS_TF | 1 << 18 | 1 << 14;
        // SAFETY: system calls start with these flags clear.
        unsafe { raw::write_msr(msr::SFMASK, mask) };
        let efer = raw::read_msr(msr::EFER) | reg::EFER_SCE;
        // SAFETY: only SYSCALL is added.
        unsafe { raw::write_msr(msr::EFER, efer) };
        let mut cr4 = x86_64::registers::control::Cr4::read_raw() | reg::CR4_OSXSAVE;
        let features = raw::cpuid(7, 0).ebx;
        if features & 1 << 7 != 0 {
            cr4 |= reg::CR4_SMEP;
        }
        if features & 1 << 20 != 0 {
            cr4 |= reg::CR4_SMAP;
        }
        if raw::cpuid(7, 0).ecx & 1 << 2 != 0 {
            cr4 |= reg::CR4_UMIP;
        }
        // SAFETY: the features were checked; ring 0 never touches user pages.
        unsafe { x86_64::registers::control::Cr4::write_raw(cr4) };
        raw::set_xcr0(host_xcr0());
        crate::machine_check::enable();
        speculation::set_up();
    }

    fn load_tables(&self) {
        let tss = self.tss_page.lock();
        let base = memory::direct(tss.address());
        let mut gdt = self.gdt.lock();
        let low = 0x67 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        // Null, code 0, data 0, data 3, code 3, TSS in two words (APM 4.8).
        *gdt = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            low,
            base >> 32,
            0,
        ];
        let pointer = DescriptorPointer { limit: 63, base: gdt.as_ptr() as u64 };
        // SAFETY: the table lives in this CPU's block, which is never freed; the
        // code segment keeps its selector and meaning.
        unsafe {
            core::arch::asm!(
                "lgdt [{0}]",
                "push 8",
                "lea {1}, [rip + 2f]",
                "push {1}",
                "retfq",
                "2: mov {1:e}, 0x10",
                "mov ss, {1:e}",
                "xor {1:e}, {1:e}",
                "mov ds, {1:e}",
                "mov es, {1:e}",
                "mov fs, {1:e}",
                "mov gs, {1:e}",
                "mov {1:e}, 0x28",
                "ltr {1:x}",
                in(reg) &raw const pointer,
                out(reg) _,
            );
        };
        let idt = DescriptorPointer { limit: 4095, base: IDT.load(Ordering::Relaxed) };
        // SAFETY: the table is complete and never freed.
        unsafe { core::arch::asm!("lidt [{}]", in(reg) &raw const idt, options(nostack, preserves_flags)) };
    }

    /// Takes the vectors that have arrived since the last call.
    pub(crate) fn take_pending(&self) -> [u64; 4] {
        let mut found = [0; 4];
        for (target, word) in found.iter_mut().zip(&self.pending) {
            if word.load(Ordering::Relaxed) != 0 {
                *target = word.swap(0, Ordering::Acquire);
            }
        }
        found
    }

    /// As if a vector had arrived: for what this CPU asks of itself.
    pub(crate) fn mark(&self, vector: u8) {
        if let Some(word) = self.pending.get(usize::from(vector >> 6)) {
            word.fetch_or(1 << (vector & 63), Ordering::Relaxed);
        }
    }

    /// Whether any vector has arrived.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }
}

/// State components that ring 0 saves and restores for guests.
pub(crate) fn host_xcr0() -> u64 {
    HOST_XCR0.load(Ordering::Relaxed)
}

/// Whether a set of vectors has one.
pub(crate) fn has_vector(words: &[u64; 4], vector: u8) -> bool {
    words.get(usize::from(vector >> 6)).is_some_and(|word| word >> (vector & 63) & 1 == 1)
}

/// Builds the interrupt table (APM 4.8.4): 256 gates into ring 0.
pub(crate) fn init_interrupts() -> Option<()> {
    HOST_XCR0.store(hv_core::cpuid::allowed_xcr0(&raw::cpuid), Ordering::Relaxed);
    let mut table = FrameBox::<[[u64; 2]; 256]>::new()?;
    let entries: unsafe extern "C" fn() = interrupt_entries;
    for (vector, gate) in table.iter_mut().enumerate() {
        let target = entries as usize as u64 + vector as u64 * 16;
        let ist = match vector {
            8 => 1,
            2 => 2,
            18 => 3,
            _ => 0,
        };
        *gate = [
            target & 0xffff | 8 << 16 | ist << 32 | 0x8e << 40 | (target >> 16 & 0xffff) << 48,
            target >> 32,
        ];
    }
    IDT.store(memory::direct(table.address()), Ordering::Relaxed);
    core::mem::forget(table);
    Some(())
}

/// Why this processor cannot run guests, if it cannot.
pub(crate) fn missing_feature() -> Option<&'static str> {
    let features = raw::cpuid(1, 0);
    if features.ecx & cpuid::F1_ECX_XSAVE == 0 {
        return Some("XSAVE");
    }
    Host::missing_feature()
}
