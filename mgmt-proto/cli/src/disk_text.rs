//! A disk as people write it: a volume, how it may be used, and what is set for it.
//!
//! ```text
//! aoe:e11.1,ro
//! iscsi://alice@10.0.0.1/iqn.2026-11.example:web/1,secret=alice.secret,timeout=5m
//! { volume = "aoe:e11.2", station = ["02:00:00:00:00:01"], reserve = true }
//! ```
//!
//! The keys are the same in either form, and after a disk on the command line.

use crate::exit::usage;
use crate::initiator::secret;
use crate::nearest::nearest;
use keys::file::expand_home;
use mgmt_proto::code::Failure;
use mgmt_proto::disk::{Digests, DiskSetting, Limit, Policy};
use mgmt_proto::machine::Disk;
use mgmt_proto::secret::Secret;
use mgmt_proto::units::{parse_mac, parse_milliseconds, parse_size};
use std::path::{Path, PathBuf};
use storage::iscsi::Portal;
use storage::volume::{VolumeName, user};

/// Every key, for the nearest match.
const KEYS: [&str; 17] = [
    "volume",
    "access",
    "user",
    "policy",
    "portal",
    "station",
    "digests",
    "timeout",
    "bytes_per_s",
    "operations_per_s",
    "burst",
    "reserve",
    "preempt",
    "secret",
    "target_user",
    "target_secret",
    "allow_md5",
];

/// Where the user belongs.
const NO_USER: &str = "write user=NAME, or iscsi://user@portal/iqn/lun";

/// What is wrong, and what to do.
pub type Wrong = (String, String);

/// A secret that is not at hand yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// Whose it is, for the question.
    whose: String,
    /// Where it is; otherwise somebody is asked.
    file: Option<PathBuf>,
    /// The target's: its name, if that matters.
    target: Option<Option<String>>,
}

/// A disk and what is set for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskText {
    /// The disk.
    pub disk: Disk,
    /// What is set, without secrets until [`Self::read_secrets`].
    pub settings: Vec<DiskSetting>,
    wanted: Vec<Wanted>,
}

/// Asks a person for a secret.
pub type Ask<'a> = &'a mut dyn FnMut(&str) -> Result<Secret, Failure>;

fn wrong<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err((message.into(), remedy.into()))
}

fn amount(text: &str) -> Result<u64, Wrong> {
    parse_size(text, 1).ok_or_else(|| (format!("{text:?} is no amount"), "write 500, 64k, 50M or 1G".into()))
}

fn milliseconds(text: &str) -> Result<u64, Wrong> {
    parse_milliseconds(text)
        .ok_or_else(|| (format!("{text:?} is no time"), "write 500ms, 30s, 5m or 2h".into()))
}

/// A burst in milliseconds of the rates.
///
/// # Errors
/// Quotes what is none.
pub fn burst(text: &str) -> Result<u32, Wrong> {
    let time = u32::try_from(milliseconds(text)?).ok().filter(|time| *time <= 60_000);
    time.ok_or_else(|| (format!("{text:?} is too long a burst"), "60s is the longest".into()))
}

fn flag(key: &str, text: &str) -> Result<bool, Wrong> {
    match text {
        "true" | "yes" | "" => Ok(true),
        "false" | "no" => Ok(false),
        _ => wrong(format!("{key} is {text:?}"), format!("write {key} = true, or leave it out")),
    }
}

fn unknown<T>(key: &str) -> Result<T, Wrong> {
    let remedy = match nearest(key, KEYS) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("known are {}", KEYS.join(", ")),
    };
    wrong(format!("unknown key {key}"), remedy)
}

