//! A place in a table of what may be there or not.

use crate::watch::{Guard, Mutex};
use spin::Once;

/// A locked `Option` that starts empty and as zeroes: a table of them takes no room
/// in the image, as one of plain options does, whose `None` is some other pattern.
pub(crate) struct Slot<T>(Once<Mutex<Option<T>>>);

impl<T> Slot<T> {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self(Once::new())
    }

    /// What is there, for the caller alone.
    pub(crate) fn lock(&self) -> Guard<'_, Option<T>> {
        self.mutex().lock()
    }

    /// The same, unless it is taken.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, Option<T>>> {
        self.mutex().try_lock()
    }

    fn mutex(&self) -> &Mutex<Option<T>> {
        self.0.call_once(|| Mutex::new(None))
    }
}
