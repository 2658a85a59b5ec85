//! The main job: netboot, two Debian guests on AoE and iSCSI, and a power cut.

use super::directory;
use crate::http;
use crate::lab::{HOST, guest_address};
use crate::machine::CPUS;
use crate::process::run;
use crate::world::{Guest, World, build, target_name};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

const NODE_LIMIT: Duration = Duration::from_secs(120);
const GUEST_LIMIT: Duration = Duration::from_secs(300);
/// Bytes each guest writes before the cut.
const PROOF: &str = "/srv/proof.bin";

/// Netboots by PXE, compares the image's digest, starts a guest on each protocol,
/// lets each write and fsync, cuts the power, and looks into the targets' files.
pub(super) fn two_guests_and_a_power_cut() -> Result<()> {
    let built = build(false)?;
    let directory = directory("netboot");
    let (disk1, disk2) = (directory.join("disk1.img"), directory.join("disk2.img"));
    let volume2 = format!("iscsi://{HOST}/{}/1", target_name(1));
    let mut world = World::start(&built, &directory, &World::netboot(1536, CPUS), |lab| {
        built.debian.disk(&disk1, "page one\n")?;
        built.debian.disk(&disk2, "page two\n")?;
        lab.export_aoe(11, 1, &disk1)?;
        lab.export_iscsi(1, &target_name(1), &disk2)
    })?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;

    let facts = world.operator.json(&["node", "info"])?;
    let file = run(Command::new("sha256sum").arg(&built.image.path))?;
    let digest =
        facts.get("image_sha256").and_then(|digest| digest.as_str()).context("no digest in node info")?;
    ensure!(file.starts_with(digest), "node info reports {digest}, the file is {file}");
    let cpus = facts.get("cpus").and_then(serde_json::Value::as_u64);
    ensure!(cpus == Some(CPUS.into()), "not all CPUs run: {facts}");
    let found = world.operator.run(&["storage", "discover", "aoe"])?;
    ensure!(found.contains("aoe:e11.1"), "AoE discovery found {found}");
    let found = world.operator.run(&["storage", "discover", "iscsi", HOST])?;
    ensure!(found.contains(&target_name(1)), "iSCSI discovery found {found}");

    let guests = [
        Guest { name: "one", number: 1, memory_mib: 384, vcpus: 1, volume: "aoe:e11.1" },
        Guest { name: "two", number: 2, memory_mib: 384, vcpus: 2, volume: &volume2 },
    ];
    for guest in &guests {
        let file = world.vm_file(&built.debian, guest)?;
        world.operator.run(&["create", &file.display().to_string()])?;
    }
    for guest in &guests {
        let (address, _) = guest_address(guest.number);
        let page = http::wait(&address, "/", GUEST_LIMIT)
            .with_context(|| format!("{} serves no page", guest.name))?;
        ensure!(page == format!("page {}\n", guest.name).as_bytes(), "{} serves {page:?}", guest.name);
        // Written through a shell on the console, as a person would.
        world.wait_for_console(guest.name, "root@guest", GUEST_LIMIT)?;
        let script = format!(
            "head -c 3000000 /dev/urandom > {PROOF} && sync {PROOF} && sha256sum {PROOF} > /srv/www/proof && sync && echo WRITTEN-$((20+3))\n"
        );
        world.type_on_console(guest.name, &script)?;
        world.wait_for_console(guest.name, "WRITTEN-23", Duration::from_secs(60))?;
    }
    let mut digests = Vec::new();
    for guest in &guests {
        let body = http::get(&guest_address(guest.number).0, "/proof")
            .context("the guest does not serve the digest")?;
        digests
            .push(String::from_utf8_lossy(&body).split_whitespace().next().unwrap_or_default().to_string());
    }
    ensure!(world.lab.is_healthy(), "a target ended");
    // The cut: no warning, no flush.
    world.machine.process.kill();
    drop(world);
    for (disk, digest) in [&disk1, &disk2].into_iter().zip(&digests) {
        ensure!(digest.len() == 64, "no digest from the guest: {digest}");
        run(Command::new("e2fsck").args(["-p", "-f"]).arg(disk)).or_else(|error| {
            // Exit 1: the journal was replayed, all is well.
            if error.to_string().contains("exit status: 1") { Ok(String::new()) } else { Err(error) }
        })?;
        let copy = disk.with_extension("proof");
        let request = format!("dump {PROOF} {}", copy.display());
        run(Command::new("debugfs").args(["-R", &request]).arg(disk))?;
        let found = run(Command::new("sha256sum").arg(&copy))?;
        ensure!(found.starts_with(digest.as_str()), "{}: {found} instead of {digest}", disk.display());
    }
    Ok(())
}
