//! Domains.

use crate::nested::Nested;
use crate::run_queue::{self, SCHEDULER};
use crate::slot::Slot;
use crate::vcpu::{self, Vcpu};
use crate::{address_space, apic, clock, cpu, events, raw, speculation, store};
use core::sync::atomic::{AtomicU32, Ordering};
use heapless::Vec;
use hv_abi::call::Error;
use hv_abi::domain::{DomainInfo, DomainSpec, STATE_CRASHED, STATE_NEW, STATE_PAUSED, STATE_RUNNING};
use hv_abi::{DomainId, DomainSlot, MAX_DOMAIN_VCPUS, MAX_DOMAINS, MAX_DOORBELLS};
use hv_core::lapic::Message;
use hv_core::scheduler::State;
use hv_x86::apic::{DELIVERY_FIXED, DELIVERY_INIT, DELIVERY_LOWEST, DELIVERY_NMI, DELIVERY_STARTUP};
use hv_x86::{Gpa, Hpa, LARGE_PAGE_SIZE};

static DOMAINS: [Slot<Domain>; MAX_DOMAINS] = [const { Slot::new() }; MAX_DOMAINS];
/// The number of the newest domain.
static LAST: AtomicU32 = AtomicU32::new(0);

/// A guest.
pub(crate) struct Domain {
    /// Its number.
    pub(crate) id: DomainId,
    /// Its memory.
    pub(crate) nested: Nested,
    /// Added to the TSC in the guest.
    pub(crate) tsc_offset: u64,
    /// Monotonic time at which its own clock was zero.
    pub(crate) created_ns: u64,
    state: u32,
    slots: Slots,
    doorbells: [(Gpa, u8); MAX_DOORBELLS],
    weight: u32,
    cap_percent: u32,
    log_lines_left: u32,
    first_run_ns: u64,
}

/// Log lines a guest may cause before it is silenced.
const LOG_LINES: u32 = 64;

impl Domain {
    /// The doorbell that a write rings.
    pub(crate) fn doorbell(&self, gpa: Gpa, width: u8) -> Option<u32> {
        let found =
            self.doorbells.iter().position(|(at, bytes)| *at == gpa && *bytes == width && width != 0)?;
        u32::try_from(found).ok()
    }

    /// Takes one line from the guest's allowance.
    pub(crate) const fn may_log(&mut self) -> bool {
        let may = self.log_lines_left > 0;
        self.log_lines_left = self.log_lines_left.saturating_sub(1);
        may
    }

    /// A vCPU ran for the first time.
    pub(crate) const fn record_run(&mut self, now_ns: u64) {
        if self.first_run_ns == 0 {
            self.first_run_ns = now_ns;
        }
    }
}

/// The place of the domain in a slot.
fn at(slot: DomainSlot) -> Option<&'static Slot<Domain>> {
    DOMAINS.get(slot.index())
}

/// Runs `action` on the domain in a slot, if there is one.
pub(crate) fn with_slot<T>(slot: DomainSlot, action: impl FnOnce(&mut Domain) -> T) -> Option<T> {
    at(slot)?.lock().as_mut().map(action)
}

/// Runs `action` on the domain with a number.
fn with<T>(id: DomainId, action: impl FnOnce(&mut Domain) -> T) -> Result<T, Error> {
    let mut guard = at(id.slot()).ok_or(Error::NotFound)?.lock();
    guard.as_mut().filter(|domain| domain.id == id).map(action).ok_or(Error::NotFound)
}

/// Everything is reported again: for a new dom0.
pub(crate) fn report_again() {
    for slot in DomainSlot::all() {
        let Some(vcpus) = with_slot(slot, |domain| domain.slots.clone()) else { continue };
        let mut waiting = 0;
        for (index, vcpu) in vcpus.iter().enumerate() {
            if vcpu::by_slot(*vcpu).is_some_and(Vcpu::waits_for_answer) {
                waiting |= 1 << index;
            }
        }
        if let Some(causes) = events::of_domain(slot) {
            causes.exits.fetch_or(waiting, Ordering::Relaxed);
            causes.changed.store(true, Ordering::Relaxed);
            events::mark(slot);
        }
    }
}

/// vCPU slots of a domain; a copy is used outside its lock.
type Slots = Vec<usize, MAX_DOMAIN_VCPUS>;

