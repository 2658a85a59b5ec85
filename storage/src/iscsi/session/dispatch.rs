//! What each PDU of the target means.

use super::{
    Digest, DiscoveredTarget, FLAG_CONTINUE, FLAG_FINAL, Header, IMMEDIATE, ISCSI_DISCOVERED_MAX,
    ISCSI_OUTPUT_PDUS_MAX, ISCSI_TEXT_MAX, NO_TAG, Outgoing, Portal, REDIRECTS_MAX, SECTOR_BYTES, Segment,
    Sense, Sequence, Session, SessionKind, Source, State, Step, TaskKind, Vec, opcode, serial_after, text,
};
use crate::limits::ISCSI_RECEIVE_SEGMENT_MAX;
use alloc::string::String;

impl Session {
    /// Decides where a PDU's data goes, before any of it is taken.
    pub(super) fn open_segment(&mut self, header: &Header) -> Segment {
        if header.opcode() != opcode::DATA_IN {
            return Segment::Held;
        }
        if self.state != State::Full {
            self.fail("data before the login ended");
            return Segment::Ignored;
        }
        self.open_data_in(header)
    }

    /// Data-In (11.7). DataPDUInOrder and DataSequenceInOrder hold, so the next
    /// octet and the next number are known.
    fn open_data_in(&mut self, header: &Header) -> Segment {
        let (number, offset) = (header.u32(36), header.u32(40));
        let length = u32::try_from(header.data_length()).unwrap_or(u32::MAX);
        let tag = header.task_tag();
        let Some(task) = self.tasks.iter_mut().find(|task| task.tag == tag) else {
            self.fail("data for no command of ours");
            return Segment::Ignored;
        };
        let reading = match task.kind {
            TaskKind::Inquiry | TaskKind::Capacity => true,
            TaskKind::Data { write, .. } => !write,
            _ => false,
        };
        let end = offset.saturating_add(length);
        if !reading || offset != task.moved || number != task.data_number || end > task.length {
            self.fail("data out of order or range");
            return Segment::Ignored;
        }
        task.data_number = task.data_number.wrapping_add(1);
        let TaskKind::Data { id, first, .. } = task.kind else { return Segment::Held };
        let base = usize::try_from(first).unwrap_or(0).saturating_mul(SECTOR_BYTES);
        Segment::Guest { id, offset: base.saturating_add(usize::try_from(offset).unwrap_or(0)) }
    }

    /// A whole PDU has arrived and its digests are right.
    pub(super) fn dispatch(&mut self, header: &Header) {
        let code = header.opcode();
        if self.state == State::Login {
            return if code == opcode::LOGIN_RESPONSE {
                self.login_response(header);
            } else {
                self.fail("the target sent something else during login");
            };
        }
        if !self.number(header, code) {
            return;
        }
        if matches!(code, opcode::SCSI_RESPONSE | opcode::DATA_IN | opcode::R2T) {
            self.progress_ns = self.now_ns;
        }
        match code {
            opcode::SCSI_RESPONSE => self.scsi_response(header),
            opcode::DATA_IN => self.data_in(header),
            opcode::R2T => self.ready_to_transfer(header),
            opcode::NOP_IN => self.nop_in(header),
            opcode::TEXT_RESPONSE => self.text_response(header),
            opcode::ASYNC => self.asynchronous(header),
            opcode::REJECT => {
                self.counters.rejected = self.counters.rejected.wrapping_add(1);
                self.fail("the target rejected a PDU");
            }
            _ => self.fail("the target sent an unknown PDU"),
        }
    }

    /// Serial numbers (4.2.2). False when the PDU is not to be processed.
    fn number(&mut self, header: &Header, code: u8) -> bool {
        let (expected, most) = (header.u32(28), header.u32(32));
        // 4.2.2.1: ignore a window that ends before it begins.
        if !serial_after(expected, most.wrapping_add(1)) {
            if serial_after(most, self.command_number_max) {
                self.command_number_max = most;
            }
            if serial_after(expected, self.command_number_expected) {
                self.command_number_expected = expected;
            }
        }
        let carries = match code {
            opcode::DATA_IN => header.u8(1) & 1 != 0,
            opcode::R2T => false,
            opcode::NOP_IN => header.task_tag() != NO_TAG,
            _ => true,
        };
        if !carries {
            return true;
        }
        if header.u32(24) != self.status_number {
            self.fail("the target lost count of its status numbers");
            return false;
        }
        self.status_number = self.status_number.wrapping_add(1);
        true
    }

