use crate::compose::{Pieces, compose};
use crate::seal::{reseal, seal};
use crate::settings::Settings;
use crate::verify::verify;
use crate::{dev, verify as checks};
use appliance::settings::{ImageFault, Settings as NodeSettings};
use ed25519_dalek::SigningKey;
use hv_abi::image::SETUP_BYTES;
use keys::PublicKey;
use mgmt_proto::manifest::{Addressing, AoeCards, Manifest, StorageCard, VERSION};
use mgmt_proto::trust::{Operator, Role};
use sha2::{Digest, Sha256};
use std::path::Path;

fn pieces() -> Pieces {
    let bytes = |seed: u8, length: usize| -> Vec<u8> {
        (0_u8..=250).cycle().take(length).map(|byte| seed.wrapping_mul(31).wrapping_add(byte) | 1).collect()
    };
    Pieces {
        setup: bytes(1, SETUP_BYTES),
        stub: bytes(2, 100),
        hypervisor: bytes(3, 5000),
        hypervisor_memory_length: 20_000,
        dom0: bytes(4, 3001),
    }
}

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn manifest(owner: &SigningKey) -> Manifest {
    let operator = SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes();
    Manifest {
        version: VERSION,
        owner: owner.verifying_key().to_bytes(),
        operators: vec![Operator { key: operator, role: Role::Admin }],
        name: "node".into(),
        addressing: Addressing::Dhcp,
        mtu: 1500,
        storage_cards: Vec::new(),
        aoe: AoeCards::All,
        port: 7411,
        fault_injection: false,
        restart_delay_s: 10,
        smt: false,
        trust_serial_min: 0,
        guest_addresses_required: false,
        card_grants: Vec::new(),
        dom0_cpu: mgmt_proto::manifest::Dom0Cpu::Auto,
        state: None,
    }
}

#[test]
fn a_sealed_image_is_what_the_node_accepts() {
    let manifest = manifest(&owner());
    let file = seal(&pieces(), &manifest, &owner()).unwrap();
    let report = verify(&file, Some(&manifest.owner)).unwrap();
    assert_eq!(report.manifest, manifest);
    let node = NodeSettings::from_image(&file[SETUP_BYTES..], 1).unwrap();
    assert_eq!(node.manifest, manifest);
    let whole: [u8; 32] = Sha256::digest(&file).into();
    assert_eq!((node.image_sha256, node.image_bytes), (whole, file.len() as u64));
    assert_eq!(report.sha256, whole);
}

#[test]
fn an_unsealed_image_is_refused() {
    let file = compose(&pieces(), &[]).unwrap();
    checks::check_structure(&file).unwrap();
    assert!(verify(&file, None).unwrap_err().to_string().contains("never sealed"));
    assert_eq!(NodeSettings::from_image(&file[SETUP_BYTES..], 1).unwrap_err(), ImageFault::Unsealed);
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let file = seal(&pieces(), &manifest(&owner()), &owner()).unwrap();
    let mut altered = file.clone();
    // Every byte near something that is parsed, and a stride over all of it.
    let dense = (0..600).chain(SETUP_BYTES + 4096..SETUP_BYTES + 4096 + 700);
    let tail = file.len() - 4200..file.len();
    for position in dense.chain(tail).chain((0..file.len()).step_by(61)) {
        altered[position] ^= 1 << (position % 8);
        assert!(verify(&altered, None).is_err(), "a bit flip at {position} goes unnoticed");
        altered[position] = file[position];
    }
    verify(&altered, None).unwrap();
}

#[test]
fn an_image_with_a_flipped_bit_is_refused() {
    let file = seal(&pieces(), &manifest(&owner()), &owner()).unwrap();
    let payload = &file[SETUP_BYTES..];
    let mut altered = payload.to_vec();
    let signed = payload.len() - 4096 + 64;
    for position in (0..signed).step_by(97).chain(4096..4096 + 600) {
        altered[position] ^= 1 << (position % 8);
        assert!(NodeSettings::from_image(&altered, 1).is_err(), "a bit flip at {position} goes unnoticed");
        altered[position] = payload[position];
    }
}

