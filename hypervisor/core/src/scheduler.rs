//! Which vCPU runs next: fair by weight, capped by share.
//!
//! Every vCPU has a virtual time that advances by real time over weight; the one
//! furthest behind runs next. A vCPU that wakes is brought up to near the others,
//! so sleeping earns no credit beyond one slice. A cap is a budget refilled each
//! period; a vCPU over budget waits for the refill.

/// How long a vCPU runs before another that waits gets its turn.
pub const SLICE_NS: u64 = 5_000_000;
/// How long a vCPU runs before it is charged for that, though no other waits: one that
/// ran alone must not pay for a long turn all at once when others wake.
const ALONE_NS: u64 = 4 * SLICE_NS;
/// How far a woken vCPU must be behind a running one to preempt it.
const WAKE_GRANULARITY_NS: u64 = 1_000_000;
/// Period over which caps are enforced.
const CAP_PERIOD_NS: u64 = 30_000_000;
/// The weight at which virtual and real time run alike.
const BASE_WEIGHT: u64 = 256;

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The slot is not used.
    Free,
    /// May not run: not started, paused, stopped.
    Stopped,
    /// Waits for an interrupt or an answer.
    Blocked,
    /// Wants to run.
    Runnable,
    /// Runs on a CPU.
    Running(u32),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    weight: u32,
    /// Nanoseconds a period; zero is no cap.
    budget_ns: u64,
    used_ns: u64,
    period_start_ns: u64,
    virtual_ns: u64,
    started_ns: u64,
    total_ns: u64,
    last_cpu: u32,
    timer_ns: u64,
    /// It was picked when no other vCPU waited, for a long turn.
    alone: bool,
}

/// All zeroes, so that a table of them takes no room in the image.
const FREE: Entry = Entry {
    state: State::Free,
    weight: 0,
    budget_ns: 0,
    used_ns: 0,
    period_start_ns: 0,
    virtual_ns: 0,
    started_ns: 0,
    total_ns: 0,
    last_cpu: 0,
    timer_ns: 0,
    alone: false,
};

/// The run queue of the node, for up to `N` vCPUs.
#[derive(Debug)]
pub struct Scheduler<const N: usize> {
    entries: [Entry; N],
    /// One past the highest slot in use.
    end: usize,
    /// CPUs with nothing to do, one bit each.
    idle: u64,
    /// CPUs that run no vCPU, one bit each.
    dedicated: u64,
    minimum_ns: u64,
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Run this vCPU until the time given, unless something happens.
    Run(usize, u64),
    /// Nothing to run; look again at the time given.
    Idle(u64),
}

