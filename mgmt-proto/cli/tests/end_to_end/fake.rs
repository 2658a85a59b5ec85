//! A node in this process: the protocol's own server over a real socket, with
//! guests that are only names; and a workstation with the program.

use ed25519_dalek::SigningKey;
use mgmt_proto::audit::{self, Entry, Head, Log, Page};
use mgmt_proto::code::Code;
use mgmt_proto::config::{Config, GuestConfig, KeptGuest};
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::door::Door;
use mgmt_proto::envelope::Verified;
use mgmt_proto::handshake::{HELLO_BYTES, OperatorKey, PeerFault};
use mgmt_proto::job::JobFacts;
use mgmt_proto::limits::AUDIT_ENTRIES;
use mgmt_proto::node_key::KeyLink;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::server::{Identity, Incoming, Server};
use mgmt_proto::state::{Imported, KeptFacts, StateFacts};
use mgmt_proto::trust::{Operator, Role, Trust};
use mgmt_proto::verb::{
    CardCondition, CardFacts, CardUse, DiskFacts, GuestFacts, NodeFacts, Outcome, Reply, Request, State,
    Stream, Traffic,
};
use mgmt_proto::volume::BlockFacts;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::jobs;
use crate::streams::Streams;

#[derive(Default)]
pub(crate) struct World {
    pub(crate) blobs: BTreeMap<[u8; 32], Vec<u8>>,
    pub(crate) uploads: usize,
    pub(crate) guests: Vec<GuestFacts>,
    pub(crate) typed: Vec<u8>,
    pub(crate) log: Vec<Entry>,
    /// The log of what failed.
    pub(crate) refused: Vec<Entry>,
    /// How long each answer takes.
    pub(crate) pause: Duration,
    /// Looks at the node's facts so far; each takes a second of its uptime.
    pub(crate) looks: u64,
    /// What was set for the last guest.
    pub(crate) settings: GuestSettings,
    /// Everything asked about volumes and disks.
    pub(crate) asked: Vec<Request>,
    /// Whom it listens to, if it was told.
    pub(crate) trust: Option<Trust>,
    /// Disks that were attached.
    pub(crate) blocks: Vec<BlockFacts>,
    /// What it keeps.
    pub(crate) kept: StateFacts,
    /// The keys it had, from the first on; the usual one without any.
    pub(crate) node_keys: Vec<SigningKey>,
    /// Its jobs, with how they ended.
    pub(crate) jobs: Vec<(JobFacts, Outcome)>,
    /// Sessions break instead of the next answers about jobs: so many.
    pub(crate) breaks: usize,
    /// How long jobs take longer.
    pub(crate) job_pause: Duration,
    /// dom0 is restarted whenever a session breaks.
    pub(crate) restarts: bool,
    /// Sessions end that ask for what came after the first release.
    pub(crate) is_old: bool,
    /// Its streams.
    pub(crate) streams: Streams,
    /// Another session sends the file, for so many questions.
    pub(crate) busy: usize,
    /// Counts the times that dom0 was started.
    pub(crate) boot: u8,
    upload: Option<([u8; 32], u64, Vec<u8>)>,
}

const fn card() -> CardFacts {
    CardFacts {
        mac: Some([2, 0, 0, 0, 0, 1]),
        usage: CardUse::First,
        condition: CardCondition::Up,
        mtu: 1500,
        aoe: true,
        address: Some(([10, 0, 0, 2], 24)),
        gateway: None,
        frames: [7, 8],
        bytes: [700, 800],
    }
}

impl World {
    fn not_found(name: &str) -> Refusal {
        Refusal::said(Code::NotFound, name, "no guest has that name", "see `redoubt list`")
    }

    fn facts(&mut self) -> NodeFacts {
        self.looks += 1;
        let guests = u32::try_from(self.guests.len()).unwrap();
        for guest in &mut self.guests {
            // In each second: a quarter of a CPU, ten exits, three frames, a read.
            guest.cpu_time_ns += 250_000_000;
            guest.exits += 10;
            guest.frames = [guest.frames[0] + 1, guest.frames[1] + 2];
            for disk in &mut guest.disks {
                disk.operations[0] += 1;
                disk.bytes[0] += 4096;
            }
        }
        let uptime_ns = self.looks * 1_000_000_000;
        NodeFacts {
            version: "0.1.0".into(),
            cpus: 2,
            memory_bytes: 1 << 30,
            memory_free_bytes: 1 << 29,
            uptime_ns,
            guests,
            ..NodeFacts::default()
        }
    }

