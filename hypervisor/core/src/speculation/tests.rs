//! A fake CPU's trace, for processors as they answer CPUID.

extern crate std;
use super::{IBRS, PSFD, Plan, Processor, SSBD, STEP_BARRIER, STEP_CLEAR, STEP_SWAP, STIBP, thread_bits};
use hv_x86::cpuid::Leaf;
use std::vec::Vec;

/// One thing done to the processor.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Set(u32, u64),
    Write(u32, u64),
    Clear,
    Divide,
}

impl Processor for Vec<Done> {
    fn set(&mut self, msr: u32, bits: u64) {
        self.push(Done::Set(msr, bits));
    }
    fn write(&mut self, msr: u32, value: u64) {
        self.push(Done::Write(msr, value));
    }
    fn clear_buffers(&mut self) {
        self.push(Done::Clear);
    }
    fn divide(&mut self) {
        self.push(Done::Divide);
    }
}

/// A processor by leaf 1 EAX and ECX, 0x8000_0008 EBX, 0x8000_0021 EAX and ECX.
fn processor(signature: u32, ecx: u32, old: u32, new: u32, new_ecx: u32) -> impl Fn(u32, u32) -> Leaf {
    move |function, _| match function {
        1 => Leaf { eax: signature, ecx, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_0021, ..Leaf::default() },
        0x8000_0008 => Leaf { ebx: old, ..Leaf::default() },
        0x8000_0021 => Leaf { eax: new, ecx: new_ecx, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

/// IBPB, IBRS, STIBP, SSBD.
const FIRST: u32 = 1 << 12 | 1 << 14 | 1 << 15 | 1 << 24;

fn zen1() -> impl Fn(u32, u32) -> Leaf {
    processor(0x0080_0f12, 0, FIRST, 0, 0)
}

fn zen2() -> impl Fn(u32, u32) -> Leaf {
    processor(0x0083_0f10, 0, FIRST, 1 << 2, 0)
}

fn zen3() -> impl Fn(u32, u32) -> Leaf {
    processor(0x00a0_0f11, 0, FIRST | 1 << 28 | 1 << 29, 1 << 2 | 1 << 5, 0)
}

fn zen4() -> impl Fn(u32, u32) -> Leaf {
    processor(0x00a1_0f11, 0, FIRST | 1 << 28 | 1 << 29, 1 << 2 | 1 << 5 | 1 << 8 | 1 << 27, 0)
}

fn zen5() -> impl Fn(u32, u32) -> Leaf {
    processor(0x00b0_0f21, 0, FIRST | 1 << 28 | 1 << 29, 1 << 2 | 1 << 8 | 1 << 29 | 1 << 31, 6)
}

fn set_up(host: &impl Fn(u32, u32) -> Leaf, threads: bool) -> Vec<Done> {
    let mut trace = Vec::new();
    Plan::new(host, threads).set_up(&mut trace);
    trace
}

#[test]
fn each_generation_is_set_up() {
    let control = |value| Done::Write(0x48, value);
    assert_eq!(set_up(&zen1(), false), [Done::Set(0xc001_1029, 1 << 1), control(IBRS)]);
    let chicken = [Done::Set(0xc001_1029, 1 << 9), Done::Set(0xc001_10e3, 1 << 1), control(IBRS)];
    assert_eq!(set_up(&zen2(), false), chicken);
    assert_eq!(set_up(&zen3(), true), [control(IBRS | STIBP)]);
    assert_eq!(set_up(&zen4(), false), [Done::Set(0xc000_0080, 1 << 21), control(0)]);
    let reduced = [Done::Set(0xc001_102e, 1 << 4), Done::Set(0xc000_0080, 1 << 21), control(STIBP)];
    assert_eq!(set_up(&zen5(), true), reduced);
}

#[test]
fn under_another_hypervisor_only_what_cpuid_names_is_written() {
    let nested = processor(0x0083_0f10, 1 << 31, 1 << 12, 0, 0);
    assert_eq!(set_up(&nested, false), []);
    assert!(!Plan::new(&nested, false).lfence, "guests are promised no more than there is");
    // As the emulator answers: nothing.
    assert_eq!(set_up(&processor(0x0000_0663, 1 << 31, 0, 0, 0), true), []);
    assert_eq!(Plan::new(&|_, _| Leaf::default(), true), Plan::default());
}

#[test]
fn a_barrier_stands_between_guests_and_before_dom0() {
    let plan = Plan::new(&zen4(), false);
    let (mut trained, mut trace) = (0, Vec::new());
    let barrier = || Done::Write(0x49, 1);
    plan.before_guest(&mut trained, 7, &mut trace);
    plan.before_guest(&mut trained, 7, &mut trace);
    assert_eq!(trace, [], "the first guest, and the same one again");
    plan.before_guest(&mut trained, 9, &mut trace);
    assert_eq!(trace, [barrier()]);
    plan.before_dom0(&mut trained, &mut trace);
    assert_eq!(trace[1..], [barrier(), Done::Clear]);
    plan.before_dom0(&mut trained, &mut trace);
    plan.before_guest(&mut trained, 9, &mut trace);
    assert_eq!(trace.len(), 3, "no guest ran since, and dom0 is no attacker");
    plan.before_dom0(&mut trained, &mut trace);
    assert_eq!(trace[3..], [barrier(), Done::Clear]);
}

#[test]
fn the_first_zen_divides_between_contexts() {
    let plan = Plan::new(&zen1(), false);
    let (mut trained, mut trace) = (3, Vec::new());
    plan.before_guest(&mut trained, 4, &mut trace);
    plan.before_dom0(&mut trained, &mut trace);
    let barrier = || Done::Write(0x49, 1);
    assert_eq!(trace, [barrier(), Done::Divide, barrier(), Done::Divide]);
}

#[test]
fn steps_of_each_exit() {
    let steps = |host: &dyn Fn(u32, u32) -> Leaf, guest| Plan::new(host, false).steps(guest);
    // Ring 0 runs under IBRS where the processor does not see to it itself.
    assert_eq!(steps(&zen1(), 0), STEP_SWAP | STEP_BARRIER);
    assert_eq!(steps(&zen2(), IBRS), STEP_BARRIER);
    assert_eq!(steps(&zen3(), 0), STEP_SWAP | STEP_BARRIER | STEP_CLEAR);
    assert_eq!(steps(&zen4(), 0), STEP_BARRIER | STEP_CLEAR);
    assert_eq!(steps(&zen4(), SSBD), STEP_SWAP | STEP_BARRIER | STEP_CLEAR);
    assert_eq!(steps(&zen5(), 0), 0);
    assert_eq!(steps(&|_, _| Leaf::default(), 0), 0);
}

#[test]
fn guests_may_write_what_they_are_told_of() {
    let plan = Plan::new(&zen1(), false);
    assert_eq!((plan.guest_control, plan.guest_command), (IBRS | STIBP | SSBD, 1));
    let with_threads = Plan::new(&zen4(), true);
    assert_eq!((plan.forced_control, with_threads.forced_control), (0, STIBP));
    let plan = Plan::new(&zen4(), false);
    assert_eq!((plan.guest_control, plan.guest_command), (IBRS | STIBP | SSBD | PSFD, 0x81));
    assert_eq!(Plan::new(&|_, _| Leaf::default(), false).guest_command, 0);
}

#[test]
fn a_processor_without_a_barrier_is_told_apart() {
    for host in [&zen1() as &dyn Fn(u32, u32) -> Leaf, &zen2(), &zen3(), &zen4(), &zen5()] {
        assert!(Plan::new(host, false).forgets_branches());
    }
    // IBPB alone, IBRS alone, STIBP alone, nothing.
    for (old, forgets) in [(1 << 12, true), (1 << 14, false), (1 << 15, false), (0, false)] {
        let plan = Plan::new(&processor(0x0080_0f12, 0, old, 0, 0), false);
        assert_eq!(plan.forgets_branches(), forgets, "{old:#x}");
    }
}

#[test]
fn threads_of_a_core() {
    let by_leaf_b = |function: u32, _: u32| match function {
        0 => Leaf { eax: 0xd, ..Leaf::default() },
        0xb => Leaf { eax: 1, ebx: 2, ..Leaf::default() },
        _ => Leaf::default(),
    };
    assert_eq!(thread_bits(&by_leaf_b), 1);
    let by_amd = |function: u32, _: u32| match function {
        0x8000_0000 => Leaf { eax: 0x8000_001f, ..Leaf::default() },
        0x8000_0001 => Leaf { ecx: 1 << 22, ..Leaf::default() },
        0x8000_001e => Leaf { ebx: 0x0103, ..Leaf::default() },
        _ => Leaf::default(),
    };
    assert_eq!(thread_bits(&by_amd), 1);
    assert_eq!(thread_bits(&|_, _| Leaf::default()), 0);
}
