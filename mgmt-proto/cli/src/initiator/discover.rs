//! Looks for volumes.

use super::ethernet::Station;
use super::tcp::{self, Link};
use super::{BUFFER_BYTES, Clock, Memory, Options, REFUSED_LIMIT, nanoseconds, random};
use crate::exit;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::disk::{self, DiskSetting};
use mgmt_proto::facts::Found;
use mgmt_proto::found;
use std::time::Duration;
use storage::VolumeState;
use storage::aoe::Discovery;
use storage::iscsi::{Session, SessionConfig, SessionKind};
use storage::volume::user;

/// How long a portal may take.
const PORTAL_LIMIT: Duration = Duration::from_secs(5);

/// Targets that answer on the wire of a network interface.
///
/// # Errors
/// When it cannot be used.
pub fn aoe(interface: &str) -> Result<Vec<Found>, Failure> {
    let station = Station::open(interface, None)?;
    let failed = |error: std::io::Error| Failure::new(Code::Storage, interface, error.to_string(), "");
    let clock = Clock::start();
    let mut discovery = Discovery::new(station.source().mac, u64::from_le_bytes(random()?), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    while !discovery.is_finished(clock.now_ns()) {
        if let Some(length) = discovery.transmit(&mut buffer, clock.now_ns()) {
            station.send(buffer.get(..length).unwrap_or_default());
        }
        let left_ns = discovery.next_deadline().saturating_sub(clock.now_ns());
        station.wait(left_ns).map_err(failed)?;
        // However much comes, the next query is sent when it is due.
        while clock.now_ns() < discovery.next_deadline()
            && let Some(length) = station.receive(&mut buffer).map_err(failed)?
        {
            discovery.receive(buffer.get(..length).unwrap_or_default());
        }
    }
    Ok(found::on_wires(&[discovery]))
}

/// Targets that a portal, `[user@]address[:port]`, tells of. Of the settings, those of
/// CHAP count.
///
/// # Errors
/// When it does not answer, or refuses us.
pub fn iscsi(text: &str, settings: &[DiskSetting]) -> Result<Vec<Found>, Failure> {
    let shown = user::without_secret(text);
    let (user, portal) = user::at_portal(text)
        .map_err(|error| exit::usage(shown.clone(), error.to_string(), error.remedy()))?;
    let initiator = Options::default().initiator;
    let [a, b, c] = random()?;
    let seed = u64::from_le_bytes(random()?);
    let isid = [0x80, a, b, c, 0, 1];
    let config = SessionConfig::new(portal, initiator, SessionKind::Discovery, isid, seed);
    let credentials = user.and_then(|user| disk::credentials(&user, settings));
    let mut session = Session::new(SessionConfig { credentials, ..config });
    let mut links = [Link::default()];
    let (mut memory, mut buffer) = (Memory::default(), vec![0; BUFFER_BYTES]);
    let clock = Clock::start();
    let (mut now_ns, mut refused_ns) = (0, None);
    while !session.discovery_finished() {
        let limit_ns = nanoseconds(REFUSED_LIMIT / 4);
        now_ns = tcp::turn(&mut links, &mut session, &mut memory, &mut buffer, (clock, now_ns), limit_ns)
            .map_err(|error| Failure::new(Code::Storage, text, error.to_string(), ""))?;
        let status = session.status();
        let why = status.last_error.unwrap_or("it does not answer");
        if status.state == VolumeState::Refused {
            let since_ns = *refused_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since_ns) >= nanoseconds(REFUSED_LIMIT) {
                return Err(Failure::new(Code::Storage, text, why, "check user, secret and allow_md5"));
            }
        }
        if now_ns >= nanoseconds(PORTAL_LIMIT) {
            return Err(Failure::new(Code::Unreachable, text, why, "check the address and the target"));
        }
    }
    Ok(found::at_portal(portal, session.target_list()))
}
