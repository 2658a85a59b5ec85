//! From a node that is meant to a session with it and nobody else.

use crate::agent::Identity;
use crate::connection::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, Connection, wrong_key};
use crate::fleet::Target;
use crate::known_nodes::{self, Policy, Verdict};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{GuestFacts, Reply, Request};
use std::path::PathBuf;
use std::time::Duration;

/// How long waiting for a node that starts takes unless told otherwise.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where the remembered keys of nodes are.
    pub directory: PathBuf,
    /// How long connecting and each answer may take.
    pub timeout: Option<Duration>,
    /// Try until the node is up.
    pub wait: bool,
    /// Take the key the node has now.
    pub accept_new_key: bool,
}

/// Connects and signs with `key`, which [`Target::identity`] names; `talk` is told what a
/// person should know.
///
/// # Errors
/// [`Code::Unreachable`], [`Code::Refused`], failures of files.
pub fn open(
    target: &Target,
    key: &Identity,
    access: &Access,
    talk: &dyn Fn(&str),
) -> Result<Connection, Failure> {
    let (address, pinned) = (&target.address, target.node_key.as_ref());
    let opened = if access.wait {
        Connection::wait_for(address, key, None, access.timeout.unwrap_or(WAIT_TIMEOUT))
    } else {
        Connection::open_within(address, key, None, access.timeout.unwrap_or(CONNECT_TIMEOUT))
    };
    let mut connection = opened.map_err(|mut failure| {
        if let Some(near) = target.near.as_ref().filter(|_| failure.code == Code::Unreachable) {
            failure.remedy = format!("did you mean {near}?");
        }
        failure
    })?;
    connection.set_answer_timeout(access.timeout.unwrap_or(ANSWER_TIMEOUT));
    match pinned {
        Some(pinned) if pinned == connection.node() => {}
        Some(pinned) => {
            let found = *connection.node();
            if !connection.follows_from(pinned) {
                return Err(wrong_key(connection.address(), &found, pinned));
            }
            talk(&format!(
                "note: {address} has the key {} now, which the pinned one leads to: pin it instead",
                hex::encode(found)
            ));
        }
        None => compare(&mut connection, target, access, talk)?,
    }
    Ok(connection)
}

/// Compares the node's key with the remembered one. A key that the remembered one has
/// signed takes its place.
fn compare(
    connection: &mut Connection,
    target: &Target,
    access: &Access,
    talk: &dyn Fn(&str),
) -> Result<(), Failure> {
    let address = &target.address;
    let policy = match (target.fresh_identity, access.accept_new_key) {
        (true, _) => Policy::Fresh,
        (false, true) => Policy::AcceptNew,
        (false, false) => Policy::Pin,
    };
    let known = access.directory.join("known-nodes");
    let fingerprint = keys::public::fingerprint(connection.node());
    match known_nodes::check(&known, address, connection.node(), policy) {
        Ok(Verdict::First) => {
            talk(&format!("note: first contact with {address}; its key {fingerprint} is remembered"));
        }
        Ok(Verdict::Replaced) => talk(&format!("note: {address} now has the key {fingerprint}")),
        Ok(Verdict::Known | Verdict::Fresh) => {}
        Err(failure) if failure.code == Code::Refused => {
            let before = known_nodes::remembered(&known, address)?;
            if !before.is_some_and(|before| connection.follows_from(&before)) {
                return Err(failure);
            }
            known_nodes::check(&known, address, connection.node(), Policy::AcceptNew)?;
            talk(&format!("note: {address} now has the key {fingerprint}, which the one before has signed"));
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// All guests.
///
/// # Errors
/// Of the node, or the way to it.
pub fn guests(connection: &mut Connection) -> Result<Vec<GuestFacts>, Failure> {
    match connection.request(Request::List)? {
        Reply::Guests(guests) => Ok(guests),
        _ => Err(connection.unexpected()),
    }
}

/// The guest that is given by name or number.
///
/// # Errors
/// [`Code::NotFound`], with the name that may have been meant.
pub fn find(connection: &mut Connection, guest: &str) -> Result<GuestFacts, Failure> {
    match connection.request(Request::Info { name: guest.into() }) {
        Ok(Reply::Guests(mut found)) if found.len() == 1 => {
            return found.pop().ok_or_else(|| connection.unexpected());
        }
        Ok(_) => return Err(connection.unexpected()),
        Err(failure) if failure.code == Code::NotFound => {}
        Err(failure) => return Err(failure),
    }
    let guests = guests(connection)?;
    let number = guest.parse::<u32>().ok();
    let numbered = number.and_then(|id| guests.iter().find(|facts| facts.id == id));
    numbered.cloned().ok_or_else(|| {
        let names = guests.iter().map(|facts| facts.machine.name.as_str());
        let remedy = crate::nearest::remedy(guest, names, "see `redoubt list`");
        Failure::new(Code::NotFound, guest, "no guest has that name or ID", remedy)
    })
}
