//! What is printed in which form, the audit log, dry runs, exit codes.

use crate::fake::{FakeNode, Workstation, as_text, identity, operator, with_guest};
use mgmt_proto::handshake::OperatorKey;
use mgmt_proto::job::JobState;
use mgmt_proto::state::KeptFacts;
use mgmt_proto::trust::{Operator, Role, Trust};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

const DISK: &str = "disk = [\"aoe:e1.1\"]\n";

/// Verbs that print no data, or no end of it, or are looked at elsewhere in all forms.
const OTHERS: &[&str] = &[
    // Text for a shell, pages for man, metrics for a scraper, bytes of a capture.
    "completions",
    "man",
    "exporter",
    "node-pcap",
    // What changes files of keys and trust says `done` once, as pause does.
    "key-add",
    "key-encrypt",
    "key-revoke",
    "key-rotate",
    "key-bundle-fetch",
    "key-bundle-make",
    "key-bundle-push",
    "key-bundle-sign",
    // Volumes from this workstation: tests/volume.rs.
    "storage-bench",
    "storage-read",
    "storage-write",
];

/// Verbs with what follows them; @ is the workstation's directory, % the form.
const CASES: &[(&str, &[&str])] = &[
    ("list", &[]),
    ("list", &["web"]),
    ("info", &["web"]),
    ("config-show", &["web"]),
    ("sched", &[]),
    ("check", &["@/web.vm", "name=new"]),
    ("create", &["@/web.vm", "name=new", "-N"]),
    ("pause", &["web", "-N"]),
    ("rename", &["web", "db", "-N"]),
    ("revision", &["web"]),
    ("revision", &[]),
    ("unpause", &["web"]),
    ("shutdown", &["web", "-N"]),
    ("reboot", &["web", "-N"]),
    ("destroy", &["web", "-N"]),
    ("start", &["db"]),
    ("autostart", &["web", "on", "-N"]),
    ("autostart", &[]),
    ("console", &["--once", "web"]),
    ("top", &["-b", "-c", "1", "-d", "1"]),
    ("block-list", &["web"]),
    ("block-attach", &["web", "aoe:e1.2", "-N"]),
    ("block-detach", &["web", "aoe:e1.2", "-N"]),
    ("limit", &["web", "-N"]),
    ("node-info", &[]),
    ("node-log", &[]),
    ("node-ping", &["-c", "1"]),
    ("node-state", &[]),
    ("node-key-show", &[]),
    ("node-key-rotate", &["-N"]),
    ("node-lockdown", &["-N"]),
    ("node-reboot", &["-N"]),
    ("node-poweroff", &["-N"]),
    ("node-config-export", &["@/%.config"]),
    ("node-config-import", &["@/node.config", "-N"]),
    ("audit-show", &[]),
    ("audit-verify", &["--save", "@/%.json"]),
    ("job-list", &[]),
    ("job-wait", &["1"]),
    ("job-cancel", &["2", "-N"]),
    ("storage-show", &[]),
    ("storage-show", &["aoe:e1.1"]),
    ("storage-discover-aoe", &[]),
    ("storage-discover-iscsi", &["10.0.0.1"]),
    ("storage-probe", &["aoe:e1.1"]),
    ("storage-reserve", &["aoe:e1.1"]),
    ("storage-release", &["aoe:e1.1"]),
    ("storage-path-list", &[]),
    ("storage-path-enable", &["aoe:e1.1", "0"]),
    ("storage-path-disable", &["aoe:e1.1", "0"]),
    ("fleet-status", &[]),
    ("fleet-run", &["list"]),
    ("support", &["--out", "@/%.tar"]),
    ("key-init", &["--dir", "@/home-%"]),
    ("key-show", &[]),
    ("key-list", &[]),
    ("key-bundle-show", &[]),
    ("exit-codes", &[]),
    ("explain", &[]),
];

