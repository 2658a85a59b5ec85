//! How two ends come to trust each other, and the operator's side of it.
//!
//! ```text
//! 1 node -> operator   versions, E, challenge
//! 2 operator -> node   e, tags, sealed(version, operator key, known node key, name, signature)
//! 3 node -> operator   F, sealed(node key, boot nonce, name, manifest, pass, signature)
//! 4 operator -> node   the first record
//! ```
//!
//! The challenge makes recordings worthless, the tag tells whoever knows the node from
//! strangers for the price of a hash, the box hides who asks, and the fourth step
//! shows that the operator is there. Both signatures cover the first message, so nobody
//! chooses the version for them. The keys die with E, e and F (RFC 7748 X25519, RFC 8032
//! Ed25519, RFC 5869 HKDF, RFC 2104 HMAC, RFC 8439 ChaCha20-Poly1305).

pub use crate::fault::PeerFault;
use crate::limits::NAME_BYTES;
use crate::record::{Opener, Sealer};
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Version of the protocol.
pub const VERSION: u16 = 1;
/// Bytes of message 1. It has the same length in all versions.
pub const GREETING_BYTES: usize = 2 + 2 + 32 + 32;
/// Bytes of message 2.
pub const HELLO_BYTES: usize = HELLO_HEAD_BYTES + HELLO_PLAIN_BYTES + 16;
/// Bytes of message 3.
pub const ANSWER_BYTES: usize = 32 + ANSWER_PLAIN_BYTES + 16;
/// A key nobody has: the operator knows none of the node.
pub const NO_KEY: [u8; 32] = [0; 32];

/// Bytes of a name: its length, then the name, then zeros.
const NAME_FIELD_BYTES: usize = 1 + NAME_BYTES;
/// e and both tags.
pub(crate) const HELLO_HEAD_BYTES: usize = 32 + 16 + 16;
pub(crate) const HELLO_PLAIN_BYTES: usize = 2 + 32 + 32 + NAME_FIELD_BYTES + 64;
pub(crate) const ANSWER_PLAIN_BYTES: usize = 32 + 32 + NAME_FIELD_BYTES + 32 + 32 + 64;

const HELLO_LABEL: &[u8] = b"redoubt hello 1";
const ANSWER_LABEL: &[u8] = b"redoubt answer 1";
const KNOCK_LABEL: &[u8] = b"redoubt knock 1";
const PERSONAL_LABEL: &[u8] = b"redoubt personal 1";
const FIRST_KEY_LABEL: &[u8] = b"redoubt k1 1";
const KEYS_LABEL: &[u8] = b"redoubt keys 1";

/// What binds everything later to this handshake.
pub type SessionId = [u8; 32];

/// An established session's keys. They are wiped when they are dropped.
pub struct Keys {
    /// Seals what this end sends.
    pub sealer: Sealer,
    /// Opens what the other end sends.
    pub opener: Opener,
    /// The session's identity.
    pub session: SessionId,
}

/// What both ends derive in the end.
pub(crate) struct Secrets {
    pub(crate) answer: Zeroizing<[u8; 32]>,
    pub(crate) to_node: Zeroizing<[u8; 32]>,
    pub(crate) to_operator: Zeroizing<[u8; 32]>,
    pub(crate) session: SessionId,
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn expand(hkdf: &Hkdf<Sha256>, label: &[u8]) -> Result<Zeroizing<[u8; 32]>, PeerFault> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf.expand(label, &mut *key).map_err(|_| PeerFault::Key)?;
    Ok(key)
}

/// The key of message 2's box. `hello` may be longer than the head that counts.
pub(crate) fn first_key(
    greeting: &[u8; GREETING_BYTES],
    hello: &[u8; HELLO_BYTES],
    known: &[u8; 32],
    shared: &[u8; 32],
) -> Result<Zeroizing<[u8; 32]>, PeerFault> {
    let head = hello.get(..HELLO_HEAD_BYTES).ok_or(PeerFault::Length)?;
    let salt = digest(&[FIRST_KEY_LABEL, greeting, head, known]);
    expand(&Hkdf::<Sha256>::new(Some(&salt), shared), b"hello")
}

/// The keys of everything after message 2.
pub(crate) fn derive(
    greeting: &[u8; GREETING_BYTES],
    hello: &[u8; HELLO_BYTES],
    fresh: &[u8; 32],
    shared: [&[u8; 32]; 2],
) -> Result<Secrets, PeerFault> {
    let salt = digest(&[KEYS_LABEL, greeting, hello, fresh]);
    let input = Zeroizing::new(shared.map(<[u8; 32]>::as_slice).concat());
    let hkdf = Hkdf::<Sha256>::new(Some(&salt), &input);
    Ok(Secrets {
        answer: expand(&hkdf, b"answer")?,
        to_node: expand(&hkdf, b"to node")?,
        to_operator: expand(&hkdf, b"to operator")?,
        session: *expand(&hkdf, b"session")?,
    })
}

