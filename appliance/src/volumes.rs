//! Disks: the sessions behind them, and the way between a guest's queue, a
//! session and the wire.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use machine::devices::virtio::block::{BlockKind, BlockOperation, BlockStatus, BlockToken};
use machine::guest_memory::GuestMemory;
use mgmt_proto::code::Code;
use mgmt_proto::disk::DiskSetting;
use mgmt_proto::machine::Disk;
use mgmt_proto::reason::Refusal;
use storage::aoe::Discovery;
use storage::rate::Limiter;
use storage::volume::{Volume, VolumeName, user};
use storage::{BlockError, Lba, Operation, PathRefusal, Payload, Request, RequestId};

use crate::guests::Guests;
use crate::guests::guest::Guest;
use crate::guests::number::GuestNumber;
use crate::limits::{REQUESTS_PER_TURN, WORK_OF_REQUEST};
use crate::network::stacks::Stacks;
use crate::volumes::discovery::Search;
use crate::volumes::geometry::DiskGeometry;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// A disk of a guest and the session behind it.
pub(crate) struct Binding {
    guest: GuestNumber,
    device: usize,
    name: VolumeName,
    /// Which of the node's sessions with this volume it is: readers may share one.
    share: u16,
    read_only: bool,
    settings: VolumeSettings,
    volume: Volume,
    connections: Connections,
    /// The guest's name for each unfinished request.
    tokens: BTreeMap<u64, BlockToken>,
    operations: [u64; 3],
    /// The size that the guest knows.
    sectors: u64,
}

/// All disks of the node.
pub struct Volumes {
    /// By the card's number; the first one's address is the node's name.
    wires: Vec<Wire>,
    initiator: String,
    seed: u64,
    bindings: Vec<Binding>,
    search: Option<Search>,
    left: Vec<Quarantined>,
    closing: Vec<Retiring>,
    limiters: BTreeMap<GuestNumber, Limiter>,
    /// Disks that wait for their guest's limiter.
    throttled: Vec<(GuestNumber, usize)>,
    maintenance: Option<MaintenanceOp>,
    /// The node's own disk.
    state: Option<StateDisk>,
    next_request: u64,
    /// The disk that sends its AoE frames, and how many it has sent since it is its turn.
    sends: (usize, usize),
    pace: Pace,
    /// The disk that is looked at first.
    first: usize,
}

/// The memory of a guest's requests, as the sessions see it.
struct GuestPayload<'a, M> {
    guest: Option<&'a mut Guest<M>>,
    device: usize,
    tokens: &'a BTreeMap<u64, BlockToken>,
}

impl<M: GuestMemory> Payload for GuestPayload<'_, M> {
    fn load(&mut self, id: RequestId, offset: usize, target: &mut [u8]) {
        if let Some(token) = self.tokens.get(&id.0)
            && let Some(guest) = &mut self.guest
            && let Some((_, memory)) = &guest.domain
            && let Some(block) = guest.platform.block_mut(self.device)
        {
            let _ = block.load(*token, offset as u64, target, memory);
        }
    }

    fn store(&mut self, id: RequestId, offset: usize, source: &[u8]) {
        if let Some(token) = self.tokens.get(&id.0)
            && let Some(guest) = &mut self.guest
            && let Some((_, memory)) = &guest.domain
            && let Some(block) = guest.platform.block_mut(self.device)
        {
            let _ = block.store(*token, offset as u64, source, memory);
        }
    }
}

/// A payload for sessions that move no guest's data.
struct NoPayload;

impl Payload for NoPayload {
    fn load(&mut self, _: RequestId, _: usize, _: &mut [u8]) {}
    fn store(&mut self, _: RequestId, _: usize, _: &[u8]) {}
}

fn payload<'a, M>(
    guests: &'a mut [Guest<M>],
    guest: GuestNumber,
    device: usize,
    tokens: &'a BTreeMap<u64, BlockToken>,
) -> GuestPayload<'a, M> {
    // Their numbers rise.
    let index = guests.binary_search_by_key(&guest, |other| other.number);
    GuestPayload { guest: index.ok().and_then(|index| guests.get_mut(index)), device, tokens }
}

/// The volume that a disk names.
///
/// # Errors
/// The name is none.
pub fn parse(disk: &Disk) -> Result<VolumeName, Refusal> {
    disk.volume.parse().map_err(|error: storage::volume::NameError| {
        let message = format!("disk {}: {error}", user::without_secret(&disk.volume));
        Refusal::said(Code::Usage, "", message, error.remedy())
    })
}

mod connection;
mod discovery;
mod frames;
pub(crate) mod geometry;
mod maintenance;
mod portals;
mod retiring;
mod settings;
pub(crate) mod state;
mod status;

