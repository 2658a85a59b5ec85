//! Getting to know the unit, and making sure that it is ours.
//!
//! Spec: SPC-4 sections 5.13 (persistent reservations), 7.8 (vital product data).

use super::outcome::NO_UNIT;
use super::path::Path;
use super::{Mutant, Shared, Stage, mutated, scsi};
use crate::iscsi::scsi::{BlockLimits, Capacity, Provisioning, Reservation, Verdict};
use crate::iscsi::tasks::{Probe, Task};

/// Octets of the longest logical block that guests' kernels, and the node's own state, take:
/// a page.
const BLOCK_BYTES_MAX: u32 = 4_096;

impl Path {
    /// A probe has ended.
    pub(super) fn finish_probe(&mut self, shared: &mut Shared, probe: Probe, task: &Task, verdict: Verdict) {
        shared.unit.shape = None;
        match verdict {
            Verdict::Good => self.learn(shared, probe, task.answer()),
            Verdict::Again | Verdict::AgainResized | Verdict::AgainReserved => {}
            // A target says what it has, and what is there, even so (SPC-4, 6.6.1 and 6.33).
            Verdict::NoUnit if probe == Probe::TestUnitReady => {
                self.missing = true;
                self.probe = Probe::Units;
            }
            Verdict::NoUnit => self.refuse_unit(shared, NO_UNIT),
            Verdict::Later(why) | Verdict::OtherPath(why) => self.refuse(shared, why),
            Verdict::Reserved if matches!(probe, Probe::Reserve | Probe::Preempt) => {
                self.reserved_by_another(shared);
            }
            Verdict::Reserved if probe == Probe::Unregister => self.probe = Probe::Holder,
            // SPC-4, table 66: an unregistered initiator may not ask for everything. What
            // is nice to know is left out, so that the holder is asked for.
            Verdict::Reserved
                if !matches!(
                    probe,
                    Probe::TestUnitReady | Probe::Inquiry | Probe::Capacity | Probe::Holder | Probe::Register
                ) =>
            {
                self.probe = self.after(shared, probe);
            }
            Verdict::Reserved => self.refuse(shared, "the logical unit is reserved by another initiator"),
            Verdict::NotImplemented | Verdict::Unsupported
                if probe == Probe::Capacity && !shared.unit.ten_byte =>
            {
                shared.unit.ten_byte = true;
            }
            Verdict::NotImplemented | Verdict::Unsupported
                if probe == Probe::Preempt && !shared.unit.plain_preempt =>
            {
                // Without its help nothing that the other one has in flight is ended.
                shared.unit.plain_preempt = true;
            }
            _ => match probe {
                Probe::Inquiry if self.missing => self.refuse_unit(shared, NO_UNIT),
                Probe::TestUnitReady | Probe::Inquiry | Probe::Capacity => {
                    self.refuse(shared, "the logical unit answers no probe");
                }
                Probe::Holder | Probe::Register | Probe::Reserve | Probe::Preempt | Probe::Unregister => {
                    shared.unit.holder = Reservation::Unsupported;
                    self.ready(shared);
                }
                // Nice to know, no more.
                _ => self.probe = self.after(shared, probe),
            },
        }
    }

    fn refuse(&mut self, shared: &mut Shared, why: &'static str) {
        self.report_refused(shared, why);
        self.pause(shared, why);
    }

    /// There is no such unit, or it is none to be used: it is looked for anew later.
    fn refuse_unit(&mut self, shared: &mut Shared, why: &'static str) {
        let wrong = shared.unit.peripheral.filter(|it| it.is_there() && !it.is_disk());
        shared.unit.wrong = Some(wrong);
        self.missing = false;
        self.probe = Probe::TestUnitReady;
        self.refuse(shared, why);
    }

