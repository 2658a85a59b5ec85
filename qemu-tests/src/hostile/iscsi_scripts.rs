//! What an iSCSI target may do wrong, by the subjects of the published initiator
//! tests.
//!
//! Spec: RFC 7143; the subjects are those of UNH-IOL's login and full feature phase
//! suites for initiators. Their test of error recovery by SNACK does not apply: this
//! initiator declares level 0.

use super::iscsi_run::{Expected, Run};
use super::iscsi_target::{Act, Manner, Mischief, Moment, Pdu, response};
use storage::iscsi::pdu::{FLAG_FINAL, opcode};

/// A script: what a target does to a session with a disk, or to another initiator; it tells what
/// must come of it and what was seen.
pub struct Script<E = Expected, R: 'static = Run> {
    /// What the target does.
    pub name: &'static str,
    /// How it is otherwise.
    pub manner: Manner,
    /// Its mischief.
    pub mischief: Mischief,
    /// What must come of it.
    pub expected: E,
    /// That the mischief took place and was seen as what it is: false for an honest
    /// target.
    pub seen: fn(&R) -> bool,
}

const fn served(seconds: u64, connections: std::ops::RangeInclusive<usize>) -> Expected {
    Expected::Served { seconds, connections }
}

const fn stalled(words: &'static str, connections: usize) -> Expected {
    Expected::Stalled { words, connections }
}

const DEFAULT: Manner = Manner::DEFAULT;
const DIGESTS: Manner = Manner { digests: true, ..Manner::DEFAULT };

/// The first PDU of a kind on the first connection.
fn once(pdu: &Pdu, moment: &Moment<'_>, code: u8, nth: usize) -> bool {
    moment.connection == 1 && pdu.header.opcode() == code && moment.nth == nth
}

/// The answer to a command that reads or writes, the first so often.
fn early(pdu: &Pdu, moment: &Moment<'_>, code: u8) -> bool {
    let moves = moment.command.is_some_and(super::iscsi_target::Task::moves);
    moment.connection == 1 && pdu.header.opcode() == code && moves
}

fn login_stage(pdu: &Pdu, stage: u8) -> bool {
    pdu.header.opcode() == opcode::LOGIN_RESPONSE && (pdu.header.u8(1) >> 2) & 3 == stage
}

fn said(run: &Run, words: &str) -> bool {
    run.errors.iter().any(|error| error.contains(words))
}

fn reconnected(run: &Run) -> bool {
    run.target.connections > 1
}

/// Login responses of a class and detail.
fn status(pdu: &mut Pdu, class: u8, detail: u8) -> Act {
    if pdu.header.opcode() == opcode::LOGIN_RESPONSE {
        pdu.header.set(36, &[class, detail]);
        pdu.data.clear();
    }
    Act::Send
}

macro_rules! scripts {
    ($($name:literal, $manner:expr, $expected:expr, $seen:expr, $mischief:expr;)*) => {
        &[$(Script { name: $name, manner: $manner, mischief: $mischief, expected: $expected, seen: $seen }),*]
    };
}

