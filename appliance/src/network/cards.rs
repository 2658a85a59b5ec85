//! The node's network cards: which of them is for what, and how they are.

use alloc::vec::Vec;

use mgmt_proto::facts::{CardCondition, CardFacts, CardUse};
use mgmt_proto::manifest::{AoeCards, StorageCard};
use mgmt_proto::units::mac_text;
use netstack::frame::MacAddress;
use netstack::host::{Host, HostConfig};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::network::stacks::Stacks;
use crate::network::{Moved, Network};
use crate::settings::{Settings, addressing_of};
use crate::volumes::Wire;

/// Which card is the first one, of addresses and whether their links are up: none that an
/// entry means by its address, or management and guests would move to a network for disks
/// when a card before it fails. Where entries go by the order of the bus, so does it; else it
/// is one that is connected.
fn first_of(cards: &[([u8; 6], bool)], entries: &[StorageCard]) -> Option<usize> {
    let is_free = |mac: &[u8; 6]| entries.iter().all(|entry| entry.mac != Some(*mac));
    let by_order = entries.iter().any(|entry| entry.mac.is_none());
    let connected = || cards.iter().position(|(mac, is_up)| *is_up && is_free(mac));
    let connected = if by_order { None } else { connected() };
    connected.or_else(|| cards.iter().position(|(mac, _)| is_free(mac)))
}

/// For each card besides the first one, which sealed entry is its own. An entry with an
/// address means that card; the others mean cards in the order of the bus.
fn assign(first: [u8; 6], others: &[[u8; 6]], entries: &[StorageCard]) -> Vec<Option<usize>> {
    let mut chosen: Vec<Option<usize>> =
        others.iter().map(|mac| entries.iter().position(|entry| entry.mac == Some(*mac))).collect();
    let usable = |index: usize, mac: &[u8; 6]| {
        let twin = *mac == first || others.get(..index).unwrap_or_default().contains(mac);
        MacAddress(*mac).is_station() && !twin
    };
    let mut unnamed =
        (0..entries.len()).filter(|index| entries.get(*index).is_some_and(|it| it.mac.is_none()));
    for (index, (mac, entry)) in others.iter().zip(&mut chosen).enumerate() {
        if !usable(index, mac) {
            *entry = None;
        } else if entry.is_none() {
            *entry = unnamed.next();
        }
    }
    chosen
}

/// The network over all cards, and the wires that disks are on; none without a card that is not for
/// disks, or where its address is no good.
pub(crate) fn connect<H: Hypervisor, N: Nic>(
    hypervisor: &mut H,
    nics: Vec<N>,
    settings: &Settings,
    (seed, secret): (u64, [u8; 16]),
    now_ns: u64,
) -> Option<(Network<N>, Vec<Wire>)> {
    let manifest = &settings.manifest;
    let mut others = nics;
    let cards: Vec<([u8; 6], bool)> = others.iter().map(|nic| (nic.mac(), nic.is_link_up())).collect();
    let nic = others.remove(first_of(&cards, &manifest.storage_cards)?);
    if cards.len() > 1 {
        let link = if nic.is_link_up() { "up" } else { "down" };
        log::info!("of {} cards {} is the first: {link}", cards.len(), mac_text(nic.mac()));
    }
    let (mac, mtu, accepts) = (nic.mac(), nic.mtu().min(manifest.mtu), nic.accepts());
    let addressing = addressing_of(manifest.addressing);
    let config =
        HostConfig { mac: MacAddress(mac), mtu: usize::from(mtu), accepts, addressing, seed, secret };
    let mut network = Network::new(nic, &config, now_ns)?;
    let mut wires = alloc::vec![Wire { mac, mtu, aoe: manifest.aoe == AoeCards::All }];
    let macs: Vec<[u8; 6]> = others.iter().map(Nic::mac).collect();
    let chosen = assign(mac, &macs, &manifest.storage_cards);
    for (mut nic, index) in others.into_iter().zip(chosen) {
        let entry = index.and_then(|index| Some((index, manifest.storage_cards.get(index)?)));
        let Some((index, entry)) = entry else {
            let link = if nic.is_link_up() { "" } else { ", has no link" };
            let mac = mac_text(nic.mac());
            log::warn!("card {mac} is not among storage_cards{link} and stays unused");
            nic.stop();
            continue;
        };
        let (mac, mtu, accepts) = (nic.mac(), nic.mtu().min(entry.mtu), nic.accepts());
        let host = entry.addressing.and_then(|addressing| {
            let mut random = [0; 24];
            hypervisor.random(&mut random);
            let seed = random.first_chunk().copied().map_or(0, u64::from_le_bytes);
            let secret = random.last_chunk().copied().unwrap_or_default();
            let (mac, mtu, addressing) = (MacAddress(mac), usize::from(mtu), addressing_of(addressing));
            Host::new(&HostConfig { mac, mtu, accepts, addressing, seed, secret }, now_ns).ok()
        });
        network.add_storage(nic, index, mtu, host);
        wires.push(Wire { mac, mtu, aoe: true });
    }
    for index in missing(&network, &manifest.storage_cards) {
        if let Some(entry) = manifest.storage_cards.get(index) {
            log::warn!("storage card {entry} is not there");
        }
    }
    Some((network, wires))
}

