//! What a node tells of itself and its guests.

use crate::machine::{Digest, Machine};
use crate::platform::Platform;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Facts about the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Version of the image.
    pub version: String,
    /// SHA-256 of the file the node runs from.
    pub image_sha256: Digest,
    /// Bytes of that file.
    pub image_bytes: u64,
    /// CPUs in use.
    pub cpus: u32,
    /// Usable RAM in bytes.
    pub memory_bytes: u64,
    /// RAM neither used nor promised, in bytes.
    pub memory_free_bytes: u64,
    /// RAM the hypervisor uses, in bytes.
    pub hypervisor_bytes: u64,
    /// RAM dom0 uses, in bytes.
    pub dom0_bytes: u64,
    /// Time since power-on in nanoseconds.
    pub uptime_ns: u64,
    /// Times dom0 was started since power-on.
    pub dom0_starts: u32,
    /// The node's own MAC.
    pub mac: [u8; 6],
    /// IPv4 address and prefix length, if it has one.
    pub address: Option<([u8; 4], u8)>,
    /// Guests.
    pub guests: u32,
    /// Whether the identity key was made at this boot.
    pub fresh_identity: bool,
    /// TSC frequency in kHz.
    pub tsc_khz: u64,
    /// Claims of the node's own addresses by others on the wire.
    pub claims: AddressClaims,
    /// Portals that moved to another station.
    pub portals_moved: u64,
    /// How often packets to a peer became shorter, because a link on the way takes no longer ones.
    pub paths_shortened: u32,
    /// Lines of its log since power-on that are errors.
    pub log_errors: u32,
    /// Lines of its log since power-on that are warnings.
    pub log_warnings: u32,
    /// The machine under it.
    pub platform: Platform,
}

/// Claims of the node's own addresses by other stations (RFC 5227, 2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressClaims {
    /// How many.
    pub count: u64,
    /// The last one's hardware address.
    pub by: Option<[u8; 6]>,
}

/// What a guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its disks are being connected.
    Connecting,
    /// At least one vCPU runs or could.
    Running,
    /// All vCPUs wait for something.
    Blocked,
    /// Paused by an operator.
    Paused,
    /// It turned itself off and is kept.
    Off,
    /// It failed and is kept.
    Crashed,
    /// dom0 was restarted and no longer serves its devices.
    Detached,
}

/// A disk's condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Name of the volume.
    pub volume: String,
    /// Size in 512-byte sectors, 0 until known.
    pub sectors: u64,
    /// In words: connecting, ready, stalled.
    pub state: String,
    /// Since when it has been stalled, in nanoseconds of uptime.
    pub stalled_since_ns: Option<u64>,
    /// Completed reads, writes and flushes.
    pub operations: [u64; 3],
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Retransmissions or reconnections.
    pub retries: u64,
}

/// Bytes of whole frames that a guest's network cards moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Number of its domain; 0 without one.
    pub id: u32,
    /// Received and sent.
    pub bytes: [u64; 2],
}

/// What a card of the node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardUse {
    /// The first one: the one door, guests, and disks.
    First,
    /// Disks only.
    Storage,
}

/// How a card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardCondition {
    /// Its link is up, or it does not say.
    Up,
    /// Its link is down.
    Down,
    /// It broke the rules of its device and is used no more.
    Failed,
    /// It was sealed, and the machine has no such card.
    Missing,
}

/// A network card of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardFacts {
    /// Its address; none when it is missing and was sealed without.
    pub mac: Option<[u8; 6]>,
    /// What it is for.
    pub usage: CardUse,
    /// How it is.
    pub condition: CardCondition,
    /// Largest payload of a frame.
    pub mtu: u16,
    /// AoE is spoken there.
    pub aoe: bool,
    /// IPv4 address and prefix length, if it has one.
    pub address: Option<([u8; 4], u8)>,
    /// Its default gateway.
    pub gateway: Option<[u8; 4]>,
    /// Frames received and sent.
    pub frames: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

/// Why frames that a guest sent went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DropReason {
    /// Shorter than its headers say, or with too many VLAN tags.
    Malformed,
    /// Longer than the wire's frames.
    Giant,
    /// From a hardware address that is not the card's.
    SourceMac,
    /// It spoke AoE.
    AoeFromGuest,
    /// To a group that is for neighbours on the link alone.
    LinkLocal,
    /// It sends more than it may.
    Rate,
    /// To its own address.
    NoDestination,
    /// To the node itself.
    Node,
    /// ARP that claims a protected address, or another's hardware address.
    ArpClaim,
    /// From a protected IPv4 address.
    Ipv4Claim,
    /// A claim of a protected address over IPv6.
    Ipv6Claim,
    /// From an address that is not among those of its card.
    Address,
    /// An answer of a DHCP server.
    DhcpServer,
    /// A router advertisement.
    RouterAdvertisement,
    /// A redirect.
    Redirect,
    /// A fragment that hides what it carries.
    HiddenHeader,
    /// A frame with a VLAN tag.
    Tagged,
}

impl DropReason {
    /// In one word, as it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Giant => "giant",
            Self::SourceMac => "source-mac",
            Self::AoeFromGuest => "aoe",
            Self::LinkLocal => "link-local-group",
            Self::Rate => "rate",
            Self::NoDestination => "no-destination",
            Self::Node => "to-node",
            Self::ArpClaim => "arp-claim",
            Self::Ipv4Claim => "ipv4-claim",
            Self::Ipv6Claim => "ipv6-claim",
            Self::Address => "address",
            Self::DhcpServer => "dhcp-server",
            Self::RouterAdvertisement => "router-advertisement",
            Self::Redirect => "redirect",
            Self::HiddenHeader => "hidden-header",
            Self::Tagged => "vlan-tag",
        }
    }
}

/// A guest's condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Number of its domain.
    pub id: u32,
    /// Its description.
    pub machine: Machine,
    /// What it is doing.
    pub state: State,
    /// CPU time in nanoseconds.
    pub cpu_time_ns: u64,
    /// RAM it has touched, in bytes.
    pub populated_bytes: u64,
    /// Uptime at which `create` was accepted, in nanoseconds.
    pub created_ns: u64,
    /// Uptime of its first instruction, in nanoseconds; 0 before.
    pub first_run_ns: u64,
    /// Exits to the hypervisor.
    pub exits: u64,
    /// Frames received and sent by its network cards.
    pub frames: [u64; 2],
    /// Frames that its network cards sent and that were dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// Its disks.
    pub disks: Vec<DiskFacts>,
}

/// A volume that was found, or a word about those that are not in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Name to put into a VM file; empty where only the details say something.
    pub volume: String,
    /// Who serves it: MAC or portal.
    pub server: String,
    /// More about it: size, configuration string.
    pub details: String,
}

/// Bytes of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset after them.
    pub next: u64,
}
