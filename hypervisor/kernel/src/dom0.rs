//! dom0: a program in ring 3 with an address space of its own, on the boot CPU.
//!
//! It runs whenever it has something to do and otherwise waits in a system call.
//! Whatever it does wrong ends it, not the node: it is loaded again from the
//! image, which nobody can write.

use crate::address_space;
use crate::cpu::Cpu;
use crate::memory;
use crate::registers::Registers;
use crate::watch::Mutex;
use crate::{clock, cpu, domain, smp, speculation, syscall, watch};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use hv_abi::boot::{self, BootInfo};
use hv_abi::call::Error;
use hv_abi::event::{self, Event};
use hv_abi::image::{Image, PART_DOM0};
use hv_core::watch::Doing;
use hv_x86::page::{CACHE_DISABLE, NO_EXECUTE, WRITABLE, WRITE_THROUGH};
use hv_x86::{PAGE_SIZE, reg, to_usize};
use sha2::{Digest, Sha256};
use spin::Once;
use zerocopy::{FromZeros, IntoBytes};

/// How long dom0 may compute without waiting before it counts as hung.
const HANG_NS: u64 = 5_000_000_000;
/// How often a running dom0 is looked at.
const TICK_NS: u64 = 100_000_000;
/// Restarts in quick succession before dom0 is held back.
const RESTARTS_AT_ONCE: u32 = 8;
/// Pause once it is held back.
const RESTART_PAUSE_NS: u64 = 1_000_000_000;
/// How long a guest on dom0's CPU runs at least before doorbells and devices' interrupts
/// take it away from it again: who has much to do brings much at a time, and what comes
/// after a pause is served at once. When the guest has nothing to do dom0 comes earlier.
const GATHER_NS: u64 = 50_000;
/// Most blocks of DMA memory.
const MAX_DMA: usize = 32;

static WAITING: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);
/// When dom0 began to wait.
static WAITS_SINCE: AtomicU64 = AtomicU64::new(0);
/// Something came that is not gathered.
static URGENT: AtomicBool = AtomicBool::new(false);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static STARTS: AtomicU32 = AtomicU32::new(0);
static DOM0: Mutex<Option<Dom0>> = Mutex::new(None);
static PAYLOAD: Once<&'static [u8]> = Once::new();
static COMMAND_LINE: Once<CommandLine> = Once::new();

/// What the loader said, up to its first zero.
pub(crate) type CommandLine = heapless::Vec<u8, 1024>;

/// A block of DMA memory. Devices may hold its address beyond dom0's life, so it
/// is never given to anyone but the next dom0.
#[derive(Clone, Copy)]
struct Dma {
    address: u64,
    pages: u64,
    used: bool,
}

/// The running instance.
pub(crate) struct Dom0 {
    pub(crate) registers: Registers,
    /// Pointer and capacity of the pending wait.
    pub(crate) wait: Option<(u64, u64)>,
    mmio_next: u64,
    dma_next: u64,
    dma: [Dma; MAX_DMA],
    busy_since_ns: u64,
    hold_until_ns: u64,
    last_start_ns: u64,
    quick_restarts: u32,
}

/// Remembers what dom0 is started from and starts it.
pub(crate) fn init(payload: &'static [u8], command_line: CommandLine) {
    PAYLOAD.call_once(|| payload);
    COMMAND_LINE.call_once(|| command_line);
    if address_space::init().is_none() {
        panic!("no memory for dom0");
    }
    *DOM0.lock() = Some(Dom0 {
        registers: Registers::ZERO,
        wait: None,
        mmio_next: boot::MMIO,
        dma_next: boot::DMA,
        dma: [Dma { address: 0, pages: 0, used: false }; MAX_DMA],
        busy_since_ns: 0,
        hold_until_ns: 0,
        last_start_ns: 0,
        quick_restarts: 0,
    });
    if let Some(dom0) = DOM0.lock().as_mut()
        && let Err(cause) = dom0.load()
    {
        panic!("dom0 cannot be started: {cause}");
    }
}

/// Times dom0 was started.
pub(crate) fn starts() -> u32 {
    STARTS.load(Ordering::Relaxed)
}

/// Keeps the boot CPU for dom0, or shares it with guests.
pub(crate) fn own_cpu(own: bool) -> Result<(), Error> {
    if own && smp::running() < 2 {
        return Err(Error::Refused);
    }
    domain::SCHEDULER.lock().keep(0, own);
    Ok(())
}