/// The login phase.
pub const LOGIN: &[Script] = scripts![
    "login: the connection ends before the answer, three times", DEFAULT, served(10, 4..=4), reconnected,
        |_, moment| if moment.connection <= 3 { Act::Close } else { Act::Send };
    "login: the connection ends within the answer", DEFAULT, served(5, 2..=2), reconnected,
        |pdu, moment| if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) { Act::Cut(31) } else { Act::Send };
    "login: the connection ends after the first answer", DEFAULT, served(5, 2..=2), reconnected,
        |pdu, moment| if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) { Act::SendAndClose } else { Act::Send };
    "login: silence", DEFAULT, served(30, 2..=2), |run| said(run, "the login timed out"),
        |_, moment| if moment.connection == 1 { Act::Drop } else { Act::Send };
    "login: no end of answers", DEFAULT, served(30, 2..=2), |run| said(run, "the login does not end"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.header.set(1, &[0x04]);
            }
            Act::Send
        };
    "login: a flood of text in pieces without end", DEFAULT, served(30, 2..=2),
        |run| said(run, "the login text is too long") || said(run, "the login does not end"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 0) {
                pdu.header.set(1, &[0x40]);
                pdu.data = vec![b'x'; 8000];
            }
            Act::Send
        };
    "login: text in pieces, as it may be", DEFAULT, served(2, 1..=1), |run| run.target.texts.contains("X-seen"),
        |pdu, moment| {
            if login_stage(pdu, 1) && moment.nth == 1 {
                pdu.header.set(1, &[0x44]);
                pdu.data = b"X-seen=1\0Initial".to_vec();
            } else if login_stage(pdu, 1) && moment.nth == 2 {
                pdu.data = b"R2T=Yes\0MaxRecvDataSegmentLength=4096\0HeaderDigest=None\0DataDigest=None\0\
                    FirstBurstLength=8192\0MaxBurstLength=16384\0".to_vec();
                pdu.header.set(1, &[0x04]);
            }
            Act::Send
        };
    "login: transit and continue at once", DEFAULT, served(5, 2..=2), |run| said(run, "amid its text"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(1, &[0xc1]);
            }
            Act::Send
        };
    "login: an answer of another stage", DEFAULT, served(5, 2..=2), |run| said(run, "another login stage"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(1, &[0x87]);
            }
            Act::Send
        };
    "login: straight to the full feature phase", DEFAULT, served(5, 2..=2), |run| said(run, "skipped a login stage"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(1, &[0x83]);
            }
            Act::Send
        };
    "login: a reserved stage", DEFAULT, served(5, 2..=2), |run| said(run, "skipped a login stage"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(1, &[0x82]);
            }
            Act::Send
        };
    "login: another PDU instead", DEFAULT, served(5, 2..=2), |run| said(run, "something else during login"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(0, &[opcode::NOP_IN]);
            }
            Act::Send
        };
    "login: data before its end", DEFAULT, served(5, 2..=2), |run| said(run, "data before the login ended"),
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 1) {
                moment.before.push(Pdu::new(opcode::DATA_IN, FLAG_FINAL, 5).with(&[0; 512]));
            }
            Act::Send
        };
    "login: authentication failed", DEFAULT, stalled("authentication failed", 60),
        |run| said(run, "authentication failed"), |pdu, _| status(pdu, 2, 1);
    "login: not authorised", DEFAULT, stalled("not authorised", 60), |run| said(run, "not authorised"),
        |pdu, _| status(pdu, 2, 2);
    "login: no such target", DEFAULT, stalled("no such target", 60), |run| said(run, "no such target"),
        |pdu, _| status(pdu, 2, 3);
    "login: a class of status that does not exist", DEFAULT, stalled("login refused", 60),
        |run| said(run, "login refused"), |pdu, _| status(pdu, 0x7f, 0x7f);
    "login: service unavailable for a while", DEFAULT, served(15, 5..=5), |run| said(run, "service unavailable"),
        |pdu, moment| if moment.connection <= 4 { status(pdu, 3, 1) } else { Act::Send };
    "login: out of resources for a while", DEFAULT, served(5, 3..=3), |run| said(run, "out of resources"),
        |pdu, moment| if moment.connection <= 2 { status(pdu, 3, 2) } else { Act::Send };
    "login: redirected once", DEFAULT, served(5, 2..=2), |run| run.portals == [3, 99],
        |pdu, moment| {
            if once(pdu, moment, opcode::LOGIN_RESPONSE, 0) {
                pdu.header.set(36, &[1, 1]);
                pdu.data = b"TargetAddress=10.0.0.99:3260,1\0".to_vec();
            }
            Act::Send
        };
    "login: redirected for ever", DEFAULT, stalled("redirected", 240),
        |run| run.portals.starts_with(&[3, 99, 99, 99, 99, 3]),
        |pdu, _| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE {
                pdu.header.set(36, &[1, 2]);
                pdu.data = b"TargetAddress=10.0.0.99:3260,1\0".to_vec();
            }
            Act::Send
        };
    "login: redirected nowhere", DEFAULT, served(5, 2..=2), |run| said(run, "redirected us nowhere"),
        |pdu, moment| if moment.connection == 1 { status(pdu, 1, 1) } else { Act::Send };
    "login: redirected to nonsense", DEFAULT, served(5, 2..=2), |run| said(run, "redirected us nowhere"),
        |pdu, moment| {
            if moment.connection == 1 {
                pdu.header.set(36, &[1, 1]);
                pdu.data = b"TargetAddress=300.1.2.3:99999,x\0".to_vec();
            }
            Act::Send
        };
    "login: a key that nobody knows", DEFAULT, served(2, 1..=1),
        |run| run.target.texts.contains("X-org.example.key=NotUnderstood"),
        |pdu, _| {
            if login_stage(pdu, 0) {
                pdu.data.extend_from_slice(b"X-org.example.key=1\0");
            }
            Act::Send
        };
    "login: text without an equals sign", DEFAULT, served(5, 2..=2), |run| said(run, "malformed"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"HeaderDigest\0".to_vec();
            }
            Act::Send
        };
    "login: a digest that was not offered", DEFAULT, served(5, 2..=2), |run| said(run, "a digest that was not offered"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"HeaderDigest=CRC64\0".to_vec();
            }
            Act::Send
        };
    "login: a higher recovery level", DEFAULT, served(5, 2..=2), |run| said(run, "raised the recovery level"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"ErrorRecoveryLevel=2\0".to_vec();
            }
            Act::Send
        };
    "login: a segment length of zero", DEFAULT, served(5, 2..=2), |run| said(run, "out of range"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"MaxRecvDataSegmentLength=0\0".to_vec();
            }
            Act::Send
        };
    "login: numbers that are none", DEFAULT, served(5, 2..=2), |run| said(run, "malformed"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"MaxBurstLength=99999999999999999999\0".to_vec();
            }
            Act::Send
        };
    "login: data out of order is wanted", DEFAULT, served(5, 2..=2), |run| said(run, "order of data"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"DataPDUInOrder=No\0".to_vec();
            }
            Act::Send
        };
    "login: CHAP is demanded and nobody has a secret", DEFAULT, stalled("login refused", 60),
        |run| said(run, "demands authentication"),
        |pdu, _| {
            if login_stage(pdu, 0) {
                pdu.data = b"AuthMethod=CHAP\0".to_vec();
            }
            Act::Send
        };
    "login: segments of 512 octets", Manner { segment: 512, ..DEFAULT }, served(3, 1..=1),
        |run| run.status.negotiated.contains(&("TargetMaxRecvDataSegmentLength", "512".into())), |_, _| Act::Send;
    "login: status numbers that wrap", Manner { status_number: u32::MAX - 3, ..DEFAULT }, served(2, 1..=1),
        |run| run.target.seen.iter().any(|(_, header)| header.u32(28) > u32::MAX - 4), |_, _| Act::Send;
    "login: a window closed from the start, opened by a ping", DEFAULT, served(5, 1..=1),
        |run| run.finished_ns > Some(super::SECOND),
        |pdu, moment| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE && moment.nth == 1 {
                *moment.window = 0;
                moment.after.push(Pdu::new(opcode::NOP_IN, FLAG_FINAL, 0xffff_ffff));
                if let Some(ping) = moment.after.last_mut() {
                    ping.counts = false;
                    ping.header.set_u32(20, 0x55);
                }
                *moment.silence_ms = 1200;
            } else if pdu.header.opcode() == opcode::NOP_IN {
                *moment.window = 16;
            }
            Act::Send
        };
];

