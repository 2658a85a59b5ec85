//! Virtual processors: what others may ask of them, and running them.

mod forwarded;
mod silent_eoi;

use crate::cpu::{self, Cpu};
use crate::domain::{self, SCHEDULER};
use crate::frame::{FrameBox, Page};
use crate::registers::Registers;
use crate::slot::Slot;
use crate::vendor::{Entry, Event as Given, Exit, Host, Machine};
use crate::{apic, clock, exits, raw, speculation, watch};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use hv_abi::MAX_VCPUS;
use hv_abi::call::Error;
use hv_abi::domain::VcpuState;
use hv_core::lapic::{Address, Lapic, Now};
use hv_core::scheduler::State;
use hv_core::watch::Doing;
use hv_x86::{Exception, reg};

use forwarded::report_access;
pub(crate) use forwarded::{Forwarded, complete, waiting_event};
pub(crate) use silent_eoi::SilentEoi;

static VCPUS: [Vcpu; MAX_VCPUS] = [const { Vcpu::new() }; MAX_VCPUS];

/// A virtual processor's slot: requests by anyone, the rest under a lock that is
/// held while it runs.
pub(crate) struct Vcpu {
    used: AtomicBool,
    irr: [AtomicU32; 8],
    nmi: AtomicBool,
    init: AtomicBool,
    /// Start-up vector plus one.
    startup: AtomicU8,
    answered: AtomicBool,
    stop: AtomicBool,
    waiting: AtomicBool,
    address: AtomicU64,
    exits: AtomicU64,
    inner: Slot<Inner>,
}

/// The state behind the lock.
pub(crate) struct Inner {
    pub(crate) machine: Host,
    pub(crate) registers: Registers,
    pub(crate) lapic: Lapic,
    pub(crate) silent_eoi: SilentEoi,
    pub(crate) xcr0: u64,
    pub(crate) tsc_aux: u64,
    /// SPEC_CTRL while the guest runs.
    pub(crate) control: u64,
    pub(crate) domain: usize,
    pub(crate) index: u32,
    pub(crate) vcpus: u32,
    pub(crate) halted: bool,
    pub(crate) forwarded: Option<Forwarded>,
    pub(crate) exception: Option<Exception>,
    nmi: bool,
    wait_startup: bool,
    state: FrameBox<Page>,
    debug: [u64; 4],
    tsc_offset: u64,
    ran: bool,
}

/// Why a vCPU gave its CPU back.
enum Leave {
    /// It waits; `true` when dom0 must hear of a new access.
    Block(bool),
    /// Another one's turn, or it was told to stop.
    Yield,
}

impl Vcpu {
    const fn new() -> Self {
        Self {
            used: AtomicBool::new(false),
            irr: [const { AtomicU32::new(0) }; 8],
            nmi: AtomicBool::new(false),
            init: AtomicBool::new(false),
            startup: AtomicU8::new(0),
            answered: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            address: AtomicU64::new(0),
            exits: AtomicU64::new(0),
            inner: Slot::new(),
        }
    }

    fn reset_requests(&self) {
        self.irr.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.startup.store(0, Ordering::Relaxed);
        for flag in [&self.nmi, &self.init, &self.answered, &self.stop, &self.waiting] {
            flag.store(false, Ordering::Relaxed);
        }
        self.exits.store(0, Ordering::Relaxed);
    }

    fn has_requests(&self) -> bool {
        self.irr.iter().any(|word| word.load(Ordering::Acquire) != 0)
            || self.startup.load(Ordering::Acquire) != 0
            || [&self.nmi, &self.init, &self.answered, &self.stop]
                .iter()
                .any(|flag| flag.load(Ordering::Acquire))
    }

    /// Makes a fixed interrupt pending; the caller kicks.
    pub(crate) fn request_interrupt(&self, vector: u8) {
        if let Some(word) = self.irr.get(usize::from(vector >> 5)) {
            word.fetch_or(1 << (vector & 31), Ordering::Release);
        }
    }

