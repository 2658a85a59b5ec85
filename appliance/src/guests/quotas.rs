//! Each guest's share of a turn, by deficit round robin.
//!
//! Work is counted where it is done, in instructions as they were once measured: chains,
//! descriptors, octets, frames and the pieces that they are cut into, exits. A guest with
//! work is given a quantum a turn, and is served while its balance is positive. What it
//! overdraws it owes; what it could not use it keeps, up to another quantum. All guests
//! together get no more than a turn has for them; who was not reached begins the next one.
//!
//! Spec: Shreedhar and Varghese, Efficient Fair Queueing Using Deficit Round Robin (1995).

use alloc::vec::Vec;

use crate::guests::number::GuestNumber;
use crate::limits::{DEBT_MAX, GUESTS_WORK_PER_TURN, QUANTUM_MIN};

/// A guest's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    guest: GuestNumber,
    balance: i64,
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    accounts: Vec<Account>,
    /// What is left of this turn for all guests.
    left: i64,
    /// The guest that began this turn.
    first: GuestNumber,
    /// The first one that this turn had nothing left for.
    waits: Option<GuestNumber>,
}

impl Quotas {
    /// Begins a turn of guests, by their numbers, which rise, and whether each has work:
    /// where in the list to begin.
    pub(crate) fn begin(&mut self, guests: impl Iterator<Item = (GuestNumber, bool)> + Clone) -> usize {
        let active = guests.clone().filter(|(_, works)| *works).count();
        let share = GUESTS_WORK_PER_TURN / i64::try_from(active.max(1)).unwrap_or(i64::MAX);
        let quantum = share.max(QUANTUM_MIN);
        self.left = GUESTS_WORK_PER_TURN;
        let old = core::mem::take(&mut self.accounts);
        self.accounts.extend(guests.clone().map(|(guest, works)| {
            let balance = old.iter().find(|it| it.guest == guest).map_or(0, |it| it.balance);
            let balance = match works {
                // A turn does not reach all: who was not reached has its quantum still.
                true if share < QUANTUM_MIN && balance > 0 => balance.min(quantum),
                true => balance.saturating_add(quantum).min(quantum.saturating_mul(2)),
                // Who has nothing to do pays its debt and saves nothing.
                false => balance.saturating_add(quantum).min(0),
            };
            Account { guest, balance }
        }));
        // All begin a turn in their order, and then who was not reached.
        let wanted = self.waits.take().unwrap_or(GuestNumber(self.first.0.saturating_add(1)));
        let start = guests.clone().position(|(guest, _)| guest >= wanted).unwrap_or(0);
        self.first = guests.clone().nth(start).map_or_else(GuestNumber::default, |(guest, _)| guest);
        start
    }

    fn balance(&self, guest: GuestNumber) -> i64 {
        self.accounts.iter().find(|it| it.guest == guest).map_or(0, |it| it.balance)
    }

    /// Whether a guest may do more in this turn.
    pub(crate) fn may(&mut self, guest: GuestNumber) -> bool {
        let able = self.balance(guest) > 0;
        if able && self.left <= 0 && self.waits.is_none() {
            self.waits = Some(guest);
        }
        able && self.left > 0
    }

    /// Whether a guest may do what does not wait for its turn: frames come to it, and it
    /// stops at an access. Its debt has an end.
    #[must_use]
    pub(crate) fn may_owe(&self, guest: GuestNumber) -> bool {
        self.balance(guest) > -DEBT_MAX
    }

    /// Work that was done for a guest in its turn.
    pub(crate) fn charge(&mut self, guest: GuestNumber, work: u64) {
        self.left = self.left.saturating_sub(i64::try_from(work).unwrap_or(i64::MAX));
        self.owe(guest, work);
    }

