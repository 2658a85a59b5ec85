//! Every bound of the protocol in one place.

/// Most bytes of a guest's name.
pub const NAME_BYTES: usize = 63;
/// Most disks of a guest.
pub const DISKS: usize = 8;
/// Most network cards of a guest.
pub const NETWORK_CARDS: usize = 4;
/// Most addresses and prefixes of a network card.
pub const CARD_ADDRESSES: usize = 16;
/// Most hardware addresses of a network card besides its own.
pub const CARD_MACS: usize = 32;
/// Most virtual routers of a network card.
pub const CARD_ROUTERS: usize = 8;
/// Most VLANs of a network card.
pub const CARD_VLANS: usize = 32;
/// Least octets per second that a card may be held to: 100 kbit/s.
pub const CARD_RATE_MIN: u64 = 12_500;
/// Most octets per second that a card may send, which is what each may that is held to
/// nothing else: 10 Gbit/s.
pub const CARD_RATE_MAX: u64 = 1_250_000_000;
/// Most grants of what network cards may.
pub const CARD_GRANTS: usize = 32;
/// Most vCPUs of a guest.
pub const VCPUS: u32 = 32;
/// Least memory of a guest in bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Most memory of a guest in bytes.
pub const MEMORY_BYTES_MAX: u64 = 240 << 30;
/// Most bytes of a guest's kernel command line.
pub const COMMAND_LINE_BYTES: usize = 2047;
/// Most bytes of a volume's name.
pub const VOLUME_BYTES: usize = 512;
/// Most things set for a disk, or for a guest.
pub const DISK_SETTINGS: usize = 32;
/// Most portals of a volume, the one in its name included.
pub const PORTALS: usize = 8;
/// Most stations believed for a volume.
pub const STATIONS: usize = 16;
/// Most bytes of a secret.
pub const SECRET_BYTES: usize = 255;
/// Most bytes of volumes in one reply.
pub const VOLUME_PAGE_BYTES: usize = 8 * 1024;
/// Most bytes of what a search found in one reply.
pub const FOUND_BYTES: usize = 60 * 1024;
/// Most blobs that one request asks about.
pub const DIGESTS: usize = 64;
/// Most bytes of a kernel or initrd.
pub const BLOB_BYTES: u64 = 512 << 20;
/// Most bytes of console or log in one reply.
pub const STREAM_BYTES: usize = 16 * 1024;
/// Most bytes of console input in one request.
pub const INPUT_BYTES: usize = 4096;
/// Most bytes of an encoded request or reply.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Most bytes of a blob in one data frame.
pub const BLOB_CHUNK_BYTES: usize = 16 * 1024;
/// Most bytes of a record from who is no admin, sealed: a part of a blob, or a command of
/// any kind but trust bundles.
pub const SHORT_RECORD_BYTES: usize = BLOB_CHUNK_BYTES + 1024;
/// Most bytes of a record's plain text: a message, its envelope and a type.
pub const RECORD_BYTES: usize = MESSAGE_BYTES + 1024;
/// Most bytes an end keeps of what it received and cannot use yet.
pub const RECEIVE_BYTES: usize = RECORD_BYTES + 64;
/// Most bytes an end keeps of what it has to send: two records with their lengths and tags.
pub const TRANSMIT_BYTES: usize = 2 * (RECORD_BYTES + 64);
/// How long an operator may take for its first record after the handshake, in nanoseconds.
pub const FIRST_RECORD_NS: u64 = 5_000_000_000;
/// How long a node uses one ephemeral key for new connections, in nanoseconds.
pub const EPHEMERAL_FRESH_NS: u64 = 10_000_000_000;
/// When it wipes it, in nanoseconds.
pub const EPHEMERAL_NS: u64 = 15_000_000_000;
/// How often each operator with a pass may knock.
pub const PERSONAL_LANE: Lane = Lane { burst: 32, interval_ns: 62_500_000 };
/// How often all others may who know a key of the node.
pub const FAST_LANE: Lane = Lane { burst: 16, interval_ns: 62_500_000 };
/// How often all may who know none.
pub const SLOW_LANE: Lane = Lane { burst: 8, interval_ns: 125_000_000 };
/// Knocks remembered, so that none is answered twice.
pub const KNOCKS_REMEMBERED: usize = 17_792;
// All that are let through within the life of an ephemeral key.
const _: () = assert!(
    (PERSONAL_LANE.within(EPHEMERAL_NS) * 64
        + FAST_LANE.within(EPHEMERAL_NS)
        + SLOW_LANE.within(EPHEMERAL_NS))
        == 17_792
        && OPERATORS == 64
);
/// How long an idle session is kept, in nanoseconds.
pub const IDLE_TIMEOUT_NS: u64 = 120_000_000_000;
/// Most operators a node knows.
pub const OPERATORS: usize = 64;
/// Most network cards besides the first one.
pub const STORAGE_CARDS: usize = 3;
/// Most bytes of a manifest.
pub const MANIFEST_BYTES: usize = 64 * 1024;
/// Most audit entries in one reply.
pub const AUDIT_ENTRIES: usize = 64;
/// Most bytes of an encoded audit entry.
pub const AUDIT_ENTRY_BYTES: usize = 510;
/// Most root keys of an owner.
pub const ROOTS: usize = 16;
/// Most keys revoked in one trust bundle.
pub const REVOKED: usize = 256;
/// Most names in a scope.
pub const SCOPE_PATTERNS: usize = 32;
/// Most bytes of a signed trust bundle: it fits into one request.
pub const BUNDLE_BYTES: usize = 60 * 1024;
/// Most bundles between the sealed root and the one that holds.
pub const TRUST_LINKS: usize = 16;
/// Most bytes of all of them, with their lengths.
pub const TRUST_BYTES: usize = TRUST_LINKS * (BUNDLE_BYTES + 4);
/// Guests that may start with a node.
pub const KEPT_GUESTS: usize = 128;
/// Earlier keys that a node remembers.
pub const NODE_KEYS: usize = 16;
/// Jobs that a node knows: those that go on, and the last that ended.
pub const JOBS: usize = 32;
/// Of these, how many are for trust bundles and lockdown alone.
pub const JOBS_URGENT: usize = 4;
/// How long a job is known after its end, in nanoseconds.
pub const JOB_KEPT_NS: u64 = 600_000_000_000;
/// Least time between two records of progress, in milliseconds.
pub const PROGRESS_MS_MIN: u32 = 100;
/// Most bytes of an exported configuration.
pub const CONFIG_BYTES: usize = 2 << 20;
/// Most sealed settings that an exported configuration tells in words.
pub const CONFIG_SETTINGS: usize = 64;

/// How often something may happen: so many at once, then one in so many nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// At once, after a pause.
    pub burst: u64,
    /// Nanoseconds for one more.
    pub interval_ns: u64,
}

impl Lane {
    /// Most that it lets through within so long.
    #[must_use]
    pub const fn within(self, time_ns: u64) -> u64 {
        self.burst + time_ns / self.interval_ns
    }
}
