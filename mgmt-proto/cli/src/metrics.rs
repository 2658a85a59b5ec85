//! Counters of nodes and guests for Prometheus.
//!
//! Spec: OpenMetrics 1.0.0. One line of `# TYPE`, `# UNIT` and `# HELP` for each
//! family, its samples after it, nothing of another family between, `# EOF` at the
//! end. A family with a unit ends in it; samples of a counter end in `_total`.

use crate::cards::Card;
use crate::json;
use crate::top::Sample;
use mgmt_proto::units::decimal;
use mgmt_proto::verb::{DiskFacts, GuestFacts, NodeFacts, State};
use std::fmt::Write;

/// What the answer to a scrape is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was found on a node.
#[derive(Clone, Debug)]
pub struct Polled {
    /// Its name.
    pub node: String,
    /// What it said, if it did.
    pub sample: Option<Sample>,
    /// Its network cards; none where it does not say.
    pub cards: Vec<Card>,
    /// How long it took.
    pub elapsed_ms: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
    Info,
    Stateset,
}

struct Text {
    text: String,
}

/// The value of a label between its quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Text {
    /// Begins a family; one with a unit has a name that ends in it.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let word = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
            Kind::Stateset => "stateset",
        };
        let _ = writeln!(self.text, "# TYPE {name} {word}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        if let Some(unit) = unit {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let _ = writeln!(self.text, "{name}{{{}}} {value}", labels.join(","));
    }
}

type OfNode = fn(&NodeFacts) -> String;
type OfGuest = fn(&GuestFacts) -> String;
type OfDisk = fn(&DiskFacts) -> String;
type OfCard = fn(&Card) -> String;

const NODE: [(&str, Kind, &str, OfNode); 13] = [
    ("redoubt_node_uptime_seconds", Kind::Gauge, "Time since power-on.", |it| decimal(it.uptime_ns, 9, 9)),
    ("redoubt_node_cpus", Kind::Gauge, "CPUs in use.", |it| it.cpus.to_string()),
    ("redoubt_node_memory_bytes", Kind::Gauge, "Usable RAM.", |it| it.memory_bytes.to_string()),
    ("redoubt_node_free_memory_bytes", Kind::Gauge, "RAM neither used nor promised.", |it| {
        it.memory_free_bytes.to_string()
    }),
    ("redoubt_node_hypervisor_memory_bytes", Kind::Gauge, "RAM the hypervisor uses.", |it| {
        it.hypervisor_bytes.to_string()
    }),
    ("redoubt_node_dom0_memory_bytes", Kind::Gauge, "RAM dom0 uses.", |it| it.dom0_bytes.to_string()),
    ("redoubt_node_dom0_starts", Kind::Counter, "Starts of dom0 since power-on.", |it| {
        it.dom0_starts.to_string()
    }),
    ("redoubt_node_address_claims", Kind::Counter, "Claims of its addresses by others on the wire.", |it| {
        it.claims.count.to_string()
    }),
    ("redoubt_node_portals_moved", Kind::Counter, "Portals that moved to another station.", |it| {
        it.portals_moved.to_string()
    }),
    ("redoubt_node_paths_shortened", Kind::Counter, "Paths found to take only short packets.", |it| {
        it.paths_shortened.to_string()
    }),
    ("redoubt_node_log_errors", Kind::Counter, "Lines of the log that are errors.", |it| {
        it.log_errors.to_string()
    }),
    ("redoubt_node_log_warnings", Kind::Counter, "Lines of the log that are warnings.", |it| {
        it.log_warnings.to_string()
    }),
    ("redoubt_node_guests", Kind::Gauge, "Guests on the node.", |it| it.guests.to_string()),
];

