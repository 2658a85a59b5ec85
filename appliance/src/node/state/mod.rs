//! The node's state volume: what outlives a power cut, and how it gets there.
//!
//! The volume has a store (`storage::store`) and, behind it, kernels and initrds.
//! Until the store was opened the node runs without; the volume may come however late.
//! Nothing in it is believed without its checks: values open only under the key that
//! was sealed into the image, bundles are verified from the sealed root, kernels by
//! their digests, descriptions as if an operator had sent them.
//!
//! * `sealing`: how values are encrypted; `changes`: how they get there, and who waits;
//! * `opening`: identity and trust when the volume comes; `rotation`: another key; `history`: the audit log;
//! * `guests`: those that start with the node; `kernels`: their files; `autostart`: when;
//! * `following`: what changes while they run;
//! * `config`: all of it in a file, without secrets.

mod autostart;
mod changes;
mod config;
mod following;
mod guests;
mod history;
mod kernels;
mod opening;
mod renaming;
mod rotation;
mod sealing;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hv_abi::MAX_DOMAINS;
use mgmt_proto::node_key;
use mgmt_proto::state::{Initialise, StateCondition, StateFacts, StateProtection, StateVolume};
use storage::limits::STORE_BYTES_MAX;
use storage::store::{Store, StoreError, StoreKey, StoreOperation};

use crate::hypervisor::Hypervisor;
use crate::local_disk::{DiskWork, LocalDisk};
use crate::node::Node;
use crate::node::nic::Nic;
use crate::node::volumes::{Ended, VolumeSettings};
use changes::Changes;
pub(super) use changes::PATIENCE_NS;
pub(super) use following::Step;
use guests::KeptGuests;
#[cfg(test)]
pub(super) use guests::decode as decode_guest;
use history::History;
use kernels::Kernels;
#[cfg(test)]
pub(super) use kernels::kernel_end;
use sealing::Sealing;

/// The lane of the store's work, and that of kernels.
const STORE: usize = 0;
const KERNELS: usize = 1;
/// Sectors of a block of the store.
const BLOCK_SECTORS: u64 = 8;
/// Pause before a volume that failed while it was opened is tried again.
const RETRY_NS: u64 = 5_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
pub(super) struct State<M> {
    sealed: Option<StateVolume>,
    phase: Phase,
    problem: Option<String>,
    store: Option<Store>,
    sealing: Option<Sealing>,
    /// What the store does is a read.
    reads: bool,
    /// Blocks of the volume.
    blocks: u64,
    retry_ns: u64,
    changes: Changes,
    history: History,
    guests: KeptGuests,
    kernels: Kernels<M>,
    /// Serial of the trust bundle that is kept.
    trust_serial: u64,
    /// The batch with a later one, and its serial.
    trust_under_way: Option<(u64, u64)>,
    /// When the one door opens without the volume; it is open for None.
    door_ns: Option<u64>,
    /// The guests that start with the node were begun since power-on.
    started: bool,
    fresh_identity: bool,
    /// The volume was empty and was formatted since power-on.
    formatted: bool,
    /// Another key for the node is on its way.
    rotation: Option<rotation::Rotation>,
}

/// What is kept across dom0's restart about the node itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnFlags {
    /// The key is on the state volume.
    pub(super) kept: bool,
    /// The guests that start with the node were begun.
    pub(super) started: bool,
    /// It was not known which trust bundle holds.
    pub(super) doubtful: bool,
}

impl OwnFlags {
    /// As a byte.
    pub(super) const fn byte(self) -> u8 {
        self.kept as u8 | (self.started as u8) << 1 | (self.doubtful as u8) << 2
    }

    /// From a byte.
    pub(super) const fn from_byte(byte: u8) -> Self {
        Self { kept: byte & 1 != 0, started: byte & 2 != 0, doubtful: byte & 4 != 0 }
    }
}

impl<M> State<M> {
    /// Heap that descriptions of guests take which start with the node.
    pub(super) fn kept_bytes(&self) -> usize {
        self.guests.bytes()
    }

