//! An initiator that asks a hostile target for its list of targets, and what that target may
//! answer.
//!
//! Spec: RFC 7143, sections 11.10 and 11.11 (text), appendix C (SendTargets).

use super::iscsi_run::session;
use super::iscsi_scripts::{event, ping, reject};
use super::iscsi_target::{Act, LIST, Manner, Mischief, Moment, Pdu, Target, response};
use super::work::Memory;
use super::{MS, SECOND};
use storage::iscsi::DiscoveredTarget;
use storage::iscsi::pdu::opcode;

/// How long a search may take. A node gives up sooner.
const LIMIT_NS: u64 = 15 * SECOND;
/// The good name and portal of the list.
const GOOD: &str = "iqn.2026-11.io.redoubt:hostile";

/// What must come of a script.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The list has these names with so many portals each, after so many connections.
    Found(&'static [(&'static str, usize)], usize),
    /// So many targets.
    Many(usize),
    /// There is none; the last error has these words.
    Refused(&'static str),
}

/// What a target does to a search.
pub type Script = super::iscsi_scripts::Script<Expected, Run>;

/// What was seen when all was over.
#[derive(Debug)]
pub struct Run {
    /// The target.
    pub target: Target,
    /// The list, if there is one.
    pub found: Option<Vec<DiscoveredTarget>>,
    /// When it was there.
    pub took_ns: u64,
    /// Where was connected to, by the last octet of the address.
    pub portals: Vec<u8>,
    /// The initiator's last words.
    pub last_error: &'static str,
}

/// Asks a target with this mischief.
#[must_use]
pub fn run(manner: Manner, mischief: Mischief) -> Run {
    let manner = Manner { discovery: true, ..manner };
    let (mut target, mut session) = (Target::new(manner, mischief), session(&manner));
    let (mut memory, mut portals, mut buffer) = (Memory::default(), Vec::new(), vec![0; 16_384]);
    let (mut now_ns, mut open) = (0, false);
    while now_ns < LIMIT_NS && !session.discovery_finished() {
        if let Some(portal) = session.connect(0, now_ns) {
            portals.push(portal.address.octets()[3]);
            target.accept();
            open = true;
            session.on_connected(0, now_ns);
        }
        if open {
            let length = session.transmit(0, &mut buffer, now_ns, &mut memory);
            let (answer, closed) = target.exchange(buffer.get(..length).unwrap_or_default(), now_ns / MS);
            for piece in answer.chunks(1 + usize::try_from(now_ns / MS % 977).unwrap_or(0)) {
                session.receive(0, piece, now_ns, &mut memory);
            }
            if closed || session.disconnect_wanted(0) {
                target.disconnect();
                session.on_disconnected(0, now_ns);
                open = false;
            }
        }
        now_ns += MS;
        session.poll(now_ns);
    }
    let found = session.discovery_finished().then(|| session.discovered().to_vec());
    let last_error = session.status().last_error.unwrap_or_default();
    Run { target, found, took_ns: now_ns, portals, last_error }
}

impl Run {
    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self, expected: Expected) -> Vec<String> {
        let mut faults = self.target.faults.clone();
        let texts = &self.target.texts;
        if !texts.contains("SessionType=Discovery") || texts.contains("TargetName=") {
            faults.push("it did not ask for a discovery session".into());
        }
        match (expected, &self.found) {
            (Expected::Found(wanted, connections), Some(found)) => {
                let found: Vec<(&str, usize)> =
                    found.iter().map(|it| (it.name.as_str(), it.portals.len())).collect();
                if found != wanted || self.target.connections != connections {
                    faults.push(format!("{found:?} over {} connections", self.target.connections));
                }
            }
            (Expected::Many(count), Some(found)) if found.len() == count => {}
            (Expected::Refused(words), None) if self.last_error.contains(words) => {}
            (_, found) => {
                let count = found.as_ref().map(Vec::len);
                faults.push(format!("{count:?} targets were found, saying {:?}", self.last_error));
            }
        }
        faults
    }
}

/// Changes the first answer of the first connection.
fn first(pdu: &mut Pdu, moment: &Moment<'_>, change: impl FnOnce(&mut Pdu)) -> Act {
    if text(pdu) && moment.connection == 1 && moment.nth == 0 {
        change(pdu);
    }
    Act::Send
}

fn text(pdu: &Pdu) -> bool {
    pdu.header.opcode() == opcode::TEXT_RESPONSE
}

