//! General and vector registers of dom0 or a guest while ring 0 runs.

use core::mem::offset_of;

/// What `boot/switch.s` saves and loads. For a guest RAX, RSP, RIP and RFLAGS are
/// in the control block instead.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(crate) struct Registers {
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) rbp: u64,
    pub(crate) rsp: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) cr2: u64,
    reserved: u64,
    xmm: [[u64; 2]; 16],
}

const _: () = {
    assert!(offset_of!(Registers, rsp) == 56);
    assert!(offset_of!(Registers, r15) == 120);
    assert!(offset_of!(Registers, cr2) == 160);
    assert!(offset_of!(Registers, xmm) == 176);
};

impl Registers {
    pub(crate) const ZERO: Self = Self {
        rax: 0,
        rbx: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        rbp: 0,
        rsp: 0,
        r8: 0,
        r9: 0,
        r10: 0,
        r11: 0,
        r12: 0,
        r13: 0,
        r14: 0,
        r15: 0,
        rip: 0,
        rflags: 0,
        vector: 0,
        error: 0,
        cr2: 0,
        reserved: 0,
        xmm: [[0; 2]; 16],
    };

    /// The register with an instruction's number (APM volume 3, table 1-11).
    pub(crate) const fn by_number(&mut self, number: u8) -> &mut u64 {
        match number & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => &mut self.rsp,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        }
    }
}
