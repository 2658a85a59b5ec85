//! What a node keeps: shown, changed, exported and imported.

use crate::fake::{FakeNode, Workstation, as_text, operator};
use mgmt_proto::state::{StateCondition, StateFacts};

fn with_file(text: &str) -> (FakeNode, Workstation, String) {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let path = workstation.file("web.vm", text);
    let path = as_text(&path).to_string();
    (node, workstation, path)
}

const VM: &str = "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n";

#[test]
fn a_guest_starts_with_the_node_as_its_file_says_or_as_it_is_told() {
    let (node, workstation, file) = with_file(&format!("{VM}autostart = 7\n"));
    workstation.expect(0, &["create", &file]);
    assert_eq!(node.state.lock().unwrap().kept.guests[0].order, 7);
    let (wide, _) = workstation.expect(0, &["list", "-o", "wide"]);
    assert!(wide.lines().next().unwrap().ends_with("Autostart") && wide.trim_end().ends_with('7'), "{wide}");
    let (out, _) = workstation.expect(0, &["autostart"]);
    assert!(out.starts_with("Name  Order  Kernel        Problem\nweb       7  "), "{out}");
    assert_eq!(workstation.expect(0, &["autostart", "-o", "name"]).0, "web\n");
    workstation.expect(0, &["autostart", "web", "off", "-N"]);
    assert_eq!(node.state.lock().unwrap().kept.guests.len(), 1);
    assert_eq!(workstation.expect(0, &["autostart", "web", "off"]).0, "web: autostart off done\n");
    assert!(node.state.lock().unwrap().kept.guests.is_empty());
    workstation.expect(0, &["autostart", "web", "on"]);
    assert_eq!(node.state.lock().unwrap().kept.guests[0].order, 100);
    workstation.expect(0, &["autostart", "web", "on", "--order", "3"]);
    assert_eq!(node.state.lock().unwrap().kept.guests[0].order, 3);
    workstation.expect(3, &["autostart", "nobody", "on"]);
    for verb in [&["block-attach", "web", "aoe:e1.2"][..], &["limit", "web", "--operations-per-s", "5"]] {
        let (_, note) = workstation.expect(0, verb);
        assert!(note.contains("web starts with the node, from now on with this change"), "{note}");
    }
    workstation.expect(4, &["start", "web"]);
    workstation.expect(4, &["start", "web", "-N"]);
    let (_, note) = workstation.expect(0, &["destroy", "web"]);
    assert!(note.contains("web starts again with the node"), "{note}");
    assert_eq!(workstation.expect(0, &["start", "web", "-N"]).0, "web: start not done, this is a dry run\n");
    assert_eq!(workstation.expect(0, &["start", "web"]).0, "web: start done (ID 9)\n");
    for more in [&[][..], &["-N"]] {
        let (_, error) = workstation.expect(3, &[&["start", "wbe"][..], more].concat());
        assert!(error.contains("did you mean web?"), "{error}");
    }
    workstation.expect(2, &["autostart", "web"]);
    workstation.expect(2, &["autostart", "web", "perhaps"]);
    let file = workstation.file("soon.vm", &format!("{VM}autostart = \"soon\"\n"));
    let (_, error) = workstation.expect(2, &["create", as_text(&file)]);
    assert!(error.contains("line 4") && error.contains("lower ones start first"), "{error}");
}

#[test]
fn node_info_says_what_will_be_forgotten() {
    let (node, workstation, _) = with_file(VM);
    let (out, _) = workstation.expect(0, &["node", "info"]);
    assert!(
        out.contains("state         nothing is kept: identity, trust bundle, guests' definitions"),
        "{out}"
    );
    node.state.lock().unwrap().kept = StateFacts {
        condition: StateCondition::Connecting,
        volume: "aoe:e9.0".into(),
        problem: Some("does not answer yet".into()),
        fresh_identity: true,
        ..StateFacts::default()
    };
    let (out, _) = workstation.expect(0, &["node", "info"]);
    let said =
        "not kept yet: aoe:e9.0 does not answer yet; until it comes the node obeys only requests that look";
    assert!(out.contains(&format!("state         {said}\n")), "{out}");
    assert!(workstation.expect(0, &["node", "state", "-o", "yaml"]).0.contains("obeys: looks\n"));
    node.state.lock().unwrap().kept = StateFacts {
        condition: StateCondition::Kept,
        volume: "aoe:e9.0".into(),
        serial: [0xab; 16],
        ..StateFacts::default()
    };
    let (out, _) = workstation.expect(0, &["node", "info"]);
    assert!(out.contains(&format!("state         kept on aoe:e9.0, serial {}\n", "ab".repeat(16))), "{out}");
    let (out, _) = workstation.expect(0, &["node", "state", "-o", "json"]);
    assert!(out.contains("\"condition\": \"kept\""), "{out}");
}

#[test]
fn a_configuration_is_exported_and_imported() {
    let (_node, workstation, file) = with_file(VM);
    workstation.expect(0, &["create", &file]);
    let path = workstation.directory.path().join("node.config");
    let path = as_text(&path);
    workstation.expect(0, &["node", "config", "export", path]);
    workstation.expect(4, &["node", "config", "export", path]);
    let (out, note) = workstation.expect(0, &["node", "config", "import", path]);
    let lacks = "web: starts with the node; its kernel or initrd is not here: send it by `create`\n";
    assert!(out.contains(&format!("{lacks}trust: bundle 3, from the file")), "{out}");
    assert!(note.contains("was signed by node fake"), "{note}");
    let (out, _) = workstation.expect(0, &["node", "config", "import", "-N", path]);
    assert!(out.contains("dry run"), "{out}");
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
    let (_, error) = workstation.expect(13, &["node", "config", "import", path]);
    assert!(error.contains("was altered"), "{error}");
    workstation.expect(13, &["node", "config", "import", &file]);
}
