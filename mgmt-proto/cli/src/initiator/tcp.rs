//! The connections of an iSCSI session.

use super::{BUFFER_BYTES, Clock, Memory, pause};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, writev};
use rustix::net::{SendFlags, send};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;
use storage::iscsi::{Piece, Portal, Session};

/// How long TCP may try to connect; the session gives up at the same time.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often a connection being opened is looked at.
const CONNECTING_NS: u64 = 1_000_000;
/// Slices that the operating system takes at once.
const SLICES_MAX: usize = 1024;
/// Slices of two, and of eight requests.
const FEW: usize = 5;
const MORE: usize = 17;

/// A path's connection.
#[derive(Default)]
pub(super) enum Link {
    #[default]
    None,
    Connecting(Receiver<io::Result<TcpStream>>),
    Open {
        stream: TcpStream,
        /// What TCP has not taken yet, from where on.
        rest: Vec<u8>,
        at: usize,
        /// Requests' octets among what is being sent.
        pieces: Vec<Piece>,
    },
}

/// Connects without holding anything else up.
fn begin(portal: Portal) -> Receiver<io::Result<TcpStream>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let address = SocketAddr::from((portal.address, portal.port));
        let open = || {
            let stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // The receiver is gone; ignore the error.
        let _ = sender.send(open());
    });
    receiver
}

/// How much TCP takes now.
fn give(outcome: Result<usize, Errno>) -> Result<usize, Errno> {
    match outcome {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        outcome => outcome,
    }
}

/// Octets taken off a connection before anything else is looked at.
const TAKEN_AT_ONCE: usize = 2 << 20;

/// Gives a session what TCP has for it, or much of it.
#[inline(always)]
fn receive(
    stream: &TcpStream,
    session: &mut Session,
    path: usize,
    buffer: &mut [u8],
    now_ns: u64,
    memory: &mut Memory,
) -> Result<(), Errno> {
    let mut taken = 0;
    while taken < TAKEN_AT_ONCE {
        let count = match read(stream, &mut *buffer) {
            Ok(0) => return Err(Errno::CONNRESET),
            Err(Errno::AGAIN | Errno::INTR) => break,
            outcome => outcome?,
        };
        session.receive(path, buffer.get(..count).unwrap_or_default(), now_ns, memory);
        if count < buffer.len() {
            break;
        }
        taken += count;
    }
    Ok(())
}

/// How many octets of a buffer and of requests there are.
fn all_of(made: &[u8], pieces: &[Piece]) -> usize {
    pieces.iter().fold(made.len(), |sum, piece| sum + piece.length)
}

/// Octets of a buffer and of requests, in the order in which they are sent.
fn parts<'a>(made: &'a [u8], pieces: &[Piece], memory: &'a Memory, mut take: impl FnMut(&'a [u8])) {
    let mut at = 0;
    for piece in pieces {
        take(made.get(at..piece.after).unwrap_or_default());
        take(memory.view(piece.id, piece.offset, piece.length));
        at = piece.after;
    }
    take(made.get(at..).unwrap_or_default());
}

/// Sends octets of a buffer and of requests; tells how many TCP took.
fn send_mixed(stream: &TcpStream, made: &[u8], pieces: &[Piece], memory: &Memory) -> Result<usize, Errno> {
    let count = 2 * pieces.len() + 1;
    if count <= FEW {
        return send_few::<FEW>(stream, made, pieces, memory);
    }
    if count <= MORE {
        return send_few::<MORE>(stream, made, pieces, memory);
    }
    let mut many = Vec::with_capacity(count);
    parts(made, pieces, memory, |part| many.push(IoSlice::new(part)));
    give(writev(stream, many.get(..SLICES_MAX).unwrap_or(&many)))
}

/// The same for so few pieces that they are not worth a trip to the allocator.
fn send_few<const MOST: usize>(
    stream: &TcpStream,
    made: &[u8],
    pieces: &[Piece],
    memory: &Memory,
) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); MOST];
    let mut places = slices.iter_mut();
    parts(made, pieces, memory, |part| {
        if let Some(place) = places.next() {
            *place = IoSlice::new(part);
        }
    });
    give(writev(stream, &slices))
}

/// Keeps what TCP did not take.
#[cold]
fn keep_rest(rest: &mut Vec<u8>, taken: usize, made: &[u8], pieces: &[Piece], memory: &Memory) {
    rest.clear();
    let mut left = taken;
    parts(made, pieces, memory, |part| {
        rest.extend_from_slice(part.get(left..).unwrap_or_default());
        left = left.saturating_sub(part.len());
    });
}

impl Link {
    #[cold]
    fn lose(&mut self, session: &mut Session, path: usize, now_ns: u64) {
        *self = Self::None;
        session.on_disconnected(path, now_ns);
    }

