//! What is set for a card: how it gets its address, and its MTU.

use anyhow::{Context, Result, ensure};
use mgmt_proto::manifest::{self, DEFAULT_MTU, MTU_RANGE};
use serde::Deserialize;
use std::net::Ipv4Addr;

/// How a node gets its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "addressing is \"dhcp\" or { address = \"10.0.0.2/24\", gateway = \"10.0.0.1\" }"
)]
pub enum Addressing {
    /// `"dhcp"`.
    Word(Dhcp),
    /// `{ address, gateway }`.
    Fixed(Fixed),
    /// Left out.
    #[default]
    #[serde(skip)]
    Unsaid,
}

/// The word `dhcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dhcp {
    /// By DHCP.
    Dhcp,
}

/// Always this address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// With its prefix length: `10.0.0.2/24`.
    pub address: String,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
}

impl Addressing {
    pub(crate) fn checked(&self) -> Result<manifest::Addressing> {
        let Self::Fixed(fixed) = self else { return Ok(manifest::Addressing::Dhcp) };
        let usage = "addressing.address: write an IPv4 address and prefix length, as 10.0.0.2/24";
        let (address, prefix) = fixed.address.split_once('/').context(usage)?;
        let address: Ipv4Addr = address.parse().context(usage)?;
        let prefix: u8 = prefix.parse().context(usage)?;
        ensure!((1..=31).contains(&prefix), "addressing.address: the prefix length is 1 to 31");
        let usable = |address: Ipv4Addr| {
            !(address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_loopback())
        };
        ensure!(usable(address), "addressing.address: a node cannot have {address}");
        let mask = u32::MAX << (32 - u32::from(prefix));
        if let Some(gateway) = fixed.gateway {
            ensure!(usable(gateway) && gateway != address, "addressing.gateway: {gateway} is no gateway");
            ensure!(
                gateway.to_bits() & mask == address.to_bits() & mask,
                "addressing.gateway: {gateway} is not in {}",
                fixed.address
            );
        }
        Ok(manifest::Addressing::Static {
            address: address.octets(),
            prefix,
            gateway: fixed.gateway.map(|gateway| gateway.octets()),
        })
    }
}

/// The default MTU of a wire.
pub(crate) const fn default_mtu() -> u16 {
    DEFAULT_MTU
}

/// A wire's MTU, if it is one.
pub(crate) fn checked_mtu(mtu: u16) -> Result<u16> {
    ensure!(MTU_RANGE.contains(&mtu), "mtu: {} to {} are possible", MTU_RANGE.start(), MTU_RANGE.end());
    Ok(mtu)
}
