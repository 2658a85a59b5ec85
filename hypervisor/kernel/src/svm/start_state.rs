//! The state a vCPU starts with.

use hv_abi::call::Error;
use hv_abi::domain::VcpuState;
use hv_x86::reg;
use hv_x86::svm::{Segment, Vmcb};

/// State after INIT and start-up (APM 14.1.3, 15.27.8).
pub(super) fn real_mode(vmcb: &mut Vmcb, vector: u8) {
    let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
    let save = &mut vmcb.save;
    (save.ds, save.es, save.ss, save.fs, save.gs) = (data, data, data, data, data);
    save.cs = Segment {
        selector: u16::from(vector) << 8,
        attributes: 0x9b,
        limit: 0xffff,
        base: u64::from(vector) << 12,
    };
    save.ldtr = Segment { attributes: 0x82, limit: 0xffff, ..Segment::default() };
    save.tr = Segment { attributes: 0x8b, limit: 0xffff, ..Segment::default() };
    save.gdtr = Segment { limit: 0xffff, ..Segment::default() };
    save.idtr = save.gdtr;
    save.cr0 = reg::CR0_ET | reg::CR0_CD | reg::CR0_NW;
    (save.cr2, save.cr3, save.cr4, save.rip) = (0, 0, 0, 0);
    save.efer = reg::EFER_SVME;
    save.rflags = reg::RFLAGS_RESERVED;
    save.dr6 = 0xffff_0ff0;
    save.dr7 = 0x400;
    save.cpl = 0;
    save.pat = 0x0007_0406_0007_0406;
}

/// The state that dom0's loader describes, over that of [`real_mode`].
pub(super) fn described(vmcb: &mut Vmcb, state: &VcpuState) -> Result<(), Error> {
    let long = match state.mode {
        hv_abi::domain::MODE_LONG => true,
        hv_abi::domain::MODE_PROTECTED => false,
        _ => return Err(Error::Argument),
    };
    let save = &mut vmcb.save;
    let attributes = if long { 0xa9b } else { 0xc9b };
    save.cs = Segment { selector: state.code_selector, attributes, limit: u32::MAX, base: 0 };
    let data = Segment { selector: state.data_selector, attributes: 0xc93, limit: u32::MAX, base: 0 };
    (save.ds, save.es, save.ss, save.fs, save.gs) = (data, data, data, data, data);
    save.gdtr = Segment { limit: state.gdt_limit, base: state.gdt_base, ..Segment::default() };
    save.cr0 = reg::CR0_PE | reg::CR0_ET | reg::CR0_NE;
    if long {
        save.cr0 |= reg::CR0_PG;
        save.cr4 = reg::CR4_PAE;
        save.cr3 = state.cr3;
        save.efer |= reg::EFER_LME | reg::EFER_LMA;
    }
    save.rip = state.rip;
    Ok(())
}
