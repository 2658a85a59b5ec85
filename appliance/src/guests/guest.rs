//! A guest: its domain, its devices, and what becomes of it.

use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::domain::{DomainSpec, STATE_NEW, STATE_PAUSED};
use hv_abi::event::{self, Event};
use hv_x86::{low8, low16, low32};
use machine::devices::output_ring::OutputRing;
use machine::devices::platform::{DeviceConfig, Platform, PlatformEvent};
use machine::devices::virtio::VirtioDevice;
use machine::layout::{MemoryLayout, UART_PORT};
use machine::limits::CONSOLE_BYTES;
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::machine::{Action, Digest, Machine};
use mgmt_proto::manifest::DEFAULT_MTU;
use mgmt_proto::reason::{Reason, Refusal};

use crate::blobs::Blobs;
use crate::guests::console_lock::ConsoleWriter;
use crate::guests::number::GuestNumber;
use crate::hypervisor::Hypervisor;
use crate::limits::{
    RANDOM_REQUESTS_PER_TURN, START_TIMEOUT_NS, WORK_OF_CONSOLE_BYTE, WORK_OF_ENTROPY, WORK_OF_EXIT,
};
use crate::volumes::geometry::DiskGeometry;

/// A page-sized unit of guest memory.
const MEMORY_UNIT: u64 = 2 << 20;

mod doorbells;
mod kernel;
mod run_state;
mod slots;

pub use crate::guests::guest::kernel::check_kernel;
pub use crate::guests::guest::run_state::{End, GuestRequest, RunState};
pub use crate::guests::guest::slots::DiskSlot;

/// A guest and its devices. The disks it started with are devices `0..disks`, then
/// come the network cards, console and entropy, then disks that were added later.
#[derive(Debug)]
pub struct Guest<M> {
    /// What the operator asked for.
    pub machine: Machine,
    /// Longest payload of a frame on the wire that its cards are on.
    pub mtu: u16,
    /// Where the disks of the description are, in the same order.
    pub slots: Vec<DiskSlot>,
    /// What is set for it and its disks.
    pub settings: GuestSettings,
    /// Disks it started with.
    first_disks: usize,
    /// Where it is in its life.
    pub life: RunState,
    /// Its domain and the window onto its memory, once it has one.
    pub domain: Option<(DomainId, M)>,
    /// Its number on this node, never used again.
    pub number: GuestNumber,
    /// Everything it sees besides CPUs and RAM.
    pub platform: Platform,
    /// Everything it printed, on console and serial port.
    pub console: OutputRing,
    /// Who types there.
    pub writer: Option<ConsoleWriter>,
    /// Monotonic time at which it was accepted.
    pub created_ns: u64,
    /// Whether it stays paused once its disks are there.
    pub start_paused: bool,
    /// When it is given up if its disks are not there. Only a new guest is: one
    /// that starts again waits for its storage for ever.
    pub start_deadline_ns: Option<u64>,
    /// When it may start: later for one that ends soon after each start.
    pub not_before_ns: u64,
    /// Restarts in a row after short runs.
    pub short_runs: u32,
    /// Its place among those that start with the node, if it is one of them.
    pub order: Option<u32>,
    /// Its kernel and initrd come from the state volume first.
    pub awaits_files: bool,
    /// It is to start with the node from now on, at this place.
    pub keep: Option<u32>,
    uart_read: u64,
    /// Doorbells as the hypervisor knows them: address and width.
    doorbells: Vec<(u64, u16)>,
    /// Work of its accesses that was not yet charged.
    exit_work: u64,
    /// The device that was served first the last time.
    rotation: u32,
    /// Devices that rang and were not served dry, one bit each.
    work: u64,
    /// Whether this dom0 serves its devices.
    served: bool,
}

