//! The virtual switch: joins the uplink, the host and the guests.
//!
//! It decides, and never touches a frame: [`Switch::forward`] is a pure function
//! from an ingress port and a frame's bytes to a set of ports. Addresses are known
//! from configuration alone, so nothing a guest sends can move another's traffic; what a
//! port with further addresses is seen to send from is its own until it is idle.
//!
//! Spec: IEEE 802.1Q clause 8.6 (forwarding), table 8-1 (reserved addresses).
//!
//! Rules, in the order they are checked:
//! 1. A frame is at least a header long and at most the port's maximum, or is to be
//!    cut into such frames.
//! 2. A guest sends only from its own MAC and those that it was given, never the AoE
//!    EtherType (tagged or not), never to a reserved link-local group, and claims no address
//!    that the node protects: see [`guard`].
//! 3. The uplink never sends from a MAC that is ours: that is a loop or a spoof.
//! 4. AoE passes between the uplink and the host alone: guests neither see nor
//!    speak the storage protocol.
//! 5. The node's own stack and the guests never see each other's frames: what it learns,
//!    it learns from the wire. A port that is for management reaches one TCP port, and is
//!    answered.
//! 6. Tagged frames pass between the wire and the ports that are in their VLAN.
//! 7. Groups flood, known stations are reached directly, unknown ones are behind
//!    the uplink. Nothing returns through the port it came from.

use alloc::vec::Vec;

use crate::frame::{ETHERTYPE_AOE, HEADER_BYTES, Header, MacAddress};
use crate::keyed::{Keyed, KeyedMap};
use crate::limits::{FIRST_DROPS_MAX, SWITCH_PORTS_MAX};
use crate::offload::Offload;

mod drops;
pub mod guard;
mod learned;
mod policy;
mod rate;

pub use drops::{DropReason, Drops, FirstDrop};
use guard::Protected;
use learned::Learned;
use policy::virtual_router;
pub use policy::{Policy, Prefix};
use rate::Bucket;
pub use rate::Rate;

const _: () = assert!(SWITCH_PORTS_MAX <= 64, "Destinations is a 64-bit set");

/// A port of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u8);

impl PortId {
    /// The port's number, below [`SWITCH_PORTS_MAX`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The wire.
pub const UPLINK: PortId = PortId(0);
/// The node's own stack and its AoE sessions.
pub const HOST: PortId = PortId(1);
const GUEST_FIRST: u8 = 2;

/// A set of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destinations(u64);

impl Destinations {
    /// No port.
    pub const NONE: Self = Self(0);
    const UPLINK_ONLY: Self = Self::only(UPLINK);
    const UPLINK_AND_HOST: Self = Self(Self::only(UPLINK).0 | Self::only(HOST).0);

    const fn only(port: PortId) -> Self {
        Self(1 << port.0)
    }

    /// The set less a port.
    #[must_use]
    pub const fn without(self, port: PortId) -> Self {
        Self(self.0 & !(1 << port.0))
    }

    /// Whether `port` is in the set.
    #[must_use]
    pub const fn contains(self, port: PortId) -> bool {
        self.0 & (1 << port.0) != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The ports in the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = PortId> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            // 64 when none is left.
            let lowest = u8::try_from(rest.trailing_zeros()).ok().filter(|number| *number < 64)?;
            rest &= rest - 1;
            Some(PortId(lowest))
        })
    }
}

/// What went through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that entered the switch here.
    pub ingress_frames: u64,
    /// Their octets.
    pub ingress_bytes: u64,
    /// Frames directed to this port.
    pub egress_frames: u64,
    /// Their octets.
    pub egress_bytes: u64,
    /// Frames that entered here and went nowhere.
    pub drops: Drops,
}

#[derive(Clone, Debug)]
struct Port {
    mac: MacAddress,
    policy: Policy,
    bucket: Option<Bucket>,
    counters: PortCounters,
}

impl Port {
    /// Whether a frame is for the node's management port, and its port may reach that.
    fn reaches_node(&self, header: &Header, frame: &[u8]) -> bool {
        let port = self.policy.management.filter(|_| header.source == self.mac);
        port.is_some_and(|port| guard::is_for_management(&self.policy, port, frame))
    }
}

/// Why a port could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The address is a group or all zeroes.
    NotAStation,
    /// Another port has this address.
    DuplicateMac,
    /// All ports are in use.
    Full,
}