const GUEST: [(&str, Kind, &str, OfGuest); 7] = [
    ("redoubt_guest_cpu_seconds", Kind::Counter, "CPU time.", |it| decimal(it.cpu_time_ns, 9, 9)),
    ("redoubt_guest_vcpus", Kind::Gauge, "vCPUs.", |it| it.machine.vcpus.to_string()),
    ("redoubt_guest_memory_bytes", Kind::Gauge, "RAM it may touch.", |it| {
        it.machine.memory_bytes.to_string()
    }),
    ("redoubt_guest_populated_memory_bytes", Kind::Gauge, "RAM it has touched.", |it| {
        it.populated_bytes.to_string()
    }),
    ("redoubt_guest_exits", Kind::Counter, "Exits to the hypervisor.", |it| it.exits.to_string()),
    ("redoubt_guest_received_frames", Kind::Counter, "Frames received.", |it| it.frames[0].to_string()),
    ("redoubt_guest_sent_frames", Kind::Counter, "Frames sent.", |it| it.frames[1].to_string()),
];

const DISK: [(&str, Kind, &str, OfDisk); 8] = [
    ("redoubt_guest_disk_size_bytes", Kind::Gauge, "Size, 0 until known.", |it| {
        it.sectors.saturating_mul(512).to_string()
    }),
    ("redoubt_guest_disk_reads", Kind::Counter, "Completed reads.", |it| it.operations[0].to_string()),
    ("redoubt_guest_disk_writes", Kind::Counter, "Completed writes.", |it| it.operations[1].to_string()),
    ("redoubt_guest_disk_flushes", Kind::Counter, "Completed flushes.", |it| it.operations[2].to_string()),
    ("redoubt_guest_disk_read_bytes", Kind::Counter, "Bytes read.", |it| it.bytes[0].to_string()),
    ("redoubt_guest_disk_written_bytes", Kind::Counter, "Bytes written.", |it| it.bytes[1].to_string()),
    ("redoubt_guest_disk_retries", Kind::Counter, "Retransmissions or reconnections.", |it| {
        it.retries.to_string()
    }),
    ("redoubt_guest_disk_stalled", Kind::Gauge, "1 while the volume does not answer.", |it| {
        u8::from(it.stalled_since_ns.is_some()).to_string()
    }),
];

const CARD: [(&str, Kind, &str, OfCard); 5] = [
    ("redoubt_node_card_up", Kind::Gauge, "1 while the card's link is up.", |it| {
        u8::from(it.state == "up").to_string()
    }),
    ("redoubt_node_card_received_frames", Kind::Counter, "Frames received.", |it| {
        it.frames_received.to_string()
    }),
    ("redoubt_node_card_sent_frames", Kind::Counter, "Frames sent.", |it| it.frames_sent.to_string()),
    ("redoubt_node_card_received_bytes", Kind::Counter, "Bytes of frames received.", |it| {
        it.bytes_received.to_string()
    }),
    ("redoubt_node_card_sent_bytes", Kind::Counter, "Bytes of frames sent.", |it| it.bytes_sent.to_string()),
];

const STATES: [State; 7] = [
    State::Connecting,
    State::Running,
    State::Blocked,
    State::Paused,
    State::Off,
    State::Crashed,
    State::Detached,
];

fn sample_name(name: &str, kind: Kind) -> String {
    match kind {
        Kind::Counter => format!("{name}_total"),
        Kind::Info => format!("{name}_info"),
        Kind::Gauge | Kind::Stateset => name.into(),
    }
}

/// The text for what was found.
#[must_use]
pub fn text(polled: &[Polled]) -> String {
    let mut text = Text { text: String::new() };
    text.family("redoubt_node_up", Kind::Gauge, "1 when the node answered.");
    for node in polled {
        text.sample(
            "redoubt_node_up",
            &[("node", &node.node)],
            if node.sample.is_some() { "1" } else { "0" },
        );
    }
    text.family("redoubt_node_poll_seconds", Kind::Gauge, "How long asking took.");
    for node in polled {
        let value = decimal(node.elapsed_ms, 3, 3);
        text.sample("redoubt_node_poll_seconds", &[("node", &node.node)], &value);
    }
    let up = |node: &Polled| node.sample.clone().map(|sample| (node.node.clone(), sample));
    let up: Vec<(String, Sample)> = polled.iter().filter_map(up).collect();
    text.family("redoubt_node", Kind::Info, "What the node runs.");
    for (node, sample) in &up {
        let image = hex::encode(sample.node.image_sha256);
        let labels = [("node", node.as_str()), ("version", &sample.node.version), ("image_sha256", &image)];
        text.sample("redoubt_node_info", &labels, "1");
    }
    for (name, kind, help, value) in NODE {
        text.family(name, kind, help);
        for (node, sample) in &up {
            text.sample(&sample_name(name, kind), &[("node", node)], &value(&sample.node));
        }
    }
    cards(&mut text, polled);
    guests(&mut text, &up);
    text.text.push_str("# EOF\n");
    text.text
}

