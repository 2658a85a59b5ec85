//! Handles through which drivers reach a device: registers and DMA memory.
//!
//! Drivers are safe code over these traits. Only the ring-3 binary can mint real
//! handles; tests use fakes made of plain memory.

use hv_x86::BusAddress;

/// A window of device registers (a PCI base address register).
///
/// Accesses are volatile, of exactly the named width and in program order.
/// An access outside the window or not naturally aligned reads as all ones and
/// writes nothing: a driver bug must not become a wild access.
pub trait Mmio {
    /// Length of the window in bytes.
    fn length(&self) -> usize;
    /// Reads the byte at `offset`.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads the little-endian 16-bit register at `offset`.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads the little-endian 32-bit register at `offset`.
    fn read_u32(&self, offset: usize) -> u32;
    /// Writes the byte at `offset`.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes the little-endian 16-bit register at `offset`.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes the little-endian 32-bit register at `offset`.
    fn write_u32(&self, offset: usize, value: u32);
}

/// Memory shared with a device: physically contiguous, page aligned, zeroed.
///
/// The device may write it at any moment, so it is only ever copied in and out.
/// Out-of-range accesses fail without effect.
pub trait DmaMemory {
    /// Length in bytes.
    fn length(&self) -> usize;
    /// The address by which the device reaches byte 0.
    fn bus_address(&self) -> BusAddress;
    /// Copies bytes from `offset` into `target`; false when out of range.
    #[must_use]
    fn read(&self, offset: usize, target: &mut [u8]) -> bool;
    /// Copies `source` to `offset`; false when out of range.
    #[must_use]
    fn write(&self, offset: usize, source: &[u8]) -> bool;
    /// Reads a little-endian 16-bit value with acquire ordering: what the device
    /// wrote before publishing it is visible afterwards. Zero when out of range.
    fn load_u16(&self, offset: usize) -> u16;
    /// Writes a little-endian 16-bit value with release ordering: everything
    /// written before is visible to the device first.
    fn store_u16(&self, offset: usize, value: u16);
    /// A full memory fence, for the store-then-load of event suppression.
    fn fence(&self);
}
