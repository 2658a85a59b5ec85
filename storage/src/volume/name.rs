//! A volume's name.
//!
//! `iscsi://[user@]portal[:port]/iqn[/lun]`: all before the last `@` is the user, see
//! [`super::user`]. `iscsi://iqn@portal[:port]/lun` is what other tools write; a user whose
//! name is an IQN is told from that by what follows the portal.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use super::user;
use crate::aoe::TargetAddress;
use crate::iscsi::{Portal, TargetName};

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
        target: TargetName,
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
    /// The target is not an `iqn.`, `eui.` or `naa.` name.
    Target,
    /// The target's name holds this character.
    TargetCharacter(char),
    /// The target's name has more than 223 octets.
    TargetLength,
    /// The logical unit is not a number below 16384.
    Lun,
    /// The user name is empty.
    User,
    /// What stands before `@` may hold a password.
    Secret,
}

impl VolumeName {
    /// A name for what is set for a search at a portal: it is no volume's.
    #[must_use]
    pub fn discovery(user: Option<String>, portal: Portal) -> Self {
        Self::Iscsi { user, portal, target: TargetName::discovery(), lun: 0 }
    }

    /// The same name as it is compared: however its target is spelled.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut name = self.clone();
        if let Self::Iscsi { target, .. } = &mut name {
            *target = target.normalised();
        }
        name
    }

    /// Whether two names mean one disk: a target's name is unique in the world, as
    /// whichever user it is asked for and whichever path leads there.
    #[must_use]
    pub fn is_same_disk(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Aoe(one), Self::Aoe(other)) => one == other,
            (Self::Iscsi { target, lun, .. }, Self::Iscsi { target: other, lun: other_lun, .. }) => {
                target == other && lun == other_lun
            }
            _ => false,
        }
    }
}

impl NameError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Secret => {
                "keep the password in a file: user=NAME and secret=FILE; in user@ write %2F for /, %3A for :, %25 for %"
            }
            Self::User => "write iscsi://user@portal/iqn/lun, or leave @ out",
            Self::TargetCharacter(_) | Self::TargetLength => "rename the target where it is served",
            _ => "`redoubt storage discover` finds them",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scheme => "a volume is named aoe:e<shelf>.<slot> or iscsi://portal/iqn/lun",
            Self::AoeAddress => "an AoE target is named e<shelf>.<slot>, shelf below 65535, slot below 255",
            Self::Portal => "a portal is an IPv4 address, with :port unless it is 3260",
            Self::Target => "an iSCSI target's name begins with iqn., eui. or naa.",
            Self::TargetCharacter(other) => {
                let allowed = "letters, digits and . - : _ are possible";
                return write!(formatter, "the target's name holds {other:?}; {allowed}");
            }
            Self::TargetLength => "an iSCSI target's name has at most 223 octets",
            Self::Lun => "a logical unit is a number below 16384",
            Self::User => "the user name before @ is empty",
            Self::Secret => "what stands before @ looks like a user name with a password",
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
                    write!(formatter, "{}@", user::encode(user))?;
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
        // A user may hold `/` and `@`; what follows holds no `@`.
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let user = user.map(user::decode).transpose()?;
        let (portal, path) = rest.split_once('/').unwrap_or((rest, ""));
        let portal = Portal::parse(portal).ok_or(NameError::Portal)?;
        // The other spelling carries the target where ours has the user.
        let is_lun = path.bytes().all(|it| it.is_ascii_digit());
        if let Some(target) = user.as_deref().filter(|user| is_lun && TargetName::is_begun(user)) {
            let lun = if path.is_empty() { 0 } else { parse_lun(path)? };
            return Ok(Self::Iscsi { user: None, portal, target: target.parse()?, lun });
        }
        let (target, lun) = match path.split_once('/') {
            Some((target, lun)) => (target.parse()?, parse_lun(lun)?),
            None => (path.parse()?, 0),
        };
        Ok(Self::Iscsi { user, portal, target, lun })
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

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
        same("iscsi://iqn.a:b@10.0.0.1", "iscsi://10.0.0.1/iqn.a:b/0");
        // A user that is an IQN, and one that holds `/` or `@`.
        let debian = "iscsi://iqn.1993-08.org.debian:01:abc@10.0.0.1/iqn.a:b_c/1";
        same(debian, debian);
        same("iscsi://dom/alice@10.0.0.1/iqn.a:b/1", "iscsi://dom%2Falice@10.0.0.1/iqn.a:b/1");
        same("iscsi://a@b@10.0.0.1/iqn.a:b", "iscsi://a%40b@10.0.0.1/iqn.a:b/0");
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
            ("iscsi://10.0.0.1/iqn.a~b/1", NameError::TargetCharacter('~')),
            ("iscsi://iqn.u:v@10.0.0.1/iqn.a~b/1", NameError::TargetCharacter('~')),
            ("iscsi://iqn.u:v@10.0.0.1/16384", NameError::Lun),
            ("iscsi://bob%secret@10.0.0.1/iqn.a/0", NameError::Secret),
            ("iscsi://bob:secret@10.0.0.1/iqn.a/0", NameError::Secret),
            ("iscsi://10.0.0.1/iqn.a/x", NameError::Lun),
            ("iscsi://@10.0.0.1/iqn.a/0", NameError::User),
        ] {
            assert_eq!(name.parse::<VolumeName>(), Err(error), "{name}");
            assert!(!error.to_string().is_empty() && !error.remedy().is_empty());
        }
    }
}