    fn learn(&mut self, shared: &mut Shared, probe: Probe, answer: &[u8]) {
        let unit = &mut shared.unit;
        match probe {
            Probe::Units => unit.units = scsi::UnitList::parse(answer),
            Probe::Inquiry => {
                unit.product = scsi::product(answer);
                unit.peripheral = scsi::Peripheral::parse(answer);
                match unit.peripheral {
                    Some(kind) if !kind.is_there() => return self.refuse_unit(shared, NO_UNIT),
                    Some(kind) if !kind.is_disk() => {
                        return self.refuse_unit(shared, "the logical unit is no disk");
                    }
                    _ if self.missing => return self.refuse_unit(shared, NO_UNIT),
                    _ => unit.wrong = None,
                }
            }
            Probe::Pages => {
                let known = [0x80, 0x83, 0xb0, 0xb2];
                self.pages = known.into_iter().filter(|page| scsi::has_page(answer, *page)).collect();
            }
            Probe::Serial => unit.serial = scsi::serial(answer).or(unit.serial.take()),
            Probe::Identity => {
                let found = scsi::identity(answer);
                let other = unit.identity.is_some() && found.is_some() && unit.identity != found;
                if other && !mutated(Mutant::OtherDiskUsed) {
                    return self.refuse(shared, "the path leads to another disk");
                }
                unit.identity = found.or(unit.identity.take());
            }
            Probe::Limits => unit.limits = BlockLimits::parse(answer).unwrap_or_default(),
            Probe::Provisioning => unit.provisioning = Provisioning::parse(answer).unwrap_or_default(),
            Probe::Capacity => {
                let read = if unit.ten_byte { Capacity::parse_10 } else { Capacity::parse_16 };
                let Some(capacity) = read(answer) else {
                    return self.pause(shared, "the target reports an impossible capacity");
                };
                if capacity.block_bytes > BLOCK_BYTES_MAX {
                    return self.refuse(shared, "the disk has blocks of more than 4,096 octets");
                }
                let changed = unit.capacity.is_some_and(|old| old.blocks != capacity.blocks);
                unit.resized = unit.resized.wrapping_add(u32::from(changed));
                unit.capacity = Some(capacity);
            }
            Probe::Mode => unit.write_protected = scsi::is_write_protected(answer),
            Probe::Holder => return self.learn_holder(shared, answer),
            Probe::Unregister => self.give_up_key = None,
            Probe::TestUnitReady | Probe::Register | Probe::Reserve | Probe::Preempt | Probe::Done => {}
        }
        self.probe = self.after(shared, probe);
        if self.probe == Probe::Done {
            self.ready(shared);
        }
    }

    fn learn_holder(&mut self, shared: &mut Shared, answer: &[u8]) {
        let holder = Reservation::parse(answer).unwrap_or_default();
        shared.unit.holder = holder;
        let Some(key) = shared.config.reservation else { return self.ready(shared) };
        match holder {
            // Another initiator's: only an operator's command takes it away.
            Reservation::Held(other) if other != key && shared.config.preempt != Some(other) => {
                self.reserved_by_another(shared);
            }
            _ => self.probe = Probe::Register,
        }
    }

    fn reserved_by_another(&mut self, shared: &mut Shared) {
        self.probe = Probe::Holder;
        self.refuse(shared, "another node holds the reservation of this disk");
    }

    /// What follows a probe.
    fn after(&self, shared: &Shared, probe: Probe) -> Probe {
        let next = match probe {
            Probe::TestUnitReady => Probe::Units,
            Probe::Units => Probe::Inquiry,
            Probe::Inquiry => Probe::Pages,
            Probe::Pages => Probe::Serial,
            Probe::Serial => Probe::Identity,
            Probe::Identity => Probe::Limits,
            Probe::Limits => Probe::Provisioning,
            Probe::Provisioning => Probe::Capacity,
            Probe::Capacity => Probe::Mode,
            Probe::Mode => Probe::Holder,
            Probe::Register => match (shared.unit.holder, shared.config.preempt) {
                (Reservation::Held(holder), Some(preempt)) if holder == preempt => Probe::Preempt,
                (Reservation::Held(_), _) => Probe::Done,
                _ => Probe::Reserve,
            },
            // Whether it is ours now is asked once more.
            Probe::Unregister => Probe::Holder,
            Probe::Holder | Probe::Reserve | Probe::Preempt | Probe::Done => Probe::Done,
        };
        let page = match next {
            Probe::Serial => Some(0x80),
            Probe::Identity => Some(0x83),
            Probe::Limits => Some(0xb0),
            Probe::Provisioning => Some(0xb2),
            _ => None,
        };
        match page {
            Some(page) if !self.pages.contains(&page) => self.after(shared, next),
            _ => next,
        }
    }

    fn ready(&mut self, shared: &mut Shared) {
        self.probe = Probe::Done;
        self.stage = Stage::Ready;
        self.refused = false;
        self.failures = 0;
        self.pauses = 0;
        self.redirects = 0;
        if let Some(since_ns) = self.lost_since_ns.take() {
            let after_ms = shared.now_ns.saturating_sub(since_ns) / 1_000_000;
            let portal = self.redirect.unwrap_or(self.portal);
            shared.say(log::Level::Info, format_args!("path {portal} is back after {after_ms} ms"));
        }
        if let (Some(key), false) =
            (shared.config.reservation, shared.unit.holder == Reservation::Unsupported)
        {
            shared.unit.holder = Reservation::Held(key);
        }
        shared.served = true;
    }
}
