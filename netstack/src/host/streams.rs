//! Octets in and out of a connection.

use core::fmt;

use embedded_io::{BufRead, Error, ErrorKind, ErrorType, Read, ReadReady, Write, WriteReady};

use super::{ConnectionId, Host, tcp};

/// Why nothing was read or written. Nothing here blocks: callers try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// Nothing has arrived yet.
    Empty,
    /// No room yet.
    Full,
    /// This way the connection is closed.
    Closed,
}

impl fmt::Display for StreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Empty => "nothing has come yet",
            Self::Full => "there is no room yet",
            Self::Closed => "the connection is closed",
        })
    }
}

impl core::error::Error for StreamError {}

impl Error for StreamError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty | Self::Full => ErrorKind::Interrupted,
            Self::Closed => ErrorKind::ConnectionReset,
        }
    }
}

/// A connection's octets, for as long as the host is lent.
pub struct Stream<'a>(&'a mut tcp::Socket<'static>);

impl ErrorType for Stream<'_> {
    type Error = StreamError;
}

impl Read for Stream<'_> {
    /// Copies what lies together; zero at the end of what the peer sent.
    fn read(&mut self, target: &mut [u8]) -> Result<usize, StreamError> {
        if target.is_empty() {
            return Ok(0);
        }
        match self.0.recv_slice(target) {
            Ok(0) => Err(StreamError::Empty),
            Ok(count) => Ok(count),
            Err(tcp::RecvError::Finished) => Ok(0),
            Err(tcp::RecvError::InvalidState) => Err(StreamError::Closed),
        }
    }
}

impl ReadReady for Stream<'_> {
    fn read_ready(&mut self) -> Result<bool, StreamError> {
        Ok(self.0.can_recv())
    }
}

impl BufRead for Stream<'_> {
    /// What lies together, without a copy; nothing at the end of what the peer sent.
    fn fill_buf(&mut self) -> Result<&[u8], StreamError> {
        match self.0.peek(usize::MAX) {
            Ok([]) => Err(StreamError::Empty),
            Ok(octets) => Ok(octets),
            Err(tcp::RecvError::Finished) => Ok(&[]),
            Err(tcp::RecvError::InvalidState) => Err(StreamError::Closed),
        }
    }

    fn consume(&mut self, count: usize) {
        // Only what was seen can be taken, so there is nothing to fail.
        let _ = self.0.recv(|octets| (count.min(octets.len()), ()));
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, source: &[u8]) -> Result<usize, StreamError> {
        if source.is_empty() {
            return Ok(0);
        }
        match self.0.send_slice(source) {
            Ok(0) => Err(StreamError::Full),
            Ok(count) => Ok(count),
            Err(tcp::SendError::InvalidState) => Err(StreamError::Closed),
        }
    }

    /// What was written is sent without being asked.
    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }
}

impl WriteReady for Stream<'_> {
    fn write_ready(&mut self) -> Result<bool, StreamError> {
        Ok(self.0.can_send())
    }
}

impl Host {
    /// A connection's octets; None when it is not there any more.
    pub fn stream(&mut self, id: ConnectionId) -> Option<Stream<'_>> {
        let handle = self.handle(id)?;
        Some(Stream(self.sockets.get_mut::<tcp::Socket>(handle)))
    }

    /// Copies received octets; zero when none wait.
    pub fn read(&mut self, id: ConnectionId, target: &mut [u8]) -> usize {
        let Some(mut stream) = self.stream(id) else { return 0 };
        let mut total = 0;
        // A ring buffer yields at most two contiguous pieces.
        while let Some(rest) = target.get_mut(total..)
            && let Ok(count @ 1..) = stream.read(rest)
        {
            total = total.saturating_add(count);
        }
        total
    }

    /// Hands the received octets that lie together to `consume`, without a copy;
    /// it returns how many it took.
    pub fn read_with(&mut self, id: ConnectionId, consume: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some(Stream(socket)) = self.stream(id) else { return 0 };
        let taken = socket.recv(|octets| {
            let taken = consume(octets).min(octets.len());
            (taken, taken)
        });
        taken.unwrap_or(0)
    }

    /// Queues octets to be sent; returns how many fitted.
    pub fn write(&mut self, id: ConnectionId, source: &[u8]) -> usize {
        let Some(mut stream) = self.stream(id) else { return 0 };
        let mut total = 0;
        while let Some(rest) = source.get(total..)
            && let Ok(count @ 1..) = stream.write(rest)
        {
            total = total.saturating_add(count);
        }
        total
    }

    /// Lets `produce` fill free transmit-buffer space in place; it returns how many
    /// octets it wrote.
    pub fn write_with(&mut self, id: ConnectionId, produce: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some(Stream(socket)) = self.stream(id) else { return 0 };
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
