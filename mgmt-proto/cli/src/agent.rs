//! Keys that an ssh-agent holds: this program never sees their secret half.
//!
//! Spec: draft-ietf-sshm-ssh-agent, 5 (message numbers in 6.1); Ed25519 keys and
//! signatures as in RFC 8709, 4 and 6.

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{OperatorKey, PeerFault};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const ALGORITHM: &[u8] = b"ssh-ed25519";
/// Most bytes of an answer; OpenSSH has the same bound.
const MESSAGE_BYTES: usize = 256 * 1024;
/// How long an agent may take: it may ask a person first.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A key in an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    socket: PathBuf,
    /// Its public half.
    pub public: [u8; 32],
    /// What its owner calls it.
    pub comment: String,
}

fn failed(socket: &Path, message: impl Into<String>) -> Failure {
    let remedy = "is it running, and does SSH_AUTH_SOCK name it?";
    Failure::new(Code::NotFound, format!("ssh-agent at {}", socket.display()), message, remedy)
}

/// Where the agent is, from `SSH_AUTH_SOCK`.
///
/// # Errors
/// [`Code::NotFound`].
pub fn socket() -> Result<PathBuf, Failure> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Failure::new(Code::NotFound, "ssh-agent", "SSH_AUTH_SOCK is not set", "start an ssh-agent")
    })
}

fn push(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(field);
}

/// Takes a field with its length off the front.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (field, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *bytes = rest;
    Some(field)
}

fn ask(socket: &Path, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut framed = Vec::with_capacity(message.len() + 4);
    push(&mut framed, message);
    stream.write_all(&framed)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES {
        return Err(std::io::Error::other("its answer is too long"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The Ed25519 key of a blob.
fn ed25519(blob: &[u8]) -> Option<[u8; 32]> {
    let mut blob = blob;
    let algorithm = take(&mut blob)?;
    let key = take(&mut blob)?;
    if algorithm != ALGORITHM || !blob.is_empty() {
        return None;
    }
    key.try_into().ok()
}

fn identities(answer: &[u8]) -> Option<Vec<([u8; 32], String)>> {
    let (&kind, rest) = answer.split_first()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    if kind != IDENTITIES_ANSWER {
        return None;
    }
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let blob = take(&mut rest)?;
        let comment = take(&mut rest)?;
        // Keys of other kinds are none of ours.
        if let Some(key) = ed25519(blob) {
            keys.push((key, String::from_utf8_lossy(comment).into_owned()));
        }
    }
    rest.is_empty().then_some(keys)
}

fn signature(answer: &[u8]) -> Option<[u8; 64]> {
    let (&kind, mut rest) = answer.split_first()?;
    let mut blob = take(&mut rest)?;
    let algorithm = take(&mut blob)?;
    let bytes = take(&mut blob)?;
    if kind != SIGN_RESPONSE || algorithm != ALGORITHM || !rest.is_empty() || !blob.is_empty() {
        return None;
    }
    bytes.try_into().ok()
}

/// The Ed25519 keys that an agent holds.
///
/// # Errors
/// [`Code::NotFound`] when no agent answers.
pub fn list(socket: &Path) -> Result<Vec<AgentKey>, Failure> {
    let answer = ask(socket, &[REQUEST_IDENTITIES]).map_err(|error| failed(socket, error.to_string()))?;
    let keys = identities(&answer).ok_or_else(|| failed(socket, "does not say which keys it has"))?;
    let key = |(public, comment)| AgentKey { socket: socket.into(), public, comment };
    Ok(keys.into_iter().map(key).collect())
}

/// The key that is meant: its fingerprint or comment, or nothing if there is one.
///
/// # Errors
/// [`Code::NotFound`] for none, [`Code::Usage`] for several.
pub fn find(socket: &Path, wanted: Option<&str>) -> Result<AgentKey, Failure> {
    let mut keys = list(socket)?;
    if let Some(wanted) = wanted {
        keys.retain(|key| key.comment == wanted || keys::public::fingerprint(&key.public) == wanted);
    }
    match <[AgentKey; 1]>::try_from(keys) {
        Ok([key]) => Ok(key),
        Err(keys) if keys.is_empty() => {
            let object = format!("ssh-agent at {}", socket.display());
            Err(Failure::new(
                Code::NotFound,
                object,
                "holds no such Ed25519 key",
                "see `redoubt key list`, ssh-add",
            ))
        }
        Err(keys) => {
            let message = format!("holds {} Ed25519 keys", keys.len());
            Err(crate::exit::usage(
                "ssh-agent",
                message,
                "name one: -i agent:COMMENT or -i agent:FINGERPRINT",
            ))
        }
    }
}

impl OperatorKey for AgentKey {
    fn public(&self) -> [u8; 32] {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PeerFault> {
        let mut blob = Vec::new();
        push(&mut blob, ALGORITHM);
        push(&mut blob, &self.public);
        let mut request = vec![SIGN_REQUEST];
        push(&mut request, &blob);
        push(&mut request, message);
        request.extend([0; 4]);
        let answer = ask(&self.socket, &request).map_err(|_| PeerFault::Key)?;
        signature(&answer).ok_or(PeerFault::Key)
    }
}

/// The signer of the operator's commands.
#[derive(Clone)]
pub enum Identity {
    /// A key from a file.
    File(Box<ed25519_dalek::SigningKey>),
    /// A key in an agent.
    Agent(AgentKey),
}

impl Identity {
    /// From the path of a file, `agent` or `agent:` with a comment or fingerprint.
    ///
    /// # Errors
    /// Of the file or the agent.
    pub fn open(name: &Path) -> Result<Self, Failure> {
        match name.to_str().and_then(|name| name.strip_prefix("agent")) {
            Some("") => find(&socket()?, None).map(Self::Agent),
            Some(wanted) if wanted.starts_with(':') => {
                find(&socket()?, Some(wanted.trim_start_matches(':'))).map(Self::Agent)
            }
            _ => keys::secret::load(&keys::file::expand_home(name))
                .map(|key| Self::File(Box::new(key)))
                .map_err(|error| crate::exit::key(&error)),
        }
    }
}

impl OperatorKey for Identity {
    fn public(&self) -> [u8; 32] {
        match self {
            Self::File(key) => key.public(),
            Self::Agent(key) => key.public(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PeerFault> {
        match self {
            Self::File(key) => OperatorKey::sign(key.as_ref(), message),
            Self::Agent(key) => key.sign(message),
        }
    }
}

#[cfg(test)]
mod tests;
