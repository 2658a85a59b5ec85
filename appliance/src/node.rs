//! The node: everything of dom0, as one state machine.
//!
//! [`Node::turn`] is all there is: it is given the time and what happened, moves
//! frames, bytes and requests as far as they go, and says when it wants to be
//! called again. Nothing in it waits, and nothing else runs.
//!
//! The parts are [`crate::guests`], [`crate::blobs`], [`crate::volumes`], [`crate::network`],
//! [`crate::operators`], `crate::trust` and `crate::state`: none of them knows the node. What
//! touches several of them is in `flows`.

mod flows;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::domain::STATE_CRASHED;
use hv_abi::event::{self, Event};
use mgmt_proto::facts::CardCondition;
use mgmt_proto::handshake::{GREETING_BYTES, HELLO_BYTES};
use mgmt_proto::machine::Digest;
use mgmt_proto::trust::Trust;
use netstack::host::TcpOptions;
use sha2::{Digest as _, Sha256};

use crate::blobs::Blobs;
use crate::guests::Guests;
use crate::guests::guest::{End, Guest, GuestRequest};
use crate::hypervisor::Hypervisor;
use crate::limits::COMMANDS_PER_TURN;
use crate::network::neighbourhood::Neighbourhood;
use crate::network::nic::Nic;
use crate::network::{Network, cards};
use crate::operators::Operators;
use crate::settings::Settings;
use crate::state::State;
use crate::trust::{Authority, NodeKeys};
use crate::volumes::Volumes;

/// dom0.
pub struct Node<H: Hypervisor, N> {
    hypervisor: H,
    settings: Settings,
    keys: NodeKeys,
    trust: Authority,
    /// Nanoseconds since 1970 when the monotonic clock was zero, once asked for.
    wall_base_ns: Option<u64>,
    network: Network<N>,
    operators: Operators<H::Memory>,
    guests: Guests<H::Memory>,
    blobs: Blobs<H::Memory>,
    volumes: Volumes,
    /// What outlives a power cut.
    state: State,
    neighbourhood: Neighbourhood,
    addresses_seen: u64,
    /// How the cards were when they were last looked at, when that is next done, and
    /// whether anything may have happened since.
    cards_seen: Vec<CardCondition>,
    cards_look_ns: u64,
    cards_look_due: bool,
    /// An operator wants the machine off, or restarted: how, and when at the latest.
    stopping: Option<(bool, u64)>,
    /// When the last full turn asked to be called again.
    deadline_ns: u64,
}

