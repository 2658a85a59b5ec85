//! `redoubt storage bench`, `read` and `write` against the real vblade and tgtd, in a
//! network namespace of their own. Skips, saying why, where the tools or namespaces
//! are missing.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "an integration test is all test: it stops at the first surprise"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "REDOUBT_VOLUME_TEST_INSIDE";
const BYTES: usize = 8 << 20;
const IQN: &str = "iqn.2026-01.org.example:disk";

/// A target process, killed without warning on drop (tgtd ignores SIGTERM).
struct Process(Child);
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Process {
    Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Runs this program's test `name` again inside a fresh namespace.
fn inside(name: &str, tool: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let found = ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|at| Path::new(at).join(tool).exists());
    let works = Command::new("unshare").args(["-Urn", "true"]).output();
    if !found || !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: {tool} or unprivileged namespaces are missing");
        return false;
    }
    let mut command = Command::new("unshare");
    command.arg("-Urn").arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    command.env(INSIDE, "1").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    assert!(command.status().unwrap().success());
    false
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("redoubt-volume-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("disk"), vec![0; BYTES]).unwrap();
    path
}

fn redoubt(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redoubt"));
    command.args(["--timeout", "10", "storage"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn done(arguments: &[&str]) -> Output {
    let output = redoubt(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

fn refused(arguments: &[&str], code: i32, words: &str) {
    let output = redoubt(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{arguments:?}: {output:?}");
}

/// Bytes without a pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// All three verbs on a volume whose bytes are in `folder`.
fn all_verbs(volume: &str, more: &[&str], folder: &Path) {
    let with = |arguments: &[&str]| -> Vec<String> {
        arguments.iter().chain(more).map(|word| (*word).to_string()).collect()
    };
    let run = |arguments: &[&str]| done(&with(arguments).iter().map(String::as_str).collect::<Vec<_>>());
    let (disk, input, back) = (folder.join("disk"), folder.join("in"), folder.join("out"));
    let (input, back) = (input.to_str().unwrap(), back.to_str().unwrap());
    let data = noise(3_000_320);
    fs::write(input, &data).unwrap();
    refused(&with(&["write", volume, input]).iter().map(String::as_str).collect::<Vec<_>>(), 5, "--yes");
    assert!(fs::read(&disk).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
    run(&["write", volume, input, "--offset", "1M", "--yes"]);
    let held = fs::read(&disk).unwrap();
    assert!(held[1 << 20..][..data.len()] == data[..], "what was written");
    assert!(held[..1 << 20].iter().chain(&held[(1 << 20) + data.len()..]).all(|byte| *byte == 0));
    run(&["read", volume, back, "--offset", "1M", "--length", "3000320"]);
    assert!(fs::read(back).unwrap() == data, "what was read to a file");
    let output = run(&["read", volume, "--offset", "1049088", "--length", "4096"]);
    assert!(output.stdout == data[512..4608], "what was read to standard output");
    for job in
        [&["--count", "500"][..], &["--count", "100", "--write", "--yes", "--sequential", "--depth", "1"]]
    {
        let output = run(&[&["bench", volume, "-o", "json"], job].concat());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let requests: u64 = job[1].parse().unwrap();
        assert_eq!((&report["requests"], &report["block_bytes"]), (&requests.into(), &4096.into()));
        let latency = &report["latency_ns"];
        let times = ["p50", "p99", "p99_9", "longest"].map(|name| latency[name].as_u64().unwrap());
        assert!(times[0] > 1000 && times.is_sorted(), "{report}");
        let iops = report["iops"].as_f64().unwrap() * report["seconds"].as_f64().unwrap();
        assert!((iops - report["requests"].as_f64().unwrap()).abs() < 1.0, "{report}");
    }
    assert!(fs::read(&disk).unwrap() != held, "the benchmark has written");
    let beyond = with(&["read", volume, "--offset", "8M", "--length", "512"]);
    refused(&beyond.iter().map(String::as_str).collect::<Vec<_>>(), 2, "within the volume");
}

/// A volume of 4,096-octet blocks: what is no whole block is refused with what helps, and
/// nothing of it is written.
fn long_blocks(volume: &str, disk: &Path) {
    let input = disk.with_extension("in");
    let path = input.to_str().unwrap();
    let data = noise(3 * 4096);
    fs::write(&input, &data[..2 * 4096 + 512]).unwrap();
    let write = ["write", volume, path, "--offset", "8K", "--yes"];
    refused(&write, 2, "ends within a block of 4096 bytes (fill it up with zeroes: truncate -s %4096 FILE)");
    refused(&["write", volume, path, "--offset", "512", "--yes"], 2, "4096 bytes");
    refused(&["read", volume, "--length", "512"], 2, "4096 bytes");
    assert!(fs::read(disk).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
    fs::write(&input, &data).unwrap();
    done(&write);
    assert!(fs::read(disk).unwrap()[8192..][..data.len()] == data[..], "what was written");
    assert!(done(&["read", volume, "--offset", "8K", "--length", "12K"]).stdout == data, "what was read");
}

#[test]
fn aoe() {
    if !inside("aoe", "vblade") {
        return;
    }
    let folder = folder("aoe");
    let ip = |arguments: &str| {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
    };
    ip("link add wire0 type veth peer name wire1");
    for name in ["wire0", "wire1"] {
        ip(&format!("link set {name} mtu 4000 up"));
    }
    let disk = folder.join("disk");
    let vblade = start(Command::new("vblade").args(["11", "1", "wire1"]).arg(disk));
    let said = done(&["bench", "aoe:e11.1", "--interface", "wire0", "--count", "1", "--verbose"]);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("SectorsAdvertised: 7"), "the target says what the wire takes: {said}");
    all_verbs("aoe:e11.1", &["--interface", "wire0"], &folder);
    drop(vblade);
    let silent = ["bench", "aoe:e11.1", "--interface", "wire0", "--timeout", "1"];
    refused(&silent, 6, "does not answer");
    refused(&["bench", "aoe:e11.1"], 2, "--interface");
    refused(&["bench", "aoe:e11.1", "--interface", "wire9"], 3, "wire0");
    // Without the capability it says what is missing and what helps.
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw", env!("CARGO_BIN_EXE_redoubt")])
        .args(["storage", "bench", "aoe:e11.1", "--interface", "wire0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("CAP_NET_RAW") && said.contains("setcap") && said.contains("unshare -Urn"),
        "{said}"
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn iscsi() {
    if !inside("iscsi", "tgtd") {
        return;
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let folder = folder("iscsi");
    let socket = folder.join("ipc");
    let mut command = Command::new("tgtd");
    command.args(["-f", "-C", "7", "--iscsi", "portal=127.0.0.1:3260"]).env("TGT_IPC_SOCKET", &socket);
    let tgtd = start(&mut command);
    let began = Instant::now();
    let admin = |arguments: &str| {
        let mut command = Command::new("tgtadm");
        command.args(["-C", "7", "--lld", "iscsi"]).args(arguments.split(' ')).env("TGT_IPC_SOCKET", &socket);
        while !command.output().unwrap().status.success() {
            assert!(began.elapsed() < Duration::from_secs(10), "{arguments}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    admin(&format!("--op new --mode target --tid 1 -T {IQN}"));
    admin(&format!("--op new --mode logicalunit --tid 1 --lun 1 -b {}", folder.join("disk").display()));
    admin("--op bind --mode target --tid 1 -I ALL");
    all_verbs(&format!("iscsi://127.0.0.1/{IQN}/1"), &[], &folder);
    let long = folder.join("long");
    fs::write(&long, vec![0; BYTES]).unwrap();
    admin(&format!("--op new --mode logicalunit --tid 1 --lun 2 -b {} --blocksize 4096", long.display()));
    long_blocks(&format!("iscsi://127.0.0.1/{IQN}/2"), &long);
    // A secret is needed from now on, and it is in a file that nobody else may read.
    admin("--op new --mode account --user node --password initiatorsecret");
    admin("--op bind --mode account --tid 1 --user node");
    let (volume, secret) = (format!("iscsi://node@127.0.0.1/{IQN}/1"), folder.join("secret"));
    fs::write(&secret, "initiatorsecret\n").unwrap();
    let path = secret.to_str().unwrap();
    let with = ["bench", &volume, "--count", "10", "--allow-md5", "--secret-file", path];
    refused(&with, 5, "chmod 600");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    done(&with);
    refused(&with[..4], 2, "name a file that holds it");
    let anonymous = format!("iscsi://127.0.0.1/{IQN}/1");
    refused(&["bench", &anonymous, "--count", "10"], 9, "refuses us");
    fs::write(&secret, "a wrong secret\n").unwrap();
    refused(&with, 9, "authentication failed");
    drop(tgtd);
    fs::remove_dir_all(folder).unwrap();
}