#[test]
fn a_cut_off_or_longer_file_is_refused() {
    let file = seal(&pieces(), &manifest(&owner()), &owner()).unwrap();
    for length in [0, 1, SETUP_BYTES - 1, SETUP_BYTES, SETUP_BYTES + 4096, file.len() - 1] {
        assert!(verify(&file[..length], None).is_err(), "{length}");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(verify(&longer, None).unwrap_err().to_string().contains("follow the image"));
}

#[test]
fn faults_are_named() {
    let manifest = manifest(&owner());
    let file = seal(&pieces(), &manifest, &owner()).unwrap();
    let message = |position: usize| {
        let mut altered = file.clone();
        altered[position] ^= 1;
        verify(&altered, None).unwrap_err().to_string()
    };
    assert!(message(10).contains("setup code differs"), "{}", message(10));
    assert!(message(SETUP_BYTES + 10).contains("signature does not fit"));
    assert!(message(SETUP_BYTES + 8192).contains("part hypervisor"));
    assert!(message(SETUP_BYTES + 8192 + 8192).contains("part dom0"));
    assert!(message(file.len() - 1).contains("after the signature"));
    let other = SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();
    assert!(verify(&file, Some(&other)).unwrap_err().to_string().contains("not by"));
    assert!(seal(&pieces(), &manifest, &SigningKey::from_bytes(&[9; 32])).is_err());
}

#[test]
fn an_image_is_sealed_anew_from_its_file() {
    let first = seal(&pieces(), &manifest(&owner()), &owner()).unwrap();
    let buyer = SigningKey::from_bytes(&[3; 32]);
    let mut settings = manifest(&buyer);
    settings.name = "a-much-longer-name.example".into();
    let second = reseal(&first, &settings, &buyer).unwrap();
    assert_eq!(verify(&second, Some(&settings.owner)).unwrap().manifest, settings);
    assert_eq!(second, seal(&pieces(), &settings, &buyer).unwrap(), "the programs are the same");
    let unsealed = compose(&pieces(), &[]).unwrap();
    assert_eq!(reseal(&unsealed, &settings, &buyer).unwrap(), second);
    let mut damaged = first;
    let last = damaged.len() - 1;
    damaged[last] = 1;
    assert!(reseal(&damaged, &settings, &buyer).is_err());
}

#[test]
fn development_images() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("image/test.img");
    let options = dev::Options { out: Some(out.clone()), fault_injection: true, ..dev::Options::default() };
    let keys = directory.path().join("keys");
    let image = dev::seal_image(&pieces(), &options, &keys).unwrap();
    let first = std::fs::read(&image.path).unwrap();
    let owner = PublicKey::load(&keys.join("owner.key.pub")).unwrap();
    let report = verify(&first, Some(&owner.bytes)).unwrap();
    assert!(report.manifest.fault_injection);
    let operator = keys::secret::load(&image.operator_key_path).unwrap();
    assert_eq!(report.manifest.operators[0].key, operator.verifying_key().to_bytes());
    dev::seal_image(&pieces(), &options, &keys).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), first, "same keys, same bytes");
}

const OPERATOR: &str =
    "redoubt-ed25519 d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a alice";

fn parse(text: &str) -> anyhow::Result<Manifest> {
    let text =
        text.replace("OPERATORS", &format!("operators = [{{ key = \"{OPERATOR}\", role = \"admin\" }}]"));
    Settings::parse(&text)?.manifest([7; 32], Path::new("."))
}

