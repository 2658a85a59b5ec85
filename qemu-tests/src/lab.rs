//! A network namespace with DHCP, TFTP and storage targets.
//!
//! The caller re-executes itself inside with [`enter`]; there everything is
//! private, so no lab disturbs another or the machine.

use crate::process::{Process, run};
use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set inside.
const INSIDE: &str = "REDOUBT_LAB";
/// The lab's own address.
pub const HOST: &str = "10.77.0.1";
/// Address of another node on the same wire, by DHCP.
pub const OTHER_NODE: &str = "10.77.0.3";
/// Its MAC.
pub const OTHER_NODE_MAC: &str = "52:54:00:77:00:03";
/// Its tap.
pub const OTHER_TAP: &str = "tap2";
/// The lab's own address on the second wire.
pub const SECOND_HOST: &str = "10.88.0.1";
/// The second wire's tap.
pub const SECOND_TAP: &str = "tap1";
/// Address and MAC of the node's card there, by DHCP.
pub const SECOND_NODE: &str = "10.88.0.2";
/// The MAC.
pub const SECOND_NODE_MAC: &str = "52:54:00:77:01:02";
/// Addresses of the machine behind a router: where it asks from, and its iSCSI portal.
pub const FAR: [&str; 2] = ["10.99.0.2", "10.99.0.3"];
/// The node's address, by DHCP.
pub const NODE: &str = "10.77.0.2";
/// The node's MAC.
pub const NODE_MAC: &str = "52:54:00:77:00:02";

/// Continues inside a namespace of its own; returns there.
///
/// # Errors
/// When namespaces cannot be used.
pub fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // From here on this is `unshare`, which is in the namespace and can be seen from
    // outside, unlike what it runs.
    let mut entrance = format!("nsenter --target {} --net", std::process::id());
    if !crate::packages::is_root() {
        command.args(["--user", "--map-root-user"]);
        entrance += " --user --preserve-credentials";
    }
    // Cargo may have put a new file in this one's place: run that.
    let program = std::env::current_exe()?.to_string_lossy().trim_end_matches(" (deleted)").to_string();
    let error = command.arg(program).args(std::env::args_os().skip(1)).env(INSIDE, entrance).exec();
    Err(error).context("cannot make a network namespace with unshare")
}

/// What a command is preceded by, outside the namespace, to run inside.
#[must_use]
pub fn entrance() -> String {
    std::env::var(INSIDE).unwrap_or_default()
}

/// A guest's address and MAC, for DHCP.
#[must_use]
pub fn guest_address(number: u8) -> (String, String) {
    (format!("10.77.0.{}", 10 + number), format!("02:00:00:77:00:{number:02x}"))
}

fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split(' '))).map(|_| ())
}

/// A bridge with a tap for a card of the node and an address for the lab.
fn add_wire(bridge: &str, tap: &str, address: &str) -> Result<()> {
    // Those of an earlier lab in the same namespace, if there was one.
    for link in [bridge, tap] {
        let _ = ip(&format!("link del {link}"));
    }
    // Of its own: else it is the lowest of its ports', and moves when one more is added.
    let [a, b, c, d] = address.parse::<Ipv4Addr>()?.octets();
    ip(&format!("link add {bridge} address 02:fe:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge"))?;
    ip(&format!("tuntap add {tap} mode tap"))?;
    ip(&format!("link set {tap} master {bridge}"))?;
    ip(&format!("link set {bridge} up"))?;
    ip(&format!("link set {tap} up"))?;
    ip(&format!("addr add {address}/24 dev {bridge}"))
}

/// Makes links take frames with so much payload.
fn set_mtu_of(links: [&str; 2], mtu: u16) -> Result<()> {
    links.iter().try_for_each(|link| ip(&format!("link set {link} mtu {mtu}")))
}

/// A DHCP server on one bridge, with nothing but that.
fn dnsmasq(bridge: &str) -> Command {
    let mut command = Command::new("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"])
        .args(["--user=root", "--group=root", "--dhcp-authoritative", "--log-dhcp"])
        .arg(format!("--interface={bridge}"));
    command
}

fn tgtadm(socket: &Path, arguments: &str) -> Result<String> {
    let mut command = Command::new("tgtadm");
    run(command.env("TGT_IPC_SOCKET", socket).args(["--lld", "iscsi"]).args(arguments.split(' ')))
}

