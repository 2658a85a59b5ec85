//! Login: what is offered, what was agreed.
//!
//! Spec: RFC 7143 sections 6 (negotiation), 11.12, 11.13 (PDUs), 12 (CHAP), 13 (keys).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::chap::{Algorithm, Credentials, decode, encode, same};
use super::negotiated::{Digest, FIRST_BURST, MAX_BURST, Negotiated};
use super::pdu::{FLAG_CONTINUE, FLAG_FINAL, Header};
use super::session::Portal;
use super::text;
use crate::limits::{ISCSI_LOGIN_STEPS_MAX, ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_RESPONSE_MAX};

/// Where the security stage stands (12.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Security {
    /// A method has been offered.
    Offered,
    /// CHAP was chosen, algorithms were offered.
    Algorithms,
    /// We have answered; with a challenge of our own, the target has to.
    Answered,
    /// Everything is said.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Security,
    Operational,
}

const NEXT_OPERATIONAL: u8 = 1;
const NEXT_FULL_FEATURE: u8 = 3;

/// Whether data must carry digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestPolicy {
    /// If the target has them.
    #[default]
    Preferred,
    /// A target without them is refused.
    Required,
    /// None.
    Off,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a login request with these flags and text.
    Send(u8, Vec<u8>),
    /// The full-feature phase begins.
    Done,
    /// Log in elsewhere (status class 1).
    Redirect(Portal),
    /// The target will not have us (status classes 2 and 3), or we it.
    Refused(&'static str),
    /// The target broke the protocol.
    Fault(&'static str),
}

/// What a login is to achieve.
pub(crate) struct Goal<'a> {
    pub(crate) initiator: &'a str,
    /// None for discovery.
    pub(crate) target: Option<&'a str>,
    pub(crate) credentials: Option<&'a Credentials>,
    pub(crate) digests: DigestPolicy,
    /// Ours, for the target.
    pub(crate) challenge: Vec<u8>,
    /// Algorithms that the target chose before and then refused.
    pub(crate) tried: &'a [Algorithm],
}

/// CHAP keys of one response.
#[derive(Default)]
struct Keys {
    method: Option<String>,
    algorithm: Option<String>,
    identifier: Option<u8>,
    challenge: Option<Vec<u8>>,
    name: Option<String>,
    response: Option<Vec<u8>>,
}

pub(crate) struct Login {
    credentials: Option<Credentials>,
    digests: DigestPolicy,
    challenge: Vec<u8>,
    tried: Vec<Algorithm>,
    pub(crate) algorithm: Option<Algorithm>,
    security: Security,
    stage: Stage,
    normal: bool,
    offered: bool,
    steps: u32,
    received: Vec<u8>,
    /// Keys that the target has negotiated.
    said: u32,
    pub(crate) negotiated: Negotiated,
}

impl Login {
    /// A login and its first request.
    pub(crate) fn new(goal: Goal<'_>) -> (Self, u8, Vec<u8>) {
        let login = Self {
            credentials: goal.credentials.cloned(),
            digests: goal.digests,
            challenge: goal.challenge,
            tried: goal.tried.to_vec(),
            algorithm: None,
            security: if goal.credentials.is_some() { Security::Offered } else { Security::Done },
            stage: Stage::Security,
            normal: goal.target.is_some(),
            offered: false,
            steps: 0,
            received: Vec::new(),
            said: 0,
            negotiated: Negotiated::default(),
        };
        let mut request = Vec::new();
        text::push(&mut request, "InitiatorName", goal.initiator);
        text::push(&mut request, "SessionType", if login.normal { "Normal" } else { "Discovery" });
        if let Some(target) = goal.target {
            text::push(&mut request, "TargetName", target);
        }
        let method = match &login.credentials {
            None => "None",
            // A target that proves itself cannot choose to prove nothing.
            Some(Credentials { target: Some(_), .. }) => "CHAP",
            Some(_) => "CHAP,None",
        };
        text::push(&mut request, "AuthMethod", method);
        let flags = login.flags();
        (login, flags, request)
    }

