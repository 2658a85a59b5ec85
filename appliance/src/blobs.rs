//! PersistedFiles and initrds on the node, named by digest.
//!
//! Each lives in the memory of a domain of its own that never runs, so that it
//! costs dom0 no memory, is accounted like a guest and survives dom0.

pub(crate) mod persisted;
pub(crate) mod uploads;
use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::call::Error;
use hv_abi::domain::DomainSpec;
use machine::guest_memory::GuestMemory;
use machine::layout::{HIGH_MEMORY_START, LOW_MEMORY_END, MemoryLayout};
use mgmt_proto::limits::BLOB_BYTES;
use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};

use crate::blobs::persisted::PersistedFiles;
use crate::blobs::uploads::{Announced, Unfinished, Upload};
use crate::hypervisor::Hypervisor;
use crate::limits::{BLOBS_MAX, UPLOAD_STEP_BYTES};

const _: () = assert!(BLOB_BYTES <= LOW_MEMORY_END && LOW_MEMORY_END < HIGH_MEMORY_START);

const MIB: u64 = 1 << 20;

/// First bytes of what is kept for a blob across dom0's restart.
const RECORD_MAGIC: [u8; 8] = *b"REDOBLOB";

#[derive(Debug)]
struct Blob {
    digest: Digest,
    length: usize,
    domain: DomainId,
    used_ns: u64,
}

/// The blobs, and which of them guests need.
pub(crate) type Kept<'a, M> = (&'a mut Blobs<M>, &'a dyn Fn(&Digest) -> bool);

/// All blobs of the node.
pub struct Blobs<M> {
    blobs: Vec<Blob>,
    /// Uploads whose sessions ended.
    pub(crate) unfinished: Unfinished<M>,
    /// Those on the state volume.
    pub(crate) persisted: PersistedFiles<M>,
}

/// What is kept of a blob across dom0's restart.
pub(crate) fn record_of(length: u64, digest: &Digest) -> Vec<u8> {
    [&RECORD_MAGIC[..], &length.to_le_bytes(), digest].concat()
}

/// Length and digest of a blob from what was kept; none for what is no record of one.
pub(crate) fn recorded(record: &[u8]) -> Option<(usize, Digest)> {
    let (length, digest) = record.strip_prefix(&RECORD_MAGIC)?.split_first_chunk::<8>()?;
    Some((usize::try_from(u64::from_le_bytes(*length)).ok()?, digest.try_into().ok()?))
}

/// Memory of the domain for so many bytes.
pub(crate) const fn domain_bytes(length: u64) -> u64 {
    length.next_multiple_of(2 << 20)
}

impl<M: GuestMemory> Default for Blobs<M> {
    fn default() -> Self {
        Self { blobs: Vec::new(), unfinished: Unfinished::new(), persisted: PersistedFiles::default() }
    }
}

