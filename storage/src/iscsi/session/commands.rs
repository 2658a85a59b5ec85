//! From requests to SCSI commands.
//!
//! Spec: RFC 7143 sections 4.2.2.1 (command window), 11.3 (SCSI Command), 11.10 (text),
//! 11.14 (logout).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::config::SessionKind;
use super::path::{Path, State};
use super::{FlushForm, ISCSI_COMMANDS_MAX, Mutant, Operation, SessionConfig, Shared, mutated, scsi};
use crate::iscsi::pdu::{FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode, serial_after};
use crate::iscsi::tasks::{Body, Outgoing, Own, Probe, Sequence, Source, Task, TaskKind, body_of};
use crate::iscsi::text;
use crate::limits::{ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_SEND_SEGMENT_MAX};
use crate::requests::Fragment;

/// A command to be sent.
pub(super) struct Command {
    cdb: scsi::Cdb,
    length: u32,
    outward: bool,
    body: Body,
}

impl Command {
    const fn plain(cdb: scsi::Cdb) -> Self {
        Self { cdb, length: 0, outward: false, body: Body::None }
    }

    const fn reads(cdb: scsi::Cdb, length: u32) -> Self {
        Self { cdb, length, outward: false, body: Body::None }
    }

    const fn writes(cdb: scsi::Cdb, length: u32, body: Body) -> Self {
        Self { cdb, length, outward: true, body }
    }
}

impl SessionConfig {
    /// The LUN field, single-level format (SAM-5 4.6.6: flat space above 255).
    pub(super) fn lun(&self) -> [u8; 8] {
        let SessionKind::Normal { lun, .. } = self.kind else { return [0; 8] };
        let [high, low] = lun.to_be_bytes();
        let high = if high == 0 { 0 } else { 0x40 | (high & 0x3f) };
        [high, low, 0, 0, 0, 0, 0, 0]
    }
}

