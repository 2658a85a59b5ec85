//! TCP between the namespace and a guest, next to Linux on the bare machine. The
//! namespace's clock counts, from the first byte to the last.

use super::disks::{add, in_turns};
use super::figure::{Table, as_f64};
use super::load::Worker;
use crate::lab::HOST;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Where the namespace sends or receives.
const PORT: u16 = 8101;
/// Bytes of a transfer.
const BYTES: usize = 24 << 20;
/// Bytes of TCP in a full frame.
const SEGMENT_BYTES: usize = 1448;
const CHUNK_BYTES: usize = 256 * 1024;
/// What is slower hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures both directions; `exits` returns how often the guest left its CPU.
///
/// # Errors
/// When a transfer fails.
pub fn measure(
    table: &mut Table,
    guest: &mut Worker,
    linux: &mut Worker,
    exits: &dyn Fn() -> Result<u64>,
) -> Result<()> {
    let listener = TcpListener::bind((HOST, PORT)).context("cannot listen for transfers")?;
    for (direction, verb) in [("machine to namespace", "send"), ("namespace to machine", "receive")] {
        let both = in_turns(guest, linux, |worker, _, _| transfer(&listener, worker, verb))?;
        add(table, &format!("TCP {direction}"), both, "MB/s");
        let before = exits()?;
        transfer(&listener, guest, verb)?;
        let each = as_f64(exits()?.saturating_sub(before)) / as_f64(u64::try_from(BYTES / SEGMENT_BYTES)?);
        table.add(&format!("TCP {direction}: exits of the guest for a full frame"), each, "count");
    }
    Ok(())
}

/// One transfer; returns its MB/s.
fn transfer(listener: &TcpListener, worker: &mut Worker, verb: &str) -> Result<f64> {
    let (own, sends) = (listener.try_clone()?, verb == "send");
    let partner = std::thread::spawn(move || if sends { take(&own) } else { give(&own) });
    worker.one(&format!("{verb} {HOST}:{PORT} {BYTES}"))?;
    let seconds = partner.join().ok().context("the transfer panicked")??;
    Ok(as_f64(u64::try_from(BYTES)?) / seconds / 1e6)
}

/// Takes a transfer; returns its seconds.
fn take(listener: &TcpListener) -> Result<f64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LIMIT))?;
    let began = Instant::now();
    let (mut chunk, mut got) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        got += count;
    }
    ensure!(got == BYTES, "{got} bytes arrived");
    Ok(began.elapsed().as_secs_f64())
}

/// Gives a transfer; returns its seconds, until the other end closed.
fn give(listener: &TcpListener) -> Result<f64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let began = Instant::now();
    let chunk = vec![0x5a; CHUNK_BYTES];
    for _ in 0..BYTES / CHUNK_BYTES {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(began.elapsed().as_secs_f64())
}