/// Something happened that dom0 may wait for.
pub(crate) fn wake() {
    fence(Ordering::SeqCst);
    if WAITING.load(Ordering::SeqCst) && cpu::current().number != 0 {
        crate::apic::interrupt(0, cpu::VECTOR_RESCHEDULE);
    }
}

/// A device bound to dom0 fired.
pub(crate) fn device_interrupts(bits: u64) {
    if bits != 0 {
        INTERRUPTS.fetch_or(bits, Ordering::Release);
    }
}

fn has_work() -> bool {
    INTERRUPTS.load(Ordering::Acquire) != 0 || domain::has_work()
}

/// Somebody waits for dom0.
pub(crate) fn hurry() {
    URGENT.store(true, Ordering::Release);
}

/// Whether dom0 has something to do on the CPU that asks.
pub(crate) fn wants(cpu: &Cpu, now_ns: u64) -> bool {
    cpu.number == 0
        && (!WAITING.load(Ordering::Acquire) || has_work() || now_ns >= DEADLINE.load(Ordering::Relaxed))
}

/// Whether that is reason enough to interrupt a guest that runs there.
pub(crate) fn interrupts(cpu: &Cpu, now_ns: u64) -> bool {
    if !wants(cpu, now_ns) {
        return false;
    }
    let gathers = WAITING.load(Ordering::Acquire)
        && now_ns < DEADLINE.load(Ordering::Relaxed)
        && !URGENT.load(Ordering::Acquire);
    !gathers || now_ns >= gathered_ns()
}

/// When what is gathered is served.
fn gathered_ns() -> u64 {
    WAITS_SINCE.load(Ordering::Relaxed).saturating_add(GATHER_NS)
}

/// When the boot CPU must look at dom0 again. While dom0 runs its last deadline
/// means nothing: were it in the past, the timer would interrupt dom0 before each
/// instruction.
pub(crate) fn deadline(cpu: &Cpu) -> u64 {
    let waits = cpu.number == 0 && WAITING.load(Ordering::Acquire);
    let gathered = if has_work() { gathered_ns() } else { u64::MAX };
    if waits { DEADLINE.load(Ordering::Relaxed).min(gathered) } else { u64::MAX }
}

unsafe extern "C" {
    fn enter_user(registers: *mut Registers) -> u64;
}

/// Runs dom0 until it waits. Called on the boot CPU only.
pub(crate) fn service(cpu: &'static Cpu) {
    let mut guard = DOM0.lock();
    let Some(dom0) = guard.as_mut() else { return };
    loop {
        let now = clock::now_ns();
        if now < dom0.hold_until_ns {
            DEADLINE.store(dom0.hold_until_ns, Ordering::Relaxed);
            WAITING.store(true, Ordering::Release);
            return;
        }
        if let Some((pointer, capacity)) = dom0.wait {
            if !has_work() && now < DEADLINE.load(Ordering::Relaxed) {
                return;
            }
            WAITING.store(false, Ordering::Release);
            dom0.wait = None;
            dom0.busy_since_ns = now;
            URGENT.store(false, Ordering::Release);
            match deliver(pointer, capacity) {
                Ok(count) => dom0.registers.rax = count,
                Err(error) => dom0.registers.rax = error.to_result().cast_unsigned(),
            }
        }
        crate::arm(cpu, now + TICK_NS, now);
        watch::look(cpu, now);
        speculation::before_dom0(cpu);
        watch::note(cpu, Doing::Dom0);
        // SAFETY: the registers are dom0's; ring 3 reaches only its own pages.
        let call = unsafe { enter_user(&raw mut dom0.registers) } == 1;
        watch::note(cpu, Doing::Ring0);
        let pending = cpu.take_pending();
        crate::handle_pending(cpu, &pending);
        if call {
            if let syscall::After::Restart = syscall::handle(dom0) {
                dom0.restart("it gave up");
            }
        } else if dom0.registers.vector < 32 {
            dom0.exception();
        } else if clock::now_ns() > dom0.busy_since_ns + HANG_NS {
            dom0.restart("it hung");
        }
    }
}

/// Begins a wait.
pub(crate) fn begin_wait(dom0: &mut Dom0, deadline_ns: u64, pointer: u64, capacity: u64) {
    dom0.wait = Some((pointer, capacity));
    WAITS_SINCE.store(clock::now_ns(), Ordering::Relaxed);
    DEADLINE.store(deadline_ns, Ordering::Relaxed);
    // Seen by all before this looks for work once more: whoever brings some either is
    // seen, or sees that it must wake.
    WAITING.store(true, Ordering::SeqCst);
}

