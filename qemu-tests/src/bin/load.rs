//! A load generator that runs as a guest's or a Linux node's only program.
//!
//! It calls the harness, names itself, then does what each line asks and answers
//! with one line: `ok NUMBERS...` or `error TEXT`. Times are nanoseconds of its own
//! clock. It is linked statically, so that it runs from an initramfs.
//!
//! * `wait PATH`: until a block device is there; answers its bytes;
//! * `random PATH BLOCK COUNT SEED`: direct reads of one block at a time at random
//!   places; answers the 50th, 90th and 99th percentile and the slowest;
//! * `spread read|write PATH BLOCK COUNT SEED THREADS`: direct reads or writes at random
//!   places, one for each thread at a time, so many together; answers the time of all;
//! * `sequential PATH BLOCK COUNT`: direct reads one after the other; answers the
//!   time of all;
//! * `send ADDRESS BYTES`, `receive ADDRESS BYTES`: over TCP; answers the time.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, Read, Result, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// Linux's flag for reads that pass the page cache by.
const O_DIRECT: i32 = 0o40_000;
/// Alignment of buffers and places that direct reads need at most.
const ALIGNMENT: usize = 4096;
/// Bytes of one call on a TCP stream.
const CHUNK_BYTES: usize = 128 * 1024;
/// How long a device may take to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// How long the harness may take to listen.
const CALL_ATTEMPTS: u32 = 300;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err(Error::other("usage: load ADDRESS NAME"));
    };
    let mut stream = call(&address)?;
    stream.set_nodelay(true)?;
    let lines = BufReader::new(stream.try_clone()?).lines();
    writeln!(stream, "hello {name}")?;
    for line in lines {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match execute(&words) {
            Ok(numbers) => {
                let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("ok {}\n", text.join(" "))
            }
            Err(error) => format!("error {error}\n"),
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn call(address: &str) -> Result<TcpStream> {
    let mut last = Error::other("no attempt");
    for _ in 0..CALL_ATTEMPTS {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(last)
}

fn execute(words: &[&str]) -> Result<Vec<u64>> {
    match words {
        ["wait", path] => Ok(vec![wait(path)?]),
        ["random", path, block, count, seed] => random(path, number(block)?, number(count)?, number(seed)?),
        ["spread", operation @ ("read" | "write"), path, block, count, seed, threads] => {
            let writes = *operation == "write";
            let (block, count, seed) = (number(block)?, number(count)?, number(seed)?);
            Ok(vec![spread(writes, path, block, count, seed, number(threads)?)?])
        }
        ["sequential", path, block, count] => Ok(vec![sequential(path, number(block)?, number(count)?)?]),
        ["send", address, bytes] => Ok(vec![send(address, number(bytes)?)?]),
        ["receive", address, bytes] => Ok(vec![receive(address, number(bytes)?)?]),
        _ => Err(Error::other("no such command")),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::other(format!("{text} is no number")))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Waits until a device is there and has a size.
fn wait(path: &str) -> Result<u64> {
    let deadline = Instant::now() + DEVICE_LIMIT;
    loop {
        let size = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        match size {
            Ok(bytes) if bytes > 0 => return Ok(bytes),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Ok(_) if Instant::now() >= deadline => return Err(Error::other("it stays empty")),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A buffer with an aligned part.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, length }
    }

    fn aligned(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.length).unwrap_or_default()
    }
}

fn open_direct(path: &str, writes: bool) -> Result<File> {
    OpenOptions::new().read(true).write(writes).custom_flags(O_DIRECT).open(path)
}

/// Numbers that follow no order.
struct Scatter(u64);

impl Scatter {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn block_buffer(block: u64) -> Result<Buffer> {
    usize::try_from(block).map(Buffer::new).map_err(Error::other)
}

fn random(path: &str, block: u64, count: u64, seed: u64) -> Result<Vec<u64>> {
    let blocks = wait(path)? / block.max(1);
    let file = open_direct(path, false)?;
    let mut buffer = block_buffer(block)?;
    let mut scatter = Scatter(seed | 1);
    let mut times = Vec::new();
    for _ in 0..count {
        let place = scatter.next() % blocks.max(1) * block;
        let began = Instant::now();
        file.read_exact_at(buffer.aligned(), place)?;
        times.push(nanoseconds(began));
    }
    times.sort_unstable();
    let rank = |percent: usize| times.get(times.len() * percent / 100).or(times.last()).copied().unwrap_or(0);
    Ok(vec![rank(50), rank(90), rank(99), rank(100)])
}

/// One thread's share of [`spread`].
fn scattered(writes: bool, path: &str, block: u64, count: u64, seed: u64) -> Result<()> {
    let blocks = wait(path)? / block.max(1);
    let file = open_direct(path, writes)?;
    let mut buffer = block_buffer(block)?;
    let mut scatter = Scatter(seed | 1);
    for _ in 0..count {
        let place = scatter.next() % blocks.max(1) * block;
        if writes {
            file.write_all_at(buffer.aligned(), place)?;
        } else {
            file.read_exact_at(buffer.aligned(), place)?;
        }
    }
    Ok(())
}

fn spread(writes: bool, path: &str, block: u64, count: u64, seed: u64, threads: u64) -> Result<u64> {
    let threads = threads.max(1);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let share = |thread: u64| scattered(writes, path, block, count / threads, seed + 2 * thread);
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || share(thread))).collect();
        let ended =
            all.into_iter().map(|thread| thread.join().map_err(|_| Error::other("a thread ended"))?);
        ended.collect::<Result<Vec<()>>>()
    })?;
    Ok(nanoseconds(began))
}

fn sequential(path: &str, block: u64, count: u64) -> Result<u64> {
    let file = open_direct(path, false)?;
    let mut buffer = block_buffer(block)?;
    let began = Instant::now();
    for index in 0..count {
        file.read_exact_at(buffer.aligned(), index * block)?;
    }
    Ok(nanoseconds(began))
}

fn send(address: &str, bytes: u64) -> Result<u64> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    let mut stream = TcpStream::connect(address)?;
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        stream.write_all(chunk.get(..length).unwrap_or_default())?;
        left -= length as u64;
    }
    // Over when the other end has taken everything, and shows it by closing.
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(nanoseconds(began))
}

fn receive(address: &str, bytes: u64) -> Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut stream = TcpStream::connect(address)?;
    let began = Instant::now();
    let mut got = 0;
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        got += count as u64;
    }
    if got != bytes {
        return Err(Error::other(format!("{got} bytes arrived")));
    }
    Ok(nanoseconds(began))
}
