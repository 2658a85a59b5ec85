//! A 16550 UART: early messages, and `ttyS0`.
//!
//! Spec: National Semiconductor PC16550D data sheet, section 8. The line is
//! infinitely fast: a byte is sent the moment it is written.

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::output_ring::OutputRing;
use crate::limits::{UART_INPUT_BYTES, UART_OUTPUT_BYTES};

const LINE_DIVISOR_LATCH: u8 = 0x80;
const INTERRUPT_RECEIVED: u8 = 0x01;
const INTERRUPT_TRANSMITTER: u8 = 0x02;
const MODEM_LOOPBACK: u8 = 0x10;
/// Modem control: output 2, which gates the interrupt on a PC.
const MODEM_OUTPUT_2: u8 = 0x08;

/// The registers and both directions of the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart16550 {
    /// What the guest wrote.
    pub output: OutputRing,
    input: VecDeque<u8>,
    divisor: u16,
    interrupt_enable: u8,
    fifo_enabled: bool,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    transmitter_pending: bool,
}

impl Uart16550 {
    /// The state after power-on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            output: OutputRing::new(UART_OUTPUT_BYTES),
            input: VecDeque::new(),
            divisor: 12,
            interrupt_enable: 0,
            fifo_enabled: false,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            transmitter_pending: false,
        }
    }

    /// Back to power-on; what the guest wrote stays.
    pub fn power_on(&mut self) {
        let output = core::mem::replace(&mut self.output, OutputRing::new(0));
        *self = Self { output, ..Self::new() };
    }

    /// Queues input for the guest; returns how many bytes there was room for.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(UART_INPUT_BYTES.saturating_sub(self.input.len()));
        self.input.extend(bytes.iter().take(count));
        count
    }

    /// Level of the interrupt line.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.modem_control & MODEM_OUTPUT_2 != 0 && self.identification() != 1
    }

    /// Interrupt identification without the FIFO bits, by priority.
    fn identification(&self) -> u8 {
        if self.interrupt_enable & INTERRUPT_RECEIVED != 0 && !self.input.is_empty() {
            4
        } else if self.interrupt_enable & INTERRUPT_TRANSMITTER != 0 && self.transmitter_pending {
            2
        } else {
            1
        }
    }

    /// Reads register 0-7.
    pub fn read(&mut self, register: u8) -> u8 {
        let latch = self.line_control & LINE_DIVISOR_LATCH != 0;
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            0 if latch => low,
            0 => self.input.pop_front().unwrap_or(0),
            1 if latch => high,
            1 => self.interrupt_enable,
            2 => {
                let identification = self.identification();
                if identification == 2 {
                    self.transmitter_pending = false;
                }
                identification | if self.fifo_enabled { 0xc0 } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            // Transmitter empty, and data ready.
            5 => 0x60 | u8::from(!self.input.is_empty()),
            6 if self.modem_control & MODEM_LOOPBACK != 0 => {
                // Outputs come back as inputs: DTR, RTS, OUT1, OUT2.
                let control = self.modem_control;
                ((control & 2) << 3) | ((control & 1) << 5) | ((control & 4) << 4) | ((control & 8) << 4)
            }
            // Carrier, data set ready, clear to send.
            6 => 0xb0,
            _ => self.scratch,
        }
    }

    /// Writes register 0-7.
    pub fn write(&mut self, register: u8, value: u8) {
        let latch = self.line_control & LINE_DIVISOR_LATCH != 0;
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            0 if latch => self.divisor = u16::from_le_bytes([value, high]),
            0 => {
                if self.modem_control & MODEM_LOOPBACK != 0 {
                    self.push_input(&[value]);
                } else {
                    self.output.push(&[value]);
                }
                self.transmitter_pending = true;
            }
            1 if latch => self.divisor = u16::from_le_bytes([low, value]),
            1 => {
                let enabled = value & !self.interrupt_enable & INTERRUPT_TRANSMITTER != 0;
                self.interrupt_enable = value & 0x0f;
                // Enabling it while the transmitter is empty raises it.
                self.transmitter_pending |= enabled;
            }
            2 => {
                self.fifo_enabled = value & 1 != 0;
                if value & 2 != 0 {
                    self.input.clear();
                }
            }
            3 => self.line_control = value,
            4 => self.modem_control = value & 0x1f,
            7 => self.scratch = value,
            _ => {}
        }
    }
}

impl Default for Uart16550 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads() {
        let mut uart = Uart16550::new();
        assert_eq!(uart.read(5), 0x60);
        for byte in b"hi" {
            uart.write(0, *byte);
        }
        let mut target = [0; 4];
        assert_eq!(uart.output.read(0, &mut target), (2, 2));
        assert_eq!(uart.push_input(b"x"), 1);
        assert_eq!(uart.read(5), 0x61);
        assert_eq!(uart.read(0), b'x');
        assert_eq!(uart.read(5), 0x60);
        assert_eq!(uart.push_input(&[0; 2000]), UART_INPUT_BYTES);
    }

    #[test]
    fn divisor_and_scratch_are_registers() {
        let mut uart = Uart16550::new();
        uart.write(3, 0x83);
        uart.write(0, 1);
        uart.write(1, 2);
        assert_eq!((uart.read(0), uart.read(1)), (1, 2));
        uart.write(3, 3);
        assert_eq!(uart.read(1), 0);
        assert_eq!(uart.output.end(), 0);
        uart.write(7, 0x5a);
        assert_eq!(uart.read(7), 0x5a);
    }

    /// What Linux's 8250 driver checks before it believes in the port.
    #[test]
    fn passes_the_probe_of_linux() {
        let mut uart = Uart16550::new();
        uart.write(1, 0);
        assert_eq!(uart.read(1) & 0xf, 0);
        uart.write(1, 0xff);
        assert_eq!(uart.read(1), 0xf);
        uart.write(4, 0x1a);
        assert_eq!(uart.read(6) & 0xf0, 0x90);
        uart.write(4, 0);
        uart.write(2, 1);
        assert_eq!(uart.read(2) >> 6, 3);
    }

    #[test]
    fn transmitter_interrupt_rises_for_enable_and_for_each_byte() {
        let mut uart = Uart16550::new();
        uart.write(4, 8);
        assert!(!uart.interrupt());
        uart.write(1, 2);
        assert!(uart.interrupt());
        assert_eq!(uart.read(2), 2);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(2), 1);
        uart.write(0, b'a');
        assert!(uart.interrupt());
        uart.write(1, 0);
        assert!(!uart.interrupt());
        uart.write(1, 2);
        assert!(uart.interrupt());
        uart.write(1, 1);
        uart.push_input(b"q");
        assert_eq!(uart.read(2), 4);
        assert!(uart.interrupt());
        uart.read(0);
        assert!(!uart.interrupt());
    }
}
