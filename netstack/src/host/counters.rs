//! What the stack counts.

/// What the stack has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Frames taken.
    pub received_frames: u64,
    /// Frames for ports or protocols that are not ours.
    pub unwanted_frames: u64,
    /// TCP segments with a wrong checksum.
    pub damaged_frames: u64,
    /// Frames dropped because nothing could be sent in reply.
    pub crowded_frames: u64,
    /// Frames handed out.
    pub transmitted_frames: u64,
    /// Half-open connections given up.
    pub half_open_reaped: u64,
    /// SYNs answered without a socket, because strangers crowd the listening ones.
    pub cookies_sent: u64,
    /// Connections that began so.
    pub cookies_redeemed: u64,
}
