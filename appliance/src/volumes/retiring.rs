//! The end of a volume's session: the target is told, what it holds for this node is
//! given up, and nothing waits for that.

use alloc::vec::Vec;

use storage::volume::{Volume, VolumeName};

use crate::guests::number::GuestNumber;
use crate::network::stacks::Stacks;
use crate::volumes::connection::{Connections, Pace};
use crate::volumes::{Binding, NoPayload, Volumes};

/// How long a target may take to say goodbye.
const LOGOUT_NS: u64 = 5_000_000_000;
/// Most sessions that say goodbye at a time; the oldest are cut off.
const RETIRING_MAX: usize = 64;

/// A volume that has no session any more, and until when its frames may wander.
pub(crate) struct Quarantined {
    pub(crate) name: VolumeName,
    pub(crate) until_ns: u64,
}

/// A session that says goodbye.
pub(crate) struct Retiring {
    pub(crate) name: VolumeName,
    pub(crate) share: u16,
    pub(crate) volume: Volume,
    pub(crate) connections: Connections,
    /// A reservation is to be given up first.
    pub(crate) reserved: bool,
    told: bool,
    deadline_ns: u64,
}

impl Retiring {
    fn step(&mut self, stacks: &mut Stacks, (pace, now_ns): (&mut Pace, u64)) {
        self.volume.poll(now_ns);
        match &mut self.volume {
            Volume::Iscsi(session) => {
                // A reservation can be given up only where it is known.
                if !self.told && (!self.reserved || session.ready_capacity().is_some()) {
                    self.told = true;
                    session.close();
                }
                self.connections.drive(session, stacks, &mut NoPayload, (pace, now_ns));
            }
            Volume::Aoe(target) if !self.told => {
                self.told = true;
                while target.take_outcome().is_some() {}
                target.set_reserve(false);
            }
            Volume::Aoe(_) => {}
        }
    }

    fn is_over(&mut self, now_ns: u64) -> bool {
        now_ns >= self.deadline_ns
            || match &mut self.volume {
                Volume::Iscsi(session) => session.is_closed(),
                Volume::Aoe(target) => target.take_outcome().is_some(),
            }
    }

    pub(crate) fn next_deadline(&self) -> u64 {
        self.volume.next_deadline().map_or(self.deadline_ns, |next_ns| next_ns.min(self.deadline_ns))
    }
}

impl Volumes {
    /// Heap that sessions take at most that say goodbye.
    pub(crate) fn retiring_bytes(&self) -> usize {
        self.closing.iter().map(|closing| closing.volume.heap_bytes_max()).sum()
    }

    /// Closes one disk of a guest.
    pub fn close_disk(&mut self, guest: GuestNumber, device: usize, stacks: &mut Stacks, now_ns: u64) {
        self.close_where(stacks, now_ns, |binding| binding.guest == guest && binding.device == device);
    }

    /// Closes all disks of a guest.
    pub fn close(&mut self, guest: GuestNumber, stacks: &mut Stacks, now_ns: u64) {
        self.limiters.remove(&guest);
        self.throttled.retain(|(number, _)| *number != guest);
        self.close_where(stacks, now_ns, |binding| binding.guest == guest);
    }

    fn close_where(&mut self, stacks: &mut Stacks, now_ns: u64, gone: impl Fn(&Binding) -> bool) {
        let closed: Vec<Binding> = self.bindings.extract_if(.., |binding| gone(binding)).collect();
        for mut binding in closed {
            // Its memory is void from now on.
            binding.volume.abandon();
            let reserved = binding.settings.reserve && !binding.read_only;
            let Binding { name, share, volume, connections, .. } = binding;
            self.begin_logout(name, share, volume, connections, reserved, stacks, now_ns);
        }
    }

    /// Ends a session that has no requests.
    #[expect(clippy::too_many_arguments, reason = "the parts of a session, which is taken apart here")]
    pub(crate) fn begin_logout(
        &mut self,
        name: VolumeName,
        share: u16,
        volume: Volume,
        connections: Connections,
        reserved: bool,
        stacks: &mut Stacks,
        now_ns: u64,
    ) {
        let deadline_ns = now_ns.saturating_add(LOGOUT_NS);
        let closing = Retiring { name, share, volume, connections, reserved, told: false, deadline_ns };
        if matches!(closing.volume, Volume::Aoe(_)) && !reserved {
            return self.cut_off(closing, stacks, now_ns);
        }
        self.closing.push(closing);
        if self.closing.len() > RETIRING_MAX {
            let oldest = self.closing.remove(0);
            self.cut_off(oldest, stacks, now_ns);
        }
    }

    /// Ends a session without a word.
    fn cut_off(&mut self, closing: Retiring, stacks: &mut Stacks, now_ns: u64) {
        closing.connections.abort(stacks, now_ns);
        self.quarantine(&closing.name, &closing.volume, now_ns);
    }

    /// The writes of an AoE session may still be on the wire when the next one begins.
    fn quarantine(&mut self, name: &VolumeName, volume: &Volume, now_ns: u64) {
        self.left.retain(|left| left.until_ns > now_ns);
        if let Volume::Aoe(target) = volume
            && target.wandering_until_ns() > now_ns
        {
            self.left.push(Quarantined { name: name.clone(), until_ns: target.wandering_until_ns() });
        }
    }

    /// A session that begins takes the place of one that says goodbye: that must not
    /// give up, a moment later, what the new one has reserved.
    pub(crate) fn supersede(&mut self, name: &VolumeName, share: u16, now_ns: u64) {
        for index in 0..self.closing.len() {
            let Some(closing) = self.closing.get_mut(index) else { break };
            let aoe = matches!(closing.volume, Volume::Aoe(_));
            if closing.name == *name && (aoe || closing.share == share) {
                closing.deadline_ns = now_ns;
                let until_ns = match &closing.volume {
                    Volume::Aoe(target) => target.wandering_until_ns(),
                    Volume::Iscsi(_) => 0,
                };
                if until_ns > now_ns {
                    self.left.push(Quarantined { name: name.clone(), until_ns });
                }
            }
        }
    }

    pub(crate) fn poll_retiring(&mut self, stacks: &mut Stacks, now_ns: u64) {
        let over: Vec<Retiring> = self
            .closing
            .extract_if(.., |closing| {
                if closing.deadline_ns > now_ns {
                    closing.step(stacks, (&mut self.pace, now_ns));
                }
                closing.is_over(now_ns)
            })
            .collect();
        for closing in over {
            self.cut_off(closing, stacks, now_ns);
        }
    }

    /// Sessions that say goodbye and may still send frames.
    pub(crate) fn retiring_targets(
        &mut self,
        now_ns: u64,
    ) -> impl Iterator<Item = &mut storage::aoe::Target> {
        let going = self.closing.iter_mut().filter(move |closing| closing.deadline_ns > now_ns);
        going.filter_map(|closing| match &mut closing.volume {
            Volume::Aoe(target) => Some(target),
            Volume::Iscsi(_) => None,
        })
    }
}
