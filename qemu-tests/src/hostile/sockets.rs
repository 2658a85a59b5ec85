//! Scripted iSCSI targets behind real sockets, and the workstation's initiator before
//! them: what the clock of a simulation leaves out.

use super::iscsi_scripts::Script;
use super::iscsi_target::Target;
use super::{SECTORS, pattern};
use anyhow::{Context, Result, ensure};
use redoubt::initiator::{Initiator, Options};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::Operation;
use storage::iscsi::DigestPolicy;
use storage::volume::VolumeName;

/// Requests under way.
const DEPTH: usize = 4;
/// Sectors of the requests, in turn.
const LENGTHS: [usize; 5] = [8, 1, 33, 16, 3];
/// Rounds of writes, and of reads of the same.
const ROUNDS: usize = 20;
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Plays the target until it is ended.
fn serve(listener: &TcpListener, mut target: Target, over: &AtomicBool) -> Target {
    let began = Instant::now();
    let mut stream: Option<TcpStream> = None;
    let mut buffer = vec![0; 65_536];
    while !over.load(Ordering::Relaxed) {
        if let Ok((accepted, _)) = listener.accept() {
            let ready = accepted.set_nonblocking(true).and_then(|()| accepted.set_nodelay(true));
            stream = ready.is_ok().then_some(accepted);
            target.accept();
        }
        let Some(open) = &mut stream else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let (count, mut gone) = match open.read(&mut buffer) {
            Ok(0) => (0, true),
            Ok(count) => (count, false),
            Err(error) => (0, error.kind() != ErrorKind::WouldBlock),
        };
        let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (answer, closed) = target.exchange(buffer.get(..count).unwrap_or_default(), now_ms);
        gone |= closed;
        // Small enough for the socket's own buffer, or the initiator takes it soon.
        let mut rest = answer.as_slice();
        while !rest.is_empty() && !over.load(Ordering::Relaxed) {
            match open.write(rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            target.disconnect();
            stream = None;
        } else if count == 0 && answer.is_empty() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    target
}

fn start(script: &Script) -> Result<(u16, Arc<AtomicBool>, JoinHandle<Target>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let over = Arc::new(AtomicBool::new(false));
    let (target, told) = (Target::new(script.manner, script.mischief), Arc::clone(&over));
    let thread = std::thread::spawn(move || serve(&listener, target, &told));
    Ok((port, over, thread))
}

/// Writes and reads it back, some at a time, within a limit; returns what the disk must
/// hold.
pub(super) fn work(initiator: &mut Initiator, limit: Duration) -> Result<Vec<u8>> {
    let failed = |failure: mgmt_proto::code::Failure| anyhow::anyhow!("{failure}");
    let began = Instant::now();
    let sectors = initiator.wait_until_ready(limit).map_err(failed)?;
    ensure!(sectors == SECTORS, "{sectors} sectors");
    initiator.set_requests(DEPTH, LENGTHS.iter().max().map_or(0, |most| most * 512)).map_err(failed)?;
    let mut disk = vec![0; usize::try_from(SECTORS)? * 512];
    for write in [true, false] {
        let mut free: Vec<usize> = (0..DEPTH).collect();
        let mut under_way = [(0, 0); DEPTH];
        let (mut begun, mut done) = (0, 0);
        while done < ROUNDS {
            ensure!(began.elapsed() < limit, "{done} of {ROUNDS} are done, writing: {write}");
            while let Some(number) = free.pop() {
                if begun == ROUNDS {
                    break;
                }
                let length = LENGTHS.get(begun % LENGTHS.len()).copied().unwrap_or(1);
                let lba = begun * 25;
                let range = lba * 512..(lba + length) * 512;
                let place = disk.get_mut(range).context("beyond the disk")?;
                if write {
                    place.copy_from_slice(&pattern(u64::try_from(begun)? + 1, length));
                    let data = initiator.data(number).get_mut(..length * 512).context("no room")?;
                    data.copy_from_slice(place);
                }
                *under_way.get_mut(number).context("no such request")? = (lba, length);
                let operation = if write { Operation::Write } else { Operation::Read };
                initiator
                    .submit(number, operation, u64::try_from(lba)?, u32::try_from(length)?)
                    .map_err(failed)?;
                begun += 1;
            }
            initiator.turn(Duration::from_millis(20)).map_err(failed)?;
            while let Some(number) = initiator.finished().map_err(failed)? {
                let (lba, length) = under_way.get(number).copied().context("no such request")?;
                let expected = disk.get(lba * 512..(lba + length) * 512).context("beyond the disk")?;
                let data = initiator.data(number).get(..length * 512).context("no data")?;
                ensure!(write || data == expected, "sectors from {lba} on were read wrong");
                free.push(number);
                done += 1;
            }
        }
    }
    Ok(disk)
}

/// Plays a script behind a socket; returns how many connections that took.
///
/// # Errors
/// When anything was lost, or the initiator broke the protocol.
pub fn play(script: &Script) -> Result<usize> {
    let (port, over, thread) = start(script)?;
    let name: VolumeName = format!("iscsi://127.0.0.1:{port}/iqn.2026-11.io.redoubt:hostile/0")
        .parse()
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let digests = if script.manner.digests { DigestPolicy::Preferred } else { DigestPolicy::Off };
    let outcome = Initiator::open(&name, &Options { digests, ..Options::default() })
        .map_err(|failure| anyhow::anyhow!("{failure}"))
        .and_then(|mut initiator| {
            let disk = work(&mut initiator, LIMIT)?;
            let _ = initiator.close();
            Ok(disk)
        });
    over.store(true, Ordering::Relaxed);
    let target = thread.join().map_err(|_| anyhow::anyhow!("the target panicked"))?;
    let disk = outcome?;
    ensure!(target.faults.is_empty(), "{:?}", target.faults);
    ensure!(target.disk == disk, "the disk is not as it was written");
    Ok(target.connections)
}
