//! Task management: commands that get stuck, and fencing off a lost path.
//!
//! Spec: RFC 7143 sections 4.2.3.3 (abort semantics), 11.5 and 11.6 (PDUs).

use alloc::vec::Vec;

use super::in_flight::{Function, Management};
use super::path::Path;
use super::{Mutant, Shared, mutated};
use crate::iscsi::pdu::{FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode};
use crate::iscsi::tasks::{Source, Task, TaskKind};

/// A command that the target does not move on for so long is aborted.
const PROGRESS_NS_MAX: u64 = 30_000_000_000;
/// Without an answer, the next harder measure comes so much later.
const ANSWER_NS_MAX: u64 = 5_000_000_000;
/// How long after a reset of the unit a lost path's commands could still be taken
/// from some queue of the target's.
const FENCE_NS: u64 = 1_500_000_000;
/// The same if the target would not reset the unit.
const FENCE_REFUSED_NS: u64 = 5_000_000_000;

impl Path {
    pub(super) fn is_fencing(&self) -> bool {
        self.management.is_some_and(|management| management.fences)
    }

    /// Makes the target drop what lost paths left behind.
    pub(super) fn fence(&mut self, shared: &mut Shared) {
        self.manage(shared, Function::ResetUnit, true);
    }

    fn manage(&mut self, shared: &mut Shared, function: Function, fences: bool) {
        let tag = self.tasks.other_tag();
        let (code, task) = match function {
            Function::AbortTask(task) => (1, Some(task)),
            Function::ResetUnit => (5, None),
            Function::ResetTarget => (6, None),
        };
        let mut header = Header::new(opcode::MANAGEMENT | IMMEDIATE, FLAG_FINAL | code);
        if function != Function::ResetTarget {
            header.set(8, &shared.config.lun());
        }
        header.set_u32(16, tag);
        header.set_u32(20, task.unwrap_or(NO_TAG));
        header.set_u32(24, self.command_number);
        let number = self.tasks.iter().find(|it| Some(it.tag) == task).map(|it| it.command_number);
        header.set_u32(32, number.unwrap_or(0));
        self.push(shared, header, Source::EMPTY);
        self.calm_until_ns = 0;
        self.management = Some(Management { tag, function, fences, sent_ns: shared.now_ns });
    }

    /// Looks after commands that get stuck.
    pub(super) fn watch_tasks(&mut self, shared: &mut Shared) {
        match self.management {
            Some(management) if shared.now_ns.saturating_sub(management.sent_ns) >= ANSWER_NS_MAX => {
                self.escalate(shared, management);
            }
            None if shared.now_ns >= self.watch_ns => {
                let stuck = |task: &&Task| shared.now_ns.saturating_sub(task.touched_ns) >= PROGRESS_NS_MAX;
                // What is sent from now on is not stuck before this.
                let oldest = self.tasks.iter().map(|task| task.touched_ns).min().unwrap_or(shared.now_ns);
                self.watch_ns = oldest.saturating_add(PROGRESS_NS_MAX);
                let stuck = self.tasks.iter().find(stuck).map(|task| task.tag);
                if let Some(tag) = stuck {
                    self.last_error = Some("a command was not answered and is aborted");
                    shared.last_error = self.last_error;
                    self.manage(shared, Function::AbortTask(tag), false);
                }
            }
            _ => {}
        }
    }

    /// When commands are to be looked after next.
    pub(super) fn watch_deadline(&self) -> u64 {
        self.management.map_or(self.watch_ns, |it| it.sent_ns.saturating_add(ANSWER_NS_MAX))
    }

    /// The next harder measure.
    fn escalate(&mut self, shared: &mut Shared, management: Management) {
        self.management = None;
        if management.fences {
            // Without its help, time has to do.
            shared.requests.fences.release_at(shared.now_ns.saturating_add(FENCE_REFUSED_NS));
            return;
        }
        match management.function {
            Function::AbortTask(_) => self.manage(shared, Function::ResetUnit, false),
            Function::ResetUnit => self.manage(shared, Function::ResetTarget, false),
            Function::ResetTarget => self.fail(shared, "commands are not answered"),
        }
    }

    /// 11.6.
    pub(super) fn management_response(&mut self, shared: &mut Shared, header: &Header) {
        let Some(management) = self.management.take_if(|it| it.tag == header.task_tag()) else {
            return self.fail(shared, "the target answers what was not asked");
        };
        let response = header.u8(2);
        // "Task does not exist" is as good as done: it has no response to come.
        let gone = response == 0 || (response == 1 && matches!(management.function, Function::AbortTask(_)));
        if !gone {
            return self.escalate(shared, management);
        }
        match management.function {
            Function::AbortTask(tag) => self.drop_tasks(shared, |it| it == tag),
            Function::ResetUnit | Function::ResetTarget => {
                self.drop_tasks(shared, |_| true);
                self.has_reset_unit = true;
                shared.unit_was_reset = true;
                shared.requests.fences.release_at(shared.now_ns.saturating_add(FENCE_NS));
            }
        }
    }

    /// Commands that the target has forgotten are issued again.
    fn drop_tasks(&mut self, shared: &mut Shared, gone: impl Fn(u32) -> bool) {
        let tags: Vec<u32> = self.tasks.iter().map(|task| task.tag).filter(|tag| gone(*tag)).collect();
        for tag in tags {
            let Some(task) = self.tasks.remove(tag) else { continue };
            self.forget_output(tag);
            if !mutated(Mutant::ReissueForgotten) || !matches!(task.kind, TaskKind::Fragment(_)) {
                self.reissue(shared, &task);
            }
        }
    }

    /// The target rejected the request itself.
    pub(super) fn management_rejected(&mut self, shared: &mut Shared, tag: u32) -> bool {
        let Some(management) = self.management.take_if(|it| it.tag == tag) else { return false };
        self.escalate(shared, management);
        true
    }
}
