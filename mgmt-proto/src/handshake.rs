//! How two ends come to trust each other: signed ephemeral Diffie-Hellman in one
//! round trip.
//!
//! ```text
//! operator -> node   version, operator key, ephemeral, signature
//! node -> operator   ephemeral, sealed(node key, boot nonce, signature)
//! ```
//!
//! The operator signs first, so a node says nothing to a stranger. What it says
//! is sealed under the shared secret, so replaying somebody's first message tells
//! nothing either. Both signatures cover the ephemerals, so a session is bound to
//! both identities, and its keys die with the ephemerals (RFC 7748 X25519, RFC
//! 8032 Ed25519, RFC 5869 HKDF, RFC 8439 ChaCha20-Poly1305).

use crate::record::{Opener, Sealer};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Bytes of the operator's message.
pub const HELLO_BYTES: usize = 2 + 32 + 32 + 64;
/// Bytes of the node's message.
pub const ANSWER_BYTES: usize = 32 + SEALED_BYTES + 16;
const SEALED_BYTES: usize = 32 + 32 + 64;

const HELLO_LABEL: &[u8] = b"redoubt hello 1";
const ANSWER_LABEL: &[u8] = b"redoubt answer 1";
const KEY_LABEL: &[u8] = b"redoubt keys 1";

/// Why a peer is not believed. Never told to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// Another version of the protocol.
    Version,
    /// Not enough or too many bytes.
    Length,
    /// A key that is none.
    Key,
    /// A signature that does not fit.
    Signature,
    /// A sealed message that was altered, replayed or is out of order.
    Seal,
    /// A key nobody trusts.
    Stranger,
    /// Something that does not belong here.
    Unexpected,
    /// More than the bounds allow.
    Flood,
}

impl core::fmt::Display for PeerFault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Version => "speaks another version of the protocol",
            Self::Length => "sent a message of the wrong length",
            Self::Key => "sent a key that is none",
            Self::Signature => "sent a signature that does not fit",
            Self::Seal => "sent an altered, replayed or misplaced message",
            Self::Stranger => "has a key that is not trusted",
            Self::Unexpected => "sent something unexpected",
            Self::Flood => "sent more than it may",
        })
    }
}

impl core::error::Error for PeerFault {}

/// What binds everything later to this handshake.
pub type SessionId = [u8; 32];

/// An established session's keys.
pub struct Keys {
    /// Seals what this end sends.
    pub sealer: Sealer,
    /// Opens what the other end sends.
    pub opener: Opener,
    /// The session's identity.
    pub session: SessionId,
}

struct Secrets {
    answer: [u8; 32],
    to_node: [u8; 32],
    to_operator: [u8; 32],
    session: SessionId,
}

fn derive(shared: &[u8; 32], hello: &[u8; HELLO_BYTES], ephemeral: &[u8; 32]) -> Result<Secrets, PeerFault> {
    let transcript =
        Sha256::new().chain_update(KEY_LABEL).chain_update(hello).chain_update(ephemeral).finalize();
    let hkdf = Hkdf::<Sha256>::new(Some(transcript.as_slice()), shared);
    let expand = |label: &[u8]| {
        let mut key = [0; 32];
        hkdf.expand(label, &mut key).map(|()| key).map_err(|_| PeerFault::Key)
    };
    Ok(Secrets {
        answer: expand(b"answer")?,
        to_node: expand(b"to node")?,
        to_operator: expand(b"to operator")?,
        session: expand(b"session")?,
    })
}

fn agree(secret: &StaticSecret, public: [u8; 32]) -> Result<[u8; 32], PeerFault> {
    let shared = secret.diffie_hellman(&PublicKey::from(public));
    // A point of small order gives a secret anybody knows.
    if !shared.was_contributory() {
        return Err(PeerFault::Key);
    }
    Ok(shared.to_bytes())
}

fn verify(key: &[u8; 32], parts: &[&[u8]], signature: &[u8; 64]) -> Result<(), PeerFault> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| PeerFault::Key)?;
    let message = parts.concat();
    key.verify_strict(&message, &Signature::from_bytes(signature)).map_err(|_| PeerFault::Signature)
}

/// A field of a message at an offset.
pub(crate) fn field<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], PeerFault> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(PeerFault::Length)
}

/// The bytes an operator signs in its first message.
fn hello_body(operator: &[u8; 32], ephemeral: &[u8; 32]) -> [u8; 66] {
    let mut body = [0; 66];
    let (version, rest) = body.split_at_mut(2);
    let (key, point) = rest.split_at_mut(32);
    version.copy_from_slice(&VERSION.to_le_bytes());
    key.copy_from_slice(operator);
    point.copy_from_slice(ephemeral);
    body
}

