//! The seam between what every processor shares and what each vendor does its own
//! way: how a guest is entered, what it may be given, why it stopped.
//!
//! Scheduling, the local APIC, CPUID and MSR policy, decoding and memory know only
//! this page. AMD's side is `svm`; Intel's would be a second [`Machine`]. `host` chooses.

use crate::cpu::Cpu;
use crate::memory::Table;
use crate::registers::Registers;
use hv_abi::DomainSlot;
use hv_abi::call::Error;
use hv_abi::domain::VcpuState;
use hv_core::decode::{Mode, Segment};
use hv_core::guest_page::Paging;
use hv_x86::{Exception, Gpa};

/// Why a guest stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// Something for the host arrived, or the guest can take an event now.
    Interruption,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// IN or OUT.
    Port(PortAccess),
    /// RDMSR or WRMSR of the register in RCX.
    Msr {
        /// WRMSR.
        write: bool,
    },
    /// The processor reports damage.
    MachineCheck,
    /// An access to an address that has no memory yet, or never will.
    Memory(MemoryFault),
    /// XSETBV.
    Xsetbv,
    /// The vendor's hypercall instruction, whose bytes these are.
    Hypercall(&'static [u8]),
    /// An instruction that does nothing for a guest, whose bytes these are.
    Nothing(&'static [u8]),
    /// An exception for the guest: one that was intercepted only so that its
    /// delivery cannot repeat without end, or the answer to an instruction that
    /// guests do not have.
    Exception(Exception),
    /// The guest faulted in handling its faults.
    TripleFault,
    /// The guest cannot continue, and why.
    Fatal(&'static str),
    /// A code that was never asked for.
    Unexpected(u64),
}

/// A port access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortAccess {
    /// Port.
    pub(crate) port: u16,
    /// Bytes: 1, 2 or 4.
    pub(crate) width: u8,
    /// IN.
    pub(crate) input: bool,
    /// INS or OUTS.
    pub(crate) string: bool,
    /// Where the guest resumes.
    pub(crate) next_rip: u64,
}

/// A fault in the nested page tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryFault {
    /// Guest-physical address.
    pub(crate) gpa: Gpa,
    /// By the processor itself: an instruction fetch or a walk of the guest's own
    /// tables, which no device can answer.
    pub(crate) implicit: bool,
    /// It was a write.
    pub(crate) write: bool,
}

/// What a guest finds when it resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing.
    None,
    /// The event whose delivery the last exit interrupted.
    Interrupted,
    /// An exception.
    Exception(Exception),
    /// A non-maskable interrupt.
    Nmi,
    /// An external interrupt.
    Interrupt(u8),
}

/// How to enter a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// What to deliver.
    pub(crate) event: Event,
    /// Exit again as soon as the guest can take an interrupt.
    pub(crate) window: bool,
    /// The guest's task priority, bits 7:4 of its TPR.
    pub(crate) task_priority_class: u8,
}

/// A virtual processor as the vendor's processors keep it. One is run on one CPU
/// at a time, and only its owner touches it.
pub(crate) trait Machine: Sized {
    /// Why this processor cannot run guests, if it cannot.
    fn missing_feature() -> Option<&'static str>;
    /// Prepares what all CPUs share; None without memory.
    fn init() -> Option<()>;
    /// Turns virtualization on for the CPU this runs on.
    fn enable(cpu: &Cpu);
    /// A vCPU that has not been started; None without memory. `root` is
    /// that of its nested page tables.
    fn new(root: Table, tsc_offset: u64) -> Option<Self>;

    /// State after INIT and start-up at `vector` << 12.
    fn real_mode(&mut self, vector: u8);
    /// The state that dom0's loader describes.
    ///
    /// # Errors
    /// When it describes none.
    fn described(&mut self, state: &VcpuState) -> Result<(), Error>;

    /// Guest mode until the next exit, and why it ended.
    fn run(&mut self, cpu: &Cpu, registers: &mut Registers, entry: &Entry) -> Exit;
    /// Whether the last exit interrupted the delivery of an event that must be
    /// delivered again.
    fn has_interrupted_event(&self) -> bool;
    /// The external interrupt that the guest was given with the last entry and did not
    /// come to take.
    fn untaken_interrupt(&mut self) -> Option<u8>;
    /// Whether the guest takes external interrupts.
    fn takes_interrupts(&self) -> bool;
    /// Whether HLT would end for an external interrupt.
    fn interrupt_flag(&self) -> bool;
    /// Whether the guest takes an NMI.
    fn takes_nmi(&self) -> bool;
    /// Bits 7:4 of the task priority, which the guest may change without an exit.
    fn task_priority_class(&self) -> u8;

    /// Bytes at the instruction pointer, where the processor hands them over.
    fn fetched(&self) -> Option<&[u8]>;
    /// The address after the instruction that ended guest mode, where the
    /// processor says it.
    fn next_rip(&self) -> Option<u64>;
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Resumes at `rip`, one instruction further.
    fn go_to(&mut self, rip: u64);
    /// The linear address of the instruction.
    fn linear_rip(&self) -> u64;
    /// The code segment's mode.
    fn mode(&self) -> Mode;
    /// Flags.
    fn flags(&self) -> u64;
    /// Where a segment begins: what 64-bit mode goes by.
    fn segment_base(&self, segment: Segment) -> u64;
    /// Changes the address of a page fault.
    fn set_fault_address(&mut self, linear: u64);
    /// What chooses the guest's own paging.
    fn paging(&self) -> Paging;
    /// Current privilege level.
    fn privilege(&self) -> u8;
    /// EFER as the guest sees it.
    fn efer(&self) -> u64;
    /// Changes EFER, but for LMA, which the processor keeps.
    fn set_efer(&mut self, value: u64);
    /// Page attribute table.
    fn pat(&self) -> u64;
    /// Changes the page attribute table.
    fn set_pat(&mut self, value: u64);
    /// Logs where the guest was, to find out why it ended.
    fn log_state(&self, domain: DomainSlot, index: u32);
}
