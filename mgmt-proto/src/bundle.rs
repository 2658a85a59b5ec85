//! Trust bundles: whom the owners let command their nodes.
//!
//! Owners hold root keys, `threshold` of which must sign. A bundle replaces the one
//! before it whole: operators with roles, what they may touch and when, keys that are
//! revoked, and the roots of the next bundle. It is signed by enough of the roots that
//! hold now, and if it changes them also by enough of the new ones, so that nobody can
//! hand their nodes to keys that do not exist. Serials only rise.
//!
//! ```text
//! signed    count 1 | (root 32 | signature 64) * count | bundle
//! signature over `redoubt trust 1` | SHA-256(bundle)
//! ```
//!
//! Time is the later of the node's clock and the time the bundle was issued: a node
//! whose clock stands at 1970 does not take an expired key for a valid one.

use crate::codec;
use crate::limits::{BUNDLE_BYTES, OPERATORS, REVOKED, ROOTS};
use crate::role::Role;
pub use crate::scope::Scope;
use crate::scope::is_name;
use crate::vif::{self, CardGrant};
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of this structure.
pub const VERSION: u16 = 2;
const LABEL: &[u8] = b"redoubt trust 1";
const SIGNATURE_BYTES: usize = 32 + 64;

/// A root key and what it signed.
pub type Signed = ([u8; 32], [u8; 64]);

/// One operator's key and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Public Ed25519 key.
    pub key: [u8; 32],
    /// What it may do.
    pub role: Role,
    /// On which nodes.
    pub nodes: Scope,
    /// With which guests.
    pub guests: Scope,
    /// From this time on, in seconds since 1970.
    pub not_before_s: u64,
    /// Until this time, in seconds since 1970; 0 is for ever.
    pub not_after_s: u64,
    /// Whose it is, for people.
    pub name: String,
}

/// What a grant has not, for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// This role, or a higher one.
    Role(Role),
    /// The guest.
    Guest,
}

impl Grant {
    /// Whether it suffices for what needs a role, and touches a guest or none.
    ///
    /// # Errors
    /// What it lacks; the role comes first.
    pub fn permits(&self, needed: Role, guest: Option<&str>) -> Result<(), Lacks> {
        match guest {
            _ if self.role < needed => Err(Lacks::Role(needed)),
            Some(guest) if !self.guests.covers(guest) => Err(Lacks::Guest),
            _ => Ok(()),
        }
    }
}

/// Why a key may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is unknown.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
    /// It is for other nodes.
    OtherNode,
}

/// What owners sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// [`VERSION`].
    pub version: u16,
    /// Rises with each bundle.
    pub serial: u64,
    /// When it was made, in seconds since 1970.
    pub issued_s: u64,
    /// Who signs the next one.
    pub roots: Vec<[u8; 32]>,
    /// How many of them must.
    pub threshold: u8,
    /// Who may command. An operator may have several keys, of which an old one ends
    /// after a new one has begun.
    pub grants: Vec<Grant>,
    /// Keys that may nothing, whatever else is said of them.
    pub revoked: Vec<[u8; 32]>,
    /// What guests' network cards may beyond plain ones.
    pub card_grants: Vec<CardGrant>,
}

/// Why a bundle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Longer than a bundle may be, or cut off.
    Length,
    /// Not enough of the roots that hold now have signed.
    Unsigned {
        /// Roots that have.
        have: u8,
        /// Roots that must.
        need: u8,
    },
    /// Not a bundle.
    Encoding,
    /// A bundle of another version.
    Version,
    /// Not newer than what holds now.
    Stale {
        /// The serial that holds now.
        serial: u64,
    },
    /// More of something than there may be, a name that is none, a key that is none or
    /// named twice, or a threshold that cannot be met.
    Unsound,
    /// Not enough of the new roots have signed.
    NewRoots {
        /// Roots that have.
        have: u8,
        /// Roots that must.
        need: u8,
    },
    /// No administrator would be left who may command this node now.
    LocksOut,
    /// The roots have changed too often since the image was sealed.
    Rotations,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length => formatter.write_str("has a length that no bundle has"),
            Self::Unsigned { have, need } => {
                write!(formatter, "is signed by {have} of the {need} root keys that must sign")
            }
            Self::Encoding => formatter.write_str("is not a trust bundle"),
            Self::Version => formatter.write_str("is a trust bundle of another version"),
            Self::Stale { serial } => write!(formatter, "is not newer than serial {serial}, which holds"),
            Self::Unsound => formatter.write_str("contradicts itself"),
            Self::NewRoots { have, need } => {
                write!(formatter, "is signed by {have} of the {need} new root keys that must sign")
            }
            Self::LocksOut => formatter.write_str("would leave this node without an administrator"),
            Self::Rotations => formatter.write_str("changes the roots once more than an image can follow"),
        }
    }
}

