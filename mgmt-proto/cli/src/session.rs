//! From the global options to a session with the right node.

use crate::arguments::{Form, Global};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{GuestFacts, Reply, Request};
use redoubt::connection::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, with_port};
use redoubt::known_nodes::{self, Policy, Verdict};
use redoubt::settings::{self, Settings};
use redoubt::{Connection, exit, json, table};
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// How long `--wait` tries unless told otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Connects as the options say.
pub(crate) fn open(global: &Global) -> Result<Connection, Failure> {
    let directory = settings::directory();
    let context = Settings::load(&directory.join("config.toml"))?.context(global.context.as_deref())?;
    let address = global.node.clone().or(context.node);
    let address = address.ok_or_else(|| {
        exit::usage("", "no node is named", "give -n ADDRESS, set REDOUBT_NODE or write a config.toml")
    })?;
    let address = with_port(&address);
    let identity = global.identity.clone().or(context.identity);
    let identity = identity.unwrap_or_else(|| directory.join("operator.key"));
    let key = keys::secret::load(&identity).map_err(|error| exit::key(&error))?;
    let pinned = global.node_key.clone().or(context.node_key);
    let pinned = pinned.map(|text| parse_node_key(&text)).transpose()?;

    let given = global.timeout.map(Duration::from_secs);
    let mut connection = if global.wait {
        Connection::wait_for(&address, &key, pinned.as_ref(), given.unwrap_or(WAIT_TIMEOUT))?
    } else {
        Connection::open_within(&address, &key, pinned.as_ref(), given.unwrap_or(CONNECT_TIMEOUT))?
    };
    connection.set_answer_timeout(given.unwrap_or(ANSWER_TIMEOUT));
    let fingerprint = keys::public::fingerprint(connection.node());
    if pinned.is_none() {
        let policy = if global.fresh_identity || context.fresh_identity {
            Policy::Fresh
        } else if global.accept_new_key {
            Policy::AcceptNew
        } else {
            Policy::Pin
        };
        let known = directory.join("known-nodes");
        match known_nodes::check(&known, &address, connection.node(), policy)? {
            Verdict::First => {
                eprintln!("note: first contact with {address}; its key {fingerprint} is remembered");
            }
            Verdict::Replaced => eprintln!("note: {address} now has the key {fingerprint}"),
            Verdict::Known | Verdict::Fresh => {}
        }
    }
    if global.verbose {
        eprintln!("connected to {address}, key {fingerprint}");
    }
    Ok(connection)
}

fn parse_node_key(text: &str) -> Result<[u8; 32], Failure> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| {
        exit::usage("node key", "has other than 64 hexadecimal digits", "see `redoubt node info`")
    })?;
    Ok(key)
}

/// All guests.
pub(crate) fn guests(connection: &mut Connection) -> Result<Vec<GuestFacts>, Failure> {
    match connection.request(Request::List)? {
        Reply::Guests(guests) => Ok(guests),
        _ => Err(connection.unexpected()),
    }
}

/// The name of a guest that is given by name or number.
pub(crate) fn resolve(connection: &mut Connection, guest: &str) -> Result<String, Failure> {
    let Ok(id) = guest.parse::<u32>() else { return Ok(guest.into()) };
    let guests = guests(connection)?;
    let named = guests.iter().find(|facts| facts.machine.name == guest);
    named.or_else(|| guests.iter().find(|facts| facts.id == id)).map_or_else(
        || Err(Failure::new(Code::NotFound, guest, "no guest has that name or ID", "see `redoubt list`")),
        |facts| Ok(facts.machine.name.clone()),
    )
}

/// Prints data; a reader that went away is no fault.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Internal, "stdout", error.to_string(), ""))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub(crate) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    print(&format!("{}\n", json::text(value)))
}

/// Says that something was done, or requested and goes on.
pub(crate) fn print_done(
    global: &Global,
    object: &str,
    verb: &'static str,
    status: &'static str,
    id: Option<u32>,
) -> Result<(), Failure> {
    match global.output {
        Form::Json => print_json(&json::Done { object: object.into(), verb, status, id }),
        Form::Name => print(&format!("{object}\n")),
        Form::Table | Form::Wide => {
            let id = id.map(|id| format!(" (ID {id})")).unwrap_or_default();
            print(&format!("{object}: {verb} {status}{id}\n"))
        }
    }
}

/// Prints guests in the form asked for.
pub(crate) fn print_guests(global: &Global, guests: &[GuestFacts]) -> Result<(), Failure> {
    match global.output {
        Form::Json => print_json(&guests.iter().map(json::guest).collect::<Vec<_>>()),
        Form::Name => {
            print(&guests.iter().map(|guest| format!("{}\n", guest.machine.name)).collect::<String>())
        }
        Form::Table => print(&table::guests(guests, false).to_string()),
        Form::Wide => print(&table::guests(guests, true).to_string()),
    }
}
