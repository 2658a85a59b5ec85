//! What an AoE target, or a peer that plays one, may do wrong.
//!
//! Spec: AoE r11, sections 2 and 3.

use super::aoe_target::{BLADE, Mischief, Moment, NODE, Run, STRANGER};
use super::{MS, SECOND};
use storage::aoe::wire::{Body, Frame, MacAddress, ata};

/// A script.
pub struct Script {
    /// What the target does.
    pub name: &'static str,
    /// MAC addresses that are accepted; any without.
    pub macs: &'static [MacAddress],
    /// Its mischief.
    pub mischief: Mischief,
    /// Within how many seconds all is served; nothing is ever, without.
    pub seconds: Option<u64>,
    /// Part of the last error where nothing is served.
    pub words: &'static str,
    /// That the mischief took place: false for an honest target.
    pub seen: fn(&Run) -> bool,
}

macro_rules! scripts {
    ($($name:literal, $seconds:expr, $words:literal, $seen:expr, $mischief:expr;)*) => {
        &[$(Script {
            name: $name, macs: &[BLADE], mischief: $mischief, seconds: $seconds, words: $words, seen: $seen
        }),*]
    };
}

fn set(frame: &mut [u8], at: usize, octet: u8) {
    if let Some(place) = frame.get_mut(at) {
        *place = octet;
    }
}

fn marked(run: &Run) -> bool {
    run.marks > 0
}

fn retried(run: &Run) -> bool {
    run.marks > 0 && run.status.counters.retries > 0
}

fn rejected(run: &Run) -> bool {
    run.marks > 0 && run.status.counters.rejected > 0
}

/// The answer as it is, and before it a forged one.
fn forge(answer: &[u8], moment: &mut Moment<'_>, change: fn(&mut Vec<u8>)) -> Option<u64> {
    let mut forged = answer.to_vec();
    // Whatever it carries is not what was read.
    forged.iter_mut().skip(36).for_each(|octet| *octet ^= 0x5a);
    change(&mut forged);
    if moment.data {
        *moment.marks += 1;
        moment.more.push((forged, 0));
    }
    Some(MS)
}

/// Every so manyth answer to a read or write.
fn every(moment: &mut Moment<'_>, number: usize) -> bool {
    let chosen = moment.data && moment.nth_data % number == number - 1;
    *moment.marks += usize::from(chosen);
    chosen
}

fn identifies(moment: &Moment<'_>) -> bool {
    matches!(Frame::parse(moment.asked).map(|it| it.body), Some(Body::Ata(it)) if it.command == ata::IDENTIFY)
}

fn queries(moment: &Moment<'_>) -> bool {
    matches!(Frame::parse(moment.asked).map(|it| it.body), Some(Body::Config(_)))
}

/// An answer of the AoE layer that complains.
fn complain(answer: &mut [u8], code: u8) {
    if let Some(flags) = answer.get_mut(14) {
        *flags |= 0x04;
    }
    set(answer, 15, code);
}

