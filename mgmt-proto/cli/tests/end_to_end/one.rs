//! One node: the library, and a guest's life on the command line.

use crate::fake::{FakeDoor, FakeNode, Workstation, as_text, operator, serve};
use ed25519_dalek::SigningKey;
use mgmt_proto::code::Code;
use mgmt_proto::code::Failure;
use mgmt_proto::handshake::{Meant, OperatorKey};
use mgmt_proto::server::Identity;
use mgmt_proto::trust::{Operator, Role, Trust};
use mgmt_proto::verb::{Reply, Request};
use redoubt::Connection;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Mutex;

#[test]
fn requests_and_uploads() {
    let node = FakeNode::start(&operator());
    let expected = node.identity.verifying_key().to_bytes();
    let mut connection = Connection::open(&node.address, &operator(), Some(&expected)).unwrap();
    assert_eq!(*connection.node(), expected);
    assert!(matches!(connection.request(Request::NodeInfo), Ok(Reply::Node(facts)) if facts.cpus == 2));
    let directory = tempfile::tempdir().unwrap();
    for length in [1, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 3_000_000] {
        let path = directory.path().join("blob");
        let bytes: Vec<u8> = (0..length).map(|index: u32| index.to_le_bytes()[index as usize % 3]).collect();
        std::fs::write(&path, &bytes).unwrap();
        let digest = connection.upload(&path).unwrap();
        assert_eq!(node.state.lock().unwrap().blobs[&digest], bytes);
    }
    let path = directory.path().join("refused");
    std::fs::write(&path, [1; 7]).unwrap();
    let failure = connection.upload(&path).unwrap_err();
    assert_eq!(failure.code, Code::Capacity);
    assert!(failure.object.ends_with("refused"), "{failure}");
    std::fs::write(&path, []).unwrap();
    assert_eq!(connection.upload(&path).unwrap_err().code, Code::Usage);
    assert!(connection.request(Request::NodeInfo).is_ok(), "the session goes on");
}

#[test]
fn strangers_and_impostors() {
    let node = FakeNode::start(&operator());
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let code = |result: Result<Connection, Failure>| result.err().unwrap().code;
    assert_eq!(code(Connection::open(&node.address, &stranger, None)), Code::Refused);
    assert_eq!(code(Connection::open(&node.address, &operator(), Some(&[1; 32]))), Code::Refused);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timeout = std::time::Duration::from_millis(200);
    let silent = Connection::open_within(&address, &operator(), &Meant::default(), timeout);
    assert_eq!(code(silent), Code::Unreachable, "somebody who says nothing");
    drop(listener);
    assert_eq!(code(Connection::open(&address, &operator(), None)), Code::Unreachable);
}

#[test]
fn waiting_for_a_node_that_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timeout = std::time::Duration::from_secs(20);
    let waiter =
        std::thread::spawn(move || Connection::wait_for(&address, &operator(), &Meant::default(), timeout));
    // A port forwarder accepts and closes.
    drop(listener.accept().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let operators = vec![Operator { key: operator().public(), role: Role::Admin }];
    let identity = Identity {
        key: SigningKey::from_bytes(&[9; 32]),
        boot_nonce: [5; 32],
        name: "fake".to_string(),
        manifest: [6; 32],
        former: Vec::new(),
    };
    let server = std::thread::spawn(move || {
        let trust = Trust::sealed([1; 32], &operators, "fake");
        serve(stream, &Mutex::default(), &identity, &trust, &FakeDoor::new());
    });
    assert!(waiter.join().unwrap().is_ok());
    server.join().unwrap();
}

