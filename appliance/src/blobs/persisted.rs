//! PersistedFiles and initrds on the state volume, behind the store: raw, each in one piece,
//! and checked by its digest when it is read.
//!
//! A file is durable before the store names it. The room of one that the store does
//! not name any more is used again only when that is durable.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::config::KeptGuest;
use mgmt_proto::limits::BLOB_BYTES;
use mgmt_proto::machine::Digest;
use storage::store::{BLOCK_BYTES, BLOCKS_MIN};

use crate::blobs::uploads::Upload;
use crate::state::BLOCK_SECTORS;
use crate::state::changes::Changes;

/// Bytes moved at a time.
pub(crate) const CHUNK: u64 = 256 * 1024;
pub(crate) const PREFIX: &str = "kernel/";

/// Where a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) digest: Digest,
    pub(crate) first: u64,
    pub(crate) length: u64,
}

impl Kernel {
    const fn blocks(&self) -> u64 {
        self.length.div_ceil(BLOCK_BYTES as u64)
    }

    const fn end(&self) -> u64 {
        self.first.saturating_add(self.blocks())
    }

    pub(crate) fn key(&self) -> String {
        self.digest.iter().fold(String::from(PREFIX), |key, byte| key + &alloc::format!("{byte:02x}"))
    }

    /// From what the store says; None for what no program of ours wrote.
    pub(crate) fn decode(key: &str, value: &[u8], blocks: u64) -> Option<Self> {
        let (first, length) = value.split_first_chunk::<8>()?;
        let hex = key.strip_prefix(PREFIX)?;
        let mut digest = [0; 32];
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        if pairs.len() != digest.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        let length = u64::from_le_bytes(length.try_into().ok()?);
        let kernel = Self { digest, first: u64::from_le_bytes(*first), length };
        let sound = (1..=BLOB_BYTES).contains(&length) && kernel.first >= BLOCKS_MIN;
        (sound && kernel.end() <= blocks).then_some(kernel)
    }
}

/// What a digit says, as a key is written: in small letters.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Where a file ends that the store tells of.
#[cfg(test)]
pub(crate) fn kernel_end(key: &str, value: &[u8], blocks: u64) -> Option<u64> {
    Kernel::decode(key, value, blocks).map(|kernel| kernel.end())
}

/// Guests that are to be kept, and who waits for that.
pub(crate) struct Keeping {
    pub(crate) promise: u64,
    pub(crate) guests: Vec<KeptGuest>,
    /// Files that the node does not have may be lacking.
    pub(crate) lacking: bool,
}

/// What is under way.
pub(crate) enum Work<M> {
    Nothing,
    /// A file goes to the volume: how far it has come.
    Write(Kernel, u64),
    /// All of it was written and is made durable.
    Flush(Kernel),
    /// A file comes from the volume: how far it has come.
    Read(Kernel, u64, Box<Upload<M>>),
}

/// Files on the volume, and what is done with them.
pub(crate) struct PersistedFiles<M> {
    pub(crate) kept: Vec<Kernel>,
    /// Room that is used again when a batch is durable.
    pub(crate) freed: Vec<(u64, Kernel)>,
    pub(crate) queue: VecDeque<Keeping>,
    pub(crate) work: Work<M>,
    /// The lane is in use.
    pub(crate) busy: bool,
}

impl<M> Default for PersistedFiles<M> {
    fn default() -> Self {
        Self { kept: Vec::new(), freed: Vec::new(), queue: VecDeque::new(), work: Work::Nothing, busy: false }
    }
}

impl<M> PersistedFiles<M> {
    pub(crate) fn find(&self, digest: &Digest) -> Option<Kernel> {
        self.kept.iter().find(|kernel| kernel.digest == *digest).copied()
    }

    /// Bytes in use, and of all room, on a volume of so many blocks.
    pub(crate) fn bytes(&self, blocks: u64) -> [u64; 2] {
        let used: u64 = self.kept.iter().map(Kernel::blocks).sum();
        [used * BLOCK_BYTES as u64, blocks.saturating_sub(BLOCKS_MIN) * BLOCK_BYTES as u64]
    }

