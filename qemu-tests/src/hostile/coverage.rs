//! The published lists of tests for initiators, and what walks each item of them.
//!
//! The lists are those of UNH-IOL's iSCSI consortium: "Login Phase Test Suite for iSCSI
//! Initiators", version 3.0, and "Full Feature Phase Test Suite for iSCSI Initiators",
//! version 3.1. Numbers and subjects are from their tables of contents, as far as those
//! are public in full: to 22.1 and to 16.1.2. Their procedures are for two machines and
//! an analyser; the scripts here do to the initiator what those procedures do.

/// A published list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Login phase, version 3.0.
    Login,
    /// Full feature phase, version 3.1.
    FullFeature,
}

/// How an item is walked.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// By these scripts.
    Scripts(&'static [&'static str]),
    /// By the target in every run: it would find this fault.
    EveryRun(&'static str),
    /// Not at all, for a reason.
    Not(&'static str),
}

/// An item of a list.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// The list.
    pub suite: Suite,
    /// Its number there.
    pub number: &'static str,
    /// Its subject.
    pub subject: &'static str,
    /// How it is walked.
    pub by: By,
}

macro_rules! items {
    ($suite:ident: $($number:literal $subject:literal $by:expr;)*) => {
        [$(Item { suite: Suite::$suite, number: $number, subject: $subject, by: $by }),*]
    };
}

use By::{EveryRun, Not, Scripts};

const ONE_CONNECTION: By = Not("MaxConnections=1: a session has one connection");
const LEVEL_0: By = Not("ErrorRecoveryLevel=0: no command is retried or moved, no SNACK is sent");

/// The login phase.
pub const LOGIN: [Item; 33] = items![Login:
    "1.1" "standard login" EveryRun("opcode .. in the wrong phase");
    "2.1" "TSIH" EveryRun("a session handle before there is one, or another version");
    "2.2" "TSIH, invalid value" Scripts(&["negotiation: a session handle before the end",
        "negotiation: no session handle at the end"]);
    "2.3" "TSIH in a second connection" ONE_CONNECTION;
    "3.1" "T bit" Scripts(&["login: transit and continue at once", "login: straight to the full feature phase"]);
    "3.2" "T bit, delayed" Scripts(&["negotiation: the target takes its time to move on"]);
    "4.1" "StatSN zero" Scripts(&["login: status numbers that wrap"]);
    "4.2" "StatSN not zero" EveryRun("ExpStatSN beyond what was sent");
    "5.1" "ExpStatSN" EveryRun("ExpStatSN beyond what was sent");
    "6.1" "negotiate once" Scripts(&["negotiation: a key twice in two answers"]);
    "6.2" "negotiate once, ImmediateData, PDUs apart" Scripts(&["negotiation: a key twice in two answers"]);
    "6.3" "negotiate once, ImmediateData, the same PDU" Scripts(&["negotiation: a key twice in one answer"]);
    "7.1" "login request" EveryRun("a session handle before there is one, or another version");
    "7.2" "list negotiation" Scripts(&["negotiation: two digests at once"]);
    "7.3" "invalid AuthMethod" Scripts(&["negotiation: a method of authentication that was not offered"]);
    "7.4" "FirstBurstLength too high" Scripts(&["negotiation: a first burst longer than a burst"]);
    "7.5" "ImmediateData, invalid value" Scripts(&["negotiation: a boolean that is neither"]);
    "7.6" "invalid key" Scripts(&["login: a key that nobody knows", "login: text without an equals sign"]);
    "8.1" "invalid PDU" Scripts(&["login: another PDU instead", "login: data before its end"]);
    "9.1" "digests are offered" Scripts(&["digests: a header's is wrong"]);
    "9.2" "digests are answered" Scripts(&["login: a digest that was not offered", "negotiation: two digests at once"]);
    "9.3" "digests are CRC32C" Scripts(&["digests: of data, wrong"]);
    "10.1" "MaxConnections" Scripts(&["negotiation: more connections and requests than were asked for, and long waits"]);
    "11.1" "names of initiator and target" EveryRun("opcode .. in the wrong phase");
    "12.1" "markers" Scripts(&["negotiation: markers are offered"]);
    "13.1" "booleans" EveryRun("more immediate data than was negotiated");
    "13.2" "legal booleans" Scripts(&["data out: all of it asked for"]);
    "13.3" "illegal booleans" Scripts(&["negotiation: a boolean that is neither"]);
    "14.1" "MaxRecvDataSegmentLength" Scripts(&["login: segments of 512 octets", "login: a segment length of zero"]);
    "15.1" "MaxBurstLength" Scripts(&["data out: more asked for than a burst", "login: numbers that are none"]);
    "16.1" "FirstBurstLength below MaxBurstLength" EveryRun("data announced that nobody asked for");
    "16.2" "FirstBurstLength above MaxBurstLength" Scripts(&["negotiation: a first burst longer than a burst"]);
    "16.3" "FirstBurstLength as offered" EveryRun("data announced that nobody asked for");
];