#[test]
fn every_verb_in_every_form() {
    let (node, workstation) = with_guest(DISK);
    workstation.expect(0, &["block-attach", "web", "aoe:e1.2"]);
    let kept = KeptFacts { name: "db".into(), order: 1, kernel: [0; 32], ramdisk: None, problem: None };
    node.state.lock().unwrap().kept.guests.push(kept);
    let ann = Operator { key: operator().verifying_key().to_bytes(), role: Role::Admin };
    node.state.lock().unwrap().trust = Some(Trust::sealed(ann.key, &[ann], "fake"));
    let public = workstation.directory.path().join("redoubt/operator.key.pub");
    keys::PublicKey::of(&operator(), "ann").save(&public, keys::Existing::Keep).unwrap();
    let directory = as_text(workstation.directory.path());
    workstation.expect(0, &["node", "config", "export", &format!("{directory}/node.config")]);
    {
        let mut world = node.state.lock().unwrap();
        let facts = &mut world.jobs[1].0;
        (facts.state, facts.ended_ns) = (JobState::Running, None);
    }
    let pages = format!("{directory}/man");
    workstation.expect(0, &["man", &pages]);
    let pages =
        std::fs::read_dir(&pages).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
    let verbs: Vec<String> = pages
        .filter_map(|page| Some(page.strip_prefix("redoubt-")?.strip_suffix(".1")?.to_string()))
        .collect();
    for verb in &verbs {
        let is_noun = verbs.iter().any(|other| other.starts_with(&format!("{verb}-")) && verb != "block");
        let known = CASES.iter().any(|(case, _)| case == verb) || OTHERS.contains(&verb.as_str());
        assert!(is_noun || known, "{verb} is in no form");
    }
    for (verb, more) in CASES {
        assert!(verbs.iter().any(|known| known == verb), "{verb} is no verb");
        // A verb with a hyphen of its own is one word.
        let words: Vec<&str> = match verb.split_once('-') {
            Some(("block" | "exit", _)) => vec![verb],
            _ => verb.split('-').collect(),
        };
        in_every_form(&workstation, verb, &[&words[..], *more].concat());
    }
}

fn in_every_form(workstation: &Workstation, verb: &str, arguments: &[&str]) {
    let directory = as_text(workstation.directory.path());
    let with = |form| {
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace('%', form).replace('@', directory)).collect();
        let arguments = arguments.iter().map(String::as_str).chain(["-o", form]);
        workstation.expect(0, &arguments.collect::<Vec<_>>()).0
    };
    let json = with("json");
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(parsed.is_array() || parsed.is_object(), "{verb}");
    for form in ["yaml", "table", "wide", "name"] {
        assert!(!with(form).is_empty(), "{verb} {form}");
    }
}

#[test]
fn the_shapes_stay() {
    let (_node, workstation) = with_guest(DISK);
    let of = |arguments: &[&str]| workstation.expect(0, arguments).0;
    assert_eq!(
        of(&["-o", "json", "pause", "-N", "web"]),
        "{\n  \"object\": \"web\",\n  \"verb\": \"pause\",\n  \"status\": \"dry-run\"\n}\n"
    );
    assert_eq!(of(&["-o", "yaml", "pause", "-N", "web"]), "object: web\nverb: pause\nstatus: dry-run\n");
    assert_eq!(
        of(&["-o", "yaml", "list"]),
        concat!(
            "- name: web\n  id: 1\n  state: running\n  flags: r-----\n  memory_bytes: 67108864\n",
            "  populated_bytes: 0\n  vcpus: 1\n  cpu_weight: 256\n  cap_percent: 0\n  cpu_time_ns: 0\n",
            "  created_ns: 0\n  first_run_ns: 0\n  exits: 0\n  kernel_sha256: ",
            "4fff0d3e643b3894c17a0738fbdc591953aa722c9d42774425090accc4377126\n  ramdisk_sha256: null\n",
            "  cmdline: \"\"\n  disks:\n  - volume: aoe:e1.1\n    read_only: false\n    bytes: 1048576\n",
            "    state: ready\n    stalled_since_ns: null\n    reads: 0\n    writes: 0\n",
            "    flushes: 0\n    bytes_read: 0\n    bytes_written: 0\n    retries: 0\n  macs: []\n",
            "  frames_received: 0\n  frames_sent: 0\n  frames_dropped: {}\n  on_poweroff: destroy\n  on_reboot: restart\n",
            "  on_crash: destroy\n  vifs: []\n",
        )
    );
    let log = of(&["-o", "json", "node", "log"]);
    let value: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&value["next"], &value["lines"]), (&8.into(), &serde_json::json!(["one", "two"])));
    let (_, error) = workstation.expect(2, &["-o", "yaml", "node", "log", "-f"]);
    assert!(error.contains("lines or json"), "{error}");
}

