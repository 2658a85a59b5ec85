//! What everything may take of dom0's heap at most.
//!
//! The node's own part follows from the limits alone and is below the heap, whatever its
//! settings; what is left is for guests. A guest, a disk or a description that could take
//! more than that is refused before it is there, so that nothing which guests, targets and
//! strangers do afterwards can use the heap up.

use machine::devices::virtio::VirtioDevice;
use machine::devices::virtio::block::VirtioBlock;
use machine::limits::{
    CONSOLE_BYTES, CONSOLE_INPUT_BYTES, LARGE_FRAME_BYTES_MAX, UART_INPUT_BYTES, UART_OUTPUT_BYTES,
};
use mgmt_proto::disk::{DiskSetting, GuestSettings};
use mgmt_proto::limits::{
    CARD_ADDRESSES, CARD_MACS, CARD_ROUTERS, CARD_VLANS, CONFIG_BYTES, DISK_SETTINGS, DISKS, JOBS,
    KEPT_GUESTS, KNOCKS_REMEMBERED, MESSAGE_BYTES, NETWORK_CARDS, RECEIVE_BYTES, RECORD_BYTES,
    TRANSMIT_BYTES, TRUST_BYTES, VOLUME_BYTES,
};
use mgmt_proto::machine::{Disk, Machine, NetworkCard};
use netstack::host::TcpOptions;
use netstack::limits::{HOST_BUFFER_BYTES_MAX, HOST_GUARDED_SOCKETS_MAX, HOST_HEAP_BYTES_MAX};
use storage::aoe::Target;
use storage::iscsi::Session;
use storage::limits::{AOE_DISCOVERED_MAX, ISCSI_PATHS_MAX, ISCSI_TEXT_MAX, STORE_BYTES_MAX, STORE_KEYS_MAX};
use storage::volume::VolumeName;

use crate::limits::{BEGUN_MAX, CAPTURE_BYTES, CAPTURES_MAX, CARDS_MAX, RESULTS_KEPT_MAX, SESSIONS_MAX};
use crate::volumes::{Binding, parse};

const KIB: usize = 1024;

/// The heap without what its allocator loses between pieces.
#[expect(clippy::cast_possible_truncation, reason = "a heap is smaller than an address space")]
pub(crate) const HEAP_BYTES: usize = (hv_abi::boot::HEAP_BYTES / 8 * 7) as usize;

/// What the node itself takes, for one thing of it.
struct Line {
    /// For any node.
    base: usize,
    /// For each network card.
    of_card: usize,
    /// For one with a state volume.
    of_state: usize,
}

const fn base(base: usize) -> Line {
    Line { base, of_card: 0, of_state: 0 }
}

const fn of_card(of_card: usize) -> Line {
    Line { base: 0, of_card, of_state: 0 }
}

const fn of_state(of_state: usize) -> Line {
    Line { base: 0, of_card: 0, of_state }
}

/// A session with a target, and all of its paths.
const WIDE_VOLUME: usize = Session::HEAP_BYTES_MAX + ISCSI_PATHS_MAX * Session::PATH_HEAP_BYTES_MAX;

/// The longest description of a guest, in memory.
const DESCRIPTION_MAX: usize = DISKS * (VOLUME_BYTES + DISK_SETTINGS * size_of::<DiskSetting>())
    + NETWORK_CARDS * (CARD_ADDRESSES * 24 + CARD_MACS + CARD_ROUTERS + 2 * CARD_VLANS)
    + 8 * KIB;

/// What the node itself takes: all that is here does not depend on guests.
const LINES: [Line; 14] = [
    // Frames that wait, and tables, of each card's stack.
    of_card(HOST_HEAP_BYTES_MAX),
    // Connections to targets share their buffers; operators have theirs.
    base(HOST_BUFFER_BYTES_MAX),
    base(HOST_GUARDED_SOCKETS_MAX * TcpOptions::MANAGEMENT.bytes()),
    base((SESSIONS_MAX + BEGUN_MAX) * (RECEIVE_BYTES + TRANSMIT_BYTES + 64 + 8 * KIB)),
    // Knocks remembered: a list that doubles, and the old one meanwhile.
    base(KNOCKS_REMEMBERED.next_power_of_two() * 16 * 3 / 2 + 64 * KIB),
    // A frame, and what is made of it.
    base(2 * LARGE_FRAME_BYTES_MAX),
    base(CAPTURES_MAX * (CAPTURE_BYTES + 20 * KIB)),
    // Who asked for what, failures, and the last lists of targets.
    base(JOBS * 4 * KIB + (RESULTS_KEPT_MAX + 1) * (ISCSI_TEXT_MAX * 4 + AOE_DISCOVERED_MAX * KIB)),
    // Bundles: those that hold, and those that come.
    base(2 * TRUST_BYTES + 128 * KIB),
    // A search and a maintenance operation at targets.
    base(WIDE_VOLUME + Session::HEAP_BYTES_MAX + Session::PATH_HEAP_BYTES_MAX + 6 * ISCSI_TEXT_MAX),
    // A command and its answer: records, what they say, and where it goes.
    base(3 * RECORD_BYTES + 8 * MESSAGE_BYTES),
    // An exported or imported configuration, and what it says.
    of_state(2 * CONFIG_BYTES + KEPT_GUESTS * DESCRIPTION_MAX),
    // The state volume's session, memory of what is under way, the store and its copy.
    of_state(WIDE_VOLUME + KIB * KIB + 2 * STORE_BYTES_MAX + STORE_KEYS_MAX * 256 + 512 * KIB),
    // Logs' heads, revisions, switch, blobs' names.
    base(KIB * KIB),
];