    /// Work that was done for a guest at another time.
    pub(crate) fn owe(&mut self, guest: GuestNumber, work: u64) {
        let work = i64::try_from(work).unwrap_or(i64::MAX);
        match self.accounts.iter_mut().find(|it| it.guest == guest) {
            Some(account) => account.balance = account.balance.saturating_sub(work),
            None => self.accounts.push(Account { guest, balance: work.saturating_neg() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const fn numbered((guest, works): (u64, bool)) -> (GuestNumber, bool) {
        (GuestNumber(guest), works)
    }

    /// A guest that always has more to send, in items of this work.
    fn serve(quotas: &mut Quotas, guests: &[(u64, u64)], turns: usize) -> Vec<u64> {
        let mut done = vec![0; guests.len()];
        for _ in 0..turns {
            let start = quotas.begin(guests.iter().map(|(guest, work)| (GuestNumber(*guest), *work > 0)));
            let mut spent = 0;
            for index in (start..guests.len()).chain(0..start) {
                let (guest, work) = guests[index];
                while work > 0 && quotas.may(GuestNumber(guest)) {
                    quotas.charge(GuestNumber(guest), work);
                    done[index] += work;
                    spent += work;
                }
            }
            let largest = guests.iter().map(|(_, work)| *work).max().unwrap();
            assert!(spent <= u64::try_from(GUESTS_WORK_PER_TURN).unwrap() + largest, "{spent}");
        }
        done
    }

    #[test]
    fn small_and_large_items_get_the_same_work() {
        for small in [1, 100, 1_200, 7_919] {
            for large in [small, 30_000, 120_000, 900_000] {
                let mut quotas = Quotas::default();
                // Enough for many of the large ones.
                let turns = if small < 1_000 { 40 } else { 1_000 };
                let done = serve(&mut quotas, &[(1, small), (2, large)], turns);
                let ratio = done[0] * 100 / done[1];
                assert!((90..=110).contains(&ratio), "{small} and {large}: {done:?}");
            }
        }
    }

    #[test]
    fn as_many_as_there_can_be_are_all_served() {
        let guests: Vec<(u64, u64)> = (1..=62).map(|guest| (guest * 3, 400 * guest)).collect();
        let mut quotas = Quotas::default();
        let done = serve(&mut quotas, &guests, 1_000);
        let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
        assert!(most * 100 <= least * 110, "{least} to {most}");
        // None waits for long: in as many turns as all quanta take, each has its own.
        for _ in 0..50 {
            let turns = 62 * usize::try_from(QUANTUM_MIN / (GUESTS_WORK_PER_TURN / 62) + 2).unwrap() / 62;
            let done = serve(&mut quotas, &guests, turns);
            assert!(done.iter().filter(|done| **done == 0).count() <= 2, "{done:?}");
        }
    }

    #[test]
    fn who_is_idle_saves_nothing_and_pays_its_debt() {
        let mut quotas = Quotas::default();
        for _ in 0..100 {
            quotas.begin([(1, false), (2, true)].into_iter().map(numbered));
            assert!(!quotas.may(GuestNumber(1)));
        }
        // It has no more than two that were always busy.
        let done = serve(&mut quotas, &[(1, 1_000), (2, 1_000)], 1);
        assert!(done[0] <= done[1], "{done:?}");
        quotas.begin([(1, true), (2, true)].into_iter().map(numbered));
        quotas.owe(GuestNumber(1), 10 * u64::try_from(GUESTS_WORK_PER_TURN).unwrap());
        assert!(!quotas.may_owe(GuestNumber(1)) && quotas.may_owe(GuestNumber(2)));
        let mut turns = 0;
        while !quotas.may(GuestNumber(1)) {
            quotas.begin([(1, false), (2, false)].into_iter().map(numbered));
            quotas.begin([(1, true), (2, false)].into_iter().map(numbered));
            turns += 1;
            assert!(turns < 20);
        }
        assert!(turns >= 5, "{turns} turns: a debt is paid by what was not done");
    }

    #[test]
    fn guests_that_come_and_go_leave_no_account() {
        let mut quotas = Quotas::default();
        for guest in 1..1_000 {
            quotas.owe(GuestNumber(guest), 5);
            assert!(quotas.begin([(guest, true), (guest + 1, true)].into_iter().map(numbered)) < 2);
            assert!(
                quotas.accounts.len() == 2
                    && quotas.may(GuestNumber(guest))
                    && quotas.may(GuestNumber(guest + 1))
            );
        }
        assert_eq!(quotas.begin(core::iter::empty()), 0);
        assert!(quotas.accounts.is_empty() && !quotas.may(GuestNumber(1)));
    }

    #[test]
    fn who_was_not_reached_is_the_first() {
        let mut quotas = Quotas::default();
        let guests = [(1, true), (2, true), (5, true)];
        let first: Vec<usize> = (0..4).map(|_| quotas.begin(guests.into_iter().map(numbered))).collect();
        assert_eq!(first, [0, 1, 2, 0]);
        quotas.charge(GuestNumber(1), u64::try_from(GUESTS_WORK_PER_TURN).unwrap());
        assert!(!quotas.may(GuestNumber(5)) && !quotas.may(GuestNumber(2)), "nothing is left");
        assert_eq!(quotas.begin(guests.into_iter().map(numbered)), 2);
    }
}
