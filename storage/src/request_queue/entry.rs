//! A request from its submission to its end, and what is in flight for it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::block::{BlockError, Request, RequestId};
use crate::mutants::{Mutant, mutated};
use crate::requests::Fragment;

/// No entry.
pub(super) const NO_INDEX: u16 = u16::MAX;

/// The stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    /// It is in flight in one piece, alone; what is said of groups does not matter.
    Whole,
    /// It leads a group: itself, and whatever was joined with it.
    Leads,
    /// It was joined with the leader at this index.
    Follows(u16),
    Ended,
}

/// A request's place in its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) id: RequestId,
    /// The index of its entry.
    pub(crate) index: u16,
    pub(crate) first: u32,
    pub(crate) sectors: u32,
}

/// What few groups have.
#[derive(Debug, Default)]
pub(crate) struct More {
    /// Ranges (first, count) to be sent again.
    pub(crate) again: Vec<(u32, u32)>,
    /// Requests that were joined with the leader.
    pub(crate) joined: Vec<Member>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// Unique among groups; the lowest bits are the leader's index. A new one for
    /// each try.
    pub(crate) group_id: u64,
    /// Its first group ID: they follow the order of submission.
    pub(super) sequence: u64,
    pub(crate) request: Request,
    pub(crate) submitted_ns: u64,
    /// The next in the list that it is in.
    pub(super) after: u16,
    /// Earlier requests that it waits for.
    pub(super) blockers: u16,
    pub(crate) stage: Stage,
    /// It is not joined with others: a joint try failed.
    pub(crate) alone: bool,
    // From here on: the group that it leads.
    pub(crate) failed: Option<BlockError>,
    /// It is in the list of groups with work.
    pub(crate) listed: bool,
    /// First sector not yet in a fragment, and the end.
    pub(crate) next: u32,
    pub(crate) sectors: u32,
    pub(crate) unacknowledged: u32,
    pub(crate) in_flight: u32,
    pub(crate) more: Option<Box<More>>,
}

impl Entry {
    pub(super) const fn new(request: Request) -> Self {
        Self {
            group_id: 0,
            sequence: 0,
            request,
            submitted_ns: 0,
            after: NO_INDEX,
            blockers: 0,
            stage: Stage::Ended,
            alone: false,
            failed: None,
            listed: false,
            next: 0,
            sectors: 0,
            unacknowledged: 0,
            in_flight: 0,
            more: None,
        }
    }

    /// It leads a group of so many sectors.
    pub(crate) fn lead(&mut self, sectors: u32) {
        self.failed = None;
        self.listed = false;
        self.next = 0;
        self.in_flight = 0;
        self.sectors = sectors;
        self.unacknowledged = sectors;
    }

    pub(crate) fn has_work(&self) -> bool {
        let fresh = self.next < self.sectors || (self.sectors == 0 && self.next == 0);
        let again = || self.more.as_ref().is_some_and(|more| !more.again.is_empty());
        self.failed.is_none() && (fresh || again())
    }

    /// The next fragment of at most so many sectors, if the group has work.
    pub(crate) fn cut(&mut self, limit: u32) -> Fragment {
        self.in_flight = self.in_flight.wrapping_add(1);
        let again = self.more.as_mut().and_then(|more| more.again.pop());
        let (first, sectors) = if let Some((first, count)) = again {
            if count > limit {
                self.send_again(first.saturating_add(limit), count.saturating_sub(limit));
            }
            (first, count.min(limit))
        } else {
            let first = self.next;
            let count = self.sectors.saturating_sub(first).min(limit);
            // A flush has no sectors: its one fragment is out when `next` moves.
            self.next = first.saturating_add(count.max(1));
            (first, count)
        };
        let skew = u64::from(mutated(Mutant::SplitOffByOne) && first > 0);
        Fragment {
            group: self.group_id,
            operation: self.request.operation,
            lba: self.request.lba.0.saturating_add(u64::from(first)).saturating_add(skew),
            first,
            sectors,
        }
    }

    /// The fragment of one that goes out in one piece.
    pub(crate) const fn whole(&self) -> Fragment {
        let Request { operation, lba, sectors, .. } = self.request;
        Fragment { group: self.group_id, operation, lba: lba.0, first: 0, sectors }
    }

    /// What went out in one piece is a group like others from now on.
    pub(super) fn begin_group(&mut self) {
        if self.stage == Stage::Whole {
            self.lead(self.request.sectors);
            self.next = self.sectors;
            self.in_flight = 1;
            self.stage = Stage::Leads;
        }
    }

    pub(crate) fn send_again(&mut self, first: u32, sectors: u32) {
        self.more.get_or_insert_default().again.push((first, sectors));
    }

    pub(crate) fn joined(&self) -> &[Member] {
        self.more.as_ref().map_or(&[], |more| &more.joined)
    }
}
