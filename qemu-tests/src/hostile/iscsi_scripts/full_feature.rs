//! The full feature phase.

use super::super::MS;
use super::{
    Act, DEFAULT, DIGESTS, Expected, Manner, Moment, Pdu, Script, count, early, event, once, ping,
    reconnected, reject, response, said, served, stalled, unasked,
};
use storage::iscsi::pdu::{FLAG_FINAL, opcode};

fn add(pdu: &mut Pdu, at: usize, value: u32) {
    let field = pdu.header.u32(at).wrapping_add(value);
    pdu.header.set_u32(at, field);
}

/// Changes the first Data-In of a read.
fn first_data(pdu: &mut Pdu, moment: &Moment<'_>, change: fn(&mut Pdu)) -> Act {
    if early(pdu, moment, opcode::DATA_IN) && pdu.header.u32(36) == 0 && pdu.header.u8(1) & FLAG_FINAL == 0 {
        change(pdu);
    }
    Act::Send
}

/// Changes the first request for data.
fn first_ask(pdu: &mut Pdu, moment: &Moment<'_>, change: fn(&mut Pdu)) -> Act {
    if once(pdu, moment, opcode::R2T, 0) {
        change(pdu);
    }
    Act::Send
}

/// Answers the first two commands that write another way.
fn instead(pdu: &mut Pdu, moment: &mut Moment<'_>, status: u8, sense: &[u8]) -> Act {
    if early(pdu, moment, opcode::SCSI_RESPONSE) && *moment.marks < 2 {
        *moment.marks += 1;
        *pdu = response(pdu.header.task_tag(), status, sense);
    }
    Act::Send
}

