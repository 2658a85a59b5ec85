//! What a target may negotiate, and how.
//!
//! Spec: RFC 7143 sections 6 and 13.

use super::{Act, DEFAULT, Pdu, Script, login_stage, opcode, reconnected, said, served, stalled};
use crate::hostile::iscsi_target::Moment;

/// The first connection's answer to what was offered, with these keys instead.
fn answer(pdu: &mut Pdu, moment: &mut Moment<'_>, keys: &str) -> Act {
    if moment.connection == 1 && login_stage(pdu, 1) && !pdu.data.is_empty() {
        *moment.marks += 1;
        pdu.data = keys.as_bytes().to_vec();
    }
    Act::Send
}

/// The same, and the keys that matter to the target as it is.
fn besides(pdu: &mut Pdu, moment: &mut Moment<'_>, keys: &str) -> Act {
    if login_stage(pdu, 1) && !pdu.data.is_empty() {
        *moment.marks += 1;
        pdu.data.extend_from_slice(keys.as_bytes());
    }
    Act::Send
}

/// Takes a key out of an answer.
fn without(pdu: &mut Pdu, key: &str) {
    if !login_stage(pdu, 1) {
        return;
    }
    let text = String::from_utf8_lossy(&pdu.data).into_owned();
    let kept = text.split_terminator('\0').filter(|pair| !pair.starts_with(key));
    pdu.data = kept.flat_map(|pair| pair.bytes().chain([0])).collect();
}

/// Negotiation.
pub const NEGOTIATION: &[Script] = scripts![
    "negotiation: a method of authentication that was not offered", DEFAULT, stalled("login refused", 60),
        |run| said(run, "demands authentication"),
        |pdu, _| {
            if login_stage(pdu, 0) {
                pdu.data = b"AuthMethod=KRB5\0".to_vec();
            }
            Act::Send
        };
    "negotiation: a boolean that is neither", DEFAULT, served(5, 2..=2), |run| said(run, "boolean"),
        |pdu, moment| answer(pdu, moment, "ImmediateData=Maybe\0");
    "negotiation: two digests at once", DEFAULT, served(5, 2..=2), |run| said(run, "a digest that was not offered"),
        |pdu, moment| answer(pdu, moment, "HeaderDigest=None,CRC32C\0");
    "negotiation: a key twice in one answer", DEFAULT, served(5, 2..=2), |run| said(run, "a key twice"),
        |pdu, moment| answer(pdu, moment, "ImmediateData=Yes\0ImmediateData=Yes\0");
    "negotiation: a key twice in two answers", DEFAULT, served(5, 2..=2), |run| said(run, "a key twice"),
        |pdu, moment| {
            if moment.connection == 1 && login_stage(pdu, 1) {
                pdu.data = b"ImmediateData=Yes\0".to_vec();
                if moment.nth == 1 {
                    pdu.header.set(1, &[0x04]);
                }
            }
            Act::Send
        };
    "negotiation: a first burst longer than a burst", DEFAULT, served(2, 1..=1),
        |run| ["MaxBurstLength", "FirstBurstLength"]
            .iter()
            .all(|key| run.status.negotiated.contains(&(*key, "8192".into()))),
        |pdu, moment| {
            without(pdu, "MaxBurstLength");
            without(pdu, "FirstBurstLength");
            besides(pdu, moment, "MaxBurstLength=8192\0FirstBurstLength=65536\0")
        };
    "negotiation: more connections and requests than were asked for, and long waits", DEFAULT, served(2, 1..=1),
        |run| run.status.negotiated.contains(&("DefaultTime2Wait", "3600".into()))
            && run.status.negotiated.contains(&("MaxConnections", "1".into())),
        |pdu, moment| {
            for key in ["MaxConnections", "MaxOutstandingR2T", "DefaultTime2"] {
                without(pdu, key);
            }
            let waits = "DefaultTime2Wait=99999\0DefaultTime2Retain=99999\0";
            besides(pdu, moment, &format!("MaxConnections=8\0MaxOutstandingR2T=9\0{waits}"))
        };
    "negotiation: markers are offered", DEFAULT, served(3, 1..=1),
        |run| run.target.texts.contains("OFMarker=NotUnderstood"),
        |pdu, moment| {
            if login_stage(pdu, 1) && moment.nth == 1 {
                *moment.marks += 1;
                pdu.data.extend_from_slice(b"OFMarker=Yes\0");
                pdu.header.set(1, &[0x04]);
            }
            Act::Send
        };
    "negotiation: the target takes its time to move on", DEFAULT, served(2, 1..=1), |run| run.target.marks > 0,
        |pdu, moment| {
            if login_stage(pdu, 1) && moment.nth == 1 {
                *moment.marks += 1;
                pdu.header.set(1, &[0x04]);
            }
            Act::Send
        };
    "negotiation: a session handle before the end", DEFAULT, served(2, 1..=1), |run| run.target.marks > 0,
        |pdu, moment| {
            if login_stage(pdu, 0) {
                *moment.marks += 1;
                pdu.header.set(14, &[0, 5]);
            }
            Act::Send
        };
    "negotiation: no session handle at the end", DEFAULT, served(5, 1..=2), |run| run.target.marks > 0 || reconnected(run),
        |pdu, moment| {
            if pdu.header.opcode() == opcode::LOGIN_RESPONSE && moment.connection == 1 && login_stage(pdu, 1) {
                *moment.marks += 1;
                pdu.header.set(14, &[0, 0]);
            }
            Act::Send
        };
];
