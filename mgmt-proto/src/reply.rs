//! Replies to requests. Encoded with postcard; the order of variants is the wire format, so
//! new ones go to the end.

use crate::audit;
use crate::bundle::Bundle;
use crate::config::GuestConfig;
use crate::facts::{CardFacts, Found, GuestFacts, NodeFacts, Stream, Traffic};
use crate::job::JobPage;
use crate::machine::Digest;
use crate::node_key::KeyLink;
use crate::reason::Refusal;
use crate::state::{Imported, StateFacts};
use crate::volume::{BlockFacts, VolumePage};
use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// Facts about the node.
    Node(Box<NodeFacts>),
    /// Part of a log or console.
    Stream(Stream),
    /// Volumes.
    Found(Vec<Found>),
    /// Blobs the node lacks.
    Missing(Vec<Digest>),
    /// A guest was created with this number.
    Created(u32),
    /// Guests.
    Guests(Vec<GuestFacts>),
    /// Part of the audit log.
    Audit(audit::Page),
    /// Volumes.
    Volumes(VolumePage),
    /// A disk was added in this slot.
    Attached(u32),
    /// Disks of a guest.
    Disks(Vec<BlockFacts>),
    /// Whom the node listens to. Serial 0 is what was sealed into its image.
    Trust(Bundle),
    /// What the node keeps, and where.
    State(StateFacts),
    /// What came of an exported configuration.
    Imported(Imported),
    /// Long work.
    Jobs(JobPage),
    /// The keys that the node had before.
    NodeKeys(Vec<KeyLink>),
    /// What the guests' network cards moved.
    Traffic(Vec<Traffic>),
    /// So many bytes of the announced blob are there; the rest follows as data frames.
    BlobHeld(u64),
    /// The node's own network cards: the first one, the others in the order of the bus,
    /// then those that are missing.
    NodeCards(Vec<CardFacts>),
    /// How a guest would be created again, without secrets.
    Guest(Box<GuestConfig>),
    /// A number that is another one after each change.
    Revision(u64),
}

/// A reply or the reason there is none.
pub type Outcome = Result<Reply, Refusal>;