    /// Before anything was read. `own` is what an earlier dom0 left, if there was one:
    /// then the door opens at once.
    pub(super) fn new(sealed: Option<StateVolume>, own: Option<OwnFlags>, now_ns: u64) -> Self {
        let wait = sealed.as_ref().filter(|_| own.is_none()).map(|sealed| sealed.wait_s);
        let door_ns = wait.map(|wait_s| match wait_s {
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
            history: History::default(),
            guests: KeptGuests::default(),
            kernels: Kernels::default(),
            trust_serial: 0,
            trust_under_way: None,
            door_ns,
            started: own.started,
            fresh_identity: !own.kept,
            formatted: false,
            rotation: None,
        }
    }

    /// Whether everything is kept now.
    pub(super) fn is_kept(&self) -> bool {
        self.phase == Phase::Kept
    }

    /// Whether a volume was sealed.
    pub(super) const fn is_wanted(&self) -> bool {
        self.sealed.is_some()
    }

    /// Whether the one door is open.
    pub(super) const fn is_door_open(&self) -> bool {
        self.door_ns.is_none()
    }

    /// The volume's name; empty without one.
    pub(super) fn volume(&self) -> &str {
        self.sealed.as_ref().map_or("", |sealed| &sealed.volume)
    }

    /// Whether the node's key is not kept.
    pub(super) const fn is_fresh(&self) -> bool {
        self.fresh_identity
    }

    /// Whether a volume was sealed that was never opened since power-on.
    pub(super) const fn is_awaited(&self) -> bool {
        self.sealed.is_some() && self.fresh_identity
    }

    /// The key of the store's header and records, from the image.
    fn store_key(&self) -> Option<StoreKey> {
        sealing::store_key(self.sealed.as_ref()?.key.expose())
    }

    /// When something is to be done without an event.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let door = self.door_ns.filter(|at| *at != u64::MAX);
        let retry = (self.phase == Phase::Connecting && self.retry_ns != 0).then_some(self.retry_ns);
        let patience = self.guests.next_deadline();
        [door, retry, patience, self.changes.next_deadline()].into_iter().flatten().min()
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins to connect the volume that was sealed.
    pub(super) fn begin_state(&mut self, now_ns: u64) {
        let Some(sealed) = self.state.sealed.clone() else { return };
        if sealed.volume.starts_with("virtio:") {
            return;
        }
        let disk = mgmt_proto::machine::Disk { volume: sealed.volume.clone(), read_only: false };
        let opened = crate::node::volumes::parse(&disk).and_then(|name| {
            let settings = VolumeSettings::new(&name, &sealed.settings)?;
            self.volumes.open_state(name, &settings, now_ns);
            Ok(())
        });
        match opened {
            Ok(()) if !self.state.is_door_open() => {
                let wait = match sealed.wait_s {
                    0 => "for ever".to_string(),
                    wait_s => alloc::format!("up to {wait_s} s"),
                };
                log::info!("waits {wait} for the state volume {}", sealed.volume);
            }
            Ok(()) => {}
            Err(failure) => self.fail_state(&failure.to_string(), now_ns),
        }
    }

    /// The number of the machine's own disk that is the state volume.
    #[must_use]
    pub fn local_disk_wanted(&self) -> Option<u8> {
        self.state.volume().strip_prefix("virtio:").and_then(|number| number.parse().ok())
    }

    /// Gives the node that disk, or None if the machine has no such.
    pub fn use_local_disk(&mut self, disk: Option<Box<dyn LocalDisk>>, now_ns: u64) {
        match disk {
            Some(disk) => self.volumes.open_local_state(disk),
            None => self.fail_state("is not in the machine, or cannot be driven", now_ns),
        }
    }

    /// Moves everything about the state volume as far as it goes.
    pub(super) fn settle_state(&mut self, now_ns: u64) {
        if self.state.phase == Phase::Diskless {
            return;
        }
        if now_ns >= self.state.guests.patience_ns {
            self.state.guests.patience_ns = 0;
        }
        while let Some((lane, ended)) = self.volumes.take_state() {
            match lane {
                STORE => self.store_ended(ended),
                _ => self.kernel_lane_ended(ended, now_ns),
            }
        }
        self.drive_store(now_ns);
        match self.state.phase {
            Phase::Connecting => self.try_to_open(now_ns),
            Phase::Opening => self.look_at_opening(now_ns),
            Phase::Founding(batch) if self.state.changes.is_confirmed(batch) => self.enter_kept(now_ns),
            Phase::Founding(_) | Phase::Kept => {
                if self.state.store.as_ref().is_some_and(|store| store.error().is_some()) {
                    self.fail_state("was lost: it could not be read or written", now_ns);
                }
            }
            Phase::Diskless | Phase::Failed => {}
        }
        if self.state.phase == Phase::Kept {
            self.settle_history();
            self.settle_kernels(now_ns);
        }
        let State { store, changes, .. } = &mut self.state;
        if let Some(store) = store {
            changes.pump(store);
        }
        if let Some((_, serial)) =
            self.state.trust_under_way.take_if(|(batch, _)| self.state.changes.is_confirmed(*batch))
        {
            self.state.trust_serial = serial;
        }
        self.settle_rotation();
        self.drive_store(now_ns);
        // Operators wait for what it was.
        let octets = self.state.store.as_mut().map_or(0, Store::take_work);
        self.sessions.spend(octets);
        self.settle_promises(now_ns);
        if self.state.door_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            log::warn!(
                "the state volume {} has not come: until it does, operators may look",
                self.state.volume()
            );
            self.open_door();
        }
    }

