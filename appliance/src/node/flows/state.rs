//! Opens the state volume, and moves what the node keeps there: [`crate::state`].

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
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hv_abi::MAX_DOMAINS;
use mgmt_proto::node_key;
use mgmt_proto::state::{Initialise, StateCondition, StateFacts, StateProtection};
use storage::limits::STORE_BYTES_MAX;
use storage::local::{DiskWork, LocalDisk};
use storage::store::{Store, StoreError, StoreOperation};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::state::{BLOCK_SECTORS, OwnFlags, Phase, RETRY_NS, STORE, State};
use crate::volumes::{Ended, VolumeSettings};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins to connect the volume that was sealed.
    pub(crate) fn begin_state(&mut self, now_ns: u64) {
        let Some(sealed) = self.state.sealed.clone() else { return };
        if sealed.volume.starts_with("virtio:") {
            return;
        }
        let disk = mgmt_proto::machine::Disk { volume: sealed.volume.clone(), read_only: false };
        let opened = crate::volumes::parse(&disk).and_then(|name| {
            let settings = VolumeSettings::new(&name, &sealed.settings)?;
            self.volumes.open_state(name, &settings, now_ns);
            Ok(())
        });
        match opened {
            Ok(()) if !self.state.is_listening() => {
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
    pub(crate) fn poll_state(&mut self, now_ns: u64) {
        if self.state.phase == Phase::Diskless {
            return;
        }
        if now_ns >= self.guests.autostart.patience_ns {
            self.guests.autostart.patience_ns = 0;
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
            Phase::Opening => self.poll_opening(now_ns),
            Phase::Founding(batch) if self.state.changes.is_confirmed(batch) => self.enter_persistent(now_ns),
            Phase::Founding(_) | Phase::Kept => {
                if self.state.store.as_ref().is_some_and(|store| store.error().is_some()) {
                    self.fail_state("was lost: it could not be read or written", now_ns);
                }
            }
            Phase::Diskless | Phase::Failed => {}
        }
        if self.state.phase == Phase::Kept {
            self.poll_history();
            self.poll_kernels(now_ns);
        }
        let State { store, changes, .. } = &mut self.state;
        if let Some(store) = store {
            changes.pump(store);
        }
        if let Some((_, serial)) =
            self.trust.persisting.take_if(|(batch, _)| self.state.changes.is_confirmed(*batch))
        {
            self.trust.persisted_serial = serial;
        }
        self.poll_rotation();
        self.drive_store(now_ns);
        // Operators wait for what it was.
        let octets = self.state.store.as_mut().map_or(0, Store::take_work);
        self.operators.sessions.spend(octets);
        self.poll_promises(now_ns);
        if self.state.listen_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            log::warn!(
                "the state volume {} has not come: until it does, operators may look",
                self.state.volume()
            );
            self.start_listening();
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

    fn poll_opening(&mut self, now_ns: u64) {
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
        self.keys.rotation = None;
        self.volumes.close_state(&mut self.network.stacks, now_ns);
        self.fail_promises(why, now_ns);
        // Nothing better will come, unless the owner wants no door without it.
        if self.state.sealed.as_ref().is_some_and(|sealed| sealed.wait_s != 0) {
            self.start_listening();
        }
    }

    /// Listens to operators from now on.
    pub(crate) fn start_listening(&mut self) {
        if self.state.listen_ns.take().is_none() {
            return;
        }
        if !self.listen() {
            log::error!("the management port cannot be opened");
        }
        self.persist_own();
    }

    /// Keeps what the node itself is for the next dom0.
    pub(crate) fn persist_own(&mut self) {
        let flags = OwnFlags {
            kept: !self.state.fresh_identity,
            started: self.state.started,
            doubtful: self.trust.is_lost(),
        };
        let mut record = self.keys.identity.key.to_bytes().to_vec();
        record.push(flags.byte());
        record.extend(node_key::encode(&self.keys.links));
        let _ = self.hypervisor.store_put(MAX_DOMAINS, &record);
        zeroize::Zeroize::zeroize(&mut record);
    }

    fn random_number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.hypervisor.random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// What is wrong with the volume.
    pub(crate) fn state_problem(&self) -> Option<String> {
        self.state.problem.clone().or_else(|| self.volumes.state_trouble())
    }

    /// What the node keeps, and where.
    pub(crate) fn state_facts(&self) -> StateFacts {
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
            doubt: self.trust.doubt(),
            trust_serial_min: self.settings.manifest.trust_serial_min,
            trust_serial: self.trust.serial(),
            kept_trust_serial: self.trust.persisted_serial,
            audit_entries: self.operators.history.kept(),
            bytes: [store.map_or(0, Store::bytes) as u64, STORE_BYTES_MAX as u64],
            kernel_bytes: self.blobs.persisted.bytes(state.blocks),
            guests: self.kept_facts(),
        }
    }

    fn sealed_value(&mut self, key: &str, plain: &[u8]) -> Option<(String, Option<Vec<u8>>)> {
        let mut nonce = [0; crate::state::sealing::NONCE_BYTES];
        self.hypervisor.random(&mut nonce);
        let sealed = self.state.sealing.as_ref()?.seal(key, plain, nonce)?;
        Some((key.to_string(), Some(sealed)))
    }
}
