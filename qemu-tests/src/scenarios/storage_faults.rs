//! A guest's disks survive their targets: killed and started again, cut off, crowded
//! out, grown. The guest writes all the time, reads back and compares.

use super::directory;
use crate::lab::{HOST, Lab};
use crate::machine::{Boot, CPUS, Shape};
use crate::programs::target;
use crate::test_guest::{Description, storage};
use crate::world::{World, build, target_name};
use anyhow::{Context, Result, ensure};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// From power-on of the guest until it writes: fio comes over the wire.
const WRITING_LIMIT: Duration = Duration::from_secs(120);
/// How long after the last fault the guest may still be at work.
const FINISH_LIMIT: Duration = Duration::from_secs(60);
/// Rounds of all faults, unless `REDOUBT_STORAGE_ROUNDS` is set.
const ROUNDS: u64 = 1;
/// A round, with the pauses in it.
const ROUND_SECONDS: u64 = 40;
/// Connections that crowd a target.
const CROWD: usize = 400;
const MIB: u64 = 1 << 20;

pub(super) fn disk(path: &Path, mib: u64) -> Result<()> {
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
    file.set_len(mib * MIB).with_context(|| path.display().to_string())
}

fn export_iscsi(lab: &mut Lab, directory: &Path) -> Result<()> {
    lab.export_iscsi(1, &target_name(1), &directory.join("iscsi.img"))
}

/// The disks of a guest that writes: what it is made of, one by AoE, one by iSCSI.
pub(super) fn export_writers_disks(lab: &mut Lab, directory: &Path) -> Result<()> {
    storage::fio_disk(&directory.join("fio.img"))?;
    disk(&directory.join("aoe.img"), 64)?;
    disk(&directory.join("iscsi.img"), 64)?;
    lab.export_aoe(11, 1, &directory.join("fio.img"))?;
    lab.export_aoe(11, 2, &directory.join("aoe.img"))?;
    export_iscsi(lab, directory)
}

/// The line of its VM file that names them.
pub(super) fn writers_disks() -> String {
    format!("disk = [ \"aoe:e11.1,ro\", \"aoe:e11.2,rw\", \"iscsi://{HOST}/{}/1,rw\" ]", target_name(1))
}

