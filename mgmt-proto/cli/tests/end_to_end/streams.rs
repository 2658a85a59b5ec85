//! Streams whose sessions break: they go on where they stood, or say what is missing.

use crate::fake::{Workstation, World, as_text, with_guest};
use mgmt_proto::reason::Refusal;
use mgmt_proto::verb::{Outcome, Reply, Request, Run, Stream};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The streams of a node.
pub(crate) struct Streams {
    pub(crate) log: Vec<u8>,
    /// What is no longer kept of the log and of consoles.
    pub(crate) lost: usize,
    /// The session breaks instead of the next answers: so many.
    pub(crate) breaks: usize,
    /// Numbers of the first frame that is kept, and of the one after the last; 0 when the
    /// capture has ended.
    pub(crate) frames: [u64; 2],
}

impl Default for Streams {
    fn default() -> Self {
        Self { log: b"one\ntwo\n".to_vec(), lost: 0, breaks: 0, frames: [1, 1] }
    }
}

impl World {
    /// Whether the session breaks instead of an answer.
    pub(crate) fn stream_breaks(&mut self, request: &Request) -> bool {
        let is_stream = matches!(
            request,
            Request::NodeLog { run: Run::Current, .. }
                | Request::ConsoleRead { .. }
                | Request::Capture { .. }
        );
        let breaks = is_stream && self.streams.breaks > 0;
        self.streams.breaks -= usize::from(breaks);
        self.boot += u8::from(breaks && self.restarts);
        breaks
    }

    fn console(&mut self, name: &str, from: u64) -> Result<Stream, Refusal> {
        self.guest(name)?;
        let text = [b"login: ", &self.typed[..]].concat();
        let stream = part(&text, self.streams.lost, from);
        // The guest ends when it is told to.
        if self.typed.ends_with(b"exit\n") && stream.bytes.is_empty() {
            self.guests.retain(|guest| guest.machine.name != name);
        }
        Ok(stream)
    }

    pub(crate) fn execute_on_streams(&mut self, request: &Request) -> Outcome {
        Ok(Reply::Stream(match request {
            Request::ConsoleRead { name, from } => self.console(name, *from)?,
            Request::Capture { from: 0, .. } => {
                self.streams.frames = [1, 1];
                Stream { bytes: Vec::new(), next: 1 }
            }
            Request::Capture { from, .. } => {
                let [first, end] = self.streams.frames;
                let count = end.saturating_sub(first.max(*from));
                let record = [&[0; 8][..], &[1, 0, 0, 0], &[1, 0, 0, 0], &[7]].concat();
                Stream { bytes: record.repeat(usize::try_from(count).unwrap()), next: end }
            }
            Request::NodeLog { run: Run::Current, from } => part(&self.streams.log, self.streams.lost, *from),
            Request::NodeLog { run: Run::Previous, from } => part(PREVIOUS.as_bytes(), 0, *from),
            other => panic!("{other:?}"),
        }))
    }
}

/// The log of the run before.
const PREVIOUS: &str = "[    1.000000] info memory: one\n[    2.000000] warn storage: two\n\
    [    3.000000] error dom0: three\n";

/// As a node's ring of bytes answers, of which the first are lost.
fn part(text: &[u8], lost: usize, from: u64) -> Stream {
    let from = usize::try_from(from).unwrap().clamp(lost, text.len());
    Stream { bytes: text[from..].to_vec(), next: text.len() as u64 }
}

/// The program while it reads a stream.
struct Reader {
    child: Child,
    out: BufReader<ChildStdout>,
    error: BufReader<ChildStderr>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reader {
    fn new(workstation: &Workstation, arguments: &[&str]) -> Self {
        let mut command = workstation.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, out: BufReader::new(out), error: BufReader::new(error) }
    }

