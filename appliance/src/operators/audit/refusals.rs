//! Commands that were refused or failed, gathered so that no number of them fills the log.
//!
//! Of each key there are a few kinds (the same verb, object and failure) of which the first
//! is an entry at once, and those that follow are one entry a minute, with their count. What
//! is more than a key's share is told apart no longer: one entry stands for all of it.

use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::audit::OTHERS;
use mgmt_proto::code::Code;

use crate::limits::{REFUSAL_BURST, REFUSAL_INTERVAL_NS, REFUSAL_KINDS, REFUSAL_WINDOW_NS, REFUSERS_MAX};
use crate::operators::audit::Asked;

/// An entry that is due.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    /// The last command that it stands for.
    pub(crate) asked: Asked,
    /// How it ended.
    pub(crate) code: Code,
    /// For how many it stands.
    pub(crate) count: u32,
}

/// What came of one kind since its last entry.
#[derive(Clone, Debug)]
struct Kind {
    last: Due,
    since_ns: u64,
}

/// One key's.
#[derive(Clone, Debug)]
struct Refuser {
    operator: [u8; 32],
    /// When its share would be whole again.
    whole_ns: u64,
    kinds: Vec<Kind>,
    others: Option<Due>,
}

/// Those of all keys.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    refusers: Vec<Refuser>,
}

impl Due {
    fn is_like(&self, asked: &Asked, code: Code) -> bool {
        self.code == code && self.asked.verb == asked.verb && self.asked.object == asked.object
    }

    fn and(&mut self, asked: &Asked, code: Code) {
        *self = Self { asked: asked.clone(), code, count: self.count.saturating_add(1) };
    }
}

impl Refuser {
    const fn new(operator: [u8; 32]) -> Self {
        Self { operator, whole_ns: 0, kinds: Vec::new(), others: None }
    }

    /// When its next entry may be made.
    const fn next_ns(&self) -> u64 {
        self.whole_ns.saturating_sub((REFUSAL_BURST - 1) * REFUSAL_INTERVAL_NS)
    }

    fn take_share(&mut self, now_ns: u64) -> bool {
        let may = self.next_ns() <= now_ns;
        if may {
            let from = if self.whole_ns > now_ns { self.whole_ns } else { now_ns };
            self.whole_ns = from.saturating_add(REFUSAL_INTERVAL_NS);
        }
        may
    }

    fn note(&mut self, asked: &Asked, code: Code, now_ns: u64) -> Option<Due> {
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.last.is_like(asked, code)) {
            kind.last.and(asked, code);
            return None;
        }
        let first = Due { asked: asked.clone(), code, count: 1 };
        if self.kinds.len() < REFUSAL_KINDS && self.take_share(now_ns) {
            self.kinds.push(Kind { last: Due { count: 0, ..first.clone() }, since_ns: now_ns });
            return Some(first);
        }
        match &mut self.others {
            Some(others) => others.and(asked, code),
            None => self.others = Some(first),
        }
        None
    }

    fn take_due(&mut self, now_ns: u64, due: &mut Vec<Due>) {
        self.kinds.retain(|kind| kind.last.count > 0 || now_ns < kind.until_ns());
        for index in 0..self.kinds.len() {
            let is_due = self.kinds.get(index).is_some_and(|kind| now_ns >= kind.until_ns());
            if is_due
                && self.take_share(now_ns)
                && let Some(kind) = self.kinds.get_mut(index)
            {
                due.push(kind.last.clone());
                (kind.last.count, kind.since_ns) = (0, now_ns);
            }
        }
        if self.others.is_some() && self.take_share(now_ns) {
            due.extend(self.others.take().map(|mut others| {
                (others.asked.verb, others.asked.object) = (OTHERS, String::new());
                others
            }));
        }
    }

    /// Whether nothing is known of it that matters.
    fn is_idle(&self, now_ns: u64) -> bool {
        self.kinds.is_empty() && self.others.is_none() && self.whole_ns <= now_ns
    }

    fn next_deadline(&self) -> Option<u64> {
        let kinds = self.kinds.iter().filter(|kind| kind.last.count > 0);
        let first = kinds.map(Kind::until_ns).min();
        let others = self.others.as_ref().map(|_| 0);
        first.into_iter().chain(others).min().map(|at_ns| at_ns.max(self.next_ns()))
    }
}

impl Kind {
    const fn until_ns(&self) -> u64 {
        self.since_ns.saturating_add(REFUSAL_WINDOW_NS)
    }
}

impl Refusals {
    /// Notes one; the entry to make at once, if one is.
    pub(crate) fn note(&mut self, asked: &Asked, code: Code, now_ns: u64) -> Option<Due> {
        let known = self.refusers.iter().position(|refuser| refuser.operator == asked.operator);
        let index = known.unwrap_or_else(|| {
            if self.refusers.len() >= REFUSERS_MAX {
                self.refusers.remove(0);
            }
            self.refusers.push(Refuser::new(asked.operator));
            self.refusers.len() - 1
        });
        self.refusers.get_mut(index)?.note(asked, code, now_ns)
    }

    /// Those that are due now.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        for refuser in &mut self.refusers {
            refuser.take_due(now_ns, &mut due);
        }
        self.refusers.retain(|refuser| !refuser.is_idle(now_ns));
        due
    }

    /// When the next one is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.refusers.iter().filter_map(Refuser::next_deadline).min()
    }
}
