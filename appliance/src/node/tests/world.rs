//! A node, an operator's machine and disk targets on one simulated Ethernet.
//! Time is simulated; loss is seeded.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::hint::black_box;
use core::net::Ipv4Addr;

use ed25519_dalek::SigningKey;
use hv_abi::event::{self, Event};
use mgmt_proto::client::{Client, Connecting, Message};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{ANSWER_BYTES, GREETING_BYTES, Meant};
use mgmt_proto::job::Progress;
use mgmt_proto::machine::{Action, Machine, NetworkCard};
use mgmt_proto::manifest::{self, Manifest};
use mgmt_proto::trust::{Operator, Role};
use mgmt_proto::verb::{GuestFacts, Outcome, Reply, Request};
use netstack::frame::MacAddress;
use netstack::host::{Addressing, ConnectionId, ConnectionState, Host, HostConfig, TcpOptions};
use netstack::offload::{Accepts, Offload};
use sha2::{Digest as _, Sha256};

pub(super) use hv_x86::to_usize;

use super::fake_disk::FakeDisk;
use super::fake_hypervisor::FakeHypervisor;
use super::fake_nic::FakeNic;
use super::targets::{AoeTarget, IscsiTarget};
use crate::node::Node;
use crate::settings::Settings;
use machine::test_random::TestRandom;

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000 * MS;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const PORT: u16 = manifest::DEFAULT_PORT;
pub(super) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const OPERATOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Turns without a cause, one after the other, that are a busy loop.
const SPINS_MAX: u32 = 100;

/// Whose key a session uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Admin,
    Operator,
    Viewer,
    Stranger,
}

impl Who {
    pub(super) fn key(self) -> SigningKey {
        SigningKey::from_bytes(&[self as u8 + 40; 32])
    }
}

pub(super) enum Stage {
    /// Waits to be greeted; without a node that is meant it is the one that greets.
    Called(Option<Meant>, [u8; 32]),
    Hello(Option<Connecting>),
    Open(Client),
    Dead,
}

/// An operator's connection.
pub(super) struct OperatorSession {
    pub(super) connection: ConnectionId,
    pub(super) stage: Stage,
    pub(super) who: Who,
    pub(super) outgoing: Vec<u8>,
    pub(super) incoming: Vec<u8>,
    /// Everything that was sent.
    pub(super) sent: Vec<u8>,
    pub(super) outcomes: VecDeque<Outcome>,
    pub(super) progress: Vec<Progress>,
}

pub(super) struct World {
    pub(super) hypervisor: FakeHypervisor,
    pub(super) nic: FakeNic,
    /// Cards for disks, each on a wire of its own, where the targets are as well.
    pub(super) storage_nics: Vec<FakeNic>,
    /// Frames that the targets sent to cards for disks.
    pub(super) to_storage: Vec<Vec<u8>>,
    /// Cards whose cable is cut, by their number.
    pub(super) cut: Vec<usize>,
    pub(super) node: Node<FakeHypervisor, FakeNic>,
    pub(super) settings: Settings,
    pub(super) now_ns: u64,
    pub(super) events: Vec<Event>,
    /// How often the node was called.
    pub(super) turns: u64,
    pub(super) operator: Host,
    pub(super) sessions: Vec<OperatorSession>,
    /// What nodes gave operators: by whom, by which key of a node, and the pass.
    pub(super) passes: Vec<(Who, [u8; 32], [u8; 32])>,
    pub(super) aoe: Vec<AoeTarget>,
    pub(super) iscsi: Option<IscsiTarget>,
    /// Further ones, at addresses of their own.
    pub(super) more_iscsi: Vec<IscsiTarget>,
    /// Frames the node sent.
    pub(super) wire: Vec<Vec<u8>>,
    /// Frames the node was sent.
    pub(super) to_node: Vec<Vec<u8>>,
    pub(super) loss_percent: u64,
    /// Octets of the longest packet from the node that passes the wire to others.
    pub(super) narrow_bytes: usize,
    pub(super) random: TestRandom,
    /// Answers DHCP.
    pub(super) dhcp: bool,
    pub(super) deadline_ns: u64,
    /// The machine's own disk.
    pub(super) disk: Option<FakeDisk>,
    spins: u32,
    /// The node's heap.
    pub(super) heap: Heap,
}

/// What a node takes of its heap, counted as it runs.
#[derive(Default)]
pub(super) struct Heap {
    pub(super) bytes: i64,
    /// Most at any time, also within a turn.
    pub(super) peak: i64,
}

