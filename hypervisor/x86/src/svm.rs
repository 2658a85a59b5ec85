//! The virtual machine control block and SVM exit codes.
//!
//! Spec: APM 15.5 to 15.36 and appendix B (VMCB layout) and C (exit codes).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A segment register as the VMCB holds it (APM table B-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Type, S, DPL, P in bits 0-7; AVL, L, D, G in bits 8-11.
    pub attributes: u16,
    /// Limit in bytes, already scaled.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The control area: intercepts and what an exit reports (APM table B-1).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// CR read (low half) and write (high half) intercepts.
    pub intercept_cr: u32,
    /// DR read and write intercepts.
    pub intercept_dr: u32,
    /// Exception vectors that exit.
    pub intercept_exceptions: u32,
    /// Instruction intercepts, first word: see `INTERCEPT1_*`.
    pub intercept1: u32,
    /// Instruction intercepts, second word: see `INTERCEPT2_*`.
    pub intercept2: u32,
    /// Instruction intercepts, third word.
    pub intercept3: u32,
    reserved_018: [u8; 0x24],
    /// PAUSE filter threshold.
    pub pause_filter_threshold: u16,
    /// PAUSE filter count.
    pub pause_filter_count: u16,
    /// Physical address of the I/O permission map.
    pub iopm_base: u64,
    /// Physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the TSC in the guest.
    pub tsc_offset: u64,
    /// Address space identifier; zero is the host's.
    pub asid: u32,
    /// What VMRUN does to the TLB: see `TLB_*`.
    pub tlb_control: u32,
    /// Virtual interrupt control: see `VINTR_*`.
    pub vintr: u64,
    /// Bit 0: interrupt shadow; bit 1: guest interrupt mask.
    pub interrupt_shadow: u64,
    /// Why the guest stopped; compare the low 32 bits.
    pub exit_code: u64,
    /// First exit qualification.
    pub exit_info1: u64,
    /// Second exit qualification.
    pub exit_info2: u64,
    /// The event whose delivery the exit interrupted.
    pub exit_interrupt_info: u64,
    /// Bit 0: nested paging.
    pub nested_enable: u64,
    reserved_098: [u8; 0x10],
    /// An event to deliver on VMRUN: see `EVENT_*`.
    pub event_injection: u64,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    /// Bit 0: LBR virtualization; bit 1: VMLOAD/VMSAVE virtualization.
    pub virtual_extensions: u64,
    /// Which parts the processor may take from its cache.
    pub clean: u32,
    reserved_0c4: u32,
    /// Where the next instruction starts, with NRIP save.
    pub next_rip: u64,
    /// How many bytes of the instruction were fetched, with decode assists.
    pub fetched: u8,
    /// The bytes fetched, with decode assists.
    pub instruction: [u8; 15],
    reserved_0e0: [u8; 0x320],
}

/// The state save area (APM table B-2).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Save {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// GDTR; base and limit only.
    pub gdtr: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// IDTR; base and limit only.
    pub idtr: Segment,
    /// TR.
    pub tr: Segment,
    reserved_0a0: [u8; 0x2b],
    /// Current privilege level.
    pub cpl: u8,
    reserved_0cc: [u8; 4],
    /// EFER; SVME must be set.
    pub efer: u64,
    reserved_0d8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved_180: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    reserved_1e0: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    /// SYSCALL segments.
    pub star: u64,
    /// SYSCALL target.
    pub lstar: u64,
    /// SYSCALL target in compatibility mode.
    pub cstar: u64,
    /// SYSCALL flag mask.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// Guest page attribute table, with nested paging.
    pub pat: u64,
    /// DebugCtl.
    pub debug_control: u64,
    /// Last branch: from.
    pub last_branch_from: u64,
    /// Last branch: to.
    pub last_branch_to: u64,
    /// Last interrupt: from.
    pub last_interrupt_from: u64,
    /// Last interrupt: to.
    pub last_interrupt_to: u64,
    reserved_298: [u8; 0x968],
}

/// A whole control block: one page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vmcb {
    /// Control area, the first 0x400 bytes.
    pub control: Control,
    /// Save area.
    pub save: Save,
}

