//! The system calls, as functions.

use core::fmt::{self, Write};
use hv_abi::call::{Call, Error};
use hv_abi::event::Event;

/// Issues a call with up to four arguments.
fn call(call: Call, [a, b, c, d]: [u64; 4]) -> Result<(u64, u64), Error> {
    let (result, second): (i64, u64);
    // SAFETY: the hypervisor checks every argument; a call writes only to memory
    // that the wrappers below lend it exclusively.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") call as u64 => result,
            in("rdi") a,
            in("rsi") b,
            inlateout("rdx") c => second,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    };
    u64::try_from(result).map(|value| (value, second)).map_err(|_| Error::from_result(result))
}

/// Adds a line to the node's log.
pub(crate) fn log(text: &str) {
    let _ = call(Call::Log, [text.as_ptr() as u64, text.len() as u64, 0, 0]);
}

/// Waits for events; returns those that came.
pub(crate) fn wait(deadline_ns: u64, events: &mut [Event]) -> &[Event] {
    let target = events.as_mut_ptr() as u64;
    let count = call(Call::Wait, [deadline_ns, target, events.len() as u64, 0]).map_or(0, |(count, _)| count);
    events.get(..usize::try_from(count).unwrap_or(0)).unwrap_or(&[])
}

/// A fixed buffer for last words.
struct Text {
    bytes: [u8; 400],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (slot, byte) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *slot = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// Gives up: the hypervisor logs the cause and starts dom0 again.
pub(crate) fn fail(cause: fmt::Arguments<'_>) -> ! {
    let mut text = Text { bytes: [0; 400], length: 0 };
    let _ = text.write_fmt(cause);
    loop {
        let _ = call(Call::Fail, [text.bytes.as_ptr() as u64, text.length as u64, 0, 0]);
    }
}
