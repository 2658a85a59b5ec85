//! Login: what is offered, what came of it.
//!
//! Spec: RFC 7143 sections 6 (negotiation), 11.12, 11.13 (PDUs), 13 (keys).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::pdu::{FLAG_CONTINUE, FLAG_FINAL, Header};
use super::session::Portal;
use super::text;
use crate::limits::{ISCSI_LOGIN_STEPS_MAX, ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_TEXT_MAX};

/// A digest in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    /// None.
    #[default]
    None,
    /// CRC32C.
    Crc32c,
}

/// What was negotiated (section 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// HeaderDigest.
    pub header_digest: Digest,
    /// DataDigest.
    pub data_digest: Digest,
    /// InitialR2T: the target asks for all data.
    pub initial_r2t: bool,
    /// ImmediateData: commands may carry data.
    pub immediate_data: bool,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// The target's MaxRecvDataSegmentLength.
    pub send_segment: u32,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
    /// ErrorRecoveryLevel; always zero.
    pub error_recovery_level: u32,
}

impl Default for Negotiated {
    /// The defaults of section 13.
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            send_segment: 8_192,
            max_outstanding_r2t: 1,
            error_recovery_level: 0,
        }
    }
}

impl Negotiated {
    /// By name, for people.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, String)> {
        let digest = |digest| String::from(if digest == Digest::None { "None" } else { "CRC32C" });
        let boolean = |value| String::from(if value { "Yes" } else { "No" });
        alloc::vec![
            ("HeaderDigest", digest(self.header_digest)),
            ("DataDigest", digest(self.data_digest)),
            ("InitialR2T", boolean(self.initial_r2t)),
            ("ImmediateData", boolean(self.immediate_data)),
            ("MaxBurstLength", format!("{}", self.max_burst)),
            ("FirstBurstLength", format!("{}", self.first_burst)),
            ("TargetMaxRecvDataSegmentLength", format!("{}", self.send_segment)),
            ("MaxOutstandingR2T", format!("{}", self.max_outstanding_r2t)),
            ("ErrorRecoveryLevel", format!("{}", self.error_recovery_level)),
        ]
    }
}

/// How the initiator proves who it is; the only method so far is to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authentication {
    /// AuthMethod=None.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Security,
    Operational,
}

