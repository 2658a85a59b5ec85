//! What a guest's network card may send: as a VM file asks for, and as the owner grants.
//!
//! A card that asks for nothing sends from its own hardware address, untagged, and claims no
//! address that the node protects. Everything beyond is a [`Privileges`], which its owner
//! grants in the sealed image or in a trust bundle.

use crate::limits;
use crate::scope::Scope;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A range of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// An address in it.
    pub address: IpAddr,
    /// Leading bits that its addresses share: at most 32, or 128.
    pub length: u8,
}

impl Prefix {
    const fn bits(&self) -> u8 {
        match self.address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    /// Whether it is one address.
    #[must_use]
    pub const fn is_one(&self) -> bool {
        self.length == self.bits()
    }

    const fn is_sound(&self) -> bool {
        self.length <= self.bits()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_one() {
            true => write!(formatter, "{}", self.address),
            false => write!(formatter, "{}/{}", self.address, self.length),
        }
    }
}

impl FromStr for Prefix {
    type Err = ();

    /// Reads `10.0.0.5`, `10.0.0.0/24`, `fd00::/64`; without a length it is one address.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| ())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let whole = Self { address, length: 0 }.bits();
        let prefix = Self { address, length: length.unwrap_or(whole) };
        if prefix.is_sound() { Ok(prefix) } else { Err(()) }
    }
}

/// What a card may beyond a plain one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privileges {
    /// Further hardware addresses that it may send from: of nested bridges, of macvlan.
    pub macs: u8,
    /// Virtual routers (RFC 9568) whose hardware addresses it may send from.
    pub vrrp: Vec<u8>,
    /// It may send what others sent it, and advertise itself as a router.
    pub router: bool,
    /// It may answer as a DHCP server.
    pub dhcp_server: bool,
    /// VLANs that it sends to and receives from, tagged (IEEE 802.1Q).
    pub trunk: Vec<u16>,
    /// It reaches the node's management port.
    pub management: bool,
}

impl Privileges {
    /// Whether it is a plain card's.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The first thing that is asked for and that none of `grants` covers, in a VM file's
    /// words.
    #[must_use]
    pub fn beyond<'a>(&self, grants: impl Iterator<Item = &'a Self> + Clone) -> Option<String> {
        let any = |has: &dyn Fn(&Self) -> bool| grants.clone().any(has);
        if self.macs > 0 && !any(&|it| it.macs >= self.macs) {
            return Some(format!("macs = {}", self.macs));
        }
        if let Some(router) = self.vrrp.iter().find(|id| !any(&|it| it.vrrp.contains(id))) {
            return Some(format!("vrrp = [{router}]"));
        }
        if self.router && !any(&|it| it.router) {
            return Some("router".into());
        }
        if self.dhcp_server && !any(&|it| it.dhcp_server) {
            return Some("dhcp_server".into());
        }
        if let Some(vlan) = self.trunk.iter().find(|id| !any(&|it| it.trunk.contains(id))) {
            return Some(format!("trunk = [{vlan}]"));
        }
        (self.management && !any(&|it| it.management)).then(|| "management".into())
    }

    /// What of it is granted, where grants may have become fewer since it was asked for.
    #[must_use]
    pub fn granted<'a>(&self, grants: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let any = |has: &dyn Fn(&Self) -> bool| grants.clone().any(has);
        let vrrp = self.vrrp.iter().copied().filter(|id| any(&|it| it.vrrp.contains(id)));
        let trunk = self.trunk.iter().copied().filter(|id| any(&|it| it.trunk.contains(id)));
        Self {
            macs: grants.clone().map(|it| it.macs.min(self.macs)).max().unwrap_or(0),
            vrrp: vrrp.collect(),
            router: self.router && any(&|it| it.router),
            dhcp_server: self.dhcp_server && any(&|it| it.dhcp_server),
            trunk: trunk.collect(),
            management: self.management && any(&|it| it.management),
        }
    }

    /// What is wrong with it, if something is, and what would be right.
    pub(crate) fn fault(&self) -> Option<(String, &'static str)> {
        if usize::from(self.macs) > limits::CARD_MACS {
            return Some((format!("asks for macs = {}", self.macs), "at most 32"));
        }
        if self.vrrp.len() > limits::CARD_ROUTERS || self.vrrp.contains(&0) {
            return Some((
                "names no virtual routers, or too many".into(),
                "vrrp has up to 8 numbers from 1 to 255",
            ));
        }
        let is_vlan = |id: &u16| (1..=4094).contains(id);
        if self.trunk.len() > limits::CARD_VLANS || !self.trunk.iter().all(is_vlan) {
            return Some(("names no VLANs, or too many".into(), "trunk has up to 32 numbers from 1 to 4094"));
        }
        None
    }
}

impl fmt::Display for Privileges {
    /// As in a VM file, separated by commas.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |name: &str, numbers: Vec<String>| format!("{name}=[{}]", numbers.join(", "));
        let mut parts = Vec::new();
        if self.macs > 0 {
            parts.push(format!("macs={}", self.macs));
        }
        if !self.vrrp.is_empty() {
            parts.push(list("vrrp", self.vrrp.iter().map(u8::to_string).collect()));
        }
        let flags = [("router", self.router), ("dhcp_server", self.dhcp_server)];
        parts.extend(flags.iter().filter(|(_, set)| *set).map(|(name, _)| String::from(*name)));
        if !self.trunk.is_empty() {
            parts.push(list("trunk", self.trunk.iter().map(u16::to_string).collect()));
        }
        if self.management {
            parts.push("management".into());
        }
        formatter.write_str(&parts.join(", "))
    }
}

/// What the owner lets the cards of some guests have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardGrant {
    /// On which nodes.
    pub nodes: Scope,
    /// Of which guests.
    pub guests: Scope,
    /// The most that they may.
    pub privileges: Privileges,
}

