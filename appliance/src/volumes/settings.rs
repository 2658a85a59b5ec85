//! What is set for a volume, and the sessions made from it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, Limit, credentials};
use mgmt_proto::reason::Refusal;
use storage::aoe::{MacAddress, Target, TargetConfig};
use storage::iscsi::{Credentials, DigestPolicy, PathPolicy, Portal, Session, SessionConfig, SessionKind};
use storage::rate::{Limiter, Limits};
use storage::volume::{Volume, VolumeName};

use crate::guests::number::GuestNumber;
use crate::volumes::Volumes;

const MS: u64 = 1_000_000;

/// What an operator sets for a volume. Limits, deadline and reservation count at
/// once, the rest when the volume is opened next.
#[derive(Clone, Debug, Default)]
pub struct VolumeSettings {
    /// How the node proves who it is (iSCSI).
    pub credentials: Option<Credentials>,
    /// Whether data must carry digests (iSCSI).
    pub digests: DigestPolicy,
    /// Portals besides the one in the volume's name (iSCSI).
    pub portals: Vec<Portal>,
    /// How several paths are used (iSCSI).
    pub policy: PathPolicy,
    /// The only stations believed (AoE).
    pub stations: Vec<MacAddress>,
    /// What the volume may do.
    pub limits: Limits,
    /// How long a request may wait before it fails; none is for ever.
    pub deadline_ns: Option<u64>,
    /// The volume is reserved for this node while it is open.
    pub reserve: bool,
    /// The key of a holder that has to give way (iSCSI).
    pub preempt: Option<u64>,
}

/// Limits from their list.
#[must_use]
pub fn limits(list: &[Limit]) -> Limits {
    let mut limits = Limits::default();
    for limit in list {
        match *limit {
            Limit::BytesPerSecond(rate) => limits.bytes_per_s = Some(rate).filter(|rate| *rate != 0),
            Limit::OperationsPerSecond(rate) => {
                limits.operations_per_s = Some(rate).filter(|rate| *rate != 0);
            }
            Limit::BurstMs(burst_ms) => limits.burst_ms = burst_ms,
        }
    }
    limits
}

impl VolumeSettings {
    /// What is set for a volume of this name. [`mgmt_proto::disk::validate`] has
    /// looked at the list.
    ///
    /// # Errors
    /// A CHAP secret was given without a user name.
    pub fn new(name: &VolumeName, list: &[DiskSetting]) -> Result<Self, Refusal> {
        let mut settings = Self::default();
        let mut rates = Vec::new();
        for setting in list {
            match setting {
                DiskSetting::Policy(policy) => settings.policy = (*policy).into(),
                DiskSetting::Portal(address, port) => {
                    settings.portals.push(Portal { address: (*address).into(), port: *port });
                }
                DiskSetting::Station(mac) => settings.stations.push(*mac),
                DiskSetting::Digests(digests) => settings.digests = (*digests).into(),
                DiskSetting::DeadlineMs(deadline_ms) => {
                    settings.deadline_ns = Some(deadline_ms.saturating_mul(MS));
                }
                DiskSetting::Limit(limit) => rates.push(*limit),
                DiskSetting::Reserve => settings.reserve = true,
                DiskSetting::Preempt(key) => settings.preempt = Some(*key),
                DiskSetting::Secret(_) | DiskSetting::TargetSecret(..) | DiskSetting::AllowMd5 => {}
            }
        }
        settings.limits = limits(&rates);
        if let VolumeName::Iscsi { user: Some(user), .. } = name {
            settings.credentials = credentials(user, list);
        } else if list.iter().any(|it| matches!(it, DiskSetting::Secret(_))) {
            let remedy = "name the user: iscsi://user@portal/iqn/lun";
            return Err(Refusal::said(Code::Usage, name.to_string(), "has a secret and no user", remedy));
        }
        Ok(settings)
    }

    /// In words, without secrets.
    #[must_use]
    pub fn report(&self, name: &VolumeName) -> Vec<(String, String)> {
        let mut report = Vec::new();
        let mut say = |key: &str, value: String| report.push((key.to_string(), value));
        let rate = |rate: Option<u64>| rate.map_or_else(|| "none".to_string(), |rate| rate.to_string());
        if matches!(name, VolumeName::Iscsi { .. }) {
            let policy = if self.policy == PathPolicy::RoundRobin { "round-robin" } else { "failover" };
            say("Policy", policy.to_string());
            let digests = match self.digests {
                DigestPolicy::Preferred => "preferred",
                DigestPolicy::Required => "required",
                DigestPolicy::Off => "off",
            };
            say("Digests", digests.to_string());
            let login = match &self.credentials {
                None => "none".to_string(),
                Some(credentials) => {
                    let mutual = if credentials.target.is_some() { ", mutual" } else { "" };
                    let md5 = if credentials.allow_md5 { ", MD5 allowed" } else { "" };
                    alloc::format!("CHAP as {}{mutual}{md5}", credentials.name)
                }
            };
            say("Login", login);
        }
        let deadline = self.deadline_ns.map(|deadline_ns| alloc::format!("{} ms", deadline_ns / MS));
        say("Deadline", deadline.unwrap_or_else(|| "none".to_string()));
        say("BytesPerSecond", rate(self.limits.bytes_per_s));
        say("OperationsPerSecond", rate(self.limits.operations_per_s));
        say("BurstMs", self.limits.burst_ms.to_string());
        say("Reserve", if self.reserve { "yes" } else { "no" }.to_string());
        report
    }
}

