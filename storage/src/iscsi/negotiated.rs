//! What a login negotiated.
//!
//! Spec: RFC 7143 section 13.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::text;
use crate::limits::ISCSI_RECEIVE_SEGMENT_MAX;

/// What we offer.
pub(crate) const MAX_BURST: u32 = 1_048_576;
pub(crate) const FIRST_BURST: u32 = 65_536;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// How we and the target authenticated.
    pub authentication: String,
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
    /// MaxConnections; always one.
    pub max_connections: u32,
    /// ErrorRecoveryLevel; always zero.
    pub error_recovery_level: u32,
    /// DefaultTime2Wait: seconds before a lost session may be taken up again.
    pub time_to_wait_s: u32,
    /// DefaultTime2Retain.
    pub time_to_retain_s: u32,
    /// TargetPortalGroupTag.
    pub portal_group: Option<u16>,
    /// TargetAlias.
    pub alias: Option<String>,
}

impl Default for Negotiated {
    /// The defaults of section 13; of the times, what we offer.
    fn default() -> Self {
        Self {
            authentication: String::from("None"),
            header_digest: Digest::None,
            data_digest: Digest::None,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            send_segment: 8_192,
            max_outstanding_r2t: 1,
            max_connections: 1,
            error_recovery_level: 0,
            time_to_wait_s: 0,
            time_to_retain_s: 0,
            portal_group: None,
            alias: None,
        }
    }
}

impl Negotiated {
    /// By name, for people.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, String)> {
        let digest = |digest| String::from(if digest == Digest::None { "None" } else { "CRC32C" });
        let boolean = |value| String::from(if value { "Yes" } else { "No" });
        let number = |value: u32| format!("{value}");
        let mut report = alloc::vec![
            ("AuthMethod", self.authentication.clone()),
            ("HeaderDigest", digest(self.header_digest)),
            ("DataDigest", digest(self.data_digest)),
            ("InitialR2T", boolean(self.initial_r2t)),
            ("ImmediateData", boolean(self.immediate_data)),
            ("MaxBurstLength", number(self.max_burst)),
            ("FirstBurstLength", number(self.first_burst)),
            ("MaxRecvDataSegmentLength", format!("{ISCSI_RECEIVE_SEGMENT_MAX}")),
            ("TargetMaxRecvDataSegmentLength", number(self.send_segment)),
            ("MaxOutstandingR2T", number(self.max_outstanding_r2t)),
            ("MaxConnections", number(self.max_connections)),
            ("ErrorRecoveryLevel", number(self.error_recovery_level)),
            ("DefaultTime2Wait", number(self.time_to_wait_s)),
            ("DefaultTime2Retain", number(self.time_to_retain_s)),
            ("DataPDUInOrder", boolean(true)),
            ("DataSequenceInOrder", boolean(true)),
        ];
        if let Some(group) = self.portal_group {
            report.push(("TargetPortalGroupTag", format!("{group}")));
        }
        if let Some(alias) = &self.alias {
            report.push(("TargetAlias", alias.clone()));
        }
        report
    }

    /// A bit for each key that is negotiated, and so only once (6.3). Those that are
    /// declared may come again, as some targets have it.
    pub(crate) fn bit(key: &str) -> u32 {
        const ONCE: [&str; 12] = [
            "HeaderDigest",
            "DataDigest",
            "InitialR2T",
            "ImmediateData",
            "MaxBurstLength",
            "FirstBurstLength",
            "MaxOutstandingR2T",
            "MaxConnections",
            "DefaultTime2Wait",
            "DefaultTime2Retain",
            "ErrorRecoveryLevel",
            "DataPDUInOrder",
        ];
        ONCE.iter().position(|once| *once == key).map_or(0, |bit| 1 << bit)
    }

    /// One key of the target's, as an answer or an offer.
    pub(crate) fn take(&mut self, key: &str, value: &str, reply: &mut Vec<u8>) -> Result<(), &'static str> {
        if matches!(value, "Irrelevant" | "NotUnderstood" | "Reject") {
            // Whatever we offered falls back to its default, except what we need.
            let needed = matches!(key, "ErrorRecoveryLevel" | "DataPDUInOrder" | "DataSequenceInOrder");
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
        match key {
            "HeaderDigest" => self.header_digest = digest()?,
            "DataDigest" => self.data_digest = digest()?,
            "InitialR2T" => self.initial_r2t = boolean()?,
            "ImmediateData" => self.immediate_data = boolean()?,
            "MaxBurstLength" => self.max_burst = number()?.clamp(512, MAX_BURST),
            "FirstBurstLength" => self.first_burst = number()?.clamp(512, FIRST_BURST),
            "MaxRecvDataSegmentLength" => {
                self.send_segment = number()?;
                if !(512..=0x00ff_ffff).contains(&self.send_segment) {
                    return Err("the target's MaxRecvDataSegmentLength is out of range");
                }
            }
            // Minimum of both: we ask for one of each.
            "MaxOutstandingR2T" => self.max_outstanding_r2t = number()?.clamp(1, 1),
            "MaxConnections" => self.max_connections = number()?.clamp(1, 1),
            "DefaultTime2Wait" => self.time_to_wait_s = number()?.min(3_600),
            "DefaultTime2Retain" => self.time_to_retain_s = number()?.min(3_600),
            "ErrorRecoveryLevel" if number()? != 0 => return Err("the target raised the recovery level"),
            "ErrorRecoveryLevel" => {}
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                // Either side's Yes decides, and we said it.
                if !boolean()? {
                    return Err("the target overrules the order of data");
                }
            }
            "TargetPortalGroupTag" => {
                self.portal_group =
                    Some(u16::try_from(number()?).map_err(|_| "the target's portal group is out of range")?);
            }
            "TargetAlias" => self.alias = Some(value.chars().take(255).collect::<String>().to_string()),
            "TargetAddress" | "TargetName" | "AuthMethod" => {}
            // 6.2: a key that is not understood is answered so.
            other => text::push(reply, other, "NotUnderstood"),
        }
        Ok(())
    }
}
