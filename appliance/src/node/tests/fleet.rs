//! Twenty whole nodes in one process, commanded by the real CLI over real sockets.
//!
//! Each node has a thread, a simulated wire and a clock that follows the real one;
//! what a client says to a socket of this machine is said on that wire.

extern crate std;

use std::format;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::vec;
use std::vec::Vec;

use std::sync::Arc;

use mgmt_proto::trust::{Operator, Role};
use netstack::host::{ConnectionId, ConnectionState, TcpOptions};

use super::world::*;

/// How long the slow node takes for whatever it is sent.
const SLOW: Duration = Duration::from_millis(300);
/// Pause between looks at the sockets.
const PAUSE: Duration = Duration::from_millis(1);
const NODES: usize = 20;

/// The CLI, built by the cargo that runs this test.
fn program() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--quiet", "-p", "redoubt"]).status().unwrap();
    assert!(built.success(), "the CLI does not build");
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("redoubt")
}

/// What is wrong with a node, or the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// It takes long for whatever it is sent.
    Slow,
    /// Its connections break after some octets, more or fewer.
    Breaks,
}

/// A client's socket and its connection on the simulated wire.
struct Link {
    /// Breaks after so many more octets.
    octets_left: usize,
    stream: TcpStream,
    connection: ConnectionId,
    to_node: Vec<u8>,
    is_over: bool,
}

impl Link {
    /// Moves bytes both ways; true when something came from the client.
    fn exchange(&mut self, world: &mut World) -> bool {
        let mut buffer = [0; 16_384];
        let came = match self.stream.read(&mut buffer) {
            Ok(0) => {
                world.operator.close(self.connection, world.now_ns);
                self.is_over = true;
                false
            }
            Ok(count) if count > self.octets_left => {
                world.operator.abort(self.connection, world.now_ns);
                self.is_over = true;
                false
            }
            Ok(count) => {
                self.octets_left -= count;
                self.to_node.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) => {
                self.is_over = error.kind() != ErrorKind::WouldBlock;
                false
            }
        };
        let state = world.operator.state(self.connection);
        if state == ConnectionState::Established {
            let taken = world.operator.write(self.connection, &self.to_node);
            self.to_node.drain(..taken);
        }
        let count = world.operator.read(self.connection, &mut buffer);
        if count > 0 {
            self.stream.set_nonblocking(false).unwrap();
            self.is_over |= self.stream.write_all(&buffer[..count]).is_err();
            self.stream.set_nonblocking(true).unwrap();
        } else if matches!(state, ConnectionState::PeerClosed | ConnectionState::Closed) {
            self.is_over = true;
        }
        came
    }
}

/// A node until it is told to stop: then nothing answers there.
fn live(seed: u64, listener: &TcpListener, operator: [u8; 32], trouble: Trouble, stop: &AtomicBool) {
    let mut settings = settings();
    settings.manifest.operators = vec![Operator { key: operator, role: Role::Admin }];
    settings.manifest.owner = operator;
    let mut world = World::with(seed, settings);
    let mut links: Vec<Link> = Vec::new();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            let connection = world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT).unwrap();
            let octets_left = match trouble {
                Trouble::Breaks => 50_000 + world.random.index(400_000),
                _ => usize::MAX,
            };
            links.push(Link { octets_left, stream, connection, to_node: Vec::new(), is_over: false });
        }
        for link in &mut links {
            if link.exchange(&mut world) && trouble == Trouble::Slow {
                std::thread::sleep(SLOW);
            }
        }
        links.retain(|link| !link.is_over);
        let now = Instant::now();
        world.run(u64::try_from((now - last).as_nanos()).unwrap());
        last = now;
        std::thread::sleep(PAUSE);
    }
}

struct Rack {
    directory: PathBuf,
    program: PathBuf,
    threads: Vec<(Arc<AtomicBool>, Option<JoinHandle<()>>)>,
}

