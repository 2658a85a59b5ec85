//! What each PDU of the target means.
//!
//! Spec: RFC 7143 section 11.

use alloc::vec::Vec;

use super::config::SessionKind;
use super::discovery::TargetList;
use super::path::{Path, Segment, State};
use super::{Operation, Shared, Stage};
use crate::iscsi::chap::Algorithm;
use crate::iscsi::login::Step;
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_CONTINUE, FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode, serial_after};
use crate::iscsi::scsi::Sense;
use crate::iscsi::tasks::{Outgoing, Probe, Sequence, Source, TaskKind};
use crate::iscsi::text;
use crate::limits::{ISCSI_OUTPUT_PDUS_MAX, ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_TEXT_PIECES_MAX};

const REDIRECTS_MAX: u32 = 4;
const FAILURES_AFTER_LOGIN: u32 = 3;
const SECOND_NS: u64 = 1_000_000_000;

impl Path {
    /// Decides where a PDU's data goes, before any of it is taken.
    pub(super) fn open_segment(&mut self, shared: &mut Shared, header: &Header) -> Segment {
        if header.opcode() != opcode::DATA_IN {
            return Segment::Held;
        }
        if self.state == State::Login {
            self.fail(shared, "data before the login ended");
            return Segment::Ignored;
        }
        self.open_data_in(shared, header)
    }

    /// Data-In (11.7). DataPDUInOrder and DataSequenceInOrder hold, so the next
    /// octet and the next number are known.
    fn open_data_in(&mut self, shared: &mut Shared, header: &Header) -> Segment {
        let (number, offset) = (header.u32(36), header.u32(40));
        let length = u32::try_from(header.data_length()).unwrap_or(u32::MAX);
        let tag = header.task_tag();
        let Some(task) = self.tasks.find(tag) else {
            self.fail(shared, "data for no command of ours");
            return Segment::Ignored;
        };
        let reading = !task.outward && task.length > 0;
        let end = offset.saturating_add(length);
        if !reading || offset != task.moved || number != task.data_number || end > task.length {
            self.fail(shared, "data out of order or range");
            return Segment::Ignored;
        }
        task.data_number = task.data_number.wrapping_add(1);
        match task.kind {
            TaskKind::Fragment(fragment) if fragment.operation == Operation::Read => {
                Segment::Fragment { fragment, offset: usize::try_from(offset).unwrap_or(0) }
            }
            _ => Segment::Held,
        }
    }

    /// A whole PDU has arrived and its digests are right.
    pub(super) fn dispatch(&mut self, shared: &mut Shared, header: &Header) {
        let code = header.opcode();
        if self.state == State::Login {
            return if code == opcode::LOGIN_RESPONSE {
                self.login_response(shared, header);
            } else {
                self.fail(shared, "the target sent something else during login");
            };
        }
        if !self.number(shared, header, code) {
            return;
        }
        let tag = header.task_tag();
        if let Some(task) = self.tasks.find(tag) {
            task.touched_ns = shared.now_ns;
        }
        match code {
            opcode::SCSI_RESPONSE => self.scsi_response(shared, header),
            opcode::DATA_IN => self.data_in(shared, header),
            opcode::R2T => self.ready_to_transfer(shared, header),
            opcode::NOP_IN => self.nop_in(shared, header),
            opcode::TEXT_RESPONSE => self.text_response(shared, header),
            opcode::MANAGEMENT_RESPONSE => self.management_response(shared, header),
            opcode::ASYNC => self.asynchronous(shared, header),
            opcode::REJECT => self.reject(shared, header),
            opcode::LOGOUT_RESPONSE => self.logout_response(shared, header),
            _ => self.fail(shared, "the target sent an unknown PDU"),
        }
    }

