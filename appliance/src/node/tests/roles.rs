//! Every request by every role, in and out of its time and of its group.
//!
//! The table is written by hand: what each request needs is decided here a second
//! time, and a request that is not in it fails the test.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::bundle::{Bundle, Grant, Scope};
use mgmt_proto::code::Code;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::Request;

use super::trust::{bundle, grant, rooted, update};
use super::world::*;

/// Literal bytes of every request there is, as the protocol's own test keeps them.
const REQUESTS: &str = include_str!("../../../../mgmt-proto/src/vectors/requests.txt");

/// Name, least role, whether it touches the guest it names.
const TABLE: &[(&str, Role, bool)] = &[
    ("NodeInfo", Role::Viewer, false),
    ("NodeLog", Role::Viewer, false),
    ("NodeCards", Role::Viewer, false),
    ("NodeStop", Role::Admin, false),
    ("InjectFault", Role::Admin, false),
    ("NodeKeys", Role::Viewer, false),
    ("NodeKeyRotate", Role::Admin, false),
    ("TrustShow", Role::Viewer, false),
    ("TrustUpdate", Role::Admin, false),
    ("Lockdown", Role::Admin, false),
    ("AuditRead", Role::Viewer, false),
    ("Revision", Role::Viewer, true),
    ("StateShow", Role::Viewer, false),
    ("ConfigExport", Role::Admin, false),
    ("ConfigImport", Role::Admin, false),
    ("JobList", Role::Viewer, false),
    ("JobWait", Role::Viewer, false),
    ("JobCancel", Role::Operator, false),
    ("Progress", Role::Viewer, false),
    ("StorageDiscover", Role::Operator, false),
    ("StorageShow", Role::Viewer, false),
    ("StorageProbe", Role::Operator, false),
    ("StorageReserve", Role::Operator, false),
    ("StorageRelease", Role::Operator, false),
    ("StoragePath", Role::Operator, false),
    ("BlobMissing", Role::Viewer, false),
    ("BlobPut", Role::Operator, false),
    ("List", Role::Viewer, false),
    ("Info", Role::Viewer, true),
    ("GuestShow", Role::Viewer, true),
    ("Traffic", Role::Viewer, false),
    ("Check", Role::Viewer, true),
    ("Create", Role::Operator, true),
    ("Start", Role::Operator, true),
    ("Autostart", Role::Operator, true),
    ("Pause", Role::Operator, true),
    ("Unpause", Role::Operator, true),
    ("Shutdown", Role::Operator, true),
    ("Reboot", Role::Operator, true),
    ("Destroy", Role::Operator, true),
    ("Rename", Role::Operator, true),
    ("Limit", Role::Operator, true),
    ("BlockList", Role::Viewer, true),
    ("BlockAttach", Role::Operator, true),
    ("BlockDetach", Role::Operator, true),
    ("ConsoleRead", Role::Operator, true),
    ("ConsoleWrite", Role::Operator, true),
    ("Capture", Role::Operator, true),
];

/// When the bundles were issued, which the node's clock is never behind.
const ISSUED_S: u64 = 1_000_000;

/// What is wrong with a key, its grant, and who is revoked.
type Case = (&'static str, Option<Grant>, Vec<[u8; 32]>);

/// A node that listens to an admin, and a bundle in which `granted` comes next.
struct Trial {
    world: World,
    admin: usize,
    serial: u64,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut world = rooted(seed);
        let admin = world.connect(Who::Admin);
        Self { world, admin, serial: 0 }
    }

    /// From now on this holds, beside the admin.
    fn grant(&mut self, granted: Option<Grant>, revoked: Vec<[u8; 32]>) {
        self.serial += 1;
        let grants = core::iter::once(grant(Who::Admin, Role::Admin)).chain(granted).collect();
        let next = Bundle { issued_s: ISSUED_S, revoked, ..bundle(self.serial, grants) };
        self.world.done(self.admin, &update(&next, &[1]));
    }

    fn hang_up(&mut self, session: usize) {
        let connection = self.world.sessions[session].connection;
        self.world.operator.abort(connection, self.world.now_ns);
        self.world.run(1_000_000);
    }

    /// Whether the node refuses for lack of rights, in a session of its own.
    fn is_forbidden(&mut self, request: &Request) -> Option<String> {
        let session = self.world.connect(Who::Operator);
        let outcome = self.world.ask(session, request);
        self.hang_up(session);
        outcome.err().filter(|failure| failure.code == Code::Refused).map(|failure| failure.message).filter(
            |message| message.starts_with("needs the role") || message.contains("may not touch this guest"),
        )
    }
}

