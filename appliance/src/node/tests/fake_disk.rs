//! A disk of the machine with a volatile cache: what is written is read back, but only
//! what was flushed is sure to survive a cut of power.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use machine::test_random::TestRandom;
use storage::local::{DiskWork, LocalDisk};

const SECTOR: usize = 512;

pub(super) struct Disk {
    /// What is durable.
    durable: BTreeMap<u64, [u8; SECTOR]>,
    cached: BTreeMap<u64, [u8; SECTOR]>,
    sectors: u64,
    ended: VecDeque<(u8, Option<Vec<u8>>)>,
    /// Writes so far.
    pub(super) writes: usize,
    /// After so many of them the power goes.
    pub(super) cut_at: Option<usize>,
    /// The power is off: nothing is done or answered.
    pub(super) off: bool,
    /// It takes what is asked and never ends it.
    pub(super) stalled: bool,
    /// Everything fails.
    pub(super) broken: bool,
}

/// The handle that a test and a node share.
#[derive(Clone)]
pub(super) struct FakeDisk(Rc<RefCell<Disk>>);

impl FakeDisk {
    pub(super) fn new(sectors: u64) -> Self {
        Self(Rc::new(RefCell::new(Disk {
            durable: BTreeMap::new(),
            cached: BTreeMap::new(),
            sectors,
            ended: VecDeque::new(),
            writes: 0,
            cut_at: None,
            off: false,
            stalled: false,
            broken: false,
        })))
    }

    pub(super) fn disk(&self) -> RefMut<'_, Disk> {
        self.0.borrow_mut()
    }

    /// Another disk with the same content, as it is durable.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new(self.disk().sectors);
        copy.disk().durable = self.disk().durable.clone();
        copy
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.disk().ended.is_empty()
    }

    /// The power goes: each sector in the cache was written, was not, or, if it may be,
    /// holds garbage.
    pub(super) fn cut(&self, random: &mut TestRandom, garbage: bool) {
        let mut disk = self.disk();
        for (sector, bytes) in core::mem::take(&mut disk.cached) {
            match random.below(4) {
                0 => {}
                1 if garbage => {
                    let mut bytes = [0; SECTOR];
                    bytes.fill_with(|| random.byte());
                    disk.durable.insert(sector, bytes);
                }
                _ => {
                    disk.durable.insert(sector, bytes);
                }
            }
        }
        disk.ended.clear();
        (disk.off, disk.cut_at) = (false, None);
    }

    /// Sectors that are not zero.
    pub(super) fn used(&self) -> Vec<u64> {
        let disk = self.disk();
        disk.durable.iter().filter(|(_, bytes)| **bytes != [0; SECTOR]).map(|(sector, _)| *sector).collect()
    }

    /// Alters a durable byte.
    pub(super) fn alter(&self, sector: u64, at: usize, value: u8) {
        self.disk().durable.entry(sector).or_insert([0; SECTOR])[at] ^= value;
    }

    /// Whether some bytes are anywhere on it.
    pub(super) fn holds(&self, wanted: &[u8]) -> bool {
        let disk = self.disk();
        let all: Vec<u8> = disk.durable.values().chain(disk.cached.values()).flatten().copied().collect();
        all.windows(wanted.len()).any(|part| part == wanted)
    }

    /// Every durable sector, to compare.
    pub(super) fn image(&self) -> BTreeMap<u64, Vec<u8>> {
        self.disk().durable.iter().map(|(sector, bytes)| (*sector, bytes.to_vec())).collect()
    }
}

impl LocalDisk for FakeDisk {
    fn sectors(&self) -> u64 {
        self.disk().sectors
    }

    fn begin(&mut self, tag: u8, work: &DiskWork) -> bool {
        let mut disk = self.disk();
        if disk.off || disk.stalled {
            return true;
        }
        if disk.broken {
            disk.ended.push_back((tag, None));
            return true;
        }
        let mut read = Vec::new();
        match work {
            DiskWork::Read { sector, sectors } => {
                assert!(sector + u64::from(*sectors) <= disk.sectors, "a read beyond the end");
                for sector in *sector..sector + u64::from(*sectors) {
                    let found = disk.cached.get(&sector).or_else(|| disk.durable.get(&sector));
                    read.extend_from_slice(found.unwrap_or(&[0; SECTOR]));
                }
            }
            DiskWork::Write { sector, bytes } => {
                assert_eq!(bytes.len() % SECTOR, 0);
                assert!(sector + (bytes.len() / SECTOR) as u64 <= disk.sectors, "a write beyond the end");
                for (sector, part) in (*sector..).zip(bytes.chunks(SECTOR)) {
                    disk.cached.insert(sector, part.try_into().unwrap());
                }
                disk.writes += 1;
                if disk.cut_at.is_some_and(|at| disk.writes >= at) {
                    disk.off = true;
                    return true;
                }
            }
            DiskWork::Flush => {
                let Disk { durable, cached, .. } = &mut *disk;
                durable.append(cached);
            }
        }
        disk.ended.push_back((tag, Some(read)));
        true
    }

    fn take(&mut self) -> Option<(u8, Option<Vec<u8>>)> {
        self.disk().ended.pop_front()
    }

    fn arm(&mut self) -> bool {
        self.has_ended()
    }
}

/// A disk of so many MiB.
pub(super) fn disk_mib(mib: u64) -> FakeDisk {
    FakeDisk::new(mib << 11)
}