/// A key that can have made a signature: not one that accepts anybody's.
fn verifying(key: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(key).ok().filter(|key| !key.is_weak())
}

fn are_distinct(keys: &[[u8; 32]]) -> bool {
    keys.iter().enumerate().all(|(index, key)| !keys.iter().take(index).any(|other| other == key))
}

/// What a root key signs for a bundle's bytes.
#[must_use]
pub fn message(bundle: &[u8]) -> Vec<u8> {
    let digest: [u8; 32] = Sha256::digest(bundle).into();
    [LABEL, &digest].concat()
}

/// A bundle's bytes with signatures, as it travels and is kept.
///
/// # Errors
/// [`Refused::Length`] with too many signatures or bytes.
pub fn assemble(bundle: &[u8], signatures: &[Signed]) -> Result<Vec<u8>, Refused> {
    let count = u8::try_from(signatures.len()).map_err(|_| Refused::Length)?;
    let mut bytes = alloc::vec![count];
    for (root, signature) in signatures {
        bytes.extend_from_slice(root);
        bytes.extend_from_slice(signature);
    }
    bytes.extend_from_slice(bundle);
    if signatures.len() > 2 * ROOTS || bytes.len() > BUNDLE_BYTES {
        return Err(Refused::Length);
    }
    Ok(bytes)
}

/// The bundle's own bytes, and its signatures, none of which is verified.
///
/// # Errors
/// [`Refused::Length`].
pub fn split(signed: &[u8]) -> Result<(&[u8], Vec<Signed>), Refused> {
    let (count, rest) = signed.split_first().ok_or(Refused::Length)?;
    let count = usize::from(*count);
    if signed.len() > BUNDLE_BYTES || count > 2 * ROOTS {
        return Err(Refused::Length);
    }
    let (signatures, bundle) = rest.split_at_checked(count * SIGNATURE_BYTES).ok_or(Refused::Length)?;
    let signatures = signatures
        .chunks_exact(SIGNATURE_BYTES)
        .filter_map(|both| {
            let (root, signature) = both.split_first_chunk::<32>()?;
            Some((*root, signature.try_into().ok()?))
        })
        .collect();
    Ok((bundle, signatures))
}

/// Whether a root has signed.
#[must_use]
pub fn has_signed(root: &[u8; 32], bundle: &[u8], signatures: &[Signed]) -> bool {
    let message = message(bundle);
    signatures.iter().filter(|(key, _)| key == root).any(|(key, signature)| {
        verifying(key)
            .is_some_and(|key| key.verify_strict(&message, &Signature::from_bytes(signature)).is_ok())
    })
}

/// How many of `roots` have signed.
fn signers(roots: &[[u8; 32]], bundle: &[u8], signatures: &[Signed]) -> u8 {
    let signers = roots.iter().filter(|root| has_signed(root, bundle, signatures));
    u8::try_from(signers.count()).unwrap_or(u8::MAX)
}