/// The nodes' own cards; one that is missing may have no address yet.
fn cards(text: &mut Text, polled: &[Polled]) {
    for (name, kind, help, value) in CARD {
        text.family(name, kind, help);
        for node in polled {
            for (number, card) in node.cards.iter().enumerate() {
                let number = number.to_string();
                let labels = [
                    ("node", node.node.as_str()),
                    ("card", &number),
                    ("mac", card.mac.as_deref().unwrap_or_default()),
                    ("use", card.usage),
                ];
                text.sample(&sample_name(name, kind), &labels, &value(card));
            }
        }
    }
}

fn guests(text: &mut Text, up: &[(String, Sample)]) {
    text.family("redoubt_guest_state", Kind::Stateset, "What the guest is doing.");
    for (node, guest) in each_guest(up) {
        for state in STATES {
            let labels = [
                ("node", node),
                ("guest", guest.machine.name.as_str()),
                ("redoubt_guest_state", json::state(state)),
            ];
            text.sample("redoubt_guest_state", &labels, if state == guest.state { "1" } else { "0" });
        }
    }
    for (name, kind, help, value) in GUEST {
        text.family(name, kind, help);
        for (node, guest) in each_guest(up) {
            let labels = [("node", node), ("guest", guest.machine.name.as_str())];
            text.sample(&sample_name(name, kind), &labels, &value(guest));
        }
    }
    drops(text, up);
    traffic(text, up);
    for (name, kind, help, value) in DISK {
        text.family(name, kind, help);
        for (node, guest) in each_guest(up) {
            for (index, disk) in guest.disks.iter().enumerate() {
                let number = index.to_string();
                let labels = [
                    ("node", node),
                    ("guest", guest.machine.name.as_str()),
                    ("disk", &number),
                    ("volume", &disk.volume),
                ];
                text.sample(&sample_name(name, kind), &labels, &value(disk));
            }
        }
    }
}

/// Frames that guests sent and that were dropped.
fn drops(text: &mut Text, up: &[(String, Sample)]) {
    text.family("redoubt_guest_dropped_frames", Kind::Counter, "Frames sent that were dropped, by reason.");
    for (node, guest) in each_guest(up) {
        for (reason, count) in &guest.drops {
            let labels = [("node", node), ("guest", guest.machine.name.as_str()), ("reason", reason.name())];
            text.sample("redoubt_guest_dropped_frames_total", &labels, &count.to_string());
        }
    }
}

/// Bytes of frames: of a guest's cards, not among its facts.
fn traffic(text: &mut Text, up: &[(String, Sample)]) {
    let families = [
        ("redoubt_guest_received_bytes", "Bytes of frames received."),
        ("redoubt_guest_sent_bytes", "Bytes of frames sent."),
    ];
    for (index, (name, help)) in families.into_iter().enumerate() {
        text.family(name, Kind::Counter, help);
        for (node, sample) in up {
            for guest in &sample.guests {
                let bytes = sample.bytes(guest).get(index).copied().unwrap_or_default();
                let labels = [("node", node.as_str()), ("guest", guest.machine.name.as_str())];
                text.sample(&format!("{name}_total"), &labels, &bytes.to_string());
            }
        }
    }
}

fn each_guest(up: &[(String, Sample)]) -> impl Iterator<Item = (&str, &GuestFacts)> {
    up.iter().flat_map(|(node, sample)| sample.guests.iter().map(move |guest| (node.as_str(), guest)))
}
