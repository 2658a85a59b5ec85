//! The node's network card, as the node uses it.

/// A card that moves whole Ethernet frames.
pub trait Nic {
    /// Its address.
    fn mac(&self) -> [u8; 6];
    /// Largest payload of a frame.
    fn mtu(&self) -> u16;
    /// Copies the next received frame into `target`; its length.
    fn receive(&mut self, target: &mut [u8]) -> Option<usize>;
    /// Whether a frame can be queued now.
    fn can_transmit(&mut self) -> bool;
    /// Queues a frame; false when there is no room.
    fn transmit(&mut self, frame: &[u8]) -> bool;
    /// Tells the card of everything queued.
    fn flush(&mut self);
    /// Asks for interrupts before sleeping; true when there is work already.
    fn arm(&mut self) -> bool;
}
