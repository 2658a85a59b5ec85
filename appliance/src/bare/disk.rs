//! Finds a disk of the machine and starts it, for what the node keeps.

use alloc::boxed::Box;

use hv_bus::pci::{self, Configuration};
use hv_bus::virtio::{self, DEVICE_BLOCK, DEVICE_BLOCK_TRANSITIONAL, VENDOR};
use storage::local::LocalDisk;
use storage::local::virtio_blk::VirtioBlock;

use crate::card;
use crate::handles::{Dma, Registers};
use crate::system::Pci;

/// Interrupt that the disk is bound to.
const INTERRUPT: u32 = 1;

type Disk = VirtioBlock<Registers, Dma>;

/// The virtio disk with this number, counted from 0 in the order of the bus.
pub(crate) fn find(number: u8) -> Option<Box<dyn LocalDisk>> {
    let mut left = number;
    pci::find(&Pci, |function| {
        let (vendor, device) = pci::identity(&Pci, function);
        if vendor != VENDOR || (device != DEVICE_BLOCK && device != DEVICE_BLOCK_TRANSITIONAL) {
            return None;
        }
        match left.checked_sub(1) {
            Some(less) => left = less,
            None => return start(function),
        }
        None
    })
}

fn start(function: u16) -> Option<Box<dyn LocalDisk>> {
    let locations = virtio::walk(|offset| Pci.read(function, offset)).ok()?;
    let (bars, vector) = card::prepare(function, &locations, INTERRUPT);
    let dma = Dma::allocate(Disk::DMA_BYTES).ok()?;
    match Disk::new(bars, &locations, dma, vector) {
        Ok(disk) => Some(Box::new(disk)),
        Err(error) => {
            log::error!("disk at {function:#06x}: {error:?}");
            None
        }
    }
}