    pub(crate) fn guest(&mut self, name: &str) -> Result<&mut GuestFacts, Refusal> {
        let found = self.guests.iter_mut().find(|guest| guest.machine.name == name);
        found.ok_or_else(|| Self::not_found(name))
    }

    fn obey(&mut self, verified: Verified<Request>) -> Outcome {
        let verb = verified.get().verb();
        let object = verified.get().object().to_string();
        let (operator, proof) = (*verified.operator(), *verified.proof());
        let request = verified.into_inner();
        let is_job = request.is_job();
        let outcome = self.execute(request);
        if is_job {
            self.note_job(&operator, &proof, (verb.name, object.clone()), &outcome);
        }
        if verb.is_recorded() {
            let (log, result) = match &outcome {
                Ok(_) => (&mut self.log, audit::Result::Done),
                Err(failure) => (&mut self.refused, audit::Result::Failed(failure.code())),
            };
            let mut entry = Entry::new(&proof, &operator, verb.name, &object, result);
            entry.sequence = log.len() as u64;
            entry.at_ns = (entry.sequence + 1) * 1_500_000_000;
            entry.previous = log.last().map_or([0; 32], Entry::digest);
            log.push(entry);
        }
        outcome
    }

    fn page(&self, which: Log, from: u64) -> Page {
        let log = if which == Log::Effects { &self.log } else { &self.refused };
        let rest = log.iter().filter(|entry| entry.sequence >= from);
        let entries = rest.take(AUDIT_ENTRIES).cloned().collect();
        let digest = log.last().map_or([0; 32], Entry::digest);
        let key = self.node_keys.last().cloned().unwrap_or_else(identity);
        let head = Head::sign(&key, which, log.len() as u64, digest);
        Page { entries, oldest: 0, head }
    }

    fn execute(&mut self, request: Request) -> Outcome {
        match request {
            Request::NodeInfo => Ok(Reply::Node(Box::new(self.facts()))),
            Request::NodeCards => Ok(Reply::NodeCards(vec![card()])),
            Request::TrustShow | Request::TrustUpdate { .. } => self.execute_on_trust(request),
            Request::AuditRead { log, from } => Ok(Reply::Audit(self.page(log, from))),
            Request::NodeLog { .. } | Request::Capture { .. } => self.execute_on_streams(&request),
            Request::BlobMissing(_) | Request::BlobPut { .. } => self.execute_on_blobs(request),
            Request::Check { machine, .. } => {
                match (self.blobs.contains_key(&machine.kernel), self.guest(&machine.name)) {
                    (_, Ok(_)) => {
                        Err(Refusal::said(Code::Conflict, &machine.name, "the name is in use", "rename"))
                    }
                    (false, _) => Err(Refusal::said(Code::NotFound, &machine.name, "no kernel", "")),
                    _ => Ok(Reply::Done),
                }
            }
            Request::Create { machine, settings, paused, autostart } => {
                if !self.blobs.contains_key(&machine.kernel) {
                    return Err(Refusal::said(Code::NotFound, &machine.name, "no kernel", ""));
                }
                if self.guest(&machine.name).is_ok() {
                    return Err(Refusal::said(Code::Conflict, &machine.name, "the name is in use", "rename"));
                }
                self.settings = settings;
                let name = machine.name.clone();
                let id = u32::try_from(self.guests.len()).unwrap() + 1;
                let disk = |disk: &mgmt_proto::machine::Disk| DiskFacts {
                    volume: disk.volume.clone(),
                    sectors: 2048,
                    state: "ready".into(),
                    stalled_since_ns: None,
                    operations: [0; 3],
                    bytes: [0; 2],
                    retries: 0,
                };
                let disks = machine.disks.iter().map(disk).collect();
                self.guests.push(GuestFacts {
                    id,
                    machine,
                    state: if paused { State::Paused } else { State::Running },
                    cpu_time_ns: 0,
                    populated_bytes: 0,
                    created_ns: 0,
                    first_run_ns: 0,
                    exits: 0,
                    frames: [0; 2],
                    drops: Vec::new(),
                    disks,
                });
                if autostart.is_some() {
                    self.execute_on_state(Request::Autostart { name, order: autostart })?;
                }
                Ok(Reply::Created(id))
            }
            other => self.execute_on_guest(other),
        }
    }