/// Sealed entries without a card.
pub(crate) fn missing<N>(network: &Network<N>, entries: &[StorageCard]) -> Vec<usize> {
    (0..entries.len()).filter(|index| network.storage.iter().all(|card| card.entry != *index)).collect()
}

pub(crate) fn condition(nic: &impl Nic) -> CardCondition {
    match (nic.is_broken(), nic.is_link_up()) {
        (true, _) => CardCondition::Failed,
        (false, true) => CardCondition::Up,
        (false, false) => CardCondition::Down,
    }
}

/// What is told of a card.
pub(crate) fn facts(nic: &impl Nic, wire: &Wire, stacks: &Stacks, card: usize, moved: Moved) -> CardFacts {
    let lease = stacks.get(card).and_then(Host::lease);
    CardFacts {
        mac: Some(wire.mac),
        usage: if card == 0 { CardUse::First } else { CardUse::Storage },
        condition: condition(nic),
        mtu: wire.mtu,
        aoe: wire.aoe,
        address: lease.map(|lease| (lease.address.octets(), lease.prefix)),
        gateway: lease.and_then(|lease| lease.gateway).map(|gateway| gateway.octets()),
        frames: moved.frames,
        bytes: moved.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(mac: Option<u8>) -> StorageCard {
        let mac = match mac {
            Some(last) => Some(address(last)),
            None => None,
        };
        StorageCard { mac, addressing: None, mtu: 1500 }
    }

    const fn address(last: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, last]
    }

    #[test]
    fn cards_go_by_their_address_and_else_by_their_place() {
        let chosen = |others: &[u8], entries: &[Option<u8>]| {
            let others: Vec<_> = others.iter().map(|last| address(*last)).collect();
            let entries: Vec<_> = entries.iter().map(|mac| entry(*mac)).collect();
            assign(address(1), &others, &entries)
        };
        assert_eq!(chosen(&[2, 3], &[None, None]), [Some(0), Some(1)]);
        assert_eq!(chosen(&[2, 3], &[None, Some(2)]), [Some(1), Some(0)]);
        assert_eq!(chosen(&[2, 3], &[Some(3)]), [None, Some(0)]);
        assert_eq!(chosen(&[2, 3, 4], &[None]), [Some(0), None, None]);
        assert_eq!(chosen(&[2], &[Some(9), None]), [Some(1)]);
        assert_eq!(chosen(&[], &[None]), []);
        // The first card's address again, one address twice, one for groups.
        assert_eq!(chosen(&[1, 2, 2], &[None, None, None]), [None, Some(0), None]);
        assert_eq!(chosen(&[1], &[Some(1)]), [None]);
        assert_eq!(assign(address(1), &[[3, 0, 0, 0, 0, 9]], &[entry(None)]), [None]);
    }

    #[test]
    fn the_first_card_is_none_that_is_for_disks() {
        let first = |macs: &[u8], entries: &[Option<u8>]| {
            let cards: Vec<_> = macs.iter().map(|last| (address(*last), *last < 5)).collect();
            let entries: Vec<_> = entries.iter().map(|mac| entry(*mac)).collect();
            first_of(&cards, &entries)
        };
        // From 5 on without a link.
        assert_eq!(first(&[5, 6, 1, 2], &[]), Some(2));
        assert_eq!(first(&[5, 6], &[]), Some(0));
        assert_eq!(first(&[5, 1, 2], &[Some(1)]), Some(2));
        assert_eq!(first(&[5, 1], &[Some(1)]), Some(0));
        assert_eq!(first(&[5, 1, 2], &[None]), Some(0), "the order of the bus says which is which");
        assert_eq!(first(&[1, 2], &[]), Some(0));
        assert_eq!(first(&[1, 2], &[None, Some(2)]), Some(0));
        assert_eq!(first(&[2, 1], &[Some(2)]), Some(1), "whatever their order");
        assert_eq!(first(&[2], &[Some(2)]), None, "the other one has failed");
        assert_eq!(first(&[], &[]), None);
    }
}
