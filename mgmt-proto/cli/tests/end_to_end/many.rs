//! Several nodes: names, groups, canaries, one that is dead, one that is slow.

use crate::fake::{FakeNode, Workstation, as_text, operator};
use mgmt_proto::verb::State;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

struct Rack {
    nodes: Vec<FakeNode>,
    workstation: Workstation,
}

/// Nodes n0, n1, … in the group rack, each with a running guest web.
fn rack(count: usize) -> Rack {
    let nodes: Vec<FakeNode> = (0..count).map(|_| FakeNode::start(&operator())).collect();
    let mut workstation = Workstation::new(&nodes[0]);
    let mut fleet = String::new();
    for (index, node) in nodes.iter().enumerate() {
        writeln!(fleet, "[nodes.n{index}]\naddress = \"{}\"", node.address).unwrap();
    }
    writeln!(fleet, "[nodes.dead]\naddress = \"127.0.0.1:1\"").unwrap();
    let names: Vec<String> = (0..count).map(|index| format!("\"n{index}\"")).collect();
    writeln!(fleet, "[groups]\nrack = [{}]\nsite = [\"@rack\", \"dead\"]", names.join(", ")).unwrap();
    workstation.file("redoubt/fleet.toml", &fleet);
    workstation.file("vmlinuz", "a kernel");
    workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    workstation.node = "@rack".into();
    Rack { nodes, workstation }
}

impl Rack {
    fn with_guests(count: usize) -> Self {
        let rack = rack(count);
        let file = rack.workstation.directory.path().join("web.vm");
        let (out, _) = rack.workstation.expect(0, &["create", as_text(&file)]);
        assert_eq!(out.lines().count(), count);
        let width = if count > 10 { 3 } else { 2 };
        assert!(out.starts_with(&format!("{:<width$}  web: create done (ID 1)\n", "n0")), "{out}");
        rack
    }

    fn states(&self) -> Vec<State> {
        self.nodes.iter().map(|node| node.state.lock().unwrap().guests[0].state).collect()
    }
}

#[test]
fn twenty_nodes_answer_one_question() {
    let rack = Rack::with_guests(20);
    let (out, error) = rack.workstation.expect(0, &["list"]);
    assert_eq!(error, "");
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("Node  Name  ID  Mem  VCPUs  State   Time(s)"));
    assert_eq!(lines.next(), Some("n0    web    1   64      1  r-----      0.0"));
    assert_eq!(lines.count(), 19);
    let (out, _) = rack.workstation.expect(0, &["-n", "n3,n1", "-o", "name", "list"]);
    assert_eq!(out, "n3/web\nn1/web\n");
    let (out, _) = rack.workstation.expect(0, &["-n", "n3,@rack,n3", "-o", "json", "list"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 20, "each node once");
    assert_eq!(value[0]["node"], "n3");
    assert_eq!(value[0]["answer"][0]["name"], "web");
    assert_eq!(
        value[1].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["node", "result", "code", "error", "elapsed_ms", "answer"]
    );
}

#[test]
fn a_dead_node_fails_alone_and_a_slow_one_does_not_hold_up_others() {
    let rack = Rack::with_guests(4);
    rack.nodes[1].state.lock().unwrap().pause = Duration::from_millis(700);
    let start = Instant::now();
    let (out, error) = rack.workstation.expect(8, &["-n", "@site", "list"]);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(out.lines().count(), 5);
    assert!(error.starts_with("error: dead: 127.0.0.1:1: Connection refused"), "{error}");
    assert!(error.ends_with("error: 1 of 5 nodes failed\n"), "{error}");
    let (out, _) = rack.workstation.expect(8, &["-n", "@site", "fleet", "status"]);
    let dead = out.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(dead[..3], ["dead", "127.0.0.1:1", "unreachable"]);
    let up = out.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(up[..4], ["n0", rack.nodes[0].address.as_str(), "up", "0.1.0"]);
    let (_, error) = rack.workstation.expect(0, &["--timeout", "2", "-n", "n1", "list"]);
    assert_eq!(error, "");
}

#[test]
fn a_failed_canary_stops_the_rest() {
    let rack = Rack::with_guests(5);
    rack.nodes[0].state.lock().unwrap().guests[0].machine.name = "other".into();
    let run = ["fleet", "run", "--canary", "2", "--max-parallel", "2", "--yes", "shutdown", "web"];
    let (out, error) = rack.workstation.expect(8, &run);
    let words: Vec<&str> = out.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(words, ["failed", "done", "skipped", "skipped", "skipped"]);
    assert!(out.starts_with("Node  Result   Code  Time(s)  Said\nn0    failed      3 "), "{out}");
    assert!(out.contains("n4    skipped     0      0.0  a canary failed before it\n"), "{out}");
    assert_eq!(error, "error: 1 of 5 nodes failed, 3 were left alone\n");
    assert_eq!(rack.states()[1..], [State::Off, State::Running, State::Running, State::Running]);
    rack.nodes[0].state.lock().unwrap().guests[0].machine.name = "web".into();
    let (out, error) = rack.workstation.expect(0, &run);
    assert!(out.contains("web: shutdown requested") && error.is_empty(), "{out}{error}");
    assert_eq!(rack.states(), [State::Off; 5]);
    rack.workstation.expect(2, &["fleet", "run", "console", "web"]);
    rack.workstation.expect(2, &["fleet", "run", "fleet", "status"]);
    rack.workstation.expect(2, &["fleet", "run", "lsit"]);
    let most = ["fleet", "run", "--max-failures", "1", "--max-parallel", "1", "pause", "nobody"];
    let (out, _) = rack.workstation.expect(8, &most);
    assert_eq!(out.matches("too many failed before it").count(), 4);
}

