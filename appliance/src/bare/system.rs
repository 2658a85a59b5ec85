//! The system calls, as functions.

use core::fmt::{self, Write};

use appliance::hypervisor::Hypervisor;
use heapless::Vec;
use hv_abi::DomainId;
use hv_abi::call::{Call, Error};
use hv_abi::domain::{DomainInfo, DomainSpec, NodeInfo, VcpuState};
use hv_abi::event::Event;
use hv_abi::log_line::{LINE_BYTES_MAX, target_word};
use hv_abi::random::{Generator, Source};
use hv_bus::pci::Configuration;
use hv_x86::{BusAddress, Hpa};
use log::{LevelFilter, Metadata, Record};
use machine::layout::MemoryLayout;
use zerocopy::FromZeros;

use crate::window::Window;

/// Issues a call with up to four arguments.
fn call(call: Call, [a, b, c, d]: [u64; 4]) -> Result<(u64, u64), Error> {
    let (result, second): (i64, u64);
    // SAFETY: the hypervisor checks every argument; a call writes only to memory
    // that the wrappers below lend it exclusively.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") call as u64 => result,
            in("rdi") a,
            in("rsi") b,
            inlateout("rdx") c => second,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    };
    u64::try_from(result).map(|value| (value, second)).map_err(|_| Error::from_result(result))
}

/// A call without results.
fn order(number: Call, arguments: [u64; 4]) -> Result<(), Error> {
    call(number, arguments).map(|_| ())
}

/// Where this program's records go: to the node's log, which the hypervisor keeps.
struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut text = Text(Vec::new());
        let _ = write!(text, "{}: {}", target_word(record.target()), record.args());
        let _ = order(Call::Log, [text.0.as_ptr() as u64, text.0.len() as u64, record.level() as u64, 0]);
    }

    fn flush(&self) {}
}

/// Takes the program's records.
pub(crate) fn start_log() {
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Waits for events; returns those that came.
pub(crate) fn wait(deadline_ns: u64, events: &mut [Event]) -> &[Event] {
    let target = events.as_mut_ptr() as u64;
    let count = call(Call::Wait, [deadline_ns, target, events.len() as u64, 0]).map_or(0, |(count, _)| count);
    events.get(..hv_x86::to_usize(count)).unwrap_or(&[])
}

/// PCI configuration space.
pub(crate) struct Pci;

impl Configuration for Pci {
    fn read(&self, function: u16, offset: u16) -> u32 {
        call(Call::PciRead, [u64::from(function), u64::from(offset), 4, 0])
            .map_or(u32::MAX, |(value, _)| hv_x86::low32(value))
    }

    fn write(&self, function: u16, offset: u16, value: u32) {
        let _ = order(Call::PciWrite, [u64::from(function), u64::from(offset), 4, u64::from(value)]);
    }
}

/// Maps device registers; returns where.
pub(crate) fn map_mmio(address: Hpa, length: u64) -> Result<u64, Error> {
    call(Call::MapMmio, [address.0, length, 0, 0]).map(|(address, _)| address)
}

/// Allocates DMA memory: virtual and bus address.
pub(crate) fn allocate_dma(length: u64) -> Result<(u64, BusAddress), Error> {
    call(Call::DmaAllocate, [length, 0, 0, 0]).map(|(address, bus)| (address, BusAddress(bus)))
}

/// Binds interrupt `index`: message address and data.
pub(crate) fn bind_interrupt(index: u32) -> Result<(u64, u64), Error> {
    call(Call::BindInterrupt, [u64::from(index), 0, 0, 0])
}

/// A line; what does not fit is left out.
struct Text(Vec<u8, LINE_BYTES_MAX>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.capacity() - self.0.len();
        let fits = text.as_bytes().get(..text.len().min(room)).unwrap_or_default();
        self.0.extend_from_slice(fits).map_err(|_| fmt::Error)
    }
}

/// Gives up: the hypervisor logs the cause and starts dom0 again.
pub(crate) fn fail(cause: fmt::Arguments<'_>) -> ! {
    let mut text = Text(Vec::new());
    let _ = text.write_fmt(cause);
    loop {
        let _ = order(Call::Fail, [text.0.as_ptr() as u64, text.0.len() as u64, 0, 0]);
    }
}

/// The hypervisor below this program, and what the program has of its own.
#[derive(Debug)]
pub(crate) struct SystemCalls {
    generator: Generator,
    fault_told: bool,
}

impl SystemCalls {
    /// With a generator that the boot's seed goes into; None where the processor's source of
    /// random numbers is silent or stuck, for then no key that is made is one.
    pub(crate) fn new(seed: &[u8; 32]) -> Option<Self> {
        let generator = Generator::new(&mut Own, seed);
        generator.fault().is_none().then_some(Self { generator, fault_told: false })
    }
}

impl Hypervisor for SystemCalls {
    type Memory = Window;

    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainId, Error> {
        let (id, _) = call(Call::DomainCreate, [core::ptr::from_ref(spec) as u64, 0, 0, 0])?;
        u32::try_from(id).map(DomainId).map_err(|_| Error::Argument)
    }

    fn vcpu_set_state(&mut self, domain: DomainId, vcpu: u32, state: &VcpuState) -> Result<(), Error> {
        order(
            Call::VcpuSetState,
            [u64::from(domain.0), core::ptr::from_ref(state) as u64, u64::from(vcpu), 0],
        )
    }

    fn domain_resume(&mut self, domain: DomainId) -> Result<(), Error> {
        order(Call::DomainResume, [u64::from(domain.0), 0, 0, 0])
    }