impl Heap {
    /// Counts what `act` allocates and frees.
    fn count<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let mut result = None;
        let info = allocation_counter::measure(|| result = Some(act()));
        self.peak = self.peak.max(self.bytes + i64::try_from(info.bytes_max).unwrap());
        self.bytes += info.bytes_current;
        result.unwrap()
    }
}

/// Who counts instructions looks for calls of these two: between them is a turn.
#[inline(never)]
fn turn_begins() -> u8 {
    black_box(1)
}

#[inline(never)]
fn turn_ends() -> u8 {
    black_box(2)
}

/// A turn and nothing else.
#[inline(never)]
fn plain_turn(node: &mut Node<FakeHypervisor, FakeNic>, events: &[Event], now_ns: u64) -> u64 {
    turn_begins();
    let deadline_ns = node.turn(events, now_ns);
    turn_ends();
    deadline_ns
}

fn trusted() -> Vec<Operator> {
    let operator = |who: Who, role| Operator { key: who.key().verifying_key().to_bytes(), role };
    vec![
        operator(Who::Admin, Role::Admin),
        operator(Who::Operator, Role::Operator),
        operator(Who::Viewer, Role::Viewer),
    ]
}

pub(super) fn settings() -> Settings {
    Settings {
        manifest: Manifest {
            version: manifest::VERSION,
            owner: [9; 32],
            operators: trusted(),
            name: "node".to_string(),
            addressing: manifest::Addressing::Static {
                address: NODE_ADDRESS.octets(),
                prefix: 24,
                gateway: None,
            },
            mtu: manifest::DEFAULT_MTU,
            storage_cards: Vec::new(),
            aoe: manifest::AoeCards::All,
            port: PORT,
            fault_injection: false,
            restart_delay_s: 10,
            smt: false,
            trust_serial_min: 0,
            guest_addresses_required: false,
            card_grants: Vec::new(),
            dom0_cpu: manifest::Dom0Cpu::Own,
            state: None,
        },
        image_sha256: [7; 32],
        image_bytes: 1,
        dom0_starts: 1,
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, settings())
    }

    pub(super) fn with(seed: u64, settings: Settings) -> Self {
        Self::with_cards(seed, settings, Vec::new())
    }

    /// A machine with cards besides its first one.
    pub(super) fn with_cards(seed: u64, settings: Settings, storage_nics: Vec<FakeNic>) -> Self {
        let hypervisor = FakeHypervisor::new(seed);
        let nic = FakeNic::new(NODE_MAC);
        let now_ns = SECOND;
        let cards = core::iter::once(&nic).chain(&storage_nics).cloned().collect();
        let mut heap = Heap::default();
        let node = heap.count(|| Node::new(hypervisor.clone(), cards, settings.clone(), now_ns)).unwrap();
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let config = HostConfig {
            mac: MacAddress(OPERATOR_MAC),
            mtu: 1500,
            accepts: Accepts::default(),
            addressing: Addressing::Static { address, prefix: 24, gateway: None },
            seed: seed + 5,
            secret: [7; 16],
        };
        Self {
            hypervisor,
            nic,
            storage_nics,
            to_storage: Vec::new(),
            cut: Vec::new(),
            node,
            settings,
            now_ns,
            events: Vec::new(),
            turns: 0,
            operator: Host::new(&config, now_ns).unwrap(),
            sessions: Vec::new(),
            passes: Vec::new(),
            aoe: Vec::new(),
            iscsi: None,
            more_iscsi: Vec::new(),
            wire: Vec::new(),
            to_node: Vec::new(),
            loss_percent: 0,
            narrow_bytes: usize::MAX,
            random: TestRandom(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            dhcp: false,
            deadline_ns: 0,
            disk: None,
            spins: 0,
            heap,
        }
    }

    /// A machine with a disk of its own, which its node uses.
    pub(super) fn with_disk(seed: u64, settings: Settings, disk: &FakeDisk) -> Self {
        let mut world = Self::with(seed, settings);
        world.disk = Some(disk.clone());
        world.node.use_local_disk(Some(Box::new(disk.clone())), world.now_ns);
        world
    }

    /// The power goes and comes back: only disks remember.
    pub(super) fn power_cycle(&mut self) {
        let seed = self.random.below(u64::MAX);
        self.hypervisor = FakeHypervisor::new(seed);
        self.now_ns += SECOND;
        self.settings.dom0_starts = 0;
        self.restart_dom0();
    }

    /// Ends dom0 and starts the next one over the same hypervisor.
    pub(super) fn restart_dom0(&mut self) {
        for nic in self.nics() {
            nic.card().received.clear();
            nic.card().sent.clear();
        }
        self.events.clear();
        self.sessions.clear();
        self.settings.dom0_starts += 1;
        // The old one's windows go first, as with its address space.
        let idle = FakeHypervisor::new(1);
        let (settings, cards) = (self.settings.clone(), alloc::vec![FakeNic::new(NODE_MAC)]);
        let spare = Node::new(idle, cards, settings.clone(), self.now_ns).unwrap();
        drop(core::mem::replace(&mut self.node, spare));
        let cards = self.nics().cloned().collect();
        self.heap = Heap::default();
        let (hypervisor, now_ns) = (self.hypervisor.clone(), self.now_ns);
        self.node = self.heap.count(|| Node::new(hypervisor, cards, settings, now_ns)).unwrap();
        if let Some(disk) = self.disk.clone() {
            self.node.use_local_disk(Some(Box::new(disk)), self.now_ns);
        }
        self.deadline_ns = self.now_ns;
    }

    /// All cards of the machine, in the order of the bus.
    fn nics(&self) -> impl Iterator<Item = &FakeNic> {
        core::iter::once(&self.nic).chain(&self.storage_nics)
    }

    fn lost(&mut self) -> bool {
        self.loss_percent > 0 && self.random.below(100) < self.loss_percent
    }

    /// One call of the node.
    pub(super) fn turn(&mut self) {
        let events = core::mem::take(&mut self.events);
        self.deadline_ns = self.counted_turn(&events);
    }

    /// A turn of the node, whose heap stays within what its ledger says.
    fn counted_turn(&mut self, events: &[Event]) -> u64 {
        let promised = self.node.heap_promised();
        let (node, now_ns) = (&mut self.node, self.now_ns);
        let deadline_ns = self.heap.count(|| plain_turn(node, events, now_ns));
        // A disk of the machine keeps what it is given.
        if self.disk.is_none() && self.heap.peak > i64::try_from(promised).unwrap() {
            let promised = promised.max(self.node.heap_promised());
            let peak = self.heap.peak;
            assert!(peak <= i64::try_from(promised).unwrap(), "{peak} bytes of heap, {promised} promised");
        }
        deadline_ns
    }

    /// One call of the node, if there is a reason for one.
    fn turn_node(&mut self) -> bool {
        let interrupted = self.disk.as_ref().is_some_and(FakeDisk::has_ended);
        let arrived = self.nics().any(|nic| !nic.card().received.is_empty());
        let has_room = self.nics().filter(|nic| nic.has_room_again()).count() > 0;
        let caused = interrupted || !self.events.is_empty() || arrived || has_room;
        if !caused && self.now_ns < self.deadline_ns {
            return false;
        }
        self.turns += 1;
        let events = core::mem::take(&mut self.events);
        let overdue = !caused && self.deadline_ns <= self.now_ns;
        self.deadline_ns = self.counted_turn(&events);
        if overdue && self.deadline_ns <= self.now_ns && self.nics().all(|nic| nic.card().sent.is_empty()) {
            self.spins += 1;
            let now_ns = self.now_ns;
            assert!(
                self.spins < SPINS_MAX,
                "the node spins at {now_ns}: stack {:?}, volumes {:?}, sessions {:?}, starts {:?}",
                self.node.network.stacks.next_deadline(now_ns),
                self.node.volumes.next_deadline(),
                self.node.operators.sessions.next_deadline(),
                self.node.guests.next_start_deadline(),
            );
        } else {
            self.spins = 0;
        }
        true
    }

    /// Moves frames until nothing moves, then time by one step, at most to `until`.
    pub(super) fn step(&mut self, until_ns: u64) {
        let mut moved = self.turn_node();
        loop {
            let frame = {
                let mut card = self.nic.card();
                if card.stuck { None } else { card.sent.pop_front() }
            };
            let Some(frame) = frame else { break };
            moved = true;
            if self.wire.len() < 4096 {
                self.wire.push(frame.clone());
            }
            let passes = frame.len().saturating_sub(14) <= self.narrow_bytes;
            if passes && !self.lost() && !self.cut.contains(&0) {
                self.carry(&frame);
            }
        }
        moved |= self.carry_storage();
        self.poll_operator();
        moved |= self.collect_others();
        if !moved {
            let others = [self.operator.next_deadline(self.now_ns), self.iscsi_deadline()];
            let next = others.into_iter().flatten().chain([self.deadline_ns, until_ns]).min().unwrap();
            self.now_ns = next.clamp(self.now_ns + 10_000, until_ns.max(self.now_ns + 10_000));
        }
    }

    fn iscsi_deadline(&mut self) -> Option<u64> {
        let now_ns = self.now_ns;
        let targets = self.iscsi.iter_mut().chain(&mut self.more_iscsi);
        targets.filter_map(|target| target.next_deadline(now_ns)).min()
    }

    /// Delivers a frame that the node sent.
    fn carry(&mut self, frame: &[u8]) {
        let to: [u8; 6] = frame[..6].try_into().unwrap();
        let all = to[0] & 1 == 1;
        if all || to == OPERATOR_MAC {
            self.operator.receive(frame, &Offload::None, self.now_ns);
        }
        for target in self.iscsi.iter_mut().chain(&mut self.more_iscsi) {
            if all || to == target.host.mac().0 {
                target.host.receive(frame, &Offload::None, self.now_ns);
            }
        }
        let mut answers = Vec::new();
        if frame[12..14] == [0x88, 0xa2] {
            for target in &mut self.aoe {
                if all || to == target.mac {
                    answers.extend(target.answer(frame));
                }
            }
        }
        if self.dhcp {
            answers.extend(super::dhcp::answer(frame, 0));
        }
        for answer in answers {
            self.deliver(answer);
        }
    }

    /// Puts a frame on the node's wire.
    pub(super) fn deliver(&mut self, frame: Vec<u8>) {
        if self.to_node.len() < 4096 {
            self.to_node.push(frame.clone());
        }
        if !self.lost() && !self.cut.contains(&0) {
            self.nic.card().received.push_back(frame);
        }
    }

    fn collect_others(&mut self) -> bool {
        let mut frames = Vec::new();
        self.operator.poll(self.now_ns);
        collect_whole(&mut self.operator, &mut frames);
        for target in self.iscsi.iter_mut().chain(&mut self.more_iscsi) {
            target.poll(self.now_ns);
            collect_whole(&mut target.host, &mut frames);
        }
        let moved = !frames.is_empty();
        for frame in frames {
            self.deliver(frame);
        }
        moved | self.collect_storage()
    }

    pub(super) fn poll_operator(&mut self) {
        for index in 0..self.sessions.len() {
            let session = &self.sessions[index];
            let greets = matches!(session.stage, Stage::Called(None, _)).then(|| self.known(session.who));
            self.sessions[index].exchange(&mut self.operator, greets);
        }
    }

    /// Whether the node logged this.
    pub(super) fn logged(&self, text: &str) -> bool {
        self.hypervisor.machine().log.iter().any(|line| line.contains(text))
    }

    /// Lets the world run for so long.
    pub(super) fn run(&mut self, duration_ns: u64) {
        let until_ns = self.now_ns + duration_ns;
        while self.now_ns < until_ns {
            self.step(until_ns);
        }
    }

    /// Runs until something is so; panics when it is not within a minute.
    pub(super) fn until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let until_ns = self.now_ns + 60 * SECOND;
        while !condition(self) {
            assert!(self.now_ns < until_ns, "{what} did not happen");
            self.step(until_ns);
        }
    }

    /// Connects as who knows the node; the index of the session.
    pub(super) fn dial(&mut self, who: Who) -> usize {
        self.dial_as(who, None)
    }

    /// What an operator knows of the node that is there.
    pub(super) fn known(&self, who: Who) -> Meant {
        let key = self.node.keys.identity.key.verifying_key().to_bytes();
        let pass = self.passes.iter().find(|(whose, node, _)| (*whose, *node) == (who, key));
        Meant { key: Some(key), pass: pass.map(|(.., pass)| *pass), name: String::new() }
    }

    /// Connects to the node that is meant.
    pub(super) fn dial_as(&mut self, who: Who, meant: Option<Meant>) -> usize {
        let mut seed = [0; 32];
        seed.fill_with(|| self.random.byte());
        self.sessions.push(OperatorSession::new(&mut self.operator, who, Stage::Called(meant, seed)));
        self.sessions.len() - 1
    }

    /// Connects and waits until the session is open.
    pub(super) fn connect(&mut self, who: Who) -> usize {
        let session = self.dial(who);
        self.until("an open session", |world| matches!(world.sessions[session].stage, Stage::Open(_)));
        let Stage::Open(client) = &self.sessions[session].stage else { panic!("it is open") };
        let (key, pass) = (client.proved().key, client.proved().pass);
        self.passes.retain(|(whose, node, _)| (*whose, *node) != (who, key));
        self.passes.push((who, key, pass));
        session
    }

    /// Whether a session ended, with nothing said after the last outcome.
    pub(super) fn is_dead(&self, session: usize) -> bool {
        let session = &self.sessions[session];
        matches!(session.stage, Stage::Dead) && session.outcomes.is_empty()
    }

    /// The key of the node that a session is with.
    pub(super) fn node_key(&self, session: usize) -> &[u8; 32] {
        let Stage::Open(client) = &self.sessions[session].stage else { panic!("the session is not open") };
        client.node()
    }

    /// Session and place of the last command of a session.
    pub(super) fn place(&self, session: usize) -> ([u8; 32], u64) {
        let Stage::Open(client) = &self.sessions[session].stage else { panic!("the session is not open") };
        client.place()
    }

    /// Sends a request without waiting.
    pub(super) fn send(&mut self, session: usize, request: &Request) {
        self.sessions[session].send(request);
    }

    /// The next outcome of a session.
    pub(super) fn outcome(&mut self, session: usize) -> Result<Reply, Failure> {
        self.until("an outcome", |world| {
            assert!(
                !matches!(world.sessions[session].stage, Stage::Dead)
                    || !world.sessions[session].outcomes.is_empty(),
                "the session ended"
            );
            !world.sessions[session].outcomes.is_empty()
        });
        self.sessions[session].outcomes.pop_front().unwrap().map_err(Failure::from)
    }

    /// A request and its outcome.
    pub(super) fn ask(&mut self, session: usize, request: &Request) -> Result<Reply, Failure> {
        self.send(session, request);
        self.outcome(session)
    }

    /// A request that must succeed.
    pub(super) fn done(&mut self, session: usize, request: &Request) -> Reply {
        self.ask(session, request).unwrap_or_else(|failure| panic!("{request:?}: {failure}"))
    }

    /// A request that must fail.
    pub(super) fn refused(&mut self, session: usize, request: &Request) -> Failure {
        self.ask(session, request).expect_err("refused")
    }

    /// Queues bytes of an announced blob.
    pub(super) fn send_data(&mut self, session: usize, bytes: &[u8]) {
        let session = &mut self.sessions[session];
        let Stage::Open(client) = &mut session.stage else { panic!("the session is not open") };
        for chunk in bytes.chunks(mgmt_proto::limits::BLOB_CHUNK_BYTES) {
            session.outgoing.extend(client.data(chunk).unwrap());
        }
    }

    /// Sends a blob: digest and outcome.
    pub(super) fn upload(&mut self, session: usize, bytes: &[u8]) -> [u8; 32] {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let put = Request::BlobPut { digest, length: bytes.len() as u64, resume: false };
        assert_eq!(self.done(session, &put), Reply::BlobHeld(0));
        self.send_data(session, bytes);
        assert_eq!(self.outcome(session), Ok(Reply::Done));
        digest
    }

    /// A session that has sent a kernel, and a guest that uses it.
    pub(super) fn ready(&mut self) -> (usize, Machine) {
        let session = self.connect(Who::Admin);
        let kernel = self.upload(session, &kernel());
        (session, machine("web", kernel))
    }

    pub(super) fn facts(&mut self, session: usize, name: &str) -> Result<GuestFacts, Code> {
        match self.ask(session, &Request::Info { name: name.to_string() }) {
            Ok(Reply::Guests(mut guests)) => Ok(guests.pop().unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.code),
        }
    }

    /// Creates a guest: its domain.
    pub(super) fn create(&mut self, session: usize, machine: &Machine) -> u32 {
        match self.done(session, &Request::create(machine.clone())) {
            Reply::Created(domain) => domain,
            other => panic!("{other:?}"),
        }
    }

    /// An access of a guest that the hypervisor forwards.
    pub(super) fn access(&mut self, domain: u32, access: u16, address: u64, width: u16, value: u64) {
        self.events.push(Event { kind: event::EXIT, domain, index: 0, access, width, address, value });
        self.run(MS);
    }

    /// A write to a port.
    pub(super) fn port_write(&mut self, domain: u32, port: u16, value: u64) {
        self.access(domain, event::ACCESS_PORT_WRITE, u64::from(port), 1, value);
    }
}

