//! What happens when answers stay away: tries, other paths, smaller frames, and
//! what old copies of writes may still do.
//!
//! Where another path carries frames, a request that was in flight when one failed ends
//! within three seconds, and one that is submitted later within three seconds of that. Such
//! a failure is found within half a second or so, by what is in flight or, while writes wait
//! for old copies, by asking ([`ASK_NS`], [`SILENCE_SEVERAL_NS`]). What it left on the
//! path is sent elsewhere then, and keeps other writes off its range for
//! [`AOE_FRAME_LIFETIME_NS`] more: once, for those are then sent on a path that was heard
//! lately. Each failure counts anew: a second one may find a write that has waited for the
//! copies of the first, and the next write then waits for its copies.

use alloc::vec::Vec;

use log::Level;

use super::{
    AOE_FRAME_LIFETIME_NS, Kind, MacAddress, Mutant, Path, PathRefusal, Payload, Phase, Release,
    SECTORS_FALLBACK, Slot, Target, mutated,
};

/// Tries after which the path counts as lost.
const LOST_TRIES: u32 = 3;
/// Silence of the path that, with so many tries, is a loss and not mere noise.
const SILENCE_NS: u64 = 1_000_000_000;
/// The same where another path could do the work.
const SILENCE_SEVERAL_NS: u64 = 250_000_000;
/// While writes wait for what old copies may do, a path that has been silent for so long is
/// asked whether it carries anything.
const ASK_NS: u64 = 250_000_000;
/// Tries after which a large frame is cut into small ones.
const FALLBACK_TRIES: u32 = 3;
/// Tries of a frame-size probe.
const SIZE_TRIES: u32 = 3;
/// Longest pause before a frame is sent again on a path that has answered others since,
/// unless it is slow: what was lost is the frame, not the path.
const LIVELY_NS_MAX: u64 = 250_000_000;
/// Round trips, with their deviation, that such a pause may take however long they are.
const LIVELY_TRIES: u32 = 4;
/// Pause before a path that leads elsewhere is asked again.
const REFUSED_TRIES: u32 = 6;

impl Target {
    /// Advances timers: forgets what can no longer arrive, cuts frames that are too
    /// long for their path, ends what the policy deadline ends.
    pub fn poll(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        let ended = self.requests.poll(now_ns);
        if !ended.is_empty() {
            self.drop_slots(|slot| slot.kind.fragment().is_some_and(|it| ended.contains(&it.group)));
        }
        let too_long = |slot: &Slot| {
            slot.deadline_ns <= now_ns
                && slot.tries >= FALLBACK_TRIES
                && slot.kind.fragment().is_some_and(|it| it.sectors > u32::from(SECTORS_FALLBACK))
                && !mutated(Mutant::FrameSizeStuck)
        };
        if now_ns < self.due_ns {
            return;
        }
        if let Some(slot) = self.slots.iter().find(|slot| too_long(slot)) {
            let path = slot.path;
            self.fall_back(path);
        }
    }

    /// The path loses long frames: cut what is in flight into short ones.
    fn fall_back(&mut self, index: usize) {
        let now_ns = self.now_ns;
        if let Some(path) = self.paths.get_mut(index) {
            path.sizes.fall_back(now_ns);
            path.last_error = Some("the path does not carry the frame size that it did");
            self.last_error = path.last_error;
        }
        let long = |slot: &Slot| {
            let data = slot.kind.fragment().is_some_and(|it| it.sectors > u32::from(SECTORS_FALLBACK));
            slot.path == index && data
        };
        for slot in self.take_slots(long) {
            self.fence(&slot);
            if let Kind::Fragment(fragment) = slot.kind {
                self.requests.requeue(&fragment);
            }
        }
    }

    /// The link of the NIC with this MAC address went down, or came back. What is in flight there
    /// goes elsewhere at once, if there is a path that is not lost; or else, and when it is
    /// back, it is tried there at once.
    pub fn link_changed(&mut self, mac: MacAddress, up: bool, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        let others = self.paths.iter().any(|path| path.source != mac && path.is_live());
        for index in 0..self.paths.len() {
            let Some(path) = self.paths.get_mut(index).filter(|path| path.source == mac) else {
                continue;
            };
            if !up && others && path.lost_since_ns.is_none() {
                path.lost_since_ns = Some(now_ns);
                path.stalls = path.stalls.wrapping_add(u64::from(path.phase == Phase::Ready));
                path.last_error = Some("the link of its card is down");
                self.say(Level::Warn, index, format_args!("is lost: the link of its card is down"));
            }
            if up || others {
                self.retry_now(|slot, _| slot.path == index);
            }
        }
    }

