//! A client over streams that are none of TCP.

use super::{World, world};
use crate::client::Message;
use crate::handshake::{GREETING_BYTES, HELLO_BYTES, PeerFault};
use crate::pump::{Pump, Stopped, greeting};
use crate::server::{Incoming, Server};
use crate::verb::{Reply, Request};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use embedded_io::{ErrorKind, ErrorType, Read, Write};

/// A node at the other end of memory, that gives and takes so many bytes at a time.
struct Memory {
    world: World,
    server: Option<Server>,
    challenge: u8,
    /// From the client, until it is a whole hello.
    said: Vec<u8>,
    /// For the client.
    told: VecDeque<u8>,
    piece: usize,
    /// Bytes that the client gets until the stream ends or fails.
    left: usize,
    end: Result<usize, ErrorKind>,
}

impl Memory {
    fn new(piece: usize) -> Self {
        let mut world = world();
        let told = world.greeting(3).into();
        Self {
            world,
            server: None,
            challenge: 3,
            said: Vec::new(),
            told,
            piece,
            left: usize::MAX,
            end: Ok(0),
        }
    }

    fn serve(&mut self) {
        if self.server.is_none() && self.said.len() == HELLO_BYTES {
            let hello = core::mem::take(&mut self.said);
            self.server = self.world.knock(self.challenge, &hello).ok();
        }
        let Some(server) = &mut self.server else { return };
        server.receive(&core::mem::take(&mut self.said)).unwrap();
        while let Some(incoming) = self.world.next(server).unwrap() {
            assert!(matches!(incoming, Incoming::Command(..)));
            server.send(&Ok(Reply::Done)).unwrap();
        }
        let bytes = server.transmit().to_vec();
        self.told.extend(&bytes);
        server.sent(bytes.len());
    }
}

impl ErrorType for Memory {
    type Error = ErrorKind;
}

impl Read for Memory {
    fn read(&mut self, target: &mut [u8]) -> Result<usize, ErrorKind> {
        let count = target.len().min(self.piece).min(self.told.len()).min(self.left);
        if count == 0 {
            return self.end;
        }
        self.left -= count;
        target.iter_mut().zip(self.told.drain(..count)).for_each(|(target, byte)| *target = byte);
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, source: &[u8]) -> Result<usize, ErrorKind> {
        let count = source.len().min(self.piece);
        self.said.extend_from_slice(&source[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        self.serve();
        Ok(())
    }
}

fn session(mut memory: Memory) -> Result<Pump<Memory>, Stopped<ErrorKind>> {
    let greeting = greeting(&mut memory)?;
    let connecting = memory.world.hello(&greeting);
    let client = connecting.exchange(&mut memory)?;
    Pump::begin(memory, client)
}

fn ask(pump: &mut Pump<Memory>) -> Result<Message, Stopped<ErrorKind>> {
    let operator = pump.stream().world.operator.clone();
    let bytes = pump.client_mut().command(&operator, &Request::List)?;
    pump.send(&bytes)?;
    pump.message()
}

#[test]
fn a_session_needs_no_more_than_bytes_in_order() {
    for piece in [1, 7, 64, 100_000] {
        let mut pump = session(Memory::new(piece)).unwrap_or_else(|_| panic!("pieces of {piece}"));
        for _ in 0..3 {
            assert_eq!(ask(&mut pump), Ok(Message::Outcome(Ok(Reply::Done))), "pieces of {piece}");
        }
        assert_eq!(pump.message(), Err(Stopped::Ended));
    }
}

#[test]
fn streams_that_end_or_fail_anywhere_are_told_apart() {
    let whole = {
        let mut pump = session(Memory::new(1_000)).unwrap_or_else(|_| panic!("a session"));
        ask(&mut pump).unwrap();
        usize::MAX - pump.stream().left
    };
    for left in 0..whole {
        for (end, stopped) in
            [(Ok(0), Stopped::Ended), (Err(ErrorKind::TimedOut), Stopped::Stream(ErrorKind::TimedOut))]
        {
            let memory = Memory { left, end, ..Memory::new(1_000) };
            let result = session(memory).and_then(|mut pump| ask(&mut pump));
            assert_eq!(result, Err(stopped), "after {left} bytes of {whole}");
        }
    }
}

#[test]
fn what_is_damaged_on_the_way_is_the_peers_fault() {
    let mut pump = session(Memory::new(1_000)).unwrap_or_else(|_| panic!("a session"));
    let operator = pump.stream().world.operator.clone();
    let bytes = pump.client_mut().command(&operator, &Request::List).unwrap();
    pump.send(&bytes).unwrap();
    *pump.stream().told.back_mut().unwrap() ^= 1;
    assert!(matches!(pump.message(), Err(Stopped::Peer(PeerFault::Seal))), "a damaged record");
    let mut memory = Memory::new(1_000);
    memory.told.truncate(GREETING_BYTES - 1);
    assert!(matches!(greeting(&mut memory), Err(Stopped::Ended)));
}
