//! What the node does when its state volume has come: whose state it is, which key
//! the node has, whom it listens to.

use alloc::string::String;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use mgmt_proto::limits::TRUST_LINKS;
use mgmt_proto::trust::Trust;

use super::changes::Change;
use super::{Phase, Sealing, State};
use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::nic::Nic;

pub(super) const IDENTITY: &str = "identity";
/// Serial and number of the bundles that are kept.
const TRUST: &str = "trust";
const TRUST_PREFIX: &str = "trust/";
/// Serial of the bundle under which the node was locked down.
const LOCKDOWN: &str = "lockdown";

fn link_key(serial: u64, index: usize) -> String {
    alloc::format!("{TRUST_PREFIX}{serial:016x}/{index:02}")
}

impl<M> State<M> {
    /// A value, if it is there and ours.
    pub(super) fn value(&self, key: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        self.sealing.as_ref()?.open(key, self.store.as_ref()?.get(key)?)
    }

    /// Keys with a prefix.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let store = self.store.as_ref();
        store.map_or_else(Vec::new, |store| store.with_prefix(prefix).map(|(key, _)| key.into()).collect())
    }

    /// The bundles that are kept, from the sealed root on: serial and links.
    fn links(&self) -> Option<(u64, Vec<Vec<u8>>)> {
        let head = self.value(TRUST)?;
        let (serial, count) = head.split_first_chunk::<8>()?;
        let serial = u64::from_le_bytes(*serial);
        let [count] = *count else { return None };
        let count = usize::from(count);
        let links = (0..count.min(TRUST_LINKS)).map(|index| self.value(&link_key(serial, index)));
        let links: Option<Vec<Vec<u8>>> = links.map(|link| link.map(|link| link.to_vec())).collect();
        Some((serial, links?))
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// The store is open: it is ours, new, or another's.
    pub(super) fn state_opened(&mut self, now_ns: u64) {
        let Some(store) = &self.state.store else { return };
        let key = self.state.sealed.as_ref().map(|sealed| sealed.key.expose()).unwrap_or_default();
        self.state.sealing = Sealing::new(key, store.identity());
        if store.with_prefix("").next().is_none() {
            let identity = self.identity.key.to_bytes();
            let change = self.sealed_value(IDENTITY, &identity);
            let Some(change) = change else {
                return self.fail_state("has no key: the image was not sealed for it", now_ns);
            };
            let batch = self.state.changes.add(alloc::vec![change]);
            self.state.phase = Phase::Founding(batch);
            return;
        }
        let identity = self.state.value(IDENTITY).and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok());
        let Some(identity) = identity else {
            let why = "holds the state of another node, or was sealed by another owner";
            return self.fail_state(why, now_ns);
        };
        self.take_identity(SigningKey::from_bytes(&identity), now_ns);
        self.enter_kept(now_ns);
    }

    /// The node is who it was before the power went.
    fn take_identity(&mut self, key: SigningKey, now_ns: u64) {
        if key.to_bytes() == self.identity.key.to_bytes() {
            return;
        }
        self.identity.key = key;
        if self.state.is_door_open() {
            self.hypervisor.log("node: has the key it had before; sessions under the other one end");
            let first = &mut self.network.stacks.first;
            self.sessions.end_all(first, &mut self.hypervisor, &mut self.blobs, now_ns);
            self.log_key();
        }
    }

    /// Everything is kept from now on.
    pub(super) fn enter_kept(&mut self, now_ns: u64) {
        self.state.phase = Phase::Kept;
        self.state.fresh_identity = false;
        let was_locked = self.is_locked();
        self.take_key_links();
        self.take_trust();
        self.take_lockdown(was_locked);
        self.take_history();
        self.take_kernels();
        self.take_guests();
        self.drop_orphans();
        let text = alloc::format!(
            "node: state is kept on {}: trust bundle {}, {} guests start with the node",
            self.state.volume(),
            self.trust.bundle().serial,
            self.state.guests.count()
        );
        self.hypervisor.log(&text);
        self.start_kept_guests(now_ns);
        self.open_door();
        self.keep_own();
    }

    /// The bundle with the higher serial holds: the one in memory, or the one that was
    /// kept, verified from the sealed root.
    fn take_trust(&mut self) {
        let manifest = &self.settings.manifest;
        let sealed = Trust::sealed(manifest.owner, &manifest.operators, &manifest.name);
        let Some((serial, links)) = self.state.links() else {
            if !self.state.keys(TRUST).is_empty() {
                self.hypervisor.log("node: the trust bundle on the state volume cannot be read");
            }
            if self.trust.bundle().serial > 0 {
                self.keep_trust();
            }
            return;
        };
        // An image that was sealed anew may begin with roots that came later.
        let restored = (0..=links.len()).find_map(|first| {
            let mut trust = sealed.clone();
            let rest = links.get(first..).unwrap_or_default();
            let followed = rest.iter().all(|link| trust.follow_kept(link));
            (followed && trust.bundle().serial == serial).then_some(trust)
        });
        match restored {
            Some(trust) if serial > self.trust.bundle().serial => {
                self.state.trust_serial = serial;
                self.trust = trust;
                self.write_trust_to_memory();
            }
            Some(_) => {
                self.state.trust_serial = serial;
                if self.trust.bundle().serial > serial {
                    self.keep_trust();
                }
            }
            None => {
                let text = alloc::format!(
                    "node: trust bundle {serial} on the state volume does not follow from what was sealed"
                );
                self.hypervisor.log(&text);
                if self.trust.bundle().serial > serial {
                    self.keep_trust();
                }
            }
        }
    }

    /// A lockdown that was kept, or was asked for since power-on, holds under the bundle
    /// that holds now.
    fn take_lockdown(&mut self, was_locked: bool) {
        let serial = self.trust.bundle().serial;
        let kept = self.state.value(LOCKDOWN).and_then(|value| <[u8; 8]>::try_from(value.as_slice()).ok());
        let is_kept = kept.map(u64::from_le_bytes) == Some(serial);
        if was_locked && !is_kept {
            self.keep_lockdown();
        }
        if was_locked || is_kept {
            self.lock_under(serial);
            self.hypervisor.log("node: is locked down until the roots sign another trust bundle");
        }
    }

    /// Puts the lockdown onto the volume.
    pub(in crate::node) fn keep_lockdown(&mut self) -> Option<u64> {
        let serial = self.trust.bundle().serial;
        let change = self.sealed_value(LOCKDOWN, &serial.to_le_bytes())?;
        Some(self.state.changes.add(alloc::vec![change]))
    }

    /// Puts the bundle that holds onto the volume: links first, then what names them.
    pub(in crate::node) fn keep_trust(&mut self) -> Option<u64> {
        let serial = self.trust.bundle().serial;
        let links = self.trust.links().to_vec();
        let mut changes: Vec<Change> = Vec::new();
        for (index, link) in links.iter().enumerate() {
            changes.push(self.sealed_value(&link_key(serial, index), link)?);
        }
        let mut head = serial.to_le_bytes().to_vec();
        head.push(u8::try_from(links.len()).unwrap_or(u8::MAX));
        changes.push(self.sealed_value(TRUST, &head)?);
        let own = alloc::format!("{TRUST_PREFIX}{serial:016x}/");
        let old = self.state.keys(TRUST_PREFIX).into_iter().filter(|key| !key.starts_with(&own));
        changes.extend(old.map(|key| (key, None)));
        let batch = self.state.changes.add_many(changes);
        self.state.trust_under_way = Some((batch, serial));
        Some(batch)
    }
}
