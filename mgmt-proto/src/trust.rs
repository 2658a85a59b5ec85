//! Who may do what.

use crate::bundle::{self, Bundle, Grant, Lacks, Refused, Scope};
use crate::limits::{OPERATORS, TRUST_LINKS};
pub use crate::role::Role;
use crate::verb::Request;
use crate::vif::{CardGrant, Privileges};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Someone a node listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Public Ed25519 key.
    pub key: [u8; 32],
    /// What it may do.
    pub role: Role,
}

/// Everyone a node listens to: what was sealed, or the trust bundle that followed.
#[derive(Clone, Debug)]
pub struct Trust {
    bundle: Bundle,
    /// Signed bundles from the sealed root to the one that holds: those that changed
    /// the roots, and the last.
    links: Vec<Vec<u8>>,
    last_changed_roots: bool,
    node: String,
    now_s: u64,
}

impl Trust {
    /// What was sealed for the node called `node`: the owner's key is the one root, and
    /// the operators may touch everything, for ever. At most [`OPERATORS`]; the rest is
    /// ignored.
    #[must_use]
    pub fn sealed(owner: [u8; 32], operators: &[Operator], node: &str) -> Self {
        let grant = |operator: &Operator| Grant {
            key: operator.key,
            role: operator.role,
            nodes: Scope::All,
            guests: Scope::All,
            not_before_s: 0,
            not_after_s: 0,
            name: "sealed".into(),
        };
        let bundle = Bundle {
            version: bundle::VERSION,
            serial: 0,
            issued_s: 0,
            roots: alloc::vec![owner],
            threshold: 1,
            grants: operators.iter().take(OPERATORS).map(grant).collect(),
            revoked: Vec::new(),
            card_grants: Vec::new(),
        };
        Self { bundle, links: Vec::new(), last_changed_roots: false, node: node.into(), now_s: 0 }
    }

    /// The same with what was sealed for guests' network cards.
    #[must_use]
    pub fn with_card_grants(mut self, grants: &[CardGrant]) -> Self {
        self.bundle.card_grants = grants.to_vec();
        self
    }

    /// Tells the time, in seconds since 1970.
    pub const fn set_time(&mut self, now_s: u64) {
        self.now_s = now_s;
    }

    /// The role of a key, if it is trusted now.
    #[must_use]
    pub fn role(&self, key: &[u8; 32]) -> Option<Role> {
        self.bundle.grant(key, &self.node, self.now_s).ok().map(|grant| grant.role)
    }

    /// For how many more seconds a key is trusted; none where no end is set, or it is not now.
    #[must_use]
    pub fn seconds_left(&self, key: &[u8; 32]) -> Option<u64> {
        let grant = self.bundle.grant(key, &self.node, self.now_s).ok()?;
        (grant.not_after_s != 0).then(|| grant.not_after_s.saturating_sub(self.now_s))
    }

    /// Whether a key may ask for something.
    ///
    /// # Errors
    /// What it lacks; a key that is not trusted now lacks the role.
    pub fn permits(&self, key: &[u8; 32], request: &Request) -> Result<(), Lacks> {
        let needed = request.verb().role;
        let grant = self.bundle.grant(key, &self.node, self.now_s).map_err(|_| Lacks::Role(needed))?;
        grant.permits(needed, request.guest())
    }

    /// Whether a key may do anything with a guest.
    #[must_use]
    pub fn covers_guest(&self, key: &[u8; 32], guest: &str) -> bool {
        self.bundle.grant(key, &self.node, self.now_s).is_ok_and(|grant| grant.guests.covers(guest))
    }

    /// What a guest's network cards may beyond plain ones.
    pub fn privileges<'a>(&'a self, guest: &'a str) -> impl Iterator<Item = &'a Privileges> + Clone {
        let here = |grant: &&CardGrant| grant.nodes.covers(&self.node) && grant.guests.covers(guest);
        self.bundle.card_grants.iter().filter(here).map(|grant| &grant.privileges)
    }

    /// What holds. Serial 0 is what was sealed.
    #[must_use]
    pub const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Puts a signed bundle in the place of what holds.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn update(&mut self, signed: &[u8]) -> Result<(), Refused> {
        let next = self.bundle.successor(signed, &self.node, self.now_s)?;
        self.follow(next, signed)
    }

    fn follow(&mut self, next: Bundle, signed: &[u8]) -> Result<(), Refused> {
        // The last one is needed to verify this one only if it changed the roots.
        let replaces = !self.links.is_empty() && !self.last_changed_roots;
        if !replaces && self.links.len() >= TRUST_LINKS {
            return Err(Refused::Rotations);
        }
        if replaces {
            self.links.pop();
        }
        self.links.push(signed.to_vec());
        self.last_changed_roots = next.roots != self.bundle.roots || next.threshold != self.bundle.threshold;
        self.bundle = next;
        Ok(())
    }

    /// The signed bundles from the sealed root to the one that holds.
    #[must_use]
    pub fn links(&self) -> &[Vec<u8>] {
        &self.links
    }

