//! The bytes of version 1, kept for ever.

use crate::envelope::{Binding, seal};
use crate::handshake::{Initiator, OperatorKey, answer, verify_hello};
use crate::machine::{Action, Disk, Machine, NetworkCard};
use crate::trust::required;
use crate::verb::{Discover, Fault, Request};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

const REQUESTS: &str = include_str!("vectors/requests.txt");
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
        network_cards: vec![NetworkCard { mac: [2, 0, 0, 0, 0, 1] }],
        on_poweroff: Action::Destroy,
        on_reboot: Action::Restart,
        on_crash: Action::Preserve,
    }
}

/// One of each, in the order of the wire.
fn requests() -> Vec<Request> {
    let name = || "web1".to_string();
    vec![
        Request::NodeInfo,
        Request::NodeLog { from: 300 },
        Request::NodeStop { power_off: true },
        Request::StorageDiscover(Discover::Iscsi("10.0.0.9".to_string())),
        Request::BlobMissing(vec![[3; 32]]),
        Request::BlobPut { digest: [4; 32], length: 70_000 },
        Request::Check(machine()),
        Request::Create { machine: machine(), paused: true },
        Request::List,
        Request::Info { name: name() },
        Request::ConsoleRead { name: name(), from: 1 },
        Request::ConsoleWrite { name: name(), bytes: vec![13] },
        Request::Pause { name: name() },
        Request::Unpause { name: name() },
        Request::Shutdown { name: name() },
        Request::Reboot { name: name() },
        Request::Destroy { name: name() },
        Request::InjectFault(Fault::Hang),
        Request::AuditRead { from: 7 },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}

fn variant(request: &Request) -> String {
    let text = alloc::format!("{request:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_string()
}

#[test]
fn requests_are_encoded_as_ever() {
    let now: Vec<String> = requests()
        .iter()
        .map(|request| {
            alloc::format!("{} {}", variant(request), hex(&postcard::to_allocvec(request).unwrap()))
        })
        .collect();
    let kept: Vec<&str> = REQUESTS.lines().collect();
    assert_eq!(now, kept);
    assert!(now.len() <= 64, "the protocol has at most 64 verbs");
}

/// The document has a row for each request, with its number and its role.
#[test]
fn the_document_names_every_request() {
    for (number, request) in requests().iter().enumerate() {
        let role = alloc::format!("{:?}", required(request)).to_lowercase();
        let row = PROTOCOL.lines().find(|line| line.starts_with(&alloc::format!("| {number} | `")));
        let row = row.unwrap_or_else(|| panic!("no row {number}"));
        assert!(row.contains(&alloc::format!("`{}`", variant(request))), "{row}");
        assert!(row.contains(&alloc::format!("| {role} |")), "{row}");
        let recorded = crate::audit::subject(request).is_some();
        assert_eq!(row.contains("| yes |") || row.contains("| first |"), recorded, "{row}");
    }
}

#[test]
fn the_handshake_and_a_command_are_as_ever() {
    let operator = SigningKey::from_bytes(&[7; 32]);
    let node = SigningKey::from_bytes(&[9; 32]);
    let initiator = Initiator::new(&operator, [0x11; 32]).unwrap();
    let hello = *initiator.hello();
    assert_eq!(verify_hello(&hello), Ok(operator.public()));
    let (keys, reply) = answer(&hello, &node, &[5; 32], [0x22; 32]).unwrap();
    let binding =
        Binding { node: node.verifying_key().to_bytes(), boot_nonce: [5; 32], session: keys.session };
    let command = seal(&operator, &binding, 1, &Request::List).unwrap();
    let now = [hex(&hello), hex(&reply), hex(&command)];
    let kept: Vec<&str> = HANDSHAKE.lines().collect();
    assert_eq!(now, *kept);
    assert!(initiator.finish(&reply).is_ok());
}