/// One value of one key.
fn setting(key: &str, value: &str) -> Result<Option<DiskSetting>, Wrong> {
    Ok(Some(match key {
        "policy" => DiskSetting::Policy(match value {
            "failover" => Policy::Failover,
            "round-robin" | "round_robin" => Policy::RoundRobin,
            _ => return wrong(format!("{value:?} is no policy"), "write failover or round-robin"),
        }),
        "portal" => match Portal::parse(value) {
            Some(portal) => DiskSetting::Portal(portal.address.octets(), portal.port),
            None => return wrong(format!("{value:?} is no portal"), "write 10.0.0.1 or 10.0.0.1:3260"),
        },
        "station" => match parse_mac(value) {
            Some(mac) => DiskSetting::Station(mac),
            None => return wrong(format!("{value:?} is no station"), "write station=02:00:00:00:00:01"),
        },
        "digests" => DiskSetting::Digests(match value {
            "preferred" => Digests::Preferred,
            "required" => Digests::Required,
            "off" => Digests::Off,
            _ => return wrong(format!("digests is {value:?}"), "write preferred, required or off"),
        }),
        "timeout" if matches!(value, "forever" | "none") => return Ok(None),
        "timeout" => match milliseconds(value)? {
            0 => return wrong("timeout is 0", "write 30s, or forever"),
            time => DiskSetting::DeadlineMs(time),
        },
        "bytes_per_s" => DiskSetting::Limit(Limit::BytesPerSecond(amount(value)?)),
        "operations_per_s" => DiskSetting::Limit(Limit::OperationsPerSecond(amount(value)?)),
        "burst" => DiskSetting::Limit(Limit::BurstMs(burst(value)?)),
        "reserve" if flag(key, value)? => DiskSetting::Reserve,
        "allow_md5" if flag(key, value)? => DiskSetting::AllowMd5,
        "reserve" | "allow_md5" => return Ok(None),
        "preempt" => {
            let digits = value.strip_prefix("0x").unwrap_or(value);
            let remedy = "write the key that `redoubt storage probe` shows, as 0x0123456789abcdef";
            let key = u64::from_str_radix(digits, 16);
            DiskSetting::Preempt(key.map_err(|_| (format!("{value:?} is no key"), remedy.to_string()))?)
        }
        _ => return unknown(key),
    }))
}

