//! Begins uploads and resumes them: [`crate::blobs::uploads`].

use mgmt_proto::limits::BLOB_BYTES;
use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};

use crate::blobs::uploads::Announced;
use crate::hypervisor::Hypervisor;
use crate::limits::UPLOAD_BYTES_OF_KEY;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Asker;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins to receive a blob from nothing.
    fn begin_blob(&mut self, asker: &Asker, digest: Digest, length: u64, now_ns: u64) -> Outcome {
        if length <= BLOB_BYTES {
            self.check_quota(asker, length)?;
        }
        let guests = &self.guests;
        let needed = |digest: &Digest| guests.need(digest);
        let operator = Some(asker.operator);
        let upload = self.blobs.begin(&mut self.hypervisor, operator, digest, length, &needed, now_ns)?;
        if let Some(old) = self.operators.sessions.begin_upload(asker.session, upload) {
            old.cancel(&mut self.hypervisor);
        }
        Ok(Reply::BlobHeld(0))
    }

    /// One operator cannot fill the memory with files that never end: what it has left
    /// unfinished makes room first.
    fn check_quota(&mut self, asker: &Asker, length: u64) -> Result<(), Refusal> {
        let under_way = self.operators.sessions.announced_by(asker.session, &asker.operator);
        let fits = |left: u64| under_way.saturating_add(left).saturating_add(length) <= UPLOAD_BYTES_OF_KEY;
        while !fits(self.blobs.unfinished.announced_by(&asker.operator)) {
            if !self.blobs.unfinished.drop_oldest_of(&mut self.hypervisor, &asker.operator) {
                let (sending_mib, most_mib) = (under_way >> 20, UPLOAD_BYTES_OF_KEY >> 20);
                return Err(Refusal::of("", Reason::BlobQuota { sending_mib, most_mib }));
            }
        }
        Ok(())
    }

    /// Begins to receive a blob, or goes on with one that the same operator began to send.
    pub(crate) fn put_blob(
        &mut self,
        asker: &Asker,
        digest: Digest,
        length: u64,
        resume: bool,
        now_ns: u64,
    ) -> Outcome {
        if !resume {
            return self.begin_blob(asker, digest, length, now_ns);
        }
        if self.blobs.find(&digest).is_some_and(|(_, held)| held as u64 == length) {
            self.blobs.touch(&digest, now_ns);
            return Ok(Reply::BlobHeld(length));
        }
        let announced = Announced {
            operator: Some(asker.operator),
            digest,
            length: usize::try_from(length).unwrap_or(0),
        };
        let own = self.operators.sessions.take_upload(
            &mut self.network.stacks.first,
            asker.session,
            &announced,
            now_ns,
        )?;
        let Some(mut upload) = own.or_else(|| self.blobs.unfinished.take(&announced)) else {
            return self.begin_blob(asker, digest, length, now_ns);
        };
        let held = upload.received as u64;
        upload.last_ns = now_ns;
        if let Some(old) = self.operators.sessions.begin_upload(asker.session, upload) {
            old.cancel(&mut self.hypervisor);
        }
        Ok(Reply::BlobHeld(held))
    }

    /// Takes uploads from sessions that do not go on with them, and drops those that no session does.
    pub(crate) fn poll_uploads(&mut self, now_ns: u64) {
        self.operators.sessions.end_idle_uploads(&mut self.hypervisor, &mut self.blobs, now_ns);
        let trust = &self.trust.bundles;
        let may_go_on = |operator: &[u8; 32]| trust.role(operator).is_some();
        self.blobs.unfinished.tidy(&mut self.hypervisor, now_ns, &may_go_on);
    }
}
