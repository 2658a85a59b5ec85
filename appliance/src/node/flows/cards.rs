//! Watches the network cards, and tells of them: [`crate::network::cards`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use log::Level;
use mgmt_proto::facts::{CardCondition, CardFacts, CardUse};
use mgmt_proto::units::mac_text;
use netstack::host::Host;

use crate::hypervisor::Hypervisor;
use crate::limits::CARDS_LOOK_NS;
use crate::network::cards::{condition, facts, missing};
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// All cards, the first one first, and those that are sealed and not there last.
    pub(crate) fn card_facts(&self) -> Vec<CardFacts> {
        let network = &self.network;
        let stacks = &network.stacks;
        let mut wires = self.volumes.wires().iter();
        let first = wires.next().map(|wire| facts(&network.nic, wire, stacks, 0, network.moved()));
        let others = (1..).zip(&network.storage).zip(wires);
        let others = others.map(|((number, card), wire)| facts(&card.nic, wire, stacks, number, card.moved));
        let entries = &self.settings.manifest.storage_cards;
        let gone = missing(network, entries).into_iter().filter_map(|index| entries.get(index));
        let gone = gone.map(|entry| CardFacts {
            mac: entry.mac,
            usage: CardUse::Storage,
            condition: CardCondition::Missing,
            mtu: entry.mtu,
            aoe: true,
            address: None,
            gateway: None,
            frames: [0; 2],
            bytes: [0; 2],
        });
        first.into_iter().chain(others).chain(gone).collect()
    }

    /// Looks at the cards' links now and then: where there are several, what went on over one
    /// that is down goes on over another at once.
    pub(crate) fn poll_cards(&mut self, now_ns: u64) {
        let has_others = !self.network.storage.is_empty();
        if now_ns < self.cards_look_ns {
            // An interrupt may have told of a change: it is seen soon.
            self.cards_look_due = has_others;
            return;
        }
        self.cards_look_ns = now_ns.saturating_add(CARDS_LOOK_NS);
        self.cards_look_due = false;
        let first = condition(&self.network.nic);
        let seen: Vec<CardCondition> = core::iter::once(first)
            .chain(self.network.storage.iter().map(|card| condition(&card.nic)))
            .collect();
        let known = core::mem::replace(&mut self.cards_seen, seen.clone());
        for (card, condition) in seen.into_iter().enumerate() {
            // Before the first look all links are taken to be up.
            let before = known.get(card).copied().unwrap_or(CardCondition::Up);
            if condition == before {
                continue;
            }
            let mac = self.volumes.wires().get(card).map(|wire| mac_text(wire.mac)).unwrap_or_default();
            let now = match condition {
                CardCondition::Up => "its link is up",
                CardCondition::Down => "its link is down",
                _ => "it broke the rules of its device and is used no more",
            };
            let level = if condition == CardCondition::Up { Level::Info } else { Level::Warn };
            log::log!(target: "network", level, "card {mac}: {now}");
            let up = condition == CardCondition::Up;
            if has_others {
                self.volumes.link_changed(card, up, &mut self.network.stacks, now_ns);
            }
        }
    }

    /// When the cards are to be looked at, if nothing happens before.
    pub(crate) fn next_card_deadline(&self, now_ns: u64) -> Option<u64> {
        let look_ns = self.cards_look_due.then_some(self.cards_look_ns);
        look_ns.into_iter().chain(self.network.next_deadline(now_ns)).min()
    }

    /// Says which addresses the node's cards have, whenever that changes.
    pub(crate) fn log_addresses(&mut self, now_ns: u64) {
        self.log_address(now_ns);
        let changes = self.network.stacks.changes();
        if self.addresses_seen == changes {
            return;
        }
        self.addresses_seen = changes;
        for (number, card) in (1..).zip(&mut self.network.storage) {
            let lease = self.network.stacks.get(number).and_then(Host::lease);
            if core::mem::replace(&mut card.told, lease) == lease {
                continue;
            }
            let has = lease.map_or_else(
                || String::from("has no address"),
                |lease| format!("has {}/{}", lease.address, lease.prefix),
            );
            log::info!(target: "network", "storage card {} {has}", mac_text(card.nic.mac()));
        }
    }
}