/// Numbers of commands and answers, the window of commands.
pub const COMMANDS: &[Script] = scripts![
    "numbers: a window of one command", Manner { window: 1, ..DEFAULT }, served(5, 1..=1),
        |run| run.status.paths.iter().any(|path| path.negotiated.iter().any(|(key, value)| {
            *key == "CommandWindow" && (value == "1" || value == "0")
        })), |_, _| Act::Send;
    "numbers: the window closes for two seconds amid the work", DEFAULT, served(10, 1..=1),
        |run| run.finished_ns > Some(2000 * MS),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                *moment.window = 0;
                moment.after.push(ping(0x66));
                *moment.silence_ms = 2000;
            } else if pdu.header.opcode() != opcode::LOGIN_RESPONSE {
                *moment.window = 16;
            }
            Act::Send
        };
    "numbers: a window that ends before it begins is ignored", DEFAULT, served(5, 1..=1),
        |run| run.target.marks > 0 && run.errors.is_empty(),
        |pdu, moment| {
            let expected = 500;
            if pdu.header.opcode() == opcode::DATA_IN && pdu.header.u8(1) & FLAG_FINAL == 0 {
                pdu.header.set_u32(28, expected);
                pdu.header.set_u32(32, expected - 2);
                *moment.marks += 1;
            }
            Act::Send
        };
    "numbers: a status number left out", DEFAULT, served(5, 2..=2), |run| said(run, "lost count"),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                pdu.header.set_u32(24, 0x0123_4567);
            }
            Act::Send
        };
    "numbers: an answer twice", DEFAULT, served(5, 2..=2), reconnected,
        |pdu, moment| if once(pdu, moment, opcode::SCSI_RESPONSE, 4) { Act::Twice } else { Act::Send };
    "answers: to a command that was never sent", DEFAULT, served(5, 2..=2),
        |run| said(run, "a response to no command"),
        |pdu, moment| unasked(pdu, moment, response(0x7777_7777, 0, &[]));
    "answers: none to one write, for ever", DEFAULT, served(50, 1..=1), |run| count(run, opcode::MANAGEMENT) == 1,
        |pdu, moment| if once(pdu, moment, opcode::SCSI_RESPONSE, 3) { Act::Drop } else { Act::Send };
    "answers: a write is good before its data was asked for", DEFAULT, served(5, 2..=2),
        |run| said(run, "before its data was sent"),
        |pdu, moment| {
            if once(pdu, moment, opcode::R2T, 0) {
                *pdu = response(pdu.header.task_tag(), 0, &[]);
            }
            Act::Send
        };
    "answers: the target failed internally", DEFAULT, served(10, 1..=1), |run| said(run, "failed internally"),
        |pdu, moment| {
            if early(pdu, moment, opcode::SCSI_RESPONSE) && moment.nth < 4 {
                pdu.header.set(2, &[1]);
            }
            Act::Send
        };
    "answers: busy", DEFAULT, served(10, 1..=1), |run| said(run, "busy"),
        |pdu, moment| instead(pdu, moment, 0x08, &[]);
    "answers: the task set is full", DEFAULT, served(10, 1..=1), |run| said(run, "task set is full"),
        |pdu, moment| instead(pdu, moment, 0x28, &[]);
    "answers: unit attention", DEFAULT, served(5, 1..=1), |run| run.target.marks == 2,
        |pdu, moment| instead(pdu, moment, 2, &[6, 0x29, 0]);
    "answers: unit attention for ever", DEFAULT, stalled("again and again", 4),
        |run| count(run, opcode::SCSI_COMMAND) < 3000 && said(run, "again and again"),
        |pdu, moment| {
            let moves = moment.command.is_some_and(super::super::iscsi_target::Task::moves);
            if moves && pdu.header.opcode() == opcode::R2T {
                return Act::Drop;
            }
            if moves {
                *pdu = response(pdu.header.task_tag(), 2, &[6, 0x29, 0]);
            }
            if moment.connection == 1 && moment.total > 60 { Act::Close } else { Act::Send }
        };
    "answers: the command was aborted", DEFAULT, served(10, 1..=1), |run| run.target.marks == 2,
        |pdu, moment| instead(pdu, moment, 2, &[0xb, 0, 0]);
    "answers: a status that does not exist", DEFAULT, Expected::Failed { requests: 1 },
        |run| run.target.marks == 1,
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && *moment.marks == 0 {
                *moment.marks += 1;
                *pdu = response(pdu.header.task_tag(), 0x7e, &[]);
            }
            // The rest of that answer is not sent.
            let ended = moment.command.is_none() && pdu.header.opcode() == opcode::DATA_IN;
            if ended { Act::Drop } else { Act::Send }
        };
    "answers: sense data that lies about its length", DEFAULT, served(10, 1..=3), |run| run.target.marks == 2,
        |pdu, moment| {
            let before = *moment.marks;
            instead(pdu, moment, 2, &[6, 0x29, 0]);
            if let Some(length) = pdu.data.first_mut().filter(|_| *moment.marks > before) {
                *length = 0xff;
            }
            Act::Send
        };
    "task management: answered before it was asked", DEFAULT, served(5, 2..=2), |run| said(run, "not asked"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(opcode::MANAGEMENT_RESPONSE, FLAG_FINAL, 9));
];

