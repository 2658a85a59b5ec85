//! A raw Ethernet socket that sees AoE frames only.

use super::{Clock, Memory, pause};
use crate::exit;
use mgmt_proto::code::{Code, Failure};
use pnet_datalink::{Channel, ChannelType, Config, NetworkInterface};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{IntoRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use std::io;
use storage::aoe::wire::{ETHERTYPE, MacAddress};
use storage::aoe::{Source, Target};

/// What every Ethernet carries.
const MTU: usize = 1500;
/// Frames taken off a socket before anything else is looked at.
const FRAMES_AT_ONCE: usize = 64;
/// Room for frames that came and were not taken yet: all that may be unanswered at once, as
/// the kernel counts frames of 9,000 octets, and as many that nobody asked for. What finds no
/// room is sent again later.
const RECEIVE_BYTES: usize = 8 << 20;
/// How long a full socket is waited for before a frame counts as lost.
const FULL: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A network card that frames leave from.
pub(super) struct Station {
    socket: OwnedFd,
    mac: MacAddress,
    mtu: usize,
}

/// The largest payload the card takes. `/proc/sys/net` is the one of this network
/// namespace, unlike `/sys`.
fn mtu_of(interface: &str) -> usize {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/mtu");
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(MTU)
}

fn refused(interface: &str, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let remedy = "run it as root, or give it the capability with `setcap cap_net_raw+ep` on the program; \
                      for a trial, a network of its own inside `unshare -Urn` will do";
        let message = "AoE needs a raw socket, and that needs CAP_NET_RAW";
        return Failure::new(Code::Refused, interface, message, remedy);
    }
    Failure::new(Code::Storage, interface, format!("cannot open a raw socket: {error}"), "")
}

impl Station {
    pub(super) fn open(name: &str, mtu: Option<usize>) -> Result<Self, Failure> {
        let found = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == name);
        let Some(interface) = found else {
            let names: Vec<String> = pnet_datalink::interfaces().into_iter().map(|it| it.name).collect();
            let remedy = format!("there are: {}", names.join(" "));
            return Err(Failure::new(Code::NotFound, name, "no such network interface", remedy));
        };
        let Some(mac) = interface.mac else {
            return Err(exit::usage(name, "is no Ethernet interface", ""));
        };
        let socket = Self::bind(&interface).map_err(|error| refused(name, &error))?;
        Ok(Self { socket, mac: mac.octets(), mtu: mtu.unwrap_or_else(|| mtu_of(name)) })
    }

    /// Only frames of our type, and none of our own, come up here.
    fn bind(interface: &NetworkInterface) -> io::Result<OwnedFd> {
        let protocol = Protocol::from_raw(u32::from(ETHERTYPE.to_be()).try_into().map_err(io::Error::other)?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol))?;
        // More where the privilege is there, else what everybody may have; either beats the
        // usual, and without either it works as well.
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES)
            .or_else(|_| set_socket_recv_buffer_size(&socket, RECEIVE_BYTES));
        let own = socket.try_clone()?;
        let config = Config {
            channel_type: ChannelType::Layer3(ETHERTYPE),
            promiscuous: false,
            socket_fd: Some(socket.into_raw_fd()),
            ..Config::default()
        };
        match pnet_datalink::channel(interface, config)? {
            Channel::Ethernet(..) => Ok(own),
            _ => Err(io::Error::other("another kind of channel")),
        }
    }

    pub(super) const fn source(&self) -> Source {
        Source { mac: self.mac, mtu: self.mtu }
    }

    /// Waits for a frame.
    pub(super) fn wait(&self, limit_ns: u64) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&pause(None, 0, limit_ns))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A frame that the wire does not take is lost: the session sends it again.
    pub(super) fn send(&self, frame: &[u8]) {
        if send(&self.socket, frame, SendFlags::empty()) == Err(Errno::AGAIN) {
            let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], Some(&FULL));
            let _ = send(&self.socket, frame, SendFlags::empty());
        }
    }

    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(&self.socket, buffer, RecvFlags::empty()) {
            Ok((length, _)) => Ok(Some(length)),
            // The interface went down, and may come back.
            Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// One turn, from the time `now_ns` on; returns the time when the waiting ended.
pub(super) fn turn(
    stations: &[Station],
    target: &mut Target,
    memory: &mut Memory,
    buffer: &mut [u8],
    (clock, now_ns): (Clock, u64),
    limit_ns: u64,
) -> io::Result<u64> {
    while let Some(length) = target.transmit(buffer, now_ns, memory) {
        let frame = buffer.get(..length).unwrap_or_default();
        let source = frame.get(6..12);
        if let Some(station) = stations.iter().find(|station| source == Some(&station.mac[..])) {
            station.send(frame);
        }
    }
    let mut wanted: Vec<PollFd<'_>> =
        stations.iter().map(|station| PollFd::new(&station.socket, PollFlags::IN)).collect();
    match poll(&mut wanted, Some(&pause(target.next_deadline(), now_ns, limit_ns))) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let now_ns = clock.now_ns();
    for (station, wanted) in stations.iter().zip(&wanted) {
        if wanted.revents().is_empty() {
            continue;
        }
        for _ in 0..FRAMES_AT_ONCE {
            let Some(length) = station.receive(buffer)? else { break };
            target.receive(buffer.get(..length).unwrap_or_default(), now_ns, memory);
        }
    }
    Ok(now_ns)
}
