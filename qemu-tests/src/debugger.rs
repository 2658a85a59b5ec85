//! QEMU's debugger: what a processor's registers are, and other ones for it.
//!
//! Spec: GDB manual, appendix E (remote serial protocol).

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take to listen, and to answer.
const LIMIT: Duration = Duration::from_secs(20);
const PAGE_BYTES: u64 = 4096;
/// Number of the stack pointer.
const STACK_POINTER: usize = 7;
/// Octets of the general registers and RIP, and of the flags, before the code segment's.
const CODE_SEGMENT_AT: usize = 17 * 8 + 4;

/// A connection, during which the machine stands still.
#[derive(Debug)]
pub struct Debugger {
    stream: UnixStream,
}

impl Debugger {
    /// Stops the machine.
    ///
    /// # Errors
    /// When QEMU does not listen in time.
    pub fn attach(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error).context("no debugger"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(LIMIT))?;
        let mut debugger = Self { stream };
        debugger.ask("?")?;
        Ok(debugger)
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).context("the debugger is gone")?;
        Ok(byte[0])
    }

    /// The next packet.
    fn packet(&mut self) -> Result<String> {
        // What is before it is that the command was heard.
        while self.byte()? != b'$' {}
        let mut packet = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => packet.push(char::from(byte)),
            }
        }
        // Its sum.
        for _ in 0..2 {
            self.byte()?;
        }
        write!(self.stream, "+")?;
        Ok(packet)
    }

    /// A command's answer.
    fn ask(&mut self, command: &str) -> Result<String> {
        let sum = command.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.stream, "${command}#{sum:02x}")?;
        loop {
            // That the machine stands still is reported unasked, too.
            let packet = self.packet()?;
            if command == "?" || !packet.starts_with('T') {
                return Ok(packet);
            }
        }
    }

    /// Puts the stack pointer of a processor that is idle in ring 0 into the first page below
    /// it that is not mapped; false when it is not idle there. Where it is now.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn overflow_stack(&mut self, cpu: u32) -> Result<Option<u64>> {
        self.ask(&format!("Hg{}", cpu + 1))?;
        let text = self.ask("g")?;
        let registers = hex(&text)?;
        let word = |at: usize| {
            let bytes = registers.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u64::from_le_bytes(*bytes)).context("too few registers")
        };
        let (stack, ring) = (word(STACK_POINTER * 8)?, registers.get(CODE_SEGMENT_AT).map(|it| it & 3));
        if ring != Some(0) {
            return Ok(None);
        }
        let mut page = stack & !(PAGE_BYTES - 1);
        while !self.ask(&format!("m{page:x},8"))?.starts_with('E') {
            page -= PAGE_BYTES;
            ensure!(stack - page < 1 << 20, "no page below the stack {stack:#x} is missing");
        }
        let beyond = page + PAGE_BYTES / 2;
        let value: String = beyond.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        // All registers up to it.
        let before = text.get(..STACK_POINTER * 16).context("too few registers")?;
        let answer = self.ask(&format!("G{before}{value}"))?;
        ensure!(answer == "OK", "the stack pointer is not set: {answer}");
        Ok(Some(beyond))
    }

    /// Lets the machine continue.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn detach(mut self) -> Result<()> {
        match self.ask("D")?.as_str() {
            "OK" => Ok(()),
            other => bail!("the debugger does not let go: {other}"),
        }
    }
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)?;
        u8::from_str_radix(pair, 16).with_context(|| format!("no registers: {text}"))
    });
    digits.collect()
}
