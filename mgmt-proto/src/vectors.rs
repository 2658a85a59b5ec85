//! The bytes of version 1, kept for ever.

mod cards;
mod first;
mod refusals;
mod state;

pub(crate) use refusals::failed;

use crate::audit::{Entry, Log};
use crate::bundle::{self, Bundle, Grant, Scope};
use crate::code::Code;
use crate::config::{self, Config, GuestConfig, KeptGuest};
use crate::disk::{Digests, DiskSetting, GuestSettings, Limit, Policy};
use crate::door::Door;
use crate::envelope::{Binding, seal};
use crate::handshake::{ANSWER_BYTES, Initiator, Meant, OperatorKey};
use crate::job::{JobFacts, JobPage, JobState, Progress, Unit};
use crate::machine::{Action, Disk, Machine, NetworkCard};
use crate::manifest::{self, Manifest, StorageCard};
use crate::node_key::KeyLink;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;
use crate::server::Identity;
use crate::state::{Initialise, StateVolume};
use crate::trust::{Operator, Role, Trust};
use crate::verb::{CardCondition, CardFacts, CardUse, Discover, Effect, Fault, Reply, Request, Run, Traffic};
use crate::vif::Prefix;
use crate::volume::{
    BlockFacts, Condition, PathCondition, PathFacts, Plugged, Stage, VolumeFacts, VolumePage,
};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

const REQUESTS: &str = include_str!("vectors/requests.txt");
const REPLIES: &str = include_str!("vectors/replies.txt");
const FAILURES: &str = include_str!("vectors/failures.txt");
const PROGRESS: &str = include_str!("vectors/progress.txt");
const SETTINGS: &str = include_str!("vectors/settings.txt");
const DISCOVERIES: &str = include_str!("vectors/discoveries.txt");
const HANDSHAKE: &str = include_str!("vectors/handshake.txt");
const PROTOCOL: &str = include_str!("../PROTOCOL.md");

fn machine() -> Machine {
    Machine {
        name: "web1".to_string(),
        memory_bytes: 512 << 20,
        vcpus: 2,
        cpu_weight: 256,
        cap_percent: 50,
        kernel: [1; 32],
        ramdisk: Some([2; 32]),
        command_line: "console=hvc0".to_string(),
        disks: vec![Disk { volume: "aoe:e11.1".to_string(), read_only: true }],
        network_cards: vec![NetworkCard {
            mac: [2, 0, 0, 0, 0, 1],
            addresses: vec![
                Prefix { address: [10, 0, 0, 5].into(), length: 32 },
                Prefix { address: [0xfd00, 0, 0, 0, 0, 0, 0, 0].into(), length: 64 },
            ],
            privileges: cards::privileges(),
            rate: Some(1_250_000),
        }],
        on_poweroff: Action::Destroy,
        on_reboot: Action::Restart,
        on_crash: Action::Preserve,
    }
}

