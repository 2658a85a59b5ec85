//! A disk by name, whatever protocol carries it.
//!
//! Names: `aoe:e11.1` and `iscsi://[user@]portal[:port]/iqn[/lun]`; also
//! `iscsi://iqn@portal[:port]/lun`, as other tools write it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::aoe::{Target, TargetAddress};
use crate::block::{Completion, PathRefusal, Request, SubmitError, VolumeStatus};
use crate::iscsi::{Portal, Session};
use crate::rate::Limits;

/// A volume's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeName {
    /// A shelf and slot on the local Ethernet.
    Aoe(TargetAddress),
    /// A logical unit of an iSCSI target.
    Iscsi {
        /// Name to authenticate as.
        user: Option<String>,
        /// Where the target listens.
        portal: Portal,
        /// The target's name.
        target: String,
        /// The logical unit.
        lun: u16,
    },
}

/// Why a name is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Neither `aoe:` nor `iscsi://`.
    Scheme,
    /// Not `e<shelf>.<slot>` with a shelf below 65535 and a slot below 255.
    AoeAddress,
    /// The portal is not `address[:port]` with an IPv4 address.
    Portal,
    /// The target is not an `iqn.`, `eui.` or `naa.` name of at most 223 characters.
    Target,
    /// The logical unit is not a number below 16384.
    Lun,
    /// The user name is empty.
    User,
}

impl fmt::Display for NameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scheme => "a volume is named aoe:e<shelf>.<slot> or iscsi://portal/iqn/lun",
            Self::AoeAddress => "an AoE target is named e<shelf>.<slot>, shelf below 65535, slot below 255",
            Self::Portal => "a portal is an IPv4 address, with :port unless it is 3260",
            Self::Target => "an iSCSI target's name begins with iqn., eui. or naa.",
            Self::Lun => "a logical unit is a number below 16384",
            Self::User => "the user name before @ is empty",
        })
    }
}

impl core::error::Error for NameError {}

impl fmt::Display for VolumeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aoe(target) => write!(formatter, "aoe:{target}"),
            Self::Iscsi { user, portal, target, lun } => {
                formatter.write_str("iscsi://")?;
                if let Some(user) = user {
                    write!(formatter, "{user}@")?;
                }
                write!(formatter, "{portal}/{target}/{lun}")
            }
        }
    }
}

impl FromStr for VolumeName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if let Some(address) = name.strip_prefix("aoe:") {
            return parse_aoe(address).map(Self::Aoe).ok_or(NameError::AoeAddress);
        }
        let rest = name.strip_prefix("iscsi://").ok_or(NameError::Scheme)?;
        let (authority, path) = rest.split_once('/').ok_or(NameError::Target)?;
        let (user, portal) = match authority.rsplit_once('@') {
            Some((user, portal)) => (Some(user), portal),
            None => (None, authority),
        };
        if user == Some("") {
            return Err(NameError::User);
        }
        let portal = Portal::parse(portal).ok_or(NameError::Portal)?;
        // The other spelling carries the target where ours has the user.
        if let Some(target) = user.filter(|user| is_target(user)) {
            let lun = parse_lun(path)?;
            return Ok(Self::Iscsi { user: None, portal, target: target.to_string(), lun });
        }
        let (target, lun) = match path.split_once('/') {
            Some((target, lun)) => (target, parse_lun(lun)?),
            None => (path, 0),
        };
        if !is_target(target) {
            return Err(NameError::Target);
        }
        let user = user.map(ToString::to_string);
        Ok(Self::Iscsi { user, portal, target: target.to_string(), lun })
    }
}

fn parse_aoe(address: &str) -> Option<TargetAddress> {
    let (shelf, slot) = address.strip_prefix('e')?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !digits(shelf) || !digits(slot) {
        return None;
    }
    let (shelf, slot) = (shelf.parse().ok()?, slot.parse().ok()?);
    // The highest numbers mean "all".
    (shelf != u16::MAX && slot != u8::MAX).then_some(TargetAddress { shelf, slot })
}

fn parse_lun(text: &str) -> Result<u16, NameError> {
    text.parse().ok().filter(|lun| *lun < 16_384).ok_or(NameError::Lun)
}

/// RFC 7143 section 4.2.7: the three kinds of names, 223 octets at most.
pub(crate) fn is_target(name: &str) -> bool {
    let kind = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    let plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'-' | b':');
    kind && name.len() <= 223 && name.len() > 4 && name.bytes().all(plain)
}

/// A session of either protocol. Frames and octets go through the session itself.
pub enum Volume {
    /// ATA over Ethernet: give it frames.
    Aoe(Target),
    /// iSCSI: give it a connection.
    Iscsi(Session),
}

