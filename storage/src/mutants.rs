//! Mutants, to test the tests: each is a bug that a unit test of this crate can switch
//! on, and that the simulation has to find. Any other build has none of them.

/// A bug that a test can switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Overlapping requests run at the same time.
    OverlapIgnored,
    /// A flush does not wait for the writes before it.
    FlushEarly,
    /// A flush is acknowledged without asking the target.
    FlushSkipped,
    /// A request is acknowledged with its first fragment.
    AcknowledgedEarly,
    /// The second fragment of a request begins a sector late.
    SplitOffByOne,
    /// Joined requests exchange their data.
    MergeSwapped,
    /// An error is reported as success.
    ErrorHidden,
    /// What a lost connection or path left behind is not sent again.
    ReissueForgotten,
    /// Requests of a guest that was reset leave no trace.
    ResetForgotten,
    /// Zeroes are not written.
    ZeroesSkipped,
    /// Tags come from a small set and are used again at once.
    TagsReused,
    /// Wandering copies of writes are not waited for.
    CopiesForgotten,
    /// Any MAC address's answer is accepted.
    AnyMac,
    /// An answer with too little data is taken.
    ShortAnswer,
    /// Frames that are too long for the path are sent for ever.
    FrameSizeStuck,
    /// A frame is given up after a few tries.
    RetriesGivenUp,
    /// A path that died is used for ever.
    DeadPathKept,
    /// A silent path is asked nothing while writes wait for old copies.
    SilentPathTrusted,
    /// Every login has another session identifier.
    IdentifierChanged,
    /// Digests are not compared.
    DigestIgnored,
    /// Data is sent from its start, whatever the target asks for.
    TransferOffsetIgnored,
    /// Commands are sent into a closed window.
    WindowIgnored,
    /// A unit attention fails the request it hits.
    AttentionIsError,
    /// A connection that went silent is never closed.
    SilenceAccepted,
    /// Lost paths are left to TCP's pauses while the other one says nothing.
    LostPathsLeft,
    /// The survivors of a path do not wait for what it left behind.
    FenceForgotten,
    /// A path to another disk is used.
    OtherDiskUsed,
    /// A pause that the target asked for never ends.
    PauseForEver,
    /// The policy deadline is ignored.
    DeadlineIgnored,
}

#[cfg(not(test))]
pub(crate) const fn mutated(_: Mutant) -> bool {
    false
}

#[cfg(test)]
std::thread_local! {
    static MUTANT: core::cell::Cell<Option<Mutant>> = const { core::cell::Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn mutated(mutant: Mutant) -> bool {
    MUTANT.get() == Some(mutant)
}

/// Switches one mutant on for this thread, or all off.
#[cfg(test)]
pub(crate) fn set_mutant(mutant: Option<Mutant>) {
    MUTANT.set(mutant);
}

/// Whether any mutant is switched on for this thread.
#[cfg(test)]
pub(crate) fn is_mutated() -> bool {
    MUTANT.get().is_some()
}
