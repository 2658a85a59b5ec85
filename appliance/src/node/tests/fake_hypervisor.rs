//! A hypervisor of plain memory. It outlives the nodes that use it, so a test can
//! end one dom0 and start the next.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Ref, RefCell, RefMut};
use core::hint::black_box;

use hv_abi::call::Error;
use hv_abi::domain::{
    DomainInfo, DomainSpec, NodeInfo, STATE_CRASHED, STATE_NEW, STATE_PAUSED, STATE_RUNNING, VcpuState,
    WATCHDOG_I6300ESB, WATCHDOG_PROCESSOR,
};
use hv_abi::previous::{Ended, LOG_NOW, LOG_PREVIOUS};
use hv_abi::{DomainId, MAX_DOMAINS, STORE_BYTES};

use crate::hypervisor::Hypervisor;
use crate::node::tests::log_sink;
use machine::fault::GuestFault;
use machine::guest_memory::{FakeMemory, Gpa, GuestMemory};
use machine::layout::MemoryLayout;
use machine::test_random::TestRandom;

/// A window onto a fake domain's memory.
#[derive(Clone, Debug)]
pub(super) struct FakeWindow(pub(super) Rc<FakeMemory>);

impl GuestMemory for FakeWindow {
    fn contains(&self, gpa: Gpa, length: u64) -> bool {
        self.0.contains(gpa, length)
    }
    fn read(&self, gpa: Gpa, target: &mut [u8]) -> Result<(), GuestFault> {
        self.0.read(gpa, target)
    }
    fn write(&self, gpa: Gpa, source: &[u8]) -> Result<(), GuestFault> {
        self.0.write(gpa, source)
    }
    fn load_u16(&self, gpa: Gpa) -> Result<u16, GuestFault> {
        self.0.load_u16(gpa)
    }
    fn store_u16(&self, gpa: Gpa, value: u16) -> Result<(), GuestFault> {
        self.0.store_u16(gpa, value)
    }
    fn fence(&self) {
        self.0.fence();
    }
}

/// A domain.
pub(super) struct FakeDomain {
    pub(super) id: DomainId,
    pub(super) spec: DomainSpec,
    pub(super) state: u32,
    pub(super) vcpu: Option<VcpuState>,
    pub(super) memory: Rc<FakeMemory>,
    pub(super) record: Vec<u8>,
    pub(super) interrupts: Vec<(u64, u32)>,
    pub(super) doorbells: BTreeMap<u32, (u64, u16)>,
    /// How often any was registered or removed.
    pub(super) doorbell_calls: u64,
    pub(super) answers: Vec<(u32, u64)>,
}

/// The machine under all nodes of a test.
pub(super) struct FakeMachine {
    own_record: Vec<u8>,
    pub(super) slots: Vec<Option<FakeDomain>>,
    pub(super) memory_free_bytes: u64,
    pub(super) log: Vec<String>,
    /// What the node asked for, in order.
    pub(super) resets: Vec<bool>,
    pub(super) dom0_owns_cpu: bool,
    pub(super) restart_delay_ms: u64,
    pub(super) threads_run: bool,
    /// The next creations that fail for lack of memory.
    pub(super) refuse_creations: usize,
    /// The number of the newest domain.
    last_domain: u32,
    random: TestRandom,
    /// The random bytes that were given last.
    pub(super) random_given: Vec<u8>,
}

/// The handle that a node owns.
#[derive(Clone)]
pub(super) struct FakeHypervisor(Rc<RefCell<FakeMachine>>);

/// What is between calls of these two is no part of a turn, for who counts instructions.
#[inline(never)]
fn apart_begins() -> u8 {
    black_box(3)
}

#[inline(never)]
fn apart_ends() -> u8 {
    black_box(4)
}

/// Does what is no part of a node, so that its memory and its work are not the node's.
pub(super) fn uncounted<T>(act: impl FnOnce() -> T) -> T {
    let mut result = None;
    apart_begins();
    allocation_counter::opt_out(|| result = Some(act()));
    apart_ends();
    result.unwrap()
}

impl FakeHypervisor {
    pub(super) fn new(seed: u64) -> Self {
        log_sink::start();
        Self(Rc::new(RefCell::new(FakeMachine {
            slots: (0..MAX_DOMAINS).map(|_| None).collect(),
            memory_free_bytes: 512 << 20,
            log: Vec::new(),
            resets: Vec::new(),
            dom0_owns_cpu: false,
            restart_delay_ms: 0,
            threads_run: false,
            refuse_creations: 0,
            last_domain: 0,
            own_record: Vec::new(),
            random_given: Vec::new(),
            random: TestRandom(seed.wrapping_mul(0x9e37_79b9) | 1),
        })))
    }

