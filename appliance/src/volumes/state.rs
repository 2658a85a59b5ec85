//! The session behind the node's own state volume: not a guest's, with memory of its
//! own.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use storage::volume::{Volume, VolumeName};
use storage::{Lba, Octets, Operation, Request, RequestId, VolumeState};

use crate::network::stacks::Stacks;
use crate::volumes::connection::Connections;
use crate::volumes::{VolumeSettings, Volumes};
use storage::local::{DiskWork, LocalDisk};

/// The share of the state volume's session: beside those of all guests.
const SHARE: u16 = u16::MAX - 2;
/// Works at a time: the store's, and that of kernels.
pub const LANES: usize = 2;

/// A work under way and its memory.
#[derive(Debug)]
struct Lane {
    id: u64,
    bytes: Vec<u8>,
    reads: bool,
}

/// The memory of what is under way, as the session sees it.
#[derive(Debug, Default)]
struct Lanes([Option<Lane>; LANES]);

impl Octets for Lanes {
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]> {
        let lane = self.0.iter_mut().flatten().find(|lane| lane.id == id.0)?;
        lane.bytes.get_mut(offset..offset.checked_add(length)?)
    }
}

/// What carries the volume.
enum Carrier {
    /// A session over the network.
    Session { name: VolumeName, volume: Box<Volume>, connections: Connections },
    /// A disk of the machine.
    Local(Box<dyn LocalDisk>),
}

/// The node's own disk.
pub(crate) struct StateDisk {
    carrier: Carrier,
    lanes: Lanes,
}

impl StateDisk {
    /// The session that carries it.
    pub(crate) const fn volume(&self) -> Option<&Volume> {
        match &self.carrier {
            Carrier::Session { volume, .. } => Some(volume),
            Carrier::Local(_) => None,
        }
    }

    /// The session that carries it, and its connections.
    pub(crate) fn session(&mut self) -> Option<(&mut Volume, &mut Connections)> {
        match &mut self.carrier {
            Carrier::Session { volume, connections, .. } => Some((volume, connections)),
            Carrier::Local(_) => None,
        }
    }
}

/// How a work ended: what was read, or None when it failed.
pub type Ended = Option<Vec<u8>>;

impl Volumes {
    /// Whether the state volume is connected over iSCSI.
    pub(crate) fn has_iscsi_state(&self) -> bool {
        matches!(self.state.as_ref().and_then(StateDisk::volume), Some(Volume::Iscsi(_)))
    }

    /// Begins to connect the state volume.
    pub fn open_state(&mut self, name: VolumeName, settings: &VolumeSettings, now_ns: u64) {
        let volume = Box::new(self.session(&name, SHARE, false, settings, now_ns));
        let carrier = Carrier::Session { name, volume, connections: Connections::default() };
        self.state = Some(StateDisk { carrier, lanes: Lanes::default() });
    }

    /// Uses a disk of the machine as the state volume.
    pub fn open_local_state(&mut self, disk: Box<dyn LocalDisk>) {
        self.state = Some(StateDisk { carrier: Carrier::Local(disk), lanes: Lanes::default() });
    }

    /// Whether a name means the state volume.
    #[must_use]
    pub fn is_state(&self, other: &VolumeName) -> bool {
        match self.state.as_ref().map(|state| &state.carrier) {
            Some(Carrier::Session { name, .. }) => name.is_same_disk(other),
            _ => false,
        }
    }

    /// Sectors of the state volume, once it serves.
    #[must_use]
    pub fn state_sectors(&self) -> Option<u64> {
        match &self.state.as_ref()?.carrier {
            Carrier::Session { volume, .. } => volume.ready_capacity(),
            Carrier::Local(disk) => Some(disk.sectors()),
        }
    }

    /// Why the state volume does not serve, if it does not.
    #[must_use]
    pub fn state_trouble(&self) -> Option<String> {
        match &self.state.as_ref()?.carrier {
            Carrier::Session { volume, .. } => {
                let status = volume.status();
                let trouble = match status.state {
                    VolumeState::Ready => return None,
                    VolumeState::Stalled => "does not answer any more",
                    VolumeState::Refused => "is refused by its target",
                    _ => "does not answer yet",
                };
                Some(match status.trouble() {
                    Some(error) => alloc::format!("{trouble}: {error}"),
                    None => trouble.to_string(),
                })
            }
            Carrier::Local(_) => None,
        }
    }