    fn execute_on_blobs(&mut self, request: Request) -> Outcome {
        match request {
            Request::BlobMissing(digests) => Ok(Reply::Missing(
                digests.into_iter().filter(|digest| !self.blobs.contains_key(digest)).collect(),
            )),
            Request::BlobPut { length: 7, .. } => {
                Err(Refusal::said(Code::Capacity, "", "no room", "destroy a guest"))
            }
            Request::BlobPut { resume: true, .. } if self.busy > 0 => {
                self.busy -= 1;
                Err(Refusal::said(Code::Conflict, "", "another session sends this file", "wait"))
            }
            Request::BlobPut { digest, length, .. } => {
                self.upload = Some((digest, length, Vec::new()));
                Ok(Reply::BlobHeld(0))
            }
            other => panic!("{other:?}"),
        }
    }

    fn execute_on_trust(&mut self, request: Request) -> Outcome {
        let trust = self.trust.as_mut().unwrap();
        if let Request::TrustUpdate { signed } = request {
            let refused = |refused| Refusal::said(Code::Refused, "node", format!("{refused}"), "");
            trust.update(&signed).map_err(refused)?;
            return Ok(Reply::Done);
        }
        Ok(Reply::Trust(trust.bundle().clone()))
    }

    fn execute_on_guest(&mut self, request: Request) -> Outcome {
        match request {
            Request::List => Ok(Reply::Guests(self.guests.clone())),
            // Frames of a KiB each.
            Request::Traffic => {
                let of =
                    |guest: &GuestFacts| Traffic { id: guest.id, bytes: guest.frames.map(|it| it << 10) };
                Ok(Reply::Traffic(self.guests.iter().map(of).collect()))
            }
            Request::Info { name } => Ok(Reply::Guests(vec![self.guest(&name)?.clone()])),
            Request::Revision { of, expected } => match expected {
                Some(expected) if expected != 7 => Err(Refusal::said(
                    Code::Conflict,
                    of.unwrap_or_default(),
                    "was changed meanwhile",
                    "look at it again",
                )),
                _ => Ok(Reply::Revision(7)),
            },
            Request::GuestShow { name } => {
                let machine = self.guest(&name)?.machine.clone();
                Ok(Reply::Guest(Box::new(GuestConfig::new(None, &machine, &self.settings))))
            }
            Request::ConsoleRead { .. } => self.execute_on_streams(&request),
            Request::ConsoleWrite { name, bytes } => {
                self.guest(&name)?;
                self.typed.extend(bytes);
                Ok(Reply::Done)
            }
            // A guest whose name is the kind of failure it answers with.
            Request::Reboot { name } | Request::Unpause { name } if name.starts_with("code-") => {
                let number = name.trim_start_matches("code-").parse().unwrap();
                Err(Refusal::said(redoubt::exit::from_number(number).unwrap(), name, "as asked for", ""))
            }
            Request::Unpause { name } => {
                self.guest(&name)?.state = State::Running;
                Ok(Reply::Done)
            }
            Request::Rename { name, to } => {
                self.guest(&name)?.machine.name = to;
                Ok(Reply::Done)
            }
            Request::Shutdown { name } => {
                self.guest(&name)?.state = State::Off;
                Ok(Reply::Done)
            }
            Request::Destroy { name } => {
                self.guest(&name)?;
                self.guests.retain(|guest| guest.machine.name != name);
                Ok(Reply::Done)
            }
            Request::Progress { .. } => Ok(Reply::Done),
            Request::NodeKeys | Request::NodeKeyRotate => self.execute_on_key(&request),
            Request::StateShow
            | Request::Start { .. }
            | Request::Autostart { .. }
            | Request::ConfigExport { .. }
            | Request::ConfigImport { .. } => self.execute_on_state(request),
            Request::JobList | Request::JobWait { .. } | Request::JobCancel { .. } => {
                self.execute_on_jobs(&request)
            }
            other => self.execute_on_disks(other),
        }
    }

    fn execute_on_key(&mut self, request: &Request) -> Outcome {
        if *request == Request::NodeKeyRotate {
            if self.node_keys.is_empty() {
                self.node_keys.push(identity());
            }
            let next = 0x70 + u8::try_from(self.node_keys.len()).unwrap();
            self.node_keys.push(SigningKey::from_bytes(&[next; 32]));
            return Ok(Reply::Done);
        }
        let link = |pair: &[SigningKey]| KeyLink::sign(&pair[0], pair[1].verifying_key().to_bytes());
        Ok(Reply::NodeKeys(self.node_keys.windows(2).map(link).collect()))
    }

