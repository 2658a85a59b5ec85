//! What a node keeps on its state volume, as it tells it.

use crate::disk::DiskSetting;
use crate::machine::Digest;
use crate::reason::Reason;
use crate::secret::Secret;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How long a node waits for its state volume unless told otherwise, in seconds.
pub const WAIT_S: u32 = 30;

/// The volume on which a node keeps what it must not forget, as the owner sealed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateVolume {
    /// `aoe:e9.0`, `iscsi://portal/iqn/lun`, or `virtio:0` for the machine's own disk.
    pub volume: String,
    /// What is set for it.
    pub settings: Vec<DiskSetting>,
    /// What the node does with an empty one.
    pub initialise: Initialise,
    /// How long the node waits for it before it takes connections without, in
    /// seconds; 0 is for ever.
    pub wait_s: u32,
    /// 32 bytes from which the keys are derived that encrypt and authenticate what is on
    /// it. A reader of the image has them too.
    pub key: Secret,
}

/// What a node does with a state volume that is all zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initialise {
    /// Formats it, and says so.
    #[default]
    Empty,
    /// Refuses it: there must be state on it.
    Never,
}

/// What protects the state volume from who can write to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateProtection {
    /// A key that is in the image: a reader of the boot wire can forge state.
    #[default]
    ImageKey,
}

/// Whether a node keeps its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateCondition {
    /// No volume was sealed: nothing is kept.
    #[default]
    Diskless,
    /// The volume does not answer yet.
    Connecting,
    /// It is being opened or formatted.
    Opening,
    /// Everything is kept.
    Kept,
    /// The volume is not used, or no longer: the problem says why.
    Failed,
}

/// A guest that starts when the node does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFacts {
    /// Its name.
    pub name: String,
    /// Lower numbers start first.
    pub order: u32,
    /// Its kernel.
    pub kernel: Digest,
    /// Its initrd.
    pub ramdisk: Option<Digest>,
    /// What keeps it from starting, if anything does.
    pub problem: Option<Reason>,
}

/// What a node keeps, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFacts {
    /// Whether it keeps anything.
    pub condition: StateCondition,
    /// The volume; empty without one.
    pub volume: String,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// The number that the volume was given when it was formatted.
    pub serial: [u8; 16],
    /// The node's key was made since power-on and is not kept.
    pub fresh_identity: bool,
    /// The volume was empty and was formatted since power-on.
    pub formatted: bool,
    /// What protects it.
    pub protection: StateProtection,
    /// Why it is not known which trust bundle holds, if it is not: then the node obeys only
    /// requests that read.
    pub doubt: Option<String>,
    /// Least serial of the trust bundle, as sealed; 0 for none.
    pub trust_serial_min: u64,
    /// Serial of the trust bundle that holds.
    pub trust_serial: u64,
    /// Serial of the one that is kept.
    pub kept_trust_serial: u64,
    /// Audit entries that are kept.
    pub audit_entries: u64,
    /// Bytes of settings in use, and of room for them.
    pub bytes: [u64; 2],
    /// Bytes of kernels and initrds, and of room for them.
    pub kernel_bytes: [u64; 2],
    /// Guests that start with the node, in their order.
    pub guests: Vec<KeptFacts>,
}

impl StateFacts {
    /// Whether the node obeys only requests that read: its state volume was not opened since
    /// power-on, or does not tell whom to trust.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        self.doubt.is_some() || (!self.volume.is_empty() && self.fresh_identity)
    }
}

/// What came of the guests and the bundle of an exported configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Guests that are kept now: the name, and what they lack, if anything.
    pub guests: Vec<(String, Option<Reason>)>,
    /// Serial of the trust bundle that holds now.
    pub trust_serial: u64,
    /// Whether it came from the file.
    pub trust_changed: bool,
}
