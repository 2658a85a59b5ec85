//! Commands in flight, each found by its tag.

use alloc::vec::Vec;

use super::{Task, TaskKind};
use crate::block::Operation;
use crate::iscsi::pdu::NO_TAG;
use crate::iscsi::scsi::{READ_16, WRITE_16};
use crate::limits::ISCSI_COMMANDS_MAX;
use crate::requests::Fragment;

/// The lowest octet of a tag that is no command's.
const ELSEWHERE: u8 = 0xfe;

/// Commands in flight. The lowest octet of a tag is its command's place, the others
/// count; so no tag is like that of another command in flight, nor [`NO_TAG`].
#[derive(Debug)]
pub(in crate::iscsi) struct Tasks {
    /// In no order; those with no tag are free.
    places: Vec<Task>,
    free: Vec<u8>,
    serial: u32,
    /// Commands that read, and their octets.
    reads: u32,
    read_octets: u64,
}

/// Data of this size is worth being looked after by itself.
const READ_OCTETS: u64 = 4_096;

impl Tasks {
    pub(in crate::iscsi) const fn new(serial: u32) -> Self {
        Self { places: Vec::new(), free: Vec::new(), serial, reads: 0, read_octets: 0 }
    }

    pub(in crate::iscsi) const fn len(&self) -> usize {
        self.places.len().wrapping_sub(self.free.len())
    }

    pub(in crate::iscsi) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    const fn tag(&mut self, place: u8) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        (self.serial << 8) | place as u32
    }

    /// A tag for something that is no command.
    pub(in crate::iscsi) const fn other_tag(&mut self) -> u32 {
        self.tag(ELSEWHERE)
    }

    fn count(&mut self, outward: bool, length: u32, adds: bool) {
        if !outward && length > 0 {
            let (one, octets) = (u32::from(adds), u64::from(length));
            self.reads = self.reads.wrapping_add(one).wrapping_sub(1 - one);
            let read_octets = self.read_octets;
            self.read_octets =
                if adds { read_octets.wrapping_add(octets) } else { read_octets.wrapping_sub(octets) };
        }
    }

    /// Whether large pieces of data are to come.
    pub(in crate::iscsi) const fn expects_data(&self) -> bool {
        self.reads > 0 && self.read_octets >= (self.reads as u64).wrapping_mul(READ_OCTETS)
    }

    /// A free place: no more than [`ISCSI_COMMANDS_MAX`] are there.
    fn place(&mut self) -> u8 {
        self.free.pop().unwrap_or_else(|| {
            let place = u8::try_from(self.places.len()).unwrap_or(ELSEWHERE);
            if self.places.len() <= ISCSI_COMMANDS_MAX {
                self.places.push(Task::FREE);
            }
            place
        })
    }

    /// Takes a command in; it is given its tag. No more than [`ISCSI_COMMANDS_MAX`].
    pub(in crate::iscsi) fn add(&mut self, task: Task) -> u32 {
        self.count(task.outward, task.length, true);
        let place = self.place();
        let tag = self.tag(place);
        if let Some(free) = self.places.get_mut(usize::from(place)) {
            *free = Task { tag, ..task };
        }
        tag
    }

    /// The same for READ(16) or WRITE(16) of all of a fragment, whose data goes with it.
    #[inline(always)]
    pub(in crate::iscsi) fn add_transfer(
        &mut self,
        fragment: Fragment,
        length: u32,
        command_number: u32,
        now_ns: u64,
    ) -> u32 {
        let outward = fragment.operation == Operation::Write;
        self.count(outward, length, true);
        let place = self.place();
        let tag = self.tag(place);
        // In its place at once: this is done for each request.
        if let Some(task) = self.places.get_mut(usize::from(place)) {
            task.tag = tag;
            task.kind = TaskKind::Fragment(fragment);
            task.opcode = if outward { WRITE_16 } else { READ_16 };
            task.outward = outward;
            task.command_number = command_number;
            task.length = length;
            task.moved = if outward { length } else { 0 };
            task.data_number = 0;
            task.r2t_number = 0;
            task.started_ns = now_ns;
            task.touched_ns = now_ns;
            task.own = None;
        }
        tag
    }

    /// The command with a tag.
    #[inline]
    pub(in crate::iscsi) fn find(&mut self, tag: u32) -> Option<&mut Task> {
        let [place, ..] = tag.to_le_bytes();
        self.places.get_mut(usize::from(place)).filter(|task| task.tag == tag && tag != NO_TAG)
    }

    /// The same, to look at.
    #[inline]
    pub(in crate::iscsi) fn get(&self, tag: u32) -> Option<&Task> {
        let [place, ..] = tag.to_le_bytes();
        self.places.get(usize::from(place)).filter(|task| task.tag == tag && tag != NO_TAG)
    }

    /// Takes the command with a tag out.
    pub(in crate::iscsi) fn remove(&mut self, tag: u32) -> Option<Task> {
        let [place, ..] = tag.to_le_bytes();
        let task = self.find(tag)?;
        let found = Task { own: task.own.take(), ..*task };
        task.tag = NO_TAG;
        self.count(found.outward, found.length, false);
        self.free.push(place);
        Some(found)
    }

    /// Takes the command with a tag out, if it moves a request's data: whose, and since
    /// when.
    #[inline(always)]
    pub(in crate::iscsi) fn end_transfer(&mut self, tag: u32) -> Option<(Fragment, u64)> {
        let [place, ..] = tag.to_le_bytes();
        let task = self.find(tag)?;
        let TaskKind::Fragment(fragment) = task.kind else { return None };
        let (outward, length, started_ns) = (task.outward, task.length, task.started_ns);
        task.tag = NO_TAG;
        self.count(outward, length, false);
        self.free.push(place);
        Some((fragment, started_ns))
    }

    pub(in crate::iscsi) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.places.iter().filter(|task| task.tag != NO_TAG)
    }

    /// Takes all of them out, the oldest first.
    pub(in crate::iscsi) fn take_all(&mut self) -> Vec<Task> {
        self.free.clear();
        (self.reads, self.read_octets) = (0, 0);
        let mut all: Vec<Task> = self.places.drain(..).filter(|task| task.tag != NO_TAG).collect();
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
        let numbers: Vec<u32> = tasks.take_all().iter().map(|task| task.command_number).collect();
        assert!(numbers.is_sorted() && numbers.len() == 40 && tasks.is_empty(), "{numbers:?}");
    }
}
