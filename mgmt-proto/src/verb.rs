//! Requests. Encoded with postcard; the order of variants is the wire
//! format, so new ones go to the end.

use crate::audit;
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

/// Where to look for volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discover {
    /// Broadcast on the node's wire.
    Aoe,
    /// Ask an iSCSI portal, `address[:port]`.
    Iscsi(String),
    /// Ask an iSCSI portal, `user@address[:port]`, that wants to know who asks: the
    /// user's secret, and what else there is to CHAP.
    IscsiAs(String, #[serde(deserialize_with = "crate::codec::settings")] Vec<DiskSetting>),
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Facts about the node.
    NodeInfo,
    /// The node's log from a running byte offset.
    NodeLog {
        /// Offset, 0 for the oldest that is kept.
        from: u64,
    },
    /// Restarts the machine, or turns it off.
    NodeStop {
        /// Off instead of restart.
        power_off: bool,
    },
    /// Looks for volumes.
    StorageDiscover(Discover),
    /// Which of these blobs the node lacks.
    BlobMissing(Vec<Digest>),
    /// Announces a blob; its bytes follow as data frames of this session.
    BlobPut {
        /// SHA-256 of the whole.
        digest: Digest,
        /// Bytes of the whole.
        length: u64,
    },
    /// Checks a guest without creating it.
    Check(Machine),
    /// Creates and starts a guest.
    Create {
        /// The guest.
        machine: Machine,
        /// Leave it paused.
        paused: bool,
    },
    /// All guests.
    List,
    /// One guest.
    Info {
        /// Its name.
        name: String,
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
    /// Makes dom0 fail, on nodes whose sealed settings allow it.
    InjectFault(Fault),
    /// Part of the audit log.
    AuditRead {
        /// First entry wanted.
        from: u64,
    },
    /// As `Check`, with what is set for the guest.
    CheckWith {
        /// The guest.
        machine: Machine,
        /// What is set.
        settings: GuestSettings,
    },
    /// As `Create`, with what is set for the guest.
    CreateWith {
        /// The guest.
        machine: Machine,
        /// What is set.
        settings: GuestSettings,
        /// Leave it paused.
        paused: bool,
    },
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
        /// What is set for it.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
    },
    /// Reserves a volume for this node, in use or not.
    StorageReserve {
        /// Its name.
        volume: String,
        /// What is set for it, where it is not in use.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
        /// Whoever else holds it gives way.
        force: bool,
    },
    /// Gives a volume's reservation up.
    StorageRelease {
        /// Its name.
        volume: String,
        /// What is set for it, where it is not in use.
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
    /// Adds a disk to a guest.
    BlockAttach {
        /// The guest.
        name: String,
        /// The disk.
        disk: Disk,
        /// What is set for it.
        #[serde(deserialize_with = "crate::codec::settings")]
        settings: Vec<DiskSetting>,
    },
    /// Takes a disk from a guest.
    BlockDetach {
        /// The guest.
        name: String,
        /// The disk's slot.
        slot: u32,
        /// Also if the guest does not give it back.
        force: bool,
    },
    /// The disks of a guest, with their slots.
    BlockList {
        /// The guest.
        name: String,
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
    /// Whom the node listens to.
    TrustShow,
    /// Puts a signed trust bundle in the place of what holds.
    TrustUpdate {
        /// The bundle, as [`crate::bundle::assemble`] makes it.
        signed: Vec<u8>,
    },
    /// What the node keeps, and where.
    StateShow,
    /// Starts a guest with the node from now on, or no longer.
    Autostart {
        /// The guest.
        name: String,
        /// Lower numbers start first; none is no longer.
        order: Option<u32>,
    },
    /// As `CreateWith`; from now on the guest starts with the node.
    CreateKept {
        /// The guest.
        machine: Machine,
        /// What is set.
        settings: GuestSettings,
        /// Leave it paused now.
        paused: bool,
        /// Lower numbers start first.
        order: u32,
    },
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
    /// Obeys nothing but [`crate::trust::is_rescue`] from now on, until the roots sign
    /// another trust bundle.
    Lockdown,
    /// What a guest's cards sent and received, as records of a capture file.
    Capture {
        /// The guest.
        name: String,
        /// Number of the first record wanted, from 1 on; with 0 a capture begins.
        from: u64,
        /// Most bytes kept of a frame.
        snap_bytes: u32,
    },
    /// Long work: what goes on, and what has ended lately.
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
    /// Starts a guest that is kept and not there, or one that has ended and is.
    Start {
        /// The guest.
        name: String,
    },
    /// The keys that the node had before, each with its signature of the next.
    NodeKeys,
    /// Gives the node another key, which the one it has signs.
    NodeKeyRotate,
    /// What the guests' network cards moved.
    Traffic,
    /// As `BlobPut`; goes on where an earlier upload by the same operator broke off.
    BlobResume {
        /// SHA-256 of the whole.
        digest: Digest,
        /// Bytes of the whole.
        length: u64,
    },
    /// This session hears of the jobs that its own commands become.
    Progress {
        /// How often, in milliseconds; 0 is never.
        every_ms: u32,
    },
    /// The node's own network cards.
    NodeCards,
    /// How a guest would be created again.
    GuestShow {
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
    /// When what operators may change was changed last: of a guest, or of the node. With
    /// `expected`, the next request of this session that [changes](Self::changes)
    /// anything is refused unless that is still so.
    Revision {
        /// The guest; without, all of the node.
        of: Option<String>,
        /// What the next change supposes.
        expected: Option<u64>,
    },
    /// The log of the run before this one, from a byte offset.
    PreviousLog {
        /// Offset, 0 for the oldest that was kept.
        from: u64,
    },
    /// Part of the log of what was refused or failed.
    RefusalsRead {
        /// First entry wanted.
        from: u64,
    },
}

impl Request {
    /// The guest it is about, by name.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        match self {
            Self::Check(machine)
            | Self::Create { machine, .. }
            | Self::CheckWith { machine, .. }
            | Self::CreateWith { machine, .. }
            | Self::CreateKept { machine, .. } => Some(&machine.name),
            Self::Info { name }
            | Self::ConsoleRead { name, .. }
            | Self::ConsoleWrite { name, .. }
            | Self::Pause { name }
            | Self::Unpause { name }
            | Self::Shutdown { name }
            | Self::Reboot { name }
            | Self::Destroy { name }
            | Self::BlockAttach { name, .. }
            | Self::BlockDetach { name, .. }
            | Self::BlockList { name }
            | Self::Limit { name, .. }
            | Self::Capture { name, .. }
            | Self::Autostart { name, .. }
            | Self::Start { name }
            | Self::GuestShow { name }
            | Self::Rename { name, .. } => Some(name),
            Self::Revision { of, .. } => of.as_deref(),
            Self::NodeInfo
            | Self::NodeLog { .. }
            | Self::PreviousLog { .. }
            | Self::NodeStop { .. }
            | Self::StorageDiscover(_)
            | Self::BlobMissing(_)
            | Self::BlobPut { .. }
            | Self::BlobResume { .. }
            | Self::List
            | Self::InjectFault(_)
            | Self::AuditRead { .. }
            | Self::RefusalsRead { .. }
            | Self::StorageShow { .. }
            | Self::StorageProbe { .. }
            | Self::StorageReserve { .. }
            | Self::StorageRelease { .. }
            | Self::StoragePath { .. }
            | Self::TrustShow
            | Self::TrustUpdate { .. }
            | Self::StateShow
            | Self::ConfigExport { .. }
            | Self::ConfigImport { .. }
            | Self::Lockdown
            | Self::NodeKeys
            | Self::NodeKeyRotate
            | Self::Traffic
            | Self::Progress { .. }
            | Self::NodeCards
            | Self::JobList
            | Self::JobWait { .. }
            | Self::JobCancel { .. } => None,
        }
    }

    /// Whether it changes what other operators see. What is typed, looked at or sent ahead
    /// is none of that.
    #[must_use]
    pub fn changes(&self) -> bool {
        let passing = matches!(
            self,
            Self::ConsoleRead { .. }
                | Self::ConsoleWrite { .. }
                | Self::Capture { .. }
                | Self::StorageDiscover(_)
                | Self::ConfigExport { .. }
                | Self::BlobPut { .. }
                | Self::BlobResume { .. }
        );
        !passing && audit::subject(self).is_some()
    }

    /// Whether it becomes a job, unless it is answered at once.
    #[must_use]
    pub const fn is_job(&self) -> bool {
        matches!(
            self,
            Self::StorageDiscover(_)
                | Self::Create { .. }
                | Self::CreateWith { .. }
                | Self::CreateKept { .. }
                | Self::StorageProbe { .. }
                | Self::StorageReserve { .. }
                | Self::StorageRelease { .. }
                | Self::BlockAttach { .. }
                | Self::BlockDetach { .. }
                | Self::Limit { .. }
                | Self::Start { .. }
                | Self::Rename { .. }
                | Self::TrustUpdate { .. }
                | Self::Autostart { .. }
                | Self::ConfigImport { .. }
                | Self::NodeKeyRotate
                | Self::Lockdown
        )
    }
}

/// Ways for dom0, or what is under it, to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