const _: () = {
    assert!(size_of::<Control>() == 0x400);
    assert!(size_of::<Vmcb>() == 4096);
    assert!(core::mem::offset_of!(Control, iopm_base) == 0x40);
    assert!(core::mem::offset_of!(Control, exit_code) == 0x70);
    assert!(core::mem::offset_of!(Control, event_injection) == 0xa8);
    assert!(core::mem::offset_of!(Control, next_rip) == 0xc8);
    assert!(core::mem::offset_of!(Save, cpl) == 0xcb);
    assert!(core::mem::offset_of!(Save, efer) == 0xd0);
    assert!(core::mem::offset_of!(Save, cr4) == 0x148);
    assert!(core::mem::offset_of!(Save, rsp) == 0x1d8);
    assert!(core::mem::offset_of!(Save, rax) == 0x1f8);
    assert!(core::mem::offset_of!(Save, cr2) == 0x240);
    assert!(core::mem::offset_of!(Save, pat) == 0x268);
};

/// Intercept physical interrupts.
pub const INTERCEPT1_INTR: u32 = 1 << 0;
/// Intercept NMI.
pub const INTERCEPT1_NMI: u32 = 1 << 1;
/// Intercept SMI.
pub const INTERCEPT1_SMI: u32 = 1 << 2;
/// Intercept INIT.
pub const INTERCEPT1_INIT: u32 = 1 << 3;
/// Intercept the moment a virtual interrupt could be taken.
pub const INTERCEPT1_VINTR: u32 = 1 << 4;
/// Intercept RDPMC.
pub const INTERCEPT1_RDPMC: u32 = 1 << 15;
/// Intercept CPUID.
pub const INTERCEPT1_CPUID: u32 = 1 << 18;
/// Intercept INVD.
pub const INTERCEPT1_INVD: u32 = 1 << 22;
/// Intercept PAUSE.
pub const INTERCEPT1_PAUSE: u32 = 1 << 23;
/// Intercept HLT.
pub const INTERCEPT1_HLT: u32 = 1 << 24;
/// Intercept INVLPGA.
pub const INTERCEPT1_INVLPGA: u32 = 1 << 26;
/// Intercept ports in the I/O permission map.
pub const INTERCEPT1_IOIO: u32 = 1 << 27;
/// Intercept MSRs in the MSR permission map.
pub const INTERCEPT1_MSR: u32 = 1 << 28;
/// Intercept task switches.
pub const INTERCEPT1_TASK_SWITCH: u32 = 1 << 29;
/// Intercept shutdown (triple fault).
pub const INTERCEPT1_SHUTDOWN: u32 = 1 << 31;

/// Intercept VMRUN; the processor insists on it.
pub const INTERCEPT2_VMRUN: u32 = 1 << 0;
/// Intercept VMMCALL.
pub const INTERCEPT2_VMMCALL: u32 = 1 << 1;
/// Intercept VMLOAD.
pub const INTERCEPT2_VMLOAD: u32 = 1 << 2;
/// Intercept VMSAVE.
pub const INTERCEPT2_VMSAVE: u32 = 1 << 3;
/// Intercept STGI.
pub const INTERCEPT2_STGI: u32 = 1 << 4;
/// Intercept CLGI.
pub const INTERCEPT2_CLGI: u32 = 1 << 5;
/// Intercept SKINIT.
pub const INTERCEPT2_SKINIT: u32 = 1 << 6;
/// Intercept WBINVD.
pub const INTERCEPT2_WBINVD: u32 = 1 << 9;
/// Intercept MONITOR.
pub const INTERCEPT2_MONITOR: u32 = 1 << 10;
/// Intercept MWAIT.
pub const INTERCEPT2_MWAIT: u32 = 1 << 11;
/// Intercept XSETBV.
pub const INTERCEPT2_XSETBV: u32 = 1 << 13;

/// Leave the TLB alone.
pub const TLB_KEEP: u32 = 0;
/// Flush every entry of every ASID.
pub const TLB_FLUSH_ALL: u32 = 1;
/// Flush this guest's entries.
pub const TLB_FLUSH_GUEST: u32 = 3;

/// Virtual interrupt: pending.
pub const VINTR_IRQ: u64 = 1 << 8;
/// Where the virtual interrupt's vector is (V_INTR_VECTOR).
pub const VINTR_VECTOR_SHIFT: u32 = 32;
/// Virtual interrupt: ignore the virtual TPR.
pub const VINTR_IGNORE_TPR: u64 = 1 << 20;
/// The guest's IF masks virtual interrupts only.
pub const VINTR_MASKING: u64 = 1 << 24;

/// Event: an external interrupt.
pub const EVENT_INTERRUPT: u64 = 0;
/// Event: NMI.
pub const EVENT_NMI: u64 = 2 << 8;
/// Event: an exception.
pub const EVENT_EXCEPTION: u64 = 3 << 8;
/// Event: a software interrupt.
pub const EVENT_SOFTWARE: u64 = 4 << 8;
/// Event: the type field.
pub const EVENT_TYPE: u64 = 7 << 8;
/// Event: the error code in the high half is valid.
pub const EVENT_ERROR_VALID: u64 = 1 << 11;
/// Event: valid.
pub const EVENT_VALID: u64 = 1 << 31;

