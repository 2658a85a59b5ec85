//! The library and the program against a node in this process: the protocol's own
//! server over a real socket, with guests that are only names.

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use mgmt_proto::code::{Code, Failure};
    use mgmt_proto::handshake::OperatorKey;
    use mgmt_proto::server::{Identity, Incoming, Server};
    use mgmt_proto::trust::{Operator, Role, Trust};
    use mgmt_proto::verb::{GuestFacts, NodeFacts, Outcome, Reply, Request, State, Stream};
    use redoubt::Connection;
    use sha2::{Digest, Sha256};
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct World {
        blobs: BTreeMap<[u8; 32], Vec<u8>>,
        uploads: usize,
        guests: Vec<GuestFacts>,
        typed: Vec<u8>,
        upload: Option<([u8; 32], u64, Vec<u8>)>,
    }

    impl World {
        fn not_found(name: &str) -> Failure {
            Failure::new(Code::NotFound, name, "no guest has that name", "see `redoubt list`")
        }

        fn guest(&mut self, name: &str) -> Result<&mut GuestFacts, Failure> {
            let found = self.guests.iter_mut().find(|guest| guest.machine.name == name);
            found.ok_or_else(|| Self::not_found(name))
        }

        fn execute(&mut self, request: Request) -> Outcome {
            match request {
                Request::NodeInfo => Ok(Reply::Node(NodeFacts { cpus: 2, ..NodeFacts::default() })),
                Request::NodeLog { from } => {
                    let log = b"one\ntwo\n";
                    let bytes = log.get(usize::try_from(from).unwrap()..).unwrap().to_vec();
                    Ok(Reply::Stream(Stream { bytes, next: 8 }))
                }
                Request::BlobMissing(digests) => Ok(Reply::Missing(
                    digests.into_iter().filter(|digest| !self.blobs.contains_key(digest)).collect(),
                )),
                Request::BlobPut { length: 7, .. } => {
                    Err(Failure::new(Code::Capacity, "", "no room", "destroy a guest"))
                }
                Request::BlobPut { digest, length } => {
                    self.upload = Some((digest, length, Vec::new()));
                    Ok(Reply::Done)
                }
                Request::Create { machine, paused } => {
                    if !self.blobs.contains_key(&machine.kernel) {
                        return Err(Failure::new(Code::NotFound, &machine.name, "no kernel", ""));
                    }
                    if self.guest(&machine.name).is_ok() {
                        return Err(Failure::new(
                            Code::Conflict,
                            &machine.name,
                            "the name is in use",
                            "rename",
                        ));
                    }
                    let id = u32::try_from(self.guests.len()).unwrap() + 1;
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
                        disks: Vec::new(),
                    });
                    Ok(Reply::Created(id))
                }
                other => self.execute_on_guest(other),
            }
        }

        fn execute_on_guest(&mut self, request: Request) -> Outcome {
            match request {
                Request::List => Ok(Reply::Guests(self.guests.clone())),
                Request::Info { name } => Ok(Reply::Guests(vec![self.guest(&name)?.clone()])),
                Request::ConsoleRead { name, from } => {
                    self.guest(&name)?;
                    let text = [b"login: ", &self.typed[..]].concat();
                    let bytes = text.get(usize::try_from(from).unwrap()..).unwrap_or_default().to_vec();
                    // The guest ends when it is told to.
                    if self.typed.ends_with(b"exit\n") && bytes.is_empty() {
                        self.guests.retain(|guest| guest.machine.name != name);
                    }
                    Ok(Reply::Stream(Stream { bytes, next: text.len() as u64 }))
                }
                Request::ConsoleWrite { name, bytes } => {
                    self.guest(&name)?;
                    self.typed.extend(bytes);
                    Ok(Reply::Done)
                }
                Request::Unpause { name } => {
                    self.guest(&name)?.state = State::Running;
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
                _ => Err(Failure::new(Code::Policy, "", "not here", "")),
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
                return Some(Err(Failure::new(Code::Integrity, "", "not what its digest says", "")));
            }
            self.uploads += 1;
            self.blobs.insert(digest, received);
            Some(Ok(Reply::Done))
        }
    }

    struct FakeNode {
        address: String,
        state: Arc<Mutex<World>>,
        identity: SigningKey,
    }

    fn serve(mut stream: TcpStream, state: &Mutex<World>, identity: &Identity, trust: &Trust) {
        let mut server = Server::new(0);
        let mut buffer = [0; 8192];
        let mut random = || *keys::random::bytes().unwrap();
        loop {
            let room = server.room().min(buffer.len());
            let Ok(count) = stream.read(&mut buffer[..room]) else { return };
            if count == 0 || server.receive(&buffer[..count]).is_err() {
                return;
            }
            loop {
                let outcome = match server.next(identity, trust, &mut random, 0) {
                    Ok(Some(Incoming::Command(verified, _))) => {
                        let request = verified.into_inner();
                        if matches!(request, Request::NodeStop { .. }) {
                            return;
                        }
                        Some(state.lock().unwrap().execute(request))
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
        fn start(operator: &SigningKey) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let state = Arc::new(Mutex::new(World::default()));
            let identity = SigningKey::from_bytes(&[9; 32]);
            let operators = vec![Operator { key: operator.public(), role: Role::Admin }];
            let (shared, key) = (Arc::clone(&state), identity.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (shared, key, operators) = (Arc::clone(&shared), key.clone(), operators.clone());
                    std::thread::spawn(move || {
                        let identity = Identity { key, boot_nonce: [5; 32] };
                        serve(stream.unwrap(), &shared, &identity, &Trust::new(operators));
                    });
                }
            });
            Self { address, state, identity }
        }
    }

    fn operator() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

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
            let bytes: Vec<u8> =
                (0..length).map(|index: u32| index.to_le_bytes()[index as usize % 3]).collect();
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
        let silent = Connection::open_within(&address, &operator(), None, timeout);
        assert_eq!(code(silent), Code::Unreachable, "somebody who says nothing");
        drop(listener);
        assert_eq!(code(Connection::open(&address, &operator(), None)), Code::Unreachable);
    }

    #[test]
    fn waiting_for_a_node_that_starts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let timeout = std::time::Duration::from_secs(20);
        let waiter = std::thread::spawn(move || Connection::wait_for(&address, &operator(), None, timeout));
        // A port forwarder accepts and closes.
        drop(listener.accept().unwrap());
        let (stream, _) = listener.accept().unwrap();
        let operators = vec![Operator { key: operator().public(), role: Role::Admin }];
        let identity = Identity { key: SigningKey::from_bytes(&[9; 32]), boot_nonce: [5; 32] };
        let server = std::thread::spawn(move || {
            serve(stream, &Mutex::default(), &identity, &Trust::new(operators));
        });
        assert!(waiter.join().unwrap().is_ok());
        server.join().unwrap();
    }

    struct Workstation {
        directory: tempfile::TempDir,
        node: String,
    }

    impl Workstation {
        fn new(node: &FakeNode) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("redoubt");
            std::fs::create_dir(&path).unwrap();
            keys::secret::save(&path.join("operator.key"), &operator(), keys::Existing::Keep).unwrap();
            Self { directory, node: node.address.clone() }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn command(&self, arguments: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_redoubt"));
            command.args(arguments).env_clear().env("XDG_CONFIG_HOME", self.directory.path());
            command.env("REDOUBT_NODE", &self.node).stdin(Stdio::null());
            command
        }

        fn run(&self, arguments: &[&str]) -> Output {
            self.command(arguments).output().unwrap()
        }

        /// Runs, expects this exit code, returns stdout and stderr.
        fn expect(&self, code: i32, arguments: &[&str]) -> (String, String) {
            let output = self.run(arguments);
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let (out, error) = (text(output.stdout), text(output.stderr));
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
            (out, error)
        }
    }

    fn as_text(path: &Path) -> &str {
        path.to_str().unwrap()
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
        workstation.expect(0, &["unpause", "2"]);
        let (out, _) = workstation.expect(0, &["-o", "json", "info", "db"]);
        let info: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&info["name"], &info["state"]), (&"db".into(), &"running".into()));
        let (out, _) = workstation.expect(0, &["-o", "json", "shutdown", "-w", "db"]);
        let done: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(done, serde_json::json!({"object": "db", "verb": "shutdown", "status": "done"}));
        assert_eq!(workstation.expect(0, &["destroy", "db"]).0, "db: destroy done\n");
        let (_, error) = workstation.expect(3, &["info", "db"]);
        assert_eq!(error, "error: db: no guest has that name (see `redoubt list`)\n");
        assert_eq!(workstation.expect(0, &["shutdown", "-a"]).0, "web: shutdown requested\n");
        assert_eq!(workstation.expect(0, &["node", "log"]).0, "one\ntwo\n");
        workstation.expect(0, &["node", "poweroff"]);
        workstation.expect(10, &["storage", "discover"]);
    }

    #[test]
    fn the_console_without_a_terminal() {
        let node = FakeNode::start(&operator());
        let workstation = Workstation::new(&node);
        workstation.file("vmlinuz", "a kernel");
        let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
        workstation.expect(0, &["create", as_text(&file)]);
        assert_eq!(workstation.expect(0, &["console", "--once", "web"]).0, "login: ");
        let mut command = workstation.command(&["console", "web"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"root\nexit\n").unwrap();
        let output = child.wait_with_output().unwrap();
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
}
