//! What a path has in flight beside its commands.

/// What is asked (11.5.1), in the order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    AbortTask(u32),
    ResetUnit,
    ResetTarget,
}

/// A request of task management that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Management {
    pub(super) tag: u32,
    pub(super) function: Function,
    /// It fences off a lost path.
    pub(super) fences: bool,
    pub(super) sent_ns: u64,
}

impl Management {
    /// Whether it ends commands of other paths.
    pub(super) fn resets(&self) -> bool {
        matches!(self.function, Function::ResetUnit | Function::ResetTarget)
    }
}

/// What the target is sending of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    pub(super) tag: u32,
    /// From where on, within the command's data, and how many octets are to come.
    pub(super) offset: usize,
    pub(super) left: usize,
    /// The command has ended well when all is here.
    pub(super) ends: bool,
}
