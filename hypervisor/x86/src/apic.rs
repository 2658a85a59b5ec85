//! Local APIC registers.
//!
//! Spec: APM 16.3 to 16.5; SDM 10.4 to 10.12. Offsets are those of the memory
//! page; the x2APIC number of a register is `0x800 + offset / 16`.

/// Where the register page appears unless moved.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// APIC_BASE: this is the boot processor.
pub const BASE_BSP: u64 = 1 << 8;
/// APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// APIC_BASE: the APIC is enabled.
pub const BASE_ENABLE: u64 = 1 << 11;

/// APIC identifier.
pub const ID: u32 = 0x20;
/// Version and number of LVT entries.
pub const VERSION: u32 = 0x30;
/// Task priority.
pub const TPR: u32 = 0x80;
/// Processor priority.
pub const PPR: u32 = 0xa0;
/// End of interrupt.
pub const EOI: u32 = 0xb0;
/// Logical destination.
pub const LDR: u32 = 0xd0;
/// Destination format.
pub const DFR: u32 = 0xe0;
/// Spurious interrupt vector and software enable.
pub const SVR: u32 = 0xf0;
/// First of eight in-service registers.
pub const ISR: u32 = 0x100;
/// First of eight trigger-mode registers.
pub const TMR: u32 = 0x180;
/// First of eight interrupt-request registers.
pub const IRR: u32 = 0x200;
/// Error status.
pub const ESR: u32 = 0x280;
/// Interrupt command, low half (the whole in x2APIC mode).
pub const ICR_LOW: u32 = 0x300;
/// Interrupt command, high half.
pub const ICR_HIGH: u32 = 0x310;
/// Timer local vector.
pub const LVT_TIMER: u32 = 0x320;
/// Thermal local vector.
pub const LVT_THERMAL: u32 = 0x330;
/// Performance counter local vector.
pub const LVT_PERFORMANCE: u32 = 0x340;
/// LINT0 local vector.
pub const LVT_LINT0: u32 = 0x350;
/// LINT1 local vector.
pub const LVT_LINT1: u32 = 0x360;
/// Error local vector.
pub const LVT_ERROR: u32 = 0x370;
/// Timer initial count.
pub const TIMER_INITIAL: u32 = 0x380;
/// Timer current count.
pub const TIMER_CURRENT: u32 = 0x390;
/// Timer divisor.
pub const TIMER_DIVIDE: u32 = 0x3e0;
/// Self IPI (x2APIC only).
pub const SELF_IPI: u32 = 0x3f0;

/// SVR: software enable.
pub const SVR_ENABLE: u32 = 1 << 8;
/// LVT: masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT timer: mode field.
pub const LVT_TIMER_MODE: u32 = 3 << 17;
/// LVT timer: periodic.
pub const LVT_TIMER_PERIODIC: u32 = 1 << 17;
/// LVT timer: TSC deadline.
pub const LVT_TIMER_DEADLINE: u32 = 2 << 17;

/// ICR delivery mode: fixed.
pub const DELIVERY_FIXED: u32 = 0;
/// ICR delivery mode: lowest priority.
pub const DELIVERY_LOWEST: u32 = 1;
/// ICR delivery mode: NMI.
pub const DELIVERY_NMI: u32 = 4;
/// ICR delivery mode: INIT.
pub const DELIVERY_INIT: u32 = 5;
/// ICR delivery mode: start-up.
pub const DELIVERY_STARTUP: u32 = 6;
/// ICR: assert level.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR: delivery is pending (memory mode).
pub const ICR_PENDING: u32 = 1 << 12;
/// ICR and MSI: logical destination mode.
pub const ICR_LOGICAL: u32 = 1 << 11;