impl fmt::Display for CardGrant {
    /// Guests, then what they may.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |scope: &Scope| match scope {
            Scope::All => String::from("*"),
            Scope::Named(names) => names.join(" "),
        };
        if self.nodes != Scope::All {
            write!(formatter, "on {}: ", words(&self.nodes))?;
        }
        write!(formatter, "{}: {}", words(&self.guests), self.privileges)
    }
}

/// Whether grants are ones, and not too many.
#[must_use]
pub fn are_sound(grants: &[CardGrant]) -> bool {
    let is_sound = |grant: &CardGrant| {
        grant.nodes.is_sound() && grant.guests.is_sound() && grant.privileges.fault().is_none()
    };
    grants.len() <= limits::CARD_GRANTS && grants.iter().all(is_sound)
}

/// Checks what a card has beyond its hardware address; what is wrong, and the remedy.
pub(crate) fn fault(addresses: &[Prefix], privileges: &Privileges) -> Option<(String, &'static str)> {
    if addresses.len() > limits::CARD_ADDRESSES || !addresses.iter().all(Prefix::is_sound) {
        return Some((
            "has too many addresses, or none that are".into(),
            "ip has up to 16 addresses or prefixes",
        ));
    }
    let has_own = addresses.iter().any(|prefix| prefix.is_one() && prefix.address.is_ipv4());
    if privileges.management && !has_own {
        return Some((
            "is for management and has no IPv4 address".into(),
            "give it one: ip = [\"10.0.0.5\"]",
        ));
    }
    privileges.fault()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for text in ["10.0.0.5", "10.0.0.0/24", "0.0.0.0/0", "fd00::/64", "fe80::1"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.5/32".parse::<Prefix>().unwrap().to_string(), "10.0.0.5");
        for text in ["", "10.0.0", "10.0.0.5/33", "fd00::/129", "10.0.0.5/", "10.0.0.5/x", "/24", "host"] {
            assert_eq!(text.parse::<Prefix>(), Err(()), "{text}");
        }
    }

    fn all() -> Privileges {
        Privileges {
            macs: 8,
            vrrp: [51, 52].into(),
            router: true,
            dhcp_server: true,
            trunk: [100, 200].into(),
            management: true,
        }
    }

    #[test]
    fn each_privilege_needs_a_grant() {
        let asked = all();
        assert_eq!(asked.beyond([].iter()), Some("macs = 8".into()));
        assert_eq!(asked.beyond([all()].iter()), None);
        assert_eq!(Privileges::default().beyond([].iter()), None);
        // Two grants may have a half each.
        let half = Privileges { macs: 8, vrrp: [51].into(), router: true, ..Privileges::default() };
        let other = Privileges { macs: 0, vrrp: [52].into(), router: false, ..all() };
        assert_eq!(asked.beyond([half.clone(), other].iter()), None);
        for (granted, missing) in [
            (Privileges { macs: 7, ..all() }, "macs = 8"),
            (Privileges { vrrp: [51].into(), ..all() }, "vrrp = [52]"),
            (Privileges { router: false, ..all() }, "router"),
            (Privileges { dhcp_server: false, ..all() }, "dhcp_server"),
            (Privileges { trunk: [100].into(), ..all() }, "trunk = [200]"),
            (Privileges { management: false, ..all() }, "management"),
        ] {
            assert_eq!(asked.beyond([granted].iter()), Some(missing.into()));
        }
        assert_eq!(half.to_string(), "macs=8, vrrp=[51], router");
        // What is left when grants were taken back.
        assert_eq!(asked.granted([all()].iter()), asked);
        assert_eq!(asked.granted([].iter()), Privileges::default());
        assert_eq!(asked.granted([half.clone()].iter()), half);
        let fewer = Privileges { macs: 3, trunk: [200, 300].into(), ..Privileges::default() };
        let left = Privileges { macs: 3, trunk: [200].into(), ..Privileges::default() };
        assert_eq!(asked.granted([fewer].iter()), left);
    }

    #[test]
    fn grants_in_words() {
        let named = |name: &str| Scope::Named([name.to_string()].into());
        let grant = CardGrant { nodes: named("rack1*"), guests: named("fw*"), privileges: all() };
        let words = "macs=8, vrrp=[51, 52], router, dhcp_server, trunk=[100, 200], management";
        assert_eq!(grant.to_string(), format!("on rack1*: fw*: {words}"));
        let grant = CardGrant { nodes: Scope::All, guests: Scope::All, ..grant };
        assert_eq!(grant.to_string(), format!("*: {words}"));
        assert!(are_sound(core::slice::from_ref(&grant)));
        assert!(!are_sound(&alloc::vec![grant.clone(); limits::CARD_GRANTS + 1]));
        let unnamed = CardGrant { guests: named(""), ..grant };
        assert!(!are_sound(&[unnamed]));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let one = ["10.0.0.5".parse().unwrap()];
        assert_eq!(fault(&one, &all()), None);
        assert!(fault(&[], &all()).is_some(), "management needs an address");
        assert!(fault(&["10.0.0.0/24".parse().unwrap()], &all()).is_some());
        assert!(fault(&[one[0]; limits::CARD_ADDRESSES + 1], &all()).is_some());
        for odd in [
            Privileges { macs: 33, ..all() },
            Privileges { vrrp: [0].into(), ..all() },
            Privileges { vrrp: [1; 9].into(), ..all() },
            Privileges { trunk: [0].into(), ..all() },
            Privileges { trunk: [4095].into(), ..all() },
            Privileges { trunk: [1; 33].into(), ..all() },
        ] {
            assert!(fault(&one, &odd).is_some(), "{odd}");
        }
    }
}
