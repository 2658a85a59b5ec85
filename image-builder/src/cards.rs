//! Network cards besides the first one, as an owner writes them.
//!
//! ```toml
//! storage_cards = [
//!     { mac = "52:54:00:77:01:02", addressing = { address = "10.88.0.2/24" }, mtu = 9000 },
//!     { addressing = "dhcp" },   # the next card on the bus that no other entry names
//!     {},                        # the one after that, for AoE only
//! ]
//! aoe = "storage"                # not on the first card; without: on all
//! ```

use crate::addressing::{Addressing, checked_mtu, default_mtu};
use anyhow::{Context, Result, ensure};
use mgmt_proto::limits::STORAGE_CARDS;
use mgmt_proto::manifest::{self, AoeCards};
use mgmt_proto::units::parse_mac;
use serde::Deserialize;

/// A card for disks only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageCard {
    /// Its address; without, the next one on the bus that no other entry names.
    pub mac: Option<String>,
    /// How it gets an address, for iSCSI; without, it carries AoE only.
    pub addressing: Option<Addressing>,
    /// Largest payload of a frame on its wire.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
}

impl StorageCard {
    fn checked(&self) -> Result<manifest::StorageCard> {
        let mac = self.mac.as_deref().map(|text| {
            let station = |mac: &[u8; 6]| mac[0] & 1 == 0 && *mac != [0; 6];
            let usage = || format!("mac: {text:?} is no card's address, as 52:54:00:77:01:02 is");
            parse_mac(text).filter(station).with_context(usage)
        });
        Ok(manifest::StorageCard {
            mac: mac.transpose()?,
            addressing: self.addressing.as_ref().map(Addressing::checked).transpose()?,
            mtu: checked_mtu(self.mtu)?,
        })
    }
}

/// What is sealed of the cards.
///
/// # Errors
/// Names the entry that makes no sense.
pub fn checked(cards: &[StorageCard], aoe: AoeCards) -> Result<Vec<manifest::StorageCard>> {
    ensure!(cards.len() <= STORAGE_CARDS, "storage_cards: at most {STORAGE_CARDS}");
    let mut sealed: Vec<manifest::StorageCard> = Vec::new();
    for (index, card) in cards.iter().enumerate() {
        let card = card.checked().with_context(|| format!("storage_cards[{index}]"))?;
        let twice = card.mac.is_some() && sealed.iter().any(|other| other.mac == card.mac);
        ensure!(!twice, "storage_cards[{index}]: its mac is there already");
        sealed.push(card);
    }
    ensure!(aoe == AoeCards::All || !cards.is_empty(), "aoe: there are no storage_cards to speak it");
    Ok(sealed)
}