    /// Makes an NMI pending; the caller kicks.
    pub(crate) fn request_nmi(&self) {
        self.nmi.store(true, Ordering::Release);
    }

    /// Asks for INIT; the caller kicks.
    pub(crate) fn request_init(&self) {
        self.init.store(true, Ordering::Release);
    }

    /// Asks for a start at `vector` << 12; the caller kicks.
    pub(crate) fn request_startup(&self, vector: u8) {
        self.startup.store(vector.saturating_add(1), Ordering::Release);
    }

    /// Tells it to leave its CPU and stay away.
    pub(crate) fn request_stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Release);
    }

    /// How its local APIC is addressed.
    pub(crate) fn address(&self, index: u32) -> Address {
        Address::unpack(index, self.address.load(Ordering::Relaxed))
    }

    /// The local APIC changed how it is addressed.
    pub(crate) fn set_address(&self, address: Address) {
        self.address.store(address.pack(), Ordering::Relaxed);
    }

    /// Exits so far.
    pub(crate) fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Whether it waits for dom0's answer.
    pub(crate) fn waits_for_answer(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }
}

/// The vCPU in a slot, if it is used.
pub(crate) fn by_slot(slot: usize) -> Option<&'static Vcpu> {
    VCPUS.get(slot).filter(|vcpu| vcpu.used.load(Ordering::Acquire))
}

/// Creates vCPU `index` of `vcpus` of the domain in slot `domain`.
pub(crate) fn create(
    domain: usize,
    index: u32,
    vcpus: u32,
    root: u64,
    tsc_offset: u64,
) -> Result<usize, Error> {
    let slot = VCPUS.iter().position(|vcpu| !vcpu.used.load(Ordering::Acquire)).ok_or(Error::NoSlot)?;
    let machine = Host::new(root, tsc_offset).ok_or(Error::NoMemory)?;
    let mut state = FrameBox::<Page>::new().ok_or(Error::NoMemory)?;
    // MXCSR after reset; XRSTOR takes it from here even for initial state
    // (SDM volume 1, 13.8.1).
    if let Some(slot) = state.get_mut(24..28) {
        slot.copy_from_slice(&0x1f80_u32.to_le_bytes());
    }
    let lapic = Lapic::new(index);
    let vcpu = VCPUS.get(slot).ok_or(Error::NoSlot)?;
    vcpu.reset_requests();
    vcpu.set_address(lapic.address());
    *vcpu.inner.lock() = Some(Inner {
        machine,
        registers: Registers::ZERO,
        lapic,
        silent_eoi: SilentEoi::OFF,
        xcr0: 1,
        tsc_aux: 0,
        control: 0,
        domain,
        index,
        vcpus,
        halted: false,
        forwarded: None,
        exception: None,
        nmi: false,
        wait_startup: true,
        state,
        debug: [0; 4],
        tsc_offset,
        ran: false,
    });
    vcpu.used.store(true, Ordering::Release);
    Ok(slot)
}

/// Frees a vCPU that does not run.
pub(crate) fn free(slot: usize) {
    if let Some(vcpu) = VCPUS.get(slot) {
        *vcpu.inner.lock() = None;
        vcpu.used.store(false, Ordering::Release);
    }
}

/// Sets the state the first vCPU starts with.
pub(crate) fn set_state(slot: usize, state: &VcpuState) -> Result<(), Error> {
    let vcpu = by_slot(slot).ok_or(Error::NotFound)?;
    let mut guard = vcpu.inner.lock();
    let inner = guard.as_mut().ok_or(Error::NotFound)?;
    inner.machine.described(state)?;
    inner.registers = Registers::ZERO;
    inner.registers.rsp = state.rsp;
    inner.registers.rbx = state.rbx;
    inner.registers.rsi = state.rsi;
    inner.wait_startup = false;
    Ok(())
}

impl Inner {
    /// Now, on the host's clock and the guest's.
    pub(crate) fn now(&self) -> Now {
        let tsc = raw::tsc().wrapping_add(self.tsc_offset);
        Now { ns: clock::now_ns(), tsc, scale: clock::scale() }
    }

