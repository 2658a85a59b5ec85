//! A connection of a target, and what a script may do with what is said on it.

use std::collections::BTreeMap;
use storage::iscsi::crc32c;
use storage::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode, serial_after};

/// Octets of a data segment that it takes, unless the script says otherwise.
pub const SEGMENT: usize = 4096;
/// A PDU.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its header; lengths and numbers are set when it is sent.
    pub header: Header,
    /// Its data.
    pub data: Vec<u8>,
    /// It carries a status number of its own.
    pub counts: bool,
}

impl Pdu {
    /// A PDU without data.
    #[must_use]
    pub fn new(code: u8, flags: u8, tag: u32) -> Self {
        let mut header = Header::new(code, flags);
        header.set_u32(16, tag);
        header.set_u32(20, NO_TAG);
        Self { header, data: Vec::new(), counts: true }
    }

    /// With data.
    #[must_use]
    pub fn with(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }
}

/// What becomes of a PDU that the target is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is sent.
    Send,
    /// It is not, and its number is not used.
    Drop,
    /// It is sent twice, octet by octet the same.
    Twice,
    /// The connection ends before it.
    Close,
    /// It is sent, and the connection ends.
    SendAndClose,
    /// So many octets of it are sent, and the connection ends.
    Cut(usize),
    /// It is sent with one bit of its octets flipped, digests unchanged.
    Flip(usize),
}

/// What a script is told of a PDU, and what it may do besides.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Which connection this is, from one on.
    pub connection: usize,
    /// How many PDUs of this kind went before on this connection.
    pub nth: usize,
    /// How many PDUs went before on this connection.
    pub total: usize,
    /// The command it answers, where it does.
    pub command: Option<&'a Task>,
    /// PDUs to be sent before it.
    pub before: &'a mut Vec<Pdu>,
    /// PDUs to be sent after it.
    pub after: &'a mut Vec<Pdu>,
    /// Commands that may be under way from now on; none closes the window.
    pub window: &'a mut i64,
    /// Nothing more is sent until so many milliseconds have passed.
    pub silence_ms: &'a mut u64,
    /// Signs that mischief took place which nothing else shows.
    pub marks: &'a mut usize,
}

/// A piece of mischief.
pub type Mischief = fn(&mut Pdu, &mut Moment<'_>) -> Act;

/// How the target is.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Digests are used.
    pub digests: bool,
    /// All data is asked for.
    pub initial_r2t: bool,
    /// Octets of a data segment it takes.
    pub segment: usize,
    /// Commands under way.
    pub window: i64,
    /// Its first status number.
    pub status_number: u32,
    /// It is asked for its list of targets, and for nothing else.
    pub discovery: bool,
    /// Its unit can discard, and write zeroes by a command.
    pub thin: bool,
}

impl Manner {
    /// As targets usually are.
    pub const DEFAULT: Self = Self {
        digests: false,
        initial_r2t: false,
        segment: SEGMENT,
        window: 16,
        status_number: 77,
        discovery: false,
        thin: false,
    };
}

/// A command under way.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its header.
    pub header: Header,
    /// Data of a write.
    pub data: Vec<u8>,
    /// Octets that have come, and that were asked for or may come unasked.
    pub(super) got: usize,
    pub(super) asked: usize,
    pub(super) transfer_tag: u32,
    pub(super) next_data: u32,
    pub(super) asks: u32,
}

impl Task {
    pub(super) fn cdb(&self) -> &[u8] {
        self.header.0.get(32..48).unwrap_or_default()
    }

    /// First sector and count.
    pub(super) fn range(&self) -> (usize, usize) {
        let (lba, count) = (self.header.u32(38), self.header.u32(42));
        (usize::try_from(lba).unwrap_or(0), usize::try_from(count).unwrap_or(0))
    }