impl OperatorSession {
    /// Connects from a station.
    pub(super) fn new(host: &mut Host, who: Who, stage: Stage) -> Self {
        Self {
            connection: host.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT).unwrap(),
            stage,
            who,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            sent: Vec::new(),
            outcomes: VecDeque::new(),
            progress: Vec::new(),
        }
    }

    /// Sends a request without waiting.
    pub(super) fn send(&mut self, request: &Request) {
        let Stage::Open(client) = &mut self.stage else { panic!("the session is not open") };
        self.outgoing.extend(client.command(&self.who.key(), request).unwrap());
    }

    /// Moves what there is between the session and its station; `greets` is the node that is
    /// meant where that was left open.
    pub(super) fn exchange(&mut self, host: &mut Host, greets: Option<Meant>) {
        let count = host.write(self.connection, &self.outgoing);
        self.sent.extend(self.outgoing.drain(..count));
        let mut buffer = [0; 4096];
        loop {
            let count = host.read(self.connection, &mut buffer);
            if count == 0 {
                break;
            }
            if let Stage::Called(meant @ None, _) = &mut self.stage {
                *meant = greets.clone();
            }
            self.take(&buffer[..count]);
        }
        if matches!(host.state(self.connection), ConnectionState::Closed | ConnectionState::PeerClosed) {
            self.stage = Stage::Dead;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match &mut self.stage {
            Stage::Called(meant, seed) => {
                self.incoming.extend_from_slice(bytes);
                let Some(greeting) = self.incoming.first_chunk::<GREETING_BYTES>() else { return };
                let meant = meant.take().unwrap();
                let connecting = Connecting::new(&self.who.key(), &meant, greeting, *seed).unwrap();
                self.outgoing.extend_from_slice(connecting.hello());
                self.incoming.drain(..GREETING_BYTES);
                self.stage = Stage::Hello(Some(connecting));
            }
            Stage::Hello(connecting) => {
                self.incoming.extend_from_slice(bytes);
                if let Some(answer) = self.incoming.first_chunk::<ANSWER_BYTES>() {
                    let mut client = connecting.take().unwrap().finish(answer).unwrap();
                    client.receive(&self.incoming[ANSWER_BYTES..]).unwrap();
                    self.outgoing.extend(client.here().unwrap());
                    self.stage = Stage::Open(client);
                }
            }
            Stage::Open(client) => client.receive(bytes).unwrap(),
            Stage::Dead => {}
        }
        if let Stage::Open(client) = &mut self.stage {
            while let Some(message) = client.next_message().unwrap() {
                match message {
                    Message::Outcome(outcome) => self.outcomes.push_back(outcome),
                    Message::Progress(progress) => self.progress.push(progress),
                }
            }
        }
    }
}

