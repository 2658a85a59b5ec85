//! Types on guests' consoles: [`crate::guests::console_lock`].

use mgmt_proto::limits::INPUT_BYTES;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};

use crate::guests::console_lock::{ConsoleWriter, IDLE_NS};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Types on a guest's console: all of it, or it is said how much was taken.
    pub(crate) fn type_on_console(
        &mut self,
        session: usize,
        name: &str,
        bytes: &[u8],
        now_ns: u64,
    ) -> Outcome {
        if bytes.len() > INPUT_BYTES {
            let (found, most) = (bytes.len() as u64, INPUT_BYTES as u64);
            return Err(Refusal::of(name, Reason::ConsoleInputTooLong { found, most }));
        }
        self.take_console(session, name, now_ns)?;
        let index = self.guests.find(name)?;
        let Some(guest) = self.guests.get_mut(index).filter(|guest| guest.domain_id().is_some()) else {
            return Err(Refusal::of(name, Reason::NotRunning));
        };
        let taken = guest.type_input(bytes);
        guest.mark_all_work();
        if taken < bytes.len() {
            let (taken, of) = (taken as u64, bytes.len() as u64);
            return Err(Refusal::of(name, Reason::ConsoleFull { taken, of }));
        }
        Ok(Reply::Done)
    }

    /// Gives a guest's console to a session that types, unless another one does. It is
    /// free again when that session ends, or has typed nothing for [`IDLE_NS`].
    pub(crate) fn take_console(&mut self, session: usize, name: &str, now_ns: u64) -> Result<(), Refusal> {
        let index = self.guests.find(name)?;
        let (Some(connection), Some(guest)) =
            (self.operators.sessions.connection(session), self.guests.get_mut(index))
        else {
            return Ok(());
        };
        if let Some(writer) = guest.writer
            && writer.connection != connection
            && now_ns < writer.last_ns.saturating_add(IDLE_NS)
            && self.operators.sessions.is_open(writer.connection)
        {
            return Err(Refusal::of(name, Reason::ConsoleTaken));
        }
        guest.writer = Some(ConsoleWriter { connection, last_ns: now_ns });
        Ok(())
    }
}