/// Creates a domain with all its vCPUs stopped.
pub(crate) fn create(spec: &DomainSpec) -> Result<DomainId, Error> {
    let vcpus = spec.vcpus as usize;
    if !(1..=MAX_DOMAIN_VCPUS).contains(&vcpus)
        || spec.memory_bytes == 0
        || !spec.memory_bytes.is_multiple_of(LARGE_PAGE_SIZE)
        || spec.memory_bytes > hv_abi::boot::WINDOW_BYTES / 2
        || !(1..=65_535).contains(&spec.weight)
    {
        return Err(Error::Argument);
    }
    let is_free = |slot| at(slot).is_some_and(|domain| domain.lock().is_none());
    let number = DomainId::after(LAST.load(Ordering::Relaxed), is_free).ok_or(Error::NoSlot)?;
    let slot = number.slot();
    let nested = Nested::new(spec.memory_bytes).ok_or(Error::NoMemory)?;
    LAST.store(number.0, Ordering::Relaxed);
    let mut domain = Domain {
        id: number,
        nested,
        tsc_offset: raw::tsc().zero_offset(),
        created_ns: clock::now_ns(),
        state: STATE_NEW,
        slots: Slots::new(),
        doorbells: [(Gpa(0), 0); MAX_DOORBELLS],
        weight: spec.weight,
        cap_percent: spec.cap_percent,
        log_lines_left: LOG_LINES,
        first_run_ns: 0,
    };
    for index in 0..spec.vcpus {
        let created = vcpu::create(slot, index, spec.vcpus, domain.nested.root(), domain.tsc_offset);
        match created.and_then(|vcpu| domain.slots.push(vcpu).map(|()| vcpu).map_err(|_| Error::NoSlot)) {
            Ok(vcpu) => {
                let cap = spec.cap_percent.div_ceil(spec.vcpus);
                SCHEDULER.lock().add(vcpu, spec.weight, cap);
            }
            Err(error) => {
                domain.slots.iter().copied().for_each(vcpu::free);
                return Err(error);
            }
        }
    }
    if let Some(causes) = events::of_domain(slot) {
        causes.clear();
    }
    address_space::map_window(slot, Some(&domain.nested));
    if let Some(target) = at(slot) {
        *target.lock() = Some(domain);
    }
    Ok(number)
}

/// Gives a domain that was never started more memory.
pub(crate) fn grow(id: DomainId, memory_bytes: u64) -> Result<(), Error> {
    with(id, |domain| {
        if domain.state != STATE_NEW {
            return Err(Error::State);
        }
        if memory_bytes < domain.nested.memory_bytes()
            || !memory_bytes.is_multiple_of(LARGE_PAGE_SIZE)
            || memory_bytes > hv_abi::boot::WINDOW_BYTES / 2
        {
            return Err(Error::Argument);
        }
        if domain.nested.grow(memory_bytes) { Ok(()) } else { Err(Error::NoMemory) }
    })?
}

fn slots_of(id: DomainId) -> Result<Slots, Error> {
    with(id, |domain| domain.slots.clone())
}

/// Starts or resumes.
pub(crate) fn resume(id: DomainId) -> Result<(), Error> {
    let slots = with(id, |domain| {
        if !matches!(domain.state, STATE_NEW | STATE_PAUSED) {
            return Err(Error::State);
        }
        domain.state = STATE_RUNNING;
        Ok(domain.slots.clone())
    })??;
    for slot in slots.iter() {
        let kick = SCHEDULER.lock().wake(*slot);
        run_queue::reschedule(kick);
    }
    Ok(())
}

/// Stops all vCPUs; none is in guest mode on return. Called on dom0's CPU, which
/// therefore runs none itself.
fn stop(slots: &[usize]) {
    for slot in slots.iter() {
        if let Some(vcpu) = vcpu::by_slot(*slot) {
            vcpu.request_stop(true);
        }
        loop {
            let running = SCHEDULER.lock().stop(*slot);
            let Some(runs_on) = running else { break };
            apic::interrupt(runs_on, cpu::VECTOR_RESCHEDULE);
            for _ in 0..1000 {
                core::hint::spin_loop();
            }
        }
        if let Some(vcpu) = vcpu::by_slot(*slot) {
            vcpu.request_stop(false);
        }
    }
}

/// Pauses.
pub(crate) fn pause(id: DomainId) -> Result<(), Error> {
    let slots = slots_of(id)?;
    stop(&slots);
    with(id, |domain| {
        if domain.state == STATE_RUNNING {
            domain.state = STATE_PAUSED;
        }
    })
}

/// Destroys.
pub(crate) fn destroy(id: DomainId) -> Result<(), Error> {
    let slots = slots_of(id)?;
    stop(&slots);
    let slot = id.slot();
    address_space::map_window(slot, None);
    for vcpu in slots.iter() {
        SCHEDULER.lock().remove(*vcpu);
        vcpu::free(*vcpu);
    }
    let domain = at(slot).and_then(|domain| domain.lock().take());
    drop(domain);
    speculation::forget(slot);
    if let Some(causes) = events::of_domain(slot) {
        causes.clear();
    }
    store::clear(slot.index());
    Ok(())
}

/// A guest failed by itself; its vCPUs stop one by one as they notice.
pub(crate) fn crash(slot: DomainSlot, cause: &str) {
    let slots = with_slot(slot, |domain| {
        if domain.state != STATE_CRASHED {
            log::warn!("domain {}: stopped: {cause}", domain.id.0);
        }
        domain.state = STATE_CRASHED;
        domain.slots.clone()
    });
    for vcpu in slots.iter().flatten() {
        if let Some(vcpu) = vcpu::by_slot(*vcpu) {
            vcpu.request_stop(true);
        }
        let running = SCHEDULER.lock().stop(*vcpu);
        run_queue::reschedule(running);
    }
    if let Some(causes) = events::of_domain(slot) {
        causes.changed.store(true, Ordering::Relaxed);
    }
    events::notify(slot);
}

