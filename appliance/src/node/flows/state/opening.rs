//! What the node does when its state volume is there: whose state it is, which key the node has,
//! which trust bundle holds.

use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use mgmt_proto::trust::Trust;

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::state::Phase;
use crate::state::changes::Change;
use crate::state::sealing::Sealing;
use crate::trust::persisted::{IDENTITY, LOCKDOWN, TRUST, TRUST_PREFIX, decode_lockdown, link_key, links};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// The store is open: it is ours, new, or another's.
    pub(crate) fn state_opened(&mut self, now_ns: u64) {
        let Some(store) = &self.state.store else { return };
        let key = self.state.sealed.as_ref().map(|sealed| sealed.key.expose()).unwrap_or_default();
        self.state.sealing = Sealing::new(key, store.identity());
        // New, or a cut of power came before its first transaction was durable.
        if store.get(IDENTITY).is_none() {
            let Some(batch) = self.found_state() else {
                return self.fail_state("has no key: the image was not sealed for it", now_ns);
            };
            self.state.phase = Phase::Founding(batch);
            return;
        }
        let identity = self.state.value(IDENTITY).and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok());
        let Some(identity) = identity else {
            let why = "holds the state of another node, or was sealed by another owner";
            return self.fail_state(why, now_ns);
        };
        self.take_identity(SigningKey::from_bytes(&identity), now_ns);
        self.enter_persistent(now_ns);
    }

    /// Puts onto a new volume, in one transaction, who the node is, which bundle holds and
    /// whether it is locked down: none of these is ever absent from then on.
    fn found_state(&mut self) -> Option<u64> {
        let identity = self.keys.identity.key.to_bytes();
        let identity = self.sealed_value(IDENTITY, &identity)?;
        let links = self.link_changes()?;
        if !links.is_empty() {
            self.state.changes.add_many(links);
        }
        let trust = self.trust_change()?;
        let lockdown = self.lockdown_change()?;
        Some(self.state.changes.add(alloc::vec![identity, trust, lockdown]))
    }

    /// The node is who it was before the power went.
    fn take_identity(&mut self, key: SigningKey, now_ns: u64) {
        if key.to_bytes() == self.keys.identity.key.to_bytes() {
            return;
        }
        self.keys.identity.key = key;
        if self.state.is_listening() {
            log::info!("this node has the key it had before; sessions under the other one end");
            let first = &mut self.network.stacks.first;
            self.operators.sessions.end_all(first, &mut self.hypervisor, &mut self.blobs, now_ns);
            self.log_key();
        }
    }

    /// Everything is kept from now on.
    pub(crate) fn enter_persistent(&mut self, now_ns: u64) {
        self.state.phase = Phase::Kept;
        self.state.fresh_identity = false;
        let was_locked = self.trust.is_locked();
        self.take_key_links();
        self.take_trust();
        self.take_lockdown(was_locked);
        self.take_history();
        self.take_kernels();
        self.take_guests();
        self.drop_orphans();
        log::info!(
            "state is kept on {}: trust bundle {}, {} guests start with the node",
            self.state.volume(),
            self.trust.serial(),
            self.guests.autostart.count()
        );
        self.start_guests_of_node(now_ns);
        self.start_listening();
        self.persist_own();
    }

    /// The bundle with the higher serial holds: the one in memory, or the one that was
    /// kept, verified from the sealed root.
    fn take_trust(&mut self) {
        let manifest = &self.settings.manifest;
        let sealed = Trust::sealed(manifest.owner, &manifest.operators, &manifest.name)
            .with_card_grants(&manifest.card_grants);
        let Some((serial, links)) = links(&self.state) else {
            return self.take_no_trust("the state volume does not say which trust bundle holds");
        };
        // An image that was sealed anew may begin with roots that came later.
        let restored = (0..=links.len()).find_map(|first| {
            let mut trust = sealed.clone();
            let rest = links.get(first..).unwrap_or_default();
            let followed = rest.iter().all(|link| trust.follow_kept(link));
            (followed && trust.bundle().serial == serial).then_some(trust)
        });
        match restored {
            Some(trust) if serial > self.trust.serial() => {
                self.trust.persisted_serial = serial;
                self.trust.bundles = trust;
                self.trust.set_doubt(None);
                self.trust.write_bundles(self.operators.audit.memory());
            }
            Some(_) => {
                self.trust.persisted_serial = serial;
                self.trust.set_doubt(None);
                if self.trust.serial() > serial {
                    self.persist_trust();
                }
            }
            None if self.trust.serial() > serial && !self.trust.is_lost() => {
                self.persist_trust();
            }
            None => {
                self.lose_trust("the trust bundle on the state volume does not follow from what was sealed");
            }
        }
    }

    /// The volume names no bundle: the one in memory holds, where there is one.
    fn take_no_trust(&mut self, why: &'static str) {
        if self.trust.serial() > 0 && !self.trust.is_lost() {
            self.persist_trust();
        } else {
            self.lose_trust(why);
        }
    }

    /// A lockdown that was kept, or was asked for since power-on, holds under the bundle
    /// that holds now.
    fn take_lockdown(&mut self, was_locked: bool) {
        let serial = self.trust.serial();
        let kept = self.state.value(LOCKDOWN).and_then(|value| decode_lockdown(&value));
        match kept {
            _ if self.trust.is_lost() => {}
            None => self.lose_trust("the state volume does not say whether the node is locked down"),
            // The node that wrote this knew a later bundle than the one that holds.
            Some((under, _)) if under > serial => {
                self.lose_trust("the trust bundle on the state volume is older than its lockdown record");
            }
            Some(_) => {}
        }
        let is_persistent = kept == Some((serial, true));
        if was_locked && !is_persistent {
            self.persist_lockdown();
        }
        if was_locked || is_persistent {
            self.lock_under(serial);
            log::warn!("still locked down until the roots sign another trust bundle");
        }
    }

    /// Whether the node is locked down, and the bundle that holds.
    fn lockdown_change(&mut self) -> Option<Change> {
        let mut value = self.trust.serial().to_le_bytes().to_vec();
        value.push(u8::from(self.trust.is_locked()));
        self.sealed_value(LOCKDOWN, &value)
    }

    /// Puts onto the volume whether the node is locked down.
    pub(crate) fn persist_lockdown(&mut self) -> Option<u64> {
        let change = self.lockdown_change()?;
        Some(self.state.changes.add(alloc::vec![change]))
    }

    /// The signed bundles that lead to the one that holds.
    fn link_changes(&mut self) -> Option<Vec<Change>> {
        let serial = self.trust.serial();
        let links = self.trust.bundles.links().to_vec();
        links
            .iter()
            .enumerate()
            .map(|(index, link)| self.sealed_value(&link_key(serial, index), link))
            .collect()
    }

    /// Which bundle holds, and how many links lead to it.
    fn trust_change(&mut self) -> Option<Change> {
        let mut head = self.trust.serial().to_le_bytes().to_vec();
        head.push(u8::try_from(self.trust.bundles.links().len()).unwrap_or(u8::MAX));
        self.sealed_value(TRUST, &head)
    }

    /// Puts the bundle that holds onto the volume: links first, then what names them.
    pub(crate) fn persist_trust(&mut self) -> Option<u64> {
        let serial = self.trust.serial();
        let mut changes = self.link_changes()?;
        changes.push(self.trust_change()?);
        // After the bundle: a lockdown record never names a later one than holds.
        changes.push(self.lockdown_change()?);
        let own = alloc::format!("{TRUST_PREFIX}{serial:016x}/");
        let old = self.state.keys(TRUST_PREFIX).into_iter().filter(|key| !key.starts_with(&own));
        changes.extend(old.map(|key| (key, None)));
        let batch = self.state.changes.add_many(changes);
        self.trust.persisting = Some((batch, serial));
        Some(batch)
    }
}
