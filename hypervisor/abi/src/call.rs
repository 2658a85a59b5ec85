//! The system calls.
//!
//! A call is the `syscall` instruction with the number in RAX and up to six
//! arguments in RDI, RSI, RDX, R10, R8, R9. RAX returns a value that is not
//! negative, or minus an [`Error`]; RDX returns a second value where one is
//! named. RCX and R11 are lost. A pointer argument must lie wholly in memory that
//! dom0 owns, else the call fails with [`Error::Pointer`] and does nothing.

/// A call's number. Each doc line names arguments, then results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Call {
    /// `(pointer, length, level)`: appends UTF-8 text, `target: message` of at most
    /// [`crate::log_line::LINE_BYTES_MAX`] bytes, to the node's log. The level is that of
    /// the `log` crate: 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    Log = 0,
    /// `(deadline_ns, events pointer, capacity) -> count`: sleeps until an event
    /// is pending or the monotonic clock passes the deadline, then copies up to
    /// `capacity` [`crate::event::Event`]s. A zero count means the deadline.
    Wait = 1,
    /// `(pointer, length)`: dom0 gives up; the text is logged as the cause and
    /// dom0 is started again from the image. Does not return.
    Fail = 2,
    /// `(DomainSpec pointer) -> domain`: reserves memory and vCPUs, all stopped.
    /// [`Error::NoMemory`], [`Error::NoSlot`], [`Error::Argument`].
    DomainCreate = 3,
    /// `(domain, VcpuState pointer, vcpu)`: sets the state a vCPU starts with.
    /// [`Error::State`] unless the domain was never started.
    VcpuSetState = 4,
    /// `(domain)`: starts or resumes a paused domain.
    DomainResume = 5,
    /// `(domain)`: stops its vCPUs; all have left guest mode on return.
    DomainPause = 6,
    /// `(domain)`: stops it and gives its memory back.
    DomainDestroy = 7,
    /// `(domain, vcpu, value)`: answers a forwarded exit. [`Error::State`] when
    /// that vCPU waits for no answer.
    CompleteExit = 8,
    /// `(domain, address, data)`: delivers a message-signalled interrupt.
    InjectMsi = 9,
    /// `(domain, gpa, width bytes, index)`: a guest write of that width there
    /// becomes [`crate::event::Event`] `DOORBELL` `index` and does not stop the
    /// vCPU; width zero removes doorbell `index`.
    Doorbell = 10,
    /// `(slot, DomainInfo pointer)`: [`Error::NotFound`] for an empty slot.
    DomainInfo = 11,
    /// `(NodeInfo pointer)`.
    NodeInfo = 12,
    /// `(bus/device/function, offset, size) -> value`: reads PCI configuration.
    PciRead = 13,
    /// `(bus/device/function, offset, size, value)`: writes PCI configuration.
    PciWrite = 14,
    /// `(physical address, length) -> virtual address`: maps device registers,
    /// uncached. Refused for anything that is RAM.
    MapMmio = 15,
    /// `(length) -> virtual address, bus address`: contiguous zeroed memory.
    DmaAllocate = 16,
    /// `(index) -> message address, message data`: a message-signalled interrupt
    /// whose arrival becomes [`crate::event::Event`] `INTERRUPT` `index`.
    BindInterrupt = 17,
    /// `(key, pointer, length)`: stores up to [`crate::STORE_BYTES`] that survive
    /// dom0 under a domain slot.
    StorePut = 18,
    /// `(key, pointer, capacity) -> length`: reads them back.
    StoreGet = 19,
    /// `(offset, pointer, capacity, which) -> length, next offset`: reads the node's
    /// log, or another of `previous::LOG_*`, from a running byte offset; what was
    /// overwritten is skipped.
    LogRead = 20,
    /// `(how)`: 0 resets the machine, 1 turns it off.
    Reset = 21,
    /// `(domain, weight, cap percent)`: scheduling parameters; cap 0 is none.
    Schedule = 22,
    /// `(domain, vcpu)`: sends a non-maskable interrupt.
    InjectNmi = 23,
    /// `(own)`: 1 dedicates dom0's home CPU to it, 0 shares it.
    /// [`Error::Refused`] where it is the only CPU.
    OwnCpu = 24,
    /// `(milliseconds)`: how long the node stands still after it failed, before it
    /// restarts. At most [`crate::MAX_RESTART_DELAY_MS`].
    RestartDelay = 25,
    /// `(how)`: makes the hypervisor fail, to show what follows: 0 by a panic, 1 by
    /// a loop without end on the CPU that asks. Does not return.
    Break = 26,
    /// `(run)`: 1 lets both threads of each core run, 0 lets the second ones rest, as
    /// they do at first. Not taken back before the next reset.
    RunThreads = 27,
    /// `(domain, memory bytes)`: reserves more memory, so that it has so much.
    /// [`Error::State`] unless the domain was never started, [`Error::NoMemory`],
    /// [`Error::Argument`] for less than it has.
    DomainGrow = 28,
}

