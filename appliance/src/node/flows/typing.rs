//! Types on guests' consoles: [`crate::guests::console_lock`].

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::limits::INPUT_BYTES;
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
            let message =
                alloc::format!("{} bytes were typed; {INPUT_BYTES} at once are possible", bytes.len());
            return Err(Failure::new(Code::Usage, name, message, "type in pieces; nothing was taken"));
        }
        self.take_console(session, name, now_ns)?;
        let index = self.guests.find(name)?;
        let Some(guest) = self.guests.get_mut(index).filter(|guest| guest.domain_id().is_some()) else {
            return Err(Failure::new(Code::Conflict, name, "is not running", "see `redoubt list`"));
        };
        let taken = guest.type_input(bytes);
        guest.mark_all_work();
        if taken < bytes.len() {
            let message = alloc::format!("took {taken} of {} bytes", bytes.len());
            return Err(Failure::new(Code::Partial, name, message, "the guest does not read its console"));
        }
        Ok(Reply::Done)
    }

    /// Gives a guest's console to a session that types, unless another one does. It is
    /// free again when that session ends, or has typed nothing for [`IDLE_NS`].
    pub(crate) fn take_console(&mut self, session: usize, name: &str, now_ns: u64) -> Result<(), Failure> {
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
            let message = "another session types on this console";
            let remedy = "read along, and type when it leaves or rests for 10 s";
            return Err(Failure::new(Code::Conflict, name, message, remedy));
        }
        guest.writer = Some(ConsoleWriter { connection, last_ns: now_ns });
        Ok(())
    }
}