    /// What is in flight and wanted is sent again now.
    fn retry_now(&mut self, wanted: impl Fn(&Slot, &Path) -> bool) {
        let now_ns = self.now_ns;
        for slot in &mut self.slots {
            if self.paths.get(slot.path).is_some_and(|path| wanted(slot, path)) {
                slot.deadline_ns = slot.deadline_ns.min(now_ns);
                self.due_ns = self.due_ns.min(now_ns);
            }
        }
    }

    /// When a path is to be asked whether it carries anything. A write that waits until no
    /// old copy can arrive must not find out by itself: it would leave copies in its turn,
    /// for which others wait as long again.
    pub(super) fn ask_at_ns(&self, index: usize) -> Option<u64> {
        let requests = &self.requests;
        let waits = requests.has_ready() && self.now_ns < requests.fences.until_ns();
        if !waits || mutated(Mutant::SilentPathTrusted) {
            return None;
        }
        let path = self.paths.get(index).filter(|path| path.is_live())?;
        // What is in flight tells as well, but for frames that may just be too long.
        let tells = |slot: &Slot| slot.path == index && !matches!(slot.kind, Kind::Size(_));
        (!self.slots.iter().any(tells)).then(|| path.heard_ns.saturating_add(ASK_NS))
    }

    /// A path serves from now on: what is in flight on a lost one comes here at once, and so
    /// does what is on one that counts as lost now that there is another.
    pub(super) fn serve(&mut self, index: usize) {
        let now_ns = self.now_ns;
        if let Some(path) = self.paths.get_mut(index) {
            path.phase = Phase::Ready;
            path.last_error = None;
        }
        self.retry_now(|slot, path| {
            let silent_ns = now_ns.saturating_sub(path.heard_ns.max(slot.first_ns));
            let silent = slot.tries.saturating_add(1) >= LOST_TRIES && silent_ns >= SILENCE_SEVERAL_NS;
            path.phase == Phase::Ready && (silent || path.lost_since_ns.is_some())
        });
    }

    fn take_slots(&mut self, wanted: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let mut taken = Vec::new();
        while let Some(index) = self.slots.iter().position(&wanted) {
            taken.push(self.leave(index));
        }
        taken
    }

    /// Gives commands up; their copies may still arrive.
    fn drop_slots(&mut self, wanted: impl Fn(&Slot) -> bool) {
        for slot in self.take_slots(wanted) {
            self.fence(&slot);
        }
    }

    /// Keeps new writes off where a copy of this one could still land.
    pub(super) fn fence(&mut self, slot: &Slot) {
        if let Some(fragment) = slot.kind.fragment().filter(|it| it.operation.writes()) {
            let release = Release::At(slot.sent_ns.saturating_add(AOE_FRAME_LIFETIME_NS));
            self.requests.fences.add(fragment.lba, u64::from(fragment.sectors), release);
        }
    }

    /// The submitter was reset and its memory is void: all requests are forgotten,
    /// none completes. The session continues; writes that are in flight keep new ones
    /// off their ranges for as long as they can arrive.
    pub fn abandon(&mut self) {
        let requests = |slot: &Slot| slot.kind.fragment().is_some();
        if mutated(Mutant::ResetForgotten) {
            let _ = self.take_slots(requests);
        } else {
            self.drop_slots(requests);
        }
        if self.requests.len() > 0 {
            // It counts as ready when it has answered once more.
            for path in self.paths.iter_mut().filter(|path| path.phase == Phase::Ready) {
                path.phase = Phase::Query;
            }
        }
        self.requests.abandon();
    }

    /// Until when frames with writes of this session can arrive at the target, if it
    /// is dropped now.
    #[must_use]
    pub fn wandering_until_ns(&self) -> u64 {
        let writes = |slot: &&Slot| slot.kind.fragment().is_some_and(|it| it.operation.writes());
        let slots = self.slots.iter().filter(writes);
        let slots = slots.map(|slot| slot.sent_ns.saturating_add(AOE_FRAME_LIFETIME_NS)).max();
        slots.unwrap_or(0).max(self.requests.fences.until_ns())
    }