impl Path {
    /// The next PDU to send: what waits, or else a new command, if the target's window
    /// and our queue have room.
    pub(super) fn next_pdu(&mut self, shared: &mut Shared, carries: bool) -> Option<(Header, Source)> {
        if self.output.is_empty()
            && let Some(command) = self.begin_command(shared, carries)
        {
            return Some(command);
        }
        let segment = u32::try_from(ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
        let segment = segment.min(self.negotiated.send_segment);
        if let Outgoing::Sequence(sequence) = self.output.front_mut()? {
            let pdu = sequence.pdu(segment);
            if sequence.is_done() {
                self.output.pop_front();
            }
            return Some(pdu);
        }
        match self.output.pop_front()? {
            Outgoing::Pdu(header, source) => Some((header, source)),
            Outgoing::Sequence(_) => None,
        }
    }

    /// A new command, or nothing if it is of those that wait for their turn.
    fn begin_command(&mut self, shared: &mut Shared, carries: bool) -> Option<(Header, Source)> {
        let window =
            !serial_after(self.command_number, self.command_number_max) || mutated(Mutant::WindowIgnored);
        let paused = self.resume_ns > shared.now_ns;
        if self.state != State::Full || !window || paused || self.tasks.len() >= ISCSI_COMMANDS_MAX {
            return None;
        }
        let kind = self.next_kind(shared, carries)?;
        let command = match kind {
            TaskKind::Fragment(fragment) => fragment_command(shared, &fragment),
            TaskKind::Probe(probe) => probe_command(shared, probe, self.give_up_key),
            TaskKind::Text => {
                self.send_text(shared, "SendTargets", "All");
                self.command_number = self.command_number.wrapping_add(1);
                return None;
            }
        };
        Some(self.command(shared, kind, command))
    }

    fn next_kind(&mut self, shared: &mut Shared, carries: bool) -> Option<TaskKind> {
        if shared.config.kind == SessionKind::Discovery {
            let first = !core::mem::replace(&mut self.probing, true);
            return first.then_some(TaskKind::Text);
        }
        if self.probe != Probe::Done {
            if core::mem::replace(&mut self.probing, true) {
                return None;
            }
            return Some(TaskKind::Probe(self.probe));
        }
        if shared.closing && shared.requests.len() == 0 && self.tasks.is_empty() {
            self.log_out(shared);
            return None;
        }
        if !carries || !shared.requests.has_work() {
            return None;
        }
        let shape = *shared.unit.shape()?;
        shared.requests.next_fragment(&shape).map(TaskKind::Fragment)
    }

    /// 11.14: closes the session.
    pub(super) fn log_out(&mut self, shared: &mut Shared) {
        let tag = self.tasks.other_tag();
        let mut header = Header::new(opcode::LOGOUT | IMMEDIATE, FLAG_FINAL);
        header.set_u32(16, tag);
        header.set_u32(24, self.command_number);
        self.push(shared, header, Source::EMPTY);
        self.state = State::LoggingOut { since_ns: shared.now_ns };
    }

    /// 11.10.
    fn send_text(&mut self, shared: &mut Shared, key: &str, value: &str) {
        let tag = self.track(shared, TaskKind::Text, Command::plain(scsi::TEST_UNIT_READY), 0);
        let mut request = Vec::new();
        text::push(&mut request, key, value);
        let mut header = Header::new(opcode::TEXT, FLAG_FINAL);
        header.set_data_length(request.len());
        header.set_u32(16, tag);
        header.set_u32(20, NO_TAG);
        header.set_u32(24, self.command_number);
        self.push(shared, header, Source::Own(request));
    }

    /// The target wants to negotiate: we have one thing to declare (11.9.1).
    pub(super) fn negotiate(&mut self, shared: &mut Shared) {
        if !self.tasks.iter().any(|task| task.kind == TaskKind::Text) {
            let value = alloc::format!("{ISCSI_RECEIVE_SEGMENT_MAX}");
            self.send_text(shared, "MaxRecvDataSegmentLength", &value);
            // Not within the window of commands: it must not have to wait for it.
            if let Some(Outgoing::Pdu(header, _)) = self.output.back_mut() {
                header.set(0, &[opcode::TEXT | IMMEDIATE]);
            }
        }
    }

    fn track(&mut self, shared: &Shared, kind: TaskKind, command: Command, moved: u32) -> u32 {
        let own = match command.body {
            Body::Own(data) => Some(Box::new(Own { data: Some(data), answer: Vec::new() })),
            _ => None,
        };
        self.tasks.add(Task {
            tag: NO_TAG,
            kind,
            opcode: command.cdb.first().copied().unwrap_or(0),
            command_number: self.command_number,
            length: command.length,
            outward: command.outward,
            moved,
            data_number: 0,
            r2t_number: 0,
            started_ns: shared.now_ns,
            touched_ns: shared.now_ns,
            own,
            ..Task::FREE
        })
    }

    /// SCSI Command (11.3), with immediate data; unsolicited data follows it, as
    /// negotiated.
    fn command(&mut self, shared: &Shared, kind: TaskKind, command: Command) -> (Header, Source) {
        const READ: u8 = 0x40;
        const WRITE: u8 = 0x20;
        const SIMPLE: u8 = 0x01;
        let flags = match (command.length, command.outward) {
            (0, _) => 0,
            (_, true) => WRITE,
            (_, false) => READ,
        };
        let (immediate, unsolicited) = self.unasked(command.outward, command.length);
        let last = if unsolicited > immediate { 0 } else { FLAG_FINAL };
        let mut header = Header::new(opcode::SCSI_COMMAND, last | flags | SIMPLE);
        // Unit 0 is asked for the units there are (SPC-4, 6.33): others need not answer that.
        let lun = if command.cdb == scsi::REPORT_LUNS { [0; 8] } else { shared.lun };
        header.set(8, &lun);
        header.set_u32(20, command.length);
        header.set_u32(24, self.command_number);
        header.set(32, &command.cdb);
        let octets = usize::try_from(immediate).unwrap_or(0);
        header.set_data_length(octets);
        let source = if octets == 0 { Source::EMPTY } else { Source::piece(&command.body, 0, octets) };
        let body = (unsolicited > immediate).then(|| command.body.clone());
        let tag = self.track(shared, kind, command, unsolicited);
        header.set_u32(16, tag);
        if let Some(body) = body {
            self.output.push_back(Outgoing::Sequence(Sequence {
                tag,
                transfer_tag: NO_TAG,
                lun,
                body,
                offset: immediate,
                end: unsolicited,
                data_number: 0,
            }));
        }
        self.command_number = self.command_number.wrapping_add(1);
        (header, source)
    }

    /// Octets sent inside the command, and up to which offset without being asked
    /// (13.10 to 13.14).
    pub(super) fn unasked(&self, outward: bool, length: u32) -> (u32, u32) {
        if !outward {
            return (0, 0);
        }
        let burst = length.min(self.negotiated.first_burst);
        let immediate = if self.negotiated.immediate_data {
            let segment = u32::try_from(ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
            burst.min(self.negotiated.send_segment).min(segment)
        } else {
            0
        };
        (immediate, if self.negotiated.initial_r2t { immediate } else { burst })
    }

    /// Drops what a finished command still had to send; true if there was any.
    pub(super) fn forget_output(&mut self, tag: u32) -> bool {
        let before = self.output.len();
        if before == 0 {
            return false;
        }
        self.output.retain(|waiting| !matches!(waiting, Outgoing::Sequence(it) if it.tag == tag));
        self.output.len() != before
    }
}

fn probe_command(shared: &Shared, probe: Probe, give_up: Option<u64>) -> Command {
    let key = shared.config.reservation.unwrap_or(0);
    let persistent = |out: scsi::PersistentOut| {
        let list = Body::Own(out.parameters().to_vec());
        Command::writes(out.cdb(), scsi::PersistentOut::BYTES, list)
    };
    let page = |page| Command::reads(scsi::inquiry_page(page), scsi::PAGE_BYTES);
    match probe {
        Probe::TestUnitReady | Probe::Done => Command::plain(scsi::TEST_UNIT_READY),
        Probe::Units => Command::reads(scsi::REPORT_LUNS, scsi::LUNS_BYTES),
        Probe::Inquiry => Command::reads(scsi::INQUIRY, scsi::INQUIRY_BYTES),
        Probe::Pages => page(0),
        Probe::Serial => page(0x80),
        Probe::Identity => page(0x83),
        Probe::Limits => page(0xb0),
        Probe::Provisioning => page(0xb2),
        Probe::Capacity if shared.unit.ten_byte => Command::reads(scsi::READ_CAPACITY_10, 8),
        Probe::Capacity => Command::reads(scsi::READ_CAPACITY_16, scsi::CAPACITY_BYTES),
        Probe::Mode => Command::reads(scsi::MODE_SENSE, scsi::MODE_BYTES),
        Probe::Holder => Command::reads(scsi::READ_RESERVATION, scsi::RESERVATION_BYTES),
        Probe::Register => persistent(scsi::PersistentOut::Register(key)),
        Probe::Reserve => persistent(scsi::PersistentOut::Reserve(key)),
        Probe::Preempt => {
            let holder = shared.config.preempt.unwrap_or(0);
            let abort = !shared.unit.plain_preempt;
            persistent(scsi::PersistentOut::Preempt { key, holder, abort })
        }
        Probe::Unregister => persistent(scsi::PersistentOut::Unregister(give_up.unwrap_or(key))),
    }
}

fn fragment_command(shared: &Shared, fragment: &Fragment) -> Command {
    let unit = &shared.unit;
    let spb = unit.capacity.map_or(1, |capacity| capacity.sectors_per_block()).max(1);
    let (block, blocks) = (fragment.lba / u64::from(spb), fragment.sectors / spb);
    let octets = fragment.sectors.saturating_mul(512);
    match fragment.operation {
        Operation::Flush => Command::plain(match unit.flush {
            FlushForm::Ten => scsi::SYNCHRONIZE_CACHE_10,
            FlushForm::Sixteen => scsi::SYNCHRONIZE_CACHE_16,
            FlushForm::Needless => scsi::TEST_UNIT_READY,
        }),
        Operation::Read => Command::reads(scsi::transfer(false, block, blocks, unit.ten_byte), octets),
        Operation::Discard if unit.provisioning.unmap => {
            let list = Body::Own(scsi::unmap_list(block, blocks));
            Command::writes(scsi::UNMAP, scsi::UNMAP_BYTES, list)
        }
        Operation::Discard => {
            Command::writes(scsi::write_same(block, blocks, true), spb.saturating_mul(512), zero_block(spb))
        }
        Operation::WriteZeroes if unit.zeroes_by_command() => {
            let frees = unit.provisioning.write_same
                && unit.capacity.is_some_and(|capacity| capacity.thin && capacity.unmapped_zeroes);
            let cdb = scsi::write_same(block, blocks, frees);
            Command::writes(cdb, spb.saturating_mul(512), zero_block(spb))
        }
        Operation::Write | Operation::WriteZeroes => {
            Command::writes(scsi::transfer(true, block, blocks, unit.ten_byte), octets, body_of(fragment))
        }
    }
}

fn zero_block(sectors: u32) -> Body {
    Body::Own(alloc::vec![0; usize::try_from(sectors).unwrap_or(1).saturating_mul(512)])
}
