//! Moves kernels and initrds to the state volume and back: [`crate::blobs::persisted`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};
use storage::local::DiskWork;
use storage::store::BLOCK_BYTES;

use crate::blobs::persisted::{CHUNK, Kernel, PREFIX, Work, sector};
use crate::blobs::uploads::Upload;
use crate::guests::autostart::{files, needs};
use crate::guests::guest::RunState;
use crate::hypervisor::Hypervisor;
use crate::limits::START_TIMEOUT_NS;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::state::KERNELS;
use crate::state::changes::Change;
use crate::volumes::Ended;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Reads where the files are.
    pub(crate) fn take_kernels(&mut self) {
        for key in self.state.keys(PREFIX) {
            let blocks = self.state.blocks;
            let kernel = self.state.value(&key).and_then(|value| Kernel::decode(&key, &value, blocks));
            match kernel {
                Some(kernel) => self.blobs.persisted.kept.push(kernel),
                None => log::warn!("a kernel cannot be found on the state volume"),
            }
        }
    }

    /// Takes files that no guest needs out of the table, and has the store forget them.
    pub(crate) fn take_orphans(&mut self, changes: &mut Vec<Change>) -> Vec<Kernel> {
        let (autostart, persisted) = (&self.guests.autostart, &mut self.blobs.persisted);
        let queue = &persisted.queue;
        let wanted = |kernel: &Kernel| {
            let queued = queue.iter().flat_map(|job| &job.guests).any(|guest| needs(guest, &kernel.digest));
            queued || autostart.needs(&kernel.digest)
        };
        let orphans: Vec<Kernel> = persisted.kept.extract_if(.., |kernel| !wanted(kernel)).collect();
        changes.extend(orphans.iter().map(|kernel| (kernel.key(), None)));
        orphans
    }

    /// What a cut of power left behind: files that no guest needs.
    pub(crate) fn drop_orphans(&mut self) {
        let mut changes = Vec::new();
        let orphans = self.take_orphans(&mut changes);
        if !orphans.is_empty() {
            let batch = self.state.changes.add(changes);
            self.blobs.persisted.release(batch, orphans);
        }
    }

    /// Does the next thing with files, if the lane is free.
    pub(crate) fn poll_kernels(&mut self, now_ns: u64) {
        self.blobs.persisted.reclaim(&self.state.changes);
        while !self.blobs.persisted.busy {
            let idle = matches!(self.blobs.persisted.work, Work::Nothing);
            if idle && (self.begin_read(now_ns) || self.begin_write()) {
                continue;
            }
            let work = match &self.blobs.persisted.work {
                Work::Nothing => return,
                Work::Flush(_) => DiskWork::Flush,
                Work::Read(kernel, done, _) => {
                    let bytes = CHUNK.min(kernel.length - done).next_multiple_of(BLOCK_BYTES as u64);
                    let sectors = u32::try_from(bytes / storage::block::SECTOR_BYTES as u64).unwrap_or(0);
                    DiskWork::Read { sector: sector(kernel, *done), sectors }
                }
                Work::Write(kernel, done) => {
                    let (kernel, done) = (*kernel, *done);
                    match self.chunk(&kernel, done) {
                        Some(bytes) => DiskWork::Write { sector: sector(&kernel, done), bytes },
                        None => {
                            self.blobs.persisted.work = Work::Nothing;
                            self.give_up_job(Reason::KernelGone);
                            continue;
                        }
                    }
                }
            };
            self.blobs.persisted.busy = true;
            if !self.volumes.begin_state(KERNELS, work, now_ns) {
                self.blobs.persisted.busy = false;
                return self.fail_state("was lost: it takes no more work", now_ns);
            }
        }
    }

    /// The next bytes of a file that goes to the volume.
    fn chunk(&mut self, kernel: &Kernel, done: u64) -> Option<Vec<u8>> {
        let (domain, length) = self.blobs.find(&kernel.digest)?;
        let from = usize::try_from(done).ok()?;
        let to = usize::try_from(done + CHUNK).ok()?.min(length);
        let mut bytes = Vec::new();
        self.hypervisor.with_blob(domain, to, &mut |_, all| {
            bytes.extend_from_slice(all.get(from..to).unwrap_or_default());
        });
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Begins to read the file that a guest waits for; false when none does.
    fn begin_read(&mut self, now_ns: u64) -> bool {
        for index in 0..self.guests.list.len() {
            let Some(guest) = self.guests.get_mut(index).filter(|guest| guest.awaits_files) else { continue };
            let wanted = [Some(guest.machine.kernel), guest.machine.ramdisk].into_iter().flatten();
            let Some(missing) = wanted.into_iter().find(|file| self.blobs.find(file).is_none()) else {
                guest.awaits_files = false;
                // Its disks have as long as those of any new guest.
                let disks_ns = now_ns.saturating_add(START_TIMEOUT_NS);
                guest.start_deadline_ns = guest.start_deadline_ns.map(|_| disks_ns);
                continue;
            };
            let name = guest.machine.name.clone();
            let guests = &self.guests;
            let needed = |digest: &Digest| guests.need(digest);
            let begun = match self.blobs.persisted.find(&missing) {
                Some(kernel) => self
                    .blobs
                    .begin(&mut self.hypervisor, None, missing, kernel.length, &needed, now_ns)
                    .map(|upload| Work::Read(kernel, 0, Box::new(upload))),
                None => Err(Refusal::of("", Reason::FilesNotKept)),
            };
            match begun {
                Ok(work) => {
                    self.blobs.persisted.work = work;
                    return true;
                }
                Err(failure) => self.autostart_failed(index, failure.about(name), now_ns),
            }
        }
        false
    }

    /// Begins to write the next file of the oldest job, or ends the job; false when there
    /// is none.
    fn begin_write(&mut self) -> bool {
        let Some(job) = self.blobs.persisted.queue.front() else { return false };
        let kernels = &self.blobs.persisted;
        let missing =
            job.guests.iter().flat_map(files).find(|file| {
                kernels.find(file).is_none() && (self.blobs.find(file).is_some() || !job.lacking)
            });
        let Some(digest) = missing else {
            if let Some(job) = self.blobs.persisted.queue.pop_front() {
                self.commit(job);
            }
            return true;
        };
        let length = self.blobs.find(&digest).map(|(_, length)| length as u64);
        let place =
            length.and_then(|length| self.blobs.persisted.place(&[], digest, length, self.state.blocks));
        match place {
            Some(kernel) => self.blobs.persisted.work = Work::Write(kernel, 0),
            None if length.is_none() => self.give_up_job(Reason::KernelGone),
            // What was freed a moment ago may not be durable yet.
            None if !self.blobs.persisted.freed.is_empty() => return false,
            None => self.give_up_job(Reason::StateNoRoomForKernel),
        }
        true
    }

    fn give_up_job(&mut self, why: Reason) {
        if let Some(job) = self.blobs.persisted.queue.pop_front() {
            let name = job.guests.first().map_or("", |guest| guest.machine.name.as_str());
            let failure = Refusal::of(name, why);
            self.state.changes.break_promise(job.promise, failure);
        }
    }

    /// What was begun in the lane has ended.
    pub(crate) fn kernel_lane_ended(&mut self, ended: Ended, now_ns: u64) {
        self.blobs.persisted.busy = false;
        let work = core::mem::replace(&mut self.blobs.persisted.work, Work::Nothing);
        let Some(bytes) = ended else {
            if let Work::Read(_, _, upload) = work {
                upload.cancel(&mut self.hypervisor);
            }
            return self.fail_state("was lost: it could not be read or written", now_ns);
        };
        self.blobs.persisted.work = match work {
            Work::Nothing => Work::Nothing,
            Work::Write(kernel, done) if done + CHUNK < kernel.length => Work::Write(kernel, done + CHUNK),
            Work::Write(kernel, _) => Work::Flush(kernel),
            Work::Flush(kernel) => {
                self.name_kernel(kernel);
                Work::Nothing
            }
            Work::Read(kernel, done, mut upload) => {
                let count = usize::try_from(CHUNK.min(kernel.length - done)).unwrap_or(0);
                let whole = upload.push(bytes.get(..count).unwrap_or_default(), now_ns);
                if whole && !upload.is_complete() {
                    Work::Read(kernel, done + CHUNK, upload)
                } else {
                    self.file_read(&kernel, *upload, now_ns);
                    Work::Nothing
                }
            }
        };
    }

    /// A file is durable: the store names it.
    fn name_kernel(&mut self, kernel: Kernel) {
        let value = [kernel.first.to_le_bytes(), kernel.length.to_le_bytes()].concat();
        if let Some(change) = self.sealed_value(&kernel.key(), &value) {
            self.state.changes.add(alloc::vec![change]);
            self.blobs.persisted.kept.push(kernel);
        }
    }

    /// All of a file was read: it is what its digest says, or not there.
    fn file_read(&mut self, kernel: &Kernel, upload: Upload<H::Memory>, now_ns: u64) {
        let Err(_) = self.blobs.finish(&mut self.hypervisor, upload, now_ns) else { return };
        self.blobs.persisted.kept.retain(|other| other != kernel);
        for index in (0..self.guests.list.len()).rev() {
            let Some(guest) = self.guests.get(index) else { continue };
            if guest.awaits_files && guest.needs(&kernel.digest) && guest.life == RunState::Connecting {
                let failure = Refusal::of(&guest.machine.name, Reason::FilesDamaged);
                self.autostart_failed(index, failure, now_ns);
            }
        }
    }

    /// The volume is lost: nothing goes on.
    pub(crate) fn drop_kernel_work(&mut self) {
        let work = core::mem::replace(&mut self.blobs.persisted.work, Work::Nothing);
        if let Work::Read(_, _, upload) = work {
            upload.cancel(&mut self.hypervisor);
        }
        (self.blobs.persisted.busy, self.blobs.persisted.queue) = (false, VecDeque::new());
    }
}