    /// Begins a work in a lane that is free; false when it cannot be begun.
    pub fn begin_state(&mut self, lane: usize, work: DiskWork, now_ns: u64) -> bool {
        let id = self.next_request;
        self.next_request += 1;
        let Some(StateDisk { carrier, lanes }) = &mut self.state else { return false };
        let Some(slot) = lanes.0.get_mut(lane).filter(|slot| slot.is_none()) else { return false };
        match carrier {
            Carrier::Session { volume, .. } => {
                let (operation, lba, sectors, bytes) = match work {
                    DiskWork::Read { sector, sectors } => {
                        let length = usize::try_from(sectors).unwrap_or(0) * storage::block::SECTOR_BYTES;
                        (Operation::Read, sector, sectors, vec![0; length])
                    }
                    DiskWork::Write { sector, bytes } => {
                        let sectors = bytes.len() / storage::block::SECTOR_BYTES;
                        (Operation::Write, sector, u32::try_from(sectors).unwrap_or(0), bytes)
                    }
                    DiskWork::Flush => (Operation::Flush, 0, 0, Vec::new()),
                };
                let request = Request { id: RequestId(id), operation, lba: Lba(lba), sectors };
                *slot = Some(Lane { id, bytes, reads: operation == Operation::Read });
                if volume.submit(request, now_ns).is_err() {
                    *slot = None;
                    return false;
                }
                true
            }
            Carrier::Local(disk) => {
                let begun = disk.begin(u8::try_from(lane).unwrap_or(0), &work);
                if begun {
                    *slot = Some(Lane { id, bytes: Vec::new(), reads: false });
                }
                begun
            }
        }
    }

    /// The next work that has ended: its lane, and how.
    pub fn take_state(&mut self) -> Option<(usize, Ended)> {
        let StateDisk { carrier, lanes } = self.state.as_mut()?;
        match carrier {
            Carrier::Session { volume, .. } => loop {
                let completion = volume.take_completion()?;
                let ours = |slot: &Option<Lane>| slot.as_ref().is_some_and(|lane| lane.id == completion.id.0);
                let Some(index) = lanes.0.iter().position(ours) else { continue };
                let lane = lanes.0.get_mut(index).and_then(Option::take)?;
                let read = if lane.reads { lane.bytes } else { Vec::new() };
                return Some((index, completion.result.is_ok().then_some(read)));
            },
            Carrier::Local(disk) => {
                let (tag, ended) = disk.take()?;
                let index = usize::from(tag);
                lanes.0.get_mut(index)?.take()?;
                Some((index, ended))
            }
        }
    }

    /// Gives the state volume's reservation up and ends its session: it is not ours.
    pub fn close_state(&mut self, stacks: &mut Stacks, now_ns: u64) {
        if let Some(StateDisk { carrier: Carrier::Session { name, mut volume, connections }, .. }) =
            self.state.take()
        {
            volume.abandon();
            self.begin_logout(name, SHARE, *volume, connections, false, stacks, now_ns);
        }
    }

    /// Asks the machine's own disk for an interrupt; true when there is something to
    /// do already.
    pub fn arm_state(&mut self) -> bool {
        match self.state.as_mut().map(|state| &mut state.carrier) {
            Some(Carrier::Local(disk)) => disk.arm(),
            _ => false,
        }
    }

    pub(crate) fn receive_state(&mut self, frame: &[u8], now_ns: u64) -> bool {
        let Some(StateDisk { carrier: Carrier::Session { volume, .. }, lanes }) = &mut self.state else {
            return false;
        };
        match &mut **volume {
            Volume::Aoe(target) => target.receive(frame, now_ns, lanes),
            Volume::Iscsi(_) => false,
        }
    }

    pub(crate) fn transmit_state(&mut self, buffer: &mut [u8], now_ns: u64) -> Option<usize> {
        let Some(StateDisk { carrier: Carrier::Session { volume, .. }, lanes }) = &mut self.state else {
            return None;
        };
        match &mut **volume {
            Volume::Aoe(target) => target.transmit(buffer, now_ns, lanes),
            Volume::Iscsi(_) => None,
        }
    }

    pub(crate) fn poll_state(&mut self, stacks: &mut Stacks, now_ns: u64) {
        let Some(StateDisk { carrier: Carrier::Session { volume, connections, .. }, lanes }) =
            &mut self.state
        else {
            return;
        };
        volume.poll(now_ns);
        if let Volume::Iscsi(session) = &mut **volume {
            connections.drive(session, stacks, lanes, (&mut self.pace, now_ns));
        }
    }

    pub(crate) fn next_state_deadline(&self) -> Option<u64> {
        match &self.state.as_ref()?.carrier {
            Carrier::Session { volume, .. } => volume.next_deadline(),
            Carrier::Local(_) => None,
        }
    }
}
