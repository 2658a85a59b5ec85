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
/// Longest frame that still has to be cut for the wire: 64 KiB of IP, an Ethernet header and a
/// VLAN tag.
pub const LARGE_FRAME_BYTES_MAX: usize = 14 + 4 + 65_535;
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
/// Instructions of a chain that is taken from a guest's ring and returned.
pub const WORK_OF_CHAIN: u64 = 500;
/// Those of each of its descriptors.
pub const WORK_OF_DESCRIPTOR: u64 = 200;