impl<const N: usize> Scheduler<N> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: [FREE; N], end: 0, idle: 0, dedicated: 0, minimum_ns: 0 }
    }

    fn entry(&mut self, slot: usize) -> Option<&mut Entry> {
        self.entries.get_mut(slot).filter(|entry| entry.state != State::Free)
    }

    /// Dedicates a CPU (no vCPU runs there) from its next [`Self::pick`] on, or shares it again.
    pub const fn dedicate(&mut self, cpu: u32, dedicated: bool) {
        let bit = 1 << (cpu & 63);
        if dedicated {
            self.dedicated |= bit;
            self.idle &= !bit;
        } else {
            self.dedicated &= !bit;
        }
    }

    fn used(&self) -> &[Entry] {
        self.entries.get(..self.end).unwrap_or(&[])
    }

    /// Adds a stopped vCPU; `cap_percent` is its own share of one CPU.
    pub fn add(&mut self, slot: usize, weight: u32, cap_percent: u32) {
        if let Some(entry) = self.entries.get_mut(slot) {
            *entry = Entry { state: State::Stopped, timer_ns: u64::MAX, ..FREE };
            self.end = self.end.max(slot + 1);
            self.set_parameters(slot, weight, cap_percent);
        }
    }

    /// Changes weight and cap.
    pub fn set_parameters(&mut self, slot: usize, weight: u32, cap_percent: u32) {
        if let Some(entry) = self.entry(slot) {
            entry.weight = weight.clamp(1, 65_535);
            entry.budget_ns = CAP_PERIOD_NS * u64::from(cap_percent) / 100;
        }
    }

    /// Forgets a vCPU.
    pub fn remove(&mut self, slot: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            *entry = FREE;
        }
        while self.end > 0 && self.entries.get(self.end - 1).is_some_and(|entry| entry.state == State::Free) {
            self.end -= 1;
        }
    }

    /// What a vCPU is doing.
    #[must_use]
    pub fn state(&self, slot: usize) -> State {
        self.entries.get(slot).map_or(State::Free, |entry| entry.state)
    }

    /// CPU time used until now.
    #[must_use]
    pub fn total_ns(&self, slot: usize, now_ns: u64) -> u64 {
        self.entries.get(slot).map_or(0, |entry| match entry.state {
            State::Running(_) => entry.total_ns + now_ns.saturating_sub(entry.started_ns),
            _ => entry.total_ns,
        })
    }

    /// The cpu on which a vCPU runs is in guest mode or about to leave it.
    #[must_use]
    pub fn running_on(&self, slot: usize) -> Option<u32> {
        match self.state(slot) {
            State::Running(cpu) => Some(cpu),
            _ => None,
        }
    }

    /// Makes a vCPU runnable; returns the CPU to kick, if any should look again.
    pub fn wake(&mut self, slot: usize) -> Option<u32> {
        let minimum = self.minimum_ns;
        let entry = self.entry(slot)?;
        if !matches!(entry.state, State::Blocked | State::Stopped) {
            return None;
        }
        entry.state = State::Runnable;
        entry.timer_ns = u64::MAX;
        entry.virtual_ns = entry.virtual_ns.max(minimum.saturating_sub(SLICE_NS));
        let (virtual_ns, last) = (entry.virtual_ns, entry.last_cpu);
        self.cpu_for(virtual_ns, last)
    }

    /// An idle CPU, else one whose vCPU is far enough ahead, else one whose vCPU has a
    /// long turn: it may wait for the very one that has just woken.
    fn cpu_for(&mut self, virtual_ns: u64, last: u32) -> Option<u32> {
        if self.idle != 0 {
            let cpu = if self.idle >> last & 1 == 1 { last } else { 63 - self.idle.leading_zeros() };
            self.idle &= !(1 << cpu);
            return Some(cpu);
        }
        let ahead = self.used().iter().filter_map(|entry| match entry.state {
            State::Running(cpu) => Some((entry.virtual_ns, cpu)),
            _ => None,
        });
        let (most, cpu) = ahead.max()?;
        if most > virtual_ns + WAKE_GRANULARITY_NS {
            return Some(cpu);
        }
        let end = self.end;
        self.entries.iter_mut().take(end).find_map(|entry| match entry.state {
            State::Running(cpu) if core::mem::take(&mut entry.alone) => Some(cpu),
            _ => None,
        })
    }

    /// Takes a vCPU off its CPU, charging the time since it was picked.
    pub fn leave(&mut self, slot: usize, now_ns: u64, next: State) {
        let Some(entry) = self.entry(slot) else { return };
        if let State::Running(cpu) = entry.state {
            let ran = now_ns.saturating_sub(entry.started_ns);
            entry.total_ns += ran;
            entry.used_ns += ran;
            entry.virtual_ns += ran * BASE_WEIGHT / u64::from(entry.weight);
            entry.last_cpu = cpu;
        }
        entry.state = next;
    }

    /// Records when a blocked vCPU's timer fires.
    pub fn set_timer(&mut self, slot: usize, deadline_ns: u64) {
        if let Some(entry) = self.entry(slot) {
            entry.timer_ns = deadline_ns;
        }
    }

    /// Stops a vCPU wherever it is; the CPU to kick if it was running, which then
    /// calls [`Self::leave`] by itself.
    pub fn stop(&mut self, slot: usize) -> Option<u32> {
        let entry = self.entry(slot)?;
        if let State::Running(cpu) = entry.state {
            return Some(cpu);
        }
        entry.state = State::Stopped;
        None
    }

    /// Chooses what `cpu` runs at `now_ns`, waking those whose timers have fired.
    pub fn pick(&mut self, cpu: u32, now_ns: u64) -> Pick {
        if self.dedicated >> (cpu & 63) & 1 == 1 {
            return Pick::Idle(u64::MAX);
        }
        let mut look_again = u64::MAX;
        let mut best: Option<(u64, usize)> = None;
        let mut waiting = 0;
        let minimum = self.minimum_ns;
        let used = self.end;
        for (slot, entry) in self.entries.iter_mut().take(used).enumerate() {
            if entry.state == State::Blocked && entry.timer_ns <= now_ns {
                entry.state = State::Runnable;
                entry.timer_ns = u64::MAX;
                entry.virtual_ns = entry.virtual_ns.max(minimum.saturating_sub(SLICE_NS));
            }
            if entry.state == State::Blocked {
                look_again = look_again.min(entry.timer_ns);
            }
            if entry.state != State::Runnable {
                continue;
            }
            if entry.budget_ns != 0 {
                if now_ns >= entry.period_start_ns + CAP_PERIOD_NS {
                    entry.period_start_ns = now_ns;
                    // What was overdrawn is paid back, so the share holds on average.
                    entry.used_ns = entry.used_ns.saturating_sub(entry.budget_ns);
                }
                if entry.used_ns >= entry.budget_ns {
                    look_again = look_again.min(entry.period_start_ns + CAP_PERIOD_NS);
                    continue;
                }
            }
            waiting += 1;
            let key = (entry.virtual_ns, slot);
            best = Some(best.map_or(key, |other| other.min(key)));
        }
        let Some((virtual_ns, slot)) = best else {
            self.idle |= 1 << cpu;
            return Pick::Idle(look_again);
        };
        self.idle &= !(1 << cpu);
        self.minimum_ns = self.minimum_ns.max(virtual_ns);
        let mut until = look_again;
        if let Some(entry) = self.entries.get_mut(slot) {
            entry.state = State::Running(cpu);
            entry.started_ns = now_ns;
            entry.alone = waiting == 1;
            if entry.budget_ns != 0 {
                until = until.min(now_ns + (entry.budget_ns - entry.used_ns));
            }
        }
        until = until.min(now_ns + if waiting > 1 { SLICE_NS } else { ALONE_NS });
        Pick::Run(slot, until)
    }

    /// Whether some vCPU waits for a CPU.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.used().iter().any(|entry| entry.state == State::Runnable)
    }

    /// An idle CPU for a vCPU that has just become runnable elsewhere.
    pub const fn take_idle(&mut self) -> Option<u32> {
        if self.idle == 0 {
            return None;
        }
        let cpu = 63 - self.idle.leading_zeros();
        self.idle &= !(1 << cpu);
        Some(cpu)
    }
}

