//! Upper bounds of every queue and table in this crate.

/// Requests accepted and not completed, per session.
pub const REQUESTS_MAX: usize = 256;
/// Sectors of one request: 32 MiB.
pub const REQUEST_SECTORS_MAX: u32 = 65_536;
/// Sectors of one discard or write of zeroes: 2 GiB.
pub const RANGE_SECTORS_MAX: u32 = 1 << 22;
/// Ranges remembered that an old copy of a write could still reach.
pub const WRITE_FENCES_MAX: usize = 1_024;
/// Longest pause between retries.
pub const BACKOFF_NS_MAX: u64 = 5_000_000_000;

/// AoE frames unanswered at once, per target, whatever it advertises.
pub const AOE_FRAMES_MAX: u16 = 128;
/// How long a frame may wander in the network before it can no longer arrive.
pub const AOE_FRAME_LIFETIME_NS: u64 = 1_500_000_000;
/// Paths of one session: MAC addresses of ours times MAC addresses of the target.
pub const AOE_PATHS_MAX: usize = 16;
/// Operator's commands waiting.
pub const AOE_ADMINISTRATIONS_MAX: usize = 16;
/// Targets remembered by discovery.
pub const AOE_DISCOVERED_MAX: usize = 256;
/// Octets of a target's configuration string (AoE r11, section 3.2).
pub const AOE_CONFIG_STRING_MAX: usize = 1_024;

/// Octets of an iSCSI data segment we accept (our MaxRecvDataSegmentLength).
pub const ISCSI_RECEIVE_SEGMENT_MAX: usize = 256 * 1024;
/// Octets of an iSCSI data segment we send, however much the target would take.
pub const ISCSI_SEND_SEGMENT_MAX: usize = 64 * 1024;
/// Octets of a login's text, or of a response, held in memory.
pub const ISCSI_RESPONSE_MAX: usize = 16 * 1024;
/// Octets of the list of targets that discovery is given.
pub const ISCSI_TEXT_MAX: usize = 64 * 1024;
/// Commands in flight, whatever window the target opens.
pub const ISCSI_COMMANDS_MAX: usize = 128;
/// Sectors of one iSCSI command.
pub const ISCSI_COMMAND_SECTORS_MAX: u32 = 2_048;
/// PDUs that may wait to be given to TCP, of which commands and their data are at most two
/// for each; a target that provokes more is dropped.
pub const ISCSI_OUTPUT_PDUS_MAX: usize = 8 * ISCSI_COMMANDS_MAX;
/// Targets and portals reported by discovery.
pub const ISCSI_DISCOVERED_MAX: usize = 1_024;
/// Paths of one iSCSI volume.
pub const ISCSI_PATHS_MAX: usize = 8;
/// Pieces of a text answer; a target that has more to say never ends.
pub const ISCSI_TEXT_PIECES_MAX: u32 = 256;
/// Login exchanges before the target is given up for this connection.
pub const ISCSI_LOGIN_STEPS_MAX: u32 = 16;

/// Octets of a key in the state store.
pub const STORE_KEY_BYTES_MAX: usize = 128;
/// Octets of a value in the state store.
pub const STORE_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Octets of one record, which is one transaction.
pub const STORE_RECORD_BYTES_MAX: usize = 128 * 1024;
/// Octets of all keys and values together.
pub const STORE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Keys.
pub const STORE_KEYS_MAX: usize = 2_048;

/// Lines that a session may write to the log at once.
pub const LOG_LINES_MAX: u32 = 8;
/// How long until it may write one more.
pub const LOG_LINE_NS: u64 = 30_000_000_000;
