//! Searches for volumes, on the wire or at a portal.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::Found;
use netstack::host::{ConnectionId, Host};
use storage::aoe::Discovery;
use storage::iscsi::{Portal, Session, SessionConfig, SessionKind};

use super::Volumes;
use crate::limits::DISCOVERY_TIMEOUT_NS;

/// A search for volumes.
pub(super) enum Search {
    Aoe(Box<Discovery>),
    Iscsi { session: Box<Session>, connections: Vec<Option<ConnectionId>>, portal: Portal, deadline_ns: u64 },
}

impl Volumes {
    /// Starts a search on the wire; one that is under way serves both askers.
    ///
    /// # Errors
    /// Another search is under way.
    pub fn discover_aoe(&mut self, now_ns: u64) -> Result<(), Failure> {
        match self.search {
            Some(Search::Aoe(_)) => Ok(()),
            Some(_) => Err(busy()),
            None => {
                let seed = self.next_seed();
                self.search = Some(Search::Aoe(Box::new(Discovery::new(self.mac, seed, now_ns))));
                Ok(())
            }
        }
    }

    /// Starts a search at a portal.
    ///
    /// # Errors
    /// The portal is none, or another search is under way.
    pub fn discover_iscsi(&mut self, text: &str, now_ns: u64) -> Result<(), Failure> {
        let portal = Portal::parse(text).ok_or_else(|| {
            Failure::new(
                Code::Usage,
                text,
                "is not a portal",
                "an IPv4 address, with :port unless it is 3260",
            )
        })?;
        if self.search.is_some() {
            return Err(busy());
        }
        let seed = self.next_seed();
        let session = Session::new(SessionConfig::new(
            portal,
            self.initiator.clone(),
            SessionKind::Discovery,
            [0x80, 0, 0, 0, 0, 1],
            seed,
        ));
        let deadline_ns = now_ns + DISCOVERY_TIMEOUT_NS;
        self.search =
            Some(Search::Iscsi { session: Box::new(session), connections: Vec::new(), portal, deadline_ns });
        Ok(())
    }

    /// What a search found, once it has ended.
    pub fn take_discovered(&mut self, host: &mut Host, now_ns: u64) -> Option<Result<Vec<Found>, Failure>> {
        let ended = match self.search.as_ref()? {
            Search::Aoe(discovery) => discovery.is_finished(now_ns),
            Search::Iscsi { session, deadline_ns, .. } => {
                session.discovery_finished() || now_ns >= *deadline_ns
            }
        };
        if !ended {
            return None;
        }
        match self.search.take()? {
            Search::Aoe(discovery) => Some(Ok(discovery
                .found()
                .iter()
                .map(|found| Found {
                    volume: format!("aoe:{}", found.target),
                    server: mac_text(found.mac),
                    details: format!("{} buffers, {} sectors a frame", found.buffers, found.sectors_max),
                })
                .collect())),
            Search::Iscsi { session, connections, portal, .. } => {
                for connection in connections.into_iter().flatten() {
                    host.close(connection, now_ns);
                }
                if !session.discovery_finished() {
                    let error = session.status().last_error.unwrap_or("it does not answer");
                    return Some(Err(Failure::new(
                        Code::Storage,
                        portal.to_string(),
                        error,
                        "check address and target",
                    )));
                }
                Some(Ok(session
                    .discovered()
                    .iter()
                    .map(|target| Found {
                        volume: format!("iscsi://{portal}/{}/<lun>", target.name),
                        server: portal.to_string(),
                        details: target.portals.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                    })
                    .collect()))
            }
        }
    }
}

fn busy() -> Failure {
    Failure::new(Code::Conflict, "", "another discovery is under way", "try again in a few seconds")
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