    /// The first place between what is in use.
    pub(crate) fn place(&self, more: &[Kernel], digest: Digest, length: u64, blocks: u64) -> Option<Kernel> {
        let freed = self.freed.iter().map(|(_, kernel)| kernel);
        let mut used: Vec<&Kernel> = self.kept.iter().chain(freed).chain(more).collect();
        used.sort_unstable_by_key(|kernel| kernel.first);
        let mut kernel = Kernel { digest, first: BLOCKS_MIN, length };
        for other in used {
            if kernel.end() > other.first && other.end() > kernel.first {
                kernel.first = other.end();
            }
        }
        (kernel.end() <= blocks).then_some(kernel)
    }

    /// Whether files of these lengths find room.
    pub(crate) fn fit(&self, blocks: u64, lengths: &[u64]) -> bool {
        let mut more = Vec::new();
        lengths.iter().all(|length| match self.place(&more, [0; 32], *length, blocks) {
            Some(kernel) => {
                more.push(kernel);
                true
            }
            None => false,
        })
    }

    /// The room of files that the store does not name after a batch.
    pub(crate) fn release(&mut self, batch: u64, orphans: Vec<Kernel>) {
        self.freed.extend(orphans.into_iter().map(|kernel| (batch, kernel)));
    }

    pub(crate) fn reclaim(&mut self, changes: &Changes) {
        self.freed.retain(|(batch, _)| !changes.is_confirmed(*batch));
    }
}

/// The sector of a byte of a file.
pub(crate) const fn sector(kernel: &Kernel, done: u64) -> u64 {
    (kernel.first + done / BLOCK_BYTES as u64) * BLOCK_SECTORS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(first: u64, blocks: u64) -> Kernel {
        Kernel { digest: [1; 32], first: BLOCKS_MIN + first, length: blocks * BLOCK_BYTES as u64 }
    }

    #[test]
    fn files_are_placed_where_nothing_is() {
        let mut kernels: PersistedFiles<()> =
            PersistedFiles { kept: alloc::vec![kernel(2, 3)], ..PersistedFiles::default() };
        kernels.freed.push((9, kernel(6, 2)));
        let blocks = BLOCKS_MIN + 12;
        let place = |kernels: &PersistedFiles<()>, count: u64| {
            kernels.place(&[], [2; 32], count * BLOCK_BYTES as u64, blocks).map(|it| it.first - BLOCKS_MIN)
        };
        assert_eq!(place(&kernels, 1), Some(0));
        assert_eq!(place(&kernels, 2), Some(0));
        assert_eq!(place(&kernels, 3), Some(8));
        assert_eq!(place(&kernels, 5), None, "what is freed is not free yet");
        let block = BLOCK_BYTES as u64;
        assert!(kernels.fit(blocks, &[2 * block, 4 * block, block]));
        assert!(!kernels.fit(blocks, &[2 * block, 4 * block, block, 1, 1]));
        kernels.freed.clear();
        assert_eq!(place(&kernels, 7), Some(5));
    }

    #[test]
    fn what_the_store_says_is_checked() {
        let blocks = BLOCKS_MIN + 100;
        let good = Kernel { digest: [0xab; 32], first: BLOCKS_MIN, length: 5000 };
        let value = |kernel: &Kernel| [kernel.first.to_le_bytes(), kernel.length.to_le_bytes()].concat();
        assert_eq!(Kernel::decode(&good.key(), &value(&good), blocks), Some(good));
        for bad in [
            Kernel { first: BLOCKS_MIN - 1, ..good },
            Kernel { first: u64::MAX, ..good },
            Kernel { length: 0, ..good },
            Kernel { length: 101 * BLOCK_BYTES as u64, ..good },
            Kernel { length: u64::MAX, ..good },
        ] {
            assert_eq!(Kernel::decode(&bad.key(), &value(&bad), blocks), None, "{bad:?}");
        }
        assert_eq!(Kernel::decode("kernel/zz", &value(&good), blocks), None);
    }
}