    /// Whether it reads or writes sectors.
    #[must_use]
    pub fn moves(&self) -> bool {
        matches!(self.header.u8(32), 0x88 | 0x8a)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    pub(super) full: bool,
    /// What was offered at the login was answered.
    pub(super) answered: bool,
    pub(super) closed: bool,
    pub(super) status_number: u32,
    pub(super) command_number: u32,
    pub(super) command_number_max: u32,
    pub(super) tasks: BTreeMap<u32, Task>,
    pub(super) asked_tags: Vec<u32>,
    pub(super) sent: BTreeMap<u8, usize>,
    pub(super) total: usize,
    pub(super) window: i64,
    pub(super) silent_until_ms: u64,
    pub(super) queue: Vec<Pdu>,
    /// By which the rest of a list is to be asked for.
    pub(super) text_tag: u32,
    pub(super) logged_out: bool,
}

impl Connection {
    pub(super) fn send(&mut self, mut pdu: Pdu, act: &Act, digests: bool) {
        if self.closed || matches!(act, Act::Drop | Act::Close) {
            self.closed |= *act == Act::Close;
            return;
        }
        self.total += 1;
        let (code, flags) = (pdu.header.opcode(), pdu.header.u8(1));
        if code == opcode::NOP_IN && pdu.header.u32(20) != NO_TAG {
            self.asked_tags.push(pdu.header.u32(20));
        }
        let ends = pdu.counts && matches!(code, opcode::SCSI_RESPONSE | opcode::DATA_IN);
        if ends {
            self.tasks.remove(&pdu.header.task_tag());
        }
        if pdu.header.data_length() == 0 {
            pdu.header.set_data_length(pdu.data.len());
        }
        // What a script has set stays.
        if pdu.header.u32(24) == 0 && (pdu.counts || code == opcode::R2T || code == opcode::NOP_IN) {
            pdu.header.set_u32(24, self.status_number);
            self.status_number = self.status_number.wrapping_add(u32::from(pdu.counts));
        }
        if pdu.header.u32(28) == 0 && pdu.header.u32(32) == 0 {
            let most = i64::from(self.command_number) + self.window - 1;
            let most = u32::try_from(most.rem_euclid(1 << 32)).unwrap_or(0);
            // 4.2.2.1: it never goes back.
            if !serial_after(self.command_number_max, most) || self.total == 1 {
                self.command_number_max = most;
            }
            pdu.header.set_u32(28, self.command_number);
            pdu.header.set_u32(32, self.command_number_max);
        }
        let mut octets = pdu.header.0.to_vec();
        let digests = digests && self.full;
        if digests {
            octets.extend_from_slice(&crc32c(&pdu.header.0));
        }
        let mut data = pdu.data;
        data.resize(data.len().next_multiple_of(4), 0);
        octets.extend_from_slice(&data);
        if digests && !data.is_empty() {
            octets.extend_from_slice(&crc32c(&data));
        }
        // Both bits of the last stage, and no refusal: the login is over.
        self.full |= code == opcode::LOGIN_RESPONSE && flags & 0x83 == 0x83 && pdu.header.u8(36) == 0;
        match *act {
            Act::Cut(at) => octets.truncate(at),
            Act::Flip(bit) => {
                let length = octets.len();
                if let Some(octet) = octets.get_mut(bit / 8 % length) {
                    *octet ^= 1 << (bit % 8);
                }
            }
            Act::Twice => octets.extend_from_within(..),
            _ => {}
        }
        self.output.extend_from_slice(&octets);
        self.closed |= matches!(act, Act::SendAndClose | Act::Cut(_));
    }
}

/// A SCSI response; sense is key, code and qualifier.
#[must_use]
pub fn response(tag: u32, status: u8, sense: &[u8]) -> Pdu {
    let mut pdu = Pdu::new(opcode::SCSI_RESPONSE, FLAG_FINAL, tag);
    pdu.header.set(3, &[status]);
    pdu.header.set(20, &[0; 4]);
    if let [key, code, qualifier] = sense {
        pdu.data = vec![0, 18, 0x70, 0, *key, 0, 0, 0, 0, 10, 0, 0, 0, 0, *code, *qualifier, 0, 0, 0, 0];
    }
    pdu
}