impl Call {
    /// The call with a number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Log,
            1 => Self::Wait,
            2 => Self::Fail,
            3 => Self::DomainCreate,
            4 => Self::VcpuSetState,
            5 => Self::DomainResume,
            6 => Self::DomainPause,
            7 => Self::DomainDestroy,
            8 => Self::CompleteExit,
            9 => Self::InjectMsi,
            10 => Self::Doorbell,
            11 => Self::DomainInfo,
            12 => Self::NodeInfo,
            13 => Self::PciRead,
            14 => Self::PciWrite,
            15 => Self::MapMmio,
            16 => Self::DmaAllocate,
            17 => Self::BindInterrupt,
            18 => Self::StorePut,
            19 => Self::StoreGet,
            20 => Self::LogRead,
            21 => Self::Reset,
            22 => Self::Schedule,
            23 => Self::InjectNmi,
            24 => Self::OwnCpu,
            25 => Self::RestartDelay,
            26 => Self::Break,
            27 => Self::RunThreads,
            28 => Self::DomainGrow,
            _ => return None,
        })
    }
}

/// Why a call did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// No such call.
    Call = 1,
    /// An argument is out of its range.
    Argument = 2,
    /// A pointer is not wholly in dom0's memory.
    Pointer = 3,
    /// No such domain, vCPU, function or entry.
    NotFound = 4,
    /// The object is in another state.
    State = 5,
    /// Not enough free memory.
    NoMemory = 6,
    /// A table is full.
    NoSlot = 7,
    /// The hypervisor refuses it as a matter of policy.
    Refused = 8,
}

impl Error {
    /// The error behind a negative result; unknown numbers are `Call`.
    #[must_use]
    pub const fn from_result(result: i64) -> Self {
        match -result {
            2 => Self::Argument,
            3 => Self::Pointer,
            4 => Self::NotFound,
            5 => Self::State,
            6 => Self::NoMemory,
            7 => Self::NoSlot,
            8 => Self::Refused,
            _ => Self::Call,
        }
    }

    /// The value RAX carries.
    #[must_use]
    pub const fn to_result(self) -> i64 {
        -(self as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Error};

    #[test]
    fn numbers_and_calls_agree() {
        for number in 0..64 {
            if let Some(call) = Call::from_number(number) {
                assert_eq!(call as u64, number);
            }
        }
        assert_eq!(Call::from_number(29), None);
    }

    #[test]
    fn errors_survive_the_register() {
        for error in [
            Error::Call,
            Error::Argument,
            Error::Pointer,
            Error::NotFound,
            Error::State,
            Error::NoMemory,
            Error::NoSlot,
            Error::Refused,
        ] {
            assert_eq!(Error::from_result(error.to_result()), error);
        }
    }
}
