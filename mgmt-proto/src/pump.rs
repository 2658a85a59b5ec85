//! A client joined to a stream of bytes: TCP, a serial line, memory. What a stream waits
//! for and how long is its own affair.

use crate::client::{Client, Connecting, Message};
use crate::handshake::{ANSWER_BYTES, GREETING_BYTES, PeerFault};
use alloc::vec;
use alloc::vec::Vec;
use embedded_io::{Read, ReadExactError, Write};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// Why a session does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped<E> {
    /// The stream failed.
    Stream(E),
    /// The stream ended.
    Ended,
    /// The node is not believed, or this end cannot speak.
    Peer(PeerFault),
}

impl<E> From<PeerFault> for Stopped<E> {
    fn from(fault: PeerFault) -> Self {
        Self::Peer(fault)
    }
}

/// A session over a stream.
pub struct Pump<S> {
    stream: S,
    client: Client,
    buffer: Vec<u8>,
}

/// Reads so many bytes.
fn read<const BYTES: usize, S: Read>(stream: &mut S) -> Result<[u8; BYTES], Stopped<S::Error>> {
    let mut bytes = [0; BYTES];
    match stream.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(ReadExactError::UnexpectedEof) => Err(Stopped::Ended),
        Err(ReadExactError::Other(error)) => Err(Stopped::Stream(error)),
    }
}

/// Reads the node's first message.
///
/// # Errors
/// Of the stream.
pub fn greeting<S: Read>(stream: &mut S) -> Result<[u8; GREETING_BYTES], Stopped<S::Error>> {
    read(stream)
}

impl Connecting {
    /// Says hello over the stream that the greeting came from, and hears the answer.
    ///
    /// # Errors
    /// Of the stream, or why the answer is not believed.
    pub fn exchange<S: Read + Write>(self, stream: &mut S) -> Result<Client, Stopped<S::Error>> {
        stream.write_all(self.hello()).map_err(Stopped::Stream)?;
        stream.flush().map_err(Stopped::Stream)?;
        let answer: [u8; ANSWER_BYTES] = read(stream)?;
        Ok(self.finish(&answer)?)
    }
}

impl<S: Read + Write> Pump<S> {
    /// Begins the session: it counts from its first record on.
    ///
    /// # Errors
    /// Of the stream.
    pub fn begin(stream: S, mut client: Client) -> Result<Self, Stopped<S::Error>> {
        let here = client.here()?;
        let mut pump = Self { stream, client, buffer: vec![0; READ_BYTES] };
        pump.send(&here)?;
        Ok(pump)
    }

    /// Sends what the client made.
    ///
    /// # Errors
    /// Of the stream.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Stopped<S::Error>> {
        self.stream.write_all(bytes).map_err(Stopped::Stream)?;
        self.stream.flush().map_err(Stopped::Stream)
    }

    /// What the node says next.
    ///
    /// # Errors
    /// Of the stream, or why the node is not believed.
    pub fn message(&mut self) -> Result<Message, Stopped<S::Error>> {
        loop {
            if let Some(message) = self.client.next_message()? {
                return Ok(message);
            }
            match self.stream.read(&mut self.buffer).map_err(Stopped::Stream)? {
                0 => return Err(Stopped::Ended),
                count => self.client.receive(self.buffer.get(..count).unwrap_or_default())?,
            }
        }
    }
}

impl<S> Pump<S> {
    /// The stream.
    pub const fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The client, to make what is sent.
    pub const fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}
