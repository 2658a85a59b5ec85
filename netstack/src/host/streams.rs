//! Octets in and out of a connection.

use super::{ConnectionId, Host, tcp};

impl Host {
    /// Copies received octets; zero when none wait.
    pub fn read(&mut self, id: ConnectionId, target: &mut [u8]) -> usize {
        let Some(handle) = self.handle(id) else { return 0 };
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        let mut total = 0;
        // A ring buffer yields at most two contiguous pieces.
        while socket.can_recv() {
            let Some(rest) = target.get_mut(total..).filter(|rest| !rest.is_empty()) else { break };
            match socket.recv_slice(rest) {
                Ok(read) if read > 0 => total = total.saturating_add(read),
                _ => break,
            }
        }
        total
    }

    /// Hands the received octets that lie together to `consume`, without a copy;
    /// it returns how many it took.
    pub fn read_with(&mut self, id: ConnectionId, consume: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some(handle) = self.handle(id) else { return 0 };
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        let taken = socket.recv(|octets| {
            let taken = consume(octets).min(octets.len());
            (taken, taken)
        });
        taken.unwrap_or(0)
    }

    /// Queues octets to be sent; returns how many fitted.
    pub fn write(&mut self, id: ConnectionId, source: &[u8]) -> usize {
        let Some(handle) = self.handle(id) else { return 0 };
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        let mut total = 0;
        while let Some(rest) = source.get(total..).filter(|rest| !rest.is_empty()) {
            match socket.send_slice(rest) {
                Ok(sent) if sent > 0 => total = total.saturating_add(sent),
                _ => break,
            }
        }
        total
    }

    /// Lets `produce` fill free transmit-buffer space in place; it returns how many
    /// octets it wrote.
    pub fn write_with(&mut self, id: ConnectionId, produce: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some(handle) = self.handle(id) else { return 0 };
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        let made = socket.send(|space| {
            let made = produce(space).min(space.len());
            (made, made)
        });
        made.unwrap_or(0)
    }

    /// Whether a connection is as it was: open both ways, with nothing to be read.
    #[must_use]
    pub fn is_quiet(&self, id: ConnectionId) -> bool {
        self.handle(id).is_some_and(|handle| {
            let socket = self.sockets.get::<tcp::Socket>(handle);
            socket.state() == tcp::State::Established && socket.recv_queue() == 0
        })
    }

    /// Octets that can be queued now.
    #[must_use]
    pub fn write_room(&self, id: ConnectionId) -> usize {
        self.handle(id).map_or(0, |handle| {
            let socket = self.sockets.get::<tcp::Socket>(handle);
            if socket.can_send() { socket.send_capacity().saturating_sub(socket.send_queue()) } else { 0 }
        })
    }
}