#[test]
fn a_guest_s_life_on_the_command_line() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    let (out, error) = workstation.expect(0, &["create", as_text(&file)]);
    assert_eq!(out, "web: create done (ID 1)\n");
    assert!(error.starts_with("note: first contact"), "{error}");
    let (_, error) = workstation.expect(4, &["create", as_text(&file)]);
    assert_eq!(error, "error: web: the name is in use (rename)\n");
    workstation.expect(0, &["create", as_text(&file), "name=db", "-p"]);
    assert_eq!(node.state.lock().unwrap().uploads, 1, "the kernel travels once");
    let table = "Name  ID  Mem  VCPUs  State   Time(s)\nweb    1   64      1  r-----      0.0\n\
                 db     2   64      1  --p---      0.0\n";
    assert_eq!(workstation.expect(0, &["list"]).0, table);
    assert_eq!(workstation.expect(0, &["list", "-o", "name"]).0, "web\ndb\n");
    assert_eq!(workstation.expect(0, &["revision", "2"]).0, "7\n");
    let (_, error) = workstation.expect(4, &["unpause", "2", "--if-revision", "6"]);
    assert_eq!(error, "error: db: was changed meanwhile (look at it again)\n");
    workstation.expect(0, &["unpause", "2", "--if-revision", "7"]);
    let (out, _) = workstation.expect(0, &["-o", "json", "info", "db"]);
    let info: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&info["name"], &info["state"]), (&"db".into(), &"running".into()));
    let (out, _) = workstation.expect(0, &["-o", "json", "shutdown", "-w", "db"]);
    let done: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(done, serde_json::json!({"object": "db", "verb": "shutdown", "status": "done"}));
    assert_eq!(workstation.expect(0, &["destroy", "db"]).0, "db: destroy done\n");
    let (_, error) = workstation.expect(3, &["info", "db"]);
    assert_eq!(error, "error: db: no guest has that name or ID (see `redoubt list`)\n");
    assert_eq!(workstation.expect(0, &["shutdown", "-a"]).0, "web: shutdown requested\n");
    assert_eq!(workstation.expect(0, &["node", "log"]).0, "one\ntwo\n");
    let previous = |more: &[&str]| {
        let (out, _) = workstation.expect(0, &[&["node", "log", "--previous"], more].concat());
        out.lines().filter_map(|line| line.rsplit(' ').next()).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(previous(&[]), ["one", "two", "three"]);
    assert_eq!(previous(&["--level", "warn"]), ["two", "three"]);
    assert_eq!(previous(&["--target", "storage", "--target", "memory"]), ["one", "two"]);
    assert_eq!(previous(&["--level", "error", "--target", "storage"]), [""; 0]);
    let (_, error) = workstation.expect(2, &["node", "log", "--level", "loud"]);
    assert!(error.contains("[possible values: error, warn, info]"), "{error}");
    workstation.expect(0, &["node", "poweroff"]);
    workstation.expect(10, &["reboot", "web"]);
}

#[test]
fn one_command_acts_on_several_guests() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    for name in ["web", "db", "mail"] {
        workstation.expect(0, &["create", as_text(&file), &format!("name={name}"), "-p"]);
    }
    let both = "web: unpause done\ndb: unpause done\n";
    assert_eq!(workstation.expect(0, &["unpause", "web", "2", "db"]).0, both, "each once");
    // A name that is wrong ends it before anything is done.
    workstation.expect(3, &["destroy", "web", "bd"]);
    workstation.expect(2, &["destroy", "web", "db", "--if-revision", "7"]);
    workstation.expect(2, &["shutdown", "--all", "--if-revision", "7"]);
    assert_eq!(node.state.lock().unwrap().guests.len(), 3);
    let (out, _) = workstation.expect(0, &["-o", "json", "shutdown", "web", "db"]);
    let done: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(done.as_array().unwrap().len(), 2);
    // One that refuses keeps nothing from the others.
    workstation.expect(0, &["create", as_text(&file), "name=code-4"]);
    let (out, error) = workstation.expect(8, &["unpause", "web", "code-4", "db"]);
    assert_eq!(out, "web: unpause done\ndb: unpause done\n");
    assert!(error.contains("1 guests refused: code-4: as asked for"), "{error}");
    assert_eq!(workstation.expect(0, &["destroy", "web", "db", "mail"]).0.lines().count(), 3);
}

