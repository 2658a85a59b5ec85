//! Another key for the node, while it runs.
//!
//! The new key and the old one's signature of it become durable together; only then is
//! the node who it will be. Sessions go on under the key they began with.

use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use mgmt_proto::limits::NODE_KEYS;
use mgmt_proto::node_key::{self, KeyLink};
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::Reply;

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::trust::persisted::IDENTITY;
use crate::trust::rotation::{LINKS, Rotation};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins to give the node another key.
    pub(crate) fn rotate_key(&mut self, asker: &Asker, now_ns: u64) -> Result<(), Refusal> {
        let name = self.settings.manifest.name.clone();
        self.check_persistence(&name)?;
        if self.keys.rotation.is_some() {
            return Err(Refusal::of(name, Reason::KeyRotating));
        }
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        self.hypervisor.random(&mut *seed);
        let key = SigningKey::from_bytes(&seed);
        let link = KeyLink::sign(&self.keys.identity.key, key.verifying_key().to_bytes());
        let mut links = self.keys.links.clone();
        links.push(link);
        let first = links.len().saturating_sub(NODE_KEYS);
        links.drain(..first);
        let values = [(IDENTITY, seed.to_vec()), (LINKS, node_key::encode(&links))];
        let changes: Option<Vec<_>> =
            values.iter().map(|(name, value)| self.sealed_value(name, value)).collect();
        // One transaction: there is never a new key without the link to it.
        let Some(changes) = changes else {
            return Err(Refusal::of(name, Reason::NotSealed));
        };
        let batch = self.state.changes.add(changes);
        self.keys.rotation = Some(Rotation { batch, key, links });
        let promise = self.state.changes.promise(Ok(Reply::Done), now_ns);
        self.state.changes.holds_later(promise);
        self.state.changes.settle(promise, batch);
        self.operators.begin_work(asker, Work::Kept(promise), now_ns);
        Ok(())
    }

    /// The node has the new key once that is durable, before anybody is told.
    pub(crate) fn poll_rotation(&mut self) {
        let durable = |rotation: &mut Rotation| self.state.changes.is_confirmed(rotation.batch);
        if let Some(Rotation { key, links, .. }) = self.keys.rotation.take_if(durable) {
            self.keys.identity.key = key;
            self.keys.set_links(links);
            self.persist_own();
            log::info!("this node has another key, which the one before has signed");
            self.log_key();
        }
    }

    /// Reads which keys the node had before.
    pub(crate) fn take_key_links(&mut self) {
        if let Some(value) = self.state.value(LINKS) {
            match node_key::decode(&value) {
                Some(links) => self.keys.set_links(links),
                None => log::warn!("this node's earlier keys cannot be read"),
            }
        }
    }
}