/// A bzImage that says of itself what Debian's say, with a small payload.
pub(super) fn kernel() -> Vec<u8> {
    let mut file = vec![0; 5 * 512 + 4096];
    file[0x1f1] = 4;
    file[0x1f4..0x1f8].copy_from_slice(&(4096u32 / 16).to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    file[0x211] = 1;
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&0x3fu16.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes());
    file[0x260..0x264].copy_from_slice(&(1u32 << 20).to_le_bytes());
    file[0x500..0x50d].copy_from_slice(b"6.1.0-test #1");
    file[5 * 512..].fill(0xa5);
    file
}

pub(super) fn machine(name: &str, kernel: [u8; 32]) -> Machine {
    Machine {
        name: String::from(name),
        memory_bytes: 32 * MIB,
        vcpus: 1,
        cpu_weight: 256,
        cap_percent: 0,
        kernel,
        ramdisk: None,
        command_line: "console=hvc0".to_string(),
        disks: Vec::new(),
        network_cards: Vec::new(),
        on_poweroff: Action::Destroy,
        on_reboot: Action::Restart,
        on_crash: Action::Preserve,
    }
}

/// The same guest with other names and cards.
pub(super) fn sibling(machine: &Machine, name: &str, last: u8) -> Machine {
    let mut other = machine.clone();
    other.name = name.to_string();
    other.network_cards = vec![NetworkCard::plain(guest_mac(last))];
    other
}

pub(super) const fn guest_mac(last: u8) -> [u8; 6] {
    [2, 0x11, 0, 0, 0, last]
}

/// What a station has to say, as it goes over a wire.
pub(super) fn collect_whole(station: &mut Host, frames: &mut Vec<Vec<u8>>) {
    let mut scratch = vec![0; 10_000];
    while station.transmit(|frame, offload| {
        frames.push(offload.whole(frame, &mut scratch).unwrap().to_vec());
        true
    }) {}
}
