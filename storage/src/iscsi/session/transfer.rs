//! Reads and writes where nothing is out of the ordinary, which is most of what a
//! session does: straight from a request to the wire, and from the wire to its end.
//! Whatever is not as usual is left to the general way.
//!
//! Spec: RFC 7143 sections 11.3 (SCSI Command), 11.4 (SCSI Response), 11.7 (Data-In).

use super::path::{Path, State};
use super::{Bug, ISCSI_COMMANDS_MAX, Operation, Payload, Shared, planted, scsi};
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_FINAL, HEADER_BYTES, Header, opcode, serial_after};
use crate::iscsi::tasks::{Probe, Task, TaskKind};
use crate::requests::Fragment;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;
/// The S bit: status rides on the data.
const FLAG_STATUS: u8 = 0x01;

impl Path {
    /// Whether a request may be begun now, and nothing is to be sent before it.
    pub(super) fn begins_requests(&self, shared: &Shared) -> bool {
        let window =
            !serial_after(self.command_number, self.command_number_max) || planted(Bug::WindowIgnored);
        window
            && self.state == State::Full
            && self.probe == Probe::Done
            && self.output.is_empty()
            && shared.requests.has_work()
            && self.resume_ns <= shared.now_ns
            && self.tasks.len() < ISCSI_COMMANDS_MAX
    }

    /// Writes a read or write into `room`, if it is one and all of it has room; gives
    /// back what is left.
    pub(super) fn send_transfer<'a>(
        &mut self,
        shared: &Shared,
        fragment: &Fragment,
        block: u32,
        room: &'a mut [u8],
        payload: &mut dyn Payload,
    ) -> Result<&'a mut [u8], &'a mut [u8]> {
        let outward = match fragment.operation {
            Operation::Read => false,
            Operation::Write => true,
            _ => return Err(room),
        };
        let octets = fragment.octets();
        let length = u32::try_from(octets).unwrap_or(u32::MAX);
        let bare = self.negotiated.header_digest == Digest::None;
        let (data, direction) = if outward { (octets, WRITE) } else { (0, READ) };
        let whole = !outward
            || (self.unasked(true, length) == (length, length)
                && self.negotiated.data_digest == Digest::None);
        if !bare || !whole || room.len() < HEADER_BYTES.saturating_add(data) {
            return Err(room);
        }
        let (block, blocks) = match block {
            0 | 1 => (fragment.lba, fragment.sectors),
            block => (fragment.lba / u64::from(block), fragment.sectors / block),
        };
        let cdb = scsi::transfer(outward, block, blocks, shared.unit.ten_byte);
        let tag = self.tasks.add(Task {
            tag: 0,
            kind: TaskKind::Fragment(*fragment),
            opcode: cdb.first().copied().unwrap_or(0),
            outward,
            command_number: self.command_number,
            length,
            moved: if outward { length } else { 0 },
            data_number: 0,
            r2t_number: 0,
            started_ns: shared.now_ns,
            touched_ns: shared.now_ns,
            own: None,
        });
        let mut header = Header::new(opcode::SCSI_COMMAND, FLAG_FINAL | direction | SIMPLE);
        header.set_data_length(data);
        header.set(8, &shared.lun);
        header.set_u32(16, tag);
        header.set_u32(20, length);
        header.set_u32(24, self.command_number);
        header.set_u32(28, self.status_number);
        header.set(32, &cdb);
        self.command_number = self.command_number.wrapping_add(1);
        let Some((place, room)) = room.split_first_chunk_mut() else { return Ok(&mut []) };
        *place = header.0;
        if !outward {
            return Ok(room);
        }
        // Sectors need no padding.
        let (place, room) = room.split_at_mut(data.min(room.len()));
        shared.requests.load(fragment, 0, place, payload);
        Ok(room)
    }

    /// Takes a PDU that is data of a read, or a write's good status; false if it is
    /// neither, or not as it should be.
    pub(super) fn receive_transfer(
        &mut self,
        shared: &mut Shared,
        header: &Header,
        data: &[u8],
        payload: &mut dyn Payload,
    ) -> bool {
        let code = header.u8(0);
        let ends = match code {
            opcode::DATA_IN => header.u8(1) & FLAG_STATUS != 0,
            opcode::SCSI_RESPONSE => true,
            _ => return false,
        };
        let good = !ends || (header.u8(3) == 0 && (code == opcode::DATA_IN || header.u8(2) == 0));
        let next = !ends || header.u32(24) == self.status_number;
        if !good || !next || self.state != State::Full || !self.output.is_empty() {
            return false;
        }
        let tag = header.task_tag();
        let Some(task) = self.tasks.find(tag) else { return false };
        let TaskKind::Fragment(fragment) = task.kind else { return false };
        if code == opcode::DATA_IN {
            let offset = header.u32(40);
            let end = offset.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
            let sound = fragment.operation == Operation::Read
                && offset == task.moved
                && header.u32(36) == task.data_number
                && end <= task.length
                && (!ends || end == task.length);
            if !sound {
                return false;
            }
            task.moved = end;
            task.data_number = task.data_number.wrapping_add(1);
            task.touched_ns = shared.now_ns;
            shared.requests.store(&fragment, usize::try_from(offset).unwrap_or(0), data, payload);
        } else if !data.is_empty() || task.moved < task.length {
            return false;
        }
        let started_ns = task.started_ns;
        self.take_window(header);
        if ends {
            self.status_number = self.status_number.wrapping_add(1);
            self.tasks.release(tag);
            self.sample(shared.now_ns, started_ns);
            self.pauses = 0;
            self.count(&fragment);
            shared.requests.done(&fragment, Ok(()));
        }
        true
    }
}