    fn config(&self) -> Config {
        let kept = self
            .guests
            .iter()
            .map(|guest| KeptGuest::without_secrets(1, &guest.machine, &GuestSettings::default()));
        Config {
            version: mgmt_proto::config::VERSION,
            node: "fake".into(),
            settings: Vec::new(),
            trust: Vec::new(),
            guests: kept.collect(),
        }
    }

    fn execute_on_state(&mut self, request: Request) -> Outcome {
        match request {
            Request::Autostart { name, order } => {
                let kernel = self.guest(&name)?.machine.kernel;
                self.kept.guests.retain(|kept| kept.name != name);
                let kept = |order| KeptFacts { name, order, kernel, ramdisk: None, problem: None };
                self.kept.guests.extend(order.map(kept));
                Ok(Reply::Done)
            }
            Request::Start { name } => {
                if let Ok(guest) = self.guest(&name) {
                    let (id, ended) = (guest.id, guest.state == State::Off);
                    guest.state = State::Running;
                    let there = Refusal::said(Code::Conflict, name, "is there already", "");
                    return if ended { Ok(Reply::Created(id)) } else { Err(there) };
                }
                match self.kept.guests.iter().any(|kept| kept.name == name) {
                    true => Ok(Reply::Created(9)),
                    false => Err(Refusal::said(Code::NotFound, name, "no guest has that name", "create it")),
                }
            }
            Request::ConfigExport { from } => {
                let file = self.config().sign(&identity()).unwrap();
                let rest = file.get(usize::try_from(from).unwrap()..).unwrap_or_default();
                let bytes = rest[..rest.len().min(100)].to_vec();
                let next = from + bytes.len() as u64;
                Ok(Reply::Stream(Stream { bytes, next }))
            }
            Request::ConfigImport { digest } => {
                let (config, _) = Config::open(&self.blobs[&digest]).unwrap();
                let lacks = |guest: KeptGuest| (guest.machine.name, Some(Reason::FilesMissing));
                let guests = config.guests.into_iter().map(lacks).collect();
                Ok(Reply::Imported(Imported { guests, trust_serial: 3, trust_changed: true }))
            }
            _ => Ok(Reply::State(self.kept.clone())),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Option<Outcome> {
        let (_, length, received) = self.upload.as_mut()?;
        received.extend_from_slice(bytes);
        if (received.len() as u64) < *length {
            return None;
        }
        let (digest, _, received) = self.upload.take()?;
        let found: [u8; 32] = Sha256::digest(&received).into();
        if found != digest {
            return Some(Err(Refusal::said(Code::Integrity, "", "not what its digest says", "")));
        }
        self.uploads += 1;
        self.blobs.insert(digest, received);
        Some(Ok(Reply::Done))
    }
}

pub(crate) struct FakeNode {
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<World>>,
    pub(crate) identity: SigningKey,
}

/// The door of a node, and since when it is there.
pub(crate) struct FakeDoor(Mutex<Door>, Instant);

impl FakeDoor {
    pub(crate) fn new() -> Self {
        Self(Mutex::default(), Instant::now())
    }

    fn now_ns(&self) -> u64 {
        self.1.elapsed().as_nanos().try_into().unwrap()
    }

    /// The four steps up to the node's proof.
    fn knock(&self, stream: &mut TcpStream, identity: &Identity, trust: &Trust) -> Option<Server> {
        let mut random = || *keys::random::bytes().unwrap();
        let challenge = random();
        let greeting = self.0.lock().unwrap().greeting(&challenge, &mut random, self.now_ns());
        stream.write_all(&greeting).ok()?;
        let mut hello = [0; HELLO_BYTES];
        stream.read_exact(&mut hello).ok()?;
        loop {
            let node = (identity, trust);
            let now_ns = self.now_ns();
            match self.0.lock().unwrap().knock(&challenge, &hello, node, now_ns) {
                Err(PeerFault::Busy) => {}
                result => return result.ok()?.answer(identity, random(), now_ns).ok(),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn serve(
    mut stream: TcpStream,
    state: &Mutex<World>,
    identity: &Identity,
    trust: &Trust,
    door: &FakeDoor,
) {
    let Some(mut server) = door.knock(&mut stream, identity, trust) else { return };
    let mut is_told = false;
    let mut buffer = [0; 8192];
    if stream.write_all(server.transmit()).is_err() {
        return;
    }
    server.sent(server.transmit().len());
    loop {
        let room = server.room().min(buffer.len());
        let Ok(count) = stream.read(&mut buffer[..room]) else { return };
        if count == 0 || server.receive(&buffer[..count]).is_err() {
            return;
        }
        loop {
            let outcome = match server.next(trust, 0) {
                Ok(Some(Incoming::Command(verified, _))) => {
                    let is_new = matches!(verified.get(), Request::Progress { .. });
                    let ends = matches!(verified.get(), Request::NodeStop { .. });
                    if ends || is_new && state.lock().unwrap().is_old {
                        return;
                    }
                    let pause = state.lock().unwrap().pause;
                    std::thread::sleep(pause);
                    let request = verified.get().clone();
                    let outcome = state.lock().unwrap().obey(*verified);
                    if request.is_job() {
                        let pause = state.lock().unwrap().job_pause;
                        std::thread::sleep(pause);
                    }
                    let breaks = jobs::breaks(&mut state.lock().unwrap(), &request);
                    if breaks || state.lock().unwrap().stream_breaks(&request) {
                        return;
                    }
                    if jobs::tell(&mut server, &request, is_told) {
                        // It is seen for a while.
                        let bytes = server.transmit().to_vec();
                        stream.write_all(&bytes).unwrap();
                        server.sent(bytes.len());
                        std::thread::sleep(pause);
                    }
                    is_told |= matches!(request, Request::Progress { every_ms: 1.. });
                    Some(outcome)
                }
                Ok(Some(Incoming::Data(bytes))) => state.lock().unwrap().data(&bytes),
                Ok(None) => break,
                Err(_) => return,
            };
            if let Some(outcome) = outcome {
                server.send(&outcome).unwrap();
            }
        }
        let bytes = server.transmit().to_vec();
        if stream.write_all(&bytes).is_err() {
            return;
        }
        server.sent(bytes.len());
    }
}

impl FakeNode {
    pub(crate) fn start(operator: &SigningKey) -> Self {
        Self::trusting(operator.public())
    }

    pub(crate) fn trusting(operator: [u8; 32]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(World::default()));
        let identity = identity();
        let operators = vec![Operator { key: operator, role: Role::Admin }];
        let (shared, key, door) = (Arc::clone(&state), identity.clone(), Arc::new(FakeDoor::new()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, key, operators) = (Arc::clone(&shared), key.clone(), operators.clone());
                let door = Arc::clone(&door);
                std::thread::spawn(move || {
                    let keys = shared.lock().unwrap().node_keys.clone();
                    let key = keys.last().cloned().unwrap_or(key);
                    let former = keys.iter().rev().skip(1).map(OperatorKey::public).collect();
                    let boot_nonce = [5 + shared.lock().unwrap().boot; 32];
                    let name = "fake".to_string();
                    let identity = Identity { key, boot_nonce, name, manifest: [6; 32], former };
                    let trust = Trust::sealed([1; 32], &operators, "fake");
                    serve(stream.unwrap(), &shared, &identity, &trust, &door);
                });
            }
        });
        Self { address, state, identity }
    }
}

pub(crate) fn operator() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) struct Workstation {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) node: String,
}

impl Workstation {
    pub(crate) fn new(node: &FakeNode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redoubt");
        std::fs::create_dir(&path).unwrap();
        keys::secret::save(&path.join("operator.key"), &operator(), keys::Existing::Keep).unwrap();
        Self { directory, node: node.address.clone() }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redoubt"));
        command.args(arguments).env_clear().env("XDG_CONFIG_HOME", self.directory.path());
        command.env("REDOUBT_NODE", &self.node).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs, expects this exit code, returns stdout and stderr.
    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, error) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
        (out, error)
    }
}

pub(crate) fn as_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The nodes' key.
pub(crate) fn identity() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// A node with a guest "web", and the workstation with its file; `more` goes to its end.
pub(crate) fn with_guest(more: &str) -> (FakeNode, Workstation) {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let text = format!("name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n{more}");
    let file = workstation.file("web.vm", &text);
    workstation.expect(0, &["create", as_text(&file)]);
    (node, workstation)
}
