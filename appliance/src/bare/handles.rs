//! Device registers and DMA memory as safe, bounds-checked handles.

use core::sync::atomic::{AtomicU16, Ordering, fence};

use hv_abi::call::Error;
use hv_abi::device::{DmaMemory, Mmio};
use hv_x86::{BusAddress, Hpa};

use crate::system;

/// A window of device registers.
#[derive(Debug)]
pub(crate) struct Registers {
    base: u64,
    length: usize,
}

impl Registers {
    /// Maps registers at a physical address.
    pub(crate) fn map(address: Hpa, length: u64) -> Result<Self, Error> {
        let base = system::map_mmio(address, length)?;
        Ok(Self { base, length: hv_x86::to_usize(length) })
    }

    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        (end <= self.length && offset.is_multiple_of(size_of::<T>()))
            .then_some((self.base + offset as u64) as *mut T)
    }

    fn read<T: Copy>(&self, offset: usize, missing: T) -> T {
        match self.pointer::<T>(offset) {
            // SAFETY: aligned and within registers that are mapped for ever.
            Some(pointer) => unsafe { pointer.read_volatile() },
            None => missing,
        }
    }

    fn write<T>(&self, offset: usize, value: T) {
        if let Some(pointer) = self.pointer::<T>(offset) {
            // SAFETY: aligned and within registers that are mapped for ever.
            unsafe { pointer.write_volatile(value) };
        }
    }
}

impl Mmio for Registers {
    fn length(&self) -> usize {
        self.length
    }

    fn read_u8(&self, offset: usize) -> u8 {
        self.read(offset, u8::MAX)
    }

    fn read_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.read(offset, u16::MAX))
    }

    fn read_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.read(offset, u32::MAX))
    }

    fn write_u8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }

    fn write_u16(&self, offset: usize, value: u16) {
        self.write(offset, value.to_le());
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.write(offset, value.to_le());
    }
}

/// Memory shared with a device.
#[derive(Debug)]
pub(crate) struct Dma {
    base: u64,
    bus_address: BusAddress,
    length: usize,
}

impl Dma {
    /// Allocates memory.
    pub(crate) fn allocate(length: usize) -> Result<Self, Error> {
        let (base, bus_address) = system::allocate_dma(length as u64)?;
        Ok(Self { base, bus_address, length })
    }

    fn pointer(&self, offset: usize, length: usize) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        (end <= self.length).then_some((self.base + offset as u64) as *mut u8)
    }

    fn word(&self, offset: usize) -> Option<&AtomicU16> {
        let pointer = self.pointer(offset, 2).filter(|_| offset.is_multiple_of(2))?;
        // SAFETY: aligned and within memory that is mapped for ever; the device
        // accesses it as hardware does, never through Rust.
        Some(unsafe { AtomicU16::from_ptr(pointer.cast()) })
    }
}

impl DmaMemory for Dma {
    fn length(&self) -> usize {
        self.length
    }

    fn bus_address(&self) -> BusAddress {
        self.bus_address
    }

    fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        let Some(source) = self.pointer(offset, target.len()) else { return false };
        // SAFETY: within mapped memory; a device that writes it now garbles only
        // the copy.
        unsafe { core::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
        true
    }

    fn write(&self, offset: usize, source: &[u8]) -> bool {
        let Some(target) = self.pointer(offset, source.len()) else { return false };
        // SAFETY: within mapped memory to which no Rust reference exists.
        unsafe { core::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
        true
    }

    fn load_u16(&self, offset: usize) -> u16 {
        self.word(offset).map_or(0, |word| u16::from_le(word.load(Ordering::Acquire)))
    }

    fn store_u16(&self, offset: usize, value: u16) {
        if let Some(word) = self.word(offset) {
            word.store(value.to_le(), Ordering::Release);
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
