//! What is set for a volume, and the sessions made from it.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use netstack::host::Host;
use storage::aoe::{MacAddress, Target, TargetConfig};
use storage::iscsi::{Credentials, DigestPolicy, PathPolicy, Portal, Session, SessionConfig, SessionKind};
use storage::rate::{Limiter, Limits};
use storage::volume::{Volume, VolumeName};

use super::{Binding, Left, Volumes};

/// Most paths of an AoE volume's frames: standard Ethernet.
const MTU: usize = 1500;

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

impl Volumes {
    /// Sets what counts for a volume, whether it is open or not.
    pub fn configure(&mut self, name: &VolumeName, settings: VolumeSettings, now_ns: u64) {
        let key = self.reservation_key();
        for binding in self.bindings.iter_mut().filter(|binding| binding.name == *name) {
            binding.volume.set_limits(settings.limits, now_ns);
            binding.volume.set_deadline(settings.deadline_ns);
            match &mut binding.volume {
                Volume::Aoe(target) => target.set_reserve(settings.reserve),
                Volume::Iscsi(session) => {
                    session.set_reservation(settings.reserve.then_some(key), settings.preempt);
                }
            }
        }
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.clone(), settings));
    }

    /// What is set for a volume.
    #[must_use]
    pub fn settings(&self, name: &VolumeName) -> VolumeSettings {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map(|(_, settings)| settings.clone()).unwrap_or_default()
    }

    /// Limits all disks of a guest together.
    pub fn limit_guest(&mut self, guest: u64, limits: Limits, now_ns: u64) {
        self.limiters.insert(guest, Limiter::new(limits, now_ns));
    }

    /// The key under which this node reserves disks: its own, always the same.
    #[must_use]
    pub fn reservation_key(&self) -> u64 {
        hash(&self.initiator)
    }

    pub(super) fn session(&mut self, name: &VolumeName, share: u16, read_only: bool, now_ns: u64) -> Volume {
        let seed = self.next_seed();
        let settings = self.settings(name);
        // Readers may be many; who writes is alone.
        let reserve = settings.reserve && !read_only;
        let mut volume = match name {
            VolumeName::Aoe(target) => {
                let left = self.left.iter().filter(|left| left.name == *name);
                Volume::Aoe(Target::new(TargetConfig {
                    target: *target,
                    sources: vec![self.mac],
                    macs: settings.stations,
                    mtu: MTU,
                    read_only,
                    reserve,
                    hold_writes_until_ns: left.map(|left| left.until_ns).max().unwrap_or(0),
                    seed,
                }))
            }
            VolumeName::Iscsi { portal, target, lun, .. } => {
                let kind = SessionKind::Normal { target: target.clone(), lun: *lun };
                let initiator = self.initiator.clone();
                let config = SessionConfig::new(*portal, initiator, kind, isid(name, share), seed);
                let others = settings.portals.iter().filter(|other| *other != portal);
                Volume::Iscsi(Session::new(SessionConfig {
                    portals: core::iter::once(portal).chain(others).copied().collect(),
                    policy: settings.policy,
                    credentials: settings.credentials,
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

    /// Closes one disk of a guest.
    pub fn close_disk(&mut self, guest: u64, device: usize, host: &mut Host, now_ns: u64) {
        self.close_where(host, now_ns, |binding| binding.guest == guest && binding.device == device);
    }

    /// Closes all disks of a guest.
    pub fn close(&mut self, guest: u64, host: &mut Host, now_ns: u64) {
        self.limiters.remove(&guest);
        self.close_where(host, now_ns, |binding| binding.guest == guest);
    }

    fn close_where(&mut self, host: &mut Host, now_ns: u64, gone: impl Fn(&Binding) -> bool) {
        self.left.retain(|left| left.until_ns > now_ns);
        for binding in self.bindings.extract_if(.., |binding| gone(binding)) {
            for connection in binding.connections.into_iter().flatten() {
                host.abort(connection, now_ns);
            }
            // Its writes may still be on the wire when the next session begins.
            if let Volume::Aoe(target) = &binding.volume
                && target.wandering_until_ns() > now_ns
            {
                self.left.push(Left { name: binding.name, until_ns: target.wandering_until_ns() });
            }
        }
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
pub(super) fn isid(name: &VolumeName, share: u16) -> [u8; 6] {
    let [a, b, c, d, e, ..] = hash(&name.to_string()).wrapping_add(u64::from(share) << 24).to_be_bytes();
    [0x80, a, b, c, d, e]
}
