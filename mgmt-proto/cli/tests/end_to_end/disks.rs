//! Volumes, and the disks of a guest that runs.

use crate::fake::{FakeNode, Workstation, World, as_text, operator, with_guest};
use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, Limit};
use mgmt_proto::reason::Refusal;
use mgmt_proto::secret::Secret;
use mgmt_proto::verb::{Found, Outcome, Reply, Request};
use mgmt_proto::volume::{
    BlockFacts, Condition, PathCondition, PathFacts, Plugged, Stage, VolumeFacts, VolumePage,
};
use std::os::unix::fs::PermissionsExt;

const ISCSI: &str = "iscsi://alice@10.0.0.1/iqn.a:b/1";

fn named<T>(list: Vec<(&str, T)>) -> Vec<(String, T)> {
    list.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn path(name: &str, condition: PathCondition) -> PathFacts {
    PathFacts {
        name: name.into(),
        condition,
        stage: Stage::Ready,
        lost_since_ns: (condition == PathCondition::Lost).then_some(40_000_000_000),
        rtt_ns: Some(1_200_000),
        latency: vec![0, 0, 5],
        counters: named(vec![("retries", 3)]),
        last_error: (condition == PathCondition::Lost).then(|| "no answer".into()),
        negotiated: Vec::new(),
    }
}

fn facts(slot: u32, volume: &str, condition: Condition) -> VolumeFacts {
    let stalled = condition == Condition::Stalled;
    VolumeFacts {
        guest: "web".into(),
        slot,
        volume: volume.into(),
        read_only: slot == 2,
        condition,
        stage: Stage::Ready,
        stalled_since_ns: stalled.then_some(40_000_000_000),
        retry: if stalled { 7 } else { 0 },
        sectors: Some(20_480),
        pending: 1,
        rtt_ns: Some(300_000),
        latency: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 98, 0, 2],
        counters: named(vec![("bytes_read", 4096), ("bytes_written", 8192), ("retries", 9), ("stalls", 1)]),
        last_error: stalled.then(|| "no answer".into()),
        negotiated: named(vec![("HeaderDigest", "CRC32C".into()), ("DataDigest", "None".into())]),
        settings: named(vec![("Deadline", "30000 ms".into())]),
        paths: vec![path("10.0.0.1", PathCondition::Active), path("10.0.1.1", PathCondition::Lost)],
    }
}

impl World {
    /// What the node does about volumes and disks; everything asked is kept.
    pub(crate) fn execute_on_disks(&mut self, request: Request) -> Outcome {
        self.asked.push(request.clone());
        let not_found = |object: String| Err(Refusal::said(Code::NotFound, object, "is not here", ""));
        match request {
            Request::StorageShow { volume, from } => {
                let all = [
                    facts(1, "aoe:e1.1", Condition::Ready),
                    facts(2, "iscsi://10.0.0.1/iqn.a:b/1", Condition::Stalled),
                ];
                let meant =
                    all.into_iter().filter(|it| volume.as_ref().is_none_or(|name| it.volume == *name));
                // One on each page.
                let mut meant: Vec<_> = meant.skip(from as usize).collect();
                let next = (meant.len() > 1).then_some(from + 1);
                meant.truncate(1);
                match volume {
                    Some(volume) if meant.is_empty() => not_found(volume),
                    _ => Ok(Reply::Volumes(VolumePage { now_ns: 52_300_000_000, volumes: meant, next })),
                }
            }
            Request::StorageProbe { volume, .. } => {
                let refused = volume.starts_with("aoe:e9");
                let condition = if refused { Condition::Connecting } else { Condition::Ready };
                let mut facts = VolumeFacts { guest: String::new(), ..facts(0, &volume, condition) };
                facts.stage = if refused { Stage::Silent } else { Stage::Ready };
                Ok(Reply::Volumes(VolumePage { now_ns: 0, volumes: vec![facts], next: None }))
            }
            Request::StorageDiscover(_) => {
                let details = "2048 sectors".to_string();
                let found = Found { volume: "aoe:e1.1".into(), server: "02:00:00:00:00:01".into(), details };
                Ok(Reply::Found(vec![found]))
            }
            Request::StorageReserve { volume, force: false, .. } if volume.starts_with("aoe:e8") => Err(
                Refusal::said(Code::Conflict, volume, "is reserved by another node: key 0x1", "use --force"),
            ),
            Request::StorageReserve { .. }
            | Request::StorageRelease { .. }
            | Request::StoragePath { .. }
            | Request::Limit { .. } => Ok(Reply::Done),
            Request::BlockAttach { disk, .. } => {
                let slot = u32::try_from(self.blocks.len()).unwrap() + 1;
                self.blocks.push(BlockFacts {
                    slot,
                    volume: disk.volume,
                    read_only: disk.read_only,
                    condition: Condition::Ready,
                    stalled_since_ns: None,
                    sectors: 20_480,
                    plugged: Plugged::Offered,
                    from_start: false,
                });
                Ok(Reply::Attached(slot))
            }
            Request::BlockList { .. } => {
                let told = self.blocks.clone();
                // At the next look it will have been noticed.
                self.blocks.iter_mut().for_each(|block| block.plugged = Plugged::Running);
                Ok(Reply::Disks(told))
            }
            Request::BlockDetach { slot, .. } => {
                self.blocks.retain(|block| block.slot != slot);
                Ok(Reply::Done)
            }
            _ => Err(Refusal::said(Code::Policy, "", "not here", "")),
        }
    }
}