impl<M> Guest<M> {
    /// A guest whose disks are not connected yet.
    #[must_use]
    pub fn new(
        machine: Machine,
        mut settings: GuestSettings,
        number: GuestNumber,
        created_ns: u64,
        start_paused: bool,
    ) -> Self {
        let first_disks = machine.disks.len();
        settings.disks.resize(first_disks, Vec::new());
        Self {
            slots: (0..first_disks).map(DiskSlot::from_start).collect(),
            settings,
            first_disks,
            machine,
            life: RunState::Connecting,
            domain: None,
            number,
            platform: Platform::new(&[]),
            console: OutputRing::new(CONSOLE_BYTES),
            writer: None,
            created_ns,
            start_paused,
            start_deadline_ns: Some(created_ns.saturating_add(START_TIMEOUT_NS)),
            not_before_ns: 0,
            short_runs: 0,
            order: None,
            awaits_files: false,
            keep: None,
            uart_read: 0,
            doorbells: Vec::new(),
            exit_work: 0,
            rotation: 0,
            work: 0,
            served: false,
            mtu: DEFAULT_MTU,
        }
    }

    /// Takes over a domain that an earlier dom0 started; `state` is one of the
    /// hypervisor's.
    pub fn adopt(&mut self, domain: DomainId, memory: M, state: u32) {
        self.domain = Some((domain, memory));
        self.start_deadline_ns = None;
        self.life = match state {
            STATE_NEW | STATE_PAUSED => RunState::Paused,
            _ => RunState::Started,
        };
    }

    /// Its domain, if it has one.
    #[must_use]
    pub fn domain_id(&self) -> Option<DomainId> {
        self.domain.as_ref().map(|(domain, _)| *domain)
    }

    /// Whether this dom0 serves its devices.
    #[must_use]
    pub const fn has_devices(&self) -> bool {
        self.served
    }

    /// A queue of a device has work. A card's receive queue has none to serve:
    /// its buffers are taken when a frame comes.
    pub fn mark_work(&mut self, device: usize, queue: u16) {
        let card = self.first_card()..self.console_device();
        if device < 64 && !(card.contains(&device) && queue == 0) {
            self.work |= 1 << device;
        }
    }

    /// Every device may have work.
    pub const fn mark_all_work(&mut self) {
        self.work = u64::MAX;
    }

    /// The device that is served first this time.
    pub const fn next_rotation(&mut self) -> u32 {
        self.rotation = (self.rotation + 1) % 32;
        self.rotation
    }

    /// Takes the set of devices with work.
    pub const fn take_work(&mut self) -> u64 {
        core::mem::replace(&mut self.work, 0)
    }

    /// Whether a disk has work that was noted and not looked at.
    #[must_use]
    pub fn has_disk_work(&self) -> bool {
        self.slots.iter().any(|slot| self.work >> slot.device & 1 == 1)
    }

    /// The memory it gets: whole large pages.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.machine.memory_bytes.next_multiple_of(MEMORY_UNIT)
    }

    /// Device number of its first network card.
    #[must_use]
    pub const fn first_card(&self) -> usize {
        self.first_disks
    }

    /// Device number of its console.
    #[must_use]
    pub const fn console_device(&self) -> usize {
        self.first_disks + self.machine.network_cards.len()
    }

    /// Device number of its source of entropy.
    #[must_use]
    pub const fn rng_device(&self) -> usize {
        self.console_device() + 1
    }

    fn devices(&self, shapes: &[DiskGeometry]) -> Vec<DeviceConfig> {
        let disks = self.machine.disks.iter().zip(shapes).enumerate();
        let disks = disks.map(|(index, (disk, shape))| slots::block(index, disk, shape));
        let (cards, mtu) = (self.machine.network_cards.iter(), self.mtu);
        let cards = cards.map(|card| DeviceConfig::Net { mac: card.mac, mtu });
        disks.chain(cards).chain([DeviceConfig::Console, DeviceConfig::Rng]).collect()
    }

    /// Collects what the guest printed.
    fn collect_output(&mut self) {
        collect(&self.platform.uart.output, &mut self.uart_read, &mut self.console);
    }
}

/// Moves what a device printed since `read` to where all of it is kept.
fn collect(output: &OutputRing, read: &mut u64, console: &mut OutputRing) {
    let mut buffer = [0; 512];
    while *read < output.end() {
        let (count, next) = output.read(*read, &mut buffer);
        *read = next;
        console.push(buffer.get(..count).unwrap_or_default());
    }
}

/// Whether an exit is an access to the serial port.
const fn port_of_uart(event: &Event) -> bool {
    event.access == event::ACCESS_PORT_WRITE && event.address >> 3 == (UART_PORT >> 3) as u64
}

