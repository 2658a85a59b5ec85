//! Who gives way when there is no place for one more session.
//!
//! Each key has its own share, so that no operator is in his own way for long; some places are
//! for admins alone, so that a lockdown or a trust bundle always finds one.

/// How many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// In all.
    pub(crate) all: usize,
    /// For one key.
    pub(crate) of_key: usize,
    /// For admins alone.
    pub(crate) of_admins: usize,
}

/// Who has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// By which its owner finds it again.
    pub(crate) index: usize,
    pub(crate) key: [u8; 32],
    pub(crate) is_admin: bool,
    /// The one that is idle longest has the least.
    pub(crate) busy: u64,
}

/// What becomes of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is a place.
    Free,
    /// This one gives way.
    InPlaceOf(usize),
    /// There is none.
    None,
}

impl Places {
    /// Looks for a place for one more session of a key.
    pub(crate) fn find(&self, taken: &[Taken], key: &[u8; 32], is_admin: bool) -> Verdict {
        let count = |key: &[u8; 32]| taken.iter().filter(|it| it.key == *key).count();
        let idlest = |found: &mut dyn Iterator<Item = &Taken>| {
            found.min_by_key(|it| it.busy).map_or(Verdict::None, |it| Verdict::InPlaceOf(it.index))
        };
        if count(key) >= self.of_key {
            return idlest(&mut taken.iter().filter(|it| it.key == *key));
        }
        let admins = taken.iter().filter(|it| it.is_admin).count();
        let others = taken.len().saturating_sub(admins);
        let is_full = taken.len() >= self.all;
        if !is_full && (is_admin || others < self.all.saturating_sub(self.of_admins)) {
            return Verdict::Free;
        }
        // Among their own kind, those of whom there are most. An admin always finds one,
        // also where keys have lost that role meanwhile.
        let kind = is_admin && admins > 0;
        let most = taken.iter().filter(|it| it.is_admin == kind).map(|it| count(&it.key)).max().unwrap_or(0);
        if !is_admin && most < count(key).saturating_add(2) {
            return Verdict::None;
        }
        idlest(&mut taken.iter().filter(|it| it.is_admin == kind && count(&it.key) == most))
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, Taken, Verdict};
    use alloc::vec::Vec;
    use machine::test_random::TestRandom;

    const PLACES: Places = Places { all: 16, of_key: 4, of_admins: 2 };

    fn taken(keys: &[(u8, bool)]) -> Vec<Taken> {
        let one = |(index, (key, is_admin)): (usize, &(u8, bool))| Taken {
            index,
            key: [*key; 32],
            is_admin: *is_admin,
            busy: 100 - index as u64,
        };
        keys.iter().enumerate().map(one).collect()
    }

    pub(crate) fn find(keys: &[(u8, bool)], key: u8, is_admin: bool) -> Verdict {
        PLACES.find(&taken(keys), &[key; 32], is_admin)
    }

    #[test]
    fn a_fifth_session_of_a_key_closes_its_idlest() {
        let keys = [(1, false), (2, false), (1, false), (1, false), (1, false), (2, true)];
        assert_eq!(find(&keys, 1, false), Verdict::InPlaceOf(4));
        assert_eq!(find(&keys[..4], 1, false), Verdict::Free);
    }

    #[test]
    fn the_last_places_are_for_admins() {
        let viewers: Vec<(u8, bool)> = (0..14).map(|number| (number, false)).collect();
        assert_eq!(find(&viewers, 20, false), Verdict::None);
        assert_eq!(find(&viewers, 20, true), Verdict::Free);
        let mut all = viewers.clone();
        all.extend([(30, true), (31, true)]);
        // Both have one: the one that is idle longest.
        assert_eq!(find(&all, 32, true), Verdict::InPlaceOf(15));
        // The one that has most.
        all = viewers[..12].to_vec();
        all.extend([(30, true), (31, true), (31, true), (30, true)]);
        all[15].0 = 31;
        assert_eq!(find(&all, 32, true), Verdict::InPlaceOf(15));
        // Keys that are no admins' any more.
        let demoted: Vec<(u8, bool)> = (0..16).map(|number| (number, false)).collect();
        assert_eq!(find(&demoted, 32, true), Verdict::InPlaceOf(15));
    }

    #[test]
    fn who_has_many_gives_way_to_who_has_none() {
        let crowd: Vec<(u8, bool)> = (0..14).map(|number| (number / 4, false)).collect();
        assert_eq!(find(&crowd, 20, false), Verdict::InPlaceOf(11));
        assert_eq!(find(&crowd, 3, false), Verdict::InPlaceOf(11), "its third, of a fourth");
    }

    /// Whatever came before: no share is exceeded, and an admin always finds a place.
    #[test]
    fn an_admin_always_finds_a_place() {
        let mut random = TestRandom(0x5eed_0c01);
        let mut sessions: Vec<Taken> = Vec::new();
        for round in 0..200_000u64 {
            let key = random.byte() % 24;
            let is_admin = key < 6;
            let verdict = PLACES.find(&sessions, &[key; 32], is_admin);
            assert!(!is_admin || verdict != Verdict::None, "round {round}");
            match verdict {
                Verdict::None => continue,
                Verdict::Free => {}
                Verdict::InPlaceOf(index) => {
                    let gone = sessions.iter().position(|it| it.index == index).unwrap();
                    let gone = sessions.swap_remove(gone);
                    assert!(is_admin || !gone.is_admin, "round {round}");
                }
            }
            let index = usize::try_from(round).unwrap();
            sessions.push(Taken { index, key: [key; 32], is_admin, busy: random.below(1000) });
            if random.below(3) == 0 {
                let one = random.index(sessions.len());
                sessions.swap_remove(one);
            }
            let of_key = sessions.iter().filter(|it| it.key == [key; 32]).count();
            let others = sessions.iter().filter(|it| !it.is_admin).count();
            assert!(sessions.len() <= 16 && of_key <= 4 && others <= 14, "round {round}");
        }
    }
}
