//! Requests. Encoded with postcard; the order of variants is the wire format, so new ones
//! go to the end. What is decided of each is one line of [`table`].

mod table;

use crate::audit::Log;
use crate::disk::{DiskSetting, GuestSettings, Limit};
pub use crate::facts::{
    AddressClaims, CardCondition, CardFacts, CardUse, DiskFacts, DropReason, Found, GuestFacts, NodeFacts,
    State, Stream, Traffic,
};
use crate::machine::{Digest, Disk, Machine};
pub use crate::reply::{Outcome, Reply};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
pub use table::{Answer, Effect, Subject, SubjectKind, VERBS, Verb, named};

/// Where to look for volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discover {
    /// Broadcast on the node's wires.
    Aoe,
    /// Ask an iSCSI portal.
    Iscsi {
        /// `[user@]address[:port]`.
        portal: String,
        /// The user's secret, and the other options of CHAP.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
    },
}

/// Which run of a node a log is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// The present one.
    Current,
    /// The one before: found in memory, printable, not to be trusted.
    Previous,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Facts about the node.
    NodeInfo,
    /// A log of the node from a running byte offset.
    NodeLog {
        /// Of which run.
        run: Run,
        /// Offset, 0 for the oldest that is kept.
        from: u64,
    },
    /// The node's own network cards.
    NodeCards,
    /// Restarts the machine, or turns it off.
    NodeStop {
        /// Off instead of restart.
        power_off: bool,
    },
    /// Makes dom0 fail, on nodes whose sealed settings allow it.
    InjectFault(Fault),
    /// The keys that the node had before, each with its signature of the next.
    NodeKeys,
    /// Gives the node another key, which the one it has signs.
    NodeKeyRotate,
    /// Whom the node listens to.
    TrustShow,
    /// Replaces the trust bundle that holds.
    TrustUpdate {
        /// The signed bundle, as [`crate::bundle::assemble`] makes it.
        signed: Vec<u8>,
    },
    /// Obeys nothing but [`Verb::is_rescue`] from now on, until the roots sign another
    /// trust bundle.
    Lockdown,
    /// Part of one of the two audit logs.
    AuditRead {
        /// Which.
        log: Log,
        /// First entry wanted.
        from: u64,
    },
    /// When the state that operators may change was changed last: of a guest, or of the
    /// node. With `expected`, the next request of this session that
    /// [changes](Self::changes) anything is refused unless that is still so.
    Revision {
        /// The guest; without, all of the node.
        of: Option<String>,
        /// What the next change supposes.
        expected: Option<u64>,
    },
    /// Contents and condition of the node's state volume.
    StateShow,
    /// The node's configuration, as [`crate::config::Config::sign`] makes it, from a
    /// byte offset.
    ConfigExport {
        /// Offset.
        from: u64,
    },
    /// Takes guests and trust bundles of an exported configuration.
    ConfigImport {
        /// The file, which was sent as a blob.
        digest: Digest,
    },
    /// Long work: what is under way, and what has ended lately.
    JobList,
    /// The outcome of a job, when it has one.
    JobWait {
        /// Its number.
        id: u64,
        /// How often progress is to be told until then, in milliseconds; 0 is never.
        every_ms: u32,
    },
    /// Ends a job so that nothing of it is left.
    JobCancel {
        /// Its number.
        id: u64,
    },
    /// This session hears of the jobs that its own commands become.
    Progress {
        /// How often, in milliseconds; 0 is never.
        every_ms: u32,
    },
    /// Searches for volumes.
    StorageDiscover(Discover),
    /// Volumes in use.
    StorageShow {
        /// Only this one.
        volume: Option<String>,
        /// Where to begin; 0, then [`crate::volume::VolumePage::next`].
        from: u32,
    },
    /// Tries a volume without a guest.
    StorageProbe {
        /// Its name.
        volume: String,
        /// Its options.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
    },
    /// Reserves a volume for this node, in use or not.
    StorageReserve {
        /// Its name.
        volume: String,
        /// Its options, where it is not in use.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
        /// Another holder gives way.
        force: bool,
    },
    /// Releases a volume's reservation.
    StorageRelease {
        /// Its name.
        volume: String,
        /// Its options, where it is not in use.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
        /// Also another node's.
        force: bool,
    },
    /// Takes a path of a volume out of use, or back.
    StoragePath {
        /// The volume's name.
        volume: String,
        /// The path, counted from 0.
        path: u32,
        /// Whether it is used.
        enabled: bool,
    },
    /// Which of these blobs the node lacks.
    BlobMissing(Vec<Digest>),
    /// Announces a blob; its bytes follow as data frames of this session.
    BlobPut {
        /// SHA-256 of the whole.
        digest: Digest,
        /// Bytes of the whole.
        length: u64,
        /// Continue an interrupted upload by the same operator, or use the blob if the
        /// node has it; otherwise begin anew.
        resume: bool,
    },
    /// All guests.
    List,
    /// One guest.
    Info {
        /// Its name.
        name: String,
    },
    /// The configuration that would create a guest again.
    GuestShow {
        /// The guest.
        name: String,
    },
    /// What the guests' network cards moved.
    Traffic,
    /// Checks a guest without creating it.
    Check {
        /// The guest.
        machine: Machine,
        /// Its options.
        settings: GuestSettings,
    },
    /// Creates and starts a guest.
    Create {
        /// The guest.
        machine: Machine,
        /// Its options.
        settings: GuestSettings,
        /// Leave it paused.
        paused: bool,
        /// It starts with the node from now on; lower numbers start first.
        autostart: Option<u32>,
    },
    /// Starts a guest that is kept and not there, or one that has ended and is.
    Start {
        /// The guest.
        name: String,
    },
    /// Starts a guest with the node from now on, or no longer.
    Autostart {
        /// The guest.
        name: String,
        /// Lower numbers start first; none is no longer.
        order: Option<u32>,
    },
    /// Stops a guest's vCPUs.
    Pause {
        /// The guest.
        name: String,
    },
    /// Lets them run again.
    Unpause {
        /// The guest.
        name: String,
    },
    /// Presses the power button.
    Shutdown {
        /// The guest.
        name: String,
    },
    /// Starts a guest again from its kernel, at once.
    Reboot {
        /// The guest.
        name: String,
    },
    /// Ends a guest at once.
    Destroy {
        /// The guest.
        name: String,
    },
    /// Gives a guest another name.
    Rename {
        /// The guest.
        name: String,
        /// Its name from now on.
        to: String,
    },
    /// Sets other limits.
    Limit {
        /// The guest.
        name: String,
        /// Only the disk in this slot; otherwise all of its disks together.
        slot: Option<u32>,
        /// The limits; those that are not named go.
        #[serde(deserialize_with = "crate::codec::settings")]
        limits: Vec<Limit>,
    },
    /// The disks of a guest, with their slots.
    BlockList {
        /// The guest.
        name: String,
    },
    /// Adds a disk to a guest.
    BlockAttach {
        /// The guest.
        name: String,
        /// The disk.
        disk: Disk,
        /// Its options.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
    },
    /// Takes a disk from a guest.
    BlockDetach {
        /// The guest.
        name: String,
        /// The disk's slot.
        slot: u32,
        /// Also if the guest does not release it.
        force: bool,
    },
    /// Console output from a running byte offset.
    ConsoleRead {
        /// The guest.
        name: String,
        /// Offset, 0 for the oldest that is kept.
        from: u64,
    },
    /// Console input.
    ConsoleWrite {
        /// The guest.
        name: String,
        /// Bytes typed.
        bytes: Vec<u8>,
    },
    /// What a guest's cards sent and received, as records of a capture file.
    Capture {
        /// The guest.
        name: String,
        /// Number of the first record wanted, from 1 on; with 0 a capture begins.
        from: u64,
        /// Most bytes kept of a frame.
        snap_bytes: u32,
    },
}

impl Request {
    /// Creates and starts a guest with the default options.
    #[must_use]
    pub fn create(machine: Machine) -> Self {
        Self::Create { machine, settings: GuestSettings::default(), paused: false, autostart: None }
    }

    /// Checks a guest with the default options.
    #[must_use]
    pub fn check(machine: Machine) -> Self {
        Self::Check { machine, settings: GuestSettings::default() }
    }
}

/// Ways for dom0, or what is under it, to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A panic.
    Panic,
    /// A wild memory access.
    Access,
    /// A loop without end.
    Hang,
    /// A panic of the hypervisor.
    HypervisorPanic,
    /// A loop without end in the hypervisor, on dom0's CPU.
    HypervisorHang,
}
