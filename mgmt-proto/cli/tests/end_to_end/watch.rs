//! top, the exporter and the bundle for bug reports.

use crate::fake::{Workstation, as_text, with_guest};
use mgmt_proto::facts::DropReason;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

/// What the guest has more.
const MORE: &str = "disk = [\"aoe:e1.1\"]\ncmdline = \"root=/dev/vda luks=hunter2\"\n";

#[test]
fn top_prints_what_changed_between_two_looks() {
    let (node, workstation) = with_guest(MORE);
    let (out, _) = workstation.expect(0, &["top", "-b", "-c", "2", "-d", "1"]);
    let lines: Vec<&str> = out.lines().collect();
    let head =
        format!("{}  up 00:00:02  2 CPUs, 25.0 % used  1024 MiB, 512 free, dom0 0  1 guests", node.address);
    assert_eq!(lines[0], head);
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        [
            "NAME",
            "STATE",
            "CPU(sec)",
            "CPU(%)",
            "MEM(k)",
            "MAXMEM(k)",
            "VCPUS",
            "EXITS/s",
            "RX(k)/s",
            "TX(k)/s",
            "VBD_RD/s",
            "VBD_WR/s",
            "RD(k)/s",
            "WR(k)/s",
            "STALL(ms)"
        ]
    );
    let row = ["web", "r-----", "0.5", "25.0", "0", "65536", "1", "10", "1", "2", "1", "0", "4", "0", "0"];
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), row);
    assert_eq!((lines.len(), lines[3]), (8, ""));
    let (out, _) = workstation.expect(0, &["top", "-c", "2", "-d", "1", "-o", "json"]);
    let values: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 2, "one on a line");
    assert_eq!(values[1]["guests"][0]["cpu_permille"], 250);
    // A stall shows for as long as it lasts.
    node.state.lock().unwrap().guests[0].disks[0].stalled_since_ns = Some(1_000_000_000);
    let (out, _) = workstation.expect(0, &["top", "-d", "1"]);
    assert!(out.contains("r-----i"), "{out}");
    let (out, _) = workstation.expect(0, &["-n", &format!("{0},{0}", node.address), "top", "-d", "1"]);
    assert!(out.starts_with(&node.address), "{out}");
}

/// The program, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exporter(workstation: &Workstation, nodes: &str) -> (Running, String) {
    let mut command = workstation.command(&["-n", nodes, "exporter", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    // Nobody else reads what it says; keep it from waiting for somebody.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let address = line.trim().split("http://").nth(1).unwrap().trim_end_matches("/metrics").to_string();
    (Running(child), address)
}

fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.into(), body.into())
}

/// Reads OpenMetrics as strictly as a scraper could.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    let mut samples = BTreeMap::new();
    let mut seen = Vec::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let words: Vec<&str> = rest.splitn(3, ' ').collect();
            match words[0] {
                "TYPE" => {
                    assert!(!seen.contains(&words[1].to_string()), "{line}: twice");
                    seen.push(words[1].to_string());
                    (family, kind) = (words[1].into(), words[2].into());
                }
                "UNIT" => {
                    assert!(words[1] == family && family.ends_with(&format!("_{}", words[2])), "{line}")
                }
                "HELP" => assert!(words[1] == family && words[2].ends_with('.'), "{line}"),
                other => panic!("{other}"),
            }
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap();
        let expected = match kind.as_str() {
            "counter" => format!("{family}_total"),
            "info" => format!("{family}_info"),
            "gauge" | "stateset" => family.clone(),
            other => panic!("{other}"),
        };
        assert_eq!(name, expected);
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        assert!(labels.starts_with("node=\"") && labels.ends_with('"'), "{line}");
        let before = samples.insert(format!("{name}{{{labels}}}"), value.parse().unwrap());
        assert_eq!(before, None, "{line}: twice");
    }
    samples
}

