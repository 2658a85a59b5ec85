use crate::known_nodes::{self, Policy, Verdict};
use crate::settings::Settings;
use crate::vm_file::{Source, VmFile};
use crate::{connection, exit, json, support, table};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::machine::{Action, Disk, Machine, NetworkCard};
use mgmt_proto::verb::{DiskFacts, DropReason, Found, GuestFacts, NodeFacts, State};
use std::path::Path;

const FULL: &str = r#"
# a guest
name    = "web"
memory  = "1G"
vcpus   = 2
cpu_weight = 512
cap     = 150
kernel  = "vmlinuz"   # relative
ramdisk = "/boot/initrd.img"
cmdline = "root=/dev/vda"
disk    = [ "aoe:e11.1,rw", 'iscsi://10.0.0.1/iqn.2026-11.example:web/1, ro',
            "aoe:e2.0" ]
vif     = [ "mac=02:00:00:00:00:0A", "" ]
on_poweroff = "preserve"
on_reboot = "destroy"
on_crash = "restart"
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<VmFile, Failure> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).into()).collect();
    VmFile::parse(text, "web.vm", Path::new("/vms"), &overrides)
}

#[test]
fn a_vm_file_with_everything() {
    let file = parse(FULL, &[]).unwrap();
    let disk = |volume: &str, read_only| Disk { volume: volume.into(), read_only };
    let derived = file.machine.network_cards[1].clone();
    let expected = Machine {
        name: "web".into(),
        memory_bytes: 1 << 30,
        vcpus: 2,
        cpu_weight: 512,
        cap_percent: 150,
        kernel: [0; 32],
        ramdisk: None,
        command_line: "root=/dev/vda".into(),
        disks: vec![
            disk("aoe:e11.1", false),
            disk("iscsi://10.0.0.1/iqn.2026-11.example:web/1", true),
            disk("aoe:e2.0", false),
        ],
        network_cards: vec![NetworkCard::plain([2, 0, 0, 0, 0, 10]), derived.clone()],
        on_poweroff: Action::Preserve,
        on_reboot: Action::Destroy,
        on_crash: Action::Restart,
    };
    assert_eq!(file.machine, expected);
    assert_eq!(file.kernel, Source::File("/vms/vmlinuz".into()));
    assert_eq!(file.ramdisk, Some(Source::File("/boot/initrd.img".into())));
    assert_eq!(derived.mac[0] & 3, 2, "locally administered, unicast");
    assert_eq!(parse(FULL, &[]).unwrap().machine.network_cards[1], derived, "it stays");
    assert_ne!(parse(FULL, &["name=db"]).unwrap().machine.network_cards[1], derived);
}

const LEAST: &str = "name = \"a\"\nkernel = \"k\"\nmemory = 64\n";

#[test]
fn defaults_and_overrides() {
    let least = parse(LEAST, &[]).unwrap().machine;
    assert_eq!((least.memory_bytes, least.vcpus, least.cpu_weight, least.cap_percent), (64 << 20, 1, 256, 0));
    assert_eq!(
        (least.on_poweroff, least.on_reboot, least.on_crash),
        (Action::Destroy, Action::Restart, Action::Destroy)
    );
    let other = parse(
        &format!("{LEAST}extra = \"quiet\""),
        &["memory=2g", "name=b2", "vcpus=3", "disk=[\"aoe:e1.1\"]", "cmdline=a b=\"c\" # d", "root=/dev/vda"],
    )
    .unwrap()
    .machine;
    assert_eq!((other.name.as_str(), other.memory_bytes, other.vcpus), ("b2", 2 << 30, 3));
    assert_eq!(other.command_line, "root=/dev/vda a b=\"c\" # d");
    assert_eq!(other.disks[0].volume, "aoe:e1.1");
    for (memory, bytes) in [("65536k", 64 << 20), ("\"64\"", 64 << 20), ("64MiB", 64 << 20), ("1G", 1 << 30)]
    {
        let memory = format!("memory={memory}");
        assert_eq!(parse(LEAST, &[&memory]).unwrap().machine.memory_bytes, bytes, "{memory}");
    }
}

