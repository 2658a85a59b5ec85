//! Guest memory as dom0 sees it: a window of its own address space per domain.

use core::sync::atomic::{AtomicU16, Ordering, fence};

use hv_abi::DomainId;
use hv_abi::boot::{WINDOW, WINDOW_BYTES};
use machine::fault::GuestFault;
use machine::guest_memory::{Gpa, GuestMemory};
use machine::layout::MemoryLayout;

/// A window onto one domain. It must not be used after the domain is destroyed:
/// the hypervisor would end dom0 for it, nothing worse.
#[derive(Debug)]
pub(crate) struct Window {
    base: u64,
    layout: MemoryLayout,
}

impl Window {
    pub(crate) const fn new(domain: DomainId, layout: MemoryLayout) -> Self {
        Self { base: WINDOW + domain.slot().index() as u64 * WINDOW_BYTES, layout }
    }

    fn pointer(&self, gpa: Gpa, length: u64) -> Result<*mut u8, GuestFault> {
        if !self.layout.contains(gpa, length) {
            return Err(GuestFault::OutsideMemory { gpa, length });
        }
        Ok((self.base + gpa.0) as *mut u8)
    }

    fn word(&self, gpa: Gpa) -> Result<&AtomicU16, GuestFault> {
        let pointer = self.pointer(gpa, 2)?.cast::<u16>();
        if !gpa.0.is_multiple_of(2) {
            return Err(GuestFault::OutsideMemory { gpa, length: 2 });
        }
        // SAFETY: the address is RAM of the guest in a mapped window, aligned, and
        // only ever accessed atomically or by copy.
        Ok(unsafe { AtomicU16::from_ptr(pointer) })
    }

    /// The first bytes of a domain that never runs, so that nothing changes them.
    pub(crate) fn quiet_bytes(&self, length: usize) -> Result<&[u8], GuestFault> {
        let pointer = self.pointer(Gpa(0), length as u64)?;
        // SAFETY: the bytes are mapped, no vCPU of that domain ever runs, and dom0
        // does not write them while it looks.
        Ok(unsafe { core::slice::from_raw_parts(pointer, length) })
    }
}

impl GuestMemory for Window {
    fn contains(&self, gpa: Gpa, length: u64) -> bool {
        self.layout.contains(gpa, length)
    }

    fn read(&self, gpa: Gpa, target: &mut [u8]) -> Result<(), GuestFault> {
        let source = self.pointer(gpa, target.len() as u64)?;
        // SAFETY: the range is RAM in a mapped window; a guest that writes it now
        // garbles only the copy.
        unsafe { core::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
        Ok(())
    }

    fn write(&self, gpa: Gpa, source: &[u8]) -> Result<(), GuestFault> {
        let target = self.pointer(gpa, source.len() as u64)?;
        // SAFETY: the range is RAM in a mapped window and no Rust reference to
        // guest memory exists.
        unsafe { core::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
        Ok(())
    }

    fn load_u16(&self, gpa: Gpa) -> Result<u16, GuestFault> {
        self.word(gpa).map(|word| u16::from_le(word.load(Ordering::Acquire)))
    }

    fn store_u16(&self, gpa: Gpa, value: u16) -> Result<(), GuestFault> {
        self.word(gpa).map(|word| word.store(value.to_le(), Ordering::Release))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