/// Copies pending events to dom0; what does not fit stays pending.
fn deliver(pointer: u64, capacity: u64) -> Result<u64, Error> {
    let mut count = 0;
    let mut put = |event: &Event| -> Result<bool, Error> {
        if count >= capacity {
            return Ok(false);
        }
        address_space::copy_out(pointer + count * size_of::<Event>() as u64, event.as_bytes())?;
        count += 1;
        Ok(true)
    };
    let mut interrupts = INTERRUPTS.swap(0, Ordering::Acquire);
    while interrupts != 0 {
        let index = interrupts.trailing_zeros();
        if !put(&Event { kind: event::INTERRUPT, index, ..Event::default() })? {
            INTERRUPTS.fetch_or(interrupts, Ordering::Release);
            return Ok(count);
        }
        interrupts &= interrupts - 1;
    }
    let mut work = domain::take_work();
    while work != 0 {
        let slot = work.trailing_zeros() as usize;
        if !deliver_domain(slot, &mut put)? {
            domain::notify(slot);
            for rest in (slot + 1..64).filter(|rest| work >> rest & 1 == 1) {
                domain::notify(rest);
            }
            return Ok(count);
        }
        work &= work - 1;
    }
    Ok(count)
}

/// False when there was no room for all of it.
fn deliver_domain(slot: usize, put: &mut dyn FnMut(&Event) -> Result<bool, Error>) -> Result<bool, Error> {
    let (Some(events), Some(domain)) =
        (domain::EVENTS.get(slot), domain::with_slot(slot, |domain| domain.id))
    else {
        return Ok(true);
    };
    if events.changed.swap(false, Ordering::Acquire)
        && !put(&Event { kind: event::DOMAIN, domain, ..Event::default() })?
    {
        events.changed.store(true, Ordering::Release);
        return Ok(false);
    }
    let mut bells = events.doorbells.swap(0, Ordering::Acquire);
    while bells != 0 {
        let index = bells.trailing_zeros();
        if !put(&Event { kind: event::DOORBELL, domain, index, ..Event::default() })? {
            events.doorbells.fetch_or(bells, Ordering::Release);
            return Ok(false);
        }
        bells &= bells - 1;
    }
    let mut exits = events.exits.swap(0, Ordering::Acquire);
    while exits != 0 {
        let index = exits.trailing_zeros();
        let waiting = domain::vcpu_slot(domain, u64::from(index))
            .ok()
            .and_then(|vcpu| crate::vcpu::waiting_event(vcpu, domain, index));
        if let Some(event) = waiting
            && !put(&event)?
        {
            events.exits.fetch_or(exits, Ordering::Release);
            return Ok(false);
        }
        exits &= exits - 1;
    }
    Ok(true)
}

impl Dom0 {
    /// A fault: memory that is backed on first touch, or the end of this dom0.
    fn exception(&mut self) {
        let registers = &self.registers;
        if registers.vector == 18 {
            // Not worth telling apart whether it could go on: the next one can.
            crate::machine_check::contain();
            self.restart("of a machine check");
            return;
        }
        if registers.vector == 14 && address_space::touch(registers.cr2) {
            return;
        }
        log::error!(
            "exception {} error {:#x} at {:#x}, address {:#x}",
            registers.vector,
            registers.error,
            registers.rip,
            registers.cr2
        );
        self.restart("it faulted");
    }

    /// Ends this instance and starts the next.
    pub(crate) fn restart(&mut self, cause: &str) {
        let now = clock::now_ns();
        log::error!("restarted because {cause}");
        self.quick_restarts =
            if now < self.last_start_ns + RESTART_PAUSE_NS { self.quick_restarts + 1 } else { 0 };
        if self.quick_restarts >= RESTARTS_AT_ONCE {
            self.hold_until_ns = now + RESTART_PAUSE_NS;
        }
        address_space::free_lower_half();
        self.mmio_next = boot::MMIO;
        self.dma_next = boot::DMA;
        self.dma.iter_mut().for_each(|block| block.used = false);
        INTERRUPTS.store(0, Ordering::Relaxed);
        if let Err(cause) = self.load() {
            panic!("dom0 cannot be started again: {cause}");
        }
    }