/// The rest of it.
pub const LOGIN_MORE: [Item; 6] = items![Login:
    "17.1" "DefaultTime2Retain" Scripts(&["negotiation: more connections and requests than were asked for, and long waits"]);
    "18.1" "DefaultTime2Wait" Scripts(&["events: the connection is dropped, come back in 2 s"]);
    "19.1" "MaxOutstandingR2T" Scripts(&["negotiation: more connections and requests than were asked for, and long waits"]);
    "20.1" "ErrorRecoveryLevel" Scripts(&["login: a higher recovery level"]);
    "21.1" "SessionType" Scripts(&["discovery: the list in pieces, torn amid a key", "discovery: an empty list",
        "discovery: pinged amid it"]);
    "22.1" "AuthMethod" Scripts(&["login: CHAP is demanded and nobody has a secret", "login: authentication failed"]);
];

/// The full feature phase.
pub const FULL_FEATURE: [Item; 35] = items![FullFeature:
    "1.1" "command numbering" EveryRun("CmdSN .. instead of ..");
    "2.1" "immediate delivery" EveryRun("CmdSN .. instead of ..");
    "2.2" "immediate task management" Scripts(&["answers: none to one write, for ever"]);
    "3.1" "closed window" Scripts(&["numbers: the window closes for two seconds amid the work",
        "login: a window closed from the start, opened by a ping"]);
    "3.2" "large window" EveryRun("a command into a closed window");
    "3.3" "a single command" Scripts(&["numbers: a window of one command"]);
    "4.1" "command retry" LEVEL_0;
    "5.1" "ExpStatSN" Scripts(&["numbers: a status number left out", "numbers: an answer twice"]);
    "6.1" "DataSN" Scripts(&["data in: a number left out"]);
    "7.1" "connection reassignment" LEVEL_0;
    "8.1" "unsolicited and solicited data" EveryRun("Data-Out out of order, range or sequence");
    "8.2" "solicited data" Scripts(&["data out: all of it asked for"]);
    "8.3" "unsolicited data" EveryRun("data announced that nobody asked for");
    "9.1" "target transfer tag" EveryRun("Data-Out out of order, range or sequence");
    "10.1" "status with data" Scripts(&["data in: status with the data, and once more by itself",
        "data in: status by itself", "data in: good status and half the data"]);
    "10.2" "A bit" Scripts(&["data in: an acknowledgement is asked for (A bit)"]);
    "11.1.1" "Data-Out, segment length" Scripts(&["login: segments of 512 octets"]);
    "11.1.2" "Data-In, segment length" Scripts(&["lengths: a data segment of 16 MiB is announced",
        "data in: more than was read"]);
    "11.2.1" "Data-Out, F bit, unsolicited" EveryRun("Data-Out out of order, range or sequence");
    "11.2.2" "Data-Out, F bit, solicited" EveryRun("Data-Out out of order, range or sequence");
    "11.3" "Data-Out, DataSN" EveryRun("Data-Out out of order, range or sequence");
    "11.4" "Data-Out, buffer offset" EveryRun("Data-Out out of order, range or sequence");
    "12.1" "R2T, target transfer tag" EveryRun("Data-Out out of order, range or sequence");
    "12.2" "R2T, buffer offset and length" Scripts(&["data out: asked for beyond the end", "data out: nothing asked for"]);
    "12.3" "R2T, buffer offset" Scripts(&["data out: asked for from the wrong offset", "data out: asked for once more"]);
    "12.4" "parallel commands" EveryRun("a task tag that is in use");
    "13.1" "SNACK, begin and run" LEVEL_0;
    "13.2" "SNACK, DataACK" LEVEL_0;
    "14.1" "asynchronous logout request" Scripts(&["events: log out", "events: log out, and then silence"]);
    "14.2" "asynchronous logout request, connections" ONE_CONNECTION;
    "15.1" "pings of the target" Scripts(&["pings: one that wants an answer", "pings: one that wants none"]);
    "15.2" "pings of the initiator" Scripts(&["silence: the connection says nothing any more"]);
    "15.3" "pings that confirm ExpStatSN" EveryRun("a ping that is neither a question nor an answer");
    "16.1.1" "command PDU with immediate data" EveryRun("more immediate data than was negotiated");
    "16.1.2" "command PDU without immediate data" Scripts(&["data out: all of it asked for"]);
];

/// All of them.
pub fn items() -> impl Iterator<Item = &'static Item> {
    LOGIN.iter().chain(&LOGIN_MORE).chain(&FULL_FEATURE)
}
