//! Disks that come to and go from a guest with a stock kernel while it runs.

use super::directory;
use crate::machine::{Boot, CPUS, Shape};
use crate::process::run;
use crate::programs::target;
use crate::test_guest::{Description, Flavour, Recipe, compose};
use crate::world::{World, build, target_name};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(120);
const NOTICE_LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
const SECRET: &str = "open-sesame-thou-door";

/// Reports the disks, and what is on each, whenever that changes.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
[ -c /dev/hvc0 ] && exec </dev/hvc0 >/dev/hvc0 2>&1
before=none
while :; do
  now=
  for disk in /sys/block/vd*; do
    [ -e $disk ] || continue
    name=$(basename $disk)
    first=$(dd if=/dev/$name bs=16 count=1 2>/dev/null)
    now=\"$now [$name $(cat $disk/size) ro=$(cat $disk/ro) $first]\"
  done
  [ \"$now\" = \"$before\" ] || echo \"TEST disks:$now end\"
  before=\"$now\"
  for disk in /sys/block/vd*; do
    name=$(basename $disk)
    if [ \"$(cat $disk/queue/discard_max_bytes 2>/dev/null)\" -gt 0 ] && [ ! -e /discarded ]; then
      blkdiscard -o 1048576 -l 1048576 /dev/$name && touch /discarded && echo \"TEST discarded on $name\"
    fi
  done
  for disk in /sys/block/vd*; do
    [ \"$(cat $disk/ro 2>/dev/null)\" = 0 ] && echo written-by-guest | dd of=/dev/$(basename $disk) bs=512 seek=1 conv=sync,fsync 2>/dev/null
  done
  sleep 1
done
";

/// A disk is attached, read, written, detached; another one takes its slot, one that is
/// only read joins it; after a reboot they are there from the start.
pub(super) fn disks_come_and_go() -> Result<()> {
    let built = build(false)?;
    let directory = directory("hot_plug");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let files: Vec<_> = (1..=3).map(|number| directory.join(format!("disk{number}.img"))).collect();
    let world = World::start(&built, &directory, &shape, |lab| {
        for (number, file) in (1u64..).zip(&files) {
            let mut bytes = format!("I am disk {number} ----").into_bytes();
            bytes.resize(usize::try_from(number * MIB)?, 0x55);
            std::fs::write(file, bytes)?;
        }
        lab.export_aoe(11, 1, files.first().context("a file")?)?;
        lab.export_aoe(11, 2, files.get(1).context("a file")?)?;
        lab.export_iscsi(3, &target_name(3), files.get(2).context("a file")?)?;
        thin_and_locked(&lab.directory)
    })?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let iscsi = format!("iscsi://alice@10.77.0.1/{}/1", target_name(3));
    let secret = directory.join("alice.secret");
    std::fs::write(&secret, format!("{SECRET}\n"))?;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
    // tgt knows nothing better than MD5.
    let iscsi = format!("{iscsi},secret={},allow_md5", secret.display());
    volumes_without_a_guest(&world, &iscsi)?;
    for flavour in [Flavour::Cloud, Flavour::NewCloud] {
        let recipe = Recipe { init: INIT, ..Recipe::default() };
        let Ok(files) = compose(&target(), flavour, &recipe, directory.join("initrd.cpio")) else {
            println!("  skipped: {} is not offered", flavour.package());
            continue;
        };
        let guest =
            Description { name: "plug", more: "disk = [ \"aoe:e11.1,ro\" ]", ..Description::default() };
        world.test_guest(&files, &guest)?;
        one_guest(&world, &iscsi).with_context(|| flavour.package())?;
        println!("  {}: disks come and go", flavour.package());
    }
    let bytes = std::fs::read(files.get(1).context("a file")?)?;
    ensure!(bytes.get(512..528) == Some(b"written-by-guest"), "what the guest wrote is not on the disk");
    let bytes = std::fs::read(files.get(2).context("a file")?)?;
    let is = |range: std::ops::Range<usize>, value| {
        bytes.get(range).is_some_and(|part| part.iter().all(|byte| *byte == value))
    };
    let (one, two) = (usize::try_from(MIB)?, usize::try_from(2 * MIB)?);
    ensure!(
        is(one..two, 0) && is(two..two + one, 0x55) && is(1024..one, 0x55),
        "not what was discarded is zero"
    );
    let reported =
        world.operator.run(&["node", "log"])? + &world.operator.run(&["audit", "show", "-o", "json"])?;
    ensure!(
        !reported.contains(SECRET) && !world.machine.serial_text().contains(SECRET),
        "the secret is told"
    );
    Ok(())
}

/// The iSCSI disk can discard, and demands a secret.
fn thin_and_locked(directory: &Path) -> Result<()> {
    for arguments in [
        "--op update --mode logicalunit --tid 3 --lun 1 --params thin_provisioning=1",
        &format!("--op new --mode account --user alice --password {SECRET}"),
        "--op bind --mode account --tid 3 --user alice",
    ] {
        let mut command = Command::new("tgtadm");
        command.env("TGT_IPC_SOCKET", directory.join("tgtd")).args(["--lld", "iscsi"]);
        run(command.args(arguments.split(' ')))?;
    }
    Ok(())
}

/// Tried, reserved, released: by both protocols, at targets that know it.
fn volumes_without_a_guest(world: &World, iscsi: &str) -> Result<()> {
    let (name, _) = iscsi.split_once(',').context("settings")?;
    let unlocked = name.replace("alice@", "");
    let answer = world.operator.try_run(&["storage", "probe", &unlocked])?;
    ensure!(answer.code == 9 && answer.error.contains("the target refuses"), "{}", answer.error);
    for (volume, free) in [(iscsi, "free"), ("aoe:e11.2", "none")] {
        let holder = || -> Result<String> {
            let reported = world.operator.json(&["storage", "probe", volume])?;
            let held = reported.pointer("/0/negotiated/Reservation").and_then(serde_json::Value::as_str);
            Ok(held.with_context(|| reported.to_string())?.to_string())
        };
        ensure!(holder()? == free, "{volume} is held: {}", holder()?);
        world.operator.run(&["storage", "reserve", volume])?;
        ensure!(holder()? != free, "{volume} is not held");
        // The node that holds it may take it once more, and give it up.
        world.operator.run(&["storage", "reserve", volume])?;
        world.operator.run(&["storage", "release", volume])?;
        ensure!(holder()? == free, "{volume} is held after its release: {}", holder()?);
    }
    let answer = world.operator.try_run(&["storage", "probe", "aoe:e9.9"])?;
    ensure!(answer.code == 9 && answer.error.contains("nothing answers there"), "{}", answer.error);
    println!("  volumes are tried, reserved and released without a guest");
    Ok(())
}

fn one_guest(world: &World, iscsi: &str) -> Result<()> {
    const FIRST: &str = "[vda 2048 ro=1 I am disk 1 ----]";
    const SECOND: &str = "[vdb 4096 ro=0 I am disk 2 ----]";
    let sees =
        |disks: &str, limit| world.wait_for_console("plug", &format!("TEST disks: {disks} end"), limit);
    sees(FIRST, GUEST_LIMIT)?;
    let said = world.operator.run(&["block-attach", "plug", "aoe:e11.2"])?;
    ensure!(said.contains("running in the guest"), "{said}");
    sees(&format!("{FIRST} {SECOND}"), NOTICE_LIMIT)?;
    let shown = world.operator.run(&["storage", "show"])?;
    ensure!(shown.contains("aoe:e11.2") && shown.contains("ready"), "{shown}");
    // The guest writes what it sees; then the disk goes, and it sees that too.
    std::thread::sleep(Duration::from_secs(2));
    let list = world.operator.run(&["block-list", "plug"])?;
    ensure!(list.contains("attached") && list.contains("aoe:e11.2"), "{list}");
    world.operator.run(&["block-detach", "plug", "aoe:e11.2"])?;
    world.operator.run(&["block-attach", "plug", iscsi, "reserve=true"])?;
    sees(&format!("{FIRST} [vdb 6144 ro=0 I am disk 3 ----]"), NOTICE_LIMIT)?;
    world.wait_for_console("plug", "TEST discarded on vdb", NOTICE_LIMIT)?;
    let (name, _) = iscsi.split_once(',').context("settings")?;
    let shown = world.operator.run(&["storage", "show", name])?;
    ensure!(shown.contains("AuthMethod=CHAP MD5") && shown.contains("Login=CHAP as alice"), "{shown}");
    // By force it goes whether the guest gives it back or not.
    world.operator.run(&["block-detach", "--force", "plug", name])?;
    world.operator.run(&["block-attach", "plug", "aoe:e11.2"])?;
    world.operator.run(&["reboot", "plug"])?;
    world.wait_for_console("plug", "TEST disks:", GUEST_LIMIT)?;
    sees(&format!("{FIRST} {SECOND}"), GUEST_LIMIT)?;
    let list = world.operator.run(&["block-list", "plug"])?;
    ensure!(!list.contains("attached"), "after a reboot all disks are there from the start: {list}");
    world.operator.run(&["destroy", "plug"]).map(|_| ())
}