/// The slot of the domain whose memory a host address is.
pub(crate) fn owner_of(host: Hpa) -> Option<DomainSlot> {
    DomainSlot::all().find(|slot| with_slot(*slot, |domain| domain.nested.holds(host)) == Some(true))
}

/// Sets a doorbell; width zero removes it.
pub(crate) fn set_doorbell(id: DomainId, gpa: Gpa, width: u64, index: u64) -> Result<(), Error> {
    let width =
        u8::try_from(width).ok().filter(|width| matches!(width, 0 | 1 | 2 | 4 | 8)).ok_or(Error::Argument)?;
    with(id, |domain| {
        let slot = domain.doorbells.get_mut(hv_x86::to_usize(index)).ok_or(Error::Argument)?;
        *slot = (gpa, width);
        Ok(())
    })?
}

/// Changes scheduling parameters.
pub(crate) fn schedule(id: DomainId, weight: u64, cap_percent: u64) -> Result<(), Error> {
    let weight =
        u32::try_from(weight).ok().filter(|weight| (1..=65_535).contains(weight)).ok_or(Error::Argument)?;
    let cap_percent = u32::try_from(cap_percent).map_err(|_| Error::Argument)?;
    let slots = with(id, |domain| {
        domain.weight = weight;
        domain.cap_percent = cap_percent;
        domain.slots.clone()
    })?;
    let count = u32::try_from(slots.len()).unwrap_or(1).max(1);
    for slot in slots.iter() {
        SCHEDULER.lock().set_parameters(*slot, weight, cap_percent.div_ceil(count));
    }
    Ok(())
}

/// Sends a message to the local APICs it addresses.
pub(crate) fn send(slot: DomainSlot, message: &Message, source: Option<u32>) {
    let Some(slots) = with_slot(slot, |domain| domain.slots.clone()) else { return };
    for (index, vcpu_slot) in (0_u32..).zip(slots.iter()) {
        let Some(vcpu) = vcpu::by_slot(*vcpu_slot) else { continue };
        if !vcpu.address(index).matches(message, source) {
            continue;
        }
        match message.delivery {
            DELIVERY_FIXED | DELIVERY_LOWEST => vcpu.request_interrupt(message.vector),
            DELIVERY_NMI => vcpu.request_nmi(),
            DELIVERY_INIT => vcpu.request_init(),
            DELIVERY_STARTUP => vcpu.request_startup(message.vector),
            _ => continue,
        }
        run_queue::kick(*vcpu_slot);
        // Lowest priority goes to one processor: the first that matches.
        if message.delivery == DELIVERY_LOWEST {
            return;
        }
    }
}

/// A message from dom0 or a device.
pub(crate) fn send_to(id: DomainId, message: &Message) -> Result<(), Error> {
    with(id, |_| ())?;
    send(id.slot(), message, None);
    Ok(())
}

/// The slot of a vCPU of a domain.
pub(crate) fn vcpu_slot(id: DomainId, vcpu: u64) -> Result<usize, Error> {
    let slots = slots_of(id)?;
    slots.get(hv_x86::to_usize(vcpu)).copied().ok_or(Error::NotFound)
}

/// Whether a domain was never started.
pub(crate) fn is_new(id: DomainId) -> Result<bool, Error> {
    with(id, |domain| domain.state == STATE_NEW)
}

/// Facts about the domain in a slot.
pub(crate) fn info(slot: DomainSlot) -> Result<DomainInfo, Error> {
    let (mut info, slots) = with_slot(slot, |domain| {
        let info = DomainInfo {
            domain: domain.id.0,
            state: domain.state,
            vcpus: u32::try_from(domain.slots.len()).unwrap_or(0),
            memory_bytes: domain.nested.memory_bytes(),
            populated_bytes: domain.nested.populated_bytes(),
            weight: domain.weight,
            cap_percent: domain.cap_percent,
            first_run_ns: domain.first_run_ns,
            ..DomainInfo::default()
        };
        (info, domain.slots.clone())
    })
    .ok_or(Error::NotFound)?;
    let now_ns = clock::now_ns();
    for slot in slots.iter() {
        let scheduler = SCHEDULER.lock();
        info.cpu_time_ns += scheduler.total_ns(*slot, now_ns);
        info.vcpus_runnable +=
            u32::from(matches!(scheduler.state(*slot), State::Runnable | State::Running(_)));
        drop(scheduler);
        info.exits += vcpu::by_slot(*slot).map_or(0, Vcpu::exits);
    }
    Ok(info)
}

/// Backs a guest page that dom0 touches through its window.
pub(crate) fn populate(slot: DomainSlot, gpa: Gpa) -> bool {
    with_slot(slot, |domain| domain.nested.populate(gpa).is_ok()).unwrap_or(false)
}

/// Maps every domain's window into a new dom0.
pub(crate) fn map_windows() {
    for slot in DomainSlot::all() {
        with_slot(slot, |domain| address_space::map_window(slot, Some(&domain.nested)));
    }
}