fn storage_failure(name: &str, what: &str) -> Refusal {
    Refusal::of(name, Reason::Hypervisor { what: what.into() })
}

impl<M: machine::guest_memory::GuestMemory> Guest<M> {
    /// Creates the domain, loads the kernel and, unless it is to stay paused,
    /// lets it run. `shapes` tell what its disks are.
    ///
    /// # Errors
    /// The failure to report; no domain is left behind.
    pub fn start<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        shapes: &[DiskGeometry],
    ) -> Result<(), Refusal> {
        let name = self.machine.name.clone();
        let spec = DomainSpec {
            memory_bytes: self.memory_bytes(),
            vcpus: self.machine.vcpus,
            weight: self.machine.cpu_weight,
            cap_percent: self.machine.cap_percent,
            reserved: 0,
        };
        let domain = blobs.create_domain(hypervisor, &spec).map_err(|error| match error {
            hv_abi::call::Error::NoMemory => {
                let free = hypervisor.node_info().memory_free_bytes >> 20;
                let wanted = self.memory_bytes() >> 20;
                Refusal::of(&name, Reason::NoMemory { wanted_mib: wanted, free_mib: free })
            }
            hv_abi::call::Error::NoSlot => Refusal::of(&name, Reason::NoDomainSlot),
            _ => storage_failure(&name, "the hypervisor refused the domain"),
        })?;
        let layout = MemoryLayout::new(self.memory_bytes());
        let memory = hypervisor.memory(domain, layout);
        if let Err(failure) = self.load(hypervisor, blobs, domain, &memory, layout) {
            drop(memory);
            let _ = hypervisor.domain_destroy(domain);
            return Err(failure);
        }
        self.platform = Platform::new(&self.devices(shapes));
        (self.uart_read, self.work) = (0, 0);
        self.doorbells.clear();
        self.served = true;
        self.domain = Some((domain, memory));
        self.life = RunState::Paused;
        self.update_doorbells(hypervisor);
        if !self.start_paused {
            self.unpause(hypervisor)?;
        }
        Ok(())
    }

    /// Lets its vCPUs run.
    ///
    /// # Errors
    /// The failure to report.
    pub fn unpause<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) -> Result<(), Refusal> {
        match (self.life, &self.domain) {
            (RunState::Paused, Some((domain, _))) => {
                hypervisor
                    .domain_resume(*domain)
                    .map_err(|_| storage_failure(&self.machine.name, "the hypervisor refused to run it"))?;
                self.life = RunState::Started;
                Ok(())
            }
            _ => Err(Refusal::of(&self.machine.name, Reason::NotPaused)),
        }
    }

    /// Stops its vCPUs.
    ///
    /// # Errors
    /// The failure to report.
    pub fn pause<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) -> Result<(), Refusal> {
        match (self.life, &self.domain) {
            (RunState::Started, Some((domain, _))) => {
                hypervisor
                    .domain_pause(*domain)
                    .map_err(|_| storage_failure(&self.machine.name, "the hypervisor refused to pause it"))?;
                self.life = RunState::Paused;
                Ok(())
            }
            _ => Err(Refusal::of(&self.machine.name, Reason::NotRunning)),
        }
    }

    /// Ends its domain; devices and console stay to be looked at.
    pub fn end<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H, life: RunState) {
        self.collect_output();
        if let Some((domain, memory)) = self.domain.take() {
            drop(memory);
            let _ = hypervisor.domain_destroy(domain);
        }
        self.life = life;
    }

    /// Deals with one event of its domain.
    pub fn handle<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H, event: &Event) -> GuestRequest {
        let Some((domain, _)) = &self.domain else { return GuestRequest::Nothing };
        let domain = *domain;
        let wish = match event.kind {
            event::DOORBELL => self.platform.doorbell(event.index),
            event::EXIT => {
                self.exit_work = self.exit_work.saturating_add(WORK_OF_EXIT);
                let width = low8(u64::from(event.width));
                let port = low16(event.address);
                let (answer, wish) = match event.access {
                    event::ACCESS_PORT_READ => (u64::from(self.platform.port_read(port, width)), None),
                    event::ACCESS_PORT_WRITE => {
                        (0, self.platform.port_write(port, width, low32(event.value)))
                    }
                    event::ACCESS_MEMORY_READ => (self.platform.mmio_read(event.address, width), None),
                    _ => (0, self.platform.mmio_write(event.address, width, event.value)),
                };
                self.update_doorbells(hypervisor);
                if port_of_uart(event) {
                    self.collect_output();
                }
                let ends = matches!(
                    wish,
                    Some(
                        PlatformEvent::PowerOff
                            | PlatformEvent::Reset
                            | PlatformEvent::Panicked { goes_on: false }
                    )
                );
                if !ends {
                    let _ = hypervisor.complete_exit(domain, event.index, answer);
                }
                wish
            }
            _ => None,
        };
        match wish {
            None => GuestRequest::Nothing,
            Some(PlatformEvent::PowerOff) => GuestRequest::PowerOff,
            Some(PlatformEvent::Reset) => GuestRequest::Reset,
            Some(PlatformEvent::Panicked { goes_on }) => GuestRequest::Panicked(goes_on),
            Some(PlatformEvent::Queue { device, queue }) => GuestRequest::Queue(device, queue),
            Some(PlatformEvent::DeviceReset { device }) => GuestRequest::DeviceReset(device),
            Some(PlatformEvent::Ejected { device }) => GuestRequest::Ejected(device),
        }
    }

    /// Work of its accesses since this was asked last, in instructions.
    pub const fn take_exit_work(&mut self) -> u64 {
        core::mem::replace(&mut self.exit_work, 0)
    }

    /// Whether any device has work that was noted.
    #[must_use]
    pub const fn has_work(&self) -> bool {
        self.work != 0
    }

    /// Moves what console, entropy source and serial port have to move. Returns the work
    /// that it was.
    pub fn poll_small_devices<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) -> u64 {
        let (console, rng) = (self.console_device(), self.rng_device());
        let (mut work, mut more) = (0, 0);
        if let Some((_, memory)) = &self.domain {
            if let Some(device) = self.platform.console_mut(console) {
                let before = self.console.end();
                if device.poll(memory, &mut self.console) {
                    more |= 1 << console;
                }
                work += device.transport.take_work() + (self.console.end() - before) * WORK_OF_CONSOLE_BYTE;
            }
            if let Some(source) = self.platform.rng_mut(rng) {
                let mut served = 0;
                // Bounded, so that a guest that refills its ring cannot hold dom0.
                for _ in 0..RANDOM_REQUESTS_PER_TURN {
                    if source.fill(memory, &mut |bytes| hypervisor.random(bytes)) == 0 {
                        break;
                    }
                    served += 1;
                }
                if served == RANDOM_REQUESTS_PER_TURN {
                    more |= 1 << rng;
                }
                work += source.transport.take_work() + served as u64 * WORK_OF_ENTROPY;
            }
        }
        self.work |= more;
        self.collect_output();
        work
    }

    /// Hands pending interrupts to the hypervisor.
    pub fn flush_interrupts<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) {
        let Some((domain, _)) = &self.domain else { return };
        while let Some(message) = self.platform.next_interrupt() {
            let _ = hypervisor.inject_msi(*domain, message.address, message.data);
        }
    }

    /// Types on its console; returns how many bytes there was room for.
    pub fn type_input(&mut self, bytes: &[u8]) -> usize {
        let console = self.console_device();
        let ready = match self.platform.device(console) {
            Some(VirtioDevice::Console(console)) => console.transport.is_running(),
            _ => false,
        };
        self.mark_work(console, 0);
        if ready {
            self.platform.console_mut(console).map_or(0, |console| console.push_input(bytes))
        } else {
            self.platform.push_uart_input(bytes)
        }
    }

    /// The kernels it needs to start again.
    pub fn needs(&self, digest: &Digest) -> bool {
        self.machine.kernel == *digest || self.machine.ramdisk.as_ref() == Some(digest)
    }

    /// What its description says for an end.
    #[must_use]
    pub const fn action(&self, end: End) -> Action {
        match end {
            End::PoweredOff => self.machine.on_poweroff,
            End::Crashed | End::Panicked => self.machine.on_crash,
            End::Reset => self.machine.on_reboot,
        }
    }
}
