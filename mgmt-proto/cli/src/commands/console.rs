//! `redoubt console`.
//!
//! On a terminal every key goes to the guest but the one that leaves. Without
//! one, input is sent as it is, and output is copied until the guest is gone. What is typed
//! may be a password, which goes to a node that is known by its key: on a terminal the
//! operator is asked about one that is not.

use crate::arguments::Console;
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{Reply, Request};
use redoubt::answer::Answer;
use redoubt::connection::{Before, Cursor, Piece};
use redoubt::session::find;
use redoubt::{Connection, exit, json};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

/// Pause between looks at a console on which nothing happens.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Most bytes of input in one request: little, so that none is lost in a guest
/// that reads slowly.
const INPUT_CHUNK_BYTES: usize = 256;

pub(crate) fn run(scope: &Scope<'_>, options: &Console) -> Result<(), Failure> {
    escape_byte(&options.escape)?;
    let mut connection = scope.open()?;
    let guest = find(&mut connection, &options.guest)?.machine.name;
    attach(&mut connection, &Console { guest, ..options.clone() })
}

/// What was written so far.
pub(crate) fn once(scope: &Scope<'_>, guest: &str) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let guest = find(&mut connection, guest)?.machine.name;
    let (mut cursor, mut written) = (Cursor::new(), Vec::new());
    loop {
        let request = Request::ConsoleRead { name: guest.clone(), from: cursor.from };
        let Reply::Stream(stream) = connection.request(request)? else {
            return Err(connection.unexpected());
        };
        // What is overwritten meanwhile was the oldest.
        let (Piece::Bytes(bytes) | Piece::Missed(_, bytes)) = cursor.take(stream) else { continue };
        if bytes.is_empty() {
            let log = json::log(&guest, &written, cursor.from);
            return Ok(Answer::lines(&log, &guest, String::from_utf8_lossy(&written).into_owned()));
        }
        written.extend(bytes);
    }
}

/// Copies between the terminal and the guest until either ends.
pub(crate) fn attach(connection: &mut Connection, options: &Console) -> Result<(), Failure> {
    let escape = escape_byte(&options.escape)?;
    let terminal = std::io::stdin().is_terminal();
    if terminal && !connection.is_known() && !options.read_only {
        ask_about_key(connection)?;
    }
    if terminal {
        eprintln!("[{}; {} leaves]", options.guest, options.escape);
    }
    let raw = RawTerminal::enter()?;
    let result = exchange(connection, options, terminal.then_some(escape));
    drop(raw);
    if terminal {
        eprintln!();
    }
    match result? {
        End::Left => {}
        End::Gone => eprintln!("[{}: the guest is gone]", options.guest),
    }
    Ok(())
}

/// Lets the operator compare the node's key before anything is typed.
fn ask_about_key(connection: &mut Connection) -> Result<(), Failure> {
    let fingerprint = keys::public::fingerprint(connection.node());
    eprintln!("The key of {} is not known: {fingerprint}.", connection.address());
    eprint!("Does the node show the same on its own console? Type yes to type at the guest's: ");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    if read.is_ok() && line.trim() == "yes" {
        connection.know();
        return Ok(());
    }
    let mut refused = connection.not_told();
    refused.remedy += "; -r only reads";
    Err(refused)
}

enum End {
    Left,
    Gone,
}

/// The byte of `^]`, `^A`, or one character.
fn escape_byte(text: &str) -> Result<u8, Failure> {
    match *text.as_bytes() {
        [byte] => Ok(byte),
        [b'^', letter] if (b'@'..=b'_').contains(&letter.to_ascii_uppercase()) => {
            Ok(letter.to_ascii_uppercase() & 0x1f)
        }
        _ => Err(exit::usage("escape", format!("{text:?} is no key"), "write ^] or one character")),
    }
}

/// False when the reader is gone.
fn write_out(bytes: &[u8]) -> bool {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).is_ok()
}