#[test]
fn faults_in_a_vm_file_are_named() {
    for (text, message) in [
        ("memroy = 1\n", "web.vm, line 4, column 1: unknown key memroy (did you mean memory?)"),
        ("\n  vcpu = 1\n", "web.vm, line 5, column 3: unknown key vcpu (did you mean vcpus?)"),
        (
            "maxmem = 1\n",
            "web.vm, line 4, column 1: unknown key maxmem (ballooning is not there yet; memory is fixed)",
        ),
        ("vcpus = \"two\"\n", "web.vm, line 4, column 9: invalid type"),
        ("vcpus = 99\n", "a: vcpus is 99 (1 to 32 are possible)"),
        ("vcpus = \n", "web.vm, line 4, column 9: "),
        ("name = \"b\"\n", "web.vm, line 4, column 1: duplicate key"),
        ("disk = [\"e11.1\"]\n", "web.vm: disk 0: \"e11.1\" is no volume (write aoe:e11.1"),
        ("disk = [\"aoe:e1.1,x\"]\n", "web.vm: disk 0: \"x\" is no access (write ,ro or ,rw"),
        ("vif = [\"mac=1\"]\n", "web.vm: vif 0: \"1\" is no MAC address"),
        ("vif = [\"rate=9\"]\n", "web.vm: vif 0: \"9\" is no rate"),
        ("vif = [\"rate=99Kb/s\"]\n", "a: vif 0 has a rate of 12375 bytes per second"),
        ("vif = [\"rate=11Gb/s\"]\n", "a: vif 0 has a rate of 1375000000 bytes per second"),
        ("vif = [\"bridge=x\"]\n", "web.vm: vif 0: \"bridge=x\" is not known"),
        ("vif = [\"mac=01:00:00:00:00:00\"]\n", "a: vif 0 has no unicast MAC"),
        ("on_crash = \"burn\"\n", "web.vm, line 4, column 12: unknown variant"),
        ("cmdline = \"\"\nextra = \"\"\n", "web.vm: both cmdline and extra"),
    ] {
        let failure = parse(&format!("{LEAST}{text}"), &[]).unwrap_err();
        assert!(failure.to_string().starts_with(message), "{text:?}: {failure}");
        assert_eq!(failure.code, Code::Usage);
    }
    for (text, message) in [
        ("", "web.vm: name is missing"),
        ("name = \"a\"\n", "web.vm: kernel is missing"),
        ("name = \"a\"\nkernel = \"k\"\n", "web.vm: memory is missing"),
        ("name = \"a\"\nkernel = \"k\"\nmemory = \"lots\"\n", "web.vm: memory: \"lots\" is no amount"),
        ("name = \"a\"\nkernel = \"k\"\nmemory = 1\n", "a: memory is 1 MiB"),
    ] {
        assert!(parse(text, &[]).unwrap_err().to_string().starts_with(message), "{text:?}");
    }
    for (argument, message) in [
        ("paused", "paused: is neither"),
        ("vcpsu=2", "vcpsu=2: unknown key vcpsu (did you mean vcpus?)"),
        ("vcpus=x", "vcpus=x, line 1"),
    ] {
        let failure = parse(LEAST, &[argument]).unwrap_err();
        assert!(failure.to_string().starts_with(message), "{failure}");
    }
}

fn guest(name: &str, id: u32, state: State) -> GuestFacts {
    let mut machine =
        parse(LEAST, &[&format!("name={name}"), "vif=[\"mac=02:00:00:00:00:01\"]"]).unwrap().machine;
    machine.disks = vec![Disk { volume: "aoe:e11.1".into(), read_only: true }];
    machine.kernel = [0xab; 32];
    GuestFacts {
        id,
        machine,
        state,
        cpu_time_ns: 12_345_678_901,
        populated_bytes: 33 << 20,
        created_ns: 1,
        first_run_ns: 2,
        exits: 99,
        frames: [5, 6],
        drops: vec![(DropReason::ArpClaim, 3), (DropReason::Tagged, 1)],
        disks: vec![DiskFacts {
            volume: "aoe:e11.1".into(),
            sectors: 2048,
            state: "ready".into(),
            stalled_since_ns: None,
            operations: [1, 2, 3],
            bytes: [512, 1024],
            retries: 0,
        }],
    }
}

