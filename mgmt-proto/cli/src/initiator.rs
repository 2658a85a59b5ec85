//! A volume on a workstation: the initiators of the crate `storage` over sockets.
//!
//! The same code as in a node, so that a target can be tried, measured, read and
//! written without one. iSCSI uses TCP of the operating system, AoE a raw Ethernet
//! socket.
//!
//! * [`discover`]: what volumes there are;
//! * [`bench`]: how fast a volume is; [`copy`]: to and from files;
//! * [`secret`]: from files and people.

use crate::exit;
use mgmt_proto::code::{Code, Failure};
use std::io;
use std::time::Duration;
use storage::aoe::wire::MacAddress;
use storage::aoe::{Target, TargetConfig};
use storage::iscsi::{Credentials, DigestPolicy, PathPolicy, Portal, Session, SessionConfig, SessionKind};
use storage::limits::{AOE_FRAME_LIFETIME_NS, REQUESTS_MAX};
use storage::volume::{Volume, VolumeName};
use storage::{Completion, Lba, Octets, Operation, Request, RequestId, VolumeState, VolumeStatus};

pub mod bench;
pub mod copy;
pub mod discover;
mod ethernet;
pub mod secret;
mod tcp;

use ethernet::Station;
use tcp::Link;

/// How to reach a volume, where its name does not say it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Network interfaces that lead to an AoE target.
    pub interfaces: Vec<String>,
    /// Largest Ethernet payload, if not the interface's.
    pub mtu: Option<usize>,
    /// The only stations of an AoE target that are believed; any without.
    pub macs: Vec<MacAddress>,
    /// Portals of an iSCSI target beside the one in the volume's name.
    pub portals: Vec<Portal>,
    /// Use all portals at the same time.
    pub round_robin: bool,
    /// Our iSCSI name.
    pub initiator: String,
    /// How we prove who we are.
    pub credentials: Option<Credentials>,
    /// Digests of iSCSI headers and data.
    pub digests: DigestPolicy,
    /// Nothing is written.
    pub read_only: bool,
    /// How long a request may wait for the target; without, for ever.
    pub patience: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mtu: None,
            macs: Vec::new(),
            portals: Vec::new(),
            round_robin: false,
            initiator: "iqn.2026-11.io.redoubt:workstation".into(),
            credentials: None,
            digests: DigestPolicy::Preferred,
            read_only: false,
            patience: None,
        }
    }
}

/// The requests' data, by the number of a request.
#[derive(Debug, Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    /// A request's octets, to look at.
    fn view(&self, id: RequestId, offset: usize, length: usize) -> &[u8] {
        let buffer = usize::try_from(id.0).ok().and_then(|number| self.0.get(number));
        buffer.and_then(|buffer| buffer.get(offset..offset.checked_add(length)?)).unwrap_or_default()
    }
}

impl Octets for Memory {
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]> {
        let buffer = self.0.get_mut(usize::try_from(id.0).ok()?)?;
        buffer.get_mut(offset..offset.checked_add(length)?)
    }
}

enum Wire {
    Ethernet(Vec<Station>),
    Tcp(Vec<Link>),
}

/// A volume and the sockets to it.
pub struct Initiator {
    name: String,
    volume: Volume,
    wire: Wire,
    memory: Memory,
    buffer: Vec<u8>,
    clock: Clock,
    now_ns: u64,
}

/// Nanoseconds since the volume was opened.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started_ns: u64,
}

impl Clock {
    fn start() -> Self {
        Self { started_ns: Self { started_ns: 0 }.now_ns() }
    }

