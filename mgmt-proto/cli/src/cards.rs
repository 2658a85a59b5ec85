//! The node's own network cards.

use crate::Connection;
use mgmt_proto::units::mac_text;
use mgmt_proto::verb::{CardCondition, CardFacts, CardUse, Reply, Request};
use serde::Serialize;
use std::net::Ipv4Addr;

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Its address; null when it is missing and was sealed without.
    pub mac: Option<String>,
    /// first or storage.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// up, down, failed or missing.
    pub state: &'static str,
    /// Largest payload of a frame.
    pub mtu: u16,
    /// AoE is spoken there.
    pub aoe: bool,
    /// IPv4 address and prefix length, or null.
    pub address: Option<String>,
    /// Default gateway, or null.
    pub gateway: Option<String>,
    /// Frames received.
    pub frames_received: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Their bytes.
    pub bytes_sent: u64,
}

fn card(facts: &CardFacts) -> Card {
    let ([frames_received, frames_sent], [bytes_received, bytes_sent]) = (facts.frames, facts.bytes);
    Card {
        mac: facts.mac.map(mac_text),
        usage: match facts.usage {
            CardUse::First => "first",
            CardUse::Storage => "storage",
        },
        state: match facts.condition {
            CardCondition::Up => "up",
            CardCondition::Down => "down",
            CardCondition::Failed => "failed",
            CardCondition::Missing => "missing",
        },
        mtu: facts.mtu,
        aoe: facts.aoe,
        address: facts.address.map(|(address, prefix)| format!("{}/{prefix}", Ipv4Addr::from(address))),
        gateway: facts.gateway.map(|gateway| Ipv4Addr::from(gateway).to_string()),
        frames_received,
        frames_sent,
        bytes_received,
        bytes_sent,
    }
}

/// The node's cards. One of an earlier version does not say and ends the connection:
/// ask this last.
#[must_use]
pub fn ask(connection: &mut Connection) -> Vec<Card> {
    match connection.request(Request::NodeCards) {
        Ok(Reply::NodeCards(cards)) => cards.iter().map(card).collect(),
        _ => Vec::new(),
    }
}

/// In words, a line for each.
#[must_use]
pub fn lines(cards: &[Card]) -> String {
    cards.iter().map(line).collect()
}

fn line(card: &Card) -> String {
    let mac = card.mac.as_deref().unwrap_or("(any)");
    let address = match (&card.address, &card.gateway) {
        (Some(address), Some(gateway)) => format!(", {address} by {gateway}"),
        (Some(address), None) => format!(", {address}"),
        (None, _) => ", no address".into(),
    };
    let aoe = if card.aoe { ", AoE" } else { "" };
    let moved = format!("{} frames in, {} out", card.frames_received, card.frames_sent);
    format!(
        "{:<13} {mac} {}, mtu {}{address}{aoe}, {moved}\n",
        card.usage.to_owned() + " card",
        card.state,
        card.mtu
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_as_people_read_them() {
        let facts = CardFacts {
            mac: Some([2, 0, 0, 0, 0, 1]),
            usage: CardUse::First,
            condition: CardCondition::Up,
            mtu: 1500,
            aoe: false,
            address: Some(([10, 0, 0, 1], 24)),
            gateway: Some([10, 0, 0, 9]),
            frames: [7, 8],
            bytes: [700, 800],
        };
        let missing = CardFacts {
            mac: None,
            usage: CardUse::Storage,
            condition: CardCondition::Missing,
            mtu: 9000,
            aoe: true,
            address: None,
            gateway: None,
            ..facts
        };
        assert_eq!(
            lines(&[card(&facts), card(&missing)]),
            "first card    02:00:00:00:00:01 up, mtu 1500, 10.0.0.1/24 by 10.0.0.9, 7 frames in, 8 out\n\
             storage card  (any) missing, mtu 9000, no address, AoE, 7 frames in, 8 out\n"
        );
    }
}