/// Other words in the answer.
fn say(pdu: &mut Pdu, moment: &Moment<'_>, data: &[u8]) -> Act {
    first(pdu, moment, |pdu| pdu.data = data.to_vec())
}

/// There is more, to be asked for by this tag.
fn more(pdu: &mut Pdu, tag: u32, data: &[u8]) {
    pdu.header.set(1, &[0x40]);
    pdu.header.set_u32(20, tag);
    pdu.data = data.to_vec();
}

const ONE: Expected = Expected::Found(&[(GOOD, 1)], 1);
const AGAIN: Expected = Expected::Found(&[(GOOD, 1)], 2);
const DEFAULT: Manner = Manner::DEFAULT;

fn other_list(run: &Run) -> bool {
    run.found.as_ref().is_none_or(|found| found.len() != 1 || found.iter().any(|it| it.portals.len() != 1))
}

fn found(run: &Run, name: &str) -> bool {
    run.found.iter().flatten().any(|it| it.name == name)
}

fn again(run: &Run) -> bool {
    run.target.connections > 1
}

macro_rules! scripts {
    ($($name:literal, $manner:expr, $expected:expr, $seen:expr, $mischief:expr;)*) => {
        &[$(Script { name: $name, manner: $manner, mischief: $mischief, expected: $expected, seen: $seen }),*]
    };
}

fn texts(run: &Run) -> usize {
    run.target.seen.iter().filter(|(_, header)| header.opcode() == opcode::TEXT).count()
}