impl Volumes {
    /// Sets what counts for a disk from now on.
    pub fn configure(&mut self, guest: GuestNumber, device: usize, settings: VolumeSettings, now_ns: u64) {
        let key = self.reservation_key();
        let found = self.binding_mut(guest, device);
        let Some(binding) = found else { return };
        binding.volume.set_limits(settings.limits, now_ns);
        binding.volume.set_deadline(settings.deadline_ns);
        let reserve = settings.reserve && !binding.read_only;
        let changed = reserve != (binding.settings.reserve && !binding.read_only)
            || (reserve && settings.preempt != binding.settings.preempt);
        if changed {
            match &mut binding.volume {
                Volume::Aoe(target) => target.set_reserve(reserve),
                Volume::Iscsi(session) => session.set_reservation(reserve.then_some(key), settings.preempt),
            }
        }
        binding.settings = settings;
    }

    /// What is set for a disk.
    #[must_use]
    pub fn settings(&self, guest: GuestNumber, device: usize) -> Option<&VolumeSettings> {
        let found = self.binding(guest, device);
        found.map(|binding| &binding.settings)
    }

    /// Limits all disks of a guest together.
    pub fn limit_guest(&mut self, guest: GuestNumber, limits: Limits, now_ns: u64) {
        if limits.bytes_per_s.is_none() && limits.operations_per_s.is_none() {
            // Requests that wait for it are released at the next poll.
            self.limiters.remove(&guest);
        } else {
            self.limiters.insert(guest, Limiter::new(limits, now_ns));
        }
    }

    /// The key under which this node reserves disks: its own, always the same.
    #[must_use]
    pub fn reservation_key(&self) -> u64 {
        hash(&self.initiator)
    }

    pub(crate) fn session(
        &mut self,
        name: &VolumeName,
        share: u16,
        read_only: bool,
        settings: &VolumeSettings,
        now_ns: u64,
    ) -> Volume {
        self.supersede(name, share, now_ns);
        let seed = self.next_seed();
        // Readers may be many; who writes is alone.
        let reserve = settings.reserve && !read_only;
        let mut volume = match name {
            VolumeName::Aoe(target) => {
                let left = self.left.iter().filter(|left| left.name == *name);
                Volume::Aoe(Target::new(TargetConfig {
                    target: *target,
                    sources: self.sources(),
                    macs: settings.stations.clone(),
                    read_only,
                    reserve,
                    hold_writes_until_ns: left.map(|left| left.until_ns).max().unwrap_or(0),
                    seed,
                }))
            }
            VolumeName::Iscsi { portal, target, lun, .. } => {
                let kind = SessionKind::Normal { target: target.to_string(), lun: *lun };
                let initiator = self.initiator.clone();
                let config = SessionConfig::new(*portal, initiator, kind, isid(name, share), seed);
                let others = settings.portals.iter().filter(|other| *other != portal);
                Volume::Iscsi(Session::new(SessionConfig {
                    portals: core::iter::once(portal).chain(others).copied().collect(),
                    policy: settings.policy,
                    credentials: settings.credentials.clone(),
                    digests: settings.digests,
                    reservation: reserve.then(|| self.reservation_key()),
                    preempt: settings.preempt,
                    read_only,
                    ..config
                }))
            }
        };
        volume.set_limits(settings.limits, now_ns);
        volume.set_deadline(settings.deadline_ns);
        volume
    }
}

/// FNV-1a: the same on every start.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An initiator session identifier for a volume: random type (RFC 7143, 11.12.5)
/// with bytes that depend on its name only, so that it is the same after a
/// restart and the target drops the session before it. Two sessions with one
/// volume must differ, or each would end the other.
pub(crate) fn isid(name: &VolumeName, share: u16) -> [u8; 6] {
    let [a, b, c, d, e, ..] =
        hash(&name.normalised().to_string()).wrapping_add(u64::from(share) << 24).to_be_bytes();
    [0x80, a, b, c, d, e]
}
