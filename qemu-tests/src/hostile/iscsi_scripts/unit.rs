//! What the unit tells about itself, and what it does with ranges that are given back.

use super::super::iscsi_target::Task;
use super::{Act, DEFAULT, Manner, Moment, Pdu, Script, reconnected, response, said, served, stalled};
use storage::iscsi::pdu::{FLAG_FINAL, opcode};

const THIN: Manner = Manner { thin: true, ..DEFAULT };

/// Changes the answer to a question about the unit: its operation code, and of INQUIRY which
/// page, if any.
fn told(pdu: &mut Pdu, moment: &mut Moment<'_>, code: u8, page: Option<u8>, change: fn(&mut Vec<u8>)) {
    let asked = |task: &Task| {
        let inquiry = (task.header.u8(33) & 1, task.header.u8(34));
        task.header.u8(32) == code && (code != 0x12 || inquiry == page.map_or((0, 0), |page| (1, page)))
    };
    if pdu.header.opcode() == opcode::DATA_IN && moment.command.is_some_and(asked) {
        change(&mut pdu.data);
        *moment.marks += 1;
    }
}

/// The same, and the connection ends after a while: what never serves is tried again.
fn never(pdu: &mut Pdu, moment: &mut Moment<'_>, code: u8, change: fn(&mut Vec<u8>)) -> Act {
    told(pdu, moment, code, None, change);
    if moment.connection == 1 && moment.total > 14 { Act::Close } else { Act::Send }
}

/// Refuses a command that the unit promised to know.
fn refused(pdu: &mut Pdu, moment: &mut Moment<'_>, code: u8) -> Act {
    let answers = matches!(pdu.header.opcode(), opcode::SCSI_RESPONSE | opcode::R2T);
    if answers && moment.command.is_some_and(|task| task.header.u8(32) == code) {
        *moment.marks += 1;
        *pdu = response(pdu.header.task_tag(), 2, &[5, 0x20, 0]);
    }
    Act::Send
}

fn commands(run: &super::Run, code: u8) -> usize {
    run.target.seen.iter().filter(|(_, it)| it.opcode() == opcode::SCSI_COMMAND && it.u8(32) == code).count()
}

fn negotiated(run: &super::Run, key: &str) -> Option<String> {
    run.status.negotiated.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone())
}