    /// Takes a path out of use, or back into it.
    ///
    /// # Errors
    /// There is no such path, or no other one is in use.
    pub fn set_path_enabled(&mut self, index: usize, enabled: bool) -> Result<(), PathRefusal> {
        let others = self.paths.iter().enumerate().filter(|(other, it)| *other != index && !it.disabled);
        let others = others.count();
        let path = self.paths.get_mut(index).ok_or(PathRefusal::Unknown)?;
        if !enabled && others == 0 {
            return Err(PathRefusal::Last);
        }
        if path.disabled == enabled {
            path.disabled = !enabled;
            // It looks for the target from the beginning when it is wanted again.
            path.phase = Phase::Query;
            path.lost_since_ns = None;
            self.drop_slots(|slot| {
                let moves = matches!(slot.kind, Kind::Fragment(_) | Kind::Administration(_));
                slot.path == index && !moves
            });
            self.retry_now(|slot, _| slot.path == index);
        }
        Ok(())
    }

    /// Keeps a command under a new tag, to be sent after a pause.
    pub(super) fn later(&mut self, kind: Kind, path: usize, tries: u32) {
        let tries = tries.max(LOST_TRIES).saturating_add(1);
        let patience = self.paths.get(path).map_or(0, |it| it.patience_ns(tries, &mut self.random));
        self.enter(kind, path, tries, self.now_ns.saturating_add(patience));
    }

    /// Sends a command once more, perhaps elsewhere; `None` when there was nothing
    /// to send after all.
    pub(super) fn resend(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        payload: &mut dyn Payload,
    ) -> Option<usize> {
        let now_ns = self.now_ns;
        let slot = self.slots.get(index)?;
        if let Kind::Size(sectors) = slot.kind
            && slot.tries >= SIZE_TRIES
        {
            let slot = self.leave(index);
            self.paths.get_mut(slot.path)?.sizes.failed(sectors, now_ns);
            return None;
        }
        if mutated(Mutant::RetriesGivenUp) && slot.tries >= 4 && slot.kind.fragment().is_some() {
            self.leave(index);
            return None;
        }
        let (tries, first_ns, at) = (slot.tries.saturating_add(1), slot.first_ns, slot.path);
        let sent_ns = slot.sent_ns;
        self.missed(at, tries, first_ns, index);
        let to = self.path_for(index, at);
        if to != at && self.is_too_long(index, to) {
            let slot = self.leave(index);
            self.fence(&slot);
            if let Kind::Fragment(fragment) = slot.kind {
                self.requests.requeue(&fragment);
            }
            return None;
        }
        // On another path the count of tries begins anew.
        let tries = if to == at { tries } else { 2 };
        let path = self.paths.get(to)?;
        let mut patience = path.patience_ns(tries, &mut self.random);
        if to == at && path.heard_ns > sent_ns && tries > LIVELY_TRIES {
            let pause = path.patience_ns(LIVELY_TRIES, &mut self.random).max(LIVELY_NS_MAX);
            patience = patience.min(pause);
        }
        // The same for questions: only what is asked now is answered.
        let is_question = matches!(self.slots.get(index)?.kind, Kind::Query | Kind::Identify);
        let tag = if is_question { self.fresh_tag() } else { self.slots.get(index)?.tag };
        if to != at {
            let old = self.paths.get_mut(at)?;
            old.in_flight = old.in_flight.saturating_sub(1);
            let new = self.paths.get_mut(to)?;
            new.in_flight = new.in_flight.saturating_add(1);
        }
        let slot = self.slots.get_mut(index)?;
        if slot.path != to {
            (slot.path, slot.first_ns) = (to, now_ns);
        }
        let retagged = slot.tag != tag;
        slot.tag = tag;
        slot.tries = tries;
        slot.sent_ns = now_ns;
        slot.timed = is_question;
        slot.copied = true;
        slot.deadline_ns = now_ns.saturating_add(patience);
        if retagged {
            self.hint(tag, index);
        }
        self.requests.counters.retries = self.requests.counters.retries.wrapping_add(1);
        self.emit(self.slots.get(index)?, buffer, payload)
    }

    fn is_too_long(&self, slot: usize, path: usize) -> bool {
        let sectors = self.slots.get(slot).and_then(|it| it.kind.fragment()).map_or(0, |it| it.sectors);
        sectors > self.paths.get(path).map_or(0, |it| u32::from(it.sizes.good))
    }

    /// Where a command goes: commands about a path stay there, others leave a path
    /// that is lost for one that is not.
    fn path_for(&self, slot: usize, at: usize) -> usize {
        let moves = self
            .slots
            .get(slot)
            .is_some_and(|slot| matches!(slot.kind, Kind::Fragment(_) | Kind::Administration(_)));
        if !moves || self.paths.get(at).is_some_and(Path::is_live) || mutated(Mutant::DeadPathKept) {
            return at;
        }
        // The one that has answered last: others may be lost as well and not known to be.
        let live = self.paths.iter().enumerate().filter(|(_, path)| path.is_live());
        live.max_by_key(|(_, path)| path.heard_ns).map_or(at, |(index, _)| index)
    }