impl DiskText {
    /// Reads `volume,access,key=value,...`; files are relative to `directory`.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Wrong> {
        Self::with(text, &[], directory)
    }

    /// The same with more `key=value`, which count more.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn with(text: &str, more: &[String], directory: &Path) -> Result<Self, Wrong> {
        let mut parts = text.split(',').map(str::trim);
        let volume = parts.next().unwrap_or_default();
        let mut pairs = vec![("volume".to_string(), volume.to_string())];
        for part in parts {
            pairs.push(match part.split_once('=') {
                Some((key, value)) => (key.trim().into(), value.trim().into()),
                None if matches!(part, "reserve" | "allow_md5") => (part.into(), String::new()),
                None => ("access".into(), part.into()),
            });
        }
        for part in more {
            let Some((key, value)) = part.split_once('=') else {
                return wrong(format!("{part:?} is not key=value"), format!("known are {}", KEYS.join(", ")));
            };
            // What is said later about one thing replaces what was said before.
            if !more
                .iter()
                .take_while(|other| *other != part)
                .any(|other| other.starts_with(&format!("{key}=")))
            {
                pairs.retain(|(known, _)| known != key.trim());
            }
            pairs.push((key.trim().into(), value.trim().into()));
        }
        Self::build(&pairs, directory)
    }

    /// Reads an entry of a VM file's `disk`.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn from_toml(value: &toml::Value, directory: &Path) -> Result<Self, Wrong> {
        let table = match value {
            toml::Value::String(text) => return Self::parse(text, directory),
            toml::Value::Table(table) => table,
            _ => return wrong("is neither text nor a table", "write \"aoe:e11.1,rw\""),
        };
        let mut pairs = Vec::new();
        for (key, value) in table {
            let values = value.as_array().map_or_else(|| vec![value], |values| values.iter().collect());
            for value in values {
                pairs.push((
                    key.clone(),
                    match value {
                        toml::Value::String(text) => text.clone(),
                        toml::Value::Integer(number) => number.to_string(),
                        toml::Value::Boolean(flag) => flag.to_string(),
                        _ => return wrong(format!("{key} is no text, number, true or false"), ""),
                    },
                ));
            }
        }
        Self::build(&pairs, directory)
    }

    fn build(pairs: &[(String, String)], directory: &Path) -> Result<Self, Wrong> {
        let (mut volume, mut access) = (None, "rw");
        let (mut user, mut secret, mut target_user, mut target_secret) = (None, None, None, None);
        let mut settings = Vec::new();
        for (key, value) in pairs {
            match key.as_str() {
                "volume" => volume = Some(value.as_str()),
                "access" => access = value,
                "user" => user = Some(value.as_str()),
                "secret" => secret = Some(directory.join(expand_home(value))),
                "target_user" => target_user = Some(value.clone()),
                "target_secret" => target_secret = Some(directory.join(expand_home(value))),
                _ => settings.extend(setting(key, value)?),
            }
        }
        let read_only = match access {
            "ro" | "r" => true,
            "rw" | "w" => false,
            other => {
                let remedy = match nearest(other, KEYS) {
                    Some(known) => format!("did you mean {known}=...?"),
                    None => "write ,ro or ,rw after the volume".into(),
                };
                return wrong(format!("{other:?} is no access"), remedy);
            }
        };
        let Some(volume) = volume else { return wrong("volume is missing", "add volume = \"aoe:e11.1\"") };
        let name = volume_name(volume, user)?;
        let user = match &name {
            VolumeName::Iscsi { user, .. } => user.clone(),
            VolumeName::Aoe(_) => None,
        };
        let mut wanted = Vec::new();
        match (user, secret) {
            (Some(user), file) => wanted.push(Wanted { whose: user, file, target: None }),
            (None, Some(_)) => return wrong("a secret without a user", NO_USER),
            (None, None) if target_secret.is_some() => {
                return wrong("a target_secret without a user", NO_USER);
            }
            (None, None) => {}
        }
        match (target_user, target_secret) {
            (name, Some(file)) => {
                let whose = name.clone().unwrap_or_else(|| "the target".into());
                wanted.push(Wanted { whose, file: Some(file), target: Some(name) });
            }
            (Some(_), None) => {
                return wrong("a target_user without a target_secret", "name the secret's file");
            }
            (None, None) => {}
        }
        Ok(Self { disk: Disk { volume: name.to_string(), read_only }, settings, wanted })
    }

    /// Reads the secrets from their files, or asks for them.
    ///
    /// # Errors
    /// Names the file; never quotes it.
    pub fn read_secrets(&mut self, ask: Ask<'_>) -> Result<(), Failure> {
        for Wanted { whose, file, target } in std::mem::take(&mut self.wanted) {
            let secret = match file {
                Some(path) => Secret::new(secret::load(&path)?.expose().to_vec()),
                None => ask(&format!("CHAP secret of {whose} for {}: ", self.disk.volume))?,
            };
            self.settings.push(match target {
                None => DiskSetting::Secret(secret),
                Some(name) => DiskSetting::TargetSecret(name, secret),
            });
        }
        mgmt_proto::disk::validate(&self.disk, &self.settings)
    }
}