impl Rack {
    fn new(troubles: &[Trouble]) -> Self {
        let program = program();
        let directory =
            std::env::temp_dir().join(format!("redoubt-fleet-{}-{}", std::process::id(), troubles.len()));
        let configuration = directory.join("redoubt");
        std::fs::create_dir_all(&configuration).unwrap();
        let mut rack = Self { directory, program, threads: Vec::new() };
        rack.expect(0, &["key", "init", "--dir", configuration.to_str().unwrap()]);
        let public = std::fs::read_to_string(configuration.join("operator.key.pub")).unwrap();
        let digits = public.split_whitespace().nth(1).unwrap();
        let mut operator = [0; 32];
        for (byte, pair) in operator.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        let mut fleet = String::new();
        for (index, trouble) in troubles.iter().copied().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            fleet += &format!("[nodes.n{index}]\naddress = \"{}\"\n", listener.local_addr().unwrap());
            let stop = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&stop);
            let seed = 1_000 + u64::try_from(index).unwrap();
            let thread = std::thread::spawn(move || live(seed, &listener, operator, trouble, &told));
            rack.threads.push((stop, Some(thread)));
        }
        let names: Vec<String> = (0..troubles.len()).map(|index| format!("\"n{index}\"")).collect();
        fleet += &format!("[groups]\nrack = [{}]\n", names.join(", "));
        std::fs::write(configuration.join("fleet.toml"), fleet).unwrap();
        std::fs::write(rack.directory.join("vmlinuz"), kernel()).unwrap();
        std::fs::write(rack.directory.join("web.vm"), "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 128\n")
            .unwrap();
        rack
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("XDG_CONFIG_HOME", &self.directory);
        command.env("REDOUBT_NODE", "@rack").stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn expect(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let (got, out, error) = self.run(arguments);
        assert_eq!(got, code, "{arguments:?}: {out}{error}");
        (out, error)
    }

    /// Second column of the table of results, node by node.
    fn results(out: &str) -> Vec<String> {
        out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_string).collect()
    }

    fn power_off(&mut self, index: usize) {
        let (stop, thread) = &mut self.threads[index];
        stop.store(true, Ordering::Relaxed);
        if let Some(thread) = thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.threads.iter().for_each(|(stop, _)| stop.store(true, Ordering::Relaxed));
        for thread in self.threads.iter_mut().filter_map(|(_, thread)| thread.take()) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn twenty_nodes_and_the_real_program() {
    let mut troubles = [Trouble::None; NODES];
    troubles[NODES - 2] = Trouble::Slow;
    let mut rack = Rack::new(&troubles);
    let file: &Path = &rack.directory.join("web.vm");
    let (out, _) = rack.expect(0, &["create", file.to_str().unwrap()]);
    assert_eq!(out.matches("web: create done").count(), NODES, "{out}");
    let (out, _) = rack.expect(0, &["list"]);
    assert_eq!(out.lines().filter(|line| line.contains("r-----")).count(), NODES, "{out}");

    // One is dead now. One is slow, and nobody waits for it but who asks it.
    rack.power_off(NODES - 1);
    let (out, error) = rack.expect(8, &["--timeout", "20", "fleet", "run", "info", "web"]);
    let mut expected = vec!["done".to_string(); NODES];
    expected[NODES - 1] = "failed".to_string();
    assert_eq!(Rack::results(&out), expected, "{out}");
    assert!(error.contains("1 of 20 nodes failed"), "{error}");
    let seconds = |name: &str| -> f64 {
        let line = out.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    assert!(seconds("n18 ") >= SLOW.as_secs_f64(), "{out}");

    // A canary without the guest: the others are left alone.
    rack.expect(0, &["-n", "n0", "--yes", "destroy", "web"]);
    let pause = ["fleet", "run", "--canary", "2", "--yes", "pause", "web"];
    let (out, error) = rack.expect(8, &pause);
    let results = Rack::results(&out);
    assert_eq!(results[..2], ["failed".to_string(), "done".to_string()], "{out}");
    assert!(results[2..].iter().all(|result| result == "skipped"), "{out}");
    assert!(error.contains("18 were left alone"), "{error}");
    let (out, _) = rack.expect(8, &["list"]);
    assert_eq!(out.lines().filter(|line| line.contains("r-----")).count(), NODES - 3, "{out}");

    // And without a canary each for itself: one has no guest, one is paused already, one
    // is dead.
    let (out, _) = rack.expect(8, &["fleet", "run", "--yes", "pause", "web"]);
    assert_eq!(Rack::results(&out).iter().filter(|result| *result == "failed").count(), 3, "{out}");
    let (out, _) = rack.expect(8, &["list"]);
    assert_eq!(out.lines().filter(|line| line.contains("--p---")).count(), NODES - 2, "{out}");
}

#[test]
fn the_program_goes_on_with_an_upload_wherever_its_connection_breaks() {
    let rack = Rack::new(&[Trouble::Breaks]);
    let mut random = machine::test_random::TestRandom(0xb4ea);
    let initrd: Vec<u8> = (0..3_000_000).map(|_| random.byte()).collect();
    std::fs::write(rack.directory.join("initrd"), &initrd).unwrap();
    let file = rack.directory.join("large.vm");
    std::fs::write(&file, "name = \"large\"\nkernel = \"vmlinuz\"\nramdisk = \"initrd\"\nmemory = 128\n")
        .unwrap();
    let create = ["--timeout", "60", "create", file.to_str().unwrap()];
    let (out, _) = rack.expect(0, &create);
    assert!(out.contains("large: create done"), "{out}");
    let (out, _) = rack.expect(0, &["-o", "json", "audit", "show"]);
    let announced = out.matches("\"blob put\"").count();
    // What a node writes is found good by whoever judges it.
    let public = rack.directory.join("redoubt/operator.key.pub");
    let public = public.to_str().unwrap();
    let sealed = rack.directory.join("node.toml");
    std::fs::write(
        &sealed,
        format!("name = \"node\"\noperators = [{{ key_file = \"{public}\", role = \"admin\" }}]\n"),
    )
    .unwrap();
    let judged = ["audit", "verify", "--root", public, "--sealed", sealed.to_str().unwrap()];
    rack.expect(0, &judged);
    std::fs::write(
        &sealed,
        format!("name = \"node\"\noperators = [{{ key_file = \"{public}\", role = \"viewer\" }}]\n"),
    )
    .unwrap();
    let (verdict, _) = rack.expect(8, &judged);
    assert_eq!(
        verdict.matches("who was not operator then, as blob put takes").count(),
        announced,
        "{verdict}"
    );
    // A session takes 250,000 octets more or less.
    assert!((8..=60).contains(&announced), "{announced}: {out}");
}