/// All requests with what they need; those that take from another node need more.
pub(super) fn requests() -> Vec<(Request, Role, bool)> {
    let lines: Vec<(&str, &str)> = REQUESTS.lines().filter_map(|line| line.split_once(' ')).collect();
    let named: Vec<&str> = TABLE.iter().map(|(name, ..)| *name).collect();
    let there: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    assert_eq!(there, named, "a request is missing in the table of roles, or is in another place");
    let mut all = Vec::new();
    for ((_, text), (name, role, touches)) in lines.iter().zip(TABLE) {
        let bytes: Vec<u8> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let request: Request = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(request.guest().is_some(), *touches, "{name}");
        all.push((request, *role, *touches));
    }
    let volume = || "aoe:e7.1".to_string();
    all.push((
        Request::StorageReserve { volume: volume(), settings: Vec::new(), force: true },
        Role::Admin,
        false,
    ));
    all.push((
        Request::StorageRelease { volume: volume(), settings: Vec::new(), force: true },
        Role::Admin,
        false,
    ));
    all
}

#[test]
fn each_role_may_do_what_the_table_says_and_nothing_else() {
    for (index, role) in [Role::Viewer, Role::Operator, Role::Admin].into_iter().enumerate() {
        for elsewhere in [false, true] {
            let mut trial = Trial::new(900 + index as u64);
            let mut granted = grant(Who::Operator, role);
            if elsewhere {
                granted.guests = Scope::Named(vec!["other-*".to_string()]);
            }
            trial.grant(Some(granted), Vec::new());
            for (request, least, touches) in requests() {
                // It would be carried out, and nothing would be after it.
                if matches!(request, Request::NodeStop { .. } | Request::Lockdown) && role >= least {
                    continue;
                }
                let forbidden = trial.is_forbidden(&request);
                let expected = role < least || (touches && elsewhere);
                assert_eq!(
                    forbidden.is_some(),
                    expected,
                    "{role:?}, guests of others {elsewhere}: {request:?}: {forbidden:?}"
                );
            }
        }
    }
}

#[test]
fn who_is_not_trusted_now_and_here_may_do_nothing_at_all() {
    let admin = || grant(Who::Operator, Role::Admin);
    let revoked = vec![Who::Operator.key().verifying_key().to_bytes()];
    let cases: [Case; 5] = [
        ("expired", Some(Grant { not_after_s: ISSUED_S - 1, ..admin() }), Vec::new()),
        ("not yet valid", Some(Grant { not_before_s: u64::MAX / 4, ..admin() }), Vec::new()),
        ("revoked", Some(admin()), revoked),
        (
            "of another node",
            Some(Grant { nodes: Scope::Named(vec!["other".to_string()]), ..admin() }),
            Vec::new(),
        ),
        ("unknown", None, Vec::new()),
    ];
    for (seed, (what, granted, revoked)) in cases.into_iter().enumerate() {
        let mut trial = Trial::new(910 + seed as u64);
        for (request, ..) in requests() {
            // In a session from when it was trusted.
            trial.grant(Some(admin()), Vec::new());
            let session = trial.world.connect(Who::Operator);
            trial.grant(granted.clone(), revoked.clone());
            trial.world.send(session, &request);
            trial.world.run(50_000_000);
            assert!(trial.world.is_dead(session), "{what}: {request:?}");
            assert!(trial.world.sessions[session].outcomes.is_empty(), "{what}: {request:?} was answered");
        }
        // And in one of its own.
        let session = trial.world.dial(Who::Operator);
        trial.world.run(1_000_000_000);
        assert!(trial.world.is_dead(session), "{what}");
        assert!(trial.world.hypervisor.machine().resets.is_empty(), "{what}");
    }
}