/// Whether an event whose delivery an exit interrupted must be injected to happen. One that
/// the guest's own instruction makes is not: the instruction pointer is still before INT,
/// INT3 or INTO, which is executed again and pushes its own next address. Injected, #BP and
/// #OF would push the address of the instruction itself (APM 15.7.2, 15.20).
#[must_use]
pub const fn delivered_again(event: u64) -> bool {
    let by_instruction = match event & EVENT_TYPE {
        EVENT_SOFTWARE => true,
        EVENT_EXCEPTION => matches!(event & 0xff, 3 | 4),
        _ => false,
    };
    event & EVENT_VALID != 0 && !by_instruction
}

/// Exit: first exception vector.
pub const EXIT_EXCEPTION: u32 = 0x40;
/// Exit: physical interrupt.
pub const EXIT_INTR: u32 = 0x60;
/// Exit: NMI.
pub const EXIT_NMI: u32 = 0x61;
/// Exit: SMI.
pub const EXIT_SMI: u32 = 0x62;
/// Exit: INIT.
pub const EXIT_INIT: u32 = 0x63;
/// Exit: a virtual interrupt could be taken.
pub const EXIT_VINTR: u32 = 0x64;
/// Exit: RDPMC.
pub const EXIT_RDPMC: u32 = 0x6f;
/// Exit: CPUID.
pub const EXIT_CPUID: u32 = 0x72;
/// Exit: INVD.
pub const EXIT_INVD: u32 = 0x76;
/// Exit: PAUSE.
pub const EXIT_PAUSE: u32 = 0x77;
/// Exit: HLT.
pub const EXIT_HLT: u32 = 0x78;
/// Exit: INVLPGA.
pub const EXIT_INVLPGA: u32 = 0x7a;
/// Exit: port access.
pub const EXIT_IOIO: u32 = 0x7b;
/// Exit: MSR access; `exit_info1` is 1 for a write.
pub const EXIT_MSR: u32 = 0x7c;
/// Exit: task switch.
pub const EXIT_TASK_SWITCH: u32 = 0x7d;
/// Exit: shutdown.
pub const EXIT_SHUTDOWN: u32 = 0x7f;
/// Exit: VMRUN.
pub const EXIT_VMRUN: u32 = 0x80;
/// Exit: VMMCALL.
pub const EXIT_VMMCALL: u32 = 0x81;
/// Exit: SKINIT, the last of the SVM instructions.
pub const EXIT_SKINIT: u32 = 0x86;
/// Exit: WBINVD.
pub const EXIT_WBINVD: u32 = 0x89;
/// Exit: MONITOR.
pub const EXIT_MONITOR: u32 = 0x8a;
/// Exit: MWAIT.
pub const EXIT_MWAIT: u32 = 0x8b;
/// Exit: XSETBV.
pub const EXIT_XSETBV: u32 = 0x8d;
/// Exit: nested page fault.
pub const EXIT_NPF: u32 = 0x400;
/// Exit: the VMCB was refused.
pub const EXIT_INVALID: u32 = 0xffff_ffff;

/// Nested page fault information: a write.
pub const NPF_WRITE: u64 = 1 << 1;
/// Nested page fault information: an instruction fetch.
pub const NPF_FETCH: u64 = 1 << 4;
/// Nested page fault information: while walking the guest's own tables.
pub const NPF_TABLE_WALK: u64 = 1 << 33;

/// IOIO information: the direction is IN.
pub const IOIO_IN: u64 = 1 << 0;
/// IOIO information: a string instruction.
pub const IOIO_STRING: u64 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::delivered_again;

    #[test]
    fn what_an_instruction_does_again_is_not_injected() {
        for (event, again) in [
            (0, false),
            // An interrupt, an NMI, a page fault with its error code, #DB.
            (0x8000_0031, true),
            (0x8000_0202, true),
            (0x6_8000_0b0e, true),
            (0x8000_0301, true),
            // Not valid.
            (0x0000_0031, false),
            // INT 80h, and INT3 as software interrupt; #BP and #OF as exceptions.
            (0x8000_0480, false),
            (0x8000_0403, false),
            (0x8000_0303, false),
            (0x8000_0304, false),
        ] {
            assert_eq!(delivered_again(event), again, "{event:#x}");
        }
    }
}
