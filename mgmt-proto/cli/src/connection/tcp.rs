//! A TCP stream that waits until a deadline.

use embedded_io::{ErrorType, Read, Write};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A stream to a node.
pub(super) struct Tcp {
    stream: TcpStream,
    deadline: Instant,
    /// How long a node may take none of what is sent, once there is a session.
    patience: Option<Duration>,
}

impl Tcp {
    /// Connects, in the time that is left.
    pub(super) fn connect(address: &SocketAddr, deadline: Instant) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::connect_timeout(address, left(deadline))?, deadline, patience: None })
    }

    /// Sends small records at once.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    /// Until when reading may take, and writing too as long as there is no patience.
    pub(super) const fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// How long a node may take none of what is sent.
    pub(super) const fn be_patient(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Ends it.
    pub(super) fn shut(&self) {
        // One that is gone already is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The time that is left; a timeout of zero would mean none.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

impl ErrorType for Tcp {
    type Error = io::Error;
}

impl Read for Tcp {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(self.deadline)))?;
            match self.stream.read(target) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Tcp {
    fn write(&mut self, source: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(Some(self.patience.unwrap_or_else(|| left(self.deadline))))?;
            match self.stream.write(source) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) if !source.is_empty() => return Err(ErrorKind::WriteZero.into()),
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