    /// Takes requests over; false when INIT put it to sleep.
    fn take_requests(&mut self, vcpu: &Vcpu) {
        let mut words = [0; 8];
        let mut any = false;
        for (target, word) in words.iter_mut().zip(&vcpu.irr) {
            if word.load(Ordering::Relaxed) != 0 {
                *target = word.swap(0, Ordering::Acquire);
                any = true;
            }
        }
        if any {
            self.lapic.request_all(words);
        }
        if vcpu.nmi.swap(false, Ordering::Acquire) {
            self.nmi = true;
        }
        vcpu.answered.store(false, Ordering::Relaxed);
        if vcpu.init.swap(false, Ordering::Acquire) {
            self.lapic.init();
            self.silent_eoi = SilentEoi::OFF;
            vcpu.set_address(self.lapic.address());
            self.machine.real_mode(0);
            self.registers = Registers::ZERO;
            self.control = 0;
            self.wait_startup = true;
            self.halted = false;
            (self.forwarded, self.exception) = (None, None);
            vcpu.waiting.store(false, Ordering::Release);
        }
        let startup = vcpu.startup.swap(0, Ordering::Acquire);
        if let (Some(vector), true) = (startup.checked_sub(1), self.wait_startup) {
            self.machine.real_mode(vector);
            self.wait_startup = false;
        }
    }

    /// Whether it has something to do.
    fn ready(&mut self) -> bool {
        if self.wait_startup {
            return false;
        }
        if let Some(access) = self.forwarded {
            let Some(answer) = access.answer else { return false };
            self.forwarded = None;
            exits::finish_access(self, &access, answer);
        }
        if self.halted {
            let wakes = self.nmi || (self.machine.interrupt_flag() && self.lapic.pending().is_some());
            if !wakes {
                return false;
            }
            self.halted = false;
        }
        true
    }

    /// Puts this vCPU's hidden state into the processor.
    fn load(&mut self) {
        raw::set_xcr0(cpu::host_xcr0());
        raw::xrstor(&self.state);
        raw::set_xcr0(self.xcr0);
        raw::write_debug(self.debug);
        // SAFETY: the auxiliary value is only read by RDTSCP in the guest.
        unsafe { raw::write_msr(hv_x86::msr::TSC_AUX, self.tsc_aux) };
    }

    fn save(&mut self) {
        // What the guest has enabled, also where XSETBV cannot be intercepted.
        self.xcr0 = raw::xcr0() & cpu::host_xcr0() | reg::XCR0_X87;
        raw::set_xcr0(cpu::host_xcr0());
        raw::xsave(&mut self.state);
        hv_core::xsave::forget_initial_x87(&mut *self.state);
        self.debug = raw::read_debug();
    }

    /// What the guest finds when it goes on: an event that was interrupted, an
    /// exception, an NMI or an interrupt, in this order.
    fn next_event(&mut self) -> Given {
        if self.machine.has_interrupted_event() {
            return Given::Interrupted;
        }
        if let Some(exception) = self.exception.take() {
            return Given::Exception(exception);
        }
        if self.nmi && self.machine.takes_nmi() {
            self.nmi = false;
            return Given::Nmi;
        }
        if self.machine.takes_interrupts()
            && let Some(vector) = self.lapic.pending()
        {
            self.lapic.accept(vector);
            return Given::Interrupt(vector);
        }
        Given::None
    }

    /// Guest mode until the next exit.
    fn enter(&mut self, cpu: &Cpu) -> Exit {
        let task_priority_class = self.lapic.task_priority_class();
        let event = self.next_event();
        let window = self.nmi || self.lapic.pending().is_some();
        self.silent_eoi.offer(&self.lapic, self.domain);
        speculation::before_guest(cpu, self.domain, self.control);
        watch::note(cpu, Doing::Away);
        let exit = self.machine.run(cpu, &mut self.registers, &Entry { event, window, task_priority_class });
        watch::note(cpu, Doing::Ring0);
        self.silent_eoi.take(&mut self.lapic, self.domain);
        if let Some(vector) = self.machine.untaken_interrupt() {
            self.lapic.take_back(vector);
        }
        exit
    }
}