pub(crate) fn agree(secret: &StaticSecret, public: [u8; 32]) -> Result<Zeroizing<[u8; 32]>, PeerFault> {
    let shared = secret.diffie_hellman(&PublicKey::from(public));
    // A point of small order gives a secret anybody knows (RFC 7748, 6.1).
    if !shared.was_contributory() {
        return Err(PeerFault::Key);
    }
    Ok(Zeroizing::new(shared.to_bytes()))
}

pub(crate) fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), PeerFault> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| PeerFault::Key)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| PeerFault::Signature)
}

/// A field of a message at an offset.
pub(crate) fn field<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], PeerFault> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or(PeerFault::Length)
}

/// Fields of a message one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], PeerFault> {
        let (field, rest) = self.0.split_first_chunk().ok_or(PeerFault::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// A name as a field of a message.
pub(crate) fn name_field(name: &str) -> Result<[u8; NAME_FIELD_BYTES], PeerFault> {
    let mut field = [0; NAME_FIELD_BYTES];
    let (length, rest) = field.split_first_mut().ok_or(PeerFault::Length)?;
    *length = u8::try_from(name.len()).map_err(|_| PeerFault::Length)?;
    rest.get_mut(..name.len()).ok_or(PeerFault::Length)?.copy_from_slice(name.as_bytes());
    Ok(field)
}

/// The name in a field, whose rest must be zeros.
fn name_of(field: &[u8; NAME_FIELD_BYTES]) -> Result<&str, PeerFault> {
    let (length, rest) = field.split_first().ok_or(PeerFault::Length)?;
    let (name, zeros) = rest.split_at_checked(usize::from(*length)).ok_or(PeerFault::Length)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(PeerFault::Unexpected);
    }
    core::str::from_utf8(name).map_err(|_| PeerFault::Unexpected)
}

/// Message 1.
pub(crate) fn greeting_of(ephemeral: &[u8; 32], challenge: &[u8; 32]) -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    let version = VERSION.to_le_bytes();
    let parts = [&version[..], &version, ephemeral, challenge].concat();
    // Both are as long by their types.
    greeting.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
    greeting
}

/// What both tags are made of.
pub(crate) fn knock_digest(greeting: &[u8; GREETING_BYTES], ephemeral: &[u8; 32]) -> [u8; 32] {
    digest(&[greeting, ephemeral])
}

/// By which a node tells who knows one of its keys.
pub(crate) fn knock_key(known: &[u8; 32]) -> Hmac<Sha256> {
    keyed(&digest(&[KNOCK_LABEL, known]))
}

/// By which a node tells operators apart whom it gave a pass.
pub(crate) fn personal_key(known: &[u8; 32], pass: &[u8; 32]) -> Hmac<Sha256> {
    keyed(&digest(&[PERSONAL_LABEL, known, pass]))
}

pub(crate) fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    // A key of any length is one (RFC 2104, 2): this one is never refused.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()))
}

/// The first half of a tag.
fn tag(key: Hmac<Sha256>, knock: &[u8; 32]) -> Result<[u8; 16], PeerFault> {
    field(&key.chain_update(knock).finalize().into_bytes(), 0)
}

pub(crate) fn is_tag(key: &Hmac<Sha256>, knock: &[u8; 32], tag: &[u8; 16]) -> bool {
    key.clone().chain_update(knock).verify_truncated_left(tag).is_ok()
}

/// What an operator signs: `plain` is message 2's box up to the signature.
pub(crate) fn hello_signed(
    greeting: &[u8; GREETING_BYTES],
    head: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, PeerFault> {
    let head = head.get(..HELLO_HEAD_BYTES).ok_or(PeerFault::Length)?;
    let plain = plain.get(..HELLO_PLAIN_BYTES - 64).ok_or(PeerFault::Length)?;
    Ok([HELLO_LABEL, &digest(&[greeting, head]), plain].concat())
}

/// What a node signs: `plain` is message 3's box up to the signature.
pub(crate) fn answer_signed(
    (greeting, hello, fresh): (&[u8; GREETING_BYTES], &[u8; HELLO_BYTES], &[u8; 32]),
    session: &SessionId,
    operator: &[u8; 32],
    plain: &[u8],
) -> Result<Vec<u8>, PeerFault> {
    let plain = plain.get(..ANSWER_PLAIN_BYTES - 64).ok_or(PeerFault::Length)?;
    Ok([ANSWER_LABEL, &digest(&[greeting, hello, fresh]), session, operator, plain].concat())
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

/// The node that an operator means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// Its key, or one it had before.
    pub key: Option<[u8; 32]>,
    /// What the node with this key gave the operator last time.
    pub pass: Option<[u8; 32]>,
    /// Its name; empty if that does not matter.
    pub name: String,
}

/// What a node has proved of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Its key.
    pub key: [u8; 32],
    /// The nonce of its boot.
    pub boot_nonce: [u8; 32],
    /// Its name.
    pub name: String,
    /// SHA-256 of the settings that its owner sealed.
    pub manifest: [u8; 32],
    /// By which it knows this operator before anything is opened; to be kept as a secret.
    pub pass: [u8; 32],
}