use crate::volumes::connection::{Connections, Pace};
pub use crate::volumes::frames::Wire;
use crate::volumes::maintenance::MaintenanceOp;
pub use crate::volumes::maintenance::Task;
use crate::volumes::retiring::{Quarantined, Retiring};
pub use crate::volumes::settings::{VolumeSettings, limits};
use crate::volumes::state::StateDisk;
pub use crate::volumes::state::{Ended, LANES};

impl Volumes {
    /// No disks yet.
    #[must_use]
    pub const fn new(wires: Vec<Wire>, initiator: String, seed: u64) -> Self {
        Self {
            wires,
            initiator,
            seed,
            bindings: Vec::new(),
            search: None,
            left: Vec::new(),
            closing: Vec::new(),
            limiters: BTreeMap::new(),
            throttled: Vec::new(),
            maintenance: None,
            state: None,
            next_request: 1,
            sends: (0, 0),
            pace: Pace::TURN,
            first: 0,
        }
    }

    fn next_seed(&mut self) -> u64 {
        // SplitMix64: distinct, unpredictable as the first seed is.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Opens a guest's disk.
    ///
    /// # Errors
    /// The name is none, or what is set does not fit it.
    pub fn open(
        &mut self,
        guest: GuestNumber,
        device: usize,
        disk: &Disk,
        settings: &[DiskSetting],
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let name = parse(disk)?;
        let settings = VolumeSettings::new(&name, settings)?;
        let taken = |share: &u16| self.bindings.iter().any(|it| it.name == name && it.share == *share);
        let share = (0..u16::MAX).find(|share| !taken(share)).unwrap_or(u16::MAX);
        let volume = self.session(&name, share, disk.read_only, &settings, now_ns);
        self.bindings.push(Binding {
            guest,
            device,
            name,
            share,
            read_only: disk.read_only,
            settings,
            volume,
            connections: Connections::default(),
            tokens: BTreeMap::new(),
            operations: [0; 3],
            sectors: 0,
        });
        Ok(())
    }

    /// A guest's disk.
    fn binding(&self, guest: GuestNumber, device: usize) -> Option<&Binding> {
        self.bindings.iter().find(|it| it.guest == guest && it.device == device)
    }

    /// The same, to change it.
    fn binding_mut(&mut self, guest: GuestNumber, device: usize) -> Option<&mut Binding> {
        self.bindings.iter_mut().find(|it| it.guest == guest && it.device == device)
    }

    /// Whether a guest's disk has a session.
    #[must_use]
    pub fn is_open(&self, guest: GuestNumber, device: usize) -> bool {
        self.binding(guest, device).is_some()
    }

    /// A guest reset a disk: what was under way is void. The session goes on, and
    /// keeps new writes from being overtaken by old ones.
    pub fn forget(&mut self, guest: GuestNumber, device: usize) {
        let found = self.binding_mut(guest, device);
        if let Some(binding) = found {
            binding.tokens.clear();
            binding.volume.abandon();
        }
    }

    /// All disks of a guest were reset.
    pub fn forget_all(&mut self, guest: GuestNumber) {
        let devices: Vec<usize> =
            self.bindings.iter().filter(|it| it.guest == guest).map(|it| it.device).collect();
        for device in devices {
            self.forget(guest, device);
        }
    }

    /// What a guest's disks are, once all are ready.
    #[must_use]
    pub fn shapes(&self, guest: GuestNumber) -> Option<Vec<DiskGeometry>> {
        let mut own: Vec<&Binding> = self.bindings.iter().filter(|binding| binding.guest == guest).collect();
        own.sort_by_key(|binding| binding.device);
        own.into_iter().map(Binding::shape).collect()
    }

    /// What one of a guest's disks is, once it is ready.
    #[must_use]
    pub fn shape(&self, guest: GuestNumber, device: usize) -> Option<DiskGeometry> {
        self.binding(guest, device)?.shape()
    }

    /// Gives a guest's disks other device numbers: `devices` are the old ones, in the
    /// order of the new.
    pub fn renumber(&mut self, guest: GuestNumber, devices: &[usize]) {
        for binding in self.bindings.iter_mut().filter(|binding| binding.guest == guest) {
            if let Some(device) = devices.iter().position(|device| *device == binding.device) {
                binding.device = device;
            }
        }
        self.throttled.retain(|(number, _)| *number != guest);
    }

    /// Takes a path of a guest's disk out of use, or back into it.
    ///
    /// # Errors
    /// See [`PathRefusal`].
    pub fn set_path_enabled(
        &mut self,
        guest: GuestNumber,
        device: usize,
        path: usize,
        enabled: bool,
    ) -> Result<(), PathRefusal> {
        let found = self.binding_mut(guest, device);
        found.ok_or(PathRefusal::Unknown)?.volume.set_path_enabled(path, enabled)
    }

    /// Takes new requests from a guest's disk; true when there may be more.
    pub fn serve_disk<M: GuestMemory>(
        &mut self,
        guests: &mut Guests<M>,
        guest: usize,
        device: usize,
        now_ns: u64,
    ) -> bool {
        let Guests { list, quotas, .. } = guests;
        let Some(guest) = list.get_mut(guest) else { return false };
        let found = self.bindings.iter_mut().find(|it| it.guest == guest.number && it.device == device);
        let Some(binding) = found else { return false };
        let Some((_, memory)) = &guest.domain else { return false };
        let Some(block) = guest.platform.block_mut(device) else { return false };
        for _ in 0..REQUESTS_PER_TURN {
            if !quotas.may(guest.number) {
                return true;
            }
            if binding.tokens.len() >= storage::limits::REQUESTS_MAX {
                return false;
            }
            let limiter = self.limiters.get_mut(&guest.number);
            if limiter.is_some_and(|limiter| !limiter.is_ready(now_ns)) {
                if !self.throttled.contains(&(guest.number, device)) {
                    self.throttled.push((guest.number, device));
                }
                return false;
            }
            let operation = block.next_operation(memory);
            quotas.charge(guest.number, block.transport.take_work());
            let Some(operation) = operation else { return block.has_more() };
            quotas.charge(guest.number, WORK_OF_REQUEST);
            if let Some(limiter) = self.limiters.get_mut(&guest.number) {
                let moves = matches!(operation.kind, BlockKind::Read | BlockKind::Write);
                limiter.charge(if moves { operation.length } else { 0 });
            }
            let id = self.next_request;
            self.next_request += 1;
            let submitted = request(id, &operation)
                .ok_or(BlockStatus::Unsupported)
                .and_then(|request| binding.volume.submit(request, now_ns).map_err(|_| BlockStatus::IoError));
            match submitted {
                Ok(()) => {
                    binding.tokens.insert(id, operation.token);
                    let kind = match operation.kind {
                        BlockKind::Read => 0,
                        BlockKind::Write => 1,
                        _ => 2,
                    };
                    if let Some(count) = binding.operations.get_mut(kind) {
                        *count += 1;
                    }
                }
                Err(status) => {
                    block.complete(operation.token, status, memory);
                }
            }
        }
        true
    }

    /// Begins a turn. Disks that the last one had nothing left for come first.
    pub fn begin_turn(&mut self) {
        if core::mem::replace(&mut self.pace, Pace::TURN).is_over() {
            self.first = self.first.wrapping_add(1).checked_rem(self.bindings.len()).unwrap_or(0);
        }
    }

    /// Whether a turn has left something of iSCSI for the next one.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.pace.is_over()
    }