    /// An answer stayed away.
    fn missed(&mut self, index: usize, tries: u32, first_ns: u64, slot: usize) {
        let now_ns = self.now_ns;
        let several = self.paths.iter().filter(|path| path.is_live()).count() > 1;
        let size = self.slots.get(slot).is_some_and(|slot| matches!(slot.kind, Kind::Size(_)));
        let Some(path) = self.paths.get_mut(index) else { return };
        path.retries = path.retries.wrapping_add(1);
        if size {
            return;
        }
        path.shrink(now_ns);
        let since_ns = path.heard_ns.max(first_ns);
        let silent_ns = now_ns.saturating_sub(since_ns);
        if tries < LOST_TRIES || silent_ns < SILENCE_SEVERAL_NS || path.lost_since_ns.is_some() {
            return;
        }
        if !several {
            // Those that were lost may be back, and would not be asked for a while.
            let lately_ns = now_ns.saturating_sub(SILENCE_SEVERAL_NS);
            self.retry_now(|slot, path| {
                path.lost_since_ns.is_some() && path.phase != Phase::Ready && slot.sent_ns <= lately_ns
            });
        }
        let Some(path) = self.paths.get_mut(index).filter(|_| several || silent_ns >= SILENCE_NS) else {
            return;
        };
        path.lost_since_ns = Some(since_ns);
        path.stalls = path.stalls.wrapping_add(u64::from(path.phase == Phase::Ready));
        path.last_error = Some("no answer");
        self.say(Level::Warn, index, format_args!("is lost: no answer"));
        let serving = self.paths.iter().any(Path::is_live);
        // Others may have failed in the same way: better to know before they are needed.
        for path in self.paths.iter_mut().filter(|path| path.is_live()) {
            path.recheck = true;
        }
        if serving {
            // What is in flight there goes elsewhere at once.
            self.retry_now(|slot, _| slot.path == index);
        } else if self.stalled_since_ns.is_none() {
            self.stalled_since_ns = Some(since_ns);
            self.say(Level::Warn, index, format_args!("was the last one, requests wait"));
            let counters = &mut self.requests.counters;
            counters.stalls = counters.stalls.wrapping_add(1);
        }
    }

    /// An answer came: the path is there.
    pub(super) fn heard(&mut self, slot: &Slot, index: usize) {
        let now_ns = self.now_ns;
        let Some(path) = self.paths.get_mut(index) else { return };
        path.heard_ns = now_ns;
        if slot.path == index {
            let waited = now_ns.saturating_sub(slot.sent_ns);
            if slot.timed {
                path.sample(waited);
            } else if slot.copied {
                path.back_off(now_ns.saturating_sub(slot.first_ns));
            }
            path.latency.record(now_ns.saturating_sub(slot.first_ns));
        }
        path.grow();
        self.refused = false;
        // An answer to a copy that left before the path was lost may have wandered: it
        // does not bring the path back.
        let late = slot.path != index;
        let lost_since_ns = if late { None } else { path.lost_since_ns.take() };
        if let Some(since_ns) = lost_since_ns {
            path.recheck = path.phase == Phase::Ready;
            let after_ms = now_ns.saturating_sub(since_ns) / 1_000_000;
            self.say(Level::Info, index, format_args!("is back after {after_ms} ms"));
            // Do not sit out the long pauses.
            self.retry_now(|slot, _| slot.path == index);
        }
        if self.stalled_since_ns.is_some() && self.paths.iter().any(Path::is_live) {
            self.stalled_since_ns = None;
            self.retry_now(|_, _| true);
        }
    }

    /// The path leads to another disk or to none.
    pub(super) fn refuse_path(&mut self, index: usize, why: &'static str) {
        self.last_error = Some(why);
        if let Some(path) = self.paths.get_mut(index) {
            path.phase = Phase::Refused;
            // What is asked again and again is said once.
            if path.last_error.replace(why) != Some(why) {
                self.say(Level::Warn, index, format_args!("is refused: {why}"));
            }
        }
        if !self.paths.iter().any(|path| path.phase == Phase::Ready) {
            self.refused = true;
        }
        self.later(Kind::Query, index, REFUSED_TRIES);
    }
}