/// One of each, in the order of the wire.
pub(crate) fn requests() -> Vec<Request> {
    let name = || "web1".to_string();
    vec![
        Request::NodeInfo,
        Request::NodeLog { run: Run::Previous, from: 300 },
        Request::NodeCards,
        Request::NodeStop { power_off: true },
        Request::InjectFault(Fault::Hang),
        Request::NodeKeys,
        Request::NodeKeyRotate,
        Request::TrustShow,
        Request::TrustUpdate { signed: vec![1, 2, 3] },
        Request::Lockdown,
        Request::AuditRead { log: Log::Refusals, from: 7 },
        Request::Revision { of: Some(name()), expected: Some(300) },
        Request::StateShow,
        Request::ConfigExport { from: 300 },
        Request::ConfigImport { digest: [5; 32] },
        Request::JobList,
        Request::JobWait { id: 300, every_ms: 200 },
        Request::JobCancel { id: 7 },
        Request::Progress { every_ms: 200 },
        Request::StorageDiscover(Discover::Aoe),
        Request::StorageShow { volume: Some(volume()), from: 300 },
        Request::StorageProbe { volume: volume(), settings: disk_settings() },
        Request::StorageReserve { volume: volume(), settings: Vec::new(), force: false },
        Request::StorageRelease { volume: volume(), settings: Vec::new(), force: false },
        Request::StoragePath { volume: volume(), path: 1, enabled: true },
        Request::BlobMissing(vec![[3; 32]]),
        Request::BlobPut { digest: [4; 32], length: 70_000, resume: true },
        Request::List,
        Request::Info { name: name() },
        Request::GuestShow { name: name() },
        Request::Traffic,
        Request::Check { machine: machine(), settings: guest_settings() },
        Request::Create { machine: machine(), settings: guest_settings(), paused: true, autostart: Some(2) },
        Request::Start { name: name() },
        Request::Autostart { name: name(), order: Some(300) },
        Request::Pause { name: name() },
        Request::Unpause { name: name() },
        Request::Shutdown { name: name() },
        Request::Reboot { name: name() },
        Request::Destroy { name: name() },
        Request::Rename { name: name(), to: "db".to_string() },
        Request::Limit { name: name(), slot: Some(1), limits: limits() },
        Request::BlockList { name: name() },
        Request::BlockAttach { name: name(), disk: disk(), settings: vec![DiskSetting::Reserve] },
        Request::BlockDetach { name: name(), slot: 9, force: true },
        Request::ConsoleRead { name: name(), from: 1 },
        Request::ConsoleWrite { name: name(), bytes: b"sesame\r".to_vec() },
        Request::Capture { name: name(), from: 300, snap_bytes: 128 },
    ]
}

fn volume() -> String {
    "aoe:e11.1".to_string()
}

fn disk() -> Disk {
    Disk { volume: volume(), read_only: true }
}

fn limits() -> Vec<Limit> {
    vec![Limit::BytesPerSecond(300), Limit::OperationsPerSecond(2), Limit::BurstMs(1_000)]
}

/// The ways to discover, in the order of the wire.
pub(crate) fn discoveries() -> Vec<Discover> {
    let settings = disk_settings().into_iter().skip(8).collect();
    vec![Discover::Aoe, Discover::Iscsi { portal: "bob@10.0.0.9".to_string(), settings }]
}

/// One of each, in the order of the wire.
fn disk_settings() -> Vec<DiskSetting> {
    vec![
        DiskSetting::Policy(Policy::RoundRobin),
        DiskSetting::Portal([10, 0, 0, 3], 3260),
        DiskSetting::Station([2, 0, 0, 0, 0, 1]),
        DiskSetting::Digests(Digests::Required),
        DiskSetting::DeadlineMs(30_000),
        DiskSetting::Limit(Limit::BytesPerSecond(300)),
        DiskSetting::Reserve,
        DiskSetting::Preempt(0x0102_0304_0506_0708),
        DiskSetting::Secret(Secret::new(b"open sesame".to_vec())),
        DiskSetting::TargetSecret(Some("disks".to_string()), Secret::new(b"be welcome".to_vec())),
        DiskSetting::AllowMd5,
    ]
}

fn guest_settings() -> GuestSettings {
    GuestSettings { limits: limits(), disks: vec![disk_settings()] }
}

fn named<T: Clone>(value: T) -> Vec<(String, T)> {
    vec![("k".to_string(), value)]
}