fn secret_file(workstation: &Workstation, mode: u32) -> String {
    let path = workstation.file("alice.secret", "open sesame\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    as_text(&path).to_string()
}

#[test]
fn a_vm_file_says_what_is_set_for_its_disks() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    secret_file(&workstation, 0o600);
    let text = format!(
        "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\ndisk_operations_per_s = 5000\n\
         disk = [\"aoe:e1.1,reserve\", {{ volume = \"{ISCSI}\", secret = \"alice.secret\", timeout = \"30s\" }}]\n"
    );
    let file = workstation.file("web.vm", &text);
    // Not to a node whose key was never seen, or is not compared.
    for arguments in [&["check"][..], &["--fresh-identity", "create"]] {
        let (_, error) = workstation.expect(5, &[arguments, &[as_text(&file)]].concat());
        assert!(error.contains("is not told secrets") && error.contains("SHA256:"), "{error}");
    }
    assert!(node.state.lock().unwrap().settings.disks.is_empty());
    let (_, error) = workstation.expect(0, &["check", "-v", as_text(&file)]);
    assert!(!error.contains("sesame"));
    workstation.expect(0, &["create", as_text(&file)]);
    let (limits, disks) = {
        let settings = node.state.lock().unwrap().settings.clone();
        (settings.limits, settings.disks)
    };
    assert_eq!(limits, [Limit::OperationsPerSecond(5_000)]);
    let secret = DiskSetting::Secret(Secret::new(b"open sesame".to_vec()));
    assert!(disks[0] == [DiskSetting::Reserve] && disks[1].len() == 2);
    assert!(disks[1].contains(&secret) && disks[1].contains(&DiskSetting::DeadlineMs(30_000)));
    // Without a terminal nobody can be asked, and what others may read is no secret.
    let plain = text.replace(", secret = \"alice.secret\"", "");
    let plain = workstation.file("plain.vm", &plain.replace("\"web\"", "\"other\""));
    let (_, error) = workstation.expect(2, &["check", as_text(&plain)]);
    assert!(error.contains("cannot be asked for") && error.contains("name a file"), "{error}");
    secret_file(&workstation, 0o640);
    let (_, error) = workstation.expect(5, &["check", as_text(&file)]);
    assert!(error.contains("others may read this secret") && error.contains("chmod 600"), "{error}");
    let wrong = workstation.file("wrong.vm", &text.replace("timeout", "timeuot"));
    let (_, error) = workstation.expect(2, &["check", as_text(&wrong)]);
    assert!(error.contains("disk 1: unknown key timeuot (did you mean timeout?)"), "{error}");
}

