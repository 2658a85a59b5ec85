//! Sending kernels and initrds: an upload goes on where its session broke.

use super::{Connection, RETRY_PAUSE, peer_fault};
use crate::blobs::Blob;
use crate::exit;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::limits::{BLOB_BYTES, BLOB_CHUNK_BYTES, DIGESTS};
use mgmt_proto::machine::Digest;
use mgmt_proto::verb::{Reply, Request};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

/// A session whose node takes no byte for so long is as good as broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another session that sends the same file is left to it. A node takes one that
/// has gone silent for dead earlier than this.
const OTHER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a file was not sent to its end.
enum Stopped {
    /// The session broke before the node said from where on it wants the file.
    Unannounced(Failure),
    /// It broke later.
    Broke(Failure),
    /// Another session sends the file.
    Elsewhere,
    /// Nothing helps.
    Failed(Failure),
}

/// A file on its way.
struct Sending<'a> {
    blob: &'a Blob,
    file: File,
    /// Continues from what the node has.
    resumes: bool,
    /// Where the last session began.
    from: Option<u64>,
    /// When to give up, unless the node has more than before.
    deadline: Instant,
}

impl Connection {
    /// Sends a file, whatever the node has.
    ///
    /// # Errors
    /// Of the file, the node, or the way to it.
    pub fn upload(&mut self, path: &Path) -> Result<Digest, Failure> {
        let blob = Blob::read(path)?;
        self.upload_blob(&blob, &mut |_| {})?;
        Ok(blob.digest)
    }

    /// Sends those files that the node lacks. `progress` is told the file and the
    /// bytes of it that the node was sent. When the session breaks, another one goes on
    /// where it broke, as long as the node comes back within the time for an answer.
    ///
    /// # Errors
    /// Of a file, the node, or the way to it.
    pub fn upload_missing(
        &mut self,
        blobs: &[Blob],
        progress: &mut dyn FnMut(&Blob, u64),
    ) -> Result<(), Failure> {
        let missing = self.missing(blobs)?;
        for blob in blobs.iter().filter(|blob| missing.contains(&blob.digest)) {
            self.upload_blob(blob, &mut |sent| progress(blob, sent))?;
        }
        Ok(())
    }

    /// The digests of those files that the node lacks, however many they are.
    ///
    /// # Errors
    /// Of the node, or the way to it.
    pub fn missing(&mut self, blobs: &[Blob]) -> Result<Vec<Digest>, Failure> {
        let mut missing = Vec::new();
        for page in blobs.chunks(DIGESTS) {
            let asked = page.iter().map(|blob| blob.digest).collect();
            let Reply::Missing(lacking) = self.request(Request::BlobMissing(asked))? else {
                return Err(self.unexpected());
            };
            missing.extend(lacking);
        }
        Ok(missing)
    }

    fn upload_blob(&mut self, blob: &Blob, progress: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let object = blob.path.display().to_string();
        if blob.length == 0 || blob.length > BLOB_BYTES {
            let message = format!("the file has {} bytes", blob.length);
            return Err(exit::usage(object, message, "1 byte to 512 MiB are possible"));
        }
        let file = File::open(&blob.path).map_err(|error| exit::file(&blob.path, &error))?;
        let deadline = Instant::now() + self.answer_timeout;
        let mut sending = Sending { blob, file, resumes: true, from: None, deadline };
        let mut elsewhere: Option<Instant> = None;
        loop {
            let before = sending.from;
            let (mut failure, comes_back) = match self.send_rest(&mut sending, progress) {
                Ok(()) => return Ok(()),
                Err(Stopped::Unannounced(failure)) => (failure, true),
                Err(Stopped::Broke(failure)) => {
                    sending.resumes = true;
                    if sending.from > before {
                        sending.deadline = Instant::now() + self.answer_timeout;
                    }
                    (failure, true)
                }
                Err(Stopped::Elsewhere) => {
                    let since = *elsewhere.get_or_insert_with(Instant::now);
                    sending.resumes = since.elapsed() < OTHER_TIMEOUT;
                    std::thread::sleep(RETRY_PAUSE);
                    continue;
                }
                Err(Stopped::Failed(failure)) => (failure, false),
            };
            if comes_back && Instant::now() < sending.deadline && self.come_back(sending.deadline) {
                continue;
            }
            if failure.object.is_empty() {
                failure.object = object;
            }
            return Err(failure);
        }
    }

    /// Sends what the node lacks of a file, in this session.
    fn send_rest(&mut self, sending: &mut Sending<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), Stopped> {
        let Blob { path, digest, length } = sending.blob;
        let (digest, length) = (*digest, *length);
        let mut sent = self.announce(digest, length, sending.resumes)?;
        sending.from = Some(sent);
        progress(sent);
        if sent == length {
            return Ok(());
        }
        let unreadable = |error: std::io::Error| Stopped::Failed(exit::file(path, &error));
        sending.file.seek(SeekFrom::Start(sent)).map_err(unreadable)?;
        let timeout = self.answer_timeout.min(STALL_TIMEOUT);
        let mut buffer = vec![0; BLOB_CHUNK_BYTES];
        while sent < length {
            let count = sending.file.read(&mut buffer).map_err(unreadable)?;
            // A file that grew is cut, one that shrank cannot be finished: the
            // digest tells either.
            let left = usize::try_from(length - sent).unwrap_or(usize::MAX);
            let chunk = buffer.get(..count.min(left)).filter(|chunk| !chunk.is_empty());
            let chunk = chunk.ok_or_else(|| {
                let message = "the file became shorter while it was sent";
                Stopped::Failed(Failure::new(Code::Integrity, path.display().to_string(), message, ""))
            })?;
            let bytes = self.pump.client_mut().data(chunk);
            let bytes = bytes.map_err(|fault| Stopped::Failed(peer_fault(&self.address, fault)))?;
            self.send(&bytes, timeout).map_err(Stopped::Broke)?;
            sent += chunk.len() as u64;
            progress(sent);
        }
        match self.answer(false, &mut |_| {}) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) => Err(Stopped::Failed(failure)),
            Err(failure) if failure.code == Code::Unreachable => Err(Stopped::Broke(failure)),
            Err(failure) => Err(Stopped::Failed(failure)),
        }
    }

    /// Tells the node what comes; the bytes of it that it has.
    fn announce(&mut self, digest: Digest, length: u64, resumes: bool) -> Result<u64, Stopped> {
        match self.request(Request::BlobPut { digest, length, resume: resumes }) {
            Ok(Reply::BlobHeld(held)) if held <= length => Ok(held),
            Ok(_) => Err(Stopped::Failed(self.unexpected())),
            Err(failure) if failure.code == Code::Unreachable => Err(Stopped::Unannounced(failure)),
            Err(failure) if failure.code == Code::Conflict && resumes => Err(Stopped::Elsewhere),
            Err(failure) => Err(Stopped::Failed(failure)),
        }
    }
}