/// INQUIRY, vital product data, REPORT LUNS, capacity, modes, UNMAP, WRITE SAME.
pub const UNIT: &[Script] = scripts![
    "unit: INQUIRY of nothing", DEFAULT, served(2, 1..=1), |run| negotiated(run, "Product") == Some(String::new()),
        |pdu, moment| {
            told(pdu, moment, 0x12, None, Vec::clear);
            Act::Send
        };
    "unit: INQUIRY with an escape sequence", DEFAULT, served(2, 1..=1),
        |run| negotiated(run, "Product").is_some_and(|it| it.contains("[2J") && !it.contains('\x1b')),
        |pdu, moment| {
            told(pdu, moment, 0x12, None, |data| drop(data.splice(8..12, *b"\x1b[2J")));
            Act::Send
        };
    "unit: INQUIRY longer than was asked for", DEFAULT, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| {
            if moment.connection == 1 {
                told(pdu, moment, 0x12, None, |data| data.resize(1000, b'x'));
            }
            Act::Send
        };
    "unit: a list of pages that runs over its end", DEFAULT, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0), |data| drop(data.splice(2..4, [0xff, 0xff])));
            Act::Send
        };
    "unit: a list of pages that is another page", DEFAULT, served(2, 1..=1),
        |run| negotiated(run, "Identity").is_none(),
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0), |data| drop(data.splice(1..2, [0x83])));
            Act::Send
        };
    "unit: a name that runs over its end", DEFAULT, served(2, 1..=1), |run| negotiated(run, "Identity").is_none(),
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0x83), |data| drop(data.splice(7..8, [0xff])));
            Act::Send
        };
    "unit: names of no octets, one after the other", DEFAULT, served(2, 1..=1),
        |run| negotiated(run, "Identity").is_none(),
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0x83), |data| {
                *data = [&[0, 0x83, 3, 0xfc][..], &[1, 3, 0, 0].repeat(255)].concat();
            });
            Act::Send
        };
    "unit: another disk at the next login", DEFAULT, stalled("another disk", 4), |run| said(run, "another disk"),
        |pdu, moment| {
            let capacity = moment.command.is_some_and(|task| task.header.u8(32) == 0x9e);
            if moment.connection == 1 {
                return if capacity { Act::Close } else { Act::Send };
            }
            told(pdu, moment, 0x12, Some(0x83), |data| drop(data.splice(15..16, [2])));
            Act::Send
        };
    "unit: a list of units that announces 4 GiB", DEFAULT, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0xa0, None, |data| drop(data.splice(..4, [0xff; 4])));
            Act::Send
        };
    "unit: a list of units of three octets", DEFAULT, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0xa0, None, |data| data.truncate(3));
            Act::Send
        };
    "unit: a size that no number holds", DEFAULT, stalled("impossible capacity", 3),
        |run| said(run, "impossible capacity"),
        |pdu, moment| never(pdu, moment, 0x9e, |data| drop(data.splice(..8, [0xff; 8])));
    "unit: blocks of 513 octets", DEFAULT, stalled("impossible capacity", 3),
        |run| said(run, "impossible capacity"),
        |pdu, moment| never(pdu, moment, 0x9e, |data| drop(data.splice(8..12, [0, 0, 2, 1])));
    "unit: blocks of no octets", DEFAULT, stalled("impossible capacity", 3),
        |run| said(run, "impossible capacity"),
        |pdu, moment| never(pdu, moment, 0x9e, |data| drop(data.splice(8..12, [0; 4])));
    "unit: a size cut short", DEFAULT, stalled("impossible capacity", 3), |run| said(run, "impossible capacity"),
        |pdu, moment| never(pdu, moment, 0x9e, |data| data.truncate(9));
    "unit: modes of one octet", DEFAULT, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0x1a, None, |data| data.truncate(1));
            Act::Send
        };
    "unit: modes that run over their end", DEFAULT, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0x1a, None, |data| drop(data.splice(.., [0xff, 0, 0, 0xff])));
            Act::Send
        };
    "discard: as it may be", THIN, served(2, 1..=1),
        |run| commands(run, 0x42) == 3 && commands(run, 0x93) == 3, |_, _| Act::Send;
    "discard: limits of one block", THIN, served(5, 1..=1),
        |run| commands(run, 0x42) == 60 && commands(run, 0x93) == 36,
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0xb0), |data| {
                drop(data.splice(20..24, [0, 0, 0, 1]));
                drop(data.splice(36..44, [0, 0, 0, 0, 0, 0, 0, 1]));
            });
            Act::Send
        };
    "discard: limits beyond all disks", THIN, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0xb0), |data| data.iter_mut().skip(4).for_each(|it| *it = 0xff));
            Act::Send
        };
    "discard: limits of a data transfer of one block", THIN, served(5, 1..=1),
        |run| commands(run, 0x8a) > 150,
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0xb0), |data| drop(data.splice(8..12, [0, 0, 0, 1])));
            Act::Send
        };
    "discard: limits on a page of four octets", THIN, served(2, 1..=1), |run| run.target.marks == 1,
        |pdu, moment| {
            told(pdu, moment, 0x12, Some(0xb0), |data| data.truncate(4));
            Act::Send
        };
    "discard: UNMAP is refused though it was promised", THIN, served(5, 1..=1),
        |run| run.target.marks > 0 && commands(run, 0x93) > 3,
        |pdu, moment| refused(pdu, moment, 0x42);
    "discard: WRITE SAME of zeroes is refused though it was promised", THIN, served(5, 1..=1),
        |run| run.target.marks > 0 && commands(run, 0x8a) > 15,
        |pdu, moment| refused(pdu, moment, 0x93);
    "discard: UNMAP is answered twice", THIN, served(5, 2..=2), reconnected,
        |pdu, moment| {
            let unmap = moment.command.is_some_and(|task| task.header.u8(32) == 0x42);
            let twice = unmap && moment.connection == 1 && pdu.header.opcode() == opcode::SCSI_RESPONSE;
            if twice { Act::Twice } else { Act::Send }
        };
    "discard: UNMAP is answered with data", THIN, served(5, 2..=2), |run| said(run, "data out of order"),
        |pdu, moment| {
            let unmap = moment.command.is_some_and(|task| task.header.u8(32) == 0x42);
            if unmap && moment.connection == 1 && pdu.header.opcode() == opcode::SCSI_RESPONSE {
                *pdu = Pdu::new(opcode::DATA_IN, FLAG_FINAL | 1, pdu.header.task_tag()).with(&[0; 512]);
            }
            Act::Send
        };
];