/// All of them.
pub const ALL: &[Script] = scripts![
    "discovery: the list in pieces, torn amid a key", DEFAULT, ONE, |run| texts(run) == 3,
        |pdu, moment| {
            match moment.nth {
                0 if text(pdu) => more(pdu, 0x55, LIST.get(..7).unwrap_or_default()),
                1 if text(pdu) => more(pdu, 0x66, LIST.get(7..60).unwrap_or_default()),
                2 if text(pdu) => pdu.data = LIST.get(60..).unwrap_or_default().to_vec(),
                _ => {}
            }
            Act::Send
        };
    "discovery: a list that never ends", DEFAULT, Expected::Refused("floods us with text"), again,
        |pdu, _| {
            if text(pdu) {
                more(pdu, 0x55, &b"TargetName=iqn.flood\0".repeat(380));
            }
            Act::Send
        };
    "discovery: pieces of nothing without end", DEFAULT, Expected::Refused("does not end"),
        |run| texts(run) > 256,
        |pdu, _| {
            if text(pdu) {
                more(pdu, 0x55, b"");
            }
            Act::Send
        };
    "discovery: it ends and goes on at once, without end", DEFAULT, Expected::Refused("does not end"),
        |run| texts(run) > 256,
        |pdu, _| {
            if text(pdu) {
                more(pdu, 0x55, b"");
                pdu.header.set(1, &[0xc0]);
            }
            Act::Send
        };
    "discovery: an empty list", DEFAULT, Expected::Found(&[], 1), other_list, |pdu, moment| say(pdu, moment, b"");
    "discovery: noise", DEFAULT, Expected::Found(&[], 1), other_list,
        |pdu, moment| say(pdu, moment, b"\xff\xfe\0=\0==\0TargetName\0\0\x1b[2J\0targetname=iqn.a\0");
    "discovery: names that are none", DEFAULT, Expected::Found(&[("iqn.good", 1)], 1), |run| found(run, "iqn.good"),
        |pdu, moment| {
            let long = [b"TargetName=iqn.", &[b'x'; 300][..], b"\0"].concat();
            let list: &[&[u8]] = &[
                b"TargetName=\0TargetAddress=10.0.0.4\0TargetName=\x1b[2Jiqn.a\0TargetAddress=10.0.0.5\0",
                b"TargetName=iqn.a b\0TargetName=nothing\0TargetName=iqn.\xc3\xa9\0TargetName=iqn.a/../b\0",
                &long,
                b"TargetAddress=10.0.0.6\0TargetName=iqn.good\0TargetAddress=10.0.0.3\0",
            ];
            say(pdu, moment, &list.concat())
        };
    "discovery: addresses that are none", DEFAULT, Expected::Found(&[("iqn.a", 1)], 1),
        |run| found(run, "iqn.a"),
        |pdu, moment| say(pdu, moment, b"TargetName=iqn.a\0TargetAddress=300.0.0.1\0TargetAddress=10.0.0.1:0\0\
            TargetAddress=10.0.0.1:99999,1\0TargetAddress=[fe80::1]:3260,1\0TargetAddress=a.example\0\
            TargetAddress=\0TargetAddress=10.0.0.3:3261,7\0");
    "discovery: an address before any name", DEFAULT, Expected::Found(&[("iqn.a", 0)], 1), other_list,
        |pdu, moment| say(pdu, moment, b"TargetAddress=10.0.0.3\0TargetName=iqn.a\0");
    "discovery: keys of something else", DEFAULT, Expected::Found(&[("iqn.a", 0)], 1), other_list,
        |pdu, moment| say(pdu, moment, b"InitialR2T=No\0MaxRecvDataSegmentLength=1\0TargetName=iqn.a\0X-a=1\0");
    "discovery: more targets than can be remembered", DEFAULT, Expected::Many(1024), other_list,
        |pdu, moment| {
            if text(pdu) && moment.nth < 7 {
                more(pdu, 0x55, &b"TargetName=iqn.a\0".repeat(480));
            }
            Act::Send
        };
    "discovery: more portals than can be remembered", DEFAULT, Expected::Many(1),
        |run| run.found.iter().flatten().any(|it| it.portals.len() == 1024),
        |pdu, moment| {
            match moment.nth {
                0 if text(pdu) => more(pdu, 0x55, b"TargetName=iqn.a\0"),
                1..=6 if text(pdu) => more(pdu, 0x55, &b"TargetAddress=10.0.0.3\0".repeat(350)),
                _ => {}
            }
            Act::Send
        };
    "discovery: more is announced than comes", DEFAULT, AGAIN, again,
        |pdu, moment| first(pdu, moment, |pdu| pdu.header.set_data_length(4000));
    "discovery: a segment of 16 MiB is announced", DEFAULT, AGAIN, again,
        |pdu, moment| first(pdu, moment, |pdu| pdu.header.set_data_length(0xff_fffc));
    "discovery: an answer to another question", DEFAULT, AGAIN, again,
        |pdu, moment| first(pdu, moment, |pdu| pdu.header.set_u32(16, 0x1234));
    "discovery: silence", DEFAULT, AGAIN, again,
        |pdu, moment| if text(pdu) && moment.connection == 1 { Act::Close } else { Act::Send };
    "discovery: the list twice", DEFAULT, ONE, |run| run.target.marks > 0,
        |pdu, moment| {
            *moment.marks += usize::from(text(pdu));
            if text(pdu) { Act::Twice } else { Act::Send }
        };
    "discovery: a SCSI response instead", DEFAULT, AGAIN, again,
        |pdu, moment| first(pdu, moment, |pdu| *pdu = response(pdu.header.task_tag(), 0, &[]));
    "discovery: rejected", DEFAULT, AGAIN, again, |pdu, moment| first(pdu, moment, |pdu| *pdu = reject(4));
    "discovery: asked to log out amid it", DEFAULT, AGAIN, again,
        |pdu, moment| {
            if text(pdu) && moment.connection == 1 {
                moment.before.push(event(1, [0, 0, 3]));
                return Act::Drop;
            }
            Act::Send
        };
    "discovery: pinged amid it", DEFAULT, ONE, |run| run.target.marks > 0,
        |pdu, moment| {
            if text(pdu) && *moment.marks == 0 {
                *moment.marks += 1;
                moment.before.push(ping(0x77));
            }
            Act::Send
        };
    "discovery: the connection ends within the list", DEFAULT, AGAIN, again,
        |pdu, moment| if text(pdu) && moment.connection == 1 { Act::Cut(70) } else { Act::Send };
    "discovery: a digest of the list is wrong", Manner { digests: true, ..DEFAULT }, AGAIN, again,
        |pdu, moment| if text(pdu) && moment.connection == 1 { Act::Flip(500) } else { Act::Send };
    "discovery: redirected once", DEFAULT, AGAIN, |run| run.portals == [3, 99],
        |pdu, moment| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE && moment.connection == 1 {
                pdu.header.set(36, &[1, 1]);
                pdu.data = b"TargetAddress=10.0.0.99:3260,1\0".to_vec();
            }
            Act::Send
        };
    "discovery: redirected for ever", DEFAULT, Expected::Refused("redirected"), again,
        |pdu, _| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE {
                pdu.header.set(36, &[1, 2]);
                pdu.data = b"TargetAddress=10.0.0.99:3260,1\0".to_vec();
            }
            Act::Send
        };
    "discovery: nobody may ask", DEFAULT, Expected::Refused("not authorised"), again,
        |pdu, _| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE {
                pdu.header.set(36, &[2, 2]);
                pdu.data.clear();
            }
            Act::Send
        };
];
