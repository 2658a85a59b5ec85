//! dom0: a program in ring 3 with an address space of its own, on the boot CPU.
//!
//! It runs whenever it has something to do and otherwise waits in a system call.
//! Whatever it does wrong ends it, not the node: it is loaded again from the
//! image, which cannot be written.

use crate::registers::Registers;
use crate::{address_space, clock, domain, elf, events, memory, random, run_queue, smp};
use core::sync::atomic::{AtomicU32, Ordering};
use hv_abi::boot::{self, BootInfo};
use hv_abi::call::Error;
use hv_abi::image::{Image, PART_DOM0};
use hv_x86::page::{CACHE_DISABLE, NO_EXECUTE, WRITABLE, WRITE_THROUGH};
use hv_x86::{BusAddress, Hpa, PAGE_SIZE, reg, to_usize};
use sha2::{Digest, Sha256};
use spin::Once;
use zerocopy::{FromZeros, IntoBytes};

/// Restarts in quick succession before dom0 is held back.
const RESTARTS_AT_ONCE: u32 = 8;
/// Pause once it is held back.
const RESTART_PAUSE_NS: u64 = 1_000_000_000;
/// Most blocks of DMA memory.
const MAX_DMA: usize = 32;

static STARTS: AtomicU32 = AtomicU32::new(0);
static PAYLOAD: Once<&'static [u8]> = Once::new();
static COMMAND_LINE: Once<CommandLine> = Once::new();

/// The loader's command line, up to its first zero.
pub(crate) type CommandLine = heapless::Vec<u8, 1024>;

/// A block of DMA memory. Devices may hold its address beyond dom0's life, so it
/// is never given to anyone but the next dom0.
#[derive(Clone, Copy)]
struct Dma {
    address: Hpa,
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
    pub(crate) busy_since_ns: u64,
    pub(crate) hold_until_ns: u64,
    last_start_ns: u64,
    quick_restarts: u32,
}

/// Remembers what dom0 is started from and makes its first instance.
pub(crate) fn init(payload: &'static [u8], command_line: CommandLine) -> Dom0 {
    PAYLOAD.call_once(|| payload);
    COMMAND_LINE.call_once(|| command_line);
    if address_space::init().is_none() {
        panic!("no memory for dom0");
    }
    let mut dom0 = Dom0 {
        registers: Registers::ZERO,
        wait: None,
        mmio_next: boot::MMIO,
        dma_next: boot::DMA,
        dma: [Dma { address: Hpa(0), pages: 0, used: false }; MAX_DMA],
        busy_since_ns: 0,
        hold_until_ns: 0,
        last_start_ns: 0,
        quick_restarts: 0,
    };
    if let Err(cause) = dom0.load() {
        panic!("dom0 cannot be started: {cause}");
    }
    dom0
}

/// Times dom0 was started.
pub(crate) fn starts() -> u32 {
    STARTS.load(Ordering::Relaxed)
}

/// Dedicates the boot CPU to dom0, or shares it with guests.
pub(crate) fn own_cpu(own: bool) -> Result<(), Error> {
    if own && smp::running() < 2 {
        return Err(Error::Refused);
    }
    run_queue::SCHEDULER.lock().dedicate(0, own);
    Ok(())
}

impl Dom0 {
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
        events::take_interrupts();
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
        let entry = elf::load(bytes, &mut address_space::map_segment)?;
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
        events::end_wait();
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
        random::fill(&mut information.seed);
        let frame = memory::take_frame().ok_or("no memory")?;
        // SAFETY: the frame was just taken.
        let _ = unsafe { memory::write(frame, information.as_bytes()) };
        let flags = NO_EXECUTE | address_space::OWNED;
        // SAFETY: it was taken for dom0.
        unsafe { address_space::map(boot::BOOT_INFO, frame, flags) }.ok_or("no memory")?;
        let base = Hpa(payload.as_ptr() as u64 - memory::DIRECT_MAP);
        for offset in (0..payload.len() as u64).step_by(4096) {
            // SAFETY: a page of the image, which is never written.
            let mapped = unsafe { address_space::map(boot::IMAGE + offset, base.after(offset), NO_EXECUTE) };
            mapped.ok_or("no memory")?;
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
        if memory::touches_ram(Hpa(start), Hpa(end))
            || start < 0x10_0000
            || (start < apics.end && end > apics.start)
        {
            return Err(Error::Refused);
        }
        let base = self.mmio_next;
        for offset in (0..end - start).step_by(4096) {
            let flags = WRITABLE | NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH;
            // SAFETY: neither RAM nor an interrupt controller: a device's registers.
            let mapped = unsafe { address_space::map(base + offset, Hpa(start + offset), flags) };
            mapped.ok_or(Error::NoMemory)?;
        }
        self.mmio_next += end - start;
        Ok(base + (address - start))
    }

    /// Allocates DMA memory: virtual and bus address.
    pub(crate) fn allocate_dma(&mut self, length: u64) -> Result<(u64, BusAddress), Error> {
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
        // SAFETY: the block was taken for dom0, which does not use it yet.
        unsafe { memory::clear(address, pages * PAGE_SIZE) };
        for offset in (0..pages).map(|page| page * PAGE_SIZE) {
            let frame = address.after(offset);
            // SAFETY: the same.
            let mapped = unsafe { address_space::map(base + offset, frame, WRITABLE | NO_EXECUTE) };
            mapped.ok_or(Error::NoMemory)?;
        }
        // A page between blocks stays unmapped.
        self.dma_next += (pages + 1) * PAGE_SIZE;
        Ok((base, BusAddress(address.0)))
    }
}
