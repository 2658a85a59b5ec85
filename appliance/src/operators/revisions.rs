//! When what operators may change was changed last: so that one of them does not undo
//! unseen what another did.
//!
//! A revision is the place in the audit log behind the change, which never goes back.

use alloc::collections::BTreeMap;
use alloc::string::String;

use mgmt_proto::reason::{Reason, Refusal};

use crate::limits::REVISIONS_MAX;

/// The revisions of the guests and of the node.
#[derive(Debug, Default)]
pub struct Revisions {
    /// Of all that is not in the table.
    floor: u64,
    guests: BTreeMap<String, u64>,
    node: u64,
}

impl Revisions {
    /// Everything was changed before `end`, the end of the audit log.
    pub fn begin(&mut self, end: u64) {
        (self.floor, self.node) = (end, end);
        self.guests.clear();
    }

    /// That of a guest, or of the node.
    #[must_use]
    pub fn of(&self, guest: Option<&str>) -> u64 {
        guest.map_or(self.node, |guest| self.guests.get(guest).copied().unwrap_or(self.floor))
    }

    /// A change of some guests, or of something else, was recorded before `end`.
    pub fn note(&mut self, guests: &[String], end: u64) {
        // Nothing is recorded where there is no memory for it.
        self.node = self.node.saturating_add(1).max(end);
        for guest in guests {
            self.make_room(guest);
            self.guests.insert(guest.clone(), self.node);
        }
    }

    pub(crate) fn make_room(&mut self, guest: &str) {
        if self.guests.contains_key(guest) || self.guests.len() < REVISIONS_MAX {
            return;
        }
        let oldest = self.guests.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
        if let Some(at) = oldest.and_then(|oldest| self.guests.remove(&oldest)) {
            // A guest that is forgotten counts as changed when the last of them was.
            self.floor = self.floor.max(at);
        }
    }

    /// Whether it is what was expected.
    ///
    /// # Errors
    /// It is another one.
    pub fn check(&self, guest: Option<&str>, expected: u64) -> Result<(), Refusal> {
        let now = self.of(guest);
        if now == expected {
            return Ok(());
        }
        Err(Refusal::of(guest.unwrap_or_default(), Reason::Changed { now, expected }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mgmt_proto::code::Code;

    #[test]
    fn each_change_is_another_revision() {
        let mut revisions = Revisions::default();
        revisions.begin(7);
        assert_eq!((revisions.of(Some("a")), revisions.of(None)), (7, 7));
        revisions.note(&["a".into()], 8);
        revisions.note(&[], 9);
        assert_eq!((revisions.of(Some("a")), revisions.of(Some("b")), revisions.of(None)), (8, 7, 9));
        assert_eq!(revisions.check(Some("a"), 8), Ok(()));
        let failure = revisions.check(Some("a"), 7).unwrap_err();
        assert_eq!((failure.code(), failure.object.as_str()), (Code::Conflict, "a"));
    }

    #[test]
    fn who_is_forgotten_was_changed_no_earlier_than_thought() {
        let mut revisions = Revisions::default();
        for number in 0..2 * REVISIONS_MAX as u64 {
            revisions.note(&[alloc::format!("{number}")], number + 1);
        }
        assert_eq!(revisions.guests.len(), REVISIONS_MAX);
        for number in 0..2 * REVISIONS_MAX as u64 {
            assert!(revisions.of(Some(&alloc::format!("{number}"))) > number, "{number}");
        }
    }
}