#[test]
fn the_list_as_a_table() {
    let mut stalled = guest("a-longer-name", 12, State::Blocked);
    stalled.disks[0].stalled_since_ns = Some(7);
    let guests = [guest("web", 3, State::Running), stalled];
    assert_eq!(
        table::guests(&guests, false).to_string(),
        "\
Name           ID  Mem  VCPUs  State    Time(s)
web             3   64      1  r-----      12.3
a-longer-name  12   64      1  -b----i     12.3
"
    );
    assert_eq!(
        table::guests(&guests[..1], true).to_string(),
        "\
Name  ID  Mem  VCPUs  State   Time(s)  Touched  Exits  NetRX  NetTX  Disks
web    3   64      1  r-----     12.3       33     99      5      6  aoe:e11.1 ready
"
    );
    assert_eq!(table::guests(&[], false).to_string(), "Name  ID  Mem  VCPUs  State  Time(s)\n");
    let states = [State::Connecting, State::Paused, State::Off, State::Crashed, State::Detached];
    let flags: Vec<String> = states.iter().map(|state| table::flags(&guest("x", 1, *state))).collect();
    assert_eq!(flags, ["------", "--p---", "---s--", "----c-", "-----d"]);
    let found =
        Found { volume: "aoe:e1.1".into(), server: "02:00:00:00:00:01".into(), details: "1 GiB".into() };
    assert_eq!(
        table::volumes(&[found]).to_string(),
        "Volume    Server             Details\naoe:e1.1  02:00:00:00:00:01  1 GiB\n"
    );
}

#[test]
fn the_json_of_a_guest_and_a_node() {
    let value: serde_json::Value =
        serde_json::from_str(&json::text(&json::guest(&guest("web", 3, State::Running)))).unwrap();
    let expected = serde_json::json!({
        "name": "web", "id": 3, "state": "running", "flags": "r-----", "memory_bytes": 67_108_864,
        "populated_bytes": 34_603_008, "vcpus": 1, "cpu_weight": 256, "cap_percent": 0,
        "cpu_time_ns": 12_345_678_901_u64, "created_ns": 1, "first_run_ns": 2, "exits": 99,
        "kernel_sha256": "ab".repeat(32), "ramdisk_sha256": null, "cmdline": "",
        "disks": [{
            "volume": "aoe:e11.1", "read_only": true, "bytes": 1_048_576, "state": "ready",
            "stalled_since_ns": null, "reads": 1, "writes": 2, "flushes": 3, "bytes_read": 512,
            "bytes_written": 1024, "retries": 0
        }],
        "macs": ["02:00:00:00:00:01"], "frames_received": 5, "frames_sent": 6,
        "frames_dropped": { "arp-claim": 3, "vlan-tag": 1 },
        "on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy",
        "vifs": [{
            "mac": "02:00:00:00:00:01", "ip": [], "rate_bytes_per_s": null,
            "allowed": {
                "macs": 0, "vrrp": [], "router": false, "dhcp_server": false, "trunk": [],
                "management": false
            }
        }]
    });
    assert_eq!(value, expected);
    let facts =
        NodeFacts { mac: [2, 0, 0, 0, 0, 9], address: Some(([10, 0, 0, 2], 24)), ..NodeFacts::default() };
    let node: serde_json::Value =
        serde_json::from_str(&json::text(&json::node("n:7411", &[1; 32], &facts, Vec::new()))).unwrap();
    assert_eq!(node["address"], "10.0.0.2/24");
    assert_eq!(node["mac"], "02:00:00:00:00:09");
    assert_eq!(node["node_key"], "01".repeat(32));
    assert_eq!(node.as_object().unwrap().len(), 29);
}

