//! From SCSI status to requests.

use super::path::Path;
use super::{BlockError, FlushForm, Mutant, Operation, Shared, mutated, scsi};
use crate::iscsi::scsi::{Sense, Verdict};
use crate::iscsi::tasks::{Probe, Task, TaskKind};
use crate::requests::Fragment;

/// The unit is gone, or never was.
pub(super) const NO_UNIT: &str = "the target has no such logical unit";

/// Attention raised so often in a row is answered with a pause.
const ATTENTIONS_MAX: u32 = 4;

impl Path {
    /// A command's status was received (11.4.1, and Data-In with the S bit).
    pub(super) fn finish_task(&mut self, shared: &mut Shared, tag: u32, status: u8, sense: Option<Sense>) {
        let Some(task) = self.tasks.remove(tag) else { return };
        self.sample(shared.now_ns, task.started_ns);
        let verdict = scsi::judge(status, sense);
        let unsent = task.outward && self.forget_output(task.tag);
        let good = verdict == Verdict::Good && !mutated(Mutant::ShortAnswer);
        if task.outward && good && (unsent || task.moved < task.length) {
            self.reissue(shared, &task);
            return self.fail(shared, "a write was acknowledged before its data was sent");
        }
        match task.kind {
            TaskKind::Fragment(fragment) => self.finish_io(shared, &task, &fragment, verdict),
            TaskKind::Probe(probe) => {
                self.probing = false;
                self.finish_probe(shared, probe, &task, verdict);
            }
            TaskKind::Text => self.fail(shared, "the target answered text with a SCSI status"),
        }
    }

    fn finish_io(&mut self, shared: &mut Shared, task: &Task, fragment: &Fragment, verdict: Verdict) {
        let reading = fragment.operation == Operation::Read;
        let result = match verdict {
            Verdict::Good if reading && task.moved < task.length && !mutated(Mutant::ShortAnswer) => {
                // Good status without all data: the target lost count of itself.
                self.reissue(shared, task);
                return self.fail(shared, "a read came back short");
            }
            Verdict::Good => Ok(()),
            Verdict::Again | Verdict::AgainResized | Verdict::AgainReserved
                if mutated(Mutant::AttentionIsError) =>
            {
                Err(BlockError::Medium)
            }
            Verdict::Again => return self.reissue_after_attention(shared, task),
            Verdict::AgainResized => {
                self.probe = Probe::Capacity;
                return self.reissue_after_attention(shared, task);
            }
            Verdict::AgainReserved => {
                if shared.config.reservation.is_some() {
                    self.probe = Probe::Holder;
                }
                return self.reissue_after_attention(shared, task);
            }
            Verdict::Later(why) => {
                self.reissue(shared, task);
                return self.pause(shared, why);
            }
            Verdict::NoUnit => {
                self.reissue(shared, task);
                return self.pause(shared, NO_UNIT);
            }
            Verdict::OtherPath(why) => {
                self.reissue(shared, task);
                // Probed anew: until it passes, other paths do the work.
                self.probe = Probe::TestUnitReady;
                return self.pause(shared, why);
            }
            Verdict::Reserved if shared.config.reservation.is_some() => {
                self.reissue(shared, task);
                self.probe = Probe::Holder;
                return;
            }
            Verdict::NotImplemented | Verdict::Unsupported
                if try_other_form(shared, task.opcode, fragment.operation) =>
            {
                return self.reissue(shared, task);
            }
            Verdict::NotImplemented | Verdict::Unsupported => Err(BlockError::Unsupported),
            Verdict::OutOfRange => Err(BlockError::OutOfRange),
            Verdict::WriteProtected => {
                shared.unit.write_protected = true;
                Err(BlockError::WriteProtected)
            }
            Verdict::Medium => Err(BlockError::Medium),
            Verdict::Reserved => Err(BlockError::Reserved),
        };
        self.pauses = 0;
        self.count(fragment);
        shared.requests.done(fragment, result);
    }

    /// A command was answered.
    pub(super) fn sample(&mut self, now_ns: u64, started_ns: u64) {
        let sample = now_ns.saturating_sub(started_ns);
        let mean = self.srtt_ns.unwrap_or(sample);
        self.srtt_ns = Some(mean.wrapping_sub(mean / 8).wrapping_add(sample / 8));
        self.latency.record(sample);
    }

    /// A target that raises attention for ever must not spin us.
    fn reissue_after_attention(&mut self, shared: &mut Shared, task: &Task) {
        self.reissue(shared, task);
        self.pauses = self.pauses.saturating_add(1);
        if self.pauses > ATTENTIONS_MAX {
            self.pause(shared, "the target aborts commands again and again");
        }
    }
}

/// Commands come in several forms; targets may know only one. Several may be under
/// way in the form that is refused now: what counts is how this one was sent.
fn try_other_form(shared: &mut Shared, opcode: u8, operation: Operation) -> bool {
    let unit = &mut shared.unit;
    unit.shape = None;
    match opcode {
        0x35 if unit.flush == FlushForm::Ten => unit.flush = FlushForm::Sixteen,
        0x91 if unit.flush == FlushForm::Sixteen => unit.flush = FlushForm::Needless,
        0x35 | 0x91 => {}
        // Zeroes are then written one by one.
        0x93 if operation == Operation::WriteZeroes => unit.write_same = false,
        0x93 => {
            unit.provisioning.write_same = false;
            return false;
        }
        0x42 => {
            unit.provisioning.unmap = false;
            return unit.provisioning.write_same;
        }
        0x88 | 0x8a => {
            unit.ten_byte = true;
            return unit.capacity.is_some_and(|capacity| capacity.blocks <= 1 << 32);
        }
        _ => return false,
    }
    true
}