#[test]
fn the_console_without_a_terminal() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    workstation.expect(0, &["create", as_text(&file)]);
    assert_eq!(workstation.expect(0, &["console", "--once", "web"]).0, "login: ");
    let typed = |arguments: &[&str]| {
        let mut command = workstation.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"root\nexit\n").unwrap();
        child.wait_with_output().unwrap()
    };
    // What is typed may be a password: not to a node whose key is not compared.
    let output = typed(&["--fresh-identity", "console", "web"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("is not told secrets") && error.contains("SHA256:"), "{error}");
    assert!(output.status.code() == Some(5) && node.state.lock().unwrap().typed.is_empty());
    let output = typed(&["--fresh-identity", "--accept-new-key", "console", "web"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "login: root\nexit\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "[web: the guest is gone]\n");
    assert_eq!(output.status.code(), Some(0));
    workstation.expect(2, &["console", "-e", "abc", "web"]);
}

#[test]
fn the_console_on_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::tcgetattr;

    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    workstation.expect(0, &["create", as_text(&file)]);
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let side = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let before = tcgetattr(&side).unwrap();
    let mut command = workstation.command(&["console", "web"]);
    let mut child = command
        .stdin(side.try_clone().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut prompt = [0; 7];
    output.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"login: ");
    let raw = tcgetattr(&side).unwrap();
    assert_ne!(raw.local_modes, before.local_modes, "no echo, no line editing, no signals");
    // Ctrl+C is the guest's; Ctrl+] leaves, and what follows is not sent.
    let mut keyboard = std::fs::File::from(terminal);
    keyboard.write_all(b"ls\x03\x1dnot sent").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(node.state.lock().unwrap().typed, b"ls\x03");
    assert_eq!(tcgetattr(&side).unwrap().local_modes, before.local_modes, "as it was before");
}

#[test]
fn what_goes_wrong_has_its_exit_code() {
    let node = FakeNode::start(&operator());
    let mut workstation = Workstation::new(&node);
    let file = workstation.file("bad.vm", "name = \"web\"\nkernle = \"vmlinuz\"\n");
    let (_, error) = workstation.expect(2, &["create", as_text(&file)]);
    assert!(error.contains("line 2, column 1: unknown key kernle (did you mean kernel?)"), "{error}");
    let file = workstation.file("lost.vm", "name = \"web\"\nkernel = \"lost\"\nmemory = 64\n");
    workstation.expect(3, &["create", as_text(&file)]);
    assert!(workstation.expect(2, &["lsit"]).1.contains("'list'"));
    workstation.expect(0, &["list"]);
    // The same address with another key behind it.
    let key = "ab".repeat(32);
    workstation.expect(5, &["--node-key", &key, "list"]);
    let known = workstation.directory.path().join("redoubt/known-nodes");
    std::fs::write(&known, format!("{} {key}\n", node.address)).unwrap();
    let (_, error) = workstation.expect(5, &["list"]);
    assert!(error.contains("--fresh-identity"), "{error}");
    workstation.expect(0, &["--fresh-identity", "list"]);
    workstation.expect(0, &["list", "--accept-new-key"]);
    assert_eq!(workstation.expect(0, &["list"]).1, "");
    workstation.node = "127.0.0.1:1".into();
    workstation.expect(6, &["list"]);
    let identity = workstation.directory.path().join("none.key");
    let (_, error) = workstation.expect(3, &["-i", as_text(&identity), "list"]);
    assert!(error.contains("redoubt key init"), "{error}");
}

#[test]
fn keys_are_made_once_and_never_shown() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    let directory = workstation.directory.path().join("keys");
    let (out, error) = workstation.expect(0, &["key", "init", "--dir", as_text(&directory)]);
    for name in ["owner", "operator"] {
        let key = keys::secret::load(&directory.join(format!("{name}.key"))).unwrap();
        let public = keys::PublicKey::load(&directory.join(format!("{name}.key.pub"))).unwrap();
        assert_eq!(public.bytes, key.verifying_key().to_bytes());
        assert!(out.contains(&public.fingerprint()));
        let secret: String = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!out.contains(&secret) && !error.contains(&secret));
    }
    workstation.expect(4, &["key", "init", "--dir", as_text(&directory)]);
}