    fn now_ns(self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let (seconds, nanoseconds) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
        seconds.wrapping_mul(SECOND_NS).wrapping_add(nanoseconds).wrapping_sub(self.started_ns)
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// Octets given to or taken from a socket at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a target may refuse us: another algorithm of CHAP may be tried meanwhile.
const REFUSED_LIMIT: Duration = Duration::from_millis(1500);
/// How long a goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    keys::random::bytes().map(|bytes| *bytes).map_err(|error| exit::key(&error))
}

impl Initiator {
    /// Opens sockets; nothing is sent before the first turn.
    ///
    /// # Errors
    /// When a socket cannot be opened, saying what it needs.
    pub fn open(name: &VolumeName, options: &Options) -> Result<Self, Failure> {
        let seed = u64::from_le_bytes(random()?);
        let (mut volume, wire) = match name {
            VolumeName::Aoe(target) => {
                if options.interfaces.is_empty() {
                    let remedy = "name the network card with --interface";
                    return Err(exit::usage(name.to_string(), "AoE needs a network interface", remedy));
                }
                let open = |interface: &String| Station::open(interface, options.mtu);
                let stations: Vec<Station> = options.interfaces.iter().map(open).collect::<Result<_, _>>()?;
                let hold = if options.read_only { 0 } else { AOE_FRAME_LIFETIME_NS };
                let target = Target::new(TargetConfig {
                    target: *target,
                    sources: stations.iter().map(Station::source).collect(),
                    macs: options.macs.clone(),
                    read_only: options.read_only,
                    reserve: false,
                    // Frames of an earlier run may still be on their way.
                    hold_writes_until_ns: hold,
                    seed,
                });
                (Volume::Aoe(target), Wire::Ethernet(stations))
            }
            VolumeName::Iscsi { portal, target, lun, .. } => {
                let kind = SessionKind::Normal { target: target.to_string(), lun: *lun };
                // 11.12.5: type random, so that two runs at a time are two sessions.
                let [a, b, c] = random()?;
                let isid = [0x80, a, b, c, 0, 0];
                let mut config = SessionConfig::new(*portal, options.initiator.clone(), kind, isid, seed);
                config.portals.extend(&options.portals);
                if options.round_robin {
                    config.policy = PathPolicy::RoundRobin;
                }
                config.credentials.clone_from(&options.credentials);
                config.digests = options.digests;
                config.read_only = options.read_only;
                let session = Session::new(config);
                let links = (0..session.paths()).map(|_| Link::default()).collect();
                (Volume::Iscsi(session), Wire::Tcp(links))
            }
        };
        volume.set_deadline(options.patience.map(nanoseconds));
        Ok(Self {
            name: name.to_string(),
            volume,
            wire,
            memory: Memory::default(),
            buffer: vec![0; BUFFER_BYTES],
            clock: Clock::start(),
            now_ns: 0,
        })
    }

    /// Nanoseconds from its opening to the end of the last turn's waiting.
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        self.volume.status()
    }

    /// Sectors of its blocks.
    #[must_use]
    pub fn block_sectors(&self) -> u32 {
        self.status().geometry.block_sectors()
    }

    /// The session itself.
    pub const fn volume(&mut self) -> &mut Volume {
        &mut self.volume
    }

    /// A failure of this volume.
    #[must_use]
    pub fn failure(&self, code: Code, message: &str, remedy: &str) -> Failure {
        let message = match self.status().trouble() {
            Some(error) => format!("{message}: {error}"),
            None => message.into(),
        };
        Failure::new(code, self.name.clone(), message, remedy)
    }

    /// Room for the data of so many requests of so many octets.
    ///
    /// # Errors
    /// More requests than a volume takes.
    pub fn set_requests(&mut self, requests: usize, octets: usize) -> Result<(), Failure> {
        if requests == 0 || requests > REQUESTS_MAX {
            let message = format!("{requests} requests at a time");
            return Err(exit::usage(self.name.clone(), message, format!("from 1 to {REQUESTS_MAX}")));
        }
        self.memory.0 = vec![vec![0; octets]; requests];
        Ok(())
    }

    /// A request's data.
    pub fn data(&mut self, number: usize) -> &mut [u8] {
        self.memory.0.get_mut(number).map_or(&mut [], Vec::as_mut_slice)
    }

    /// Submits request `number`, whose data is [`Self::data`]; only if it is not under
    /// way already.
    ///
    /// # Errors
    /// When the volume does not take it.
    #[inline(always)]
    pub fn submit(
        &mut self,
        number: usize,
        operation: Operation,
        lba: u64,
        sectors: u32,
    ) -> Result<(), Failure> {
        let id = RequestId(u64::try_from(number).unwrap_or(u64::MAX));
        let request = Request { id, operation, lba: Lba(lba), sectors };
        self.volume.submit(request, self.now_ns).map_err(|error| {
            Failure::new(Code::Usage, self.name.clone(), format!("{operation:?} refused: {error:?}"), "")
        })
    }

