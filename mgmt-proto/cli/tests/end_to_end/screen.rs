//! What a person sees in a terminal: transcripts of `top`, `console` and `create` in tmux.

use crate::fake::{FakeNode, Workstation, as_text, with_guest};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A terminal of 100 columns and 12 lines, of its own tmux server.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    /// None where there is no tmux.
    fn new(workstation: &Workstation, arguments: &str) -> Option<Self> {
        // A server that was told to end may still be there: each has a socket of its own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tmux{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let screen = Self { socket: workstation.directory.path().join(name) };
        let line = format!("{} {arguments}; echo left with $?; exec sleep 60", env!("CARGO_BIN_EXE_redoubt"));
        let size = ["-x", "100", "-y", "12"];
        let mut command = screen.command(&[&["new-session", "-d"], &size[..], &[&line]].concat());
        command.env("XDG_CONFIG_HOME", workstation.directory.path()).env("REDOUBT_NODE", &workstation.node);
        command.env("TERM", "xterm").env("LANG", "C.UTF-8").env("SHELL", "/bin/sh");
        match command.status() {
            Ok(status) => assert!(status.success(), "tmux does not start"),
            Err(error) => {
                eprintln!("skipped: tmux: {error}");
                return None;
            }
        }
        Some(screen)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-S", as_text(&self.socket)]).args(arguments);
        command
    }

    fn seen(&self) -> String {
        let output = self.command(&["capture-pane", "-p"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_string()
    }

    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.seen();
            if seen.contains(text) {
                return seen;
            }
            assert!(Instant::now() < deadline, "no {text:?} in:\n{seen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn press(&self, keys: &[&str]) {
        assert!(self.command(&[&["send-keys"], keys].concat()).status().unwrap().success());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).status();
    }
}

fn with_guests() -> (FakeNode, Workstation) {
    let (node, workstation) = with_guest("");
    let file = workstation.directory.path().join("web.vm");
    workstation.expect(0, &["create", as_text(&file), "name=db", "memory=128"]);
    (node, workstation)
}

#[test]
fn top_in_a_terminal() {
    let (node, workstation) = with_guests();
    let Some(screen) = Screen::new(&workstation, "top -d 1 --timeout 1") else { return };
    let seen = screen.wait_for("25.0");
    let lines: Vec<&str> = seen.lines().collect();
    assert!(lines[0].starts_with(&format!("{}  up 00:00:0", node.address)), "{seen}");
    assert!(lines[0].ends_with("2 CPUs, 50.0 % used  1024 MiB, 512 free, dom0 0  2 guests"), "{seen}");
    let headers =
        "NAME  STATE   CPU(sec)  CPU(%)  MEM(k)  MAXMEM(k)  VCPUS  EXITS/s  RX(k)/s  TX(k)/s  VBD_RD/s";
    assert_eq!(lines[1], headers);
    assert!(lines[2].starts_with("db    r-----       "), "{seen}");
    assert!(
        lines[2].ends_with("    25.0       0     131072      1       10        1        2         0"),
        "{seen}"
    );
    assert!(lines[3].starts_with("web   r-----       "), "{seen}");
    assert_eq!(lines[11], "q leaves; sort by c CPU, m memory, n name");

    // The node does not answer for a while: the screen says so and goes on.
    node.state.lock().unwrap().pause = Duration::from_secs(2);
    let seen = screen.wait_for("trying again");
    assert!(seen.contains("no answer within the time allowed") && seen.contains("db    r-----"), "{seen}");
    node.state.lock().unwrap().pause = Duration::ZERO;
    screen.wait_for("q leaves");
    screen.press(&["q"]);
    let seen = screen.wait_for("left with 0");
    assert!(!seen.contains("CPU(sec)"), "the screen from before is back: {seen}");
}

#[test]
fn the_console_in_a_terminal() {
    let (node, workstation) = with_guests();
    let Some(screen) = Screen::new(&workstation, "console web") else { return };
    screen.wait_for("[web; ^] leaves]\nlogin:");
    screen.press(&["root", "Enter"]);
    screen.wait_for("login: root");
    screen.press(&["C-]"]);
    screen.wait_for("left with 0");
    assert_eq!(node.state.lock().unwrap().typed, b"root\r");
}

#[test]
fn nothing_is_typed_at_a_node_of_whose_key_nobody_knows() {
    let (node, workstation) = with_guests();
    for (answer, ends) in [("no", "-r only reads"), ("yes", "login:")] {
        let Some(screen) = Screen::new(&workstation, "--fresh-identity console web") else { return };
        let seen = screen.wait_for("type at the guest's:");
        assert!(seen.contains("is not known: SHA256:"), "{seen}");
        screen.press(&[answer, "Enter"]);
        screen.wait_for(ends);
        screen.press(&["root", "Enter", "C-]"]);
        screen.wait_for("left with");
        let typed = node.state.lock().unwrap().typed.clone();
        assert_eq!(typed, if answer == "yes" { &b"root\r"[..] } else { b"" });
    }
}

#[test]
fn a_console_that_is_only_read() {
    let (node, workstation) = with_guests();
    let Some(screen) = Screen::new(&workstation, "--fresh-identity console -r web") else { return };
    screen.wait_for("login:");
    screen.press(&["root", "Enter", "C-]"]);
    screen.wait_for("left with 0");
    assert!(node.state.lock().unwrap().typed.is_empty());
}

#[test]
fn progress_in_a_terminal() {
    let (node, workstation) = with_guests();
    workstation.file("vmlinuz", "another kernel");
    let file = workstation.directory.path().join("web.vm");
    node.state.lock().unwrap().pause = Duration::from_millis(700);
    let line = format!("create {} name=third", as_text(&file));
    let Some(screen) = Screen::new(&workstation, &line) else { return };
    let seen = screen.wait_for("create third: waiting for its disks");
    assert!(seen.trim_end().ends_with("1/2 disks") || seen.trim_end().ends_with("0/2 disks"), "{seen}");
    let seen = screen.wait_for("left with 0");
    assert_eq!(seen, "third: create done (ID 3)\nleft with 0", "nothing is left of it");
    drop(screen);
    // One of an earlier version is not asked twice, and the guest is created all the same.
    node.state.lock().unwrap().is_old = true;
    node.state.lock().unwrap().pause = Duration::ZERO;
    let line = format!("create {} name=fourth", as_text(&file));
    let Some(screen) = Screen::new(&workstation, &line) else { return };
    assert_eq!(screen.wait_for("left with 0"), "fourth: create done (ID 4)\nleft with 0");
}