    fn try_to_open(&mut self, now_ns: u64) {
        if now_ns < self.state.retry_ns {
            return;
        }
        self.state.retry_ns = 0;
        let Some(sectors) = self.volumes.state_sectors() else { return };
        self.state.blocks = sectors / BLOCK_SECTORS;
        let seed = self.random_number();
        let Some(key) = self.state.store_key() else {
            return self.fail_state("has no key: the image was not sealed for it", now_ns);
        };
        self.state.store = Some(Store::open(self.state.blocks, key, seed));
        self.state.phase = Phase::Opening;
        self.drive_store(now_ns);
    }

    fn look_at_opening(&mut self, now_ns: u64) {
        let Some(store) = &self.state.store else { return };
        match store.error() {
            None if store.is_open() => self.state_opened(now_ns),
            None => {}
            Some(StoreError::Blank) => self.format_state(now_ns),
            Some(StoreError::Volume) => {
                self.state.store = None;
                self.state.phase = Phase::Connecting;
                self.state.retry_ns = now_ns.saturating_add(RETRY_NS);
            }
            Some(error) => self.fail_state(&error.to_string(), now_ns),
        }
    }

    /// The volume is empty: formats it, unless there must be state on it.
    fn format_state(&mut self, now_ns: u64) {
        if !self.state.fresh_identity {
            return self.fail_state("is empty, and held this node's state since power-on", now_ns);
        }
        let initialise = self.state.sealed.as_ref().map(|sealed| sealed.initialise);
        if initialise == Some(Initialise::Never) {
            return self.fail_state("is empty, and is never initialised: so the image was sealed", now_ns);
        }
        let Some(key) = self.state.store_key() else { return };
        log::info!(
            "formats the state volume {}, which is empty: no earlier trust bundle, lockdown or guest counts",
            self.state.volume()
        );
        let mut identity = [0; 16];
        self.hypervisor.random(&mut identity);
        let seed = self.random_number();
        self.state.store = Some(Store::format(self.state.blocks, key, identity, seed));
        self.state.formatted = true;
        self.drive_store(now_ns);
    }

    /// The next operation of the store, if it has one.
    fn drive_store(&mut self, now_ns: u64) {
        let Some(store) = &mut self.state.store else { return };
        let work = match store.operation() {
            None => return,
            Some(StoreOperation::Read { first, blocks }) => DiskWork::Read {
                sector: first.saturating_mul(BLOCK_SECTORS),
                sectors: u32::try_from(blocks.saturating_mul(BLOCK_SECTORS)).unwrap_or(0),
            },
            Some(StoreOperation::Write { first, bytes }) => {
                DiskWork::Write { sector: first.saturating_mul(BLOCK_SECTORS), bytes: bytes.to_vec() }
            }
            Some(StoreOperation::Flush) => DiskWork::Flush,
        };
        self.state.reads = matches!(work, DiskWork::Read { .. });
        if !self.volumes.begin_state(STORE, work, now_ns) {
            store.failed();
        }
    }

