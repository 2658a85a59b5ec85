//! Searches for volumes, on the wire or at a portal.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, validate};
use mgmt_proto::facts::Found;
use mgmt_proto::found;
use mgmt_proto::machine::Disk;
use mgmt_proto::reason::{Reason, Refusal};
use storage::aoe::{Discovery, Source};
use storage::iscsi::{Credentials, Portal, Session, SessionConfig, SessionKind};
use storage::volume::{VolumeName, user};

use crate::limits::DISCOVERY_TIMEOUT_NS;
use crate::network::stacks::Stacks;
use crate::volumes::connection::Connections;
use crate::volumes::{VolumeSettings, Volumes};

/// A search for volumes.
pub(crate) enum Search {
    /// One for each network.
    Aoe(Vec<Discovery>),
    Iscsi {
        session: Box<Session>,
        connections: Connections,
        portal: Portal,
        deadline_ns: u64,
    },
}

impl Volumes {
    /// Starts a search on the wire; one that is under way serves both askers.
    ///
    /// # Errors
    /// Another search is under way.
    pub fn discover_aoe(&mut self, now_ns: u64) -> Result<(), Refusal> {
        match self.search {
            Some(Search::Aoe(_)) => Ok(()),
            Some(_) => Err(busy()),
            None => {
                let sources = self.sources();
                let of = |source: Source| Discovery::new(source.mac, self.next_seed(), now_ns);
                self.search = Some(Search::Aoe(sources.into_iter().map(of).collect()));
                Ok(())
            }
        }
    }

    /// Starts a search at a portal, `[user@]address[:port]`.
    ///
    /// # Errors
    /// The portal is none, the settings are not a user's, or another search is under way.
    pub fn discover_iscsi(
        &mut self,
        text: &str,
        settings: &[DiskSetting],
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let (user, portal) = user::at_portal(text).map_err(|error| {
            Refusal::said(Code::Usage, user::without_secret(text), error.to_string(), error.remedy())
        })?;
        if self.search.is_some() {
            return Err(busy());
        }
        let credentials = credentials(text, user, portal, settings)?;
        let (seed, initiator) = (self.next_seed(), self.initiator.clone());
        let isid = [0x80, 0, 0, 0, 0, 1];
        let config = SessionConfig::new(portal, initiator, SessionKind::Discovery, isid, seed);
        let session = Session::new(SessionConfig { credentials, ..config });
        let deadline_ns = now_ns + DISCOVERY_TIMEOUT_NS;
        let (session, connections) = (Box::new(session), Connections::single());
        self.search = Some(Search::Iscsi { session, connections, portal, deadline_ns });
        Ok(())
    }

    /// Ends a search whose caller no longer waits.
    pub fn cancel_discovery(&mut self, stacks: &mut Stacks, now_ns: u64) {
        if let Some(Search::Iscsi { connections, .. }) = self.search.take() {
            connections.close(stacks, now_ns);
        }
    }

    /// What a search found, once it has ended.
    pub fn take_discovered(
        &mut self,
        stacks: &mut Stacks,
        now_ns: u64,
    ) -> Option<Result<Vec<Found>, Refusal>> {
        let ended = match self.search.as_ref()? {
            Search::Aoe(discoveries) => discoveries.iter().all(|it| it.is_finished(now_ns)),
            Search::Iscsi { session, deadline_ns, .. } => {
                session.discovery_finished() || now_ns >= *deadline_ns
            }
        };
        if !ended {
            return None;
        }
        match self.search.take()? {
            Search::Aoe(discoveries) => Some(Ok(found::on_wires(&discoveries))),
            Search::Iscsi { session, connections, portal, .. } => {
                connections.close(stacks, now_ns);
                if !session.discovery_finished() {
                    let error = session.status().last_error.unwrap_or("it does not answer");
                    return Some(Err(Refusal::of(
                        portal.to_string(),
                        Reason::PortalSilent { detail: error.into() },
                    )));
                }
                Some(Ok(found::at_portal(portal, session.target_list())))
            }
        }
    }
}

/// How the node proves who it is at a portal.
fn credentials(
    text: &str,
    user: Option<String>,
    portal: Portal,
    settings: &[DiskSetting],
) -> Result<Option<Credentials>, Refusal> {
    let wrong = |what: &str, remedy: &str| Err(Refusal::said(Code::Usage, text, what, remedy));
    let of_chap = |it: &DiskSetting| {
        matches!(it, DiskSetting::Secret(_) | DiskSetting::TargetSecret(..) | DiskSetting::AllowMd5)
    };
    if !settings.iter().all(of_chap) {
        return wrong("a setting is not of discovery", "secret, target_secret and allow_md5 are");
    }
    if user.is_some() && settings.is_empty() {
        return wrong("a user needs a secret", "write user@address and give secret");
    }
    // As it is for a volume at that portal.
    let name = VolumeName::discovery(user, portal);
    validate(&Disk { volume: name.to_string(), read_only: true }, settings)?;
    Ok(VolumeSettings::new(&name, settings)?.credentials)
}

fn busy() -> Refusal {
    Refusal::of("", Reason::SearchBusy)
}