/// A volume by its name, and the user if that is said beside it. A name that may hold a
/// password is not repeated.
///
/// # Errors
/// What is wrong, and what to do.
pub fn volume_name(volume: &str, user: Option<&str>) -> Result<VolumeName, Wrong> {
    let shown = user::without_secret(volume);
    if !volume.starts_with("aoe:") && !volume.starts_with("iscsi://") {
        return wrong(
            format!("{shown:?} is no volume"),
            "write aoe:e11.1 or iscsi://portal/iqn/lun; `redoubt storage discover` finds them",
        );
    }
    let said = user;
    match volume.parse::<VolumeName>() {
        Ok(VolumeName::Iscsi { user: Some(known), .. }) if said.is_some_and(|said| said != known) => {
            wrong(format!("{volume:?} names another user than user"), "name the user once")
        }
        Ok(VolumeName::Iscsi { portal, target, lun, user }) => {
            // What can be read out of the name again is a name.
            if let Some(Err(error)) = said.map(|said| user::decode(&user::encode(said))) {
                return wrong(
                    format!("user {}: {error}", said.unwrap_or_default().escape_debug()),
                    "name a user",
                );
            }
            Ok(VolumeName::Iscsi { user: said.map(Into::into).or(user), portal, target, lun })
        }
        Ok(VolumeName::Aoe(_)) if said.is_some() => {
            wrong(format!("{volume:?} has a user"), "AoE has no users; leave user out")
        }
        Ok(name) => Ok(name),
        Err(error) => wrong(format!("{shown:?}: {error}"), error.remedy()),
    }
}

/// The same of an argument.
///
/// # Errors
/// [`mgmt_proto::code::Code::Usage`], with what is wrong.
pub fn volume_argument(text: &str) -> Result<VolumeName, Failure> {
    volume_name(text, None).map_err(|(message, remedy)| usage(user::without_secret(text), message, remedy))
}

/// A disk on the command line.
///
/// # Errors
/// [`mgmt_proto::code::Code::Usage`], with what is wrong.
pub fn argument(text: &str, more: &[String]) -> Result<DiskText, Failure> {
    DiskText::with(text, more, Path::new(""))
        .map_err(|(message, remedy)| usage(user::without_secret(text), message, remedy))
}

