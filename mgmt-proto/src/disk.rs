//! What is set for a guest's disks beyond their names.
//!
//! A list of settings, not a structure: what is not in the list is as it usually
//! is, and a new kind of setting goes to the end of its table without changing the
//! bytes of the others. Secrets are here and not in the description of the guest,
//! which everybody may read.

use crate::code::{Code, Failure};
use crate::codec::{self, Few, SETTINGS};
use crate::limits;
use crate::secret::Secret;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize};
use storage::iscsi::{self, Credentials, DigestPolicy, PathPolicy};
use storage::volume::{VolumeName, user};

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `aoe:e11.1` or `iscsi://portal/iqn/lun`.
    pub volume: String,
    /// Writes are refused.
    pub read_only: bool,
}

/// How several paths are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// One, until it fails.
    #[default]
    Failover,
    /// All in turn.
    RoundRobin,
}

/// Whether what is sent carries digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digests {
    /// If the target has them.
    #[default]
    Preferred,
    /// A target without them is refused.
    Required,
    /// None.
    Off,
}

impl From<Policy> for PathPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Failover => Self::Failover,
            Policy::RoundRobin => Self::RoundRobin,
        }
    }
}

impl From<Digests> for DigestPolicy {
    fn from(digests: Digests) -> Self {
        match digests {
            Digests::Preferred => Self::Preferred,
            Digests::Required => Self::Required,
            Digests::Off => Self::Off,
        }
    }
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Bytes per second; 0 is none.
    BytesPerSecond(u64),
    /// Operations per second; 0 is none.
    OperationsPerSecond(u64),
    /// What may be saved up while idle, as milliseconds of the rates.
    BurstMs(u32),
}

/// Something set for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSetting {
    /// How several paths are used (iSCSI).
    Policy(Policy),
    /// One more portal: address and port (iSCSI).
    Portal([u8; 4], u16),
    /// A station that is believed; all others are not then (AoE).
    Station([u8; 6]),
    /// Whether data carries digests (iSCSI).
    Digests(Digests),
    /// How long a request may wait for the target before it fails, in milliseconds;
    /// without this, for ever.
    DeadlineMs(u64),
    /// A limit of this disk.
    Limit(Limit),
    /// No other node may write while this one has the disk.
    Reserve,
    /// The key of a holder that has to give way (iSCSI).
    Preempt(u64),
    /// What the user in the volume's name proves itself with (iSCSI).
    Secret(Secret),
    /// What the target has to prove in turn: its name, if it matters, and its secret.
    TargetSecret(Option<String>, Secret),
    /// MD5 is good enough for that.
    AllowMd5,
}

/// How `user` logs in with CHAP, if a secret is set.
#[must_use]
pub fn credentials(user: &str, settings: &[DiskSetting]) -> Option<Credentials> {
    let own = |secret: &Secret| iscsi::Secret::new(secret.expose().to_vec());
    let (mut secret, mut target, mut allow_md5) = (None, None, false);
    for setting in settings {
        match setting {
            DiskSetting::Secret(given) => secret = Some(own(given)),
            DiskSetting::TargetSecret(name, given) => target = Some((name.clone(), own(given))),
            DiskSetting::AllowMd5 => allow_md5 = true,
            _ => {}
        }
    }
    Some(Credentials { name: user.into(), secret: secret?, target, allow_md5 })
}

/// What is set for a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSettings {
    /// Limits of all its disks together.
    #[serde(deserialize_with = "codec::settings")]
    pub limits: Vec<Limit>,
    /// For each disk in the order of the description; disks beyond have none.
    #[serde(deserialize_with = "settings_of_disks")]
    pub disks: Vec<Vec<DiskSetting>>,
}

impl GuestSettings {
    /// Whether everything is as it usually is.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.limits.is_empty() && self.disks.iter().all(Vec::is_empty)
    }

    /// Checks everything that can be checked without a node.
    ///
    /// # Errors
    /// A [`Failure`] with [`Code::Usage`] that names the disk.
    pub fn validate(&self, disks: &[Disk]) -> Result<(), Failure> {
        if self.disks.len() > disks.len() {
            let message = format!("settings for {} disks of {}", self.disks.len(), disks.len());
            return Err(Failure::new(Code::Usage, "", message, "name the disk they are for"));
        }
        if self.limits.len() > limits::DISK_SETTINGS {
            return Err(Failure::new(Code::Usage, "", "too many limits", "give each once"));
        }
        disks.iter().zip(&self.disks).try_for_each(|(disk, settings)| validate(disk, settings))
    }
}

/// Checks the name of a volume that is reached over iSCSI. A name that may hold a password is
/// not repeated.
///
/// # Errors
/// A [`Failure`] with [`Code::Usage`] that names what can be named.
pub fn check_name(volume: &str) -> Result<(), Failure> {
    if !volume.starts_with("iscsi:") {
        return Ok(());
    }
    volume.parse::<VolumeName>().map(|_| ()).map_err(|error| {
        Failure::new(Code::Usage, user::without_secret(volume), error.to_string(), error.remedy())
    })
}

/// What is set for each disk of a guest.
fn settings_of_disks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<DiskSetting>>, D::Error> {
    let lists = Few::<Few<DiskSetting, SETTINGS>, { limits::DISKS + 1 }>::deserialize(deserializer)?;
    Ok(lists.0.into_iter().map(|list| list.0).collect())
}