impl Bundle {
    /// The bytes that are signed; None when there is more than a bundle may hold.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let room = BUNDLE_BYTES - 1 - 2 * ROOTS * SIGNATURE_BYTES;
        postcard::to_allocvec(self).ok().filter(|bytes| bytes.len() <= room && self.is_sound())
    }

    /// The bundle signed by these root keys, where its maker holds them all; None
    /// when there is more than it may hold.
    #[must_use]
    pub fn sign(&self, roots: &[&SigningKey]) -> Option<Vec<u8>> {
        let bytes = self.encode()?;
        let message = message(&bytes);
        let sign = |root: &&SigningKey| (root.verifying_key().to_bytes(), root.sign(&message).to_bytes());
        assemble(&bytes, &roots.iter().map(sign).collect::<Vec<_>>()).ok()
    }

    /// Reads a bundle, whoever signed it.
    ///
    /// # Errors
    /// [`Refused::Version`], [`Refused::Encoding`] or [`Refused::Unsound`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Refused> {
        let bundle = codec::whole::<Self>(bytes).ok_or(Refused::Encoding)?;
        if bundle.version != VERSION {
            return Err(Refused::Version);
        }
        if bundle.is_sound() { Ok(bundle) } else { Err(Refused::Unsound) }
    }

    fn is_sound(&self) -> bool {
        let grants: Vec<[u8; 32]> = self.grants.iter().map(|grant| grant.key).collect();
        let threshold = usize::from(self.threshold);
        (1..=ROOTS).contains(&self.roots.len())
            && (1..=self.roots.len()).contains(&threshold)
            && self.grants.len() <= OPERATORS
            && self.revoked.len() <= REVOKED
            && vif::are_sound(&self.card_grants)
            && are_distinct(&self.roots)
            && are_distinct(&grants)
            && self.roots.iter().chain(&grants).all(|key| verifying(key).is_some())
            && self
                .grants
                .iter()
                .all(|grant| is_name(&grant.name) && grant.nodes.is_sound() && grant.guests.is_sound())
    }

    /// The time that counts, where a clock says `now_s`.
    fn time_s(&self, now_s: u64) -> u64 {
        now_s.max(self.issued_s)
    }

    /// What a key may do on the node called `node` when its clock says `now_s`.
    ///
    /// # Errors
    /// [`Denied`], which is for the log and not for the holder of the key.
    pub fn grant(&self, key: &[u8; 32], node: &str, now_s: u64) -> Result<&Grant, Denied> {
        let grant = self.grants.iter().find(|grant| grant.key == *key).ok_or(Denied::Unknown)?;
        let time_s = self.time_s(now_s);
        if self.revoked.contains(key) {
            Err(Denied::Revoked)
        } else if time_s < grant.not_before_s {
            Err(Denied::NotYet)
        } else if grant.not_after_s != 0 && time_s >= grant.not_after_s {
            Err(Denied::Expired)
        } else if !grant.nodes.covers(node) {
            Err(Denied::OtherNode)
        } else {
            Ok(grant)
        }
    }

    /// The bundle that follows this one, from its signed bytes: verified before it is
    /// decoded. Whom it leaves on which node is not looked at.
    ///
    /// # Errors
    /// [`Refused`]; this one holds on.
    pub fn signed_successor(&self, signed: &[u8]) -> Result<Self, Refused> {
        let (bytes, signatures) = split(signed)?;
        let have = signers(&self.roots, bytes, &signatures);
        if have < self.threshold {
            return Err(Refused::Unsigned { have, need: self.threshold });
        }
        let next = Self::decode(bytes)?;
        if next.serial <= self.serial || next.issued_s < self.issued_s {
            return Err(Refused::Stale { serial: self.serial });
        }
        let have = signers(&next.roots, bytes, &signatures);
        if have < next.threshold {
            return Err(Refused::NewRoots { have, need: next.threshold });
        }
        Ok(next)
    }

    /// The bundle that follows this one on the node called `node`, which it leaves an
    /// administrator.
    ///
    /// # Errors
    /// [`Refused`]; this one holds on.
    pub fn successor(&self, signed: &[u8], node: &str, now_s: u64) -> Result<Self, Refused> {
        let next = self.signed_successor(signed)?;
        let has_admin = next.grants.iter().any(|grant| {
            grant.role == Role::Admin
                && grant.guests == Scope::All
                && next.grant(&grant.key, node, now_s).is_ok()
        });
        if has_admin { Ok(next) } else { Err(Refused::LocksOut) }
    }
}

#[cfg(test)]
mod tests;