#[test]
fn volumes_are_shown_with_their_paths() {
    let (_node, workstation) = with_guest("");
    let (out, _) = workstation.expect(0, &["storage", "show"]);
    assert_eq!(
        out,
        "\
Disk  Slot  Volume                      Access  State    Since(s)  Retry  Paths  Digest  MTU  Lat(ms)
web      1  aoe:e1.1                    rw      ready           -      0  1/2    -         -      0.5
web      2  iscsi://10.0.0.1/iqn.a:b/1  ro      stalled      12.3      7  1/2    header    -      0.5
"
    );
    let (out, _) = workstation.expect(0, &["storage", "show", "-o", "wide"]);
    assert!(out.contains("Written(k)") && out.contains("no answer"), "{out}");
    let (out, _) = workstation.expect(0, &["storage", "show", "iscsi://10.0.0.1/iqn.a:b/1"]);
    for words in [
        "stalled for 12.3 s, since 40.0 s after power-on, retry 7",
        "last error  no answer",
        "100 requests, ms: p50 0.5 p99 2.0 max 2.0",
        "negotiated  DataDigest=None HeaderDigest=CRC32C",
        "settings    Deadline=30000 ms",
        "path 1      10.0.1.1: lost, ready, rtt 1.2 ms, p99 0.0 ms, no answer",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (out, _) = workstation.expect(0, &["storage", "show", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value[1]["stalled_for_ns"], 12_300_000_000_u64);
    assert_eq!(value[1]["paths"][1]["state"], "lost");
    assert_eq!(value[0]["latency"]["p50_ns"], 512_000);
    assert_eq!(value[0]["guest"], "web");
    workstation.expect(3, &["storage", "show", "aoe:e7.7"]);
    let (out, _) = workstation.expect(0, &["storage", "path", "list", "-o", "name"]);
    assert_eq!(out, "10.0.0.1\n10.0.1.1\n10.0.0.1\n10.0.1.1\n");
    let (out, _) = workstation.expect(0, &["storage", "path", "ls", "aoe:e1.1"]);
    assert!(out.starts_with("Volume    Path  Name      Card  MTU  State   Stage  Lost(s)"), "{out}");
    assert!(out.contains("12.3") && out.lines().count() == 3);
}

#[test]
fn volumes_are_tried_reserved_and_released() {
    let (node, workstation) = with_guest("");
    let secret = secret_file(&workstation, 0o600);
    let secret = format!("secret={secret}");
    let (out, _) = workstation.expect(0, &["storage", "probe", ISCSI, &secret, "portal=10.0.0.2"]);
    assert!(out.contains("state       ready") && !out.contains("sesame"), "{out}");
    let (out, error) = workstation.expect(9, &["storage", "probe", "aoe:e9.1"]);
    assert!(out.contains("connecting") && error.contains("aoe:e9.1: nothing answers there"), "{out}{error}");
    let (out, _) = workstation.expect(0, &["storage", "reserve", "aoe:e1.1"]);
    assert_eq!(out, "aoe:e1.1: storage reserve done\n");
    let (_, error) = workstation.expect(4, &["storage", "reserve", "aoe:e8.1"]);
    assert!(error.contains("key 0x1"), "{error}");
    workstation.expect(0, &["storage", "reserve", "--force", "aoe:e8.1"]);
    workstation.expect(0, &["storage", "release", "aoe:e1.1", "-o", "json"]);
    workstation.expect(9, &["storage", "release", "-N", "aoe:e9.1"]);
    let before = node.state.lock().unwrap().asked.len();
    let (out, _) = workstation.expect(0, &["-N", "storage", "release", "aoe:e1.1"]);
    assert!(out.contains("not done, this is a dry run"), "{out}");
    workstation.expect(0, &["storage", "path", "disable", "aoe:e1.1", "1", "-N"]);
    workstation.expect(3, &["storage", "path", "disable", "aoe:e1.1", "2", "-N"]);
    let asked = node.state.lock().unwrap().asked[before..].to_vec();
    let looks =
        |request: &Request| matches!(request, Request::StorageProbe { .. } | Request::StorageShow { .. });
    assert!(asked.iter().all(looks), "a dry run only looks: {asked:?}");
    workstation.expect(0, &["storage", "path", "disable", "aoe:e1.1", "1"]);
    let last = node.state.lock().unwrap().asked.last().cloned();
    assert_eq!(last, Some(Request::StoragePath { volume: "aoe:e1.1".into(), path: 1, enabled: false }));
    workstation.expect(2, &["storage", "path", "enable", "aoe:e1.1", "x"]);
}

#[test]
fn disks_come_and_go() {
    let (node, workstation) = with_guest("");
    let (out, error) = workstation.expect(0, &["block-attach", "web", "aoe:e1.2,ro", "operations_per_s=100"]);
    assert_eq!(
        (out.as_str(), error.as_str()),
        ("web: block-attach done (slot 1), running in the guest\n", "")
    );
    workstation.expect(0, &["block-attach", "-N", "web", "aoe:e1.3"]);
    workstation.expect(9, &["block-attach", "-N", "web", "aoe:e9.3"]);
    workstation.expect(3, &["block-attach", "webb", "aoe:e1.3"]);
    let (out, _) = workstation.expect(0, &["block-list", "web"]);
    assert_eq!(
        out,
        "\
Slot  Volume    Access  Size(MiB)  State  Guest    Origin
   1  aoe:e1.2  ro             10  ready  running  attached
"
    );
    let (out, _) =
        workstation.expect(0, &["limit", "web", "--disk", "aoe:e1.2", "--bytes-per-s", "1M", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["slot"], &value["status"]), (&1.into(), &"done".into()));
    let last = node.state.lock().unwrap().asked.last().cloned();
    let limits = vec![Limit::BytesPerSecond(1 << 20)];
    assert_eq!(last, Some(Request::Limit { name: "web".into(), slot: Some(1), limits }));
    workstation.expect(2, &["limit", "web", "--bytes-per-s", "fast"]);
    let (_, error) = workstation.expect(3, &["block-detach", "web", "aoe:e1.3"]);
    assert!(error.contains("web: has no disk aoe:e1.3 (did you mean aoe:e1.2?)"), "{error}");
    let (out, _) = workstation.expect(0, &["block-detach", "web", "aoe:e1.2", "-N"]);
    assert!(out.contains("not done"));
    let (out, _) = workstation.expect(0, &["block-detach", "web", "1", "--force"]);
    assert_eq!(out, "web: block-detach done (slot 1)\n");
    let (out, _) = workstation.expect(0, &["block-list", "web", "-o", "json"]);
    assert_eq!(out, "[]\n");
}