/// Runs the vCPU in `slot` until it blocks, `until` passes or something else
/// needs this CPU. The scheduler has marked it running here.
pub(crate) fn run(cpu: &'static Cpu, slot: usize, until: u64) {
    let Some(vcpu) = by_slot(slot) else { return };
    let mut guard = vcpu.inner.lock();
    let Some(inner) = guard.as_mut() else { return };
    let mut loaded = false;
    let (domain_slot, index) = (inner.domain, inner.index);
    loop {
        let leave = run_some(cpu, vcpu, inner, until, &mut loaded);
        let now = clock::now_ns();
        let mut scheduler = SCHEDULER.lock();
        let report = match leave {
            // A request between the last look and now: look again.
            Leave::Block(_) if vcpu.has_requests() && !vcpu.stop.load(Ordering::Acquire) => {
                drop(scheduler);
                if let Leave::Block(true) = leave {
                    vcpu.waiting.store(true, Ordering::Release);
                    // dom0 cannot answer before this lock is released, so keep
                    // the report until then by leaving as runnable.
                    SCHEDULER.lock().leave(slot, now, State::Runnable);
                    if loaded {
                        inner.save();
                    }
                    drop(guard);
                    report_access(domain_slot, index);
                    return;
                }
                continue;
            }
            Leave::Block(report) => {
                let timer = if inner.halted { inner.lapic.next_deadline_ns() } else { None };
                if loaded {
                    inner.save();
                }
                vcpu.waiting.store(inner.forwarded.is_some(), Ordering::Release);
                let next = if vcpu.stop.load(Ordering::Acquire) { State::Stopped } else { State::Blocked };
                scheduler.leave(slot, now, next);
                scheduler.set_timer(slot, timer.unwrap_or(u64::MAX));
                report
            }
            Leave::Yield => {
                if loaded {
                    inner.save();
                }
                let next = if vcpu.stop.load(Ordering::Acquire) { State::Stopped } else { State::Runnable };
                scheduler.leave(slot, now, next);
                let other = if next == State::Runnable { scheduler.take_idle() } else { None };
                drop(scheduler);
                drop(guard);
                if let Some(other) = other.filter(|other| *other != cpu.number) {
                    apic::interrupt(other, cpu::VECTOR_RESCHEDULE);
                }
                return;
            }
        };
        drop(scheduler);
        drop(guard);
        if report {
            report_access(domain_slot, index);
        }
        return;
    }
}

fn run_some(cpu: &'static Cpu, vcpu: &Vcpu, inner: &mut Inner, until: u64, loaded: &mut bool) -> Leave {
    loop {
        if vcpu.stop.load(Ordering::Acquire) {
            return Leave::Yield;
        }
        inner.take_requests(vcpu);
        let now = clock::now_ns();
        inner.lapic.advance(now);
        if !inner.ready() {
            return Leave::Block(false);
        }
        let pending = cpu.take_pending();
        crate::handle_pending(cpu, &pending);
        let wanted = cpu::has_vector(&pending, cpu::VECTOR_RESCHEDULE) || crate::dom0::interrupts(cpu, now);
        if now >= until || wanted {
            return Leave::Yield;
        }
        if !*loaded {
            inner.load();
            *loaded = true;
        }
        if !inner.ran {
            inner.ran = true;
            domain::with_slot(inner.domain, |domain| domain.note_run(now));
        }
        let timer = inner.lapic.next_deadline_ns().unwrap_or(u64::MAX).min(until);
        crate::arm(cpu, timer, now);
        let exit = inner.enter(cpu);
        vcpu.exits.fetch_add(1, Ordering::Relaxed);
        match exits::handle(vcpu, inner, exit) {
            exits::Next::Continue => {}
            exits::Next::Forward => return Leave::Block(true),
            exits::Next::Crash(cause) => {
                domain::crash(inner.domain, cause);
                return Leave::Yield;
            }
        }
    }
}
