//! What a search for volumes found, as an operator is told it: by a node, or by a
//! workstation that searched itself.
//!
//! A line without a volume says what cannot be used, or how much is left out.

use crate::facts::Found;
use crate::limits::FOUND_BYTES;
use crate::units::mac_text;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use storage::aoe::Discovery;
use storage::iscsi::{DiscoveredTarget, Portal, TargetList};
use storage::limits::{AOE_DISCOVERED_MAX, ISCSI_DISCOVERED_MAX};

/// Most addresses of one target that are shown.
const ADDRESSES: usize = 32;

fn note(server: &str, details: String) -> Found {
    Found { volume: String::new(), server: server.to_string(), details }
}

/// What answered on the wires of some network cards.
#[must_use]
pub fn on_wires(searches: &[Discovery]) -> Vec<Found> {
    let mut all = Vec::new();
    for search in searches {
        let card = mac_text(search.source());
        all.extend(search.found().iter().map(|found| Found {
            volume: format!("aoe:{}", found.target),
            server: mac_text(found.mac),
            details: format!(
                "{} buffers, {} sectors a frame, seen by {card}",
                found.buffers, found.sectors_max
            ),
        }));
        if search.is_cut() {
            let what = format!("more than {AOE_DISCOVERED_MAX} targets answered {card}: others are left out");
            all.push(note("", what));
        }
    }
    fit(all, "")
}

/// What a portal told.
#[must_use]
pub fn at_portal(portal: Portal, list: &TargetList) -> Vec<Found> {
    let server = portal.to_string();
    let mut all: Vec<Found> = Vec::new();
    all.extend(list.targets.iter().map(|target| Found {
        volume: format!("iscsi://{portal}/{}/<lun>", target.name),
        server: server.clone(),
        details: addresses(target),
    }));
    all.extend(
        list.unusable.iter().map(|(name, error)| {
            note(&server, format!("{name} cannot be used: {error}; {}", error.remedy()))
        }),
    );
    if list.left_out > 0 {
        let what = format!("{} targets beyond the first {ISCSI_DISCOVERED_MAX} are left out", list.left_out);
        all.push(note(&server, what));
    }
    fit(all, &server)
}

fn addresses(target: &DiscoveredTarget) -> String {
    let mut words: Vec<String> = target.portals.iter().take(ADDRESSES).map(ToString::to_string).collect();
    let others = target.portals.len().saturating_sub(ADDRESSES).saturating_add(target.other_addresses);
    if others > 0 {
        words.push(format!("and {others} more, not shown or not IPv4"));
    }
    words.join(" ")
}

/// What goes into one reply; says so if that is not all.
fn fit(mut all: Vec<Found>, server: &str) -> Vec<Found> {
    let mut bytes = 0usize;
    let fits = all.iter().take_while(|found| {
        let texts = [&found.volume, &found.server, &found.details];
        // Each text with its length before it.
        bytes = texts.iter().fold(bytes, |sum, text| sum.saturating_add(text.len()).saturating_add(3));
        bytes <= FOUND_BYTES
    });
    let fits = fits.count();
    let left_out = all.len().saturating_sub(fits);
    if left_out > 0 {
        all.truncate(fits);
        all.push(note(server, format!("{left_out} more lines are left out: the answer would be too long")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MESSAGE_BYTES;
    use crate::reply::Reply;
    use alloc::vec;
    use core::net::Ipv4Addr;
    use storage::volume::NameError;

    const PORTAL: Portal = Portal { address: Ipv4Addr::new(10, 0, 0, 3), port: 3260 };

    fn target(name: &str, portals: usize, other_addresses: usize) -> DiscoveredTarget {
        DiscoveredTarget { name: name.to_string(), portals: vec![PORTAL; portals], other_addresses }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let list = TargetList {
            targets: vec![target("iqn.a:b_c", 1, 0), target("iqn.b", 40, 2)],
            unusable: vec![("iqn.a~b".to_string(), NameError::TargetCharacter('~'))],
            left_out: 3,
        };
        let found = at_portal(PORTAL, &list);
        assert_eq!(found[0].volume, "iscsi://10.0.0.3/iqn.a:b_c/<lun>");
        assert_eq!(found[0].details, "10.0.0.3");
        assert!(found[1].details.ends_with("10.0.0.3 and 10 more, not shown or not IPv4"), "{found:?}");
        assert!(found[2].volume.is_empty() && found[2].details.starts_with("iqn.a~b cannot be used: "));
        assert!(found[2].details.contains("holds '~'"));
        assert_eq!(found[3].details, "3 targets beyond the first 1024 are left out");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn the_longest_list_fits_a_reply() {
        let name = "iqn.2026-11.example:a-name-of-more-than-usual-length-that-some-have";
        let targets = vec![target(name, 3, 0); ISCSI_DISCOVERED_MAX];
        let found = at_portal(PORTAL, &TargetList { targets, ..TargetList::default() });
        let last = found.last().unwrap();
        let left_out = ISCSI_DISCOVERED_MAX - (found.len() - 1);
        assert!(last.volume.is_empty() && last.details.starts_with(&format!("{left_out} more lines")));
        let bytes = postcard::to_allocvec(&Reply::Found(found)).unwrap().len();
        assert!((FOUND_BYTES - 4_096..MESSAGE_BYTES - 1_024).contains(&bytes), "{bytes}");
    }
}