#[test]
fn settings_as_written() {
    let manifest = parse("OPERATORS").unwrap();
    assert_eq!((manifest.port, manifest.addressing), (7411, Addressing::Dhcp));
    assert_eq!(manifest.operators[0].role, Role::Admin);
    let manifest = parse(
        "name = \"n7\"\nport = 99\naddressing = { address = \"10.0.0.2/24\", gateway = \"10.0.0.1\" }\nOPERATORS",
    )
    .unwrap();
    let addressing = Addressing::Static { address: [10, 0, 0, 2], prefix: 24, gateway: Some([10, 0, 0, 1]) };
    assert_eq!((manifest.name.as_str(), manifest.port, manifest.addressing), ("n7", 99, addressing));
    assert_eq!(parse("addressing = \"dhcp\"\nOPERATORS").unwrap().addressing, Addressing::Dhcp);
    assert_eq!(parse("restart_delay_s = 0\nOPERATORS").unwrap().restart_delay_s, 0);
    assert_eq!((manifest.restart_delay_s, manifest.smt), (10, false));
    assert!(parse("smt = true\nOPERATORS").unwrap().smt);
    assert!(manifest.storage_cards.is_empty() && manifest.aoe == AoeCards::All);
    let manifest = parse(
        "storage_cards = [{ mac = \"02:00:00:00:00:07\", mtu = 9000 }, { addressing = \"dhcp\" }]\n\
         aoe = \"storage\"\nOPERATORS",
    )
    .unwrap();
    let named = StorageCard { mac: Some([2, 0, 0, 0, 0, 7]), addressing: None, mtu: 9000 };
    let next = StorageCard { mac: None, addressing: Some(Addressing::Dhcp), mtu: 1500 };
    assert_eq!((manifest.storage_cards, manifest.aoe), (vec![named, next], AoeCards::Storage));
}

#[test]
fn settings_that_make_no_sense() {
    for (text, reason) in [
        ("", "operators"),
        ("operators = []", "nobody could command"),
        ("colour = 1\nOPERATORS", "unknown field `colour`"),
        ("port = 0\nOPERATORS", "port"),
        ("port = 70000\nOPERATORS", "port"),
        ("restart_delay_s = 3601\nOPERATORS", "at most 3600"),
        ("name = \"a b\"\nOPERATORS", "name"),
        ("addressing = \"auto\"\nOPERATORS", "addressing is \"dhcp\" or"),
        ("addressing = { address = \"10.0.0.2\" }\nOPERATORS", "prefix length"),
        ("addressing = { address = \"10.0.0.2/33\" }\nOPERATORS", "prefix length is"),
        ("addressing = { address = \"224.0.0.2/24\" }\nOPERATORS", "cannot have"),
        ("addressing = { address = \"10.0.0.2/24\", gateway = \"10.0.1.1\" }\nOPERATORS", "is not in"),
        ("storage_cards = [{}, { mac = \"3:4\" }]\nOPERATORS", "storage_cards[1]: mac"),
        ("storage_cards = [{ mac = \"01:00:5e:00:00:01\" }]\nOPERATORS", "no card's address"),
        ("storage_cards = [{ mtu = 9001 }]\nOPERATORS", "storage_cards[0]: mtu"),
        ("storage_cards = [{ gateway = \"10.0.0.1\" }]\nOPERATORS", "unknown field `gateway`"),
        ("storage_cards = [{}, {}, {}, {}]\nOPERATORS", "at most 3"),
        (
            "storage_cards = [{ mac = \"02:00:00:00:00:07\" }, { mac = \"02:00:00:00:00:07\" }]\nOPERATORS",
            "there already",
        ),
        ("aoe = \"storage\"\nOPERATORS", "no storage_cards"),
        ("operators = [{ key = \"x\", role = \"admin\" }]", "operators[0]"),
        ("operators = [{ role = \"admin\" }]", "operators[0]"),
        ("operators = [{ key = \"x\", role = \"root\" }]", "role"),
    ] {
        let message = format!("{:#}", parse(text).unwrap_err());
        assert!(message.contains(reason), "{text}: {message}");
    }
}
