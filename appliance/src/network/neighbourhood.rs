//! What the node notices of the wire: claims of its own addresses, portals that moved to
//! another station, and paths that take only short packets.

/// What was noticed so far, and told.
#[derive(Debug, Default)]
pub(crate) struct Neighbourhood {
    /// Portals that moved.
    pub(crate) portals_moved: u64,
    /// Claims of which the log has heard.
    pub(crate) logged: u64,
    /// When it may hear of the next one.
    pub(crate) next_log_ns: u64,
}