    fn login_response(&mut self, header: &Header) {
        let Some(mut login) = self.login.take() else { return };
        let held = core::mem::take(&mut self.held);
        self.status_number = header.u32(24).wrapping_add(1);
        self.command_number_max = header.u32(32);
        self.command_number_expected = header.u32(28);
        self.session_handle = header.u16(14);
        match login.answer(header, &held) {
            Step::Send(flags, request) => {
                self.login = Some(login);
                // The session has no handle until the login is over (11.12.6).
                self.session_handle = 0;
                self.send_login(flags, request);
            }
            Step::Done(negotiated) => {
                self.negotiated = negotiated;
                self.receiver.header_digest = negotiated.header_digest == Digest::Crc32c;
                self.receiver.data_digest = negotiated.data_digest == Digest::Crc32c;
                self.receiver.segment_bytes_max = ISCSI_RECEIVE_SEGMENT_MAX;
                self.resume_ns = 0;
                self.state = State::Full;
            }
            Step::Redirect(portal) => {
                self.redirects = self.redirects.saturating_add(1);
                // A loop of redirections ends where it began, after a pause.
                self.redirect = (self.redirects <= REDIRECTS_MAX).then_some(portal);
                self.failures = if self.redirects <= REDIRECTS_MAX { 0 } else { self.failures };
                self.fail("the target redirected us");
            }
            Step::Refused(why) => {
                self.refused = true;
                self.redirect = None;
                self.fail(why);
            }
            Step::Fault(why) => self.fail(why),
        }
    }

    fn task(&self, header: &Header) -> Option<usize> {
        let tag = header.task_tag();
        self.tasks.iter().position(|task| task.tag == tag)
    }

    /// 11.4.
    fn scsi_response(&mut self, header: &Header) {
        let Some(index) = self.task(header) else {
            return self.fail("a response to no command of ours");
        };
        let (response, status) = (header.u8(2), header.u8(3));
        if response != 0 {
            // 11.4.3: the target failed before the device could; nothing was done.
            let task = self.tasks.swap_remove(index);
            self.reissue(&task);
            self.probing = false;
            return self.pause("the target failed internally");
        }
        let sense = self.held.first_chunk().and_then(|length| {
            let length = usize::from(u16::from_be_bytes(*length));
            Sense::parse(self.held.get(2..2usize.saturating_add(length))?)
        });
        self.finish_task(index, status, sense);
    }

    fn data_in(&mut self, header: &Header) {
        let Some(index) = self.task(header) else { return };
        let length = u32::try_from(header.data_length()).unwrap_or(u32::MAX);
        if let Some(task) = self.tasks.get_mut(index) {
            task.moved = task.moved.saturating_add(length);
            if !matches!(task.kind, TaskKind::Data { .. }) {
                task.answer.extend_from_slice(&self.held);
            }
        }
        // The S bit: status rides on the last data.
        if header.u8(1) & 1 != 0 {
            self.finish_task(index, header.u8(3), None);
        }
    }