    /// Moves iSCSI's bytes, advances timers and hands completions to guests.
    pub fn poll<M: GuestMemory>(&mut self, stacks: &mut Stacks, guests: &mut [Guest<M>], now_ns: u64) {
        self.poll_retiring(stacks, now_ns);
        stacks.keep_for(self.unconnected());
        self.poll_state(stacks, now_ns);
        let first = self.first.min(self.bindings.len());
        let (later, sooner) = self.bindings.split_at_mut(first);
        for binding in sooner.iter_mut().chain(later) {
            binding.volume.poll(now_ns);
            if let Volume::Iscsi(session) = &mut binding.volume {
                let mut payload = payload(guests, binding.guest, binding.device, &binding.tokens);
                binding.connections.drive(session, stacks, &mut payload, (&mut self.pace, now_ns));
            }
            binding.complete(guests);
            binding.resize(guests);
        }
        self.drive_maintenance(stacks, now_ns);
        self.resume_throttled(guests, now_ns);
        if let Some(Search::Iscsi { session, connections, .. }) = &mut self.search {
            session.poll(now_ns);
            connections.drive(session, stacks, &mut NoPayload, (&mut self.pace, now_ns));
        }
    }

    /// Disks over iSCSI without a connection, the node's own among them.
    fn unconnected(&mut self) -> usize {
        let waits = |volume: &Volume, connections: &Connections| {
            matches!(volume, Volume::Iscsi(_)) && !connections.is_open()
        };
        let guests = self.bindings.iter().filter(|it| waits(&it.volume, &it.connections)).count();
        let own = self.state.as_mut().and_then(StateDisk::session);
        guests + usize::from(own.is_some_and(|(volume, connections)| waits(volume, connections)))
    }