    pub(super) fn machine(&self) -> RefMut<'_, FakeMachine> {
        let mut machine = self.0.borrow_mut();
        uncounted(|| log_sink::take(&mut machine.log));
        machine
    }

    /// A domain, for assertions.
    pub(super) fn domain(&self, id: u32) -> Ref<'_, FakeDomain> {
        Ref::map(self.0.borrow(), |machine| {
            let slot = machine.slots[DomainId(id).slot().index()].as_ref().unwrap();
            assert_eq!(slot.id.0, id, "the domain is gone");
            slot
        })
    }

    /// Numbers of all domains whose first vCPU has a state: guests, not blobs.
    pub(super) fn guests(&self) -> Vec<u32> {
        let machine = self.0.borrow();
        let domains = machine.slots.iter().flatten();
        domains.filter(|domain| domain.vcpu.is_some()).map(|domain| domain.id.0).collect()
    }

    /// How many domains there are, blobs too, but not the audit log's.
    pub(super) fn domains(&self) -> usize {
        let machine = self.0.borrow();
        machine.slots.iter().flatten().filter(|domain| domain.record != *b"REDOAUDT").count()
    }

    /// Stops a domain as a triple fault does.
    pub(super) fn crash(&self, id: u32) {
        self.with(DomainId(id), |domain| domain.state = STATE_CRASHED).unwrap();
    }

    fn with<T>(&self, id: DomainId, act: impl FnOnce(&mut FakeDomain) -> T) -> Result<T, Error> {
        let mut machine = self.0.borrow_mut();
        let slot = machine.slots.get_mut(id.slot().index()).and_then(Option::as_mut).filter(|it| it.id == id);
        slot.map(|slot| uncounted(|| act(slot))).ok_or(Error::NotFound)
    }
}

impl Hypervisor for FakeHypervisor {
    type Memory = FakeWindow;

    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainId, Error> {
        let mut machine = self.machine();
        assert_eq!(spec.memory_bytes % (2 << 20), 0, "whole large pages");
        if machine.refuse_creations > 0 {
            machine.refuse_creations -= 1;
            return Err(Error::NoMemory);
        }
        if spec.memory_bytes > machine.memory_free_bytes {
            return Err(Error::NoMemory);
        }
        let is_free = |slot: hv_abi::DomainSlot| machine.slots[slot.index()].is_none();
        let id = DomainId::after(machine.last_domain, is_free).ok_or(Error::NoSlot)?;
        let slot = id.slot().index();
        machine.last_domain = id.0;
        machine.memory_free_bytes -= spec.memory_bytes;
        let layout = MemoryLayout::new(spec.memory_bytes);
        let size = |bytes: u64| usize::try_from(bytes).unwrap();
        let memory =
            uncounted(|| Rc::new(FakeMemory::new(size(layout.low_end()), size(layout.high_bytes()))));
        machine.slots[slot] = Some(FakeDomain {
            id,
            spec: *spec,
            state: STATE_NEW,
            vcpu: None,
            memory,
            record: Vec::new(),
            interrupts: Vec::new(),
            doorbells: BTreeMap::new(),
            doorbell_calls: 0,
            answers: Vec::new(),
        });
        Ok(id)
    }

    fn vcpu_set_state(&mut self, domain: DomainId, vcpu: u32, state: &VcpuState) -> Result<(), Error> {
        assert_eq!(vcpu, 0);
        self.with(domain, |domain| domain.vcpu = Some(*state))
    }

    fn domain_resume(&mut self, domain: DomainId) -> Result<(), Error> {
        self.with(domain, |domain| {
            assert!(domain.vcpu.is_some(), "only what has a state may run");
            domain.state = STATE_RUNNING;
        })
    }

    fn domain_pause(&mut self, domain: DomainId) -> Result<(), Error> {
        self.with(domain, |domain| domain.state = STATE_PAUSED)
    }

    fn domain_destroy(&mut self, domain: DomainId) -> Result<(), Error> {
        let bytes = self.with(domain, |domain| {
            assert_eq!(Rc::strong_count(&domain.memory), 1, "a window onto a domain outlives it");
            domain.spec.memory_bytes
        })?;
        let mut machine = self.machine();
        machine.memory_free_bytes += bytes;
        uncounted(|| machine.slots[domain.slot().index()] = None);
        Ok(())
    }

    fn domain_grow(&mut self, domain: DomainId, memory_bytes: u64) -> Result<(), Error> {
        assert_eq!(memory_bytes % (2 << 20), 0, "whole large pages");
        let free = self.machine().memory_free_bytes;
        let more = self.with(domain, |domain| {
            if domain.state != STATE_NEW {
                return Err(Error::State);
            }
            let more = memory_bytes.checked_sub(domain.spec.memory_bytes).ok_or(Error::Argument)?;
            if more > free {
                return Err(Error::NoMemory);
            }
            domain.spec.memory_bytes = memory_bytes;
            domain.memory.grow(usize::try_from(MemoryLayout::new(memory_bytes).low_end()).unwrap());
            Ok(more)
        })??;
        self.machine().memory_free_bytes -= more;
        Ok(())
    }

    fn complete_exit(&mut self, domain: DomainId, vcpu: u32, value: u64) -> Result<(), Error> {
        self.with(domain, |domain| domain.answers.push((vcpu, value)))
    }

