//! From an address to a session: TCP, and the four steps of the handshake.

use super::tcp::Tcp;
use super::{broken, own_fault, peer_fault, stopped};
use crate::exit;
use mgmt_proto::client::Connecting;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{GREETING_BYTES, Meant, OperatorKey, PeerFault};
use mgmt_proto::pump::{self, Pump, Stopped};
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
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
) -> Result<Pump<Tcp>, Failure> {
    let deadline = Instant::now() + timeout;
    let (mut stream, greeting) = greeted(address, deadline)?;
    let seed = keys::random::bytes::<32>().map_err(|error| exit::key(&error))?;
    let connecting = Connecting::new(key, meant, &greeting, *seed).map_err(|fault| match fault {
        PeerFault::Version | PeerFault::Key => peer_fault(address, fault),
        fault => own_fault(fault),
    })?;
    stream.until(deadline);
    let client = connecting.exchange(&mut stream).map_err(|why| match why {
        Stopped::Peer(fault) => peer_fault(address, fault),
        Stopped::Stream(error) => refusal(address, Some(&error), meant),
        Stopped::Ended => refusal(address, None, meant),
    })?;
    // The session counts from its first record on, and a command may need somebody's consent.
    Pump::begin(stream, client).map_err(|why| stopped(address, why))
}

/// A connection, and the node's first message.
fn greeted(address: &str, deadline: Instant) -> Result<(Tcp, [u8; GREETING_BYTES]), Failure> {
    loop {
        let mut stream = connect(address, deadline)?;
        stream.until(deadline.min(Instant::now() + GREETING_TIMEOUT));
        let message = match pump::greeting(&mut stream) {
            Ok(greeting) => return Ok((stream, greeting)),
            Err(Stopped::Stream(error)) if is_timeout(&error) && Instant::now() < deadline => continue,
            Err(Stopped::Stream(error)) if is_timeout(&error) => "no answer".into(),
            Err(Stopped::Stream(error)) => error.to_string(),
            Err(Stopped::Ended | Stopped::Peer(_)) => "it closes the connection at once".into(),
        };
        let remedy = "is this a node? --wait keeps trying";
        return Err(Failure::new(Code::Unreachable, address, message, remedy));
    }
}

/// The failure for a node that has not the key it should have.
#[must_use]
pub fn wrong_key(address: &str, found: &[u8; 32], expected: &[u8; 32]) -> Failure {
    let message = format!("the node has the key {} and not {}", hex::encode(found), hex::encode(expected));
    Failure::new(Code::Refused, address, message, "this is another node, or somebody in between")
}

fn connect(address: &str, deadline: Instant) -> Result<Tcp, Failure> {
    let unreachable = |message: String, remedy| Failure::new(Code::Unreachable, address, message, remedy);
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|error| unreachable(format!("no such host: {error}"), "check -n"))?
        .collect();
    let mut last = unreachable("no such host".into(), "check -n");
    for candidate in resolved {
        match Tcp::connect(&candidate, deadline) {
            Ok(stream) => {
                stream.set_nodelay().map_err(|error| broken(address, &error))?;
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

pub(super) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Why a node did not answer: it says nothing, so all that may be is named.
fn refusal(address: &str, error: Option<&std::io::Error>, meant: &Meant) -> Failure {
    if error.is_some_and(is_timeout) {
        let message = "the node does not answer: others knock at its door, or this operator too often";
        return Failure::new(Code::Unreachable, address, message, "try again, or --wait");
    }
    if let Some(error) = error.filter(|error| error.kind() != ErrorKind::ConnectionReset) {
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