/// The replies that came after those of the first release.
fn replies() -> Vec<Reply> {
    let path = PathFacts {
        name: "p".to_string(),
        condition: PathCondition::Disabled,
        stage: Stage::Ready,
        lost_since_ns: Some(1),
        rtt_ns: Some(2),
        latency: vec![0, 3],
        counters: named(4),
        last_error: Some("e".to_string()),
        negotiated: named("v".to_string()),
    };
    let facts = VolumeFacts {
        guest: "web1".to_string(),
        slot: 3,
        volume: volume(),
        read_only: true,
        condition: Condition::Refused,
        stage: Stage::LoggedIn,
        stalled_since_ns: Some(1),
        retry: 2,
        sectors: Some(300),
        pending: 4,
        rtt_ns: Some(5),
        latency: vec![6],
        counters: named(7),
        last_error: Some("e".to_string()),
        negotiated: named("v".to_string()),
        settings: named("w".to_string()),
        paths: vec![path],
    };
    let block = BlockFacts {
        slot: 3,
        volume: volume(),
        read_only: false,
        condition: Condition::Stalled,
        stalled_since_ns: None,
        sectors: 300,
        plugged: Plugged::Leaving,
        from_start: true,
    };
    vec![
        Reply::Volumes(VolumePage { now_ns: 9, volumes: vec![facts], next: Some(1) }),
        Reply::Attached(9),
        Reply::Disks(vec![block]),
        Reply::Trust(Bundle {
            version: bundle::VERSION,
            serial: 300,
            issued_s: 2,
            roots: vec![[0xaa; 32]],
            threshold: 1,
            grants: vec![Grant {
                key: [0xbb; 32],
                role: Role::Operator,
                nodes: Scope::Named(vec!["rack1*".to_string()]),
                guests: Scope::All,
                not_before_s: 3,
                not_after_s: 4,
                name: "ann".to_string(),
            }],
            revoked: vec![[0xcc; 32]],
            card_grants: vec![cards::grant()],
        }),
    ]
}

/// The replies about long work, the node's keys, traffic and uploads.
fn job_replies() -> Vec<Reply> {
    let job = JobFacts {
        id: 300,
        operator: [0xaa; 32],
        session: [0xbb; 32],
        counter: 2,
        verb: "create".to_string(),
        object: "web1".to_string(),
        state: JobState::Cancelled,
        progress: Progress { done: 3, total: 300, unit: Unit::Milliseconds },
        began_ns: 4,
        ended_ns: Some(5),
        failure: Some(Refusal::of("web1", Reason::Changed { now: 300, expected: 2 })),
    };
    let link = KeyLink { from: [1; 32], to: [2; 32], signature_r: [3; 32], signature_s: [4; 32] };
    let traffic = Traffic { id: 300, bytes: [5, 300] };
    vec![
        Reply::Jobs(JobPage { now_ns: 6, jobs: vec![job] }),
        Reply::NodeKeys(vec![link]),
        Reply::Traffic(vec![traffic]),
        Reply::BlobHeld(300),
        Reply::NodeCards(cards()),
        Reply::Guest(Box::new(GuestConfig::new(Some(300), &machine(), &guest_settings()))),
        Reply::Revision(300),
    ]
}

/// A card in use, and one that is missing.
fn cards() -> Vec<CardFacts> {
    let first = CardFacts {
        mac: Some([2, 0, 0, 0, 0, 1]),
        usage: CardUse::First,
        condition: CardCondition::Up,
        mtu: 9000,
        aoe: false,
        address: Some(([10, 0, 0, 1], 24)),
        gateway: Some([10, 0, 0, 9]),
        frames: [3, 300],
        bytes: [4, 70_000],
    };
    let missing = CardFacts {
        mac: None,
        usage: CardUse::Storage,
        condition: CardCondition::Missing,
        mtu: 1500,
        aoe: true,
        address: None,
        gateway: None,
        frames: [0; 2],
        bytes: [0; 2],
    };
    vec![first, missing]
}

/// All replies that have vectors.
pub(crate) fn all_replies() -> Vec<Reply> {
    first::replies().into_iter().chain(replies()).chain(state::replies()).chain(job_replies()).collect()
}

/// A bundle whose one root is this key.
pub(crate) fn bundle(root: &SigningKey) -> Bundle {
    let public = root.public();
    let Some(Reply::Trust(bundle)) = replies().pop() else { panic!("the last one is of trust") };
    let grants = bundle.grants.into_iter().map(|grant| Grant { key: public, ..grant }).collect();
    Bundle { roots: vec![public], revoked: Vec::new(), grants, ..bundle }
}