/// Why a node cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is no card that is not for disks, or its address is no good.
    Card,
    /// The port of the one door cannot be opened.
    Door,
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// A node that takes over what an earlier dom0 left. Its cards are in the order of
    /// the bus.
    ///
    /// # Errors
    /// Why it cannot start.
    pub fn new(
        mut hypervisor: H,
        cards: Vec<N>,
        settings: Settings,
        now_ns: u64,
    ) -> Result<Self, StartError> {
        let mut random = [0; 32];
        hypervisor.random(&mut random);
        let (identity, own, key_links) = settings.identity(&mut hypervisor);

        let manifest = &settings.manifest;
        let trust = Trust::sealed(manifest.owner, &manifest.operators, &manifest.name)
            .with_card_grants(&manifest.card_grants);
        let trust = Authority::new(trust, manifest.trust_serial_min);
        let seeds = random.as_chunks::<8>().0;
        let seed = |index: usize| seeds.get(index).copied().map_or(0, u64::from_le_bytes);
        // Other bytes than those that seed generators whose output strangers see.
        let secret = random.last_chunk().copied().unwrap_or_default();
        let connected = cards::connect(&mut hypervisor, cards, &settings, (seed(0), secret), now_ns);
        let (network, wires) = connected.ok_or(StartError::Card)?;
        let mac = network.nic.mac();
        let mut node = Self {
            hypervisor,
            keys: NodeKeys { identity, links: key_links, rotation: None },
            trust,
            wall_base_ns: None,
            network,
            operators: Operators::default(),
            guests: Guests::default(),
            blobs: Blobs::default(),
            volumes: Volumes::new(wires, settings.initiator_name(mac), seed(1)),
            state: State::new(settings.manifest.state.clone(), own, now_ns),
            settings,
            neighbourhood: Neighbourhood::default(),
            addresses_seen: 0,
            cards_seen: Vec::new(),
            cards_look_ns: 0,
            cards_look_due: false,
            stopping: None,
            deadline_ns: 0,
        };
        node.instruct_hypervisor();
        node.adopt(now_ns);
        node.operators.audit.ensure(&mut node.hypervisor);
        node.operators.revisions.begin(node.operators.audit.end());
        node.restore_trust(own, now_ns);
        if node.state.is_listening() {
            if !node.listen() {
                return Err(StartError::Door);
            }
            node.persist_own();
        }
        node.begin_state(now_ns);
        Ok(node)
    }

    /// Opens the one door; false when that is not possible.
    fn listen(&mut self) -> bool {
        let port = self.settings.manifest.port;
        self.log_key();
        let first = &mut self.network.stacks.first;
        first.guard(port, TcpOptions::MANAGEMENT, GREETING_BYTES, HELLO_BYTES).is_ok()
    }

    /// Says by which key operators know the node, for who looks at its own console.
    fn log_key(&mut self) {
        let key = self.keys.identity.key.verifying_key().to_bytes();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let digest: [u8; 32] = Sha256::digest(key).into();
        let short = digest.first_chunk::<16>().map(|short| hex(short)).unwrap_or_default();
        log::info!("this node's key is SHA256:{short}, {}", hex(&key));
    }

    /// Tells the hypervisor what was sealed for it: whether both threads of a core run,
    /// whether guests keep off dom0's home CPU, and what follows when it fails.
    fn instruct_hypervisor(&mut self) {
        self.hypervisor.run_threads(self.settings.manifest.smt);
        let cpus = self.hypervisor.node_info().cpus;
        let own = self.settings.manifest.dom0_cpu.owns(cpus);
        match self.hypervisor.own_cpu(own) {
            Ok(()) if own => {
                log::info!("guests run on {} of {cpus} CPUs, dom0 on its own", cpus - 1);
            }
            Ok(()) => {}
            Err(error) => log::warn!("guests share dom0's CPU: {error:?}"),
        }
        let delay_ms = u64::from(self.settings.manifest.restart_delay_s) * 1000;
        if let Err(error) = self.hypervisor.restart_delay(delay_ms) {
            log::warn!("restart_delay_s is not taken: {error:?}");
        }
    }

    /// Asks for interrupts before sleeping; true when there is something to do already.
    pub fn arm(&mut self) -> bool {
        self.network.arm() | self.volumes.arm_state()
    }

    /// Moves everything as far as it goes; returns when to be called again, at
    /// the latest.
    pub fn turn(&mut self, events: &[Event], now_ns: u64) -> u64 {
        let mut quiet = !events.is_empty() && now_ns < self.deadline_ns;
        for event in core::mem::take(&mut self.guests.deferred).iter().chain(events) {
            quiet &= self.handle_event(event, now_ns);
        }
        self.guests.flush_interrupts(&mut self.hypervisor);
        // Accesses that were answered at once: nothing else has changed.
        if quiet {
            return self.deadline_ns;
        }
        self.poll_cards(now_ns);
        self.protect_addresses(now_ns);
        let start = self.guests.begin_turn();
        let mut busy = self.network.receive(&mut self.guests, &mut self.volumes, now_ns)
            || !self.guests.deferred.is_empty();
        self.network.stacks.tend(now_ns);
        self.volumes.begin_turn();
        self.volumes.poll(&mut self.network.stacks, &mut self.guests.list, now_ns);
        // What has waited for room on a card goes before what guests send now.
        self.network.transmit_host(&mut self.guests, now_ns);
        busy |= self.network.transmit_volumes(&mut self.guests.list, &mut self.volumes, now_ns);
        busy |= self.serve_guests(start, now_ns);
        self.poll_state(now_ns);
        self.poll_starts(now_ns);
        self.poll_discovery(now_ns);
        self.poll_maintenance(now_ns);
        self.poll_attachments(now_ns);
        busy |= self.serve_operators(now_ns);
        self.volumes.poll(&mut self.network.stacks, &mut self.guests.list, now_ns);
        self.network.stacks.egress(now_ns);
        self.network.transmit_host(&mut self.guests, now_ns);
        busy |= self.network.transmit_volumes(&mut self.guests.list, &mut self.volumes, now_ns);
        self.guests.flush_interrupts(&mut self.hypervisor);
        self.network.flush();
        self.log_addresses(now_ns);
        self.log_drops();
        self.log_neighbours(now_ns);
        self.stop_if_asked(now_ns);
        // Completions of the second poll may have made room for more.
        busy |= self.volumes.has_more() || self.guests.list.iter().any(Guest::has_disk_work);
        self.deadline_ns = if busy { now_ns } else { self.next_deadline(now_ns) };
        self.deadline_ns
    }

    fn next_deadline(&mut self, now_ns: u64) -> u64 {
        let host = self.network.stacks.next_deadline(now_ns);
        let volumes = self.volumes.next_deadline();
        let sessions = self.operators.sessions.next_deadline();
        let starts = self.guests.next_start_deadline();
        let disks = self.next_disk_deadline();
        let stop = self.stopping.map(|(_, at_ns)| at_ns);
        let state = self.state.next_deadline();
        let patience = self.guests.autostart.next_deadline();
        let uploads = self.blobs.unfinished.next_deadline();
        let refusals = self.operators.audit.next_deadline();
        let cards = self.next_card_deadline(now_ns);
        [host, cards, volumes, sessions, starts, disks, stop, state, patience, uploads, refusals]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Deals with an event; true when that was all there is to do.
    fn handle_event(&mut self, event: &Event, now_ns: u64) -> bool {
        if event.kind == event::INTERRUPT {
            return false;
        }
        let domain = DomainId(event.domain);
        let Some(index) = self.guests.index_of_domain(domain) else {
            // A guest of an earlier dom0: its devices are gone.
            if event.kind == event::EXIT {
                let _ = self.hypervisor.complete_exit(domain, event.index, u64::MAX);
            }
            return true;
        };
        if event.kind == event::DOMAIN {
            let crashed = self.hypervisor.domain_info(domain.slot().index());
            if crashed.is_ok_and(|info| info.domain == domain.0 && info.state == STATE_CRASHED) {
                self.guest_ended(index, End::Crashed, now_ns);
            }
            return false;
        }
        let Some(guest) = self.guests.list.get_mut(index) else { return true };
        // A vCPU has one access at a time.
        if event.kind == event::EXIT && !self.guests.quotas.may_owe(guest.number) {
            self.guests.deferred.push(*event);
            return false;
        }
        let wish = guest.handle(&mut self.hypervisor, event);
        self.guests.quotas.owe(guest.number, guest.take_exit_work());
        match wish {
            GuestRequest::Nothing => return true,
            GuestRequest::Queue(device, queue) => guest.mark_work(device, queue),
            GuestRequest::DeviceReset(device) => {
                let number = guest.number;
                self.volumes.forget(number, device);
                if let Some(block) =
                    self.guests.get_mut(index).and_then(|guest| guest.platform.block_mut(device))
                {
                    block.forget();
                }
            }
            GuestRequest::Ejected(device) => self.disk_given_back(index, device, now_ns),
            GuestRequest::PowerOff => self.guest_ended(index, End::PoweredOff, now_ns),
            GuestRequest::Reset => self.guest_ended(index, End::Reset, now_ns),
            GuestRequest::Panicked(false) => self.guest_ended(index, End::Panicked, now_ns),
            GuestRequest::Panicked(true) => {
                log::warn!(target: "guests", "guest {}: its kernel panicked and dumps", guest.machine.name);
            }
        }
        false
    }

    /// Serves the queues that guests rang for, each guest its share of the turn, beginning
    /// with one of them; true when there may be more.
    fn serve_guests(&mut self, start: usize, now_ns: u64) -> bool {
        let mut busy = false;
        for index in (start..self.guests.list.len()).chain(0..start) {
            let Some(guest) = self.guests.list.get_mut(index) else { break };
            let number = guest.number;
            if !guest.has_work() {
                continue;
            }
            if !self.guests.quotas.may(number) {
                busy = true;
                continue;
            }
            let cards = guest.first_card()..guest.console_device();
            let (work, rotation) = (guest.take_work(), guest.next_rotation());
            let own = guest.poll_small_devices(&mut self.hypervisor);
            self.guests.quotas.charge(number, own);
            busy |= guest.has_work();
            let disks: u64 = guest.slots.iter().fold(0, |bits, slot| bits | 1 << slot.device);
            let cards = cards.fold(0, |bits, card| bits | 1 << card);
            // Its devices take turns as well.
            let work = work & (disks | cards);
            let first = work & (u64::MAX << rotation);
            for device in bits(first).chain(bits(work & !first)) {
                let is_disk = disks >> device & 1 == 1;
                let more = if is_disk {
                    self.volumes.serve_disk(&mut self.guests, index, device, now_ns)
                } else {
                    self.network.transmit_guest(&mut self.guests, index, device, now_ns)
                };
                if more && let Some(guest) = self.guests.get_mut(index) {
                    guest.mark_work(device, 1);
                    // A full card wakes the node by its interrupt.
                    busy |= is_disk || self.network.nic.can_transmit();
                }
            }
        }
        busy
    }

    fn serve_operators(&mut self, now_ns: u64) -> bool {
        self.update_clock(now_ns);
        // An operator who sent something may have sent more than fitted, and a command may
        // have begun what the next turn goes on with.
        let first = &mut self.network.stacks.first;
        let who = (&self.keys.identity, &self.trust.bundles);
        let mut busy =
            self.operators.sessions.poll(first, &mut self.hypervisor, &mut self.blobs, who, now_ns);
        self.poll_uploads(now_ns);
        self.operators.audit.settle(now_ns);
        for _ in 0..COMMANDS_PER_TURN {
            let guests = &self.guests;
            let needed = |digest: &Digest| guests.need(digest);
            let command = self.operators.sessions.next_command(
                &mut self.network.stacks.first,
                &mut self.hypervisor,
                (&mut self.blobs, &needed),
                &self.trust.bundles,
                now_ns,
            );
            let Some(command) = command else {
                self.report_progress(now_ns);
                let more = self.operators.sessions.transmit(&mut self.network.stacks.first);
                return busy || more || self.operators.sessions.has_more();
            };
            busy = true;
            self.execute(command, now_ns);
        }
        self.report_progress(now_ns);
        self.operators.sessions.transmit(&mut self.network.stacks.first);
        true
    }

    /// Ends the machine once the operator who asked has had the answer.
    fn stop_if_asked(&mut self, now_ns: u64) {
        if let Some((power_off, _)) = self.stopping.take_if(|(_, at_ns)| now_ns >= *at_ns) {
            self.hypervisor.reset(power_off);
        }
    }
}

/// The numbers of the bits that are set, the lowest first.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = usize::try_from(set.trailing_zeros()).ok().filter(|number| *number < 64)?;
        set &= set - 1;
        Some(lowest)
    })
}

#[cfg(test)]
pub(crate) mod tests;
