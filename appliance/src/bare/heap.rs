//! Memory for `alloc`: one region that the hypervisor backs as it is touched.

use hv_abi::boot::{HEAP, HEAP_BYTES};
use talc::TalcLock;
use talc::source::Manual;

#[global_allocator]
static HEAP_ALLOCATOR: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the region to the allocator.
pub(crate) fn init() {
    let size = hv_x86::to_usize(HEAP_BYTES);
    // SAFETY: the region is dom0's alone and claimed once.
    let _ = unsafe { HEAP_ALLOCATOR.lock().claim(HEAP as *mut u8, size) };
}