    fn domain_pause(&mut self, domain: DomainId) -> Result<(), Error> {
        order(Call::DomainPause, [u64::from(domain.0), 0, 0, 0])
    }

    fn domain_destroy(&mut self, domain: DomainId) -> Result<(), Error> {
        order(Call::DomainDestroy, [u64::from(domain.0), 0, 0, 0])
    }

    fn domain_grow(&mut self, domain: DomainId, memory_bytes: u64) -> Result<(), Error> {
        order(Call::DomainGrow, [u64::from(domain.0), memory_bytes, 0, 0])
    }

    fn complete_exit(&mut self, domain: DomainId, vcpu: u32, value: u64) -> Result<(), Error> {
        order(Call::CompleteExit, [u64::from(domain.0), u64::from(vcpu), value, 0])
    }

    fn inject_msi(&mut self, domain: DomainId, address: u64, data: u32) -> Result<(), Error> {
        order(Call::InjectMsi, [u64::from(domain.0), address, u64::from(data), 0])
    }

    fn doorbell(&mut self, domain: DomainId, gpa: u64, width: u16, index: u32) -> Result<(), Error> {
        order(Call::Doorbell, [u64::from(domain.0), gpa, u64::from(width), u64::from(index)])
    }

    fn domain_info(&mut self, slot: usize) -> Result<DomainInfo, Error> {
        let mut info = DomainInfo::new_zeroed();
        order(Call::DomainInfo, [slot as u64, &raw mut info as u64, 0, 0])?;
        Ok(info)
    }

    fn node_info(&mut self) -> NodeInfo {
        let mut info = NodeInfo::new_zeroed();
        let _ = order(Call::NodeInfo, [&raw mut info as u64, 0, 0, 0]);
        info
    }

    fn store_put(&mut self, key: usize, bytes: &[u8]) -> Result<(), Error> {
        order(Call::StorePut, [key as u64, bytes.as_ptr() as u64, bytes.len() as u64, 0])
    }

    fn store_get(&mut self, key: usize, target: &mut [u8]) -> Result<usize, Error> {
        let arguments = [key as u64, target.as_mut_ptr() as u64, target.len() as u64, 0];
        call(Call::StoreGet, arguments).map(|(length, _)| hv_x86::to_usize(length))
    }

    fn log_read(&mut self, which: u64, from: u64, target: &mut [u8]) -> (usize, u64) {
        let arguments = [from, target.as_mut_ptr() as u64, target.len() as u64, which];
        call(Call::LogRead, arguments).map_or((0, from), |(count, next)| (hv_x86::to_usize(count), next))
    }

    fn restart_delay(&mut self, milliseconds: u64) -> Result<(), Error> {
        order(Call::RestartDelay, [milliseconds, 0, 0, 0])
    }

    fn run_threads(&mut self, run: bool) {
        let _ = order(Call::RunThreads, [u64::from(run), 0, 0, 0]);
    }

    fn break_hypervisor(&mut self, hang: bool) {
        let _ = order(Call::Break, [u64::from(hang), 0, 0, 0]);
    }

    fn reset(&mut self, power_off: bool) {
        let _ = order(Call::Reset, [u64::from(power_off), 0, 0, 0]);
    }

    fn own_cpu(&mut self, own: bool) -> Result<(), Error> {
        order(Call::OwnCpu, [u64::from(own), 0, 0, 0])
    }

    fn wild_access(&mut self) {
        // SAFETY: deliberately not: nothing is mapped there, and the fault ends
        // this program before anything else happens.
        unsafe { core::ptr::dangling_mut::<u8>().write_volatile(0) };
    }

    fn memory(&mut self, domain: DomainId, layout: MemoryLayout) -> Window {
        Window::new(domain, layout)
    }

    fn with_blob(&mut self, domain: DomainId, length: usize, look: &mut dyn FnMut(&mut Self, &[u8])) -> bool {
        let window = Window::new(domain, MemoryLayout::new((length as u64).next_multiple_of(2 << 20)));
        match window.quiet_bytes(length) {
            Ok(bytes) => {
                look(self, bytes);
                true
            }
            Err(_) => false,
        }
    }

    fn random(&mut self, target: &mut [u8]) {
        self.generator.fill(target, &mut Own);
        if let (Some(fault), false) = (self.generator.fault(), self.fault_told) {
            self.fault_told = true;
            log::error!("the processor's source of random numbers: {fault:?}");
        }
    }
}

/// The processor as this program finds it.
pub(crate) struct Own;

impl Source for Own {
    fn seed(&mut self) -> Option<u64> {
        // Leaf 7 EBX bit 18.
        if core::arch::x86_64::__cpuid(0).eax < 7
            || core::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 18 == 0
        {
            return None;
        }
        let (value, good): (u64, u8);
        // SAFETY: writes two registers; support was checked above.
        unsafe {
            core::arch::asm!("rdseed {0}", "setc {1}", out(reg) value, out(reg_byte) good, options(nomem, nostack));
        };
        (good != 0).then_some(value)
    }

    fn random(&mut self) -> Option<u64> {
        // Leaf 1 ECX bit 30.
        if core::arch::x86_64::__cpuid(1).ecx & 1 << 30 == 0 {
            return None;
        }
        let (value, good): (u64, u8);
        // SAFETY: writes two registers; support was checked above.
        unsafe {
            core::arch::asm!("rdrand {0}", "setc {1}", out(reg) value, out(reg_byte) good, options(nomem, nostack));
        };
        (good != 0).then_some(value)
    }

    fn counter(&mut self) -> u64 {
        crate::counter()
    }
}
