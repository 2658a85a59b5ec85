//! An object in a frame of its own.

use crate::memory;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use hv_x86::Hpa;
use zerocopy::FromZeros;

/// A page of bytes.
pub(crate) type Page = [u8; 4096];

/// Owns a frame that holds a `T`, zeroed at first, given back when dropped.
pub(crate) struct FrameBox<T: FromZeros> {
    pointer: NonNull<T>,
    address: Hpa,
}

// SAFETY: it owns its memory as a box does.
unsafe impl<T: FromZeros + Send> Send for FrameBox<T> {}

impl<T: FromZeros> FrameBox<T> {
    const FITS: () = assert!(size_of::<T>() <= 4096 && align_of::<T>() <= 4096);

    /// A zeroed object; None without memory.
    pub(crate) fn new() -> Option<Self> {
        let () = Self::FITS;
        let address = memory::take_frame()?;
        Some(Self { pointer: NonNull::new(memory::direct(address) as *mut T)?, address })
    }

    /// Its physical address.
    pub(crate) const fn address(&self) -> Hpa {
        self.address
    }
}

impl<T: FromZeros> Deref for FrameBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the frame is owned, fits `T` and was zeroed, a valid `T`. The
        // processor changes a control block only inside `run_guest`.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: FromZeros> DerefMut for FrameBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and borrowed exclusively.
        unsafe { self.pointer.as_mut() }
    }
}

impl<T: FromZeros> Drop for FrameBox<T> {
    fn drop(&mut self) {
        // SAFETY: `new` took it, and with this object goes all use of it.
        unsafe { memory::free_frame(self.address) };
    }
}
