//! From a node that is meant to a session with it and nobody else.

use crate::agent::Identity;
use crate::connection::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, Connection, wrong_key};
use crate::fleet::Target;
use crate::known_nodes::{self, Policy, Verdict};
use crate::passes;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::handshake::{Meant, OperatorKey as _};
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
    let known = access.directory.join("known-nodes");
    let pinned = match target.node_key {
        Some(pinned) => Some(pinned),
        None => known_nodes::remembered(&known, &target.address)?,
    };
    let opened = match attempt(target, key, access, pinned) {
        // What is remembered does not matter any more.
        Err(failure)
            if failure.code == Code::Refused && pinned.is_some() && is_open_to_new(target, access) =>
        {
            attempt(target, key, access, None)
        }
        opened => opened,
    };
    let mut connection = opened.map_err(|mut failure| {
        if let Some(near) = target.near.as_ref().filter(|_| failure.code == Code::Unreachable) {
            failure.remedy = format!("did you mean {near}?");
        }
        failure
    })?;
    connection.set_answer_timeout(access.timeout.unwrap_or(ANSWER_TIMEOUT));
    compare_sealed(&connection, target)?;
    match &target.node_key {
        Some(pinned) if pinned == connection.node() => connection.know(),
        Some(pinned) => {
            let found = *connection.node();
            if !connection.follows_from(pinned) {
                return Err(wrong_key(connection.address(), &found, pinned));
            }
            connection.know();
            talk(&format!(
                "note: {} has the key {} now, which the pinned one leads to: pin it instead",
                target.address,
                hex::encode(found)
            ));
        }
        None => compare(&mut connection, target, access, talk)?,
    }
    let passes = access.directory.join("passes");
    if let Err(failure) =
        passes::remember(&passes, connection.node(), &key.public(), &connection.proved().pass)
    {
        talk(&format!("note: {failure}: under attack the node knows this operator less well"));
    }
    Ok(connection)
}

/// Whether any key of the node is taken.
const fn is_open_to_new(target: &Target, access: &Access) -> bool {
    target.node_key.is_none() && (access.accept_new_key || target.fresh_identity)
}

/// Connects to the node with a key, or whatever key it has.
fn attempt(
    target: &Target,
    key: &Identity,
    access: &Access,
    node: Option<[u8; 32]>,
) -> Result<Connection, Failure> {
    let passes = access.directory.join("passes");
    let pass = node.and_then(|node| passes::remembered(&passes, &node, &key.public()));
    let meant = Meant { key: node, pass, name: target.called.clone().unwrap_or_default() };
    // Waiting for a node that is known by another key now would be in vain.
    if access.wait && !(node.is_some() && is_open_to_new(target, access)) {
        Connection::wait_for(&target.address, key, &meant, access.timeout.unwrap_or(WAIT_TIMEOUT))
    } else {
        Connection::open_within(&target.address, key, &meant, access.timeout.unwrap_or(CONNECT_TIMEOUT))
    }
}

/// Compares what the owner sealed with what is said of it, whatever key the node has.
fn compare_sealed(connection: &Connection, target: &Target) -> Result<(), Failure> {
    let proved = connection.proved();
    let refused = |message| {
        Failure::new(Code::Refused, &target.address, message, "this is another node, or was sealed anew")
    };
    if let Some(called) = target.called.as_ref().filter(|called| **called != proved.name) {
        return Err(refused(format!("the node is called {} and not {called}", proved.name)));
    }
    if let Some(manifest) = target.manifest.as_ref().filter(|manifest| **manifest != proved.manifest) {
        let (found, wanted) = (hex::encode(proved.manifest), hex::encode(manifest));
        return Err(refused(format!("the node's sealed settings are {found} and not {wanted}")));
    }
    Ok(())
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
            if policy == Policy::AcceptNew {
                connection.know();
            }
            talk(&format!("note: first contact with {address}; its key {fingerprint} is remembered"));
        }
        Ok(Verdict::Replaced) => {
            connection.know();
            talk(&format!("note: {address} now has the key {fingerprint}"));
        }
        Ok(Verdict::Known) => connection.know(),
        // It is not remembered: who runs the command answers for it each time.
        Ok(Verdict::Fresh) => {
            if access.accept_new_key {
                connection.know();
            }
        }
        Err(failure) if failure.code == Code::Refused => {
            let before = known_nodes::remembered(&known, address)?;
            if !before.is_some_and(|before| connection.follows_from(&before)) {
                return Err(failure);
            }
            known_nodes::check(&known, address, connection.node(), Policy::AcceptNew)?;
            connection.know();
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