/// Settings as an owner seals them.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        version: manifest::VERSION,
        owner: [1; 32],
        operators: vec![Operator { key: [2; 32], role: Role::Admin }],
        name: "node".to_string(),
        addressing: manifest::Addressing::Static {
            address: [10, 0, 0, 1],
            prefix: 24,
            gateway: Some([10, 0, 0, 9]),
        },
        mtu: 9000,
        storage_cards: vec![
            StorageCard { mac: Some([2, 0, 0, 0, 0, 7]), addressing: None, mtu: 9000 },
            StorageCard { mac: None, addressing: Some(manifest::Addressing::Dhcp), mtu: 1500 },
        ],
        aoe: manifest::AoeCards::Storage,
        port: 7411,
        fault_injection: false,
        dom0_cpu: manifest::Dom0Cpu::Auto,
        state: Some(StateVolume {
            volume: volume(),
            settings: vec![DiskSetting::Reserve],
            initialise: Initialise::Never,
            wait_s: 30,
            key: Secret::new(vec![9; 32]),
        }),
        trust_serial_min: 5,
        restart_delay_s: 10,
        guest_addresses_required: true,
        card_grants: vec![cards::grant()],
        smt: false,
    }
}

/// A configuration as a node exports it.
pub(crate) fn config() -> Config {
    Config {
        version: config::VERSION,
        node: "node".to_string(),
        settings: vec![("port".to_string(), "7411".to_string())],
        trust: vec![vec![1, 2, 3]],
        guests: vec![KeptGuest::without_secrets(7, &machine(), &guest_settings())],
    }
}

/// Two entries of an audit log, a chain.
pub(crate) fn entries(operator: &SigningKey) -> Vec<Entry> {
    let binding = Binding { node: [1; 32], boot_nonce: [2; 32], session: [3; 32] };
    let mut entries: Vec<Entry> = Vec::new();
    for counter in 1..=2 {
        let sealed = seal(operator, &binding, counter, &Request::Lockdown).unwrap();
        let (proof, _) = crate::envelope::parse(&sealed).unwrap();
        let result = crate::audit::Result::Failed(Code::Policy);
        let mut entry = Entry::new(&proof, &operator.public(), "create", "web1", result);
        entry.sequence = counter - 1;
        entry.previous = entries.last().map_or([0; 32], Entry::digest);
        entries.push(entry);
    }
    entries
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}

fn variant<T: core::fmt::Debug>(value: &T) -> String {
    let text = alloc::format!("{value:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_string()
}

/// Compares with what was kept; returns how many there are.
fn as_ever<T: core::fmt::Debug + serde::Serialize>(values: &[T], kept: &str) -> usize {
    let line = |value| alloc::format!("{} {}", variant(value), hex(&postcard::to_allocvec(value).unwrap()));
    let now: Vec<String> = values.iter().map(line).collect();
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(now, kept, "now:\n{}\n", now.join("\n"));
    now.len()
}

#[test]
fn requests_replies_and_settings_are_encoded_as_ever() {
    as_ever(&requests(), REQUESTS);
    let all = all_replies();
    as_ever(&all, REPLIES);
    as_ever(&refusals::refusals(), FAILURES);
    as_ever(&[Progress { done: 300, total: 70_000, unit: Unit::Disks }], PROGRESS);
    // Each variant, so that none is added without its bytes.
    let mut numbers: Vec<u8> = all.iter().map(|reply| postcard::to_allocvec(reply).unwrap()[0]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let last = usize::from(*numbers.last().unwrap());
    assert!(numbers.len() == last + 1 && last >= 20, "{numbers:?}");
    as_ever(&disk_settings(), SETTINGS);
    as_ever(&discoveries(), DISCOVERIES);
    for reply in all {
        let bytes = postcard::to_allocvec(&reply).unwrap();
        assert_eq!(postcard::from_bytes::<Reply>(&bytes), Ok(reply));
    }
}

#[test]
fn no_request_prints_a_secret() {
    let discoveries = discoveries().into_iter().map(Request::StorageDiscover);
    for request in requests().into_iter().chain(discoveries) {
        let text = alloc::format!("{request:?}");
        assert!(!text.contains("sesame") && !text.contains("welcome"), "{text}");
        // Nor as numbers.
        assert!(!text.contains("112, 101, 110"), "{text}");
        assert!(!request.object().contains("sesame"));
    }
}

#[test]
fn the_document_names_every_setting() {
    for (number, setting) in disk_settings().iter().enumerate() {
        let row = alloc::format!("| {number} | `{}`", variant(setting));
        assert!(PROTOCOL.contains(&row), "no row {row}");
    }
}

/// The document has a row for each verb: its number, role, whether it is recorded, whether
/// it becomes a job.
#[test]
fn the_document_names_every_request() {
    let section = PROTOCOL.split("\n## ").find(|section| section.starts_with("Verbs\n")).unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with("| 0 |"));
    let rows: Vec<&str> = table.take_while(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), requests().len());
    for (row, request) in rows.iter().zip(requests()) {
        let verb = request.verb();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, number, says, role, recorded, answer, _, _] = cells[..] else { panic!("{row}") };
        let wanted = match verb.effect {
            Effect::Reads => "",
            Effect::Streams => "first",
            Effect::Prepares | Effect::Changes | Effect::Rescues => "yes",
        };
        let job = if request.is_job() { "job" } else { "" };
        let expected = (alloc::format!("{}", verb.number), alloc::format!("{:?}", verb.role).to_lowercase());
        assert_eq!((number, role), (&*expected.0, &*expected.1), "{row}");
        assert_eq!((recorded, answer), (wanted, job), "{row}");
        assert!(says.starts_with(&alloc::format!("`{}`", variant(&request))), "{row}");
    }
}

