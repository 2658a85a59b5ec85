//! The answer to SendTargets.
//!
//! Spec: RFC 7143 appendix C.

use alloc::string::String;
use alloc::vec::Vec;

use super::config::{DiscoveredTarget, Portal};
use crate::iscsi::{TargetName, text};
use crate::limits::ISCSI_DISCOVERED_MAX;
use crate::volume::NameError;

/// Characters of a name that is none that are kept: as many as a name may have.
const SHOWN_MAX: usize = 223;

/// What a portal told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetList {
    /// Targets that can be used.
    pub targets: Vec<DiscoveredTarget>,
    /// Names that are none, as far as they can be shown, and what is wrong with them.
    pub unusable: Vec<(String, NameError)>,
    /// How many of either were too many.
    pub left_out: usize,
}

impl TargetList {
    /// Reads the whole answer. A name that is none could not be used, and may be made to
    /// look like something else: it is kept apart, without its addresses.
    pub(super) fn parse(list: &[u8]) -> Self {
        let (mut all, mut named) = (Self::default(), false);
        for (key, value) in text::pairs(list).flatten() {
            match key {
                "TargetName" => named = all.add(value),
                "TargetAddress" if named => {
                    let Some(target) = all.targets.last_mut() else { continue };
                    match Portal::parse_target_address(value) {
                        Some(portal) if target.portals.len() < ISCSI_DISCOVERED_MAX => {
                            target.portals.push(portal);
                        }
                        _ => target.other_addresses = target.other_addresses.saturating_add(1),
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Whether addresses that follow are of a target that is kept.
    fn add(&mut self, name: &str) -> bool {
        if self.targets.len().saturating_add(self.unusable.len()) >= ISCSI_DISCOVERED_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        }
        match name.parse::<TargetName>() {
            Ok(_) => {
                let (name, portals) = (String::from(name), Vec::new());
                self.targets.push(DiscoveredTarget { name, portals, other_addresses: 0 });
                true
            }
            Err(error) => {
                let shown = name.chars().take(SHOWN_MAX);
                let shown = shown.map(|it| if it.is_ascii_graphic() { it } else { '?' }).collect();
                self.unusable.push((shown, error));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn what_cannot_be_used_is_named() {
        let list = b"TargetName=iqn.2026-11.example:a_b\0TargetAddress=10.0.0.3,1\0\
            TargetAddress=[fe80::1]:3260,1\0TargetName=iqn.a~b\0TargetAddress=10.0.0.4,1\0\
            TargetName=iqn.\x1b[2J\0";
        let all = TargetList::parse(list);
        let [target] = all.targets.as_slice() else { panic!("{all:?}") };
        assert_eq!(target.name, "iqn.2026-11.example:a_b");
        assert_eq!((target.portals.len(), target.other_addresses), (1, 1));
        let unusable = [
            (String::from("iqn.a~b"), NameError::TargetCharacter('~')),
            (String::from("iqn.?[2J"), NameError::TargetCharacter('\u{1b}')),
        ];
        assert_eq!((all.unusable, all.left_out), (unusable.to_vec(), 0));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut list = Vec::new();
        for number in 0..ISCSI_DISCOVERED_MAX + 3 {
            text::push(&mut list, "TargetName", &format!("iqn.{number}"));
            text::push(&mut list, "TargetAddress", "10.0.0.1");
        }
        let all = TargetList::parse(&list);
        assert_eq!((all.targets.len(), all.left_out), (ISCSI_DISCOVERED_MAX, 3));
        assert!(all.targets.iter().all(|target| target.portals.len() == 1));
    }
}