/// Reads the terminal in a thread of its own, which ends with the program.
fn start_reader() -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; INPUT_CHUNK_BYTES];
        while let Ok(count) = input.read(&mut buffer) {
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            if sender.send(bytes.to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A console that is looked at.
struct Attached<'a> {
    connection: &'a mut Connection,
    options: &'a Console,
    /// The byte that leaves.
    escape: Option<u8>,
    input: Receiver<Vec<u8>>,
    input_open: bool,
    cursor: Cursor,
    seen: bool,
}

fn exchange(connection: &mut Connection, options: &Console, escape: Option<u8>) -> Result<End, Failure> {
    let (input, cursor) = (start_reader(), Cursor::new());
    let mut attached = Attached { connection, options, escape, input, input_open: true, cursor, seen: false };
    loop {
        let bytes = match attached.next_bytes()? {
            Ok(bytes) => bytes,
            Err(end) => return Ok(end),
        };
        if !write_out(&bytes) {
            return Ok(End::Left);
        }
        // More may be there already; typed keys still have their turn.
        let pause = if bytes.is_empty() { POLL_PAUSE } else { Duration::ZERO };
        if let Some(bytes) = wait_for_input(&attached.input, &mut attached.input_open, pause)
            && !forward(attached.connection, options, &bytes, escape)?
        {
            return Ok(End::Left);
        }
    }
}

impl Attached<'_> {
    /// What the guest wrote since the last look, or why there is nothing more. When the
    /// session breaks, another one goes on, and what is missing is said.
    fn next_bytes(&mut self) -> Result<Result<Vec<u8>, End>, Failure> {
        let (options, escape) = (self.options, self.escape);
        let (mut told, mut left) = (false, false);
        let request = Request::ConsoleRead { name: options.guest.clone(), from: self.cursor.from };
        let looked = self.connection.look(&request, &mut |broken| {
            if !std::mem::replace(&mut told, true) {
                let leave = escape.map_or_else(String::new, |_| format!("; {} leaves", options.escape));
                say(options, &format!("{broken}: connecting again{leave}"));
            }
            // What is typed meanwhile is lost.
            let typed = wait_for_input(&self.input, &mut self.input_open, Duration::ZERO);
            left = typed.is_some_and(|bytes| bytes.iter().any(|byte| Some(*byte) == escape));
            !left
        });
        let (reply, before) = match looked {
            Ok(looked) => looked,
            Err(_) if left => return Ok(Err(End::Left)),
            Err(failure) if failure.code == Code::NotFound && self.seen => return Ok(Err(End::Gone)),
            Err(failure) => return Err(failure),
        };
        let Reply::Stream(stream) = reply else { return Err(self.connection.unexpected()) };
        self.seen = true;
        match before {
            Before::Nothing => {}
            Before::Broke => say(options, "connected again"),
            // dom0 keeps what was written.
            Before::Restarted => {
                say(options, "connected again; dom0 was restarted, and the console begins anew");
                self.cursor.begin_anew();
                return Ok(Ok(Vec::new()));
            }
        }
        Ok(Ok(match self.cursor.take(stream) {
            Piece::Bytes(bytes) => bytes,
            Piece::Missed(missed, bytes) => {
                say(options, &format!("{missed} bytes are missing here"));
                bytes
            }
            Piece::BeginsAnew => {
                say(options, "the console begins anew");
                Vec::new()
            }
        }))
    }
}

/// Says something beside what the guest writes, on a terminal that may be raw.
fn say(options: &Console, text: &str) {
    let end = if std::io::stderr().is_terminal() { "\r\n" } else { "\n" };
    eprint!("{end}[{}: {text}]{end}", options.guest);
}

fn wait_for_input(input: &Receiver<Vec<u8>>, open: &mut bool, pause: Duration) -> Option<Vec<u8>> {
    if !*open {
        std::thread::sleep(pause);
        return None;
    }
    let received = if pause.is_zero() {
        input.try_recv().map_err(|error| error == TryRecvError::Disconnected)
    } else {
        input.recv_timeout(pause).map_err(|error| error == RecvTimeoutError::Disconnected)
    };
    received
        .map_err(|closed| {
            if closed {
                *open = false;
            }
        })
        .ok()
}

/// Sends what was typed; false when it holds the key that leaves.
fn forward(
    connection: &mut Connection,
    options: &Console,
    typed: &[u8],
    escape: Option<u8>,
) -> Result<bool, Failure> {
    let guest = &options.guest;
    let end = typed.iter().position(|byte| Some(*byte) == escape);
    let bytes = typed.get(..end.unwrap_or(typed.len())).unwrap_or_default();
    if !bytes.is_empty() && !options.read_only {
        let request = Request::ConsoleWrite { name: guest.clone(), bytes: bytes.to_vec() };
        match connection.request(request) {
            Ok(_) => {}
            Err(failure) if matches!(failure.code, Code::Conflict | Code::Partial) => {
                say(options, &failure.to_string())
            }
            Err(failure) if failure.code == Code::NotFound => {}
            // It may have come to the guest or not: typing it twice is worse.
            Err(failure) => {
                connection.give_up_session(failure)?;
                say(options, "what was typed last may be lost");
            }
        }
    }
    Ok(end.is_none())
}

/// The terminal in raw mode, as long as this lives.
struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(Self { before: None });
        }
        let failed =
            |error: rustix::io::Errno| Failure::new(Code::Internal, "terminal", error.to_string(), "");
        let before = tcgetattr(&input).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}