/// Limits from their texts; those that are missing are none.
///
/// # Errors
/// [`mgmt_proto::code::Code::Usage`], with what is wrong.
pub fn limits(
    bytes_per_s: Option<&str>,
    operations_per_s: Option<&str>,
    burst_text: Option<&str>,
) -> Result<Vec<Limit>, Failure> {
    let named = |key: &str, (message, remedy): Wrong| usage(key, message, remedy);
    let mut limits = Vec::new();
    if let Some(text) = bytes_per_s {
        limits.push(Limit::BytesPerSecond(amount(text).map_err(|it| named("bytes_per_s", it))?));
    }
    if let Some(text) = operations_per_s {
        limits.push(Limit::OperationsPerSecond(amount(text).map_err(|it| named("operations_per_s", it))?));
    }
    if let Some(text) = burst_text {
        limits.push(Limit::BurstMs(burst(text).map_err(|it| named("burst", it))?));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DiskText, Wrong> {
        DiskText::parse(text, Path::new("/vms"))
    }

    #[test]
    fn both_forms_say_the_same() {
        let volume = "iscsi://alice@10.0.0.1/iqn.2026-11.example:web/1";
        let text = format!(
            "{volume},ro,secret=alice.secret,portal=10.0.1.1,portal=10.0.2.1:3261,policy=round-robin,\
             digests=required,timeout=5m,bytes_per_s=50M,operations_per_s=2k,burst=2s,\
             target_user=disks,target_secret=/etc/disks.secret,allow_md5"
        );
        let one = parse(&text).unwrap();
        assert_eq!(one.disk, Disk { volume: volume.into(), read_only: true });
        let settings = [
            DiskSetting::Portal([10, 0, 1, 1], 3260),
            DiskSetting::Portal([10, 0, 2, 1], 3261),
            DiskSetting::Policy(Policy::RoundRobin),
            DiskSetting::Digests(Digests::Required),
            DiskSetting::DeadlineMs(300_000),
            DiskSetting::Limit(Limit::BytesPerSecond(50 << 20)),
            DiskSetting::Limit(Limit::OperationsPerSecond(2_048)),
            DiskSetting::Limit(Limit::BurstMs(2_000)),
            DiskSetting::AllowMd5,
        ];
        assert_eq!(one.settings, settings);
        let files: Vec<_> = one.wanted.iter().map(|wanted| wanted.file.clone().unwrap()).collect();
        assert_eq!(files, [Path::new("/vms/alice.secret"), Path::new("/etc/disks.secret")]);
        assert_eq!(one.wanted[1].target, Some(Some("disks".into())));
        let table = format!(
            "volume = \"{volume}\"\naccess = \"ro\"\nsecret = \"alice.secret\"\n\
             portal = [\"10.0.1.1\", \"10.0.2.1:3261\"]\npolicy = \"round-robin\"\ndigests = \"required\"\n\
             timeout = \"5m\"\nbytes_per_s = 52428800\noperations_per_s = 2048\nburst = \"2000ms\"\n\
             target_user = \"disks\"\ntarget_secret = \"/etc/disks.secret\"\nallow_md5 = true\n"
        );
        let table = toml::Value::Table(table.parse().unwrap());
        let mut other = DiskText::from_toml(&table, Path::new("/vms")).unwrap();
        other.settings.sort_by_key(|setting| settings.iter().position(|it| it == setting));
        assert_eq!(other.disk, one.disk);
        assert_eq!(other.settings, settings);
        assert_eq!(other.wanted, one.wanted);
        let more = ["access=rw".to_string(), "portal=10.0.9.1".into(), "reserve=yes".into()];
        let changed = DiskText::with(&text, &more, Path::new("/vms")).unwrap();
        assert!(!changed.disk.read_only && changed.settings.contains(&DiskSetting::Reserve));
        let portals = changed.settings.iter().filter(|it| matches!(it, DiskSetting::Portal(..)));
        assert_eq!(portals.collect::<Vec<_>>(), [&DiskSetting::Portal([10, 0, 9, 1], 3260)]);
        assert_eq!(parse("aoe:e1.1,timeout=forever,reserve=false").unwrap().settings, []);
        let aoe = parse("aoe:e1.1,station=02:00:00:00:00:01,preempt=0xabcd").unwrap();
        assert_eq!(
            aoe.settings,
            [DiskSetting::Station([2, 0, 0, 0, 0, 1]), DiskSetting::Preempt(0xabcd)],
            "whether that fits is for whoever reads the secrets to say"
        );
    }

    #[test]
    fn a_user_is_said_in_either_place() {
        for (user, text) in [
            ("alice", "alice"),
            ("dom/alice", "dom%2Falice"),
            ("bob%secret", "bob%25secret"),
            ("iqn.1993-08.org.debian:01:abc", "iqn.1993-08.org.debian:01:abc"),
        ] {
            let volume = format!("iscsi://{text}@10.0.0.1/iqn.a:b/1");
            let one = parse(&format!("{volume},secret=f")).unwrap();
            let other = parse(&format!("iscsi://10.0.0.1/iqn.a:b/1,user={user},secret=f")).unwrap();
            assert_eq!((&one, one.disk.volume.as_str()), (&other, volume.as_str()));
            assert_eq!(one.wanted[0].whose, user);
        }
    }

    /// What the guide shows is understood.
    #[test]
    fn the_example_is_one() {
        let guide = include_str!("../GUIDE.md");
        let block = guide.split("```toml\n").find(|block| block.starts_with("disk = [")).unwrap();
        let table: toml::Table = block.split("```").next().unwrap().parse().unwrap();
        let disks = table["disk"].as_array().unwrap().iter();
        let disks: Vec<_> = disks.map(|disk| DiskText::from_toml(disk, Path::new("")).unwrap()).collect();
        let counts: Vec<_> = disks.iter().map(|disk| (disk.settings.len(), disk.wanted.len())).collect();
        assert_eq!(counts, [(2, 0), (1, 0), (6, 2)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message, remedy) in [
            ("aoe:e1.1,potral=10.0.0.1", "unknown key potral", "did you mean portal?"),
            ("aoe:e1.1,colour=red", "unknown key colour", "known are volume, access"),
            ("aoe:e1.1,reserv", "\"reserv\" is no access", "did you mean reserve"),
            ("aoe:e1.1,timeout=soon", "\"soon\" is no time", "write 500ms"),
            ("aoe:e1.1,timeout=0", "timeout is 0", "forever"),
            ("aoe:e1.1,burst=2h", "\"2h\" is too long a burst", "60s"),
            ("aoe:e1.1,bytes_per_s=fast", "\"fast\" is no amount", "50M"),
            ("aoe:e1.1,bytes_per_s=99999999999999999999", "is no amount", "50M"),
            ("aoe:e1.1,reserve=maybe", "reserve is \"maybe\"", "reserve = true"),
            ("aoe:e1.1,preempt=x", "\"x\" is no key", "storage probe"),
            ("aoe:e1.1,station=1", "\"1\" is no station", "02:00"),
            ("aoe:e1.999", "an AoE target is named", "discover"),
            ("iscsi://host/iqn.a:b", "a portal is an IPv4 address", "discover"),
            ("iscsi://10.0.0.1/iqn.a:b/1,secret=f", "a secret without a user", "user@"),
            ("iscsi://bob%secret@10.0.0.1/iqn.a:b/1", "\"iscsi://bob***@10.0.0.1/iqn.a:b/1\"", "secret=FILE"),
            ("iscsi://bob:secret@10.0.0.1/iqn.a:b/1", "\"iscsi://bob***@10.0.0.1/iqn.a:b/1\"", "secret=FILE"),
            ("iscsi://a@10.0.0.1/iqn.a:b/1,user=b", "names another user", "once"),
            ("iscsi://10.0.0.1/iqn.a:b/1,user=", "is empty", "name a user"),
            ("iscsi://10.0.0.1/iqn.a~b/1", "holds '~'", "rename"),
            ("aoe:e1.1,user=a", "has a user", "leave user out"),
            ("iscsi://10.0.0.1/iqn.a:b/1,target_secret=f", "without a user", "user@"),
            ("iscsi://a@10.0.0.1/iqn.a:b/1,target_user=f", "without a target_secret", "file"),
            ("", "\"\" is no volume", "write aoe:"),
        ] {
            let (what, to_do) = parse(text).unwrap_err();
            assert!(what.contains(message) && to_do.contains(remedy), "{text}: {what} ({to_do})");
        }
    }

    #[test]
    fn secrets_come_from_files_or_are_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alice.secret");
        std::fs::write(&path, "open sesame\nmore\n").unwrap();
        let text = "iscsi://alice@10.0.0.1/iqn.a:b/1";
        let with_file = format!("{text},secret=alice.secret");
        let nobody = &mut |question: &str| panic!("{question}");
        let mut disk = DiskText::parse(&with_file, directory.path()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let failure = disk.clone().read_secrets(nobody).unwrap_err();
        assert!(failure.message.contains("others may read"), "{failure}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        disk.read_secrets(nobody).unwrap();
        assert_eq!(disk.settings, [DiskSetting::Secret(Secret::new(b"open sesame".to_vec()))]);
        assert!(!format!("{disk:?}").contains("sesame"));
        let mut asked = String::new();
        let mut disk = parse(text).unwrap();
        disk.read_secrets(&mut |question| {
            asked = question.into();
            Ok(Secret::new(b"typed".to_vec()))
        })
        .unwrap();
        assert_eq!(asked, format!("CHAP secret of alice for {text}: "));
        assert_eq!(disk.settings, [DiskSetting::Secret(Secret::new(b"typed".to_vec()))]);
        // What makes no sense together is found before anything is sent.
        let mut disk = parse("aoe:e1.1,portal=10.0.0.1").unwrap();
        assert!(disk.read_secrets(nobody).unwrap_err().message.contains("of iSCSI volumes"));
    }
}