/// One guest, an AoE and an iSCSI disk, and all that can happen to them.
pub(super) fn disks_outlive_their_targets() -> Result<()> {
    let wanted = std::env::var("REDOUBT_STORAGE_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = wanted.unwrap_or(ROUNDS).max(1);
    let built = build(false)?;
    let files = storage::guest(&target())?;
    let directory = directory("storage-faults");
    let shape = Shape { cpus: CPUS, memory_mib: 1536, boot: Boot::Kernel(built.image.path.clone()) };
    let mut world = World::start(&built, &directory, &shape, |lab| export_writers_disks(lab, &directory))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let more = writers_disks();
    let seconds = rounds * ROUND_SECONDS + 5;
    let job = format!("seconds={seconds}");
    let guest =
        Description { name: "writer", memory_mib: 384, job: &job, more: &more, ..Description::default() };
    world.test_guest(&files, &guest)?;
    world.wait_for_console("writer", "TEST writing", WRITING_LIMIT)?;
    let began = Instant::now();
    sleep(Duration::from_secs(4));
    for round in 0..rounds {
        faults(&mut world, &directory, round)?;
    }
    println!("  {rounds} rounds of faults took {} s", began.elapsed().as_secs());
    let left = Duration::from_secs(seconds).saturating_sub(began.elapsed()) + FINISH_LIMIT;
    world.wait_for_console("writer", "TEST all finished", left)?;
    let shown = world.operator.run(&["console", "writer", "--once"])?;
    check(&shown, 64 + rounds)
}

/// Every fault once.
fn faults(world: &mut World, directory: &Path, round: u64) -> Result<()> {
    let pause = |seconds| sleep(Duration::from_secs(seconds));
    // The AoE target dies, and is back after three seconds.
    world.lab.kill_aoe(0);
    pause(3);
    world.lab.export_aoe(11, 2, &directory.join("aoe.img"))?;
    pause(3);
    // The iSCSI target dies. The guest's list shows that it waits.
    world.lab.kill_iscsi();
    pause(4);
    let list = world.operator.run(&["list"])?;
    let line = list.lines().find(|line| line.contains("writer")).unwrap_or_default();
    ensure!(line.split_whitespace().any(|word| word.len() == 7 && word.ends_with('i')), "no stall: {list}");
    // It comes back larger.
    disk(&directory.join("iscsi.img"), 64 + round + 1)?;
    export_iscsi(&mut world.lab, directory)?;
    pause(4);
    // The cable is pulled, for a moment and for longer.
    for seconds in [1, 6] {
        world.lab.set_link(false)?;
        pause(seconds);
        world.lab.set_link(true)?;
        pause(3);
    }
    // Others take all the room that the target has for sessions while it starts.
    world.lab.kill_iscsi();
    pause(1);
    export_iscsi(&mut world.lab, directory)?;
    let crowd: Vec<_> = (0..CROWD).map(|_| TcpStream::connect((HOST, 3260))).collect();
    let held = crowd.iter().filter(|stream| stream.is_ok()).count();
    println!("  {held} other connections to the iSCSI target");
    pause(3);
    drop(crowd);
    pause(2);
    ensure!(world.lab.is_healthy(), "a service of the lab has died");
    Ok(())
}

/// The guest's final report.
fn check(shown: &str, mib: u64) -> Result<()> {
    let tail: Vec<&str> = shown.lines().rev().take(12).collect();
    ensure!(
        shown.contains(&format!("TEST the size of vdc is {}", mib * MIB / 512)),
        "the guest did not hear of the disk's new size: {tail:#?}"
    );
    finished(shown).map(|_| ())
}

/// How fio ended on a disk.
pub(super) struct Finished {
    pub(super) disk: &'static str,
    /// The slowest of all requests.
    pub(super) slowest_read_us: Option<u64>,
    pub(super) slowest_write_us: Option<u64>,
}

/// The guest's final report of both disks: no error, and enough was written and
/// compared.
pub(super) fn finished(shown: &str) -> Result<Vec<Finished>> {
    let tail: Vec<&str> = shown.lines().rev().take(12).collect();
    ensure!(!shown.contains("TEST failed"), "the guest saw an error: {tail:#?}");
    ensure!(shown.contains("TEST all finished, kernel errors 0"), "the kernel saw an error: {tail:#?}");
    let of = |disk: &'static str| {
        let line = shown.lines().find_map(|line| line.split_once(&format!("TEST finished {disk} ")));
        let (_, said) = line.with_context(|| format!("nothing of {disk}: {tail:#?}"))?;
        let number = |name: &str| {
            let mut words = said.split_whitespace().skip_while(|word| *word != name).skip(1);
            words.next().and_then(|word| word.parse::<u64>().ok())
        };
        println!("  {disk}: {said}");
        ensure!(number("code") == Some(0) && number("errors") == Some(0), "{disk}: {said}");
        let moved = (number("wrote_kib").unwrap_or(0), number("read_kib").unwrap_or(0));
        ensure!(moved.0 > 10_000 && moved.1 > 5_000, "{disk}: too little was written and compared: {said}");
        let [slowest_read_us, slowest_write_us] = ["slowest_read_us", "slowest_write_us"].map(number);
        Ok(Finished { disk, slowest_read_us, slowest_write_us })
    };
    ["vdb", "vdc"].into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_reports_are_checked() {
        let good = "TEST the size of vdc is 133120\n\
            TEST finished vdb code 0 errors 0 wrote_kib 20000 read_kib 19000\n\
            TEST finished vdc code 0 errors 0 wrote_kib 20000 read_kib 19000\n\
            TEST all finished, kernel errors 0\n";
        assert!(check(good, 65).is_ok());
        for (from, to) in [
            ("code 0", "code 1"),
            ("errors 0 wrote", "errors 84 wrote"),
            ("wrote_kib 20000", "wrote_kib 12"),
            ("read_kib 19000", "read_kib 0"),
            ("kernel errors 0", "kernel errors 3"),
            ("size of vdc is 133120", "size of vdc is 131072"),
            ("TEST all", "TEST failed: fio on vdb ended with 1\nTEST all"),
            ("finished vdc", "finished vdd"),
        ] {
            assert!(good.contains(from) && check(&good.replace(from, to), 65).is_err(), "{from}");
        }
    }
}