#[test]
fn the_handshake_and_a_command_are_as_ever() {
    let operator = SigningKey::from_bytes(&[7; 32]);
    let identity = Identity {
        key: SigningKey::from_bytes(&[9; 32]),
        boot_nonce: [5; 32],
        name: "node".to_string(),
        manifest: [6; 32],
        former: Vec::new(),
    };
    let trust = Trust::sealed([1; 32], &[Operator { key: operator.public(), role: Role::Admin }], "node");
    // What they are made of; the name is `node`, E, e and F are of these X25519 keys.
    let inputs = [
        ("operator-key", [7; 32]),
        ("node-key", [9; 32]),
        ("boot-nonce", [5; 32]),
        ("manifest", [6; 32]),
        ("E", [0x11; 32]),
        ("e", [0x22; 32]),
        ("F", [0x44; 32]),
    ];
    let line = |(name, bytes): (&str, [u8; 32])| alloc::format!("{name} {}", hex(&bytes));
    let mut now: Vec<String> = inputs.map(line).into();
    let known = identity.key.verifying_key().to_bytes();
    // At first contact, with the key and the name, and with the pass of the time before.
    let mut meant = Meant::default();
    for challenge in [0x33, 0x34, 0x35] {
        let mut door = Door::default();
        let greeting = door.greeting(&[challenge; 32], &mut || [0x11; 32], 0);
        let initiator = Initiator::new(&operator, &meant, &greeting, [0x22; 32]).unwrap();
        let hello = *initiator.hello();
        let proved = door.knock(&[challenge; 32], &hello, (&identity, &trust), 0).unwrap();
        let server = proved.answer(&identity, [0x44; 32], 0).unwrap();
        let answer: [u8; ANSWER_BYTES] = server.transmit().try_into().unwrap();
        let (mut keys, proved) = initiator.finish(&answer).unwrap();
        assert_eq!((proved.key, &*proved.name, proved.manifest), (known, "node", [6; 32]));
        meant = Meant { key: Some(known), pass: meant.key.and(Some(proved.pass)), name: "node".to_string() };
        let binding = Binding { node: proved.key, boot_nonce: proved.boot_nonce, session: keys.session };
        let command = seal(&operator, &binding, 1, &Request::List).unwrap();
        let record = keys.sealer.seal(&[&[1][..], &command].concat()).unwrap();
        let lines = [&greeting[..], &hello, &answer, &keys.session, &proved.pass, &command, &record];
        let names = ["greeting", "hello", "answer", "session", "pass", "command", "record"];
        now.extend(names.iter().zip(lines).map(|(name, bytes)| alloc::format!("{name} {}", hex(bytes))));
    }
    let kept: Vec<&str> = HANDSHAKE.lines().collect();
    assert_eq!(now, *kept, "{}", now.join("\n"));
}