/// Checks what is set for a disk.
///
/// # Errors
/// A [`Failure`] with [`Code::Usage`] that names the disk.
pub fn validate(disk: &Disk, settings: &[DiskSetting]) -> Result<(), Failure> {
    check_name(&disk.volume)?;
    let wrong = |what: &str, remedy: &str| Err(Failure::new(Code::Usage, &disk.volume, what, remedy));
    let is_iscsi = disk.volume.starts_with("iscsi:");
    let count = |kind: fn(&DiskSetting) -> bool| settings.iter().filter(|it| kind(it)).count();
    if settings.len() > limits::DISK_SETTINGS {
        return wrong("too many settings", "give each once");
    }
    if count(|it| matches!(it, DiskSetting::Portal(..))) >= limits::PORTALS {
        return wrong("too many portals", "8 with the one in the name are possible");
    }
    if count(|it| matches!(it, DiskSetting::Station(_))) > limits::STATIONS {
        return wrong("too many stations", "16 are possible");
    }
    if count(|it| matches!(it, DiskSetting::Secret(_))) == 0
        && count(|it| matches!(it, DiskSetting::TargetSecret(..) | DiskSetting::AllowMd5)) > 0
    {
        return wrong("the target is to prove itself and the node is not", "give secret too");
    }
    for setting in settings {
        match setting {
            DiskSetting::Station(_) if is_iscsi => {
                return wrong("stations are of AoE volumes", "iSCSI volumes have portals");
            }
            DiskSetting::Station(mac) if mac[0] & 1 != 0 || *mac == [0; 6] => {
                return wrong("a station is no unicast address", "name the target's own");
            }
            DiskSetting::Policy(_)
            | DiskSetting::Portal(..)
            | DiskSetting::Digests(_)
            | DiskSetting::Preempt(_)
            | DiskSetting::Secret(_)
            | DiskSetting::TargetSecret(..)
            | DiskSetting::AllowMd5
                if !is_iscsi =>
            {
                let remedy = "AoE has no portals, digests, keys or secrets; leave it out";
                return wrong("a setting is of iSCSI volumes", remedy);
            }
            DiskSetting::Secret(secret) | DiskSetting::TargetSecret(_, secret)
                if !(1..=limits::SECRET_BYTES).contains(&secret.length()) =>
            {
                return wrong("a secret is empty or too long", "1 to 255 bytes are possible");
            }
            DiskSetting::TargetSecret(Some(name), _) if name.len() > limits::SECRET_BYTES => {
                return wrong("the target's name is too long", "at most 255 bytes");
            }
            DiskSetting::Portal(_, 0) => return wrong("a portal has port 0", "3260 is usual"),
            DiskSetting::Reserve | DiskSetting::Preempt(_) if disk.read_only => {
                return wrong("is read-only and to be reserved", "readers need no reservation");
            }
            _ => {}
        }
    }
    let secrets: Vec<&[u8]> = settings
        .iter()
        .filter_map(|it| match it {
            DiskSetting::Secret(secret) | DiskSetting::TargetSecret(_, secret) => Some(secret.expose()),
            _ => None,
        })
        .collect();
    // RFC 7143, 9.2.1: or either end could send the other's answer back to it.
    if let [one, other, ..] = secrets.as_slice()
        && one == other
    {
        return wrong("both ends have the same secret", "give each its own (RFC 7143, 9.2.1)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn secret(text: &str) -> DiskSetting {
        DiskSetting::Secret(Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let aoe = Disk { volume: "aoe:e1.1".to_string(), read_only: false };
        let iscsi = Disk { volume: "iscsi://u@10.0.0.1/iqn.a:b/1".to_string(), read_only: false };
        let reader = Disk { read_only: true, ..aoe.clone() };
        let target = |text: &str| DiskSetting::TargetSecret(None, Secret::new(text.as_bytes().to_vec()));
        for (disk, settings, words) in [
            (&aoe, vec![secret("x")], "of iSCSI volumes"),
            (&aoe, vec![DiskSetting::Station([1, 0, 0, 0, 0, 1])], "no unicast address"),
            (&iscsi, vec![DiskSetting::Station([2, 0, 0, 0, 0, 1])], "of AoE volumes"),
            (&iscsi, vec![secret("")], "empty"),
            (&iscsi, vec![target("x")], "the node is not"),
            (&iscsi, vec![DiskSetting::AllowMd5], "the node is not"),
            (&iscsi, vec![secret("same"), target("same")], "the same secret"),
            (&iscsi, vec![DiskSetting::Portal([10, 0, 0, 2], 0)], "port 0"),
            (&iscsi, vec![DiskSetting::Portal([10, 0, 0, 2], 3260); 8], "too many portals"),
            (&aoe, vec![DiskSetting::Station([2, 0, 0, 0, 0, 1]); 17], "too many stations"),
            (&aoe, vec![DiskSetting::Reserve; 65], "too many settings"),
            (&reader, vec![DiskSetting::Reserve], "read-only"),
        ] {
            let failure = validate(disk, &settings).unwrap_err();
            assert!(failure.to_string().contains(words), "{failure}");
            assert!(failure.object == disk.volume && !failure.remedy.is_empty());
        }
        let leaky = Disk { volume: "iscsi://bob%secret@10.0.0.1/iqn.a:b/1".to_string(), read_only: false };
        let failure = validate(&leaky, &[]).unwrap_err();
        assert_eq!(failure.object, "iscsi://bob***@10.0.0.1/iqn.a:b/1");
        assert!(failure.remedy.contains("secret=FILE") && !failure.to_string().contains("cret@"));
        let good = vec![secret("one"), target("other"), DiskSetting::AllowMd5, DiskSetting::Preempt(7)];
        assert_eq!(validate(&iscsi, &good), Ok(()));
        let settings = GuestSettings { limits: Vec::new(), disks: vec![Vec::new(), good] };
        assert_eq!(settings.validate(&[aoe.clone(), iscsi]), Ok(()));
        assert!(settings.validate(&[aoe]).is_err());
        assert!(GuestSettings { disks: vec![Vec::new()], ..GuestSettings::default() }.is_usual());
    }
}
