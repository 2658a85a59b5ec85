//! A guest's memory as dom0 may use it: by copy, checked.
//!
//! The guest may change any byte at any moment. So no reference into it exists:
//! what is to be judged is copied out once and only the copy is looked at.

use crate::fault::GuestFault;

pub use crate::gpa::Gpa;

/// Access to a guest's RAM.
///
/// Accesses that are not wholly RAM fail with [`GuestFault::OutsideMemory`] and
/// have no effect.
pub trait GuestMemory {
    /// Whether `length` bytes from `gpa` are all RAM and adjacent.
    fn contains(&self, gpa: Gpa, length: u64) -> bool;
    /// Copies guest memory from `gpa` into `target`.
    ///
    /// # Errors
    /// Not wholly RAM.
    fn read(&self, gpa: Gpa, target: &mut [u8]) -> Result<(), GuestFault>;
    /// Copies `source` to `gpa`.
    ///
    /// # Errors
    /// Not wholly RAM.
    fn write(&self, gpa: Gpa, source: &[u8]) -> Result<(), GuestFault>;
    /// Reads a little-endian 16-bit value with acquire ordering: what the guest
    /// wrote before publishing it is visible afterwards.
    ///
    /// # Errors
    /// Not wholly RAM, or not 2-aligned.
    fn load_u16(&self, gpa: Gpa) -> Result<u16, GuestFault>;
    /// Writes a little-endian 16-bit value with release ordering: everything
    /// written before is visible to the guest first.
    ///
    /// # Errors
    /// Not wholly RAM, or not 2-aligned.
    fn store_u16(&self, gpa: Gpa, value: u16) -> Result<(), GuestFault>;
    /// A full memory fence, for the store-then-load of event suppression.
    fn fence(&self);
}

#[cfg(any(test, feature = "fake"))]
pub use fake::FakeMemory;

#[cfg(any(test, feature = "fake"))]
mod fake {
    use alloc::vec;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    use super::{Gpa, GuestMemory};
    use crate::fault::GuestFault;
    use crate::layout::HIGH_MEMORY_START;

    /// Guest memory for tests: a low part from 0 and a high part from 4 GiB.
    #[derive(Debug)]
    pub struct FakeMemory {
        low: RefCell<Vec<u8>>,
        high: RefCell<Vec<u8>>,
    }

    impl FakeMemory {
        /// Zeroed memory with so many bytes from 0 and from 4 GiB.
        #[must_use]
        pub fn new(low_bytes: usize, high_bytes: usize) -> Self {
            Self { low: RefCell::new(vec![0; low_bytes]), high: RefCell::new(vec![0; high_bytes]) }
        }

        /// Makes the part from 0 longer, with zeros.
        pub fn grow(&self, low_bytes: usize) {
            self.low.borrow_mut().resize(low_bytes, 0);
        }

        /// Bytes at an address, for assertions.
        ///
        /// # Panics
        /// When they are not RAM: the test is wrong.
        #[must_use]
        pub fn bytes(&self, gpa: u64, length: usize) -> Vec<u8> {
            let mut target = vec![0; length];
            assert!(self.read(Gpa(gpa), &mut target).is_ok(), "{gpa:#x} is not RAM");
            target
        }

        /// Writes bytes as the guest.
        ///
        /// # Panics
        /// When they are not RAM: the test is wrong.
        pub fn put(&self, gpa: u64, bytes: &[u8]) {
            assert!(self.write(Gpa(gpa), bytes).is_ok(), "{gpa:#x} is not RAM");
        }

        fn part(&self, gpa: Gpa, length: usize) -> Option<(&RefCell<Vec<u8>>, usize)> {
            let (part, base) =
                if gpa.0 < HIGH_MEMORY_START { (&self.low, 0) } else { (&self.high, HIGH_MEMORY_START) };
            let start = usize::try_from(gpa.0 - base).ok()?;
            let end = start.checked_add(length)?;
            (end <= part.borrow().len()).then_some((part, start))
        }
    }

    fn outside(gpa: Gpa, length: usize) -> GuestFault {
        GuestFault::OutsideMemory { gpa, length: length as u64 }
    }

    impl GuestMemory for FakeMemory {
        fn contains(&self, gpa: Gpa, length: u64) -> bool {
            usize::try_from(length).is_ok_and(|length| self.part(gpa, length).is_some())
        }

        fn read(&self, gpa: Gpa, target: &mut [u8]) -> Result<(), GuestFault> {
            let fault = outside(gpa, target.len());
            let (part, start) = self.part(gpa, target.len()).ok_or(fault)?;
            let part = part.borrow();
            target.copy_from_slice(part.get(start..start + target.len()).ok_or(fault)?);
            Ok(())
        }

        fn write(&self, gpa: Gpa, source: &[u8]) -> Result<(), GuestFault> {
            let fault = outside(gpa, source.len());
            let (part, start) = self.part(gpa, source.len()).ok_or(fault)?;
            let mut part = part.borrow_mut();
            part.get_mut(start..start + source.len()).ok_or(fault)?.copy_from_slice(source);
            Ok(())
        }

        fn load_u16(&self, gpa: Gpa) -> Result<u16, GuestFault> {
            if !gpa.0.is_multiple_of(2) {
                return Err(outside(gpa, 2));
            }
            let mut bytes = [0; 2];
            self.read(gpa, &mut bytes)?;
            Ok(u16::from_le_bytes(bytes))
        }

        fn store_u16(&self, gpa: Gpa, value: u16) -> Result<(), GuestFault> {
            if !gpa.0.is_multiple_of(2) {
                return Err(outside(gpa, 2));
            }
            self.write(gpa, &value.to_le_bytes())
        }

        fn fence(&self) {}
    }
}
