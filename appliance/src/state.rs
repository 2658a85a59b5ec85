//! The node's state volume: what outlives a power cut, and how it gets there.
//!
//! The volume has a store (`storage::store`) and, behind it, kernels and initrds.
//! Until the store was opened the node runs without; the volume may come however late.
//! Nothing in it is believed without its checks: values open only under the key that
//! was sealed into the image, bundles are verified from the sealed root, kernels by
//! their digests, descriptions as if an operator had sent them.
//!
//! * [`sealing`]: how values are encrypted; [`changes`]: how they get there, and who waits.
//!
//! What is put there is of other parts: identity and trust ([`crate::trust`]), the audit log
//! ([`crate::operators`]), guests that start with the node ([`crate::guests::autostart`]) and their
//! files ([`crate::blobs`]).

pub(crate) mod changes;
pub(crate) mod sealing;

use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::state::StateVolume;
use storage::store::{Store, StoreKey};

use crate::state::changes::Changes;
pub(crate) use crate::state::changes::PATIENCE_NS;
use crate::state::sealing::Sealing;

/// The lane of the store's work, and that of kernels.
pub(crate) const STORE: usize = 0;
pub(crate) const KERNELS: usize = 1;
/// Sectors of a block of the store.
pub(crate) const BLOCK_SECTORS: u64 = 8;
/// Pause before a volume that failed while it was opened is tried again.
pub(crate) const RETRY_NS: u64 = 5_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No volume was sealed.
    Diskless,
    /// The volume does not serve yet.
    Connecting,
    /// The store is read or formatted.
    Opening,
    /// A new volume gets what the node is: until this batch is durable.
    Founding(u64),
    /// Everything is kept.
    Kept,
    /// The volume is not ours, or was lost.
    Failed,
}

/// Everything about it.
pub(crate) struct State {
    pub(crate) sealed: Option<StateVolume>,
    pub(crate) phase: Phase,
    pub(crate) problem: Option<String>,
    pub(crate) store: Option<Store>,
    pub(crate) sealing: Option<Sealing>,
    /// What the store does is a read.
    pub(crate) reads: bool,
    /// Blocks of the volume.
    pub(crate) blocks: u64,
    pub(crate) retry_ns: u64,
    pub(crate) changes: Changes,
    /// When the management port opens without the volume; it is open for None.
    pub(crate) listen_ns: Option<u64>,
    /// The guests that start with the node were begun since power-on.
    pub(crate) started: bool,
    pub(crate) fresh_identity: bool,
    /// The volume was empty and was formatted since power-on.
    pub(crate) formatted: bool,
}

/// What is kept across dom0's restart about the node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnFlags {
    /// The key is on the state volume.
    pub(crate) kept: bool,
    /// The guests that start with the node were begun.
    pub(crate) started: bool,
    /// It was not known which trust bundle holds.
    pub(crate) doubtful: bool,
}

impl OwnFlags {
    /// As a byte.
    pub(crate) const fn byte(self) -> u8 {
        self.kept as u8 | (self.started as u8) << 1 | (self.doubtful as u8) << 2
    }

    /// From a byte.
    pub(crate) const fn from_byte(byte: u8) -> Self {
        Self { kept: byte & 1 != 0, started: byte & 2 != 0, doubtful: byte & 4 != 0 }
    }
}

impl State {
    /// Before anything was read. `own` is what an earlier dom0 left, if there was one:
    /// then the management port opens at once.
    pub(crate) fn new(sealed: Option<StateVolume>, own: Option<OwnFlags>, now_ns: u64) -> Self {
        let wait = sealed.as_ref().filter(|_| own.is_none()).map(|sealed| sealed.wait_s);
        let listen_ns = wait.map(|wait_s| match wait_s {
            0 => u64::MAX,
            wait_s => now_ns.saturating_add(u64::from(wait_s).saturating_mul(SECOND_NS)),
        });
        let own = own.unwrap_or_default();
        Self {
            phase: if sealed.is_some() { Phase::Connecting } else { Phase::Diskless },
            sealed,
            problem: None,
            store: None,
            sealing: None,
            reads: false,
            blocks: 0,
            retry_ns: 0,
            changes: Changes::default(),
            listen_ns,
            started: own.started,
            fresh_identity: !own.kept,
            formatted: false,
        }
    }

    /// Whether everything is kept now.
    pub(crate) fn is_persistent(&self) -> bool {
        self.phase == Phase::Kept
    }

    /// Whether a volume was sealed.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.sealed.is_some()
    }

    /// Whether the management port is open.
    pub(crate) const fn is_listening(&self) -> bool {
        self.listen_ns.is_none()
    }

    /// The volume's name; empty without one.
    pub(crate) fn volume(&self) -> &str {
        self.sealed.as_ref().map_or("", |sealed| &sealed.volume)
    }

    /// Whether the node's key is not kept.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.fresh_identity
    }

    /// Whether a volume was sealed that was never opened since power-on.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.sealed.is_some() && self.fresh_identity
    }

    /// The key of the store's header and records, from the image.
    pub(crate) fn store_key(&self) -> Option<StoreKey> {
        sealing::store_key(self.sealed.as_ref()?.key.expose())
    }

    /// When something is to be done without an event.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let listen = self.listen_ns.filter(|at| *at != u64::MAX);
        let retry = (self.phase == Phase::Connecting && self.retry_ns != 0).then_some(self.retry_ns);
        [listen, retry, self.changes.next_deadline()].into_iter().flatten().min()
    }

    /// A value, if it is there and ours.
    pub(crate) fn value(&self, key: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        self.sealing.as_ref()?.open(key, self.store.as_ref()?.get(key)?)
    }

    /// Keys with a prefix.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let store = self.store.as_ref();
        store.map_or_else(Vec::new, |store| store.with_prefix(prefix).map(|(key, _)| key.into()).collect())
    }
}
