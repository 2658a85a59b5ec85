//! Commands in flight, each found by its tag.

use alloc::vec::Vec;

use super::{Task, TaskKind};
use crate::block::Operation;
use crate::iscsi::pdu::NO_TAG;
use crate::iscsi::scsi::{READ_16, WRITE_16};
use crate::limits::ISCSI_COMMANDS_MAX;
use crate::request_queue::Entry;

/// The lowest octet of a tag that is no command's.
const ELSEWHERE: u8 = 0xfe;
/// No index.
pub(super) const NO_INDEX: u8 = 0xff;

/// Commands in flight. The lowest octet of a tag is its command's index, the others
/// count; so no tag is like that of another command in flight, nor [`NO_TAG`].
#[derive(Debug)]
pub(in crate::iscsi) struct Tasks {
    /// In no order; those with no tag are free.
    slots: Vec<Task>,
    /// The first free one, which are a list.
    free: u8,
    used: usize,
    serial: u32,
}

impl Tasks {
    pub(in crate::iscsi) const fn new(serial: u32) -> Self {
        Self { slots: Vec::new(), free: NO_INDEX, used: 0, serial }
    }

    pub(in crate::iscsi) const fn len(&self) -> usize {
        self.used
    }

    pub(in crate::iscsi) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    const fn tag(&mut self, index: u8) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        (self.serial << 8) | index as u32
    }

    /// A tag for something that is no command.
    pub(in crate::iscsi) const fn other_tag(&mut self) -> u32 {
        self.tag(ELSEWHERE)
    }

    /// A free slot and its next tag: no more than [`ISCSI_COMMANDS_MAX`] are there.
    #[inline(always)]
    fn claim(&mut self) -> Option<&mut Task> {
        if self.free == NO_INDEX {
            self.grow();
        }
        let tag = self.tag(self.free);
        let task = self.slots.get_mut(usize::from(self.free))?;
        self.used = self.used.wrapping_add(1);
        self.free = core::mem::replace(&mut task.after, NO_INDEX);
        task.tag = tag;
        Some(task)
    }

    #[cold]
    fn grow(&mut self) {
        self.free = u8::try_from(self.slots.len()).unwrap_or(ELSEWHERE);
        if self.slots.len() <= ISCSI_COMMANDS_MAX {
            self.slots.push(Task::FREE);
        }
    }

    /// Ends the command with a tag, which is there.
    #[inline(always)]
    pub(in crate::iscsi) fn end(&mut self, tag: u32) {
        let [index, ..] = tag.to_le_bytes();
        let Some(task) = self.slots.get_mut(usize::from(index)) else { return };
        task.tag = NO_TAG;
        task.after = core::mem::replace(&mut self.free, index);
        self.used = self.used.wrapping_sub(1);
    }

    /// Takes a command in; it is given its tag. No more than [`ISCSI_COMMANDS_MAX`].
    pub(in crate::iscsi) fn add(&mut self, task: Task) -> u32 {
        let Some(slot) = self.claim() else { return NO_TAG };
        *slot = Task { tag: slot.tag, ..task };
        slot.tag
    }

    /// The same for READ(16) or WRITE(16) of all of a request, whose data goes with it.
    #[inline(always)]
    pub(in crate::iscsi) fn add_transfer(
        &mut self,
        entry: &Entry,
        length: u32,
        command_number: u32,
        now_ns: u64,
    ) -> u32 {
        let outward = entry.request.operation == Operation::Write;
        // Filled in place: this is done for each request.
        let Some(task) = self.claim() else { return NO_TAG };
        task.kind = TaskKind::Fragment(entry.whole());
        task.opcode = if outward { WRITE_16 } else { READ_16 };
        task.outward = outward;
        task.command_number = command_number;
        task.length = length;
        task.moved = if outward { length } else { 0 };
        task.data_number = 0;
        task.r2t_number = 0;
        task.started_ns = now_ns;
        task.touched_ns = now_ns;
        task.tag
    }

    /// The command with a tag.
    #[inline]
    pub(in crate::iscsi) fn find(&mut self, tag: u32) -> Option<&mut Task> {
        let [index, ..] = tag.to_le_bytes();
        self.slots.get_mut(usize::from(index)).filter(|task| task.tag == tag && tag != NO_TAG)
    }

    /// The same, to read it.
    #[inline]
    pub(in crate::iscsi) fn get(&self, tag: u32) -> Option<&Task> {
        let [index, ..] = tag.to_le_bytes();
        self.slots.get(usize::from(index)).filter(|task| task.tag == tag && tag != NO_TAG)
    }

    /// Takes the command with a tag out.
    pub(in crate::iscsi) fn remove(&mut self, tag: u32) -> Option<Task> {
        let task = self.find(tag)?;
        let found = Task { own: task.own.take(), ..*task };
        self.end(tag);
        Some(found)
    }

    pub(in crate::iscsi) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.slots.iter().filter(|task| task.tag != NO_TAG)
    }

    /// Takes all of them out, the oldest first.
    pub(in crate::iscsi) fn take_all(&mut self) -> Vec<Task> {
        (self.free, self.used) = (NO_INDEX, 0);
        let mut all: Vec<Task> = self.slots.drain(..).filter(|task| task.tag != NO_TAG).collect();
        let serial = self.serial << 8;
        all.sort_by_key(|task| core::cmp::Reverse(serial.wrapping_sub(task.tag & !0xff)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::tasks::TaskKind;

    fn task(number: u32) -> Task {
        Task {
            tag: NO_TAG,
            kind: TaskKind::Text,
            opcode: 0,
            outward: false,
            command_number: number,
            length: 0,
            moved: 0,
            data_number: 0,
            r2t_number: 0,
            started_ns: 0,
            touched_ns: 0,
            after: NO_INDEX,
            own: None,
        }
    }

    #[test]
    fn places_are_used_again_and_tags_are_not() {
        // The count wraps on the way.
        let mut tasks = Tasks::new(0x00ff_fff0);
        let mut tags: Vec<u32> = (0..40).map(|number| tasks.add(task(number))).collect();
        let other = tasks.other_tag();
        assert!(tasks.find(other).is_none() && tasks.find(NO_TAG).is_none());
        for number in 40..200 {
            let gone = tags.remove(usize::try_from(number).unwrap() % 40);
            assert!(tasks.remove(gone).is_some() && tasks.remove(gone).is_none());
            assert!(tasks.find(gone).is_none());
            let tag = tasks.add(task(number));
            assert!(!tags.contains(&tag) && tag != gone && tag != other);
            assert_eq!(tasks.find(tag).unwrap().command_number, number);
            tags.push(tag);
        }
        assert_eq!((tasks.len(), tasks.iter().count()), (40, 40));
        tags.into_iter().for_each(|tag| tasks.end(tag));
        assert!(tasks.is_empty() && tasks.iter().count() == 0);
        (200..240).for_each(|number| _ = tasks.add(task(number)));
        let numbers: Vec<u32> = tasks.take_all().iter().map(|task| task.command_number).collect();
        assert!(numbers.is_sorted() && numbers.len() == 40 && tasks.is_empty(), "{numbers:?}");
    }
}
