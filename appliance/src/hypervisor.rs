//! What the node asks of the hypervisor, as a trait: the ring-3 binary issues
//! system calls, tests use a fake.

use hv_abi::DomainId;
use hv_abi::call::Error;
use hv_abi::domain::{DomainInfo, DomainSpec, NodeInfo, VcpuState};
use machine::guest_memory::GuestMemory;
use machine::layout::MemoryLayout;

/// The system calls the node needs, and windows onto guest memory.
pub trait Hypervisor {
    /// A window onto a guest's memory.
    type Memory: GuestMemory;

    /// Creates a domain, stopped.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::DomainCreate`].
    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainId, Error>;
    /// Sets the state the first vCPU starts with.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::VcpuSetState`].
    fn vcpu_set_state(&mut self, domain: DomainId, vcpu: u32, state: &VcpuState) -> Result<(), Error>;
    /// Starts or resumes.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::DomainResume`].
    fn domain_resume(&mut self, domain: DomainId) -> Result<(), Error>;
    /// Stops all vCPUs.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::DomainPause`].
    fn domain_pause(&mut self, domain: DomainId) -> Result<(), Error>;
    /// Ends a domain; windows onto it must be gone.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::DomainDestroy`].
    fn domain_destroy(&mut self, domain: DomainId) -> Result<(), Error>;
    /// Gives a domain that was never started more memory. Windows onto it that were made
    /// before do not show what was added.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::DomainGrow`].
    fn domain_grow(&mut self, domain: DomainId, memory_bytes: u64) -> Result<(), Error>;
    /// Answers a forwarded access.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::CompleteExit`].
    fn complete_exit(&mut self, domain: DomainId, vcpu: u32, value: u64) -> Result<(), Error>;
    /// Delivers a message-signalled interrupt.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::InjectMsi`].
    fn inject_msi(&mut self, domain: DomainId, address: u64, data: u32) -> Result<(), Error>;
    /// Sets doorbell `index`; width zero removes it.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::Doorbell`].
    fn doorbell(&mut self, domain: DomainId, gpa: u64, width: u16, index: u32) -> Result<(), Error>;
    /// The domain in a slot.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an empty one.
    fn domain_info(&mut self, slot: usize) -> Result<DomainInfo, Error>;
    /// Facts about the machine.
    fn node_info(&mut self) -> NodeInfo;
    /// Stores bytes that survive dom0, under a domain slot.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::StorePut`].
    fn store_put(&mut self, key: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Reads them back; the length is zero for none.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::StoreGet`].
    fn store_get(&mut self, key: usize, target: &mut [u8]) -> Result<usize, Error>;
    /// Reads one of the logs ([`hv_abi::previous`], `LOG_*`) from a running offset: bytes
    /// read, next offset.
    fn log_read(&mut self, which: u64, from: u64, target: &mut [u8]) -> (usize, u64);
    /// Sets how long the node stands still after the hypervisor failed.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::RestartDelay`].
    fn restart_delay(&mut self, milliseconds: u64) -> Result<(), Error>;
    /// Lets both threads of each core run, or the second ones rest.
    fn run_threads(&mut self, run: bool);
    /// Makes the hypervisor fail, by a panic or by a loop without end.
    fn break_hypervisor(&mut self, hang: bool);
    /// Restarts the machine or turns it off; returns only in tests.
    fn reset(&mut self, power_off: bool);
    /// Keeps dom0's home CPU free of guests, or shares it with them.
    ///
    /// # Errors
    /// See [`hv_abi::call::Call::OwnCpu`].
    fn own_cpu(&mut self, own: bool) -> Result<(), Error>;
    /// Touches memory dom0 does not have, to show that it is contained.
    fn wild_access(&mut self);
    /// A window onto a domain's memory.
    fn memory(&mut self, domain: DomainId, layout: MemoryLayout) -> Self::Memory;
    /// Calls `look` with the first bytes of a domain that never runs: a store of
    /// kernels. False when they are not there.
    fn with_blob(&mut self, domain: DomainId, length: usize, look: &mut dyn FnMut(&mut Self, &[u8])) -> bool;
    /// Fills bytes from the processor's random number generator.
    fn random(&mut self, target: &mut [u8]);
}