    /// Opens and closes as the session wants.
    #[cold]
    fn open_or_close(&mut self, session: &mut Session, path: usize, now_ns: u64) {
        if session.disconnect_wanted(path) {
            *self = Self::None;
            session.on_disconnected(path, now_ns);
        }
        if let Some(portal) = session.connect(path, now_ns) {
            *self = Self::Connecting(begin(portal));
        }
        if let Self::Connecting(receiver) = self {
            match receiver.try_recv() {
                Ok(Ok(stream)) => {
                    *self = Self::Open { stream, rest: Vec::new(), at: 0, pieces: Vec::new() };
                    session.on_connected(path, now_ns);
                }
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => {
                    *self = Self::None;
                    session.on_disconnected(path, now_ns);
                }
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    /// Sends until TCP takes no more or there is nothing more; false while there is no
    /// connection yet.
    #[inline(always)]
    fn send(
        &mut self,
        session: &mut Session,
        path: usize,
        now_ns: u64,
        memory: &mut Memory,
        buffer: &mut [u8],
    ) -> Result<bool, Errno> {
        let Self::Open { stream, rest, at, pieces } = self else {
            return Ok(matches!(self, Self::None));
        };
        while *at < rest.len() {
            let piece = rest.get(*at..).unwrap_or_default();
            match give(send(&*stream, piece, SendFlags::NOSIGNAL))? {
                0 => return Ok(true),
                taken => *at += taken,
            }
        }
        loop {
            pieces.clear();
            let length = session.transmit_pieces(path, buffer, pieces, now_ns, memory);
            if length == 0 {
                return Ok(true);
            }
            let Some(made) = buffer.get(..length) else { return Ok(true) };
            let (taken, all) = match pieces.as_slice() {
                [] => (give(send(&*stream, made, SendFlags::NOSIGNAL))?, length),
                [Piece { after, id, offset, length: octets }] if *after == length => {
                    let data = memory.view(*id, *offset, *octets);
                    (give(writev(&*stream, &[IoSlice::new(made), IoSlice::new(data)]))?, length + octets)
                }
                pieces => (send_mixed(stream, made, pieces, memory)?, all_of(made, pieces)),
            };
            if taken < all {
                keep_rest(rest, taken, made, pieces, memory);
                *at = 0;
                return Ok(true);
            }
            if all < BUFFER_BYTES {
                // It had room for more, if there were any.
                return Ok(true);
            }
        }
    }

    const fn has_rest(&self) -> bool {
        matches!(self, Self::Open { rest, at, .. } if *at < rest.len())
    }
}

/// What is waited for on a connection.
fn wanted<'a>(stream: &'a TcpStream, link: &Link) -> PollFd<'a> {
    let out = if link.has_rest() { PollFlags::OUT } else { PollFlags::empty() };
    PollFd::new(stream, PollFlags::IN | out)
}

/// Waits until one of them has anything, or the pause is over.
#[inline(always)]
fn wait(wanted: &mut [PollFd<'_>], pause: &rustix::event::Timespec) -> io::Result<()> {
    match poll(wanted, Some(pause)) {
        Err(error) if error != Errno::INTR => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether there is anything to take, if only that the connection is gone.
fn has_come(polled: &PollFd<'_>) -> bool {
    polled.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
}

/// One turn, from the time `now_ns` on; returns the time when the waiting ended.
pub(super) fn turn(
    links: &mut [Link],
    session: &mut Session,
    memory: &mut Memory,
    buffer: &mut [u8],
    (clock, now_ns): (Clock, u64),
    limit_ns: u64,
) -> io::Result<u64> {
    Turn { session, memory, buffer, clock, now_ns, limit_ns }.run(links)
}

/// What a turn works on.
struct Turn<'a> {
    session: &'a mut Session,
    memory: &'a mut Memory,
    buffer: &'a mut [u8],
    clock: Clock,
    now_ns: u64,
    limit_ns: u64,
}

impl Turn<'_> {
    #[inline(always)]
    fn run(mut self, links: &mut [Link]) -> io::Result<u64> {
        // Mostly there is one.
        let [link] = links else { return self.run_all(links) };
        self.begin(0, link);
        let pause = self.pause();
        let Link::Open { stream, .. } = &*link else {
            wait(&mut [], &pause)?;
            return Ok(self.clock.now_ns());
        };
        let mut polled = [wanted(stream, link)];
        wait(&mut polled, &pause)?;
        self.now_ns = self.clock.now_ns();
        if polled.first().is_some_and(has_come) {
            self.end(0, link);
        }
        Ok(self.now_ns)
    }

    #[cold]
    fn run_all(mut self, links: &mut [Link]) -> io::Result<u64> {
        for (path, link) in links.iter_mut().enumerate() {
            self.begin(path, link);
        }
        let (mut numbers, mut polled) = (Vec::new(), Vec::new());
        for (number, link) in links.iter().enumerate() {
            if let Link::Open { stream, .. } = link {
                polled.push(wanted(stream, link));
                numbers.push(number);
            }
        }
        wait(&mut polled, &self.pause())?;
        self.now_ns = self.clock.now_ns();
        let ready: Vec<bool> = polled.iter().map(has_come).collect();
        for (path, _) in numbers.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            if let Some(link) = links.get_mut(path) {
                self.end(path, link);
            }
        }
        Ok(self.now_ns)
    }

    fn pause(&self) -> rustix::event::Timespec {
        pause(self.session.next_deadline(), self.now_ns, self.limit_ns)
    }

    /// Opens, closes and sends as the session wants.
    #[inline(always)]
    fn begin(&mut self, path: usize, link: &mut Link) {
        let (session, now_ns) = (&mut *self.session, self.now_ns);
        if !session.is_calm() || !matches!(link, Link::Open { .. }) {
            link.open_or_close(session, path, now_ns);
        }
        match link.send(session, path, now_ns, self.memory, self.buffer) {
            Ok(true) => {}
            Ok(false) => self.limit_ns = self.limit_ns.min(CONNECTING_NS),
            Err(_) => link.lose(session, path, now_ns),
        }
    }

    /// Takes what has come.
    #[inline(always)]
    fn end(&mut self, path: usize, link: &mut Link) {
        let (session, now_ns) = (&mut *self.session, self.now_ns);
        if let Link::Open { stream, .. } = link
            && receive(stream, session, path, self.buffer, now_ns, self.memory).is_err()
        {
            link.lose(session, path, now_ns);
        }
    }
}