impl Volume {
    /// Heap that it takes at most with the paths that it has now, besides TCP's buffers.
    #[must_use]
    pub fn heap_bytes_max(&self) -> usize {
        match self {
            Self::Aoe(_) => Target::HEAP_BYTES_MAX,
            Self::Iscsi(session) => {
                let paths = session.paths().saturating_mul(Session::PATH_HEAP_BYTES_MAX);
                Session::HEAP_BYTES_MAX.saturating_add(paths)
            }
        }
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    #[inline(always)]
    pub fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        match self {
            Self::Aoe(target) => target.submit(request, now_ns),
            Self::Iscsi(session) => session.submit(request, now_ns),
        }
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        match self {
            Self::Aoe(target) => target.take_completion(),
            Self::Iscsi(session) => session.take_completion(),
        }
    }

    /// Advances timers.
    pub fn poll(&mut self, now_ns: u64) {
        match self {
            Self::Aoe(target) => target.poll(now_ns),
            Self::Iscsi(session) => session.poll(now_ns),
        }
    }

    /// Limits what the volume may do.
    pub fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        match self {
            Self::Aoe(target) => target.set_limits(limits, now_ns),
            Self::Iscsi(session) => session.set_limits(limits, now_ns),
        }
    }

    /// How long a request may wait for the target before it fails; `None` is for
    /// ever.
    pub fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        match self {
            Self::Aoe(target) => target.set_deadline(deadline_ns),
            Self::Iscsi(session) => session.set_deadline(deadline_ns),
        }
    }

    /// Takes a path out of use, or back into it. What is under way there goes on
    /// elsewhere.
    ///
    /// # Errors
    /// See [`PathRefusal`]; nothing was changed.
    pub fn set_path_enabled(&mut self, path: usize, enabled: bool) -> Result<(), PathRefusal> {
        match self {
            Self::Aoe(target) => target.set_path_enabled(path, enabled),
            Self::Iscsi(session) => session.set_path_enabled(path, enabled),
        }
    }

    /// When the session next needs attention.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.next_deadline(),
            Self::Iscsi(session) => session.next_deadline(),
        }
    }

    /// The submitter was reset and its memory is void: all requests are forgotten,
    /// none completes, and none that comes later is overtaken by them.
    pub fn abandon(&mut self) {
        match self {
            Self::Aoe(target) => target.abandon(),
            Self::Iscsi(session) => session.abandon(),
        }
    }

    /// The disk's sectors, as far as they are known.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.capacity(),
            Self::Iscsi(session) => session.capacity(),
        }
    }

    /// Whether it serves, and the disk's sectors: cheap to ask.
    #[must_use]
    pub fn ready_capacity(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.ready_capacity(),
            Self::Iscsi(session) => session.ready_capacity(),
        }
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        match self {
            Self::Aoe(target) => target.status(),
            Self::Iscsi(session) => session.status(),
        }
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        match self {
            Self::Aoe(target) => target.unfinished(),
            Self::Iscsi(session) => session.unfinished(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "aoe:e11.1",
            "aoe:e0.0",
            "iscsi://10.0.0.1/iqn.2026-01.org.example:disk/0",
            "iscsi://bob@10.0.0.1:3261/iqn.2026-01.org.example:disk/7",
        ] {
            assert_eq!(name.parse::<VolumeName>().unwrap().to_string(), name);
        }
        let same = |a: &str, b: &str| {
            assert_eq!(a.parse::<VolumeName>().unwrap().to_string(), b);
        };
        same("iscsi://10.0.0.1/iqn.a:b", "iscsi://10.0.0.1/iqn.a:b/0");
        same("iscsi://10.0.0.1:3260/iqn.a:b/1", "iscsi://10.0.0.1/iqn.a:b/1");
        same("iscsi://iqn.a:b@10.0.0.1/2", "iscsi://10.0.0.1/iqn.a:b/2");
    }

    #[test]
    fn bad_names_say_why() {
        for (name, error) in [
            ("nbd://x", NameError::Scheme),
            ("aoe:11.1", NameError::AoeAddress),
            ("aoe:e65535.1", NameError::AoeAddress),
            ("aoe:e+1.1", NameError::AoeAddress),
            ("aoe:e1.255", NameError::AoeAddress),
            ("iscsi://host/iqn.a", NameError::Portal),
            ("iscsi://10.0.0.1:0/iqn.a", NameError::Portal),
            ("iscsi://10.0.0.1/disk", NameError::Target),
            ("iscsi://10.0.0.1", NameError::Target),
            ("iscsi://10.0.0.1/iqn.a/x", NameError::Lun),
            ("iscsi://@10.0.0.1/iqn.a/0", NameError::User),
        ] {
            assert_eq!(name.parse::<VolumeName>(), Err(error), "{name}");
            assert!(!error.to_string().is_empty());
        }
    }
}
