//! A guest's local APIC, in memory-mapped and x2APIC mode.
//!
//! Only what a guest without IOAPIC, PIC and PIT can see: fixed interrupts are
//! edge-triggered messages. Requests from other CPUs arrive outside this
//! structure and are merged by [`Lapic::request`]. Spec: APM 16.3-16.11; SDM 10.

mod address;

use crate::nospec;
pub use address::Address;

use crate::clock::{GuestTsc, Scale};
use hv_x86::apic as register;
use hv_x86::{Gpa, to_usize};

/// Version 0x14 with six local vectors; no EOI broadcast suppression.
const VERSION: u32 = 0x0005_0014;
/// Vectors below 16 are illegal for fixed interrupts.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// A message to one or more local APICs: from an ICR write or a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Vector, for fixed delivery and start-up.
    pub vector: u8,
    /// Delivery mode, three bits.
    pub delivery: u32,
    /// Destination identifier or mask.
    pub destination: u32,
    /// Logical destination mode.
    pub logical: bool,
    /// Destination shorthand: 0 none, 1 self, 2 all, 3 all but self.
    pub shorthand: u8,
}

impl Message {
    /// A message-signalled interrupt (APM 16.11; SDM 10.11).
    #[must_use]
    pub const fn from_msi(address: u64, data: u64) -> Self {
        Self {
            vector: hv_x86::low8(data),
            delivery: hv_x86::low32(data >> 8) & 7,
            destination: hv_x86::low32(address >> 12) & 0xff,
            logical: address & 1 << 2 != 0,
            shorthand: 0,
        }
    }

    const fn from_icr(low: u32, destination: u32) -> Self {
        Self {
            vector: (low & 0xff) as u8,
            delivery: low >> 8 & 7,
            destination,
            logical: low & register::ICR_LOGICAL != 0,
            shorthand: (low >> 18 & 3) as u8,
        }
    }
}

/// What a register write asks of the rest of the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Send a message.
    Send(Message),
}

/// Rate of the timer, before it is divided, in kilohertz: it counts nanoseconds.
pub const TIMER_KHZ: u32 = 1_000_000;

/// How the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timer {
    initial: u32,
    divide: u32,
    /// When it fires, in host nanoseconds; zero when idle.
    deadline_ns: u64,
    /// The guest's TSC deadline; zero when disarmed.
    deadline_tsc: GuestTsc,
}

/// Now, as host time and as the guest's TSC.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic host nanoseconds.
    pub ns: u64,
    /// The guest's TSC.
    pub tsc: GuestTsc,
    /// How ticks become nanoseconds.
    pub scale: Scale,
}

/// The registers of one local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    id: u32,
    base: u64,
    tpr: u8,
    svr: u32,
    ldr: u32,
    dfr: u32,
    icr_high: u32,
    icr_low: u32,
    esr: u32,
    lvt: [u32; 6],
    isr: [u32; 8],
    irr: [u32; 8],
    timer: Timer,
}

const LVT_TIMER: usize = 0;

fn highest(bits: &[u32; 8]) -> Option<u8> {
    (0_u8..8).rev().find_map(|index| {
        let word = bits.get(usize::from(index))?;
        let top = u8::try_from(word.checked_ilog2()?).ok()?;
        Some(index * 32 + top)
    })
}

fn set(bits: &mut [u32; 8], vector: u8) {
    if let Some(word) = bits.get_mut(usize::from(vector >> 5)) {
        *word |= 1 << (vector & 31);
    }
}

fn clear(bits: &mut [u32; 8], vector: u8) {
    if let Some(word) = bits.get_mut(usize::from(vector >> 5)) {
        *word &= !(1 << (vector & 31));
    }
}