#[test]
fn the_exporter_answers_scrapes() {
    let (node, workstation) = with_guest(MORE);
    node.state.lock().unwrap().guest("web").unwrap().drops = vec![(DropReason::ArpClaim, 3)];
    let (_running, address) = exporter(&workstation, &format!("{},127.0.0.1:1", node.address));
    let (head, body) = get(&address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0;")
    );
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    let samples = parse(&body);
    let of_node = |name: &str| samples[&format!("{name}{{node=\"{}\"}}", node.address)];
    let of_guest = |name: &str| samples[&format!("{name}{{node=\"{}\",guest=\"web\"}}", node.address)];
    assert!((of_node("redoubt_node_up") - 1.0).abs() < 1e-9);
    assert!(samples["redoubt_node_up{node=\"127.0.0.1:1\"}"].abs() < 1e-9);
    assert!((of_node("redoubt_node_uptime_seconds") - 1.0).abs() < 1e-9);
    assert!((of_guest("redoubt_guest_cpu_seconds_total") - 0.25).abs() < 1e-9);
    assert!((of_guest("redoubt_guest_exits_total") - 10.0).abs() < 1e-9);
    let disk = format!("{{node=\"{}\",guest=\"web\",disk=\"0\",volume=\"aoe:e1.1\"}}", node.address);
    assert!((samples[&format!("redoubt_guest_disk_read_bytes_total{disk}")] - 4096.0).abs() < 1e-9);
    let dropped = format!("{{node=\"{}\",guest=\"web\",reason=\"arp-claim\"}}", node.address);
    assert!((samples[&format!("redoubt_guest_dropped_frames_total{dropped}")] - 3.0).abs() < 1e-9);
    assert!(of_node("redoubt_node_paths_shortened_total").abs() < 1e-9);
    let card = |name: &str| {
        let mut found = samples.iter().filter(|(sample, _)| sample.starts_with(&format!("{name}{{")));
        let (labels, value) = found.next().unwrap();
        assert!(labels.contains("card=\"0\"") && labels.contains("use=\"first\""), "{labels}");
        *value
    };
    assert!((card("redoubt_node_card_up") - 1.0).abs() < 1e-9);
    assert!((card("redoubt_node_card_sent_bytes_total") - 800.0).abs() < 1e-9);
    let states: f64 =
        samples.iter().filter(|(name, _)| name.starts_with("redoubt_guest_state{")).map(|it| it.1).sum();
    assert!((states - 1.0).abs() < 1e-9);
    // Counters grow from one scrape to the next.
    let again = parse(&get(&address, "GET /metrics?x HTTP/1.1\r\n\r\n").1);
    let name = format!("redoubt_guest_exits_total{{node=\"{}\",guest=\"web\"}}", node.address);
    assert!((again[&name] - 20.0).abs() < 1e-9);
    assert!(get(&address, "GET /other HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 404 "));
    assert!(get(&address, "POST /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 405 "));
    assert_eq!(get(&address, "HEAD /metrics HTTP/1.1\r\n\r\n").1, "");
}

#[test]
fn a_bundle_for_a_bug_report_holds_no_secrets() {
    let (node, workstation) = with_guest(MORE);
    let directory = workstation.directory.path().join("bundle");
    let nodes = format!("{},127.0.0.1:1", node.address);
    let support = |out: &str| ["-n", nodes.as_str(), "support", "--out", out].map(String::from);
    let run = |code, out: &str| {
        let arguments = support(out);
        workstation.expect(code, &arguments.each_ref().map(String::as_str))
    };
    let (out, _) = run(8, as_text(&directory));
    assert!(out.contains("6 files; read them before you send them"), "{out}");
    let folder = directory.join(node.address.replace(':', "_"));
    let guests = std::fs::read_to_string(folder.join("guests.json")).unwrap();
    assert!(guests.contains("\"name\": \"web\"") && !guests.contains("hunter2"), "{guests}");
    assert_eq!(std::fs::read_to_string(folder.join("log.txt")).unwrap(), "one\ntwo\n");
    let audit = folder.join("audit.json");
    workstation.expect(0, &["audit", "verify", "--file", as_text(&audit)]);
    assert!(directory.join("127.0.0.1_1/unreachable.txt").exists());
    run(4, as_text(&directory));
    let archive = workstation.directory.path().join("bundle.tar");
    run(8, as_text(&archive));
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let paths: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(paths.len(), 6);
    assert!(paths.contains(&"client.txt".to_string()), "{paths:?}");
}