    /// When a session must be looked at again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let sessions = self.bindings.iter().filter_map(|binding| binding.volume.next_deadline()).min();
        let search = self.search.as_ref().map(|search| match search {
            Search::Aoe(discoveries) => {
                discoveries.iter().map(Discovery::next_deadline).max().unwrap_or(u64::MAX)
            }
            Search::Iscsi { deadline_ns, session, .. } => {
                let next = session.next_deadline();
                next.map_or(*deadline_ns, |next| next.min(*deadline_ns))
            }
        });
        let maintenance = self.maintenance.as_ref().map(MaintenanceOp::next_deadline);
        let closing = self.closing.iter().map(Retiring::next_deadline).min();
        let limits =
            self.throttled.iter().filter_map(|(guest, _)| self.limiters.get(guest)?.next_ready_ns()).min();
        let state = self.next_state_deadline();
        [sessions, search, maintenance, closing, limits, state].into_iter().flatten().min()
    }

    /// Disks whose guest may do something again are looked at.
    fn resume_throttled<M: GuestMemory>(&mut self, guests: &mut [Guest<M>], now_ns: u64) {
        let limiters = &mut self.limiters;
        self.throttled.retain(|(number, device)| {
            let waits = limiters.get_mut(number).is_some_and(|limiter| !limiter.is_ready(now_ns));
            if !waits && let Some(guest) = guests.iter_mut().find(|guest| guest.number == *number) {
                guest.mark_work(*device, 0);
            }
            waits
        });
    }
}

impl Binding {
    fn shape(&self) -> Option<DiskGeometry> {
        let sectors = self.volume.ready_capacity()?;
        let status = self.volume.status();
        let (discard, write_protected, geometry) =
            (status.can_discard, status.write_protected, status.geometry);
        Some(DiskGeometry { sectors, discard, write_protected, geometry })
    }

    /// A volume that has another size now: its guest is told.
    fn resize<M: GuestMemory>(&mut self, guests: &mut [Guest<M>]) {
        if self.volume.capacity() == Some(self.sectors) {
            return;
        }
        let Some(sectors) = self.volume.ready_capacity() else { return };
        let Some(guest) = guests.iter_mut().find(|guest| guest.number == self.guest) else { return };
        if guest.domain.is_none() {
            return;
        }
        if let Some(block) = guest.platform.block_mut(self.device) {
            self.sectors = sectors;
            if block.sectors() != sectors {
                block.set_sectors(sectors);
                guest.mark_work(self.device, 0);
            }
        }
    }

    fn complete<M: GuestMemory>(&mut self, guests: &mut [Guest<M>]) {
        while let Some(completion) = self.volume.take_completion() {
            let Some(token) = self.tokens.remove(&completion.id.0) else { continue };
            let Some(guest) = guests.iter_mut().find(|guest| guest.number == self.guest) else { continue };
            let status = match completion.result {
                Ok(()) => BlockStatus::Ok,
                Err(BlockError::Unsupported) => BlockStatus::Unsupported,
                Err(_) => BlockStatus::IoError,
            };
            if let Some((_, memory)) = &guest.domain
                && let Some(block) = guest.platform.block_mut(self.device)
            {
                block.complete(token, status, memory);
            }
            // The guest may have queued more than the session took.
            guest.mark_work(self.device, 0);
        }
    }
}

/// The storage layer's form of a guest's request; None for what it cannot do.
fn request(id: u64, operation: &BlockOperation) -> Option<Request> {
    let kind = match operation.kind {
        BlockKind::Read => Operation::Read,
        BlockKind::Write => Operation::Write,
        BlockKind::Flush => Operation::Flush,
        BlockKind::Discard => Operation::Discard,
        BlockKind::WriteZeroes => Operation::WriteZeroes,
    };
    let sectors = u32::try_from(operation.length / SECTOR).ok()?;
    let lba = if kind == Operation::Flush { 0 } else { operation.sector };
    Some(Request { id: RequestId(id), operation: kind, lba: Lba(lba), sectors })
}

#[cfg(test)]
mod tests {
    use super::settings::isid;
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn readers_of_one_volume_have_sessions_of_their_own() {
        let wire = Wire { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, aoe: true };
        let mut volumes = Volumes::new(vec![wire], "iqn.2026-11.invalid.redoubt:1".into(), 1);
        let volume = "iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0".to_string();
        let name: VolumeName = volume.parse().unwrap();
        let disk = Disk { volume, read_only: true };
        for guest in 1..=3 {
            volumes.open(GuestNumber(guest), 0, &disk, &[], 0).unwrap();
        }
        let shares = |volumes: &Volumes| volumes.bindings.iter().map(|it| it.share).collect::<Vec<_>>();
        assert_eq!(shares(&volumes), [0, 1, 2]);
        volumes.bindings.remove(0);
        volumes.open(GuestNumber(4), 0, &disk, &[], 0).unwrap();
        assert_eq!(shares(&volumes), [1, 2, 0]);
        let mut all: Vec<_> = (0..1_000).map(|share| isid(&name, share)).collect();
        assert!(all.iter().all(|isid| isid[0] == 0x80));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1_000);
    }
}
