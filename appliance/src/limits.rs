//! Bounds of everything that grows at a guest's, an operator's or a stranger's will.

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
const _: () = assert!(machine::limits::LARGE_FRAME_BYTES_MAX == netstack::limits::LARGE_FRAME_BYTES_MAX);
