//! From an address to a session: TCP, and the four steps of the handshake.

use super::{broken, own_fault, peer_fault};
use crate::exit;
use mgmt_proto::client::{Client, Connecting};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{ANSWER_BYTES, GREETING_BYTES, Meant, OperatorKey, PeerFault};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a node may take to greet before the connection is tried anew: it keeps no
/// memory of who has said nothing, and repeats itself for three seconds.
const GREETING_TIMEOUT: Duration = Duration::from_secs(4);

/// Connects, and proves both ends to each other.
pub(super) fn establish(
    address: &str,
    key: &dyn OperatorKey,
    meant: &Meant,
    timeout: Duration,
) -> Result<(TcpStream, Client), Failure> {
    let deadline = Instant::now() + timeout;
    let (mut stream, greeting) = greeted(address, deadline)?;
    let seed = keys::random::bytes::<32>().map_err(|error| exit::key(&error))?;
    let connecting = Connecting::new(key, meant, &greeting, *seed).map_err(|fault| match fault {
        PeerFault::Version | PeerFault::Key => peer_fault(address, fault),
        fault => own_fault(fault),
    })?;
    let mut answer = [0; ANSWER_BYTES];
    let exchanged = set_timeouts(&stream, deadline)
        .and_then(|()| stream.write_all(connecting.hello()))
        .and_then(|()| stream.read_exact(&mut answer));
    exchanged.map_err(|error| refusal(address, &error, meant))?;
    let mut client = connecting.finish(&answer).map_err(|fault| peer_fault(address, fault))?;
    // The session counts from its first record on, and a command may need somebody's consent.
    let here = client.here().map_err(|fault| peer_fault(address, fault))?;
    stream.write_all(&here).map_err(|error| broken(address, &error))?;
    Ok((stream, client))
}

/// A connection, and the node's first message.
fn greeted(address: &str, deadline: Instant) -> Result<(TcpStream, [u8; GREETING_BYTES]), Failure> {
    loop {
        let mut stream = connect(address, deadline)?;
        let mut greeting = [0; GREETING_BYTES];
        let until = deadline.min(Instant::now() + GREETING_TIMEOUT);
        match set_timeouts(&stream, until).and_then(|()| stream.read_exact(&mut greeting)) {
            Ok(()) => return Ok((stream, greeting)),
            Err(error) if is_timeout(&error) && Instant::now() < deadline => {}
            Err(error) => {
                let message = if is_timeout(&error) { "no answer".into() } else { error.to_string() };
                let remedy = "is this a node? --wait keeps trying";
                return Err(Failure::new(Code::Unreachable, address, message, remedy));
            }
        }
    }
}

/// The failure for a node that has not the key it should have.
#[must_use]
pub fn wrong_key(address: &str, found: &[u8; 32], expected: &[u8; 32]) -> Failure {
    let message = format!("the node has the key {} and not {}", hex::encode(found), hex::encode(expected));
    Failure::new(Code::Refused, address, message, "this is another node, or somebody in between")
}

fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Failure> {
    let unreachable = |message: String, remedy| Failure::new(Code::Unreachable, address, message, remedy);
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| unreachable(format!("no such host: {error}"), "check -n"))?
        .collect();
    let mut last = unreachable("no such host".into(), "check -n");
    for candidate in resolved {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| broken(address, &error))?;
                return Ok(stream);
            }
            Err(error) if is_timeout(&error) => {
                last = unreachable("no answer".into(), "is the node up? --wait keeps trying");
            }
            Err(error) => last = unreachable(error.to_string(), "is the node up? --wait keeps trying"),
        }
    }
    Err(last)
}

pub(super) fn set_timeouts(stream: &TcpStream, deadline: Instant) -> std::io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))
}

pub(super) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Why a node did not answer: it says nothing, so all that may be is named.
fn refusal(address: &str, error: &std::io::Error, meant: &Meant) -> Failure {
    if is_timeout(error) {
        let message = "the node does not answer: others knock at its door, or this operator too often";
        return Failure::new(Code::Unreachable, address, message, "try again, or --wait");
    }
    if !matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) {
        return Failure::new(Code::Unreachable, address, error.to_string(), "try again, or --wait");
    }
    let message = "the node closed the connection without a word";
    let trust = "it does not trust this key: check -i against the operators sealed into its image";
    let remedy = match &meant.key {
        None if meant.name.is_empty() => trust.into(),
        None => format!("{trust}; or it is not called {}", meant.name),
        Some(key) => format!(
            "either its key is not {} any more: compare with what it shows on its console, then say \
             --accept-new-key, or --fresh-identity if it makes a new key at each boot; or {trust}",
            keys::public::fingerprint(key)
        ),
    };
    Failure::new(Code::Refused, address, message, remedy)
}
