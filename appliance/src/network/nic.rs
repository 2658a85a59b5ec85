//! A network card, as the node uses it.

use netstack::offload::{Accepts, Offload};

/// A card that moves whole Ethernet frames.
pub trait Nic {
    /// Its address.
    fn mac(&self) -> [u8; 6];
    /// Largest payload of a frame.
    fn mtu(&self) -> u16;
    /// What it takes over of the frames it is given.
    fn accepts(&self) -> Accepts;
    /// Copies the next received frame into `target`: its length, and what its sender
    /// left to do.
    fn receive(&mut self, target: &mut [u8]) -> Option<(usize, Offload)>;
    /// Whether a frame can be queued now.
    fn can_transmit(&mut self) -> bool;
    /// Queues a frame whose rest the card [accepts](Self::accepts); false when there
    /// is no room.
    fn transmit(&mut self, frame: &[u8], offload: &Offload) -> bool;
    /// Whether its link is up, as far as it says.
    fn is_link_up(&self) -> bool;
    /// Whether it can be used no more.
    fn is_broken(&self) -> bool;
    /// Ends its work for good.
    fn stop(&mut self);
    /// Tells the card of everything queued.
    fn flush(&mut self);
    /// Asks for interrupts before sleeping; true when there is work already.
    fn arm(&mut self) -> bool;
}