impl Lapic {
    /// After reset; vCPU 0 is the boot processor.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        let bsp = if id == 0 { register::BASE_BSP } else { 0 };
        Self {
            id,
            base: register::DEFAULT_BASE | register::BASE_ENABLE | bsp,
            tpr: 0,
            svr: 0xff,
            ldr: 0,
            dfr: u32::MAX,
            icr_high: 0,
            icr_low: 0,
            esr: 0,
            lvt: [register::LVT_MASKED; 6],
            isr: [0; 8],
            irr: [0; 8],
            timer: Timer { initial: 0, divide: 0, deadline_ns: 0, deadline_tsc: GuestTsc(0) },
        }
    }

    /// State after INIT: everything but the identifier and the base (SDM 10.4.7.3).
    pub const fn init(&mut self) {
        let base = self.base;
        *self = Self::new(self.id);
        self.base = base;
    }

    const fn x2apic(&self) -> bool {
        self.base & register::BASE_X2APIC != 0
    }

    const fn enabled(&self) -> bool {
        self.base & register::BASE_ENABLE != 0 && self.svr & register::SVR_ENABLE != 0
    }

    /// The base register.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Writes the base register. Moving the page is refused, as is going back
    /// from x2APIC to memory mode without a reset (SDM 10.12.5).
    ///
    /// # Errors
    /// [`Refused`] becomes a general-protection fault.
    pub const fn set_base(&mut self, value: u64) -> Result<(), Refused> {
        let modes = register::BASE_ENABLE | register::BASE_X2APIC;
        if (value ^ self.base) & !modes != 0 {
            return Err(Refused);
        }
        match (value & register::BASE_ENABLE != 0, value & register::BASE_X2APIC != 0) {
            (false, true) => return Err(Refused),
            (true, false) if self.x2apic() => return Err(Refused),
            (false, false) => self.init(),
            (true, true) if !self.x2apic() => {
                // Fixed in x2APIC mode: cluster and bit from the identifier.
                self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 15);
            }
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    /// Whether a memory access at `gpa` reaches these registers.
    #[must_use]
    pub const fn owns_page(&self, gpa: Gpa) -> bool {
        !self.x2apic() && self.base & register::BASE_ENABLE != 0 && gpa.0 & !0xfff == register::DEFAULT_BASE
    }

    /// Reads a register of the memory page.
    #[must_use]
    pub fn read_page(&self, offset: u32, now: &Now) -> u32 {
        match offset & 0xff0 {
            register::ID => self.id << 24,
            register::LDR => self.ldr,
            register::ICR_HIGH => self.icr_high,
            register::DFR => self.dfr,
            other => self.read(other, now).unwrap_or(0),
        }
    }

    /// Reads an x2APIC register.
    ///
    /// # Errors
    /// [`Refused`] for reserved registers and outside x2APIC mode.
    pub fn read_x2apic(&self, offset: u32, now: &Now) -> Result<u64, Refused> {
        if !self.x2apic() {
            return Err(Refused);
        }
        match offset {
            register::ID => Ok(u64::from(self.id)),
            register::LDR => Ok(u64::from(self.ldr)),
            register::ICR_LOW => Ok(u64::from(self.icr_low) | u64::from(self.icr_high) << 32),
            register::DFR | register::ICR_HIGH => Err(Refused),
            _ => self.read(offset, now).map(u64::from).ok_or(Refused),
        }
    }

    fn read(&self, offset: u32, now: &Now) -> Option<u32> {
        let word = |bits: &[u32; 8], first: u32| {
            nospec::get(bits, to_usize(u64::from((offset - first) >> 4))).copied()
        };
        match offset {
            register::VERSION => Some(VERSION),
            register::TPR => Some(u32::from(self.tpr)),
            register::PPR => Some(u32::from(self.priority())),
            register::SVR => Some(self.svr),
            register::ESR => Some(self.esr),
            register::ICR_LOW => Some(self.icr_low),
            register::TIMER_INITIAL => Some(self.timer.initial),
            register::TIMER_CURRENT => Some(self.current_count(now)),
            register::TIMER_DIVIDE => Some(self.timer.divide),
            register::ISR..register::TMR => word(&self.isr, register::ISR),
            register::TMR..register::IRR => Some(0),
            register::IRR..register::ESR => word(&self.irr, register::IRR),
            register::LVT_TIMER..=register::LVT_ERROR => {
                nospec::get(&self.lvt, Self::lvt_index(offset)).copied()
            }
            _ => None,
        }
    }

    const fn lvt_index(offset: u32) -> usize {
        ((offset - register::LVT_TIMER) >> 4) as usize
    }

    /// Writes a register of the memory page.
    pub fn write_page(&mut self, offset: u32, value: u32, now: &Now) -> Effect {
        match offset & 0xff0 {
            register::LDR => self.ldr = value & 0xff00_0000,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::ICR_HIGH => self.icr_high = value & 0xff00_0000,
            register::ICR_LOW => {
                self.icr_low = value & !register::ICR_PENDING;
                return Effect::Send(Message::from_icr(value, self.icr_high >> 24));
            }
            register::ESR => self.esr = 0,
            other => {
                // Unknown registers of the page are ignored, as hardware only
                // sets an error bit that no guest reads.
                let _ = self.write(other, value, now);
            }
        }
        Effect::None
    }

    /// Writes an x2APIC register.
    ///
    /// # Errors
    /// [`Refused`] for reserved registers and bits, and outside x2APIC mode.
    pub fn write_x2apic(&mut self, offset: u32, value: u64, now: &Now) -> Result<Effect, Refused> {
        if !self.x2apic() {
            return Err(Refused);
        }
        let low = hv_x86::low32(value);
        if offset == register::ICR_LOW {
            self.icr_low = low & !register::ICR_PENDING;
            self.icr_high = hv_x86::low32(value >> 32);
            return Ok(Effect::Send(Message::from_icr(low, self.icr_high)));
        }
        if value >> 32 != 0 {
            return Err(Refused);
        }
        match offset {
            register::SELF_IPI => {
                return Ok(Effect::Send(Message::from_icr(low & 0xff | 1 << 18, 0)));
            }
            register::EOI | register::ESR if low != 0 => return Err(Refused),
            register::ESR => self.esr = 0,
            _ => self.write(offset, low, now).ok_or(Refused)?,
        }
        Ok(Effect::None)
    }

    fn write(&mut self, offset: u32, value: u32, now: &Now) -> Option<()> {
        match offset {
            register::TPR => self.tpr = hv_x86::low8(u64::from(value)),
            register::EOI => self.end_of_interrupt(),
            register::SVR => {
                self.svr = value & 0x1ff;
                if value & register::SVR_ENABLE == 0 {
                    for entry in &mut self.lvt {
                        *entry |= register::LVT_MASKED;
                    }
                }
            }
            register::TIMER_INITIAL => {
                self.timer.initial = value;
                self.timer.deadline_ns = if value == 0 { 0 } else { now.ns + self.period_ns() };
            }
            register::TIMER_DIVIDE => self.timer.divide = value & 0xb,
            register::LVT_TIMER..=register::LVT_ERROR => {
                let mut value = value & 0x0007_f7ff;
                if self.svr & register::SVR_ENABLE == 0 {
                    value |= register::LVT_MASKED;
                }
                let index = nospec::index(Self::lvt_index(offset), self.lvt.len());
                let old = self.lvt.get(index).copied()?;
                if index == LVT_TIMER && (old ^ value) & register::LVT_TIMER_MODE != 0 {
                    self.timer.deadline_ns = 0;
                    self.timer.deadline_tsc = GuestTsc(0);
                }
                *self.lvt.get_mut(index)? = value;
            }
            _ => return None,
        }
        Some(())
    }

    /// Ends the interrupt of highest priority in service.
    pub fn end_of_interrupt(&mut self) {
        if let Some(vector) = highest(&self.isr) {
            clear(&mut self.isr, vector);
        }
    }

    /// Whether it makes no difference when the interrupt in service ends: no other
    /// waits for that.
    #[must_use]
    pub fn may_offer_pv_eoi(&self) -> bool {
        highest(&self.isr).is_some() && highest(&self.irr).is_none()
    }

    const fn timer_mode(&self) -> u32 {
        self.lvt[LVT_TIMER] & register::LVT_TIMER_MODE
    }

    /// The timer counts nanoseconds, divided as the guest asked.
    const fn period_ns(&self) -> u64 {
        let code = (self.timer.divide & 3) | (self.timer.divide >> 1 & 4);
        let shift = (code + 1) & 7;
        (self.timer.initial as u64) << shift
    }

    fn current_count(&self, now: &Now) -> u32 {
        if self.timer.initial == 0 || self.timer.deadline_ns == 0 {
            return 0;
        }
        let left = self.timer.deadline_ns.saturating_sub(now.ns);
        let period = self.period_ns().max(1);
        let count = u128::from(left) * u128::from(self.timer.initial) / u128::from(period);
        u32::try_from(count).unwrap_or(self.timer.initial)
    }

    /// The TSC deadline register; zero outside deadline mode.
    #[must_use]
    pub const fn tsc_deadline(&self) -> u64 {
        self.timer.deadline_tsc.0
    }

    /// Arms the TSC deadline; ignored in the other modes (SDM 10.5.4.1).
    pub fn set_tsc_deadline(&mut self, deadline: u64, now: &Now) {
        if self.timer_mode() != register::LVT_TIMER_DEADLINE {
            return;
        }
        self.timer.deadline_tsc = GuestTsc(deadline);
        self.timer.deadline_ns = match deadline {
            0 => 0,
            _ => now.ns.saturating_add(now.scale.ns(GuestTsc(deadline).since(now.tsc))).max(1),
        };
    }

    /// When the timer fires next, in host nanoseconds.
    #[must_use]
    pub const fn next_deadline_ns(&self) -> Option<u64> {
        if self.timer.deadline_ns == 0 { None } else { Some(self.timer.deadline_ns) }
    }

    /// Fires the timer if it is due.
    pub fn advance(&mut self, now_ns: u64) {
        if self.timer.deadline_ns == 0 || now_ns < self.timer.deadline_ns {
            return;
        }
        if self.timer_mode() == register::LVT_TIMER_PERIODIC {
            // Missed periods are skipped, not made up for in a burst.
            let period = self.period_ns().max(1);
            let missed = (now_ns - self.timer.deadline_ns) / period;
            self.timer.deadline_ns += (missed + 1) * period;
        } else {
            self.timer.deadline_ns = 0;
            self.timer.deadline_tsc = GuestTsc(0);
        }
        let entry = self.lvt[LVT_TIMER];
        if entry & register::LVT_MASKED == 0 {
            self.request(hv_x86::low8(u64::from(entry)));
        }
    }

    /// Makes a fixed interrupt pending.
    pub fn request(&mut self, vector: u8) {
        if vector >= FIRST_LEGAL_VECTOR && self.enabled() {
            set(&mut self.irr, vector);
        }
    }

    /// Merges requests that other CPUs made.
    pub fn request_all(&mut self, words: [u32; 8]) {
        if !self.enabled() {
            return;
        }
        for (own, more) in self.irr.iter_mut().zip(words) {
            *own |= more;
        }
        self.irr[0] &= !0xffff;
    }

    /// Processor priority (APM 16.6.4).
    fn priority(&self) -> u8 {
        let in_service = highest(&self.isr).unwrap_or(0);
        if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 }
    }

    /// The interrupt that would be taken now, if the processor accepts any.
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        let vector = highest(&self.irr)?;
        (self.enabled() && vector >> 4 > self.priority() >> 4).then_some(vector)
    }

    /// The processor takes `vector`.
    pub fn accept(&mut self, vector: u8) {
        clear(&mut self.irr, vector);
        set(&mut self.isr, vector);
    }

    /// The processor did not take `vector` after all: it waits again.
    pub fn take_back(&mut self, vector: u8) {
        clear(&mut self.isr, vector);
        set(&mut self.irr, vector);
    }

    /// Task priority, as CR8 shows it.
    #[must_use]
    pub const fn task_priority_class(&self) -> u8 {
        self.tpr >> 4
    }

    /// Sets the task priority from CR8.
    pub const fn set_task_priority_class(&mut self, class: u8) {
        if self.tpr >> 4 != class & 15 {
            self.tpr = class << 4;
        }
    }

    /// What others must know to address this APIC.
    #[must_use]
    pub const fn address(&self) -> Address {
        Address::new(self.id, self.x2apic(), self.ldr, self.dfr >> 28 == 15)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data is cut to size on purpose")]
mod tests;