/// An OpenSSH agent, ended with the test.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_in_an_ssh_agent_signs() {
    let stranger = FakeNode::start(&operator());
    let mut workstation = Workstation::new(&stranger);
    let path = |name: &str| workstation.directory.path().join(name);
    let (socket, file) = (path("agent.sock"), path("id"));
    let command = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env("SSH_AUTH_SOCK", &socket).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let agent = match command("ssh-agent", &["-D", "-a", as_text(&socket)]).spawn() {
        Ok(child) => Agent(child),
        Err(error) => {
            eprintln!("skipped: ssh-agent: {error}");
            return;
        }
    };
    let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", as_text(&file)];
    assert!(command("ssh-keygen", &keygen).status().unwrap().success());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !socket.exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(command("ssh-add", &["-q", as_text(&file)]).status().unwrap().success());
    let run = |workstation: &Workstation, arguments: &[&str]| {
        let output = workstation.command(arguments).env("SSH_AUTH_SOCK", &socket).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (_, line, _) = run(&workstation, &["-i", "agent", "key", "show"]);
    let public = keys::PublicKey::parse(&line, "key show").unwrap();
    assert_eq!(public.comment, "me@here");
    let (_, table, _) = run(&workstation, &["key", "list"]);
    assert!(table.contains(&format!("me@here  {}  agent", public.fingerprint())), "{table}");
    let node = FakeNode::trusting(public.bytes);
    workstation.node = node.address.clone();
    let named = format!("agent:{}", public.fingerprint());
    for identity in ["agent", "agent:me@here", &named] {
        assert_eq!(run(&workstation, &["-i", identity, "node", "log"]).1, "one\ntwo\n");
    }
    assert_eq!(run(&workstation, &["node", "log"]).0, Some(5), "the file's key is a stranger here");
    assert_eq!(run(&workstation, &["-i", "agent:other", "list"]).0, Some(3));
    drop(agent);
    assert_eq!(run(&workstation, &["-i", "agent", "list"]).0, Some(3));
    assert_eq!(workstation.run(&["-i", "agent", "list"]).status.code(), Some(3), "no SSH_AUTH_SOCK");
}

#[test]
fn a_guest_is_shown_as_the_file_that_creates_it_again() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let text = "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\ndisk = [\"aoe:e1.1,ro,timeout=5s\"]\n\
                vif = [\"\"]\ncmdline = \"root=/dev/vda\"\n";
    let file = workstation.file("web.vm", text);
    workstation.expect(0, &["create", as_text(&file)]);
    let before = node.state.lock().unwrap().guests[0].machine.clone();
    let (shown, _) = workstation.expect(0, &["config", "show", "web"]);
    assert_eq!(workstation.expect(0, &["config", "show", "1"]).0, shown, "by its ID");
    let (_, error) = workstation.expect(3, &["config", "show", "wbe"]);
    assert!(error.contains("did you mean web?"), "{error}");
    assert!(shown.contains("{ volume = \"aoe:e1.1\", access = \"ro\", timeout = \"5000ms\" },\n"), "{shown}");
    let again = workstation.file("again.vm", &shown);
    workstation.expect(0, &["destroy", "web"]);
    workstation.expect(0, &["create", as_text(&again)]);
    {
        let world = node.state.lock().unwrap();
        assert_eq!((&world.guests[0].machine, world.uploads), (&before, 1), "its kernel was there");
    }
    let (out, _) = workstation.expect(0, &["-o", "json", "config", "show", "web"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["disk"][0]["timeout"], "5000ms");
    // A node that does not have the kernel any more says so.
    workstation.expect(0, &["destroy", "web"]);
    node.state.lock().unwrap().blobs.clear();
    workstation.expect(3, &["create", as_text(&again)]);
}

#[test]
fn guests_are_listed_by_name() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    for name in ["name=web", "name=db", "name=cache"] {
        workstation.expect(0, &["create", as_text(&file), name]);
    }
    let names = |arguments: &[&str]| workstation.expect(0, &[&["-o", "name"], arguments].concat()).0;
    assert_eq!(names(&["list", "cache", "1"]), "cache\nweb\n");
    // As users of other tools write it.
    assert_eq!(names(&["list", "--all"]), "web\ndb\ncache\n");
    assert_eq!(names(&["dominfo", "db"]), "db\n");
    workstation.expect(0, &["shutdown", "-F", "db"]);
    workstation.expect(0, &["node", "dmesg"]);
    assert_eq!(workstation.expect(0, &["rename", "3", "store"]).0, "cache: rename done\n");
    assert_eq!(names(&["list", "3"]), "store\n");
    workstation.expect(0, &["domrename", "store", "cache"]);
    let (out, _) = workstation.expect(0, &["sched-credit"]);
    assert_eq!(
        out,
        "Name   ID  Weight  Cap\nweb     1     256    0\ndb      2     256    0\ncache   3     256    0\n"
    );
    let (out, _) = workstation.expect(0, &["node", "ping", "-c", "3"]);
    assert!(out.starts_with("connected in ") && out.contains(" ms; 3 answers in "), "{out}");
    let (_, error) = workstation.expect(3, &["list", "web", "dbb"]);
    assert!(error.contains("did you mean db?"), "{error}");
}
