//! The basic header segment: 48 octets that open every PDU.
//!
//! Spec: RFC 7143 section 11.

/// Octets of the basic header segment.
pub const HEADER_BYTES: usize = 48;
/// "No tag" (11.2.1.8).
pub const NO_TAG: u32 = u32::MAX;
/// The final (or transit) bit of octet 1.
pub const FLAG_FINAL: u8 = 0x80;
/// The continue bit of text and login.
pub const FLAG_CONTINUE: u8 = 0x40;
/// Immediate delivery, in octet 0.
pub const IMMEDIATE: u8 = 0x40;

/// Operation codes (11.2.1.2).
pub mod opcode {
    /// NOP-Out.
    pub const NOP_OUT: u8 = 0x00;
    /// SCSI Command.
    pub const SCSI_COMMAND: u8 = 0x01;
    /// Task Management Function Request.
    pub const MANAGEMENT: u8 = 0x02;
    /// Login Request.
    pub const LOGIN: u8 = 0x03;
    /// Text Request.
    pub const TEXT: u8 = 0x04;
    /// SCSI Data-Out.
    pub const DATA_OUT: u8 = 0x05;
    /// Logout Request.
    pub const LOGOUT: u8 = 0x06;
    /// NOP-In.
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response.
    pub const SCSI_RESPONSE: u8 = 0x21;
    /// Task Management Function Response.
    pub const MANAGEMENT_RESPONSE: u8 = 0x22;
    /// Login Response.
    pub const LOGIN_RESPONSE: u8 = 0x23;
    /// Text Response.
    pub const TEXT_RESPONSE: u8 = 0x24;
    /// SCSI Data-In.
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response.
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    /// Ready To Transfer.
    pub const R2T: u8 = 0x31;
    /// Asynchronous Message.
    pub const ASYNC: u8 = 0x32;
    /// Reject.
    pub const REJECT: u8 = 0x3f;
}

/// A header, read and written by field offset as the RFC draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub [u8; HEADER_BYTES]);

impl Header {
    /// A header of zeroes with an operation code and flags.
    #[must_use]
    pub fn new(opcode: u8, flags: u8) -> Self {
        let mut header = Self([0; HEADER_BYTES]);
        header.set(0, &[opcode, flags]);
        header
    }

    /// The operation code without the immediate bit.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.u8(0) & 0x3f
    }

    /// The octet at `at`; zero beyond the header.
    #[must_use]
    pub fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// The 16-bit field at `at`.
    #[must_use]
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at.saturating_add(1))])
    }

    /// The 32-bit field at `at`.
    #[must_use]
    pub fn u32(&self, at: usize) -> u32 {
        let field = self.0.get(at..).and_then(|rest| rest.first_chunk());
        field.map_or(0, |field| u32::from_be_bytes(*field))
    }

    /// Overwrites octets from `at`; octets beyond the header are dropped.
    #[inline]
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        let Some(rest) = self.0.get_mut(at..) else { return };
        let count = rest.len().min(bytes.len());
        if let (Some(target), Some(source)) = (rest.get_mut(..count), bytes.get(..count)) {
            target.copy_from_slice(source);
        }
    }

    /// Overwrites the 32-bit field at `at`.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_be_bytes());
    }

    /// Octets of the data segment, without padding (11.2.1.6).
    #[must_use]
    pub fn data_length(&self) -> usize {
        let [_, a, b, c] = self.u32(4).to_be_bytes();
        usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(0)
    }

    /// Sets the data segment's length: at most 2^24 - 1.
    pub fn set_data_length(&mut self, length: usize) {
        let length = u32::try_from(length).unwrap_or(0) & 0x00ff_ffff;
        let [_, a, b, c] = length.to_be_bytes();
        self.set(5, &[a, b, c]);
    }

    /// Octets of additional header segments (11.2.1.5).
    #[must_use]
    pub fn additional_length(&self) -> usize {
        usize::from(self.u8(4)) * 4
    }

    /// The initiator task tag (11.2.1.8).
    #[must_use]
    pub fn task_tag(&self) -> u32 {
        self.u32(16)
    }
}

/// Serial-number comparison (RFC 1982): whether `a` comes after `b`.
#[must_use]
pub const fn serial_after(a: u32, b: u32) -> bool {
    let distance = a.wrapping_sub(b);
    distance != 0 && distance < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut header = Header::new(opcode::SCSI_COMMAND | IMMEDIATE, FLAG_FINAL);
        header.set_data_length(0x01_0203);
        header.set_u32(16, 0xdead_beef);
        assert_eq!(&header.0[..8], &[0x41, 0x80, 0, 0, 0, 1, 2, 3]);
        assert_eq!((header.opcode(), header.data_length()), (1, 0x01_0203));
        assert_eq!((header.task_tag(), header.u16(17)), (0xdead_beef, 0xadbe));
        header.set(46, &[1, 2, 3, 4]);
        assert_eq!((header.u8(47), header.u8(48), header.u32(46)), (2, 0, 0));
    }

    #[test]
    fn serials_wrap() {
        assert!(serial_after(0, u32::MAX) && !serial_after(u32::MAX, 0));
        assert!(!serial_after(5, 5) && serial_after(6, 5));
    }
}