    fn inject_msi(&mut self, domain: DomainId, address: u64, data: u32) -> Result<(), Error> {
        self.with(domain, |domain| domain.interrupts.push((address, data)))
    }

    fn doorbell(&mut self, domain: DomainId, gpa: u64, width: u16, index: u32) -> Result<(), Error> {
        self.with(domain, |domain| {
            domain.doorbell_calls += 1;
            domain.doorbells.remove(&index);
            if width > 0 {
                domain.doorbells.insert(index, (gpa, width));
            }
        })
    }

    fn domain_info(&mut self, slot: usize) -> Result<DomainInfo, Error> {
        let machine = self.machine();
        let domain = machine.slots.get(slot).and_then(Option::as_ref).ok_or(Error::NotFound)?;
        Ok(DomainInfo {
            domain: domain.id.0,
            state: domain.state,
            vcpus: domain.spec.vcpus,
            vcpus_runnable: u32::from(domain.state == STATE_RUNNING),
            memory_bytes: domain.spec.memory_bytes,
            weight: domain.spec.weight,
            cap_percent: domain.spec.cap_percent,
            ..DomainInfo::default()
        })
    }

    fn node_info(&mut self) -> NodeInfo {
        let memory_free_bytes = self.machine().memory_free_bytes;
        let threads_resting = if self.machine().threads_run { 0 } else { 2 };
        NodeInfo {
            memory_bytes: 512 << 20,
            memory_free_bytes,
            cpus: 2,
            previous_end: Ended::Failed as u32,
            threads_resting,
            watchdogs: WATCHDOG_PROCESSOR | WATCHDOG_I6300ESB,
            ..NodeInfo::default()
        }
    }

    fn store_put(&mut self, key: usize, bytes: &[u8]) -> Result<(), Error> {
        assert!(bytes.len() <= STORE_BYTES);
        let mut machine = self.machine();
        if key == MAX_DOMAINS {
            machine.own_record = uncounted(|| bytes.to_vec());
            return Ok(());
        }
        let slot = machine.slots.get_mut(key).and_then(Option::as_mut).ok_or(Error::NotFound)?;
        slot.record = uncounted(|| bytes.to_vec());
        Ok(())
    }

    fn store_get(&mut self, key: usize, target: &mut [u8]) -> Result<usize, Error> {
        let machine = self.machine();
        let slot = machine.slots.get(key).and_then(Option::as_ref);
        let record = match slot {
            Some(slot) => &slot.record,
            None if key == MAX_DOMAINS => &machine.own_record,
            None => return Err(Error::NotFound),
        };
        target[..record.len()].copy_from_slice(record);
        Ok(record.len())
    }

    fn log_read(&mut self, which: u64, from: u64, target: &mut [u8]) -> (usize, u64) {
        let text = match which {
            LOG_NOW => uncounted(|| self.machine().log.join("\n").into_bytes()),
            LOG_PREVIOUS => b"[    1.000000] the last line\n".to_vec(),
            _ => b"panicked at power.rs".to_vec(),
        };
        let rest = text.get(usize::try_from(from).unwrap()..).unwrap_or_default();
        let count = rest.len().min(target.len());
        target[..count].copy_from_slice(&rest[..count]);
        let next = from.min(text.len() as u64) + count as u64;
        uncounted(|| drop(text));
        (count, next)
    }

    fn restart_delay(&mut self, milliseconds: u64) -> Result<(), Error> {
        self.machine().restart_delay_ms = milliseconds;
        Ok(())
    }

    fn run_threads(&mut self, run: bool) {
        self.machine().threads_run = run;
    }

    fn break_hypervisor(&mut self, hang: bool) {
        let line = if hang { "hypervisor hangs" } else { "hypervisor panics" };
        uncounted(|| self.machine().log.push(line.to_string()));
    }

    fn reset(&mut self, power_off: bool) {
        self.machine().resets.push(power_off);
    }

    fn own_cpu(&mut self, own: bool) -> Result<(), Error> {
        self.machine().dom0_owns_cpu = own;
        Ok(())
    }

    fn wild_access(&mut self) {
        uncounted(|| self.machine().log.push("wild access".to_string()));
    }

    fn memory(&mut self, domain: DomainId, layout: MemoryLayout) -> FakeWindow {
        self.with(domain, |domain| {
            assert_eq!(domain.spec.memory_bytes, layout.memory_bytes());
            FakeWindow(domain.memory.clone())
        })
        .unwrap()
    }

    fn with_blob(&mut self, domain: DomainId, length: usize, look: &mut dyn FnMut(&mut Self, &[u8])) -> bool {
        let bytes = self.with(domain, |domain| {
            assert_eq!(domain.state, STATE_NEW, "a store of bytes never runs");
            domain.memory.bytes(0, length)
        });
        let found = bytes.as_ref().map(|bytes| look(self, bytes)).is_ok();
        uncounted(|| drop(bytes));
        found
    }

    fn random(&mut self, target: &mut [u8]) {
        let mut machine = self.machine();
        for byte in &mut *target {
            *byte = machine.random.byte();
        }
        uncounted(|| machine.random_given = target.to_vec());
    }
}