/// All of them.
pub const ALL: &[Script] = scripts![
    "frames: every third answer is lost", Some(30), "", retried,
        |_, moment| if every(moment, 3) { None } else { Some(0) };
    "frames: nothing is answered for five seconds", Some(20), "",
        |run| run.finished_ns > Some(5 * SECOND) && run.status.counters.stalls == 1,
        |_, moment| if moment.nth_data > 4 && moment.now_ns < 5 * SECOND { None } else { Some(0) };
    "frames: every answer twice", Some(5), "", rejected,
        |answer, moment| {
            *moment.marks += 1;
            moment.more.push((answer.clone(), 0));
            Some(0)
        };
    "frames: every answer again after a second", Some(10), "", rejected,
        |answer, moment| {
            *moment.marks += 1;
            moment.more.push((answer.clone(), SECOND));
            Some(0)
        };
    "frames: every fourth answer comes half a second late", Some(40), "", retried,
        |_, moment| if every(moment, 4) { Some(SECOND / 2) } else { Some(0) };
    "frames: answers out of order", Some(10), "", marked,
        |_, moment| if every(moment, 2) { Some(5 * MS) } else { Some(0) };
    "forged: by another station", Some(5), "", rejected,
        |answer, moment| forge(answer, moment, |forged| STRANGER.iter().enumerate().for_each(|(at, it)| {
            set(forged, 6 + at, *it);
        }));
    "forged: to another station", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| set(forged, 5, 9));
    "forged: to everybody", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| (0..6).for_each(|at| set(forged, at, 0xff)));
    "forged: of another shelf", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| set(forged, 17, 12));
    "forged: of another slot", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| set(forged, 18, 2));
    "forged: of all shelves and slots", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| (16..19).for_each(|at| set(forged, at, 0xff)));
    "forged: with the next tag", Some(5), "", rejected,
        |answer, moment| forge(answer, moment, |forged| {
            let next = forged.get(23).map_or(0, |octet| octet.wrapping_add(1));
            set(forged, 23, next);
        });
    "forged: with a tag that was right once", Some(5), "", rejected,
        |answer, moment| {
            if let Some(old) = moment.old.iter().rev().nth(40).filter(|_| moment.data) {
                *moment.marks += 1;
                let mut stale = old.clone();
                stale.iter_mut().skip(36).for_each(|octet| *octet ^= 0xff);
                moment.more.push((stale, 0));
            }
            if answer.is_empty() { None } else { Some(MS) }
        };
    "forged: the initiator's own frames come back", Some(5), "", marked,
        |_, moment| {
            *moment.marks += 1;
            moment.more.push((moment.asked.to_vec(), 0));
            Some(0)
        };
    "forged: of another version", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| set(forged, 14, 0x28));
    "forged: of another protocol", Some(5), "", marked,
        |answer, moment| forge(answer, moment, |forged| set(forged, 13, 0xa3));
    "forged: of another command", Some(5), "", rejected,
        |answer, moment| forge(answer, moment, |forged| set(forged, 19, 1));
    "lengths: half a sector is missing from every third read", Some(20), "", rejected,
        |answer, moment| {
            let short = answer.len() > 300 && every(moment, 3);
            if short {
                let half = answer.len() - 256;
                answer.truncate(half);
            }
            Some(0)
        };
    "lengths: more than was read", Some(5), "", marked,
        |answer, moment| {
            if every(moment, 2) {
                answer.resize(1514, 0xab);
            }
            Some(0)
        };
    "lengths: frames cut at every octet", Some(20), "", marked,
        |answer, moment| {
            if moment.data {
                for length in 0..answer.len().min(60) {
                    *moment.marks += 1;
                    moment.more.push((answer.get(..length).unwrap_or_default().to_vec(), 0));
                }
            }
            Some(MS)
        };
    "config: a string longer than its frame", Some(5), "", marked,
        |answer, moment| {
            if queries(moment) && moment.nth == 0 {
                *moment.marks += 1;
                set(answer, 30, 0xff);
            }
            Some(0)
        };
    "config: room for no frame at all", Some(20), "", |run| run.marks > 0,
        |answer, moment| {
            if queries(moment) {
                *moment.marks += 1;
                set(answer, 24, 0);
                set(answer, 25, 0);
            }
            Some(0)
        };
    "config: room for 65535 frames of 255 sectors", Some(10), "", |run| run.marks > 0,
        |answer, moment| {
            if queries(moment) {
                *moment.marks += 1;
                set(answer, 24, 0xff);
                set(answer, 25, 0xff);
                set(answer, 28, 0xff);
            }
            Some(0)
        };
    "identity: no 48-bit addresses", None, "no disk with 48-bit addresses", marked,
        |answer, moment| {
            if identifies(moment) {
                *moment.marks += 1;
                set(answer, 36 + 167, 0);
            }
            Some(0)
        };
    "identity: a disk without sectors", None, "no disk with 48-bit addresses", marked,
        |answer, moment| {
            if identifies(moment) {
                *moment.marks += 1;
                (200..208).for_each(|at| set(answer, 36 + at, 0));
            }
            Some(0)
        };
    "identity: cut short", None, "", marked,
        |answer, moment| {
            if identifies(moment) {
                *moment.marks += 1;
                answer.truncate(400);
            }
            Some(0)
        };
    "complaints: device unavailable, for two seconds", Some(20), "",
        |run| run.finished_ns > Some(2 * SECOND) && run.marks > 0,
        |answer, moment| {
            if moment.data && moment.now_ns < 2 * SECOND {
                *moment.marks += 1;
                complain(answer, 3);
            }
            Some(0)
        };
    "complaints: reserved by somebody, for two seconds", Some(20), "",
        |run| run.finished_ns > Some(2 * SECOND) && run.marks > 0,
        |answer, moment| {
            if moment.data && moment.now_ns < 2 * SECOND {
                *moment.marks += 1;
                complain(answer, 6);
            }
            Some(0)
        };
    "complaints: bad argument, for ever", Some(20), "failed",
        |run| run.marks > 0 && !run.work.failed.is_empty(),
        |answer, moment| {
            if moment.data {
                *moment.marks += 1;
                complain(answer, 2);
            }
            Some(0)
        };
    "complaints: a code that does not exist, for two seconds", Some(20), "",
        |run| run.finished_ns > Some(2 * SECOND) && run.marks > 0,
        |answer, moment| {
            if moment.data && moment.now_ns < 2 * SECOND {
                *moment.marks += 1;
                complain(answer, 0xee);
            }
            Some(0)
        };
    "complaints: to a frame that was never sent", Some(5), "", rejected,
        |answer, moment| forge(answer, moment, |forged| {
            complain(forged, 3);
            set(forged, 20, 0x99);
        });
    "a storm: two hundred stray answers to each frame", Some(20), "", rejected,
        |answer, moment| {
            for number in 0..200 {
                *moment.marks += 1;
                let mut stray = answer.clone();
                set(&mut stray, 20, number);
                set(&mut stray, 21, number ^ 0x55);
                moment.more.push((stray, 0));
            }
            Some(MS)
        };
];

/// Where no MAC address is named, the first one that answers is accepted, and no other.
pub const UNBOUND: &[Script] = &[Script {
    name: "forged: by another station, where none was named",
    macs: &[],
    mischief: |answer, moment| {
        if moment.nth == 0 {
            return Some(0);
        }
        forge(answer, moment, |forged| {
            STRANGER.iter().enumerate().for_each(|(at, it)| set(forged, 6 + at, *it));
        })
    },
    seconds: Some(5),
    words: "",
    seen: |run| run.marks > 0 && run.status.counters.rejected > 0 && NODE != STRANGER,
}];
