//! A volume's octets on their way through TCP.

use alloc::vec::Vec;

use netstack::host::{ConnectionId, ConnectionState, Host, TcpOptions};
use storage::Payload;
use storage::iscsi::Session;

/// Moves a volume's bytes through its connections, opening those it wants.
pub(super) fn drive(
    session: &mut Session,
    connections: &mut Vec<Option<ConnectionId>>,
    host: &mut Host,
    payload: &mut dyn Payload,
    now_ns: u64,
) {
    connections.resize(session.paths(), None);
    for (path, connection) in connections.iter_mut().enumerate() {
        drive_path(session, path, connection, host, payload, now_ns);
    }
}

fn drive_path(
    session: &mut Session,
    path: usize,
    connection: &mut Option<ConnectionId>,
    host: &mut Host,
    payload: &mut dyn Payload,
    now_ns: u64,
) {
    if let Some(id) = *connection {
        // As it mostly is: this is looked at in every turn.
        if session.is_quiet(path, now_ns) && host.is_quiet(id) {
            return;
        }
        let state = host.state(id);
        if session.disconnect_wanted(path) || state == ConnectionState::Closed {
            host.abort(id, now_ns);
            *connection = None;
            session.on_disconnected(path, now_ns);
        } else if session.is_connecting(path) && state == ConnectionState::Established {
            session.on_connected(path, now_ns);
        }
    }
    if connection.is_none()
        && let Some(portal) = session.connect(path, now_ns)
    {
        match host.connect(portal.address, portal.port, TcpOptions::STORAGE) {
            Ok(id) => *connection = Some(id),
            Err(_) => session.on_disconnected(path, now_ns),
        }
    }
    let Some(id) = *connection else { return };
    if host.state(id) == ConnectionState::Connecting {
        return;
    }
    let mut peer_closed = host.state(id) == ConnectionState::PeerClosed;
    loop {
        let mut count = 0;
        host.read_with(id, |bytes| {
            count = bytes.len();
            session.receive(path, bytes, now_ns, payload);
            count
        });
        if count == 0 {
            break;
        }
        peer_closed = host.state(id) == ConnectionState::PeerClosed;
    }
    loop {
        let written = host.write_with(id, |room| session.transmit(path, room, now_ns, payload));
        if written == 0 || session.is_quiet(path, now_ns) {
            break;
        }
    }
    if peer_closed {
        host.abort(id, now_ns);
        *connection = None;
        session.on_disconnected(path, now_ns);
    }
}
