//! A session with a node over TCP, blocking.

/// What a node answered, its failures in words.
pub type Outcome = Result<Reply, Failure>;

mod establish;
mod look;
mod tcp;
mod upload;

pub use establish::wrong_key;
use establish::{establish, is_timeout};
pub use look::{Before, Cursor, Piece};

use crate::exit;
use mgmt_proto::client::Message;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{Meant, OperatorKey, PeerFault, Proved, SessionId};
use mgmt_proto::job::{JobPage, Progress};
use mgmt_proto::manifest::DEFAULT_PORT;
use mgmt_proto::node_key::{KeyLink, leads};
use mgmt_proto::pump::{Pump, Stopped};
use mgmt_proto::verb::{Reply, Request};
use std::time::{Duration, Instant};
use tcp::Tcp;

/// How long connecting may take unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take unless told otherwise.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one of several attempts to connect may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often jobs tell their progress, in milliseconds.
pub const PROGRESS_MS: u32 = 200;
/// Pause between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// An established session.
pub struct Connection {
    pump: Pump<Tcp>,
    key: Box<dyn OperatorKey + Send>,
    address: String,
    answer_timeout: Duration,
    /// Receives the progress of jobs, if that is wanted.
    told: Option<Box<Told>>,
    /// This session is told of its jobs.
    is_told: bool,
    /// The revision that changes suppose.
    supposed: Option<u64>,
    /// The node has the key that it is known by: it may be told secrets.
    is_known: bool,
}

/// Hears how far a job is: its verb and object, and none at its end.
pub type Told = dyn FnMut(&str, Option<&Progress>) + Send;

/// `host` or `host:port` with the port filled in.
#[must_use]
pub fn with_port(address: &str) -> String {
    let has_port = match address.rsplit_once(':') {
        Some((host, port)) => port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
        None => false,
    };
    match address {
        _ if has_port => address.into(),
        _ if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{DEFAULT_PORT}"),
        _ => format!("{address}:{DEFAULT_PORT}"),
    }
}