#[test]
fn exit_codes_are_the_numbers_on_the_wire() {
    let codes = [
        Code::Internal,
        Code::Usage,
        Code::NotFound,
        Code::Conflict,
        Code::Refused,
        Code::Unreachable,
        Code::Deadline,
        Code::Partial,
        Code::Storage,
        Code::Policy,
        Code::Capacity,
        Code::Version,
        Code::Integrity,
    ];
    for (index, code) in codes.into_iter().enumerate() {
        let number = exit::code(&Failure::new(code, "", "", ""));
        assert_eq!(usize::from(number), index + 1);
        assert!(exit::HELP.lines().any(|line| line.trim_start().starts_with(&format!("{number}  "))));
    }
}

#[test]
fn addresses_with_and_without_port() {
    for (given, full) in [
        ("10.0.0.2", "10.0.0.2:7411"),
        ("10.0.0.2:99", "10.0.0.2:99"),
        ("node", "node:7411"),
        ("fe80::1", "[fe80::1]:7411"),
        ("[fe80::1]", "[fe80::1]:7411"),
        ("[fe80::1]:99", "[fe80::1]:99"),
    ] {
        assert_eq!(connection::with_port(given), full);
    }
}

#[test]
fn a_changed_node_key_is_refused_unless_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/known-nodes");
    let check = |address, key: u8, policy| known_nodes::check(&path, address, &[key; 32], policy);
    assert_eq!(check("a:1", 1, Policy::Fresh), Ok(Verdict::Fresh));
    assert!(!path.exists());
    assert_eq!(check("a:1", 1, Policy::Pin), Ok(Verdict::First));
    assert_eq!(check("a:12", 9, Policy::Pin), Ok(Verdict::First));
    assert_eq!(check("a:1", 1, Policy::Pin), Ok(Verdict::Known));
    let failure = check("a:1", 2, Policy::Pin).unwrap_err();
    assert_eq!(failure.code, Code::Refused);
    assert!(failure.remedy.contains("--fresh-identity") && failure.remedy.contains("--accept-new-key"));
    assert_eq!(check("a:1", 2, Policy::Fresh), Ok(Verdict::Fresh));
    assert_eq!(check("a:1", 2, Policy::AcceptNew), Ok(Verdict::Replaced));
    assert_eq!(check("a:1", 2, Policy::Pin), Ok(Verdict::Known));
    assert_eq!(check("a:12", 9, Policy::Pin), Ok(Verdict::Known));
}

#[test]
fn the_configuration_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    assert_eq!(Settings::load(&path), Ok(Settings::default()));
    let text =
        "context = \"lab\"\n[contexts.lab]\nnode = \"10.0.0.2\"\nfresh_identity = true\n[contexts.other]\n";
    std::fs::write(&path, text).unwrap();
    let settings = Settings::load(&path).unwrap();
    let lab = settings.context(None).unwrap();
    assert_eq!((lab.node.as_deref(), lab.fresh_identity), (Some("10.0.0.2"), true));
    assert_eq!(settings.context(Some("other")).unwrap().node, None);
    assert_eq!(settings.context(Some("x")).unwrap_err().code, Code::NotFound);
    std::fs::write(&path, "colour = 1").unwrap();
    assert_eq!(Settings::load(&path).unwrap_err().code, Code::Usage);
}

#[test]
fn secrets_are_withheld() {
    for (given, clean) in [
        ("chap_secret=abc x", "chap_secret=(withheld) x"),
        ("login: Password:abc,user=me\n", "login: Password:(withheld),user=me\n"),
        ("iscsi://me:abc@10.0.0.1/iqn.x/1 up", "iscsi://(withheld)@10.0.0.1/iqn.x/1 up"),
        ("iscsi://10.0.0.1/iqn.x/1 up", "iscsi://10.0.0.1/iqn.x/1 up"),
        ("password=", "password="),
        ("é=1 ü", "é=1 ü"),
        ("", ""),
    ] {
        assert_eq!(support::redacted(given), clean);
    }
    let value = serde_json::json!({ "cmdline": "pw", "disks": [{ "volume": "iscsi://a:b@c/d" }], "n": 1 });
    let clean = serde_json::json!({ "cmdline": "(withheld), 2 bytes", "disks": [{ "volume": "iscsi://(withheld)@c/d" }], "n": 1 });
    assert_eq!(support::redacted_value(value), clean);
}