/// Data in both directions.
pub const DATA: &[Script] = scripts![
    "data in: a number left out", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| first_data(pdu, moment, |pdu| add(pdu, 36, 1));
    "data in: an offset too far", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| first_data(pdu, moment, |pdu| add(pdu, 40, 512));
    "data in: beyond the end of the buffer", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| first_data(pdu, moment, |pdu| pdu.header.set_u32(40, 0xffff_f000));
    "data in: more than was read", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| first_data(pdu, moment, |pdu| pdu.data.resize(60_000, 7));
    "data in: for a command that writes", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| {
            if once(pdu, moment, opcode::R2T, 0) {
                let tag = pdu.header.task_tag();
                *pdu = Pdu::new(opcode::DATA_IN, 0, tag).with(&[0; 512]);
                pdu.counts = false;
            }
            Act::Send
        };
    "data in: for no command", DEFAULT, served(5, 2..=2), |run| said(run, "data for no command"),
        |pdu, moment| {
            let mut stray = Pdu::new(opcode::DATA_IN, FLAG_FINAL, 0x7777_7777).with(&[9; 512]);
            stray.counts = false;
            unasked(pdu, moment, stray)
        };
    "data in: good status and half the data", DEFAULT, served(5, 2..=2), |run| said(run, "came back short"),
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && pdu.header.u8(1) & 1 != 0 {
                let half = pdu.data.len() / 2;
                pdu.data.truncate(half);
            }
            Act::Send
        };
    "data in: status with the data, and once more by itself", DEFAULT, served(5, 2..=2),
        |run| said(run, "a response to no command"),
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && pdu.header.u8(1) & 1 != 0 {
                moment.after.push(response(pdu.header.task_tag(), 0, &[]));
            }
            Act::Send
        };
    "data in: status by itself", DEFAULT, served(2, 1..=1),
        |run| run.target.marks > 0 && run.errors.is_empty(),
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && pdu.header.u8(1) & 1 != 0 {
                *moment.marks += 1;
                pdu.header.set(1, &[FLAG_FINAL]);
                pdu.counts = false;
                moment.after.push(response(pdu.header.task_tag(), 0, &[]));
            }
            Act::Send
        };
    "data in: an acknowledgement is asked for (A bit)", DEFAULT, served(2, 1..=1),
        |run| run.target.marks > 0,
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && pdu.header.u8(1) & FLAG_FINAL == 0 {
                *moment.marks += 1;
                pdu.header.set(1, &[0x40]);
            }
            Act::Send
        };
    "data in: the end in an empty PDU", DEFAULT, served(2, 1..=1), |run| run.target.marks > 0,
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) && pdu.header.u8(1) & 1 != 0 {
                *moment.marks += 1;
                let mut last = Pdu::new(opcode::DATA_IN, FLAG_FINAL | 1, pdu.header.task_tag());
                last.header.set_u32(36, pdu.header.u32(36) + 1);
                let length = u32::try_from(pdu.data.len()).unwrap_or(0);
                last.header.set_u32(40, pdu.header.u32(40) + length);
                pdu.header.set(1, &[0]);
                pdu.counts = false;
                moment.after.push(last);
            }
            Act::Send
        };
    "data out: asked for from the wrong offset", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| add(pdu, 40, 4));
    "data out: asked for once more", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| pdu.header.set_u32(40, 0));
    "data out: asked for beyond the end", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| add(pdu, 44, 60_000));
    "data out: nothing asked for", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| pdu.header.set_u32(44, 0));
    "data out: more asked for than a burst", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| pdu.header.set_u32(44, 0xffff_ffff));
    "data out: a number left out", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| first_ask(pdu, moment, |pdu| add(pdu, 36, 1));
    "data out: asked for by a command that reads", DEFAULT, served(5, 2..=2), |run| said(run, "writes nothing"),
        |pdu, moment| {
            if early(pdu, moment, opcode::DATA_IN) {
                let tag = pdu.header.task_tag();
                *pdu = Pdu::new(opcode::R2T, FLAG_FINAL, tag);
                pdu.counts = false;
                pdu.header.set_u32(44, 512);
            }
            Act::Send
        };
    "data out: asked for by no command", DEFAULT, served(5, 2..=2), |run| said(run, "for no command"),
        |pdu, moment| {
            let mut ask = Pdu::new(opcode::R2T, FLAG_FINAL, 0x7777_7777);
            ask.counts = false;
            ask.header.set_u32(44, 512);
            unasked(pdu, moment, ask)
        };
    "data out: the same request twice", DEFAULT, served(5, 2..=2), |run| said(run, "transfer request out of order"),
        |pdu, moment| if once(pdu, moment, opcode::R2T, 0) { Act::Twice } else { Act::Send };
    "data out: all of it asked for", Manner { initial_r2t: true, ..DEFAULT }, served(5, 1..=1),
        |run| run.status.negotiated.contains(&("InitialR2T", "Yes".into())), |_, _| Act::Send;
];