/// The switch.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Largest frame forwarded, VLAN tags excluded.
    frame_bytes_max: usize,
    uplink: PortCounters,
    /// Index 0 stands for the uplink, which has no address of its own.
    ports: [Option<Port>; SWITCH_PORTS_MAX],
    protected: Protected,
    /// Addresses that ports have of their own.
    owners: KeyedMap<MacAddress, PortId>,
    learned: Learned,
    /// Ports that reach the node's management port.
    managers: Destinations,
    /// Not yet reported.
    first_drops: Vec<FirstDrop>,
    /// Those that are attached, which may be few.
    attached: Destinations,
}

impl Switch {
    /// A switch with an uplink and the host; `mtu` is the largest payload, `secret` is of this
    /// boot and keeps strangers from choosing addresses that are slow to find.
    ///
    /// # Errors
    /// [`AttachError::NotAStation`] when the host's address is no station address.
    pub fn new(host: MacAddress, mtu: usize, secret: &[u8; 16]) -> Result<Self, AttachError> {
        let keyed = Keyed::new(secret, b"switch");
        let mut switch = Self {
            frame_bytes_max: mtu.saturating_add(HEADER_BYTES),
            uplink: PortCounters::default(),
            ports: [const { None }; SWITCH_PORTS_MAX],
            protected: Protected::default(),
            owners: KeyedMap::with_hasher(keyed),
            learned: Learned::new(keyed),
            managers: Destinations::NONE,
            first_drops: Vec::new(),
            attached: Destinations::NONE,
        };
        switch.occupy(HOST, host)?;
        Ok(switch)
    }

    fn occupy(&mut self, port: PortId, mac: MacAddress) -> Result<(), AttachError> {
        if !mac.is_station() {
            return Err(AttachError::NotAStation);
        }
        if self.port_of(mac).is_some() {
            return Err(AttachError::DuplicateMac);
        }
        let slot = self.ports.get_mut(usize::from(port.0)).ok_or(AttachError::Full)?;
        *slot =
            Some(Port { mac, policy: Policy::default(), bucket: None, counters: PortCounters::default() });
        self.attached.0 |= Destinations::only(port).0;
        self.owners.insert(mac, port);
        self.learned.forget(mac);
        Ok(())
    }

    /// Attaches a guest's interface with its configured address.
    ///
    /// # Errors
    /// The address is unusable or taken, or no port is free.
    pub fn attach_guest(&mut self, mac: MacAddress) -> Result<PortId, AttachError> {
        let free = (GUEST_FIRST..64)
            .map(PortId)
            .find(|port| matches!(self.ports.get(usize::from(port.0)), Some(None)))
            .ok_or(AttachError::Full)?;
        self.occupy(free, mac)?;
        Ok(free)
    }

    /// Detaches a guest's interface; the uplink and the host stay.
    pub fn detach_guest(&mut self, port: PortId) {
        if port.0 >= GUEST_FIRST
            && let Some(slot) = self.ports.get_mut(usize::from(port.0))
        {
            if let Some(gone) = slot.take() {
                self.owners.remove(&gone.mac);
            }
            self.attached = self.attached.without(port);
            self.managers = self.managers.without(port);
            self.learned.forget_port(port);
        }
    }

    /// Sets what a guest's port may claim.
    pub fn set_policy(&mut self, port: PortId, policy: Policy) {
        let Some(slot) = self.port_mut(port).filter(|slot| slot.policy != policy) else { return };
        let is_manager = policy.management.is_some();
        slot.policy = policy;
        self.learned.forget_port(port);
        self.managers = self.managers.without(port);
        if is_manager {
            self.managers.0 |= Destinations::only(port).0;
        }
    }

    /// Sets whose addresses no guest may claim.
    pub fn protect(&mut self, protected: Protected) {
        self.protected = protected;
    }

    /// The next frame of a guest that was the first one to be dropped for its reason.
    pub fn take_first_drop(&mut self) -> Option<FirstDrop> {
        self.first_drops.pop()
    }

    /// Limits what a guest's port may send, or lifts the limit.
    pub fn set_rate(&mut self, port: PortId, rate: Option<Rate>, now_ns: u64) {
        if let Some(port) = self.port_mut(port) {
            port.bucket = rate.map(|rate| Bucket::new(rate, now_ns));
        }
    }

    /// A port's counters; `None` when it is not attached.
    #[must_use]
    pub fn counters(&self, port: PortId) -> Option<PortCounters> {
        if port == UPLINK {
            return Some(self.uplink);
        }
        self.port(port).map(|port| port.counters)
    }

