//! From requests to SCSI commands and back.

use super::{
    Active, BACKOFF_FIRST_NS, BACKOFF_NS_MAX, BlockError, Capacity, Completion, FLAG_FINAL, Header,
    ISCSI_COMMAND_SECTORS_MAX, ISCSI_COMMANDS_MAX, NO_TAG, OUTPUT_AHEAD, Operation, Outgoing, Probe,
    REQUESTS_MAX, Request, RequestId, SECTOR_BYTES, Sense, Sequence, Session, SessionKind, Source, State,
    SubmitError, Task, TaskKind, Vec, VecDeque, Verdict, opcode, scsi, serial_after, text,
};
use alloc::string::String;

impl Session {
    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    pub fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        if self.order.len().saturating_add(self.completions.len()) >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        self.order.submit(request, now_ns)
    }

    /// The submitter was reset and its memory is void: all requests are forgotten,
    /// none completes. The next login makes the target drop what is under way.
    pub fn abandon(&mut self) {
        self.order.clear();
        self.active.clear();
        self.completions.clear();
        if !self.tasks.is_empty() && matches!(self.state, State::Login | State::Full) {
            self.fail("the guest was reset");
        }
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        self.order.unfinished()
    }

    /// LUN field, single-level format (SAM-5 4.6.6: flat space above 255).
    fn lun(&self) -> [u8; 8] {
        let SessionKind::Normal { lun, .. } = self.config.kind else { return [0; 8] };
        let [high, low] = lun.to_be_bytes();
        let high = if high == 0 { 0 } else { 0x40 | (high & 0x3f) };
        [high, low, 0, 0, 0, 0, 0, 0]
    }

    /// Starts commands while the target's window and our queue have room.
    pub(super) fn fill_output(&mut self) {
        while self.state == State::Full && self.output.len() < OUTPUT_AHEAD {
            let window = !serial_after(self.command_number, self.command_number_max);
            if !window || self.tasks.len() >= ISCSI_COMMANDS_MAX || self.resume_ns > self.now_ns {
                return;
            }
            let Some(kind) = self.next_kind() else { return };
            self.issue(kind);
        }
    }

    fn next_kind(&mut self) -> Option<TaskKind> {
        if self.config.kind == SessionKind::Discovery {
            let first = !core::mem::replace(&mut self.probing, true);
            return first.then_some(TaskKind::Text);
        }
        if self.probe != Probe::Done {
            if core::mem::replace(&mut self.probing, true) {
                return None;
            }
            return Some(match self.probe {
                Probe::TestUnitReady => TaskKind::TestUnitReady,
                Probe::Inquiry => TaskKind::Inquiry,
                Probe::Capacity | Probe::Done => TaskKind::Capacity,
            });
        }
        loop {
            if let Some(kind) = self.next_fragment() {
                return Some(kind);
            }
            self.start_request()?;
        }
    }

    fn next_fragment(&mut self) -> Option<TaskKind> {
        let active = self.active.iter_mut().find(|active| !active.todo.is_empty())?;
        let (first, count) = active.todo.pop_front()?;
        active.in_flight = active.in_flight.saturating_add(1);
        let request = active.request;
        if request.operation == Operation::Flush {
            return Some(TaskKind::Flush { id: request.id });
        }
        let sectors = count.min(ISCSI_COMMAND_SECTORS_MAX);
        if count > sectors {
            active.todo.push_front((first.saturating_add(sectors), count - sectors));
        }
        let write = request.operation == Operation::Write;
        Some(TaskKind::Data { id: request.id, write, first, sectors })
    }

    fn start_request(&mut self) -> Option<()> {
        let (request, _) = self.order.start_next(|_| true)?;
        let capacity = self.capacity?;
        let block = u64::from(capacity.sectors_per_block()).max(1);
        let aligned = request.lba.0 % block == 0 && u64::from(request.sectors) % block == 0;
        if request.operation != Operation::Flush && request.end() > capacity.sectors() {
            self.complete(request.id, Err(BlockError::OutOfRange));
        } else if !aligned || matches!(request.operation, Operation::Discard | Operation::WriteZeroes) {
            self.complete(request.id, Err(BlockError::Unsupported));
        } else {
            self.active.push(Active {
                request,
                todo: VecDeque::from([(0, request.sectors)]),
                unacknowledged: request.sectors,
                in_flight: 0,
                failed: None,
            });
        }
        Some(())
    }

    fn issue(&mut self, kind: TaskKind) {
        let tag = self.fresh_tag();
        if kind == TaskKind::Text {
            self.send_text(tag);
        } else {
            self.send_command(tag, kind);
        }
        self.command_number = self.command_number.wrapping_add(1);
    }

    fn track(&mut self, tag: u32, kind: TaskKind, length: u32, moved: u32) {
        self.tasks.push(Task {
            tag,
            kind,
            length,
            moved,
            data_number: 0,
            r2t_number: 0,
            started_ns: self.now_ns,
            answer: Vec::new(),
        });
    }

    fn send_text(&mut self, tag: u32) {
        let mut request = Vec::new();
        text::push(&mut request, "SendTargets", "All");
        let mut header = Header::new(opcode::TEXT, FLAG_FINAL);
        header.set_data_length(request.len());
        header.set_u32(16, tag);
        header.set_u32(20, NO_TAG);
        header.set_u32(24, self.command_number);
        self.push(header, Source::Own(request));
        self.track(tag, TaskKind::Text, 0, 0);
    }

    /// SCSI Command (11.3), with immediate and unsolicited data as negotiated.
    fn send_command(&mut self, tag: u32, kind: TaskKind) {
        const READ: u8 = 0x40;
        const WRITE: u8 = 0x20;
        const SIMPLE: u8 = 0x01;
        let (cdb, flags, length) = match kind {
            TaskKind::TestUnitReady | TaskKind::Text => (scsi::TEST_UNIT_READY, 0, 0),
            TaskKind::Inquiry => (scsi::INQUIRY, READ, scsi::INQUIRY_BYTES),
            TaskKind::Capacity if self.ten_byte => (scsi::READ_CAPACITY_10, READ, 8),
            TaskKind::Capacity => (scsi::READ_CAPACITY_16, READ, scsi::CAPACITY_BYTES),
            TaskKind::Flush { .. } if self.long_flush => (scsi::SYNCHRONIZE_CACHE_16, 0, 0),
            TaskKind::Flush { .. } => (scsi::SYNCHRONIZE_CACHE_10, 0, 0),
            TaskKind::Data { id, write, first, sectors } => {
                let block = self.capacity.map_or(1, |it| it.sectors_per_block()).max(1);
                let base = self.active(id).map_or(0, |active| active.request.lba.0);
                let lba = base.saturating_add(u64::from(first)) / u64::from(block);
                let cdb = scsi::transfer(write, lba, sectors / block, self.ten_byte);
                let octets = sectors.saturating_mul(512);
                (cdb, if write { WRITE } else { READ }, octets)
            }
        };
        let (immediate, unsolicited) = self.unasked(flags & WRITE != 0, length);
        let last = if unsolicited > immediate { 0 } else { FLAG_FINAL };
        let mut header = Header::new(opcode::SCSI_COMMAND, last | flags | SIMPLE);
        let lun = self.lun();
        header.set(8, &lun);
        header.set_u32(16, tag);
        header.set_u32(20, length);
        header.set_u32(24, self.command_number);
        header.set(32, &cdb);
        let octets = usize::try_from(immediate).unwrap_or(0);
        header.set_data_length(octets);
        let TaskKind::Data { id, first, .. } = kind else {
            self.push(header, Source::Own(Vec::new()));
            return self.track(tag, kind, length, 0);
        };
        let base = usize::try_from(first).unwrap_or(0).saturating_mul(SECTOR_BYTES);
        let source = if octets == 0 {
            Source::Own(Vec::new())
        } else {
            Source::Guest { id, offset: base, length: octets }
        };
        self.push(header, source);
        if unsolicited > immediate {
            self.output.push_back(Outgoing::Sequence(Sequence {
                tag,
                transfer_tag: NO_TAG,
                lun,
                id,
                base,
                offset: immediate,
                end: unsolicited,
                data_number: 0,
            }));
        }
        self.track(tag, kind, length, unsolicited);
    }

    /// Octets sent inside the command, and up to which offset without being asked
    /// (13.10 to 13.14).
    fn unasked(&self, write: bool, length: u32) -> (u32, u32) {
        if !write {
            return (0, 0);
        }
        let burst = length.min(self.negotiated.first_burst);
        let immediate = if self.negotiated.immediate_data {
            let segment = u32::try_from(super::ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
            burst.min(self.negotiated.send_segment).min(segment)
        } else {
            0
        };
        (immediate, if self.negotiated.initial_r2t { immediate } else { burst })
    }

    pub(super) fn active(&mut self, id: RequestId) -> Option<&mut Active> {
        self.active.iter_mut().find(|active| active.request.id == id)
    }

    /// A command's status has come (11.4.1, and Data-In with the S bit).
    pub(super) fn finish_task(&mut self, index: usize, status: u8, sense: Option<Sense>) {
        let task = self.tasks.swap_remove(index);
        let sample = self.now_ns.saturating_sub(task.started_ns).max(1);
        self.srtt_ns =
            Some(self.srtt_ns.map_or(sample, |it| it.saturating_mul(7).saturating_add(sample) / 8));
        let verdict = scsi::judge(status, sense);
        let unsent = self.forget_output(task.tag);
        let writes = matches!(task.kind, TaskKind::Data { write: true, .. });
        if writes && verdict == Verdict::Good && (unsent || task.moved < task.length) {
            self.reissue(&task);
            return self.fail("a write was acknowledged before its data was sent");
        }
        match task.kind {
            TaskKind::Data { .. } | TaskKind::Flush { .. } => self.finish_io(&task, verdict),
            TaskKind::TestUnitReady | TaskKind::Inquiry | TaskKind::Capacity => {
                self.probing = false;
                self.finish_probe(&task, verdict);
            }
            TaskKind::Text => self.fail("the target answered text with a SCSI status"),
        }
    }

    /// Drops what a finished command still had to send; true if there was any.
    fn forget_output(&mut self, tag: u32) -> bool {
        let before = self.output.len();
        self.output.retain(|waiting| !matches!(waiting, Outgoing::Sequence(it) if it.tag == tag));
        self.output.len() != before
    }

    fn finish_probe(&mut self, task: &Task, verdict: Verdict) {
        match (task.kind, verdict) {
            (TaskKind::TestUnitReady, Verdict::Good) => self.probe = Probe::Inquiry,
            (TaskKind::Inquiry, Verdict::Good) => {
                let name = task.answer.get(8..32).unwrap_or_default();
                self.product = name
                    .iter()
                    .map(|octet| if octet.is_ascii_graphic() { char::from(*octet) } else { ' ' })
                    .collect::<String>();
                self.probe = Probe::Capacity;
            }
            (TaskKind::Capacity, Verdict::Good) => {
                let capacity = if self.ten_byte {
                    Capacity::parse_10(&task.answer)
                } else {
                    Capacity::parse_16(&task.answer)
                };
                match capacity {
                    Some(capacity) => self.ready(capacity),
                    None => self.pause("the target reports an impossible capacity"),
                }
            }
            (TaskKind::Capacity, Verdict::NotImplemented | Verdict::Unsupported) if !self.ten_byte => {
                self.ten_byte = true;
            }
            (_, Verdict::Again | Verdict::AgainResized) => {}
            (_, Verdict::Later(why)) => {
                self.refused = true;
                self.pause(why);
            }
            (_, Verdict::Reserved) => {
                self.refused = true;
                self.pause("the logical unit is reserved by another initiator");
            }
            _ => {
                self.refused = true;
                self.pause("the logical unit answers no probe");
            }
        }
    }

    fn ready(&mut self, capacity: Capacity) {
        self.capacity = Some(capacity);
        self.probe = Probe::Done;
        self.served = true;
        self.refused = false;
        self.failures = 0;
        self.pauses = 0;
        self.redirects = 0;
        self.redirect = None;
        self.stalled_since_ns = None;
    }

    fn finish_io(&mut self, task: &Task, verdict: Verdict) {
        let (id, sectors, read) = match task.kind {
            TaskKind::Data { id, write, sectors, .. } => (id, sectors, !write),
            TaskKind::Flush { id } => (id, 0, false),
            _ => return,
        };
        let error = match verdict {
            Verdict::Good if read && task.moved < task.length => {
                // Good status without all data: the target lost count of itself.
                self.reissue(task);
                return self.fail("a read came back short");
            }
            Verdict::Good => None,
            Verdict::Again => return self.reissue_after_attention(task),
            Verdict::AgainResized => {
                self.probe = Probe::Capacity;
                return self.reissue_after_attention(task);
            }
            Verdict::Later(why) => {
                self.reissue(task);
                return self.pause(why);
            }
            Verdict::NotImplemented | Verdict::Unsupported if self.try_other_form(task) => {
                return self.reissue(task);
            }
            Verdict::NotImplemented | Verdict::Unsupported => Some(BlockError::Unsupported),
            Verdict::OutOfRange => Some(BlockError::OutOfRange),
            Verdict::WriteProtected => Some(BlockError::WriteProtected),
            Verdict::Medium => Some(BlockError::Medium),
            Verdict::Reserved => Some(BlockError::Reserved),
        };
        self.pauses = 0;
        self.fragment_done(id, sectors, error);
    }

    /// Commands come in two lengths; targets may know only one.
    fn try_other_form(&mut self, task: &Task) -> bool {
        match task.kind {
            TaskKind::Flush { .. } => !core::mem::replace(&mut self.long_flush, true),
            TaskKind::Data { .. } => !core::mem::replace(&mut self.ten_byte, true),
            _ => false,
        }
    }

    /// A target that raises attention for ever must not spin us.
    fn reissue_after_attention(&mut self, task: &Task) {
        self.reissue(task);
        self.pauses = self.pauses.saturating_add(1);
        if self.pauses > 4 {
            self.pause("the target aborts commands again and again");
        }
    }

    /// Gives an unanswered command's range back to its request.
    pub(super) fn reissue(&mut self, task: &Task) {
        let (id, range) = match task.kind {
            TaskKind::Data { id, first, sectors, .. } => (id, (first, sectors)),
            TaskKind::Flush { id } => (id, (0, 0)),
            _ => return,
        };
        let Some(active) = self.active(id) else { return };
        active.in_flight = active.in_flight.saturating_sub(1);
        if active.failed.is_none() {
            active.todo.push_back(range);
        } else {
            self.fragment_done(id, 0, None);
        }
    }

    pub(super) fn pause(&mut self, why: &'static str) {
        self.last_error = Some(why);
        let doublings = self.pauses.min(16);
        self.pauses = self.pauses.saturating_add(1);
        let pause = BACKOFF_FIRST_NS.saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        let pause = self.random.jitter(pause);
        self.resume_ns = self.now_ns.saturating_add(pause);
    }

    fn fragment_done(&mut self, id: RequestId, sectors: u32, error: Option<BlockError>) {
        let Some(active) = self.active(id) else { return };
        active.in_flight = active.in_flight.saturating_sub(u32::from(sectors > 0 || error.is_some()));
        if active.request.operation == Operation::Flush && error.is_none() {
            active.in_flight = 0;
        }
        active.unacknowledged = active.unacknowledged.saturating_sub(sectors);
        if error.is_some() {
            active.failed = active.failed.or(error);
            active.todo.clear();
        }
        // A failed request ends only when none of its commands can still land.
        let done = active.in_flight == 0
            && active.todo.is_empty()
            && (active.failed.is_some() || active.unacknowledged == 0);
        if done {
            let result = active.failed.map_or(Ok(()), Err);
            self.active.retain(|active| active.request.id != id);
            self.complete(id, result);
        }
    }

    fn complete(&mut self, id: RequestId, result: Result<(), BlockError>) {
        let Some((request, _)) = self.order.finish(id) else { return };
        let octets = u64::from(request.sectors).saturating_mul(SECTOR_BYTES as u64);
        match (result, request.operation) {
            (Err(_), _) => self.counters.failed = self.counters.failed.wrapping_add(1),
            (Ok(()), Operation::Read) => {
                self.counters.bytes_read = self.counters.bytes_read.wrapping_add(octets);
            }
            (Ok(()), Operation::Write) => {
                self.counters.bytes_written = self.counters.bytes_written.wrapping_add(octets);
            }
            (Ok(()), _) => {}
        }
        if result.is_ok() {
            self.counters.completed = self.counters.completed.wrapping_add(1);
        }
        self.completions.push_back(Completion { id, result });
    }
}
