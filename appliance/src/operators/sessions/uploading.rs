//! What sessions upload: who is at it, and who has stopped.

use machine::guest_memory::GuestMemory;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::Reply;
use netstack::host::Host;

use crate::blobs::uploads::{Announced, Upload};
use crate::blobs::{Blobs, Kept};
use crate::hypervisor::Hypervisor;
use crate::limits::{UPLOAD_IDLE_NS, UPLOAD_SILENT_NS};
use crate::operators::sessions::{Session, Sessions};

impl<M: GuestMemory> Sessions<M> {
    /// Begins to receive the blob that session `index` announced.
    pub fn begin_upload(&mut self, index: usize, upload: Upload<M>) -> Option<Upload<M>> {
        self.sessions.get_mut(index).and_then(|session| session.upload.replace(upload))
    }

    /// The upload that session `index` goes on with, if one receives it: itself, or another
    /// that has been silent for long and ends.
    ///
    /// # Errors
    /// Another one is at it.
    pub fn take_upload(
        &mut self,
        host: &mut Host,
        index: usize,
        announced: &Announced,
        now_ns: u64,
    ) -> Result<Option<Upload<M>>, Refusal> {
        let is_it = |upload: &mut Upload<M>| upload.announced() == announced;
        let own = self.sessions.get_mut(index).and_then(|session| session.upload.take_if(is_it));
        if own.is_some() {
            return Ok(own);
        }
        let silent = |upload: &Upload<M>| now_ns >= upload.last_ns().saturating_add(UPLOAD_SILENT_NS);
        for session in &mut self.sessions {
            let Some(upload) = session.upload.take_if(is_it) else { continue };
            if silent(&upload) {
                host.abort(session.connection, now_ns);
                return Ok(Some(upload));
            }
            session.upload = Some(upload);
            return Err(Refusal::of("", Reason::BlobElsewhere));
        }
        Ok(None)
    }

    /// Bytes of the files that sessions of a key send now, but for session `index`, whose
    /// own gives way to the next.
    pub(crate) fn announced_by(&self, index: usize, operator: &[u8; 32]) -> u64 {
        let others = self.sessions.iter().enumerate().filter(|(other, _)| *other != index);
        let uploads = others.filter_map(|(_, session)| session.upload.as_ref());
        let own = uploads.filter(|upload| upload.announced().operator == Some(*operator));
        own.map(|upload| upload.announced().length as u64).sum()
    }

    /// Takes uploads of which no byte comes from their sessions, whatever else those ask. They
    /// are told, and may go on.
    pub(crate) fn end_idle_uploads<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        now_ns: u64,
    ) {
        for session in &mut self.sessions {
            let Some(upload) = session.upload.take_if(|upload| now_ns >= idle_ns(upload)) else { continue };
            let failure = Refusal::of("", Reason::BlobIdle { idle_s: UPLOAD_IDLE_NS / 1_000_000_000 });
            let _ = session.server.send(&Err(failure));
            blobs.unfinished.keep(hypervisor, upload);
        }
    }

    /// When the first of them is to be taken.
    pub(crate) fn next_idle_upload(&self) -> Option<u64> {
        self.sessions.iter().filter_map(|session| session.upload.as_ref().map(idle_ns)).min()
    }
}

/// From when on an upload is no longer its session's.
const fn idle_ns<M: GuestMemory>(upload: &Upload<M>) -> u64 {
    upload.last_ns().saturating_add(UPLOAD_IDLE_NS)
}

impl<M: GuestMemory> Session<M> {
    pub(crate) fn take_data<H: Hypervisor<Memory = M>>(
        &mut self,
        bytes: &[u8],
        hypervisor: &mut H,
        (blobs, needed): Kept<'_, M>,
        now_ns: u64,
    ) {
        let Some(mut upload) = self.upload.take() else { return };
        if let Err(failure) = blobs.receive(hypervisor, &mut upload, bytes, needed, now_ns) {
            upload.cancel(hypervisor);
            let _ = self.server.send(&Err(failure));
        } else if upload.is_complete() {
            let outcome = blobs.finish(hypervisor, upload, now_ns).map(|()| Reply::Done);
            let _ = self.server.send(&outcome);
        } else {
            self.upload = Some(upload);
        }
    }
}
