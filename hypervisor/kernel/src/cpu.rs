//! One processor's block at GS, and the interrupt vectors.

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use hv_core::asid::Asids;
use spin::mutex::SpinMutex;

/// Most CPUs in use.
pub(crate) const MAX_CPUS: usize = 64;
/// Bytes of a CPU's stack in ring 0.
pub(crate) const STACK_BYTES: u64 = 32 * 1024;
/// Vector of #MC, marked where it found a CPU asleep.
pub(crate) const VECTOR_MACHINE_CHECK: u8 = 18;
/// Vector of the local timer.
pub(crate) const VECTOR_TIMER: u8 = 0xf0;
/// Vector: check the running vCPU's requests.
pub(crate) const VECTOR_KICK: u8 = 0xf1;
/// Vector: choose again what to run.
pub(crate) const VECTOR_RESCHEDULE: u8 = 0xf2;
/// Vector: stop, the node is going down.
pub(crate) const VECTOR_STOP: u8 = 0xf3;
/// First vector of devices bound to dom0.
pub(crate) const VECTOR_DEVICES: u8 = 0x30;
/// Vector of spurious interrupts.
pub(crate) const VECTOR_SPURIOUS: u8 = 0xff;

/// A processor. Shared by reference; the first fields are known to assembly.
#[repr(C, align(64))]
pub(crate) struct Cpu {
    self_pointer: AtomicU64,
    kernel_rsp: AtomicU64,
    eoi: AtomicU64,
    tss: AtomicU64,
    scratch: AtomicU64,
    pending: [AtomicU64; 4],
    /// What each entry and exit does: `hv_core::speculation::STEP_*`.
    pub(crate) steps: AtomicU64,
    /// SPEC_CTRL of the guest, and of ring 0.
    pub(crate) guest_control: AtomicU64,
    pub(crate) own_control: AtomicU64,
    /// The guest of which predictions may be left here; 0 for none.
    pub(crate) trained: AtomicU32,
    /// Number, 0 for the boot processor.
    pub(crate) number: u32,
    /// Local APIC identifier.
    pub(crate) apic_id: u32,
    /// Tags of this CPU, which alone takes the lock.
    pub(crate) asids: SpinMutex<Asids>,
    /// Where VMSAVE keeps the host's hidden state.
    pub(crate) host_vmcb: u64,
    /// What the timer is set for.
    pub(crate) armed_ns: AtomicU64,
    /// Where it was when it was told to stop for good.
    pub(crate) stopped_at: AtomicU64,
    /// What it does: see [`crate::watch`].
    pub(crate) progress: AtomicU64,
    /// When it checks the others next.
    pub(crate) look_ns: AtomicU64,
    /// When it reads its machine-check banks next.
    pub(crate) banks_ns: AtomicU64,
    /// Its descriptor table, for which it alone takes the lock.
    pub(crate) gdt: SpinMutex<[u64; 8]>,
}

const _: () = {
    assert!(offset_of!(Cpu, kernel_rsp) == 8);
    assert!(offset_of!(Cpu, eoi) == 16);
    assert!(offset_of!(Cpu, tss) == 24);
    assert!(offset_of!(Cpu, scratch) == 32);
    assert!(offset_of!(Cpu, pending) == 40);
    assert!(offset_of!(Cpu, steps) == 72);
    assert!(offset_of!(Cpu, guest_control) == 80);
    assert!(offset_of!(Cpu, own_control) == 88);
};

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Whether both threads of a core run.
static THREADS: AtomicBool = AtomicBool::new(false);

/// CPUs in use.
pub(crate) fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// CPU number `number`, if it is in use.
pub(crate) fn by_number(number: u32) -> Option<&'static Cpu> {
    let pointer = CPUS.get(number as usize)?.load(Ordering::Acquire);
    // SAFETY: the pointer is null or a block that is never freed.
    unsafe { pointer.cast_const().as_ref() }
}

/// Whether an address is that of a CPU's block.
pub(crate) fn is_block(address: u64) -> bool {
    CPUS.iter().any(|cpu| address != 0 && cpu.load(Ordering::Acquire) as u64 == address)
}

/// The CPU this runs on.
pub(crate) fn current() -> &'static Cpu {
    let pointer: *const Cpu;
    // SAFETY: GS holds this CPU's block, whose first word points to itself.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly))
    };
    // SAFETY: blocks are never freed.
    unsafe { &*pointer }
}

/// Whether both threads of a core run.
pub(crate) fn threads_run() -> bool {
    THREADS.load(Ordering::Acquire)
}

/// Marks that both threads of a core run; true when they did not before.
pub(crate) fn set_threads_run() -> bool {
    !THREADS.swap(true, Ordering::AcqRel)
}

/// Counts one more CPU in use; None when there are as many as there may be.
pub(crate) fn add(cpu: &'static Cpu) -> Option<()> {
    let slot = CPUS.get(cpu.number as usize)?;
    slot.store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    COUNT.store(cpu.number + 1, Ordering::Release);
    Some(())
}

impl Cpu {
    /// The block at `place` of the next CPU: its local APIC's identifier and
    /// register for the end of an interrupt, its task state and host control block.
    pub(crate) fn new(place: u64, apic_id: u32, eoi: u64, tss: u64, host_vmcb: u64, asids: u32) -> Self {
        let number = COUNT.load(Ordering::Relaxed);
        Self {
            self_pointer: AtomicU64::new(place),
            kernel_rsp: AtomicU64::new(0),
            eoi: AtomicU64::new(eoi),
            tss: AtomicU64::new(tss),
            scratch: AtomicU64::new(0),
            pending: [const { AtomicU64::new(0) }; 4],
            steps: AtomicU64::new(0),
            guest_control: AtomicU64::new(0),
            own_control: AtomicU64::new(0),
            trained: AtomicU32::new(0),
            number,
            apic_id,
            asids: SpinMutex::new(Asids::new(number, asids)),
            host_vmcb,
            armed_ns: AtomicU64::new(u64::MAX),
            stopped_at: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            look_ns: AtomicU64::new(0),
            banks_ns: AtomicU64::new(0),
            gdt: SpinMutex::new([0; 8]),
        }
    }

    /// Where this block is.
    pub(crate) fn place(&self) -> u64 {
        self.self_pointer.load(Ordering::Relaxed)
    }

    /// Where its task state is.
    pub(crate) fn tss(&self) -> u64 {
        self.tss.load(Ordering::Relaxed)
    }

    /// Takes the vectors that have arrived since the last call.
    pub(crate) fn take_pending(&self) -> [u64; 4] {
        let mut found = [0; 4];
        for (target, word) in found.iter_mut().zip(&self.pending) {
            if word.load(Ordering::Relaxed) != 0 {
                *target = word.swap(0, Ordering::Acquire);
            }
        }
        found
    }

    /// As if a vector had arrived: for what this CPU asks of itself.
    pub(crate) fn mark(&self, vector: u8) {
        if let Some(word) = self.pending.get(usize::from(vector >> 6)) {
            word.fetch_or(1 << (vector & 63), Ordering::Relaxed);
        }
    }

    /// Whether any vector has arrived.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }
}

/// Whether a set of vectors has one.
pub(crate) fn has_vector(words: &[u64; 4], vector: u8) -> bool {
    words.get(usize::from(vector >> 6)).is_some_and(|word| word >> (vector & 63) & 1 == 1)
}