fn fields(value: &serde_json::Value) -> String {
    value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_fields_stay_in_their_order() {
    let (_node, workstation) = with_guest(DISK);
    let of = |arguments: &[&str]| -> serde_json::Value {
        let (out, _) = workstation.expect(0, &[&["-o", "json"], arguments].concat());
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!(
        fields(&of(&["node", "info"])),
        "node node_key version image_sha256 image_bytes cpus memory_bytes memory_free_bytes hypervisor_bytes \
         dom0_bytes uptime_ns dom0_starts mac address guests fresh_identity tsc_khz \
         address_claims address_claimed_by portals_moved paths_shortened log_errors log_warnings cards \
         previous_end previous_cause watchdogs smt threads_resting"
    );
    let (out, _) = workstation.expect(0, &["node", "info"]);
    let none = |line: &str| line.split_whitespace().eq(["watchdog", "none"]);
    assert!(out.lines().any(none), "nothing notices a hang there, which is said: {out}");
    assert_eq!(
        fields(&of(&["node", "info"])["cards"][0]),
        "mac use state mtu aoe address gateway frames_received frames_sent bytes_received bytes_sent"
    );
    assert_eq!(fields(&of(&["node", "log"])), "source next lines");
    assert_eq!(
        fields(&of(&["node", "state"])),
        "condition volume problem serial fresh_identity obeys trust_serial kept_trust_serial audit_entries bytes \
         bytes_max kernel_bytes kernel_bytes_max guests doubt formatted protection trust_serial_min"
    );
    let audit = of(&["audit", "show"]);
    assert_eq!(fields(&audit), "format version node node_key oldest head entries refused");
    assert_eq!(fields(&audit["head"]), "length digest signature");
    assert_eq!(
        fields(&audit["entries"][0]),
        "sequence at_ns operator verb object result code node boot_nonce session counter request signature previous \
         count"
    );
    let report = "node node_key verdict fault entries first length operators bundles faults";
    assert_eq!(fields(&of(&["audit", "verify"])), report);
    assert_eq!(fields(&of(&["fleet", "run", "list"])[0]), "node result code error elapsed_ms answer");
    assert_eq!(fields(&of(&["fleet", "status"])[0]["answer"]), fields(&of(&["node", "info"])));
    let top = of(&["top", "-b", "-c", "1", "-d", "1"]);
    assert_eq!(
        fields(&top),
        "node uptime_ns cpus memory_bytes memory_free_bytes dom0_bytes dom0_starts cpu_permille guests"
    );
    assert_eq!(
        fields(&top["guests"][0]),
        "name id flags cpu_time_ns cpu_permille populated_bytes memory_bytes vcpus exits_per_second \
         frames_received_per_second frames_sent_per_second bytes_received_per_second bytes_sent_per_second \
         reads_per_second writes_per_second \
         bytes_read_per_second bytes_written_per_second stalled_ms"
    );
    assert_eq!(fields(&of(&["node", "ping", "-c", "1"])), "node connect_us answers_us");
    assert_eq!(fields(&of(&["sched"])[0]), "name id weight cap_percent");
    assert_eq!(of(&["describe-instances"])[0]["node"], of(&["fleet", "status"])[0]["node"]);
    assert_eq!(fields(&of(&["key", "show"])), "name source public_key fingerprint");
    assert_eq!(fields(&of(&["exit-codes"])[0]), "code meaning");
    assert_eq!(fields(&of(&["explain"])[0]), "reason code meaning message remedy");
    assert_eq!(of(&["explain", "notrunning"])["reason"], "NotRunning");
}

#[test]
fn the_audit_log_is_shown_and_checked() {
    let (node, workstation) = with_guest(DISK);
    workstation.expect(3, &["pause", "nobody"]);
    workstation.expect(0, &["unpause", "web"]);
    workstation.expect(10, &["reboot", "web"]);
    let operator = keys::public::fingerprint(&operator().public());
    let pad = " ".repeat(operator.len() - "Operator".len());
    let (out, _) = workstation.expect(0, &["audit", "show", "--from", "1"]);
    let expected = format!(
        "Seq  Uptime(s)  Operator{pad}  Verb     Object  Result\n\
           1        3.0  {operator}  create   web     done\n\
           2        4.5  {operator}  unpause  web     done\n"
    );
    assert_eq!(out.lines().map(str::trim_start).collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    workstation.expect(0, &["unpause", "web"]);
    let copy = workstation.directory.path().join("copy.json");
    let (out, error) = workstation.expect(0, &["audit", "verify", "--save", as_text(&copy)]);
    assert!(out.contains("entries   4 (0 to 3)\nverdict   intact\n"), "{out}");
    assert!(out.contains(&format!("operator  {operator}\n")), "{out}");
    assert!(error.contains("4 entries are kept"), "{error}");
    let offline = ["audit", "verify", "--file", as_text(&copy)];
    workstation.expect(0, &offline);
    assert_eq!(workstation.expect(0, &["audit", "show", "--file", as_text(&copy)]).0.lines().count(), 5);
    let key = hex::encode(identity().verifying_key().to_bytes());
    workstation.expect(0, &[&offline[..], &["--node-key", &key]].concat());
    let (_, error) = workstation.expect(13, &[&offline[..], &["--node-key", &"ab".repeat(32)]].concat());
    assert!(error.contains("entry 0 was signed for another node"), "{error}");
    let text = std::fs::read_to_string(&copy).unwrap();
    for (from, to, says) in [
        ("\"verb\": \"create\"", "\"verb\": \"pause\"", "entry 1 or 2 was altered"),
        ("\"sequence\": 2", "\"sequence\": 7", "entries after 1 are missing"),
        ("\"length\": 4", "\"length\": 5", "1 entries at the end are missing, from 4 on"),
        ("\"at_ns\": 6000000000", "\"at_ns\": 6000000001", "the node did not sign the end"),
        ("\"code\": 0", "\"code\": 99", "entry 0 has a result that no node writes"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        std::fs::write(&copy, changed).unwrap();
        let (out, error) = workstation.expect(13, &offline);
        assert!(out.contains("verdict   broken") && error.contains(says), "{says}: {out}{error}");
    }
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let signature = value["entries"][1]["signature"].as_str().unwrap().to_string();
    value["entries"][2]["signature"] = signature.into();
    std::fs::write(&copy, value.to_string()).unwrap();
    assert!(workstation.expect(13, &offline).1.contains("entry 2 has a forged signature"));
    std::fs::write(&copy, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    workstation.expect(12, &offline);
    std::fs::write(&copy, "{}").unwrap();
    workstation.expect(2, &offline);
    // A node that leaves out an entry of its own log.
    node.state.lock().unwrap().log.remove(1);
    let (out, _) = workstation.expect(13, &["audit", "verify"]);
    assert!(out.contains("fault     entries after 0 are missing"), "{out}");
}

/// And the node signs it as that one.
#[test]
fn what_did_nothing_is_in_a_log_of_its_own() {
    let (_node, workstation) = with_guest(DISK);
    workstation.expect(10, &["reboot", "web"]);
    let operator = keys::public::fingerprint(&operator().public());
    let pad = " ".repeat(operator.len() - "Operator".len());
    let (out, _) = workstation.expect(0, &["audit", "show", "--refused"]);
    let expected = format!(
        "Seq  Uptime(s)  Operator{pad}  Verb    Object  Result       Times\n\
           0        1.5  {operator}  reboot  web     failed (10)      1\n"
    );
    assert_eq!(out.lines().map(str::trim_start).collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    let refused = workstation.directory.path().join("refused.json");
    let (out, _) = workstation.expect(0, &["audit", "verify", "--refused", "--save", as_text(&refused)]);
    assert!(out.contains("entries   1 (0 to 0)\nverdict   intact\n"), "{out}");
    let text = std::fs::read_to_string(&refused).unwrap();
    std::fs::write(&refused, text.replace("\"refused\": true", "\"refused\": false")).unwrap();
    let (_, error) = workstation.expect(13, &["audit", "verify", "--file", as_text(&refused)]);
    assert!(error.contains("the node did not sign the end"), "{error}");
}

#[test]
fn a_long_audit_log_comes_in_pages() {
    let (node, workstation) = with_guest(DISK);
    for _ in 0..150 {
        workstation.expect(0, &["unpause", "web"]);
        if node.state.lock().unwrap().log.len() > 70 {
            break;
        }
    }
    let (out, _) = workstation.expect(0, &["audit", "verify"]);
    assert!(out.contains("entries   71 (0 to 70)\nverdict   intact"), "{out}");
}

#[test]
fn a_dry_run_sends_and_changes_nothing() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    let (out, error) = workstation.expect(0, &["create", "--dry-run", as_text(&file), "memory=128"]);
    assert_eq!(out, "web: create not done, this is a dry run\n");
    assert!(error.contains("vmlinuz would be sent, 8 bytes"), "{error}");
    assert!(node.state.lock().unwrap().blobs.is_empty());
    workstation.expect(0, &["create", as_text(&file), "memory=128"]);
    assert_eq!(node.state.lock().unwrap().guests[0].machine.memory_bytes, 128 << 20);
    workstation.expect(4, &["create", "--dry-run", as_text(&file)]);
    for verb in ["pause", "unpause", "shutdown", "reboot", "destroy"] {
        let (out, _) = workstation.expect(0, &[verb, "-N", "web"]);
        assert_eq!(out, format!("web: {verb} not done, this is a dry run\n"));
        let (_, error) = workstation.expect(3, &[verb, "-N", "wbe"]);
        assert_eq!(error, "error: wbe: no guest has that name or ID (did you mean web?)\n");
    }
    workstation.expect(0, &["node", "poweroff", "-N"]);
    assert_eq!(node.state.lock().unwrap().guests.len(), 1);
}

#[test]
fn exit_codes_have_their_page() {
    let (node, workstation) = with_guest(DISK);
    let (out, _) = workstation.expect(0, &["help", "exit-codes"]);
    for code in (0..=13).chain([130]) {
        assert!(out.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))), "{code}");
    }
    let (out, _) = workstation.expect(0, &["exit-codes", "-o", "name"]);
    assert_eq!(out.lines().count(), 15);
    let file = workstation.directory.path().join("web.vm");
    for code in 1..=13 {
        let name = format!("code-{code}");
        workstation.expect(0, &["create", as_text(&file), &format!("name={name}")]);
        let (out, error) = workstation.expect(code, &["reboot", &name]);
        assert_eq!((out.as_str(), error), ("", format!("error: {name}: as asked for\n")));
    }
    node.state.lock().unwrap().pause = Duration::from_secs(3);
    workstation.expect(7, &["--timeout", "1", "list"]);
    node.state.lock().unwrap().pause = Duration::ZERO;
    // Shells make 130 of it. Whoever runs the tests may have them ignore the signal.
    let plain = workstation.command(&["node", "log", "-f"]);
    let mut command = std::process::Command::new("env");
    command.arg("--default-signal=INT").arg(plain.get_program()).args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

#[test]
fn completions_and_man_pages() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    for (shell, word) in
        [("bash", "complete -F _redoubt"), ("zsh", "#compdef redoubt"), ("fish", "complete -c redoubt")]
    {
        assert!(workstation.expect(0, &["completions", shell]).0.contains(word), "{shell}");
    }
    let directory = workstation.directory.path().join("man");
    let (out, _) = workstation.expect(0, &["man", as_text(&directory)]);
    assert!(out.lines().count() > 20, "{out}");
    let page = std::fs::read_to_string(directory.join("redoubt-audit-verify.1")).unwrap();
    assert!(page.contains("\\-\\-save"), "{page}");
}