impl Connection {
    /// Connects and proves both ends to each other. With `expected_node`, the
    /// node must have that key; without, the caller looks at [`Self::proved`], and the node
    /// is told no secret before [`Self::know`].
    ///
    /// # Errors
    /// [`Code::Unreachable`] or [`Code::Refused`].
    pub fn open<K: OperatorKey + Clone + Send + 'static>(
        address: &str,
        key: &K,
        expected_node: Option<&[u8; 32]>,
    ) -> Result<Self, Failure> {
        let meant = Meant { key: expected_node.copied(), ..Meant::default() };
        let mut connection = Self::open_within(address, key, &meant, CONNECT_TIMEOUT)?;
        if let Some(expected) = expected_node {
            if expected != connection.node() {
                return Err(wrong_key(connection.address(), connection.node(), expected));
            }
            connection.know();
        }
        Ok(connection)
    }

    /// As [`Self::open_within`], trying again until it succeeds or the time is over:
    /// for a node that is being started.
    ///
    /// # Errors
    /// As [`Self::open`], of the last attempt.
    pub fn wait_for<K: OperatorKey + Clone + Send + 'static>(
        address: &str,
        key: &K,
        meant: &Meant,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            match Self::open_within(address, key, meant, left.min(ATTEMPT_TIMEOUT)) {
                // A port forwarder accepts for a node that does not listen yet,
                // and then closes: that looks like a refusal.
                Err(failure)
                    if matches!(failure.code, Code::Unreachable | Code::Refused)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(RETRY_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Connects to the node that is meant within a time. Who has that node's key lets
    /// in whoever means it, also by one that it had before: the caller compares
    /// [`Self::node`], and says whether it [knows](Self::know) the node.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_within<K: OperatorKey + Clone + Send + 'static>(
        address: &str,
        key: &K,
        meant: &Meant,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let address = with_port(address);
        let pump = establish(&address, key, meant, timeout)?;
        Ok(Self {
            pump,
            key: Box::new(key.clone()),
            address,
            answer_timeout: ANSWER_TIMEOUT,
            told: None,
            is_told: false,
            supposed: None,
            is_known: false,
        })
    }

    /// Whether the node has the key that it is known by.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.is_known
    }

    /// The node is the one that was meant, by its key: from now on it may be told secrets.
    pub const fn know(&mut self) {
        self.is_known = true;
    }

    /// What the node proved of itself.
    #[must_use]
    pub const fn proved(&self) -> &Proved {
        self.pump.client().proved()
    }

    /// Sets how long an answer may take.
    pub const fn set_answer_timeout(&mut self, timeout: Duration) {
        self.answer_timeout = timeout;
    }

    /// From now on `told` hears how far the jobs are that commands become.
    pub fn tell_progress(&mut self, told: Box<Told>) {
        self.told = Some(told);
    }

    /// From now on what is changed must be at this revision: the guest that a request is
    /// about, or the node. Otherwise the node refuses with [`Code::Conflict`].
    pub const fn suppose(&mut self, revision: Option<u64>) {
        self.supposed = revision;
    }

    /// The node's public key.
    #[must_use]
    pub const fn node(&self) -> &[u8; 32] {
        self.pump.client().node()
    }

    /// The nonce of the node's boot.
    #[must_use]
    pub const fn boot_nonce(&self) -> &[u8; 32] {
        self.pump.client().boot_nonce()
    }

    /// Where the node is, with the port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks and waits for the answer. If the session breaks while the node is at it,
    /// its job is looked for in a new one.
    ///
    /// # Errors
    /// The node's own failure, or what happened on the way to it.
    pub fn request(&mut self, request: Request) -> Outcome {
        if request.changes() && self.supposed.is_some() {
            let of = request.guest().map(String::from);
            self.exchange(&Request::Revision { of, expected: self.supposed }, &mut |_| {})?;
        }
        if !request.is_job() || self.told.is_none() {
            return self.exchange(&request, &mut |_| {});
        }
        if !self.is_told {
            self.ask_for_progress()?;
        }
        let Some(mut told) = self.told.take() else { return self.exchange(&request, &mut |_| {}) };
        let name = format!("{} {}", request.verb().name, request.object());
        let outcome = self.exchange(&request, &mut |progress| told(name.trim_end(), Some(progress)));
        told(name.trim_end(), None);
        self.told = Some(told);
        outcome
    }

    /// Asks the node to tell this session how far its jobs are. One of an earlier version
    /// ends the session: then nobody is told.
    fn ask_for_progress(&mut self) -> Result<(), Failure> {
        match self.exchange(&Request::Progress { every_ms: PROGRESS_MS }, &mut |_| {}) {
            Err(broken) if broken.code == Code::Unreachable => {
                self.told = None;
                if self.come_back(Instant::now() + self.answer_timeout) { Ok(()) } else { Err(broken) }
            }
            answered => {
                self.is_told = answered.is_ok();
                Ok(())
            }
        }
    }

    fn exchange(&mut self, request: &Request, told: &mut dyn FnMut(&Progress)) -> Outcome {
        if !self.is_known && request.has_secret() {
            return Err(self.not_told());
        }
        let bytes = self.pump.client_mut().command(self.key.as_ref(), request).map_err(own_fault)?;
        let place = self.pump.client().place();
        let timeout = self.answer_timeout;
        match self.send(&bytes, timeout).and_then(|()| self.answer(false, told)) {
            Err(broken) if request.is_job() && broken.code == Code::Unreachable => {
                self.find_again(place, broken, told)
            }
            Err(late) if request.is_job() && late.code == Code::Deadline => Err(self.name_job(place, late)),
            answered => answered?,
        }
    }

    /// The outcome of a job, when it has ended: the command's own. `told` hears of its
    /// progress until then, every so many milliseconds.
    ///
    /// # Errors
    /// What happened on the way to it; a job that failed is no error.
    pub fn wait_for_job(
        &mut self,
        id: u64,
        every_ms: u32,
        told: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, Failure> {
        let request = Request::JobWait { id, every_ms };
        let bytes = self.pump.client_mut().command(self.key.as_ref(), &request).map_err(own_fault)?;
        self.send(&bytes, self.answer_timeout)?;
        self.answer(true, told)
    }

    /// The failure of a command that goes on after its deadline, with the number of its job,
    /// if the node tells it soon.
    fn name_job(&mut self, place: (SessionId, u64), late: Failure) -> Failure {
        if self.reopen().is_err() {
            return late;
        }
        let timeout = self.answer_timeout;
        self.answer_timeout = timeout.min(ATTEMPT_TIMEOUT);
        let page = self.jobs();
        self.answer_timeout = timeout;
        let jobs = page.map(|page| page.jobs).unwrap_or_default();
        match jobs.iter().find(|job| (job.session, job.counter) == place) {
            Some(job) => Failure {
                message: format!("{}: job {} goes on", late.message, job.id),
                remedy: format!("`redoubt job wait {0}`, or `redoubt job cancel {0}`", job.id),
                ..late
            },
            None => late,
        }
    }

    /// Looks for the job of a command in a new session, and waits for it.
    fn find_again(
        &mut self,
        (session, counter): (SessionId, u64),
        broken: Failure,
        told: &mut dyn FnMut(&Progress),
    ) -> Outcome {
        let boot = *self.pump.client().boot_nonce();
        if !self.come_back(Instant::now() + self.answer_timeout) {
            return Err(broken);
        }
        let lost = |message: &str, remedy: &str| {
            let message = format!("{}; {message}", broken.message);
            Err(Failure { message, remedy: remedy.into(), ..broken.clone() })
        };
        if *self.pump.client().boot_nonce() != boot {
            return lost("dom0 was restarted meanwhile", "look what came of it, then try again");
        }
        let page = self.jobs()?;
        match page.jobs.iter().find(|job| (job.session, job.counter) == (session, counter)) {
            Some(job) => self.wait_for_job(job.id, PROGRESS_MS, told)?,
            None => lost("the node knows no job of this command", "look what came of it, then try again"),
        }
    }

    /// Another session with the same node, in the place of one that broke; false when there
    /// is none until then.
    fn come_back(&mut self, deadline: Instant) -> bool {
        loop {
            match self.reopen() {
                Ok(_) => return true,
                Err(failure) if failure.code == Code::Unreachable && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(_) => return false,
            }
        }
    }

    /// As [`Self::request`] for what ends with the node's dom0: a session that
    /// breaks off instead of an answer is what was asked for.
    ///
    /// # Errors
    /// The node's refusal, or that the request could not be sent.
    pub fn request_last(&mut self, request: Request) -> Result<(), Failure> {
        self.answer_timeout = self.answer_timeout.min(Duration::from_secs(2));
        match self.request(request) {
            Ok(_) => Ok(()),
            Err(failure) if matches!(failure.code, Code::Unreachable | Code::Deadline) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Sends bytes to a node that takes some of them all the time.
    fn send(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), Failure> {
        self.pump.stream().be_patient(timeout);
        self.pump.send(bytes).map_err(|why| stopped(&self.address, why))
    }

    /// The node's answer; a failure on the way to it is not the node's. Where whoever waits
    /// `is_patient`, it comes in time as long as progress is told.
    fn answer(&mut self, is_patient: bool, told: &mut dyn FnMut(&Progress)) -> Result<Outcome, Failure> {
        let mut deadline = Instant::now() + self.answer_timeout;
        loop {
            self.pump.stream().until(deadline);
            match self.pump.message().map_err(|why| stopped(&self.address, why))? {
                Message::Outcome(outcome) => return Ok(outcome.map_err(Failure::from)),
                Message::Progress(progress) => told(&progress),
            }
            if is_patient {
                deadline = Instant::now() + self.answer_timeout;
            }
        }
    }

    /// All jobs that the node knows.
    ///
    /// # Errors
    /// Of the node, or the way to it.
    pub fn jobs(&mut self) -> Result<JobPage, Failure> {
        match self.request(Request::JobList)? {
            Reply::Jobs(page) => Ok(page),
            _ => Err(self.unexpected()),
        }
    }

    /// The links from keys that the node had before to the one it has, as it tells them.
    ///
    /// # Errors
    /// Of the node, or the way to it.
    pub fn key_links(&mut self) -> Result<Vec<KeyLink>, Failure> {
        match self.request(Request::NodeKeys)? {
            Reply::NodeKeys(links) => Ok(links),
            _ => Err(self.unexpected()),
        }
    }

    /// Whether a key that the node had before leads to the one it has.
    pub fn follows_from(&mut self, known: &[u8; 32]) -> bool {
        // A node of an earlier version, or another than was meant, does not say.
        let now = *self.node();
        self.key_links().is_ok_and(|links| leads(&links, known, &now))
    }

    /// The failure for a request with secrets to a node that may be another than is meant.
    #[must_use]
    pub fn not_told(&self) -> Failure {
        let key = keys::public::fingerprint(self.node());
        let remedy = format!(
            "compare {key} with what the node shows on its console; then try again, or with --accept-new-key, \
             which is needed each time where it makes a new key at each boot, or pin it with --node-key"
        );
        let message = "its key is not known yet, and it is not told secrets before that";
        Failure::new(Code::Refused, &self.address, message, remedy)
    }

    /// The failure for a reply that does not belong to its request.
    #[must_use]
    pub fn unexpected(&self) -> Failure {
        peer_fault(&self.address, PeerFault::Unexpected)
    }
}

/// Why a session does not go on.
fn stopped(address: &str, why: Stopped<std::io::Error>) -> Failure {
    match why {
        Stopped::Stream(error) => broken(address, &error),
        Stopped::Peer(fault) => peer_fault(address, fault),
        Stopped::Ended => {
            let remedy = "it may be restarting: try again with --wait";
            Failure::new(Code::Unreachable, address, "the node ended the session", remedy)
        }
    }
}

fn broken(address: &str, error: &std::io::Error) -> Failure {
    if is_timeout(error) {
        let remedy = "the node may still be at it: see `redoubt job list`, or give --timeout";
        return Failure::new(Code::Deadline, address, "no answer within the time allowed", remedy);
    }
    Failure::new(Code::Unreachable, address, format!("the session broke off: {error}"), "try again")
}

fn peer_fault(address: &str, fault: PeerFault) -> Failure {
    let code = if fault == PeerFault::Version { Code::Version } else { Code::Refused };
    Failure::new(code, address, format!("the other end {fault}"), "")
}

/// What goes wrong before anything is sent.
fn own_fault(fault: PeerFault) -> Failure {
    match fault {
        PeerFault::Length => exit::usage("", "the request is too long", "ask for less"),
        _ => Failure::new(
            Code::Refused,
            "",
            "the operator's key could not sign",
            "does the agent still hold the key, and allow its use?",
        ),
    }
}