const NEXT_OPERATIONAL: u8 = 1;
const NEXT_FULL_FEATURE: u8 = 3;
const MAX_BURST: u32 = 1_048_576;
const FIRST_BURST: u32 = 65_536;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a login request with these flags and text.
    Send(u8, Vec<u8>),
    /// The full-feature phase begins.
    Done(Negotiated),
    /// Log in elsewhere (status class 1).
    Redirect(Portal),
    /// The target will not have us (status classes 2 and 3).
    Refused(&'static str),
    /// The target broke the protocol.
    Fault(&'static str),
}

pub(crate) struct Login {
    authentication: Authentication,
    stage: Stage,
    normal: bool,
    offered: bool,
    steps: u32,
    received: Vec<u8>,
    negotiated: Negotiated,
}

impl Login {
    /// A login and its first request.
    pub(crate) fn new(initiator: &str, target: Option<&str>) -> (Self, u8, Vec<u8>) {
        let login = Self {
            authentication: Authentication::None,
            stage: Stage::Security,
            normal: target.is_some(),
            offered: false,
            steps: 0,
            received: Vec::new(),
            negotiated: Negotiated::default(),
        };
        let mut request = Vec::new();
        text::push(&mut request, "InitiatorName", initiator);
        text::push(&mut request, "SessionType", if login.normal { "Normal" } else { "Discovery" });
        if let Some(target) = target {
            text::push(&mut request, "TargetName", target);
        }
        match login.authentication {
            Authentication::None => text::push(&mut request, "AuthMethod", "None"),
        }
        (login, FLAG_FINAL | NEXT_OPERATIONAL, request)
    }

    fn offer(&self) -> Vec<u8> {
        let mut request = Vec::new();
        let receive = format!("{ISCSI_RECEIVE_SEGMENT_MAX}");
        text::push(&mut request, "HeaderDigest", "CRC32C,None");
        text::push(&mut request, "DataDigest", "CRC32C,None");
        text::push(&mut request, "MaxRecvDataSegmentLength", &receive);
        text::push(&mut request, "DefaultTime2Wait", "0");
        text::push(&mut request, "DefaultTime2Retain", "0");
        text::push(&mut request, "ErrorRecoveryLevel", "0");
        if self.normal {
            text::push(&mut request, "MaxConnections", "1");
            text::push(&mut request, "InitialR2T", "No");
            text::push(&mut request, "ImmediateData", "Yes");
            text::push(&mut request, "MaxBurstLength", &format!("{MAX_BURST}"));
            text::push(&mut request, "FirstBurstLength", &format!("{FIRST_BURST}"));
            text::push(&mut request, "MaxOutstandingR2T", "1");
            text::push(&mut request, "DataPDUInOrder", "Yes");
            text::push(&mut request, "DataSequenceInOrder", "Yes");
        }
        request
    }

    fn flags(&self) -> u8 {
        match self.stage {
            Stage::Security => NEXT_OPERATIONAL,
            Stage::Operational => (1 << 2) | NEXT_FULL_FEATURE,
        }
    }

    /// Takes a login response.
    pub(crate) fn answer(&mut self, header: &Header, data: &[u8]) -> Step {
        self.steps = self.steps.saturating_add(1);
        if self.steps > ISCSI_LOGIN_STEPS_MAX {
            return Step::Fault("the login does not end");
        }
        if self.received.len().saturating_add(data.len()) > ISCSI_TEXT_MAX {
            return Step::Fault("the login text is too long");
        }
        self.received.extend_from_slice(data);
        let flags = header.u8(1);
        match (header.u8(36), header.u8(37)) {
            (0, _) => {}
            (1, _) => return self.redirect(),
            (class, detail) => return Step::Refused(refusal(class, detail)),
        }
        if flags & FLAG_CONTINUE != 0 {
            // 11.13.2: ask for the rest with an empty request.
            return Step::Send(self.flags(), Vec::new());
        }
        let current = match self.stage {
            Stage::Security => 0,
            Stage::Operational => 1,
        };
        if (flags >> 2) & 3 != current {
            return Step::Fault("the target answered in another login stage");
        }
        let mut reply = Vec::new();
        let text = core::mem::take(&mut self.received);
        for pair in text::pairs(&text) {
            let Some((key, value)) = pair else {
                return Step::Fault("the login text is malformed");
            };
            if let Err(why) = self.key(key, value, &mut reply) {
                return Step::Fault(why);
            }
        }
        self.advance(flags, reply)
    }

    fn advance(&mut self, flags: u8, mut reply: Vec<u8>) -> Step {
        let transit = flags & FLAG_FINAL != 0;
        match (self.stage, transit, flags & 3) {
            (Stage::Security, true, NEXT_OPERATIONAL) => self.stage = Stage::Operational,
            (Stage::Operational, true, NEXT_FULL_FEATURE) if self.offered && reply.is_empty() => {
                self.negotiated.first_burst = self.negotiated.first_burst.min(self.negotiated.max_burst);
                return Step::Done(self.negotiated);
            }
            (_, true, _) => return Step::Fault("the target skipped a login stage"),
            (_, false, _) => {}
        }
        if self.stage == Stage::Operational && !self.offered {
            self.offered = true;
            reply.extend_from_slice(&self.offer());
        }
        Step::Send(FLAG_FINAL | self.flags(), reply)
    }

    /// One key of the target's (section 13), as an answer or an offer.
    fn key(&mut self, key: &str, value: &str, reply: &mut Vec<u8>) -> Result<(), &'static str> {
        if matches!(value, "Irrelevant" | "NotUnderstood" | "Reject") {
            // Whatever we offered falls back to its default, except what we need.
            let needed = matches!(key, "AuthMethod" | "ErrorRecoveryLevel");
            return if needed && value == "Reject" { Err("the target rejected a key") } else { Ok(()) };
        }
        let number = || text::number(value).ok_or("a number in the login text is malformed");
        let boolean = || match value {
            "Yes" => Ok(true),
            "No" => Ok(false),
            _ => Err("a boolean in the login text is malformed"),
        };
        let digest = || match value {
            "None" => Ok(Digest::None),
            "CRC32C" => Ok(Digest::Crc32c),
            _ => Err("the target chose a digest that was not offered"),
        };
        let keys = &mut self.negotiated;
        match key {
            "HeaderDigest" => keys.header_digest = digest()?,
            "DataDigest" => keys.data_digest = digest()?,
            "InitialR2T" => keys.initial_r2t = boolean()?,
            "ImmediateData" => keys.immediate_data = boolean()?,
            "MaxBurstLength" => keys.max_burst = number()?.clamp(512, MAX_BURST),
            "FirstBurstLength" => keys.first_burst = number()?.clamp(512, FIRST_BURST),
            "MaxRecvDataSegmentLength" => {
                keys.send_segment = number()?;
                if !(512..=0x00ff_ffff).contains(&keys.send_segment) {
                    return Err("the target's MaxRecvDataSegmentLength is out of range");
                }
            }
            "MaxOutstandingR2T" => keys.max_outstanding_r2t = number()?.clamp(1, 1),
            "ErrorRecoveryLevel" if number()? != 0 => return Err("the target raised the recovery level"),
            "AuthMethod" if value != "None" => return Err("the target demands authentication"),
            "ErrorRecoveryLevel"
            | "AuthMethod"
            | "DefaultTime2Wait"
            | "DefaultTime2Retain"
            | "MaxConnections"
            | "DataPDUInOrder"
            | "DataSequenceInOrder"
            | "TargetAlias"
            | "TargetAddress"
            | "TargetPortalGroupTag"
            | "TargetName" => {}
            // 6.2: a key that is not understood is answered so.
            other => text::push(reply, other, "NotUnderstood"),
        }
        Ok(())
    }

    fn redirect(&self) -> Step {
        text::pairs(&self.received)
            .flatten()
            .find(|(key, _)| *key == "TargetAddress")
            .and_then(|(_, value)| Portal::parse_target_address(value))
            .map_or(Step::Fault("the target redirected us nowhere"), Step::Redirect)
    }
}

/// Status class and detail in words (11.13.5).
const fn refusal(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (2, 0x01) => "login refused: authentication failed",
        (2, 0x02) => "login refused: not authorised",
        (2, 0x03) => "login refused: no such target",
        (2, 0x04) => "login refused: the target was removed",
        (2, 0x06) => "login refused: too many connections",
        (2, 0x07) => "login refused: missing parameter",
        (2, _) => "login refused: initiator error",
        (3, 0x01) => "login refused: service unavailable",
        (3, 0x02) => "login refused: out of resources",
        _ => "login refused: target error",
    }
}