    /// Serial numbers (4.2.2). False when the PDU is not to be processed.
    fn number(&mut self, shared: &mut Shared, header: &Header, code: u8) -> bool {
        self.take_window(header.u32(28), header.u32(32));
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
            self.fail(shared, "the target lost count of its status numbers");
            return false;
        }
        self.status_number = self.status_number.wrapping_add(1);
        true
    }

    /// 4.2.2.1: what the target takes from now on.
    pub(super) fn take_window(&mut self, expected: u32, most: u32) {
        // A window that ends before it begins is ignored.
        if !serial_after(expected, most.wrapping_add(1)) && serial_after(most, self.command_number_max) {
            self.command_number_max = most;
        }
    }

    fn login_response(&mut self, shared: &mut Shared, header: &Header) {
        let Some(mut login) = self.login.take() else { return };
        let held = core::mem::take(&mut self.held);
        self.status_number = header.u32(24).wrapping_add(1);
        self.command_number_max = header.u32(32);
        match login.answer(header, &held) {
            Step::Send(flags, request) => {
                self.login = Some(login);
                // The session has no handle until the login is over (11.12.6).
                self.session_handle = 0;
                self.send_login(shared, flags, request);
            }
            Step::Done => {
                self.session_handle = header.u16(14);
                self.negotiated = login.negotiated;
                self.apply_negotiated();
                self.receiver.header_digest = self.negotiated.header_digest == Digest::Crc32c;
                self.receiver.data_digest = self.negotiated.data_digest == Digest::Crc32c;
                self.receiver.segment_bytes_max = ISCSI_RECEIVE_SEGMENT_MAX;
                self.resume_ns = 0;
                // It lets us in: the next pause need not be one of the longest.
                self.failures = self.failures.min(FAILURES_AFTER_LOGIN);
                self.stage = Stage::LoggedIn;
                self.state = State::Full;
                self.calm_until_ns = 0;
                // Commands of other paths may have gone without a word.
                self.has_reset_unit |= core::mem::take(&mut self.may_reset_unit);
                shared.unit_was_reset |= self.has_reset_unit;
                // 6.3.5: the target has dropped the session of the same name, that is
                // initiator, identifier and portal group.
                if self.group.is_none() || self.group == self.negotiated.portal_group {
                    shared.requests.fences.release(self.index);
                }
                self.group = self.negotiated.portal_group;
            }
            Step::Redirect(portal) => {
                self.redirects = self.redirects.saturating_add(1);
                // A loop of redirections ends where it began, after a pause.
                self.redirect = (self.redirects <= REDIRECTS_MAX).then_some(portal);
                self.failures = if self.redirects <= REDIRECTS_MAX { 0 } else { self.failures };
                self.fail(shared, "the target redirected us");
            }
            Step::Refused(why) => {
                self.report_refused(shared, why);
                // Some targets know another algorithm by the same number: where MD5 is
                // good enough, go on towards it.
                let weak = shared.config.credentials.as_ref().is_some_and(|it| it.allow_md5);
                self.algorithms_tried.extend(login.algorithm.filter(|it| weak && *it != Algorithm::Md5));

                self.redirect = None;
                self.fail(shared, why);
            }
            Step::Fault(why) => self.fail(shared, why),
        }
    }

    /// 11.4.
    fn scsi_response(&mut self, shared: &mut Shared, header: &Header) {
        let tag = header.task_tag();
        if self.tasks.find(tag).is_none() {
            return self.fail(shared, "a response to no command of ours");
        }
        let (response, status) = (header.u8(2), header.u8(3));
        if response != 0 {
            // 11.4.3: the target failed before the device could; nothing was done.
            let Some(task) = self.tasks.remove(tag) else { return };
            self.forget_output(tag);
            self.reissue(shared, &task);
            return self.pause(shared, "the target failed internally");
        }
        let sense = self.held.first_chunk().and_then(|length| {
            let length = usize::from(u16::from_be_bytes(*length));
            Sense::parse(self.held.get(2..2usize.saturating_add(length))?)
        });
        self.finish_task(shared, tag, status, sense);
    }

    fn data_in(&mut self, shared: &mut Shared, header: &Header) {
        let tag = header.task_tag();
        let length = u32::try_from(header.data_length()).unwrap_or(u32::MAX);
        if let Some(task) = self.tasks.find(tag) {
            task.moved = task.moved.saturating_add(length);
            if !matches!(task.kind, TaskKind::Fragment(_)) {
                task.own.get_or_insert_default().answer.extend_from_slice(&self.held);
            }
        }
        // The S bit: status rides on the last data.
        if header.u8(1) & 1 != 0 {
            self.finish_task(shared, tag, header.u8(3), None);
        }
    }

    /// 11.8. Requests must follow each other without gap or overlap.
    fn ready_to_transfer(&mut self, shared: &mut Shared, header: &Header) {
        let (number, offset, length) = (header.u32(36), header.u32(40), header.u32(44));
        let lun = lun_of(header);
        let max_burst = self.negotiated.max_burst;
        let Some(task) = self.tasks.find(header.task_tag()) else {
            return self.fail(shared, "a transfer request for no command of ours");
        };
        if !task.outward {
            return self.fail(shared, "a transfer request for a command that writes nothing");
        }
        let end = offset.saturating_add(length);
        let sound = number == task.r2t_number
            && offset == task.moved
            && (1..=max_burst).contains(&length)
            && end <= task.length;
        if !sound {
            return self.fail(shared, "a transfer request out of order or range");
        }
        task.r2t_number = task.r2t_number.wrapping_add(1);
        task.moved = end;
        let body = task.body();
        if self.output.len() >= ISCSI_OUTPUT_PDUS_MAX {
            return self.fail(shared, "the target asks for too much at once");
        }
        self.output.push_back(Outgoing::Sequence(Sequence {
            tag: header.task_tag(),
            transfer_tag: header.u32(20),
            lun,
            body,
            offset,
            end,
            data_number: 0,
        }));
    }

    /// 11.19: an answer to our ping, or a ping of the target's.
    fn nop_in(&mut self, shared: &mut Shared, header: &Header) {
        if self.pinged_ns.is_some_and(|(tag, _)| tag == header.task_tag()) {
            self.pinged_ns = None;
        }
        let transfer_tag = header.u32(20);
        if transfer_tag == NO_TAG {
            return;
        }
        let mut reply = Header::new(opcode::NOP_OUT | IMMEDIATE, FLAG_FINAL);
        reply.set(8, &lun_of(header));
        reply.set_u32(16, NO_TAG);
        reply.set_u32(20, transfer_tag);
        reply.set_u32(24, self.command_number);
        self.push(shared, reply, Source::EMPTY);
    }

    /// 11.11: a piece of the list of targets, or of a negotiation.
    fn text_response(&mut self, shared: &mut Shared, header: &Header) {
        let tag = header.task_tag();
        if self.tasks.find(tag).is_none_or(|task| task.kind != TaskKind::Text) {
            return self.fail(shared, "a text response to no request of ours");
        }
        if self.text.len().saturating_add(self.held.len()) > shared.response_max() {
            return self.fail(shared, "the target floods us with text");
        }
        self.text.extend_from_slice(&self.held);
        self.text_pieces = self.text_pieces.saturating_add(1);
        let flags = header.u8(1);
        if flags & FLAG_FINAL == 0 || flags & FLAG_CONTINUE != 0 {
            if self.text_pieces >= ISCSI_TEXT_PIECES_MAX {
                return self.fail(shared, "the target's text does not end");
            }
            let mut more = Header::new(opcode::TEXT | IMMEDIATE, FLAG_FINAL);
            more.set(8, &lun_of(header));
            more.set_u32(16, header.task_tag());
            more.set_u32(20, header.u32(20));
            more.set_u32(24, self.command_number);
            return self.push(shared, more, Source::EMPTY);
        }
        self.tasks.remove(tag);
        let list = core::mem::take(&mut self.text);
        self.text_pieces = 0;
        if shared.config.kind == SessionKind::Discovery {
            shared.discovered = TargetList::parse(&list);
            shared.finished = true;
            self.state = State::Finished;
        } else {
            for (key, value) in text::pairs(&list).flatten() {
                if let Err(why) = self.negotiated.take(key, value, &mut Vec::new()) {
                    return self.fail(shared, why);
                }
            }
            self.apply_negotiated();
        }
    }

    /// 11.9.
    fn asynchronous(&mut self, shared: &mut Shared, header: &Header) {
        let (first, second) = (header.u16(38), header.u16(40));
        match header.u8(36) {
            // Sense data of the unit: it is looked at from the beginning.
            0 => self.probe = Probe::TestUnitReady,
            1 => {
                self.last_error = Some("the target asked us to log out");
                self.log_out(shared);
            }
            event @ (2 | 3) => {
                let wait_s = if event == 2 { second } else { first.max(second) };
                self.wait_ns = u64::from(wait_s).saturating_mul(SECOND_NS);
                self.fail(shared, "the target announced that it drops the connection");
            }
            4 => self.negotiate(shared),
            _ => self.fail(shared, "the target sent an unknown event"),
        }
    }

    /// 11.17. At this recovery level a rejected PDU ends the connection, except where
    /// nothing was lost by it.
    fn reject(&mut self, shared: &mut Shared, header: &Header) {
        let counters = &mut shared.requests.counters;
        counters.rejected = counters.rejected.wrapping_add(1);
        let rejected = self.held.first_chunk().map(|basic| Header(*basic));
        if let Some(rejected) = rejected {
            let tag = rejected.task_tag();
            if rejected.opcode() == opcode::MANAGEMENT && self.management_rejected(shared, tag) {
                return;
            }
            if rejected.opcode() == opcode::NOP_OUT {
                // Too many immediate commands: it lives, that is all we asked.
                self.pinged_ns = self.pinged_ns.take_if(|(pinged, _)| *pinged != tag);
                return;
            }
        }
        self.fail(
            shared,
            match header.u8(2) {
                0x02 => "the target rejected a PDU: data digest error",
                0x04 => "the target rejected a PDU: protocol error",
                0x05 => "the target rejected a PDU: command not supported",
                0x06 => "the target rejected a PDU: too many immediate commands",
                0x07 => "the target rejected a PDU: task in progress",
                0x09 => "the target rejected a PDU: invalid field",
                0x0b => "the target rejected a PDU: negotiation reset",
                0x0c => "the target rejected a PDU: waiting for logout",
                _ => "the target rejected a PDU",
            },
        );
    }

    /// 11.15.
    fn logout_response(&mut self, shared: &mut Shared, header: &Header) {
        if !matches!(self.state, State::LoggingOut { .. }) {
            return self.fail(shared, "the target answers a logout that nobody asked for");
        }
        self.wait_ns = u64::from(header.u16(40)).saturating_mul(SECOND_NS);
        self.state = if shared.closing { State::Finished } else { State::Broken };
        self.output.clear();
        self.sending = None;
    }
}

fn lun_of(header: &Header) -> [u8; 8] {
    let mut lun = [0; 8];
    for (target, source) in lun.iter_mut().zip(header.0.iter().skip(8)) {
        *target = *source;
    }
    lun
}