/// Starts a tgtd at an address; `command` runs it without arguments.
fn start_tgtd(mut command: Command, address: &str, socket: &Path, log: &Path) -> Result<Process> {
    command.arg("-f").args(["--iscsi", &format!("portal={address}:3260")]).env("TGT_IPC_SOCKET", socket);
    let tgtd = Process::start(&mut command, log)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while tgtadm(socket, "--op show --mode sys").is_err() {
        ensure!(Instant::now() < deadline, "tgtd does not start, see {}", log.display());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(tgtd)
}

/// Exports a file as LUN 1 of a new target that lets all in.
fn export(socket: &Path, number: u32, name: &str, file: &Path, more: &str) -> Result<()> {
    tgtadm(socket, &format!("--op new --mode target --tid {number} -T {name}"))?;
    let unit = format!("--op new --mode logicalunit --tid {number} --lun 1 -b {}{more}", file.display());
    tgtadm(socket, &unit)?;
    tgtadm(socket, &format!("--op bind --mode target --tid {number} -I ALL")).map(|_| ())
}

/// A machine behind a router, which the lab is: a namespace of its own, and what runs there.
#[derive(Debug)]
struct Far {
    tgtd: Option<Process>,
    /// Holds the namespace.
    holder: Process,
}

/// The running lab.
#[derive(Debug)]
pub struct Lab {
    /// Where logs and sockets are.
    pub directory: PathBuf,
    dnsmasq: Vec<Process>,
    tgtd: Option<Process>,
    far: Option<Far>,
    blades: Vec<Process>,
    two_wires: bool,
}

impl Lab {
    /// A bridge with a tap for the node, DHCP and TFTP. `boot` is the file that
    /// machines boot.
    ///
    /// # Errors
    /// When something cannot be set up.
    pub fn start(directory: &Path, boot: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        ip("link set lo up")?;
        add_wire("br0", "tap0", HOST)?;
        // Router advertisements, for iPXE's sake: without any it waits 13 s for
        // one before it continues.
        ip("-6 addr add fd00:77::1/64 dev br0 nodad")?;
        let name = boot.file_name().context("no boot file")?.to_string_lossy().into_owned();
        let root = boot.parent().context("no boot directory")?;
        let mut command = dnsmasq("br0");
        command
            .args(["--dhcp-range=10.77.0.100,10.77.0.200,1h", "--enable-tftp"])
            .args(["--dhcp-range=fd00:77::,ra-only", "--enable-ra"])
            .arg(format!("--tftp-root={}", root.display()))
            .arg(format!("--dhcp-boot={name}"))
            .arg(format!("--dhcp-leasefile={}", directory.join("leases").display()))
            .arg(format!("--dhcp-host={NODE_MAC},{NODE}"))
            .arg(format!("--dhcp-host={OTHER_NODE_MAC},{OTHER_NODE}"));
        for number in 1..=16 {
            let (address, mac) = guest_address(number);
            command.arg(format!("--dhcp-host={mac},{address}"));
        }
        let dnsmasq = Process::start(&mut command, &directory.join("dnsmasq.log"))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            dnsmasq: vec![dnsmasq],
            tgtd: None,
            far: None,
            blades: Vec::new(),
            two_wires: false,
        })
    }

    /// A second wire, for another card of the node, with nothing but targets and DHCP; it
    /// takes frames with so much payload. Before targets are exported.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_second_wire(&mut self, mtu: u16) -> Result<()> {
        add_wire("br1", SECOND_TAP, SECOND_HOST)?;
        set_mtu_of([SECOND_TAP, "br1"], mtu)?;
        let mut command = dnsmasq("br1");
        command
            .arg("--dhcp-range=10.88.0.100,10.88.0.200,1h")
            .arg(format!("--dhcp-leasefile={}", self.directory.join("leases-second").display()))
            .arg(format!("--dhcp-host={SECOND_NODE_MAC},{SECOND_NODE}"));
        self.dnsmasq.push(Process::start(&mut command, &self.directory.join("dnsmasq-second.log"))?);
        self.two_wires = true;
        Ok(())
    }

    /// A machine behind the lab, which forwards to it packets of so many octets and no longer
    /// ones, though its link and the node's take more.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_far_machine(&mut self, packet_bytes: u16) -> Result<()> {
        let log = self.directory.join("far.log");
        let holder = Process::start(Command::new("unshare").args(["--net", "sleep", "infinity"]), &log)?;
        let id = holder.id();
        self.far = Some(Far { tgtd: None, holder });
        let deadline = Instant::now() + Duration::from_secs(10);
        let own = std::fs::read_link("/proc/self/ns/net")?;
        while std::fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|namespace| namespace == own) {
            ensure!(Instant::now() < deadline, "no namespace for another machine");
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = ip("link del far0");
        ip(&format!("link add far0 type veth peer name far1 netns {id}"))?;
        ip("addr add 10.99.0.1/24 dev far0")?;
        ip("link set far0 up")?;
        for arguments in [
            format!("addr add {}/24 dev far1", FAR[0]),
            format!("addr add {}/24 dev far1", FAR[1]),
            "link set lo up".into(),
            "link set far1 up".into(),
            "route add default via 10.99.0.1".into(),
        ] {
            run(self.in_far_machine(&Command::new("ip")).args(arguments.split(' ')))?;
        }
        ip(&format!("route replace 10.99.0.0/24 dev far0 mtu {packet_bytes}"))?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("the lab does not forward")
    }

    /// A command, to be run on the machine behind the lab.
    #[must_use]
    pub fn in_far_machine(&self, command: &Command) -> Command {
        let id = self.far.as_ref().map_or(0, |far| far.holder.id());
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{id}/ns/net")).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Exports a file as LUN 1 of a target of that machine, with blocks of 4,096 octets.
    ///
    /// # Errors
    /// When tgtd does not take it.
    pub fn export_far_iscsi(&mut self, name: &str, file: &Path) -> Result<()> {
        let socket = self.directory.join("tgtd-far");
        let command = self.in_far_machine(&Command::new("tgtd"));
        let tgtd = start_tgtd(command, FAR[1], &socket, &self.directory.join("tgtd-far.log"))?;
        export(&socket, 1, name, file, " --blocksize 4096")?;
        if let Some(far) = &mut self.far {
            far.tgtd = Some(tgtd);
        }
        Ok(())
    }

    /// Adds a tap for the card of another machine on the first wire.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_tap(&self, tap: &str) -> Result<()> {
        let _ = ip(&format!("link del {tap}"));
        ip(&format!("tuntap add {tap} mode tap"))?;
        ip(&format!("link set {tap} master br0"))?;
        ip(&format!("link set {tap} up"))
    }

    /// Makes the wire take frames with so much payload; before targets are exported.
    ///
    /// # Errors
    /// When a link refuses.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        set_mtu_of(["tap0", "br0"], mtu)
    }

    /// Exports a file as AoE `shelf.slot`.
    ///
    /// # Errors
    /// When vblade does not start.
    pub fn export_aoe(&mut self, shelf: u16, slot: u8, file: &Path) -> Result<()> {
        self.start_blade("br0", shelf, slot, file)
    }

    /// The same on the second wire.
    ///
    /// # Errors
    /// When vblade does not start.
    pub fn export_aoe_on_second_wire(&mut self, shelf: u16, slot: u8, file: &Path) -> Result<()> {
        self.start_blade("br1", shelf, slot, file)
    }

    fn start_blade(&mut self, bridge: &str, shelf: u16, slot: u8, file: &Path) -> Result<()> {
        let mut command = Command::new("vblade");
        command.args([shelf.to_string(), slot.to_string(), bridge.into()]).arg(file);
        let log = self.directory.join(format!("vblade-{bridge}-{shelf}.{slot}.log"));
        let mut blade = Process::start(&mut command, &log)?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(blade.is_running(), "vblade ended: {}", std::fs::read_to_string(&log).unwrap_or_default());
        self.blades.push(blade);
        Ok(())
    }

    /// Exports a file as LUN 1 of a target.
    ///
    /// # Errors
    /// When tgtd does not take it.
    pub fn export_iscsi(&mut self, number: u32, name: &str, file: &Path) -> Result<()> {
        let socket = self.directory.join("tgtd");
        if self.tgtd.is_none() {
            let log = self.directory.join("tgtd.log");
            self.tgtd = Some(start_tgtd(Command::new("tgtd"), HOST, &socket, &log)?);
            if self.two_wires {
                tgtadm(&socket, &format!("--op new --mode portal --param portal={SECOND_HOST}:3260"))?;
            }
        }
        export(&socket, number, name, file, "")
    }

    /// Ends a target at once, as a power cut would; the last one exported is number 0.
    pub fn kill_aoe(&mut self, number: usize) {
        if number < self.blades.len() {
            // Dropped is killed.
            self.blades.remove(self.blades.len() - 1 - number);
        }
    }

    /// Ends the iSCSI targets at once; they are forgotten.
    pub fn kill_iscsi(&mut self) {
        self.tgtd = None;
    }

    /// Cuts or heals the node's link, as pulling the cable would.
    ///
    /// # Errors
    /// When the link cannot be set.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.set_link_of("tap0", up)
    }

    /// The same for a link by its name.
    ///
    /// # Errors
    /// When the link cannot be set.
    pub fn set_link_of(&self, tap: &str, up: bool) -> Result<()> {
        ip(&format!("link set {tap} {}", if up { "up" } else { "down" }))
    }

    /// Whether the services still run.
    pub fn is_healthy(&mut self) -> bool {
        let far = self.far.iter_mut().filter_map(|far| far.tgtd.as_mut());
        let mut services = self.dnsmasq.iter_mut().chain(&mut self.tgtd).chain(&mut self.blades).chain(far);
        services.all(Process::is_running)
    }
}