    /// So many bytes of what it prints.
    fn read(&mut self, bytes: usize) -> String {
        let mut text = vec![0; bytes];
        self.out.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// The next lines of what it says that are not empty.
    fn says(&mut self, lines: usize) -> Vec<String> {
        let lines_said = (&mut self.error).lines().map(Result::unwrap).filter(|line| !line.is_empty());
        lines_said.filter(|line| !line.contains("first contact")).take(lines).collect()
    }
}

#[test]
fn a_log_is_followed_through_breaks() {
    let (node, workstation) = with_guest("");
    let change = |change: &dyn Fn(&mut World)| change(&mut node.state.lock().unwrap());
    let mut reader = Reader::new(&workstation, &["node", "log", "-f"]);
    assert_eq!(reader.read(8), "one\ntwo\n");
    // It goes on in the middle of a line.
    change(&|world| world.streams.log.extend(b"thr"));
    std::thread::sleep(Duration::from_millis(700));
    change(&|world| {
        world.streams.log.extend(b"ee\n");
        world.streams.breaks = 2;
    });
    assert_eq!(reader.read(6), "three\n");
    let said = reader.says(2);
    assert!(said[0].ends_with("(it may be restarting: try again with --wait): connecting again"), "{said:?}");
    assert_eq!(said[1], format!("note: {}: connected again", node.address));
    // What is not kept is missed, and said.
    change(&|world| {
        world.streams.log.extend(b"four\nfive\n");
        world.streams.lost = world.streams.log.len() - 5;
    });
    assert_eq!(reader.read(5), "five\n");
    let said = reader.says(1);
    assert_eq!(said[0], format!("note: {}: 5 bytes of the log are missing here", node.address));
    // Another boot has another log.
    change(&|world| {
        world.streams = Streams { log: b"one\n".to_vec(), breaks: 1, ..Streams::default() };
        world.restarts = true;
    });
    assert_eq!(reader.read(4), "one\n");
    let said = reader.says(3);
    assert!(said[2].ends_with("the machine was restarted; its log begins anew"), "{said:?}");
}

#[test]
fn a_console_goes_on_where_it_stood() {
    let (node, workstation) = with_guest("");
    let change = |change: &dyn Fn(&mut World)| change(&mut node.state.lock().unwrap());
    let mut reader = Reader::new(&workstation, &["console", "web"]);
    assert_eq!(reader.read(7), "login: ");
    change(&|world| {
        world.streams.breaks = 1;
        world.typed.extend(b"root\n");
    });
    assert_eq!(reader.read(5), "root\n");
    let said = reader.says(2);
    assert!(said[0].starts_with("[web: ") && said[0].ends_with("connecting again]"), "{said:?}");
    assert_eq!(said[1], "[web: connected again]");
    change(&|world| {
        world.typed.extend(b"0123456789");
        world.streams.lost = 7 + 5 + 8;
    });
    assert_eq!(reader.read(2), "89");
    assert_eq!(reader.says(1), ["[web: 8 bytes are missing here]"]);
    // dom0 was restarted, with what it kept of the console.
    change(&|world| {
        world.typed = b"anew".to_vec();
        (world.streams.lost, world.streams.breaks, world.restarts) = (0, 1, true);
    });
    assert_eq!(reader.read(11), "login: anew");
    assert_eq!(reader.says(2)[1], "[web: connected again; dom0 was restarted, and the console begins anew]");
    // And it ends with the guest.
    reader.child.stdin.take().unwrap().write_all(b"exit\n").unwrap();
    assert_eq!(reader.says(1), ["[web: the guest is gone]"]);
    assert!(reader.child.wait().unwrap().success());
}

#[test]
fn a_capture_says_which_frames_are_missing() {
    let (node, workstation) = with_guest("");
    let file = workstation.directory.path().join("web.pcap");
    let arguments = ["node", "pcap", "-p", "web", "-c", "9", "-w", as_text(&file)];
    let mut reader = Reader::new(&workstation, &arguments);
    let wait_for = |bytes: u64| {
        while std::fs::metadata(&file).map_or(0, |file| file.len()) < bytes {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(24);
    let state = Arc::clone(&node.state);
    std::thread::sleep(Duration::from_millis(300));
    state.lock().unwrap().streams.frames = [1, 4];
    wait_for(24 + 3 * 17);
    // Two are gone when the next four come, after a break.
    {
        let mut world = state.lock().unwrap();
        (world.streams.breaks, world.streams.frames) = (1, [6, 10]);
    }
    wait_for(24 + 7 * 17);
    let said = reader.says(3);
    assert!(said[0].ends_with("connecting again"), "{said:?}");
    assert_eq!(said[1], format!("note: {}: connected again", node.address));
    assert_eq!(said[2], "note: 2 frames are missing before frame 4");
    state.lock().unwrap().streams.frames = [0, 0];
    let ended = "note: frames are missing after frame 7: the capture had ended, and begins again";
    assert_eq!(reader.says(1), [ended]);
    std::thread::sleep(Duration::from_millis(300));
    state.lock().unwrap().streams.frames = [1, 3];
    assert_eq!(reader.says(1), ["9 frames, 2 lost, and those before it began again"]);
    assert!(reader.child.wait().unwrap().success());
}

/// As `… | head -1` does.
#[test]
fn what_goes_on_for_ever_ends_when_its_reader_is_gone() {
    let (node, workstation) = with_guest("");
    let endless: [&[&str]; 4] = [
        &["node", "log", "-f"],
        &["node", "log", "-f", "-o", "json"],
        &["top", "-b", "-d", "1"],
        &["node", "pcap", "-p", "web", "-w", "-"],
    ];
    for arguments in endless {
        let mut command = workstation.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 4]).unwrap();
        drop(out);
        let ends = Instant::now() + Duration::from_secs(20);
        let status = loop {
            {
                let mut state = node.state.lock().unwrap();
                state.streams.log.extend(b"more\n");
                state.streams.frames[1] += 1;
            }
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < ends, "{arguments:?} goes on without a reader");
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("error") && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}