impl<const N: usize> Default for Scheduler<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{ALONE_NS, Pick, SLICE_NS, Scheduler, State};
    use std::vec::Vec;

    /// Runs `cpus` CPUs for `total_ns` with vCPUs that never sleep; returns the
    /// time each got.
    fn spin(specs: &[(u32, u32)], cpus: u32, total_ns: u64) -> Vec<u64> {
        let mut scheduler = Scheduler::<16>::new();
        for (slot, (weight, cap)) in specs.iter().enumerate() {
            scheduler.add(slot, *weight, *cap);
            scheduler.wake(slot);
        }
        let mut next: Vec<(u64, u32, Option<usize>)> = (0..cpus).map(|cpu| (0, cpu, None)).collect();
        loop {
            next.sort_unstable();
            let (now, cpu, running) = next[0];
            if now >= total_ns {
                break;
            }
            if let Some(slot) = running {
                scheduler.leave(slot, now, State::Runnable);
            }
            next[0] = match scheduler.pick(cpu, now) {
                Pick::Run(slot, until) => (until.min(now + SLICE_NS), cpu, Some(slot)),
                Pick::Idle(until) => (until.min(now + 1_000_000), cpu, None),
            };
        }
        (0..specs.len()).map(|slot| scheduler.total_ns(slot, total_ns)).collect()
    }

    fn share(part: u64, total: u64) -> f64 {
        part as f64 / total as f64
    }

    #[test]
    fn equal_weights_share_equally() {
        let total = 3_000_000_000;
        for got in spin(&[(256, 0); 5], 2, total) {
            assert!((share(got, total) - 0.4).abs() < 0.01, "{got}");
        }
    }

    #[test]
    fn a_vcpu_that_ran_alone_does_not_starve() {
        const LATER: u64 = 30_000_000_000;
        const SPAN: u64 = 1_000_000_000;
        let mut scheduler = Scheduler::<4>::new();
        for slot in 0..3 {
            scheduler.add(slot, 256, 0);
        }
        scheduler.wake(0);
        let mut cpus: Vec<(u64, u32, Option<usize>)> = Vec::from([(0, 0, None), (0, 1, None)]);
        let mut before = None;
        while cpus[0].0 < LATER + SPAN {
            let (now, cpu, running) = cpus[0];
            if now >= LATER && before.is_none() {
                before = Some(scheduler.total_ns(0, now));
                for slot in 1..3 {
                    if let Some(kicked) = scheduler.wake(slot) {
                        cpus.iter_mut().filter(|it| it.1 == kicked).for_each(|it| it.0 = now);
                    }
                }
            }
            if let Some(slot) = running {
                scheduler.leave(slot, now, State::Runnable);
            }
            cpus[0] = match scheduler.pick(cpu, now) {
                // All notice when the others wake.
                Pick::Run(slot, until) if now < LATER => (until.min(LATER), cpu, Some(slot)),
                Pick::Run(slot, until) => (until, cpu, Some(slot)),
                Pick::Idle(until) => (until.min(now + 1_000_000), cpu, None),
            };
            cpus.sort_unstable();
        }
        let got = scheduler.total_ns(0, LATER + SPAN) - before.unwrap();
        assert!((share(got, SPAN) - 2.0 / 3.0).abs() < 0.1, "{got}");
    }

    #[test]
    fn weights_are_shares() {
        let total = 7_000_000_000;
        let got = spin(&[(256, 0), (512, 0), (1024, 0)], 1, total);
        for (time, wanted) in got.iter().zip([1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]) {
            assert!((share(*time, total) - wanted).abs() < 0.01, "{time}");
        }
    }

    #[test]
    fn a_cap_holds_on_an_idle_machine() {
        let total = 10_000_000_000;
        let got = spin(&[(256, 10), (256, 50)], 2, total);
        assert!((share(got[0], total) - 0.10).abs() < 0.01, "{got:?}");
        assert!((share(got[1], total) - 0.50).abs() < 0.01, "{got:?}");
    }

    #[test]
    fn wake_prefers_an_idle_cpu_and_preempts_a_hog() {
        let mut scheduler = Scheduler::<4>::new();
        scheduler.add(0, 256, 0);
        scheduler.add(1, 256, 0);
        assert_eq!(scheduler.pick(0, 0), Pick::Idle(u64::MAX));
        assert_eq!(scheduler.wake(0), Some(0));
        assert_eq!(scheduler.wake(0), None, "already runnable");
        assert_eq!(scheduler.pick(0, 0), Pick::Run(0, ALONE_NS));
        scheduler.leave(0, 50_000_000, State::Runnable);
        assert!(matches!(scheduler.pick(0, 50_000_000), Pick::Run(0, _)));
        assert_eq!(scheduler.wake(1), Some(0), "far behind: preempts");
        scheduler.leave(0, 50_000_001, State::Runnable);
        assert!(matches!(scheduler.pick(0, 50_000_001), Pick::Run(1, _)));
    }

    #[test]
    fn a_waking_vcpu_gets_its_turn() {
        let mut scheduler = Scheduler::<4>::new();
        scheduler.add(0, 256, 0);
        scheduler.add(1, 256, 0);
        scheduler.wake(0);
        scheduler.wake(1);
        assert!(matches!(scheduler.pick(0, 0), Pick::Run(0, _)));
        scheduler.leave(0, 3_000_000, State::Runnable);
        assert!(matches!(scheduler.pick(0, 3_000_000), Pick::Run(1, _)));
        scheduler.leave(1, 6_000_100, State::Blocked);
        assert_eq!(scheduler.pick(0, 6_000_100), Pick::Run(0, 6_000_100 + ALONE_NS));
        assert_eq!(
            scheduler.wake(1),
            Some(0),
            "it is not behind, but nothing would ever end the other's turn"
        );
        scheduler.leave(0, 6_000_300, State::Runnable);
        assert_eq!(scheduler.pick(0, 6_000_300), Pick::Run(1, 6_000_300 + SLICE_NS));
        assert_eq!(scheduler.wake(1), None);
    }

    #[test]
    fn a_dedicated_cpu_runs_no_vcpu() {
        let mut scheduler = Scheduler::<4>::new();
        scheduler.add(0, 256, 0);
        assert_eq!(scheduler.pick(0, 0), Pick::Idle(u64::MAX));
        scheduler.dedicate(0, true);
        assert_eq!(scheduler.pick(0, 0), Pick::Idle(u64::MAX));
        assert_eq!(scheduler.pick(1, 0), Pick::Idle(u64::MAX));
        assert_eq!(scheduler.wake(0), Some(1));
        assert_eq!(scheduler.pick(0, 0), Pick::Idle(u64::MAX));
        assert_eq!(scheduler.take_idle(), None);
        assert!(matches!(scheduler.pick(1, 0), Pick::Run(0, _)));
        scheduler.leave(0, 10, State::Runnable);
        scheduler.dedicate(0, false);
        assert!(matches!(scheduler.pick(0, 10), Pick::Run(0, _)));
    }

    #[test]
    fn timers_wake_and_bound_the_slice() {
        let mut scheduler = Scheduler::<4>::new();
        for slot in 0..2 {
            scheduler.add(slot, 256, 0);
            scheduler.wake(slot);
        }
        assert!(matches!(scheduler.pick(0, 0), Pick::Run(0, _)));
        scheduler.leave(0, 10, State::Blocked);
        scheduler.set_timer(0, 1000);
        assert_eq!(scheduler.pick(0, 10), Pick::Run(1, 1000));
        scheduler.leave(1, 1000, State::Runnable);
        assert!(matches!(scheduler.pick(0, 1000), Pick::Run(0, _)));
        assert_eq!(scheduler.state(1), State::Runnable);
    }

    #[test]
    fn stopping_waits_for_the_cpu() {
        let mut scheduler = Scheduler::<4>::new();
        scheduler.add(0, 256, 0);
        scheduler.wake(0);
        assert!(matches!(scheduler.pick(3, 0), Pick::Run(0, _)));
        assert_eq!(scheduler.stop(0), Some(3));
        scheduler.leave(0, 5, State::Stopped);
        assert_eq!(scheduler.state(0), State::Stopped);
        assert_eq!(scheduler.pick(3, 5), Pick::Idle(u64::MAX));
    }
}