impl<M: GuestMemory> Blobs<M> {
    /// Domain and length of a blob.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<(DomainId, usize)> {
        self.blobs.iter().find(|blob| blob.digest == *digest).map(|blob| (blob.domain, blob.length))
    }

    /// Notes that a blob was asked for.
    pub fn touch(&mut self, digest: &Digest, now_ns: u64) {
        if let Some(blob) = self.blobs.iter_mut().find(|blob| blob.digest == *digest) {
            blob.used_ns = now_ns;
        }
    }

    /// Begins to receive a blob, dropping old ones that `needed` does not name if
    /// there is no room.
    ///
    /// # Errors
    /// The failure to report.
    pub fn begin<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        operator: Option<[u8; 32]>,
        digest: Digest,
        length: u64,
        needed: &dyn Fn(&Digest) -> bool,
        now_ns: u64,
    ) -> Result<Upload<M>, Refusal> {
        if length == 0 || length > BLOB_BYTES {
            return Err(Refusal::of("", Reason::BlobLength { bytes: length }));
        }
        self.expect_room(hypervisor, length, needed)?;
        // What the node reads itself comes whole. An operator's upload takes memory as its
        // bytes come: announcing one costs nothing.
        let whole = domain_bytes(length);
        let memory_bytes = if operator.is_some() { whole.min(UPLOAD_STEP_BYTES) } else { whole };
        let spec = DomainSpec { memory_bytes, vcpus: 1, weight: 256, cap_percent: 0, reserved: 0 };
        let domain = loop {
            if self.blobs.len() < BLOBS_MAX {
                match self.create_domain(hypervisor, &spec) {
                    Ok(domain) => break domain,
                    Err(Error::NoMemory | Error::NoSlot) => {}
                    Err(_) => {
                        return Err(Refusal::of(
                            "",
                            Reason::Hypervisor { what: "the hypervisor refused memory".into() },
                        ));
                    }
                }
            }
            if !self.drop_oldest(hypervisor, needed) {
                return Err(self.no_room(hypervisor, length, needed));
            }
        };
        let memory = hypervisor.memory(domain, MemoryLayout::new(memory_bytes));
        let announced = Announced { operator, digest, length: hv_x86::to_usize(length) };
        Ok(Upload::new(announced, domain, (memory, memory_bytes), now_ns))
    }

    /// Refuses what cannot fit even if everything that no guest needs is dropped for it.
    fn expect_room<H: Hypervisor<Memory = M>>(
        &self,
        hypervisor: &mut H,
        length: u64,
        needed: &dyn Fn(&Digest) -> bool,
    ) -> Result<(), Refusal> {
        match domain_bytes(length) > self.room(hypervisor, needed) {
            true => Err(self.no_room(hypervisor, length, needed)),
            false => Ok(()),
        }
    }

    /// Bytes that are free, or would be.
    fn room<H: Hypervisor<Memory = M>>(&self, hypervisor: &mut H, needed: &dyn Fn(&Digest) -> bool) -> u64 {
        let droppable = self.blobs.iter().filter(|blob| !needed(&blob.digest));
        let droppable: u64 = droppable.map(|blob| domain_bytes(blob.length as u64)).sum();
        hypervisor.node_info().memory_free_bytes + self.unfinished.bytes() + droppable
    }

    fn no_room<H: Hypervisor<Memory = M>>(
        &self,
        hypervisor: &mut H,
        length: u64,
        needed: &dyn Fn(&Digest) -> bool,
    ) -> Refusal {
        let room = self.room(hypervisor, needed);
        Refusal::of(
            "",
            if domain_bytes(length) > room {
                Reason::BlobNoRoom { wanted_mib: length.div_ceil(MIB), free_mib: room / MIB }
            } else {
                Reason::BlobsInUse { most: BLOBS_MAX as u64 }
            },
        )
    }

    /// Takes the next bytes of an upload, and memory for them.
    ///
    /// # Errors
    /// The failure to report. The upload is of no use any more.
    pub fn receive<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        upload: &mut Upload<M>,
        bytes: &[u8],
        needed: &dyn Fn(&Digest) -> bool,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        while let Some(memory_bytes) = upload.lacks(bytes.len()) {
            match hypervisor.domain_grow(upload.domain(), memory_bytes) {
                Ok(()) => {
                    let memory = hypervisor.memory(upload.domain(), MemoryLayout::new(memory_bytes));
                    upload.has_grown(memory, memory_bytes);
                }
                Err(Error::NoMemory)
                    if self.unfinished.drop_oldest(hypervisor) || self.drop_oldest(hypervisor, needed) => {}
                Err(_) => return Err(self.no_room(hypervisor, upload.announced().length as u64, needed)),
            }
        }
        match upload.push(bytes, now_ns) {
            true => Ok(()),
            false => Err(Refusal::of("", Reason::BlobOverlong)),
        }
    }

    /// Makes a domain. Unfinished uploads give way to it, oldest first.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn create_domain<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        spec: &DomainSpec,
    ) -> Result<DomainId, Error> {
        loop {
            match hypervisor.domain_create(spec) {
                Err(Error::NoMemory | Error::NoSlot) if self.unfinished.drop_oldest(hypervisor) => {}
                made => return made,
            }
        }
    }

    /// Drops a blob that nothing uses.
    pub fn drop_one<H: Hypervisor>(&mut self, hypervisor: &mut H, digest: &Digest) {
        if let Some(index) = self.blobs.iter().position(|blob| blob.digest == *digest) {
            let blob = self.blobs.swap_remove(index);
            let _ = hypervisor.domain_destroy(blob.domain);
        }
    }

    fn drop_oldest<H: Hypervisor>(&mut self, hypervisor: &mut H, needed: &dyn Fn(&Digest) -> bool) -> bool {
        let free = self.blobs.iter().enumerate().filter(|(_, blob)| !needed(&blob.digest));
        let Some((index, _)) = free.min_by_key(|(_, blob)| blob.used_ns) else { return false };
        let blob = self.blobs.swap_remove(index);
        let _ = hypervisor.domain_destroy(blob.domain);
        true
    }

    /// Ends an upload: the blob is there if every byte is what its digest says.
    ///
    /// # Errors
    /// The failure to report; nothing is left behind.
    pub fn finish<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        upload: Upload<M>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let Announced { digest, length, .. } = *upload.announced();
        let domain = upload.finish(hypervisor)?;
        let _ = hypervisor.store_put(domain.slot().index(), &record_of(length as u64, &digest));
        if self.find(&digest).is_some() {
            let _ = hypervisor.domain_destroy(domain);
            return Ok(());
        }
        self.blobs.push(Blob { digest, length, domain, used_ns: now_ns });
        Ok(())
    }

    /// Takes over a blob that an earlier dom0 received; false if the record is
    /// not one of a blob.
    pub fn adopt(&mut self, domain: DomainId, record: &[u8], now_ns: u64) -> bool {
        let Some((length, digest)) = recorded(record) else { return false };
        self.blobs.push(Blob { digest, length, domain, used_ns: now_ns });
        true
    }
}
