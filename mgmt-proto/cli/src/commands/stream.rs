//! Streams that people read: what is said when a session breaks.

use mgmt_proto::code::Failure;
use mgmt_proto::verb::{Reply, Request, Stream};
use redoubt::Connection;
use redoubt::connection::Before;

/// The next part of a stream. When the session breaks, another one takes its place, and
/// the reader is told.
pub(crate) fn next(connection: &mut Connection, request: &Request) -> Result<(Stream, Before), Failure> {
    let mut told = false;
    let (reply, before) = connection.look(request, &mut |broken| {
        if !std::mem::replace(&mut told, true) {
            log::info!("{broken}: connecting again");
        }
        true
    })?;
    let Reply::Stream(stream) = reply else { return Err(connection.unexpected()) };
    if before != Before::Nothing {
        log::info!("{}: connected again", connection.address());
    }
    Ok((stream, before))
}