    /// Loads the program from the image after checking that part's digest.
    fn load(&mut self) -> Result<(), &'static str> {
        let payload = *PAYLOAD.get().ok_or("no image")?;
        let image = Image::parse(payload).map_err(|_| "the image's directory is damaged")?;
        let (part, bytes) = image.part(PART_DOM0).map_err(|_| "the image has no dom0")?;
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        if digest != part.sha256 {
            return Err("its part of the image is damaged");
        }
        let entry = crate::elf::load(bytes, &mut address_space::map_segment)?;
        self.map_information(payload)?;
        address_space::make_tables().ok_or("no memory")?;
        STARTS.fetch_add(1, Ordering::Relaxed);
        domain::map_windows();
        domain::report_again();
        address_space::flush();
        let now = clock::now_ns();
        self.registers = Registers::ZERO;
        self.registers.rip = entry;
        // A function's entry finds the stack 8 below a multiple of 16.
        self.registers.rsp = boot::STACK_TOP - 8;
        self.registers.rdi = boot::BOOT_INFO;
        self.registers.rflags = reg::RFLAGS_IF | reg::RFLAGS_RESERVED;
        (self.wait, self.busy_since_ns, self.last_start_ns) = (None, now, now);
        WAITING.store(false, Ordering::Release);
        Ok(())
    }

    fn map_information(&self, payload: &[u8]) -> Result<(), &'static str> {
        const { assert!(size_of::<BootInfo>() <= 4096) };
        let mut information = BootInfo::new_zeroed();
        information.version = boot::VERSION;
        information.cpus = smp::running();
        information.image_bytes = payload.len() as u64;
        information.tsc_base = clock::tsc_base();
        information.tsc_to_ns = clock::scale().to_ns;
        information.wall_clock_base_ns = clock::wall_base_ns();
        information.dom0_starts = STARTS.load(Ordering::Relaxed) + 1;
        if let Some(line) = COMMAND_LINE.get() {
            information.command_line.iter_mut().zip(line).for_each(|(target, byte)| *target = *byte);
            information.command_line_bytes = u32::try_from(line.len()).unwrap_or(0);
        }
        crate::random::fill(&mut information.seed);
        let frame = memory::take_frame().ok_or("no memory")?;
        let _ = memory::write(frame, information.as_bytes());
        address_space::map(boot::BOOT_INFO, frame, NO_EXECUTE | address_space::OWNED).ok_or("no memory")?;
        let base = payload.as_ptr() as u64 - memory::DIRECT_MAP;
        for offset in (0..payload.len() as u64).step_by(4096) {
            address_space::map(boot::IMAGE + offset, base + offset, NO_EXECUTE).ok_or("no memory")?;
        }
        Ok(())
    }

    /// Maps device registers.
    pub(crate) fn map_mmio(&mut self, address: u64, length: u64) -> Result<u64, Error> {
        let start = address & !(PAGE_SIZE - 1);
        let end = address.checked_add(length).ok_or(Error::Argument)?.next_multiple_of(PAGE_SIZE);
        let apics = 0xfec0_0000..0xff00_0000;
        if length == 0 || end - start > 256 << 20 || end > 1 << 46 {
            return Err(Error::Argument);
        }
        if memory::touches_ram(start, end) || start < 0x10_0000 || (start < apics.end && end > apics.start) {
            return Err(Error::Refused);
        }
        let base = self.mmio_next;
        for offset in (0..end - start).step_by(4096) {
            let flags = WRITABLE | NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH;
            address_space::map(base + offset, start + offset, flags).ok_or(Error::NoMemory)?;
        }
        self.mmio_next += end - start;
        Ok(base + (address - start))
    }

    /// Allocates DMA memory: virtual and bus address.
    pub(crate) fn allocate_dma(&mut self, length: u64) -> Result<(u64, u64), Error> {
        let pages = length.div_ceil(PAGE_SIZE);
        if pages == 0 || pages > 512 {
            return Err(Error::Argument);
        }
        let old = self.dma.iter_mut().find(|block| block.pages == pages && !block.used);
        let block = match old {
            Some(block) => block,
            None => {
                let block = self.dma.iter_mut().find(|block| block.pages == 0).ok_or(Error::NoSlot)?;
                block.address = memory::take_contiguous(to_usize(pages)).ok_or(Error::NoMemory)?;
                block.pages = pages;
                block
            }
        };
        block.used = true;
        let (address, base) = (block.address, self.dma_next);
        memory::clear(address, pages * PAGE_SIZE);
        for page in 0..pages {
            address_space::map(base + page * PAGE_SIZE, address + page * PAGE_SIZE, WRITABLE | NO_EXECUTE)
                .ok_or(Error::NoMemory)?;
        }
        // A page between blocks stays unmapped.
        self.dma_next += (pages + 1) * PAGE_SIZE;
        Ok((base, address))
    }
}