/// The connection itself: pings, events, rejects, digests, lengths.
pub const CONNECTION: &[Script] = scripts![
    "pings: one that wants an answer", DEFAULT, served(2, 1..=1), |run| count(run, opcode::NOP_OUT) == 1,
        |pdu, moment| unasked(pdu, moment, ping(0x1234));
    "pings: one that wants none", DEFAULT, served(2, 1..=1), |run| run.target.marks > 0,
        |pdu, moment| {
            *moment.marks += 1;
            unasked(pdu, moment, ping(0xffff_ffff))
        };
    "pings: a storm of them", DEFAULT, served(10, 1..=3), |run| count(run, opcode::NOP_OUT) > 500,
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                moment.before.extend((0..900).map(|tag| ping(0x1000 + tag)));
            }
            Act::Send
        };
    "pings: more than could ever be answered", DEFAULT, served(10, 2..=2), |run| said(run, "too many answers"),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                moment.before.extend((0..20_000).map(|tag| ping(0x1000 + tag)));
            }
            Act::Send
        };
    "pings: an answer to one that was not sent", DEFAULT, served(5, 1..=2), |run| run.target.marks > 0,
        |pdu, moment| {
            *moment.marks += 1;
            unasked(pdu, moment, Pdu::new(opcode::NOP_IN, FLAG_FINAL, 0x7777_7777))
        };
    "silence: the connection says nothing any more", DEFAULT, served(15, 2..=2), |run| said(run, "stopped answering"),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 3) {
                *moment.silence_ms = 600_000;
            }
            Act::Send
        };
    "events: log out", DEFAULT, served(5, 2..=2), |run| count(run, opcode::LOGOUT) == 1,
        |pdu, moment| unasked(pdu, moment, event(1, [0, 0, 3]));
    "events: log out, and then silence", DEFAULT, served(10, 2..=2), |run| said(run, "logout timed out"),
        |pdu, moment| {
            if moment.connection == 1 && pdu.header.opcode() == opcode::LOGOUT_RESPONSE {
                return Act::Drop;
            }
            unasked(pdu, moment, event(1, [0, 0, 3]))
        };
    "events: the connection is dropped, come back in 2 s", DEFAULT, served(8, 2..=2),
        |run| run.finished_ns > Some(2000 * MS),
        |pdu, moment| unasked(pdu, moment, event(2, [1, 2, 0]));
    "events: all connections are dropped, come back in an hour", DEFAULT, served(12, 2..=2),
        |run| run.finished_ns > Some(4000 * MS),
        |pdu, moment| unasked(pdu, moment, event(3, [3600, 3600, 0]));
    "events: negotiate anew", DEFAULT, served(5, 1..=2), |run| count(run, opcode::TEXT) >= 1,
        |pdu, moment| unasked(pdu, moment, event(4, [0, 0, 3]));
    "events: sense data of the unit", DEFAULT, served(5, 1..=1), |run| count(run, opcode::SCSI_COMMAND) > 45,
        |pdu, moment| unasked(pdu, moment, event(0, [0; 3]).with(&[0, 18, 0x70, 0, 6, 0, 0, 0, 0, 10]));
    "events: one that does not exist", DEFAULT, served(5, 2..=2), |run| said(run, "unknown event"),
        |pdu, moment| unasked(pdu, moment, event(248, [0; 3]));
    "rejects: a data digest error", DEFAULT, served(5, 2..=2), |run| said(run, "data digest error"),
        |pdu, moment| unasked(pdu, moment, reject(2));
    "rejects: a protocol error", DEFAULT, served(5, 2..=2), |run| said(run, "protocol error"),
        |pdu, moment| unasked(pdu, moment, reject(4));
    "rejects: a reason that does not exist", DEFAULT, served(5, 2..=2), |run| said(run, "rejected"),
        |pdu, moment| unasked(pdu, moment, reject(0xee));
    "rejects: nothing in it", DEFAULT, served(5, 2..=2), |run| said(run, "rejected"),
        |pdu, moment| {
            let mut empty = reject(9);
            empty.data.clear();
            unasked(pdu, moment, empty)
        };
    "text: unasked", DEFAULT, served(5, 2..=2), |run| said(run, "a text response to no request"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(opcode::TEXT_RESPONSE, FLAG_FINAL, 7).with(b"A=1\0"));
    "text: a flood in pieces without end", DEFAULT, served(10, 2..=2), |run| said(run, "floods us with text"),
        |pdu, moment| {
            if pdu.header.opcode() == opcode::TEXT_RESPONSE && moment.connection == 1 {
                pdu.header.set(1, &[0x40]);
                pdu.header.set_u32(20, 0x99);
                pdu.data = vec![b'y'; 8000];
                return Act::Send;
            }
            unasked(pdu, moment, event(4, [0, 0, 3]))
        };
    "phase: a login response in the full feature phase", DEFAULT, served(5, 2..=2), |run| said(run, "unknown PDU"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(opcode::LOGIN_RESPONSE, 0x84, 7));
    "phase: a logout response unasked", DEFAULT, served(5, 2..=2), |run| said(run, "nobody asked for"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(opcode::LOGOUT_RESPONSE, FLAG_FINAL, 7));
    "phase: an initiator's PDU", DEFAULT, served(5, 2..=2), |run| said(run, "unknown PDU"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(opcode::SCSI_COMMAND, FLAG_FINAL, 7));
    "phase: an operation code that does not exist", DEFAULT, served(5, 2..=2), |run| said(run, "unknown PDU"),
        |pdu, moment| unasked(pdu, moment, Pdu::new(0x3c, FLAG_FINAL, 7));
    "digests: a header's is wrong", DIGESTS, served(5, 2..=2), |run| said(run, "header digest was wrong"),
        |pdu, moment| if once(pdu, moment, opcode::SCSI_RESPONSE, 4) { Act::Flip(8 * 28 + 3) } else { Act::Send };
    "digests: a header's own octets are wrong", DIGESTS, served(5, 2..=2), |run| said(run, "header digest was wrong"),
        |pdu, moment| if once(pdu, moment, opcode::SCSI_RESPONSE, 4) { Act::Flip(8 * 50) } else { Act::Send };
    "digests: of data, wrong", DIGESTS, served(5, 2..=2), |run| said(run, "data digest was wrong"),
        |pdu, moment| if early(pdu, moment, opcode::DATA_IN) { Act::Flip(8 * 300) } else { Act::Send };
    "digests: of data, wrong in every answer of three connections", DIGESTS, served(10, 4..=4),
        |run| run.status.counters.digest_errors == 3,
        |pdu, moment| {
            let moves = moment.command.is_some_and(super::super::iscsi_target::Task::moves);
            let data = pdu.header.opcode() == opcode::DATA_IN && moves && moment.connection <= 3;
            if data { Act::Flip(8 * 300) } else { Act::Send }
        };
    "lengths: a data segment of 16 MiB is announced", DEFAULT, served(5, 2..=2), |run| said(run, "segment was too long"),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                pdu.header.set_data_length(0x00ff_ffff);
            }
            Act::Send
        };
    "lengths: more data is announced than comes", DEFAULT, served(20, 2..=2), |run| said(run, "stopped answering")
            || said(run, "lost count") || said(run, "unknown PDU") || said(run, "no command"),
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                pdu.header.set_data_length(40_000);
            }
            Act::Send
        };
    "lengths: additional header segments of nothing known", DEFAULT, served(20, 2..=2), reconnected,
        |pdu, moment| {
            if once(pdu, moment, opcode::SCSI_RESPONSE, 4) {
                pdu.header.set(4, &[255]);
            }
            Act::Send
        };
    "torn: the connection ends within a header", DEFAULT, served(5, 2..=2), reconnected,
        |pdu, moment| if once(pdu, moment, opcode::SCSI_RESPONSE, 4) { Act::Cut(20) } else { Act::Send };
    "torn: the connection ends within data", DEFAULT, served(5, 2..=2), reconnected,
        |pdu, moment| if early(pdu, moment, opcode::DATA_IN) { Act::Cut(700) } else { Act::Send };
    "torn: every connection ends after its thirtieth PDU", DEFAULT, served(60, 3..=30), reconnected,
        |_, moment| if moment.total == 30 { Act::Close } else { Act::Send };
];