/// The operator's side, waiting for the node's answer.
pub struct Initiator {
    greeting: [u8; GREETING_BYTES],
    hello: [u8; HELLO_BYTES],
    /// DH(e, E).
    shared: Zeroizing<[u8; 32]>,
    secret: StaticSecret,
    operator: [u8; 32],
}

impl Initiator {
    /// Makes message 2 of message 1. `seed` must be fresh random bytes.
    ///
    /// # Errors
    /// What is wrong with message 1, or the key cannot sign.
    pub fn new(
        key: &dyn OperatorKey,
        meant: &Meant,
        greeting: &[u8; GREETING_BYTES],
        seed: [u8; 32],
    ) -> Result<Self, PeerFault> {
        let (first, last) = (field(greeting, 0)?, field(greeting, 2)?);
        if !(u16::from_le_bytes(first)..=u16::from_le_bytes(last)).contains(&VERSION) {
            return Err(PeerFault::Version);
        }
        let secret = StaticSecret::from(seed);
        let ephemeral = PublicKey::from(&secret).to_bytes();
        let shared = agree(&secret, field(greeting, 4)?)?;
        let known = meant.key.unwrap_or(NO_KEY);
        let pass = meant.key.and(meant.pass).unwrap_or_default();
        let knock = knock_digest(greeting, &ephemeral);
        let tags = [tag(knock_key(&known), &knock)?, tag(personal_key(&known, &pass), &knock)?].concat();
        let mut hello = [0; HELLO_BYTES];
        let (head, sealed) = hello.split_at_mut(HELLO_HEAD_BYTES);
        head.copy_from_slice(&[&ephemeral[..], &tags].concat());
        let operator = key.public();
        let plain =
            [&VERSION.to_le_bytes()[..], &operator, &known, &name_field(&meant.name)?, &[0; 64]].concat();
        let signature = key.sign(&hello_signed(greeting, head, &plain)?)?;
        let plain = [plain.get(..HELLO_PLAIN_BYTES - 64).unwrap_or_default(), &signature].concat();
        let mut made = [0; HELLO_BYTES];
        made.get_mut(..HELLO_HEAD_BYTES).ok_or(PeerFault::Length)?.copy_from_slice(head);
        let first_key = first_key(greeting, &made, &known, &shared)?;
        sealed.copy_from_slice(&Sealer::new(&first_key).seal(&plain)?);
        Ok(Self { greeting: *greeting, hello, shared, secret, operator })
    }

    /// Message 2.
    #[must_use]
    pub const fn hello(&self) -> &[u8; HELLO_BYTES] {
        &self.hello
    }

    /// Takes message 3: keys, and what the node has proved. The caller decides whether
    /// that is the node it wanted.
    ///
    /// # Errors
    /// Why the answer is not believed.
    pub fn finish(self, answer: &[u8; ANSWER_BYTES]) -> Result<(Keys, Proved), PeerFault> {
        let fresh = field::<32>(answer, 0)?;
        let late = agree(&self.secret, fresh)?;
        let secrets = derive(&self.greeting, &self.hello, &fresh, [&self.shared, &late])?;
        let sealed = answer.get(32..).ok_or(PeerFault::Length)?;
        let plain = Opener::new(&secrets.answer).open(sealed)?;
        let mut fields = Fields(&plain);
        let (key, boot_nonce) = (fields.take()?, fields.take()?);
        let name = fields.take()?;
        let (manifest, pass, signature) = (fields.take()?, fields.take()?, fields.take()?);
        let transcript = (&self.greeting, &self.hello, &fresh);
        verify(&key, &answer_signed(transcript, &secrets.session, &self.operator, &plain)?, &signature)?;
        let keys = Keys {
            sealer: Sealer::new(&secrets.to_node),
            opener: Opener::new(&secrets.to_operator),
            session: secrets.session,
        };
        Ok((keys, Proved { key, boot_nonce, name: name_of(&name)?.into(), manifest, pass }))
    }
}