#[test]
fn options_may_be_before_the_verb_that_is_run_or_after_it() {
    let rack = Rack::with_guests(3);
    let count = |arguments: &[&str]| rack.workstation.expect(0, arguments).0.lines().count() - 1;
    assert_eq!(count(&["fleet", "run", "list"]), 3, "what REDOUBT_NODE says");
    assert_eq!(count(&["fleet", "run", "-n", "n1", "list"]), 1);
    assert_eq!(count(&["fleet", "run", "list", "-n", "n1,n2"]), 2);
    let none = rack.workstation.directory.path().join("none.key");
    for arguments in
        [["fleet", "run", "-i", as_text(&none), "list"], ["fleet", "run", "list", "-i", as_text(&none)]]
    {
        let (out, _) = rack.workstation.expect(8, &arguments);
        assert_eq!(out.matches("redoubt key init").count(), 3, "{out}");
    }
    let (out, _) = rack.workstation.expect(0, &["fleet", "run", "pause", "web", "-N", "-o", "yaml"]);
    assert_eq!(out.matches("    status: dry-run\n").count(), 3, "{out}");
    assert_eq!(rack.states(), [State::Running; 3]);
}

#[test]
fn what_ends_guests_on_several_nodes_is_a_dry_run_first() {
    let rack = Rack::with_guests(3);
    let (out, error) = rack.workstation.expect(0, &["destroy", "web"]);
    assert_eq!(out.matches("web: destroy not done, this is a dry run").count(), 3);
    assert_eq!(error, "note: a dry run, as this is for 3 nodes; --yes does it\n");
    rack.workstation.expect(0, &["-N", "-n", "n1", "destroy", "web"]);
    assert_eq!(rack.states(), [State::Running; 3]);
    let (_, error) = rack.workstation.expect(0, &["-n", "n1", "destroy", "web"]);
    assert_eq!(error, "", "one node needs no second word");
    rack.workstation.expect(8, &["--yes", "destroy", "web"]);
    assert!(rack.nodes.iter().all(|node| node.state.lock().unwrap().guests.is_empty()));
}

/// A pipe gives its passphrase once: whoever asks again waits for ever.
#[test]
fn a_passphrase_is_asked_for_once_however_many_nodes_there_are() {
    let rack = Rack::with_guests(5);
    let key = rack.workstation.directory.path().join("redoubt/operator.key");
    let word = rack.workstation.file("word", "correct horse\n");
    std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut encrypt = rack.workstation.command(&["key", "encrypt", as_text(&key)]);
    assert!(encrypt.env("REDOUBT_PASSPHRASE_FILE", &word).status().unwrap().success());
    let pipe = rack.workstation.directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").args(["-m", "600", as_text(&pipe)]).status().unwrap();
    assert!(made.success());
    let mut list = rack.workstation.command(&["list", "-o", "name"]);
    list.env("REDOUBT_PASSPHRASE_FILE", &pipe).stdout(std::process::Stdio::piped());
    let mut child = list.spawn().unwrap();
    std::fs::write(&pipe, "correct horse\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it was asked for again");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 5);
}

#[test]
fn names_that_lead_nowhere() {
    let rack = rack(2);
    let (_, error) = rack.workstation.expect(3, &["-n", "@rakc", "list"]);
    assert_eq!(error, "error: @rakc: the fleet has no such group (did you mean @rack?)\n");
    let (_, error) = rack.workstation.expect(6, &["-n", "daed", "list", "--timeout", "5"]);
    assert!(error.contains("did you mean dead?"), "{error}");
    let (_, error) = rack.workstation.expect(2, &["console", "web"]);
    assert!(error.contains("names 2 nodes"), "{error}");
    rack.workstation.expect(2, &["--node-key", &"ab".repeat(32), "list"]);
    rack.workstation.expect(2, &["-n", "n1,,n0", "list"]);
    for (text, object) in [
        ("[groups]\na = [\"@b\"]\nb = [\"@a\"]\n", "holds itself"),
        ("[groups]\na = [\"@c\"]\n", "no such group"),
        ("[nodes.x]\nadress = \"1\"\n", "adress"),
        ("[nodes.x]\naddress = \"1\"\nnode_key = \"ab\"\n", "hexadecimal"),
    ] {
        let file = rack.workstation.file("bad.toml", text);
        let output = rack.workstation.run(&["--fleet", as_text(&file), "-n", "x", "list"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(object) && error.contains("bad.toml"), "{error}");
    }
    // A key that is pinned in the fleet file is the only one that counts.
    let pinned =
        format!("[nodes.x]\naddress = \"{}\"\nnode_key = \"{}\"\n", rack.nodes[0].address, "ab".repeat(32));
    let file = rack.workstation.file("pinned.toml", &pinned);
    rack.workstation.expect(5, &["--fleet", as_text(&file), "-n", "x", "list"]);
    // What its owner sealed counts, whatever key it has; its name is known to the node first.
    let address = &rack.nodes[0].address;
    let sealed = |name: &str, manifest: &str| {
        let text = format!(
            "[nodes.x]\naddress = \"{address}\"\nname = \"{name}\"\nmanifest = \"{manifest}\"\n\
             fresh_identity = true\n"
        );
        as_text(&rack.workstation.file("sealed.toml", &text)).to_string()
    };
    let list = |code, file: &str| rack.workstation.expect(code, &["--fleet", file, "-n", "x", "list"]).1;
    let manifest = "06".repeat(32);
    list(0, &sealed("fake", &manifest));
    assert!(list(5, &sealed("fake", &"07".repeat(32))).contains("sealed settings are 0606"));
    assert!(list(5, &sealed("other", &manifest)).contains("it is not called other"));
}