    fn offer(&self) -> Vec<u8> {
        let mut request = Vec::new();
        let receive = format!("{ISCSI_RECEIVE_SEGMENT_MAX}");
        let digests = match self.digests {
            DigestPolicy::Preferred => "CRC32C,None",
            DigestPolicy::Required => "CRC32C",
            DigestPolicy::Off => "None",
        };
        text::push(&mut request, "HeaderDigest", digests);
        text::push(&mut request, "DataDigest", digests);
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

    /// Transit bit, current and next stage (11.12.3). The security stage ends when
    /// all has been said.
    fn flags(&self) -> u8 {
        match (self.stage, &self.security) {
            (Stage::Security, Security::Done | Security::Answered) => FLAG_FINAL | NEXT_OPERATIONAL,
            (Stage::Security, _) => 0,
            (Stage::Operational, _) => FLAG_FINAL | (1 << 2) | NEXT_FULL_FEATURE,
        }
    }

    /// Takes a login response.
    pub(crate) fn answer(&mut self, header: &Header, data: &[u8]) -> Step {
        self.steps = self.steps.saturating_add(1);
        if self.steps > ISCSI_LOGIN_STEPS_MAX {
            return Step::Fault("the login does not end");
        }
        if self.received.len().saturating_add(data.len()) > ISCSI_RESPONSE_MAX {
            return Step::Fault("the login text is too long");
        }
        self.received.extend_from_slice(data);
        let flags = header.u8(1);
        match (header.u8(36), header.u8(37)) {
            (0, _) => {}
            (1, _) => return self.redirect(),
            (class, detail) => return Step::Refused(refusal(class, detail)),
        }
        let current = match self.stage {
            Stage::Security => 0,
            Stage::Operational => 1,
        };
        if (flags >> 2) & 3 != current {
            return Step::Fault("the target answered in another login stage");
        }
        if flags & FLAG_CONTINUE != 0 {
            if flags & FLAG_FINAL != 0 {
                // 11.13.2: the transit bit has to wait for the last piece.
                return Step::Fault("the target moves on amid its text");
            }
            // 11.13.2: ask for the rest with an empty request.
            return Step::Send(self.flags() & !(FLAG_FINAL | 3), Vec::new());
        }
        let mut reply = Vec::new();
        let mut keys = Keys::default();
        let text = core::mem::take(&mut self.received);
        for pair in text::pairs(&text) {
            let Some((key, value)) = pair else {
                return Step::Fault("the login text is malformed");
            };
            let bit = Negotiated::bit(key);
            if self.said & bit != 0 {
                return Step::Fault("the target negotiates a key twice");
            }
            self.said |= bit;
            let taken = match self.stage {
                Stage::Security if keys.take(key, value) => Ok(()),
                _ => self.negotiated.take(key, value, &mut reply),
            };
            if let Err(why) = taken {
                return Step::Fault(why);
            }
        }
        if self.stage == Stage::Security
            && let Err(step) = self.authenticate(&keys, &mut reply)
        {
            return step;
        }
        self.advance(flags, reply)
    }

    /// The next step of the security stage.
    fn authenticate(&mut self, keys: &Keys, reply: &mut Vec<u8>) -> Result<(), Step> {
        match self.security {
            Security::Offered => match keys.method.as_deref() {
                Some("CHAP") => {
                    let weak = self.credentials.as_ref().is_some_and(|it| it.allow_md5);
                    text::push(reply, "CHAP_A", &Algorithm::offer(weak, &self.tried));
                    self.security = Security::Algorithms;
                }
                Some("None") if self.credentials.as_ref().is_some_and(|it| it.target.is_none()) => {
                    self.security = Security::Done;
                }
                Some("Reject") | None => {
                    return Err(Step::Refused("login refused: the target does not authenticate by CHAP"));
                }
                Some(_) => return Err(Step::Refused("login refused: the target chose no method we accept")),
            },
            Security::Algorithms => self.respond(keys, reply)?,
            Security::Answered => self.verify(keys)?,
            Security::Done => match keys.method.as_deref() {
                Some("None") | None => {}
                Some(_) => return Err(Step::Refused("login refused: the target demands authentication")),
            },
        }
        Ok(())
    }

    fn respond(&mut self, keys: &Keys, reply: &mut Vec<u8>) -> Result<(), Step> {
        let Some(credentials) = &self.credentials else { return Err(Step::Fault("CHAP without a secret")) };
        let parse = |code: &str| Algorithm::parse(code, credentials.allow_md5, &self.tried);
        let Some(algorithm) = keys.algorithm.as_deref().and_then(parse) else {
            return Err(Step::Refused("login refused: no CHAP algorithm that both accept"));
        };
        let (Some(identifier), Some(challenge)) = (keys.identifier, &keys.challenge) else {
            return Err(Step::Fault("the target's CHAP challenge is malformed"));
        };
        let response = algorithm.respond(identifier, &credentials.secret, challenge);
        text::push(reply, "CHAP_N", &credentials.name);
        text::push(reply, "CHAP_R", &encode(&response));
        if let Some((_, secret)) = &credentials.target {
            // 12.1.3: neither the secret nor the challenge may be the same both ways,
            // or a target could answer with what we just told it.
            if *secret == credentials.secret {
                return Err(Step::Refused("the secrets of both directions are the same"));
            }
            if *challenge == self.challenge {
                return Err(Step::Refused("the target sends our own challenge back"));
            }
            text::push(reply, "CHAP_I", &format!("{}", identifier.wrapping_add(1)));
            text::push(reply, "CHAP_C", &encode(&self.challenge));
            self.negotiated.authentication = format!("mutual CHAP {}", algorithm.name());
        } else {
            self.negotiated.authentication = format!("CHAP {}", algorithm.name());
        }
        self.algorithm = Some(algorithm);
        // What the target has to answer with the next identifier.
        self.challenge.insert(0, identifier.wrapping_add(1));
        self.security = Security::Answered;
        Ok(())
    }

    fn verify(&mut self, keys: &Keys) -> Result<(), Step> {
        self.security = Security::Done;
        let Some((name, secret)) = self.credentials.as_ref().and_then(|it| it.target.as_ref()) else {
            return Ok(());
        };
        const NO_PROOF: Step = Step::Refused("login refused: the target did not prove who it is");
        let (Some(algorithm), Some((identifier, challenge))) = (self.algorithm, self.challenge.split_first())
        else {
            return Err(NO_PROOF);
        };
        let expected = algorithm.respond(*identifier, secret, challenge);
        let proven = keys.response.as_ref().is_some_and(|response| same(response, &expected));
        let named = name.is_none() || *name == keys.name;
        if proven && named { Ok(()) } else { Err(NO_PROOF) }
    }

    fn advance(&mut self, flags: u8, mut reply: Vec<u8>) -> Step {
        let transit = flags & FLAG_FINAL != 0;
        match (self.stage, transit, flags & 3) {
            (Stage::Security, true, NEXT_OPERATIONAL) if self.security == Security::Done => {
                self.stage = Stage::Operational;
            }
            // A key that is not understood needs no answer any more.
            (Stage::Operational, true, NEXT_FULL_FEATURE) if self.offered => return self.finish(),
            (_, true, _) => return Step::Fault("the target skipped a login stage"),
            (_, false, _) => {}
        }
        if self.stage == Stage::Operational && !self.offered {
            self.offered = true;
            reply.extend_from_slice(&self.offer());
        }
        Step::Send(self.flags(), reply)
    }

    fn finish(&mut self) -> Step {
        let keys = &mut self.negotiated;
        keys.first_burst = keys.first_burst.min(keys.max_burst);
        let bare = keys.header_digest == Digest::None || keys.data_digest == Digest::None;
        if self.digests == DigestPolicy::Required && bare {
            return Step::Refused("login refused: the target has no digests");
        }
        Step::Done
    }

    fn redirect(&self) -> Step {
        text::pairs(&self.received)
            .flatten()
            .find(|(key, _)| *key == "TargetAddress")
            .and_then(|(_, value)| Portal::parse_target_address(value))
            .map_or(Step::Fault("the target redirected us nowhere"), Step::Redirect)
    }
}

impl Keys {
    /// Takes a key of the security stage; false if it is none.
    fn take(&mut self, key: &str, value: &str) -> bool {
        match key {
            "AuthMethod" => self.method = Some(value.to_string()),
            "CHAP_A" => self.algorithm = Some(value.to_string()),
            "CHAP_I" => self.identifier = text::number(value).and_then(|it| u8::try_from(it).ok()),
            "CHAP_C" => self.challenge = decode(value),
            "CHAP_N" => self.name = Some(value.to_string()),
            "CHAP_R" => self.response = decode(value),
            _ => return false,
        }
        true
    }
}

/// Status class and detail in words (11.13.5).
const fn refusal(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (2, 0x01) => "login refused: authentication failed",
        (2, 0x02) => "login refused: not authorised",
        (2, 0x03) => "login refused: no such target",
        (2, 0x04) => "login refused: the target was removed",
        (2, 0x05) => "login refused: the target speaks another version",
        (2, 0x06) => "login refused: too many connections",
        (2, 0x07) => "login refused: missing parameter",
        (2, 0x08) => "login refused: the target cannot include the connection",
        (2, 0x09) => "login refused: session type not supported",
        (2, 0x0a) => "login refused: no such session",
        (2, 0x0b) => "login refused: invalid request",
        (2, _) => "login refused: initiator error",
        (3, 0x01) => "login refused: service unavailable",
        (3, 0x02) => "login refused: out of resources",
        _ => "login refused: target error",
    }
}

#[cfg(test)]
mod tests;