    /// A port's address; the uplink has none.
    #[must_use]
    pub fn mac(&self, port: PortId) -> Option<MacAddress> {
        self.port(port).map(|port| port.mac)
    }

    fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(usize::from(port.0))?.as_ref()
    }

    fn port_mut(&mut self, port: PortId) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(port.0))?.as_mut()
    }

    fn port_of(&self, mac: MacAddress) -> Option<PortId> {
        self.owners.get(&mac).copied()
    }

    const fn guests(&self) -> Destinations {
        self.attached.without(HOST)
    }

    /// Decides where a frame goes: a pure function of configuration and frame.
    /// `longest` is the length of the longest frame that it is on a wire.
    ///
    /// # Errors
    /// The reason why it goes nowhere.
    pub fn forward(&self, ingress: PortId, frame: &[u8], longest: usize) -> Result<Destinations, DropReason> {
        let header = Header::parse(frame).ok_or(DropReason::Malformed)?;
        if longest > self.frame_bytes_max.saturating_add(4 * header.tags) {
            return Err(DropReason::Giant);
        }
        let aoe = header.ethertype == ETHERTYPE_AOE;
        let audience = if ingress == UPLINK {
            if self.port_of(header.source).is_some() {
                return Err(DropReason::SourceMac);
            }
            if aoe { Destinations::UPLINK_AND_HOST } else { self.in_vlan(&header, frame) }
        } else {
            let port = self.port(ingress).ok_or(DropReason::NoPort)?;
            if !self.may_send_from(ingress, port, header.source) {
                return Err(DropReason::SourceMac);
            }
            if ingress == HOST {
                let managers = if header.destination.is_group() { Destinations::NONE } else { self.managers };
                Destinations(managers.0 | Destinations::UPLINK_ONLY.0)
            } else {
                self.guard(&header, port, frame).map_err(|(reason, _)| reason)?;
                let vlan = self.in_vlan(&header, frame);
                if port.reaches_node(&header, frame) { vlan } else { vlan.without(HOST) }
            }
        };
        let wanted = self.wanted(header.destination);
        let destinations = Destinations(wanted.0 & audience.0).without(ingress);
        match destinations.is_empty() {
            true if ingress == UPLINK && header.tags > 0 => Err(DropReason::Tagged),
            true => Err(DropReason::NoDestination),
            false => Ok(destinations),
        }
    }

    /// What a guest may not send, wherever to.
    fn guard(&self, header: &Header, port: &Port, frame: &[u8]) -> Result<(), guard::Blocked> {
        if header.ethertype == ETHERTYPE_AOE {
            return Err((DropReason::AoeFromGuest, None));
        }
        if header.destination.is_link_local() {
            return Err((DropReason::LinkLocal, None));
        }
        let to_node = self.port(HOST).is_some_and(|host| host.mac == header.destination);
        if to_node && !port.reaches_node(header, frame) {
            return Err((DropReason::Node, None));
        }
        guard::check(header.source, &port.policy, &self.protected, frame)
    }

    /// The ports that a frame may reach for its VLAN; only the wire is in all of them.
    fn in_vlan(&self, header: &Header, frame: &[u8]) -> Destinations {
        if header.tags == 0 {
            return Destinations(u64::MAX);
        }
        let Some(vlan) = guard::vlan(frame).filter(|_| header.tags == 1) else {
            return Destinations::UPLINK_ONLY;
        };
        let is_in = |port: &PortId| self.port(*port).is_some_and(|port| port.policy.trunk.contains(&vlan));
        let ports = self.guests().iter().filter(is_in);
        ports.fold(Destinations::UPLINK_ONLY, |all, port| Destinations(all.0 | Destinations::only(port).0))
    }

    /// Whether a port sends from its own hardware address, or from one that its owner lets it
    /// have and that no other station has.
    fn may_send_from(&self, ingress: PortId, port: &Port, source: MacAddress) -> bool {
        if source == port.mac || port.policy.has_router(source) {
            return true;
        }
        if port.policy.macs == 0 || !source.is_station() || virtual_router(source).is_some() {
            return false;
        }
        match self.learned.port_of(source) {
            Some(known) => known == ingress,
            None => {
                let taken = self.port_of(source).is_some() || self.protected.stations.contains(&source);
                !taken && self.learned.count(ingress) < port.policy.macs
            }
        }
    }

    /// Notes where hardware addresses are that no port has of its own.
    fn learn(&mut self, ingress: PortId, frame: &[u8], now_ns: u64) {
        let source = frame.get(6..).and_then(|rest| rest.first_chunk()).map(|mac| MacAddress(*mac));
        let Some(source) = source else { return };
        if ingress == UPLINK {
            self.learned.forget(source);
        } else if self.port(ingress).is_some_and(|port| port.mac != source) {
            self.learned.see(source, ingress, now_ns);
        }
    }

    /// Reports once what is dropped of a guest, and why.
    fn report(&mut self, ingress: PortId, frame: &[u8], reason: DropReason) {
        let header = Header::parse(frame);
        // Of what the wire brings, only that another station there has a guest's address.
        let of_guest = ingress.0 >= GUEST_FIRST
            || (reason == DropReason::SourceMac
                && header.and_then(|header| self.port_of(header.source)).is_some_and(|it| it != HOST));
        if !of_guest || self.first_drops.len() >= FIRST_DROPS_MAX {
            return;
        }
        let blocked = match (&header, self.port(ingress)) {
            (Some(header), Some(port)) => self.guard(header, port, frame).err(),
            _ => None,
        };
        let claimed = blocked.filter(|(it, _)| *it == reason).and_then(|(_, claimed)| claimed);
        let source = header.map(|header| header.source);
        self.first_drops.push(FirstDrop { port: ingress, reason, source, claimed });
    }

    fn wanted(&self, destination: MacAddress) -> Destinations {
        if destination.is_link_local() {
            // Reserved groups concern the link they are on: host and wire only.
            Destinations::UPLINK_AND_HOST
        } else if destination.is_group() {
            Destinations(Destinations::UPLINK_AND_HOST.0 | self.guests().0)
        } else {
            let known = self.port_of(destination).or_else(|| self.learned.port_of(destination));
            Destinations::only(known.unwrap_or(UPLINK))
        }
    }

    /// Decides, limits the rate and counts: what the node calls for each frame.
    ///
    /// # Errors
    /// The reason why the frame goes nowhere, already counted.
    pub fn admit(
        &mut self,
        ingress: PortId,
        frame: &[u8],
        offload: &Offload,
        now_ns: u64,
    ) -> Result<Destinations, DropReason> {
        let (pieces, longest) = offload.on_wire(frame.len());
        let octets = offload.octets_on_wire(frame.len());
        let pieces = pieces as u64;
        let further = self.port(ingress).map_or(0, |port| port.policy.macs);
        if further > 0 && self.learned.count(ingress) >= further {
            self.learned.expire(ingress, now_ns);
        }
        // TCP is not spoken with a group (RFC 9293, 3.9.1), and each of its members would be
        // given all of the pieces.
        let is_group = frame.first().is_some_and(|first| first & 1 == 1);
        let sane = if pieces > 1 && is_group { Err(DropReason::Malformed) } else { Ok(()) };
        let decision = sane.and_then(|()| self.forward(ingress, frame, longest)).and_then(|destinations| {
            let bucket = self.port_mut(ingress).and_then(|port| port.bucket.as_mut());
            let affordable = bucket.is_none_or(|bucket| bucket.take(octets, now_ns));
            if affordable { Ok(destinations) } else { Err(DropReason::Rate) }
        });
        if decision.is_ok() {
            self.learn(ingress, frame, now_ns);
        }
        let octets = octets as u64;
        let mut first = None;
        if let Some(counters) = self.counters_mut(ingress) {
            match decision {
                Ok(_) => {
                    counters.ingress_frames = counters.ingress_frames.wrapping_add(pieces);
                    counters.ingress_bytes = counters.ingress_bytes.wrapping_add(octets);
                }
                Err(reason) => first = (counters.drops.count(reason) == 1).then_some(reason),
            }
        }
        if let Some(reason) = first {
            self.report(ingress, frame, reason);
        }
        for port in decision.unwrap_or_default().iter() {
            if let Some(counters) = self.counters_mut(port) {
                counters.egress_frames = counters.egress_frames.wrapping_add(pieces);
                counters.egress_bytes = counters.egress_bytes.wrapping_add(octets);
            }
        }
        decision
    }

    fn counters_mut(&mut self, port: PortId) -> Option<&mut PortCounters> {
        if port == UPLINK {
            return Some(&mut self.uplink);
        }
        self.port_mut(port).map(|port| &mut port.counters)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests;