/// Signs on behalf of an operator whose key may be elsewhere.
pub trait OperatorKey {
    /// Its public half.
    fn public(&self) -> [u8; 32];
    /// Signs a message.
    ///
    /// # Errors
    /// When whoever holds the key refuses.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PeerFault>;
}

impl OperatorKey for SigningKey {
    fn public(&self) -> [u8; 32] {
        self.verifying_key().to_bytes()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], PeerFault> {
        Ok(Signer::sign(self, message).to_bytes())
    }
}

/// The operator's side, waiting for the node's answer.
pub struct Initiator {
    hello: [u8; HELLO_BYTES],
    secret: StaticSecret,
}

impl Initiator {
    /// Makes the first message. `seed` must be fresh random bytes.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn new(key: &dyn OperatorKey, seed: [u8; 32]) -> Result<Self, PeerFault> {
        let secret = StaticSecret::from(seed);
        let body = hello_body(&key.public(), PublicKey::from(&secret).as_bytes());
        let signature = key.sign(&[HELLO_LABEL, &body].concat())?;
        let mut hello = [0; HELLO_BYTES];
        let (head, tail) = hello.split_at_mut(body.len());
        head.copy_from_slice(&body);
        tail.copy_from_slice(&signature);
        Ok(Self { hello, secret })
    }

    /// The first message.
    #[must_use]
    pub const fn hello(&self) -> &[u8; HELLO_BYTES] {
        &self.hello
    }

    /// Takes the node's answer: keys, the node's public key, its boot nonce. The
    /// caller decides whether that key is the node it wanted.
    ///
    /// # Errors
    /// Why the answer is not believed.
    pub fn finish(self, answer: &[u8; ANSWER_BYTES]) -> Result<(Keys, [u8; 32], [u8; 32]), PeerFault> {
        let ephemeral = field::<32>(answer, 0)?;
        let secrets = derive(&agree(&self.secret, ephemeral)?, &self.hello, &ephemeral)?;
        let sealed = answer.get(32..).ok_or(PeerFault::Length)?;
        let plain = Opener::new(&secrets.answer).open(sealed)?;
        let (node, nonce) = (field::<32>(&plain, 0)?, field::<32>(&plain, 32)?);
        let signature = field::<64>(&plain, 64)?;
        verify(&node, &[ANSWER_LABEL, &secrets.session, &node, &nonce], &signature)?;
        let keys = Keys {
            sealer: Sealer::new(&secrets.to_node),
            opener: Opener::new(&secrets.to_operator),
            session: secrets.session,
        };
        Ok((keys, node, nonce))
    }
}

/// The operator a first message names, if its signature fits. Nothing has been
/// sent at this point.
///
/// # Errors
/// Why the message is not believed.
pub fn verify_hello(hello: &[u8; HELLO_BYTES]) -> Result<[u8; 32], PeerFault> {
    if field::<2>(hello, 0)? != VERSION.to_le_bytes() {
        return Err(PeerFault::Version);
    }
    let operator = field::<32>(hello, 2)?;
    let body = hello.get(..66).ok_or(PeerFault::Length)?;
    verify(&operator, &[HELLO_LABEL, body], &field::<64>(hello, 66)?)?;
    Ok(operator)
}

/// Answers a verified first message. `seed` must be fresh random bytes.
///
/// # Errors
/// When the operator's ephemeral is no good.
pub fn answer(
    hello: &[u8; HELLO_BYTES],
    identity: &SigningKey,
    boot_nonce: &[u8; 32],
    seed: [u8; 32],
) -> Result<(Keys, [u8; ANSWER_BYTES]), PeerFault> {
    let secret = StaticSecret::from(seed);
    let ephemeral = PublicKey::from(&secret).to_bytes();
    let secrets = derive(&agree(&secret, field(hello, 34)?)?, hello, &ephemeral)?;
    let node = identity.verifying_key().to_bytes();
    let signed = [ANSWER_LABEL, &secrets.session, &node, boot_nonce].concat();
    let signature = Signer::sign(identity, &signed).to_bytes();
    let plain = [&node[..], boot_nonce, &signature].concat();
    let sealed = Sealer::new(&secrets.answer).seal(&plain)?;
    let mut message = [0; ANSWER_BYTES];
    let (head, tail) = message.split_at_mut(32);
    head.copy_from_slice(&ephemeral);
    if sealed.len() != tail.len() {
        return Err(PeerFault::Length);
    }
    tail.copy_from_slice(&sealed);
    let keys = Keys {
        sealer: Sealer::new(&secrets.to_operator),
        opener: Opener::new(&secrets.to_node),
        session: secrets.session,
    };
    Ok((keys, message))
}