/// An unsolicited PDU before the first answer to a write.
fn unasked(pdu: &Pdu, moment: &mut Moment<'_>, stray: Pdu) -> Act {
    if early(pdu, moment, opcode::SCSI_RESPONSE) && *moment.marks == 0 {
        *moment.marks += 1;
        moment.before.push(stray);
    }
    Act::Send
}

/// An event of the target's.
pub(super) fn event(code: u8, parameters: [u16; 3]) -> Pdu {
    let mut pdu = Pdu::new(opcode::ASYNC, FLAG_FINAL, 0xffff_ffff);
    pdu.header.set(20, &[0; 4]);
    pdu.header.set(36, &[code, 0]);
    for (at, parameter) in parameters.into_iter().enumerate() {
        pdu.header.set(38 + 2 * at, &parameter.to_be_bytes());
    }
    pdu
}

pub(super) fn ping(transfer_tag: u32) -> Pdu {
    let mut pdu = Pdu::new(opcode::NOP_IN, FLAG_FINAL, 0xffff_ffff);
    pdu.counts = false;
    pdu.header.set_u32(20, transfer_tag);
    pdu
}

pub(super) fn reject(reason: u8) -> Pdu {
    let mut pdu = Pdu::new(opcode::REJECT, FLAG_FINAL, 0xffff_ffff).with(&[1; 48]);
    pdu.header.set(2, &[reason]);
    pdu.header.set(20, &[0; 4]);
    pdu
}

fn count(run: &Run, code: u8) -> usize {
    run.target.seen.iter().filter(|(_, header)| header.opcode() == code).count()
}

mod full_feature;
mod negotiation;
mod unit;
pub use full_feature::{COMMANDS, CONNECTION, DATA};
pub use negotiation::NEGOTIATION;
pub use unit::UNIT;