    /// 11.8. Requests must follow each other without gap or overlap.
    fn ready_to_transfer(&mut self, header: &Header) {
        let (number, offset, length) = (header.u32(36), header.u32(40), header.u32(44));
        let lun = self.lun_of(header);
        let max_burst = self.negotiated.max_burst;
        let Some(index) = self.task(header) else {
            return self.fail("a transfer request for no command of ours");
        };
        let Some(task) = self.tasks.get_mut(index) else { return };
        let TaskKind::Data { id, write: true, first, .. } = task.kind else {
            return self.fail("a transfer request for a command that writes nothing");
        };
        let end = offset.saturating_add(length);
        let sound = number == task.r2t_number
            && offset == task.moved
            && (1..=max_burst).contains(&length)
            && end <= task.length;
        if !sound {
            return self.fail("a transfer request out of order or range");
        }
        task.r2t_number = task.r2t_number.wrapping_add(1);
        task.moved = end;
        let base = usize::try_from(first).unwrap_or(0).saturating_mul(SECTOR_BYTES);
        if self.output.len() >= ISCSI_OUTPUT_PDUS_MAX {
            return self.fail("the target asks for too much at once");
        }
        self.output.push_back(Outgoing::Sequence(Sequence {
            tag: header.task_tag(),
            transfer_tag: header.u32(20),
            lun,
            id,
            base,
            offset,
            end,
            data_number: 0,
        }));
    }

    fn lun_of(&self, header: &Header) -> [u8; 8] {
        let mut lun = [0; 8];
        for (target, source) in lun.iter_mut().zip(header.0.iter().skip(8)) {
            *target = *source;
        }
        lun
    }

    /// 11.19: an answer to our ping, or a ping of the target's.
    fn nop_in(&mut self, header: &Header) {
        if self.pinged_ns.is_some_and(|(tag, _)| tag == header.task_tag()) {
            self.pinged_ns = None;
        }
        let transfer_tag = header.u32(20);
        if transfer_tag == NO_TAG {
            return;
        }
        let mut reply = Header::new(opcode::NOP_OUT | IMMEDIATE, FLAG_FINAL);
        let lun = self.lun_of(header);
        reply.set(8, &lun);
        reply.set_u32(16, NO_TAG);
        reply.set_u32(20, transfer_tag);
        reply.set_u32(24, self.command_number);
        self.push(reply, Source::Own(Vec::new()));
    }

    /// 11.11: a piece of the list of targets.
    fn text_response(&mut self, header: &Header) {
        let Some(index) = self.task(header) else {
            return self.fail("a text response to no request of ours");
        };
        if self.text.len().saturating_add(self.held.len()) > ISCSI_TEXT_MAX {
            return self.fail("the target floods us with text");
        }
        self.text.extend_from_slice(&self.held);
        let flags = header.u8(1);
        if flags & FLAG_FINAL == 0 || flags & FLAG_CONTINUE != 0 {
            let mut more = Header::new(opcode::TEXT, FLAG_FINAL);
            let lun = self.lun_of(header);
            more.set(8, &lun);
            more.set_u32(16, header.task_tag());
            more.set_u32(20, header.u32(20));
            more.set_u32(24, self.command_number);
            self.command_number = self.command_number.wrapping_add(1);
            return self.push(more, Source::Own(Vec::new()));
        }
        self.tasks.swap_remove(index);
        let list = core::mem::take(&mut self.text);
        self.discovered.clear();
        for (key, value) in text::pairs(&list).flatten() {
            match key {
                "TargetName" if self.discovered.len() < ISCSI_DISCOVERED_MAX => {
                    let name = String::from(value);
                    self.discovered.push(DiscoveredTarget { name, portals: Vec::new() });
                }
                "TargetAddress" => {
                    let portal = Portal::parse_target_address(value);
                    if let (Some(target), Some(portal)) = (self.discovered.last_mut(), portal)
                        && target.portals.len() < ISCSI_DISCOVERED_MAX
                    {
                        target.portals.push(portal);
                    }
                }
                _ => {}
            }
        }
        if self.config.kind == SessionKind::Discovery {
            self.state = State::Finished;
        }
    }

    /// 11.9: every event but a SCSI one ends the connection, which recovers it.
    fn asynchronous(&mut self, header: &Header) {
        match header.u8(36) {
            0 => self.probe = super::Probe::TestUnitReady,
            1 => self.fail("the target asked us to log out"),
            2 | 3 => self.fail("the target announced that it drops the connection"),
            4 => self.fail("the target wants to negotiate anew"),
            _ => self.fail("the target sent an unknown event"),
        }
    }
}