    fn store_ended(&mut self, ended: Ended) {
        let Some(store) = &mut self.state.store else { return };
        match ended {
            Some(bytes) if self.state.reads => store.read(&bytes),
            Some(_) => store.done(),
            None => store.failed(),
        }
    }

    /// The volume is not used, or not any longer.
    fn fail_state(&mut self, why: &str, now_ns: u64) {
        let kept = matches!(self.state.phase, Phase::Kept | Phase::Founding(_));
        let end = if kept { "nothing new is kept" } else { "nothing is kept" };
        log::error!("the state volume {} {why}; {end}", self.state.volume());
        self.state.problem = Some(why.to_string());
        self.state.phase = Phase::Failed;
        self.state.store = None;
        self.drop_kernel_work();
        self.state.rotation = None;
        self.volumes.close_state(&mut self.network.stacks, now_ns);
        self.fail_promises(why, now_ns);
        // Nothing better will come, unless the owner wants no door without it.
        if self.state.sealed.as_ref().is_some_and(|sealed| sealed.wait_s != 0) {
            self.open_door();
        }
    }

    /// Listens to operators from now on.
    pub(super) fn open_door(&mut self) {
        if self.state.door_ns.take().is_none() {
            return;
        }
        if !self.listen() {
            log::error!("the management port cannot be opened");
        }
        self.keep_own();
    }

    /// Keeps what the node itself is for the next dom0.
    pub(super) fn keep_own(&mut self) {
        let flags = OwnFlags {
            kept: !self.state.fresh_identity,
            started: self.state.started,
            doubtful: self.lost_trust.is_some(),
        };
        let mut record = self.identity.key.to_bytes().to_vec();
        record.push(flags.byte());
        record.extend(node_key::encode(&self.key_links));
        let _ = self.hypervisor.store_put(MAX_DOMAINS, &record);
        zeroize::Zeroize::zeroize(&mut record);
    }

    fn random_number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.hypervisor.random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// What is wrong with the volume.
    pub(super) fn state_problem(&self) -> Option<String> {
        self.state.problem.clone().or_else(|| self.volumes.state_trouble())
    }

    /// What the node keeps, and where.
    pub(super) fn state_facts(&self) -> StateFacts {
        let state = &self.state;
        let condition = match state.phase {
            Phase::Diskless => StateCondition::Diskless,
            Phase::Connecting => StateCondition::Connecting,
            Phase::Opening | Phase::Founding(_) => StateCondition::Opening,
            Phase::Kept => StateCondition::Kept,
            Phase::Failed => StateCondition::Failed,
        };
        let store = state.store.as_ref().filter(|store| store.is_open());
        StateFacts {
            condition,
            volume: state.volume().to_string(),
            problem: self.state_problem(),
            serial: store.map_or([0; 16], Store::identity),
            fresh_identity: state.fresh_identity,
            formatted: state.formatted,
            protection: StateProtection::ImageKey,
            doubt: self.trust_doubt(),
            trust_serial_min: self.settings.manifest.trust_serial_min,
            trust_serial: self.trust.bundle().serial,
            kept_trust_serial: state.trust_serial,
            audit_entries: state.history.kept(),
            bytes: [store.map_or(0, Store::bytes) as u64, STORE_BYTES_MAX as u64],
            kernel_bytes: state.kernels.bytes(state.blocks),
            guests: self.kept_facts(),
        }
    }

    fn sealed_value(&mut self, key: &str, plain: &[u8]) -> Option<(String, Option<Vec<u8>>)> {
        let mut nonce = [0; sealing::NONCE_BYTES];
        self.hypervisor.random(&mut nonce);
        let sealed = self.state.sealing.as_ref()?.seal(key, plain, nonce)?;
        Some((key.to_string(), Some(sealed)))
    }
}
