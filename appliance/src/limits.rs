//! Bounds of everything that grows at a guest's will.

/// Largest virtqueue, in descriptors.
pub const QUEUE_SIZE_MAX: u16 = 256;
/// Most descriptors of one chain, direct and indirect together.
pub const CHAIN_DESCRIPTORS_MAX: usize = 256;
/// Most data segments a driver may put into one block request: the chain
/// without header and status.
pub const BLOCK_SEGMENTS_MAX: u32 = 126;
/// Longest single data segment of a block request in bytes.
pub const BLOCK_SEGMENT_BYTES_MAX: u32 = 128 * 1024;
/// Longest block request in bytes: all a driver that keeps to the two limits
/// above can ask for.
pub const BLOCK_REQUEST_BYTES_MAX: u64 = 126 * 128 * 1024;
/// Longest range of one discard or write-zeroes request in sectors.
pub const BLOCK_RANGE_SECTORS_MAX: u32 = 1 << 21;
/// Longest serial number of a block device in bytes.
pub const BLOCK_SERIAL_BYTES: usize = 20;
/// Chains that one call may consume without anything to hand out, so that a
/// guest that refills its ring cannot hold dom0.
pub const CHAINS_PER_CALL_MAX: usize = 16;
/// Longest Ethernet frame on any wire without its checksum, one VLAN tag included.
pub const FRAME_BYTES_MAX: usize = 9018;
/// Longest frame that still has to be cut for the wire.
pub use netstack::limits::LARGE_FRAME_BYTES_MAX;
/// Pieces of a guest's memory that any frame may be spread over which it receives.
pub const FRAME_PIECES: usize = 8;
/// Octets of a frame for each piece more: drivers have buffers of 1,500 octets and longer.
pub const FRAME_PIECE_BYTES: usize = 512;
/// What a guest wrote to its serial port until it is taken from there, in bytes: it is after
/// each access.
pub const UART_OUTPUT_BYTES: usize = 256;
/// Console input waiting for the guest, in bytes.
pub const CONSOLE_INPUT_BYTES: usize = 4096;
/// Places in lists of segments that the requests in flight of one disk take: 16 MiB in pages.
/// Further requests wait in the guest's ring.
pub const BLOCK_SEGMENTS_HELD_MAX: usize = 4096;
/// Console output taken from a guest in one call, in bytes.
pub const CONSOLE_BYTES_PER_CALL_MAX: usize = 16 * 1024;
/// Receive queue of the UART in bytes.
pub const UART_INPUT_BYTES: usize = 1024;
/// Random bytes that one request gets at most.
pub const RANDOM_BYTES_PER_REQUEST: usize = 256;
/// Most PCI devices besides the host bridge.
pub const PCI_DEVICES_MAX: usize = 31;
/// Longest kernel command line in bytes, without its terminating zero.
pub const COMMAND_LINE_BYTES_MAX: usize = 4095;
/// Most program headers of a kernel in ELF.
pub const ELF_SEGMENTS_MAX: usize = 64;
/// Everything a guest printed, kept for late readers, in bytes.
pub const CONSOLE_BYTES: usize = 64 * 1024;
/// Frames kept of one capture until they are read, in bytes.
pub const CAPTURE_BYTES: usize = 512 * 1024;
/// Most guests that are captured at a time.
pub const CAPTURES_MAX: usize = 4;
/// Results of discoveries that are kept for those who ask for their jobs.
pub const RESULTS_KEPT_MAX: usize = 2;
/// Most kernels and initrds on the node.
pub const BLOBS_MAX: usize = 24;
/// Most uploads that are kept for their operators to go on with.
pub const UPLOADS_KEPT_MAX: usize = 4;
/// How long after its last byte such an upload is kept, in nanoseconds.
pub const UPLOAD_KEPT_NS: u64 = 600_000_000_000;
/// Most bytes of files that one key sends at a time, or has left unfinished.
pub const UPLOAD_BYTES_OF_KEY: u64 = 1 << 30;
/// Memory that an upload takes at a time, in bytes.
pub const UPLOAD_STEP_BYTES: u64 = 2 << 20;
/// How long an upload of which no byte comes is its session's, in nanoseconds.
pub const UPLOAD_IDLE_NS: u64 = 30_000_000_000;
/// How long a session that uploads may be silent until another one of the same operator
/// goes on in its place, in nanoseconds.
pub const UPLOAD_SILENT_NS: u64 = 2_000_000_000;
/// Frames taken from one source before the others get their turn.
pub const FRAMES_PER_TURN: usize = 128;
/// Work of all guests together in one turn, in instructions: see [`crate::node`]'s quotas.
pub const GUESTS_WORK_PER_TURN: i64 = 800_000;
/// Least work of one guest with something to do, in instructions: a frame as large as they
/// come, or a few dozen requests.
pub const QUANTUM_MIN: i64 = 60_000;
/// What a guest may owe for accesses and for frames that come to it, in instructions.
pub const DEBT_MAX: i64 = 600_000;
/// Work for frames that all cards receive in one turn, in instructions.
pub const WIRE_WORK_PER_TURN: u64 = 600_000;
/// Work for AoE frames that are sent, before guests have their turn and again after it, in
/// instructions.
pub const DISK_WORK_PER_CALL: u64 = 200_000;
/// AoE frames of one disk before the others get their turn.
pub const DISK_FRAMES_MAX: usize = 8;
/// Instructions of a chain that is taken from a guest's ring and returned.
pub const WORK_OF_CHAIN: u64 = 500;
/// Those of each of its descriptors.
pub const WORK_OF_DESCRIPTOR: u64 = 200;
/// Those of a frame that is looked at and given to one receiver, besides its octets.
pub const WORK_OF_FRAME: u64 = 1_000;
/// Octets that are copied, with their checksum, in the time of one instruction.
pub const OCTETS_OF_WORK: usize = 4;
/// Instructions of a disk request until it is under way.
pub const WORK_OF_REQUEST: u64 = 2_000;
/// Those of a guest's access that is answered.
pub const WORK_OF_EXIT: u64 = 1_000;
/// Those of a doorbell that is registered anew.
pub const WORK_OF_DOORBELL: u64 = 500;
/// Those of a frame for the node itself, besides its octets.
pub const WORK_OF_OWN_FRAME: u64 = 3_000;
/// PDUs of iSCSI targets that are looked at in one turn.
pub const PDUS_PER_TURN: u64 = 256;
/// Octets for iSCSI targets in one turn.
pub const PDU_OCTETS_PER_TURN: usize = 512 * 1024;
/// Octets of one target until that is looked at again.
pub const PDU_OCTETS_PER_CALL: usize = 8 * 1024;
/// Those of an octet that a guest prints.
pub const WORK_OF_CONSOLE_BYTE: u64 = 12;
/// Those of a request for entropy.
pub const WORK_OF_ENTROPY: u64 = 4_000;
/// What a guest's port may send where nothing else is set, in octets per second: 10 Gbit/s.
pub const PORT_BYTES_PER_S: u64 = mgmt_proto::limits::CARD_RATE_MAX;
/// What it may send at once after a pause, in octets.
pub const PORT_BURST_BYTES: u64 = 16 << 20;
/// How long it may have saved up where a rate is set, in milliseconds: xl's interval.
pub const PORT_BURST_MS: u64 = 50;
/// The least that it may send at once then, in octets: the longest segment, cut into as many
/// pieces as there may be.
pub const PORT_BURST_BYTES_MIN: u64 = 128 << 10;
/// Entries at once of what one key was refused.
pub const REFUSAL_BURST: u64 = 16;
/// Time in which it has one more, in nanoseconds.
pub const REFUSAL_INTERVAL_NS: u64 = 10_000_000_000;
/// How long commands of one kind that are refused are gathered, in nanoseconds.
pub const REFUSAL_WINDOW_NS: u64 = 60_000_000_000;
/// Kinds that are told apart, of one key.
pub const REFUSAL_KINDS: usize = 8;
/// Keys of which that is known.
pub const REFUSERS_MAX: usize = mgmt_proto::limits::OPERATORS;
/// Entries that the log of effects has left where only what rescues a node is recorded.
pub const AUDIT_URGENT: u64 = 64;
/// Most network cards that the node drives.
pub const CARDS_MAX: usize = 1 + mgmt_proto::limits::STORAGE_CARDS;
/// Pause between looks at the cards' links, in nanoseconds.
pub const CARDS_LOOK_NS: u64 = 100_000_000;
/// How long a node waits for its address before it says what it hears, in nanoseconds.
pub const NO_ADDRESS_NS: u64 = 10_000_000_000;
/// Pause before it says so again, in nanoseconds.
pub const NO_ADDRESS_AGAIN_NS: u64 = 60_000_000_000;
/// How long what no guest may claim is known before it is asked anew, in nanoseconds.
pub const PROTECT_NS: u64 = 10_000_000;
/// Pause between two log lines of claims of the node's own address, in nanoseconds.
pub const CLAIM_LOG_NS: u64 = 60_000_000_000;
/// How long one card that takes nothing may hold the others back, in nanoseconds.
pub const CARD_STUCK_NS: u64 = 100_000_000;
/// Disk requests taken from one guest before the others get their turn.
pub const REQUESTS_PER_TURN: usize = 64;
/// Commands carried out before frames get their turn.
pub const COMMANDS_PER_TURN: usize = 4;
/// Most sessions at a time.
pub const SESSIONS_MAX: usize = 16;
/// Most sessions of one key.
pub const SESSIONS_OF_KEY: usize = 4;
/// Sessions that are for admins alone.
pub const SESSIONS_OF_ADMINS: usize = 2;
/// Most operators who have signed and whose first record has not come.
pub const BEGUN_MAX: usize = 8;
/// Most of these of one key: as many as may have a session, so that commands that one
/// operator gives at once do not push one another out.
pub const BEGUN_OF_KEY: usize = SESSIONS_OF_KEY;
/// Callers at the one door that are looked at before frames get their turn.
pub const CALLERS_PER_TURN: usize = 2;
/// What is reserved of each turn for operators, in instructions: once it is spent, nothing
/// more is begun. What is begun last, a handshake or a long answer, may go beyond.
pub const OPERATORS_WORK_PER_TURN: i64 = 600_000;
/// An answer that is no longer is sealed in the turn in which it was made, in octets.
pub const SHORT_ANSWER_BYTES: usize = 2048;
/// Instructions of a greeting.
pub const WORK_OF_GREETING: i64 = 60_000;
/// Those of one half of a handshake: looking at what an operator proves, or answering it.
pub const WORK_OF_KNOCK: i64 = 1_500_000;
/// Those of a command's signature.
pub const WORK_OF_SIGNATURE: i64 = 800_000;
/// Those of an octet that is sealed or opened.
pub const WORK_OF_SEALED_OCTET: i64 = 30;
/// Those of an octet that is hashed.
pub const WORK_OF_HASHED_OCTET: i64 = 53;
/// Those of an octet of a file: it is opened and hashed.
pub const WORK_OF_FILE_OCTET: i64 = 83;
const _: () = assert!(SESSIONS_MAX + BEGUN_MAX < netstack::limits::HOST_GUARDED_SOCKETS_MAX);
/// How long a new guest's disks may take to answer, in nanoseconds.
pub const START_TIMEOUT_NS: u64 = 15_000_000_000;
/// How long a guest may take to give a disk back, in nanoseconds.
pub const DETACH_TIMEOUT_NS: u64 = 10_000_000_000;
/// How long a discovery over iSCSI may take, in nanoseconds.
pub const DISCOVERY_TIMEOUT_NS: u64 = 5_000_000_000;
/// Guests of which is remembered when each was changed last.
pub const REVISIONS_MAX: usize = 256;
/// Entropy requests served for one guest in one turn.
pub const RANDOM_REQUESTS_PER_TURN: usize = 16;
