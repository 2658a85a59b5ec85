//! Virtual processors: their state, and what others may ask of them.

mod forwarded;
mod pv_eoi;

use crate::frame::FrameBox;
use crate::host::Host;
use crate::memory::Table;
use crate::registers::Registers;
use crate::slot::Slot;
use crate::vendor::{Event, Machine};
use crate::xstate::{self, Area, Mask};
use crate::{clock, raw};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use hv_abi::call::Error;
use hv_abi::domain::VcpuState;
use hv_abi::{DomainSlot, MAX_VCPUS};
use hv_core::lapic::{Address, Lapic, Now};
use hv_x86::Exception;

pub(crate) use forwarded::{Forwarded, complete, waiting_event};
pub(crate) use pv_eoi::PvEoi;

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
    pub(crate) inner: Slot<Inner>,
}

/// The state behind the lock.
pub(crate) struct Inner {
    pub(crate) machine: Host,
    pub(crate) registers: Registers,
    pub(crate) lapic: Lapic,
    pub(crate) pv_eoi: PvEoi,
    pub(crate) xcr0: Mask,
    pub(crate) tsc_aux: u64,
    /// SPEC_CTRL while the guest runs.
    pub(crate) control: u64,
    pub(crate) domain: DomainSlot,
    pub(crate) index: u32,
    pub(crate) vcpus: u32,
    pub(crate) halted: bool,
    pub(crate) forwarded: Option<Forwarded>,
    pub(crate) exception: Option<Exception>,
    pub(crate) nmi: bool,
    pub(crate) wait_startup: bool,
    state: FrameBox<Area>,
    debug: [u64; 4],
    tsc_offset: u64,
    pub(crate) ran: bool,
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

    /// Whether there is any.
    pub(crate) fn has_requests(&self) -> bool {
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

    /// Orders it to leave its CPU and stay away.
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

    /// Whether it was told to.
    pub(crate) fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// One exit more.
    pub(crate) fn count_exit(&self) {
        self.exits.fetch_add(1, Ordering::Relaxed);
    }

    /// It waits for dom0's answer, or not any more.
    pub(crate) fn set_waiting(&self, waits: bool) {
        self.waiting.store(waits, Ordering::Release);
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
    domain: DomainSlot,
    index: u32,
    vcpus: u32,
    root: Table,
    tsc_offset: u64,
) -> Result<usize, Error> {
    let slot = VCPUS.iter().position(|vcpu| !vcpu.used.load(Ordering::Acquire)).ok_or(Error::NoSlot)?;
    let machine = Host::new(root, tsc_offset).ok_or(Error::NoMemory)?;
    let mut state = FrameBox::<Area>::new().ok_or(Error::NoMemory)?;
    state.reset();
    let lapic = Lapic::new(index);
    let vcpu = VCPUS.get(slot).ok_or(Error::NoSlot)?;
    vcpu.reset_requests();
    vcpu.set_address(lapic.address());
    *vcpu.inner.lock() = Some(Inner {
        machine,
        registers: Registers::ZERO,
        lapic,
        pv_eoi: PvEoi::OFF,
        xcr0: Mask::INITIAL,
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
        let tsc = raw::tsc().of_guest(self.tsc_offset);
        Now { ns: clock::now_ns(), tsc, scale: clock::scale() }
    }

    /// Takes requests over; false when INIT put it to sleep.
    pub(crate) fn take_requests(&mut self, vcpu: &Vcpu) {
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
            self.pv_eoi = PvEoi::OFF;
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

    /// Puts this vCPU's hidden state into the processor.
    pub(crate) fn load(&mut self) {
        xstate::load(&self.state, self.xcr0);
        raw::write_debug(self.debug);
        // SAFETY: the auxiliary value is only read by RDTSCP in the guest.
        unsafe { raw::write_msr(hv_x86::msr::TSC_AUX, self.tsc_aux) };
    }

    /// Takes it out again.
    pub(crate) fn save(&mut self) {
        self.xcr0 = xstate::save(&mut self.state);
        self.debug = raw::read_debug();
    }

    /// What the guest finds when it resumes: an event that was interrupted, an
    /// exception, an NMI or an interrupt, in this order.
    pub(crate) fn next_event(&mut self) -> Event {
        if self.machine.has_interrupted_event() {
            return Event::Interrupted;
        }
        if let Some(exception) = self.exception.take() {
            return Event::Exception(exception);
        }
        if self.nmi && self.machine.takes_nmi() {
            self.nmi = false;
            return Event::Nmi;
        }
        if self.machine.takes_interrupts()
            && let Some(vector) = self.lapic.pending()
        {
            self.lapic.accept(vector);
            return Event::Interrupt(vector);
        }
        Event::None
    }
}