    /// What must be kept to come back to what holds: see [`Self::restore`].
    #[must_use]
    pub fn kept(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for link in &self.links {
            bytes.extend_from_slice(&u32::try_from(link.len()).unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(link);
        }
        bytes
    }

    /// Goes one step to what was kept, whoever it locks out by now: it held. False if
    /// it does not follow; nothing has changed then.
    pub fn follow_kept(&mut self, signed: &[u8]) -> bool {
        let next = self.bundle.signed_successor(signed);
        next.is_ok_and(|next| self.follow(next, signed).is_ok())
    }

    /// Goes from what was sealed to what was kept, verifying each step; false if that
    /// is not possible, and then what was sealed holds.
    pub fn restore(&mut self, mut kept: &[u8]) -> bool {
        let mut restored = self.clone();
        while let Some((length, rest)) = kept.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let Some((signed, rest)) = rest.split_at_checked(length) else { return false };
            if !restored.follow_kept(signed) {
                return false;
            }
            kept = rest;
        }
        if kept.is_empty() {
            *self = restored;
        }
        kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Operator, Role, Trust};
    use crate::bundle::{Bundle, Refused};
    use crate::limits::TRUST_LINKS;
    use alloc::vec::Vec;
    use ed25519_dalek::SigningKey;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(number: u8) -> [u8; 32] {
        key(number).verifying_key().to_bytes()
    }

    /// Root 1; operator 10 administers, 11 looks.
    fn sealed() -> Trust {
        let operator = |number, role| Operator { key: public(number), role };
        Trust::sealed(public(1), &[operator(10, Role::Admin), operator(11, Role::Viewer)], "node")
    }

    /// What follows `trust` with these roots, signed by `signers`.
    fn next(trust: &Trust, roots: &[u8], signers: &[u8]) -> Vec<u8> {
        let bundle = Bundle {
            serial: trust.bundle().serial + 1,
            roots: roots.iter().map(|root| public(*root)).collect(),
            grants: trust.bundle().grants.iter().take(1).cloned().collect(),
            ..trust.bundle().clone()
        };
        let keys: Vec<SigningKey> = signers.iter().map(|number| key(*number)).collect();
        bundle.sign(&keys.iter().collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn sealed_operators_hold_until_a_bundle_comes() {
        let mut trust = sealed();
        assert_eq!(trust.role(&public(11)), Some(Role::Viewer));
        assert!(trust.covers_guest(&public(11), "web1") && !trust.covers_guest(&public(12), "web1"));
        let signed = next(&trust, &[1], &[1]);
        assert_eq!(trust.update(&signed), Ok(()));
        assert_eq!((trust.role(&public(10)), trust.role(&public(11))), (Some(Role::Admin), None));
        assert_eq!(trust.update(&signed), Err(Refused::Stale { serial: 1 }));
    }

    #[test]
    fn what_holds_is_found_again_from_what_was_sealed() {
        let mut trust = sealed();
        // Roots: 1, 2, 2, 3, 3. Needed to come back: to 2, to 3, the last.
        for (roots, signers) in [(2, &[1, 2][..]), (2, &[2]), (3, &[2, 3]), (3, &[3]), (3, &[3])] {
            let signed = next(&trust, &[roots], signers);
            assert_eq!(trust.update(&signed), Ok(()));
            let mut again = sealed();
            assert!(again.restore(&trust.kept()));
            assert_eq!(again.bundle(), trust.bundle());
            assert_eq!(again.kept(), trust.kept());
        }
        assert_eq!(trust.links.len(), 3);
    }

    #[test]
    fn what_was_kept_is_believed_only_if_it_follows() {
        let mut trust = sealed();
        for (roots, signers) in [(2, &[1, 2][..]), (3, &[2, 3])] {
            let signed = next(&trust, &[roots], signers);
            trust.update(&signed).unwrap();
        }
        let kept = trust.kept();
        for at in 0..kept.len() {
            let mut altered = kept.clone();
            altered[at] ^= 1;
            let mut again = sealed();
            assert!(!again.restore(&altered), "byte {at}");
            assert_eq!(again.bundle().serial, 0);
        }
        let length = u32::from_le_bytes(kept[..4].try_into().unwrap()) as usize;
        assert!(!sealed().restore(&kept[4 + length..]), "without the first link");
        assert!(!sealed().restore(&kept[..kept.len() - 1]));
        assert!(sealed().restore(&[]));
    }

    #[test]
    fn the_roots_cannot_change_without_end() {
        let mut trust = sealed();
        let links = u8::try_from(TRUST_LINKS).unwrap();
        for root in 1..=links {
            let signed = next(&trust, &[root + 1], &[root, root + 1]);
            assert_eq!(trust.update(&signed), Ok(()));
        }
        let signed = next(&trust, &[links + 2], &[links + 1, links + 2]);
        assert_eq!(trust.update(&signed), Err(Refused::Rotations));
        let mut again = sealed();
        assert!(again.restore(&trust.kept()));
    }
}