    /// The next finished request's number.
    ///
    /// # Errors
    /// When it failed.
    #[inline]
    pub fn finished(&mut self) -> Result<Option<usize>, Failure> {
        let Some(Completion { id, result }) = self.volume.take_completion() else { return Ok(None) };
        match result {
            Ok(()) => Ok(usize::try_from(id.0).ok()),
            Err(error) => Err(self.failure(Code::Storage, &format!("a request failed: {error:?}"), "")),
        }
    }

    /// Sends what is due, waits for something to come for at most `limit`, takes it.
    /// The turn begins at the time when the one before ended.
    ///
    /// # Errors
    /// When the wire cannot be used at all.
    #[inline]
    pub fn turn(&mut self, limit: Duration) -> Result<(), Failure> {
        let (time, limit) = ((self.clock, self.now_ns), nanoseconds(limit));
        let outcome = match (&mut self.wire, &mut self.volume) {
            (Wire::Ethernet(stations), Volume::Aoe(target)) => {
                ethernet::turn(stations, target, &mut self.memory, &mut self.buffer, time, limit)
            }
            (Wire::Tcp(links), Volume::Iscsi(session)) => {
                tcp::turn(links, session, &mut self.memory, &mut self.buffer, time, limit)
            }
            _ => Ok(self.now_ns),
        };
        self.now_ns = outcome.map_err(|error| self.broken(&error))?;
        Ok(())
    }

    #[cold]
    fn broken(&self, error: &io::Error) -> Failure {
        Failure::new(Code::Storage, self.name.clone(), error.to_string(), "")
    }

    /// Waits until the volume serves; returns its sectors.
    ///
    /// # Errors
    /// When it does not in time, or refuses us.
    pub fn wait_until_ready(&mut self, limit: Duration) -> Result<u64, Failure> {
        let deadline_ns = self.clock.now_ns().saturating_add(nanoseconds(limit));
        let mut refused_since = None;
        loop {
            if let Some(sectors) = self.volume.ready_capacity() {
                return Ok(sectors);
            }
            let is_refused = self.status().state == VolumeState::Refused;
            let now_ns = self.clock.now_ns();
            let since_ns = *refused_since.get_or_insert(now_ns);
            if !is_refused {
                refused_since = None;
            } else if now_ns.saturating_sub(since_ns) >= nanoseconds(REFUSED_LIMIT) {
                return Err(self.failure(Code::Storage, "the target refuses us", ""));
            }
            let left = Duration::from_nanos(deadline_ns.saturating_sub(self.clock.now_ns()));
            if left.is_zero() {
                let remedy = "is the name right, and does the wire lead there?";
                return Err(self.failure(Code::Unreachable, "the target does not answer", remedy));
            }
            self.turn(left.min(REFUSED_LIMIT / 4))?;
        }
    }

    /// Says goodbye to the target; what is unfinished is not waited for.
    ///
    /// # Errors
    /// When the wire cannot be used.
    pub fn close(mut self) -> Result<(), Failure> {
        let deadline_ns = self.clock.now_ns().saturating_add(nanoseconds(CLOSE_LIMIT));
        if let Volume::Iscsi(session) = &mut self.volume {
            session.close();
        }
        while let Volume::Iscsi(session) = &self.volume
            && !session.is_closed()
            && self.clock.now_ns() < deadline_ns
        {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }
}

/// A duration as the sessions count time.
#[must_use]
pub const fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(SECOND_NS).saturating_add(duration.subsec_nanos() as u64)
}

/// How long to sleep: until the session's next deadline, or `limit_ns`; less than a
/// second.
fn pause(next_ns: Option<u64>, now_ns: u64, limit_ns: u64) -> rustix::event::Timespec {
    let until_ns = next_ns.map_or(limit_ns, |next_ns| next_ns.saturating_sub(now_ns));
    let pause_ns = until_ns.min(limit_ns).min(SECOND_NS - 1);
    rustix::event::Timespec { tv_sec: 0, tv_nsec: pause_ns.cast_signed() }
}
