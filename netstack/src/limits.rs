//! Upper bounds of every queue and table in this crate.

/// Ports of the virtual switch: uplink, host and guests.
pub const SWITCH_PORTS_MAX: usize = 64;
/// A further hardware address of a guest's port makes room for another when it was not seen
/// for so long (IEEE 802.1Q, 8.8.3: the usual ageing time).
pub const LEARNED_IDLE_NS: u64 = 300_000_000_000;
/// Guests' first drops that wait to be reported.
pub const FIRST_DROPS_MAX: usize = 256;
/// IPv6 extension headers of a guest's packet followed to find what it carries.
pub const GUARD_EXTENSIONS_MAX: usize = 8;
/// Nested VLAN tags followed to find a frame's EtherType; more is malformed.
pub const VLAN_TAGS_MAX: usize = 2;
/// Octets of the largest frame accepted anywhere, without frame check sequence.
pub const FRAME_BYTES_MAX: usize = 9216;
/// Octets of the largest frame that still has to be cut for the wire: an IP packet
/// of 65,535 octets behind an Ethernet header with one VLAN tag.
pub const LARGE_FRAME_BYTES_MAX: usize = 14 + 4 + 65_535;
/// Smallest pieces a large segment may be cut into: Linux's smallest segment less
/// its longest options.
pub const SEGMENT_BYTES_MIN: u16 = 8;
/// Most pieces that a guest's large segment is cut into: the longest one, by the segment
/// size that every host takes (RFC 9293, 3.7.1) less all options.
pub const SEGMENT_PIECES_MAX: usize = 144;
/// IPv6 extension headers followed to find TCP.
pub const IPV6_EXTENSIONS_MAX: usize = 4;

/// Descriptors per NIC ring.
pub const NIC_RING_ENTRIES_MAX: u16 = 256;

/// TCP connections and listening sockets of the host together, besides those of its
/// guarded port.
pub const HOST_SOCKETS_MAX: usize = 64;
/// Connections of the guarded port.
pub const HOST_GUARDED_SOCKETS_MAX: usize = 32;
/// Peers at the guarded port that wait for the owner.
pub const HOST_CALLERS_MAX: usize = 256;
/// Of these, from one guest that reaches the port.
pub const HOST_ATTACHED_CALLERS_MAX: usize = 4;
/// Connections there of all guests together.
pub const HOST_ATTACHED_SOCKETS_MAX: usize = 2;
/// Peers there whose last answer is unacknowledged and sent again.
pub const HOST_UNACKNOWLEDGED_MAX: usize = 64;
/// Ports the host listens on.
pub const HOST_LISTENERS_MAX: usize = 4;
/// Listening sockets (simultaneous half-open connections) per port.
pub const HOST_BACKLOG_MAX: usize = 8;
/// Established connections waiting for `accept`, per listener.
pub const HOST_ACCEPTS_PENDING_MAX: usize = 8;
/// Buffer memory of all TCP sockets together, besides those of the guarded port. Who has
/// several stacks shares it among them: see [`crate::host::Host::limit_buffers`].
pub const HOST_BUFFER_BYTES_MAX: usize = 12 * 1024 * 1024 + 256 * 1024;
/// Connections of the host whose octets under way are known.
pub const HOST_FLOWS_MAX: usize = HOST_SOCKETS_MAX + HOST_GUARDED_SOCKETS_MAX;
/// Peers of the host for which packets must be shorter than its link takes.
pub const HOST_PATHS_MAX: usize = 64;
/// Neighbours the host knows or asks for: more than it has sockets.
pub const NEIGHBOURS_MAX: usize = 160;
/// Frames that wait for one neighbour's answer.
pub const NEIGHBOUR_FRAMES_MAX: usize = 4;
/// Octets of all frames that wait for answers.
pub const NEIGHBOURS_PARKED_BYTES_MAX: usize = 128 * 1024;
/// Addresses that moved and were not yet reported.
pub const NEIGHBOUR_MOVES_MAX: usize = 64;
/// Frames the host stack may have waiting for the wire; sockets stop sending here.
pub const HOST_FRAMES_MAX: usize = 256;
/// Octets of their buffers: sixteen of the longest, or all of them as a common wire has them.
pub const HOST_FRAMES_BYTES_MAX: usize = 16 * HOST_LARGE_FRAME_BYTES_MAX;
/// Octets of the host stack's longest frame, where the NIC cuts it for the wire.
pub const HOST_LARGE_FRAME_BYTES_MAX: usize = 32 * 1024;
/// Further frames kept for immediate replies (ARP, ping, resets) to received frames.
pub const HOST_REPLY_FRAMES_MAX: usize = 64;
/// Octets of their buffers.
pub const HOST_REPLY_BYTES_MAX: usize = 256 * 1024;
/// Buffers of frames kept for reuse.
pub const HOST_SPARE_FRAMES_MAX: usize = 64;
/// Their octets.
pub const HOST_SPARE_BYTES_MAX: usize = 256 * 1024;
/// Heap that a host stack takes at most, in octets, besides the buffers of its TCP
/// connections: frames that wait, the last one beyond the bound, and tables.
pub const HOST_HEAP_BYTES_MAX: usize = HOST_FRAMES_BYTES_MAX
    + HOST_REPLY_BYTES_MAX
    + HOST_LARGE_FRAME_BYTES_MAX
    + HOST_SPARE_BYTES_MAX
    + NEIGHBOURS_PARKED_BYTES_MAX
    + 160 * 1024;
/// A half-open connection older than this gives its slot back.
pub const HALF_OPEN_AGE_MAX_MS: u64 = 3_000;
/// A half-open connection older than this gives its slot back when no slot is left.
pub const HALF_OPEN_AGE_CROWDED_MS: u64 = 300;