/// Heap that a node itself takes at most.
pub(crate) const fn own_bytes(cards: usize, has_state: bool) -> usize {
    let (mut sum, mut lines): (usize, &[Line]) = (0, &LINES);
    while let [line, rest @ ..] = lines {
        sum += line.base + cards * line.of_card + if has_state { line.of_state } else { 0 };
        lines = rest;
    }
    sum
}

/// A guest without cards and disks: consoles, devices, and its own place in a list that
/// grows by doubling.
const GUEST_BYTES: usize = CONSOLE_BYTES
    + 2 * (CONSOLE_INPUT_BYTES + UART_INPUT_BYTES)
    + UART_OUTPUT_BYTES
    + 2 * DEVICE_BYTES
    + 12 * KIB;

/// A device on the bus: its place in a list that doubles, registers, queues and vectors.
const DEVICE_BYTES: usize = 2 * size_of::<VirtioDevice>() + KIB;

/// A disk's device, its place among the node's, and the guest's names of its requests.
const DISK_BYTES: usize = DEVICE_BYTES + VirtioBlock::HEAP_BYTES_MAX + 2 * size_of::<Binding>() + 16 * KIB;

const _: () = {
    // Whatever the node's settings, there is room for guests: here with all of their disks.
    let wide = GUEST_BYTES + DISKS * (DISK_BYTES + WIDE_VOLUME) + NETWORK_CARDS * DEVICE_BYTES;
    assert!(own_bytes(CARDS_MAX, true) + wide + DESCRIPTION_MAX <= HEAP_BYTES);
    // A common node without a state volume has as many guests as its switch has ports, with a
    // disk each.
    let common = GUEST_BYTES + DISK_BYTES + Target::HEAP_BYTES_MAX + DEVICE_BYTES + 4 * KIB;
    assert!(own_bytes(1, false) + (netstack::limits::SWITCH_PORTS_MAX - 2) * common <= HEAP_BYTES);
};

/// A disk and the session behind it. An iSCSI volume may have a path from each card to each
/// portal.
fn disk_bytes(disk: &Disk, settings: &[DiskSetting], cards: usize) -> usize {
    let session = match parse(disk) {
        Ok(VolumeName::Iscsi { .. }) => {
            let further = settings.iter().filter(|it| matches!(it, DiskSetting::Portal(..))).count();
            let paths = (1 + further).saturating_mul(cards).min(ISCSI_PATHS_MAX);
            Session::HEAP_BYTES_MAX + paths * Session::PATH_HEAP_BYTES_MAX
        }
        _ => Target::HEAP_BYTES_MAX,
    };
    DISK_BYTES + session + disk_description(disk, settings)
}

/// What is told of a disk, in a list that grows by doubling.
fn disk_description(disk: &Disk, settings: &[DiskSetting]) -> usize {
    let secrets = settings.iter().map(|it| match it {
        DiskSetting::Secret(secret) => secret.expose().len(),
        DiskSetting::TargetSecret(name, secret) => {
            secret.expose().len() + name.as_ref().map_or(0, alloc::string::String::len)
        }
        _ => 0,
    });
    2 * size_of::<Disk>() + disk.volume.len() + 2 * size_of_val(settings) + 2 * secrets.sum::<usize>() + 128
}

fn card_description(card: &NetworkCard) -> usize {
    let privileges = card.privileges.vrrp.len() + 2 * card.privileges.trunk.len();
    2 * size_of::<NetworkCard>() + 2 * (size_of_val(&*card.addresses) + privileges)
}

/// What a guest is told to be, in memory.
pub(crate) fn description_bytes(machine: &Machine, settings: &GuestSettings) -> usize {
    let none: &[DiskSetting] = &[];
    let settings_of = settings.disks.iter().map(|list| &**list).chain(core::iter::repeat(none));
    let disks = machine.disks.iter().zip(settings_of).map(|(disk, list)| disk_description(disk, list));
    let cards = machine.network_cards.iter().map(card_description);
    let texts = machine.name.len() + machine.command_line.len() + 2 * size_of_val(&*settings.limits);
    disks.sum::<usize>() + cards.sum::<usize>() + texts + size_of::<Machine>() + 512
}

/// A guest with its cards and disks. What its cards may is also known to the switch.
pub(crate) fn guest_bytes(machine: &Machine, settings: &GuestSettings, cards: usize) -> usize {
    let none: &[DiskSetting] = &[];
    let settings_of = settings.disks.iter().map(|list| &**list).chain(core::iter::repeat(none));
    let disks = machine.disks.iter().zip(settings_of).map(|(disk, list)| disk_bytes(disk, list, cards));
    let own = machine.network_cards.iter().map(|card| DEVICE_BYTES + KIB + 2 * card_description(card));
    let description = description_bytes(machine, settings);
    GUEST_BYTES + description + disks.sum::<usize>() + own.sum::<usize>()
}

pub(crate) fn iscsi_disks<'a>(disks: impl Iterator<Item = &'a Disk>) -> usize {
    disks.filter(|disk| matches!(parse(disk), Ok(VolumeName::Iscsi { .. }))).count()
}

/// Memory in KiB, which is what messages tell.
pub(crate) const fn kib(bytes: usize) -> usize {
    bytes.div_ceil(KIB)
}

/// A disk that is being attached: it is described twice.
pub(crate) fn attaching_bytes(disk: &Disk, settings: &[DiskSetting], cards: usize) -> usize {
    disk_bytes(disk, settings, cards) + disk_description(disk, settings)
}
