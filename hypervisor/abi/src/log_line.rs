//! A line of the node's log: `[seconds.microseconds] level target: text`.

/// Most bytes of target and text that [`crate::call::Call::Log`] takes.
pub const LINE_BYTES_MAX: usize = 512;

/// The target as a line has it, from that of a record, which is a module's path unless it
/// was chosen: the part of the node, or the crate of whatever serves more than the node.
#[must_use]
pub fn target_word(path: &str) -> &str {
    let mut words = path.split("::").filter(|word| !matches!(*word, "node" | "flows"));
    let own = words.next().unwrap_or("node");
    match own {
        "appliance" => words.next().unwrap_or("node"),
        "hypervisor" => words.next().unwrap_or(own),
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::target_word;

    #[test]
    fn targets_are_parts_of_the_node_or_crates() {
        for (path, word) in [
            ("appliance::node::flows::state::opening", "state"),
            ("appliance::network::cards", "network"),
            ("appliance::node", "node"),
            ("machine::devices::pci", "machine"),
            ("hypervisor::memory", "memory"),
            ("hypervisor", "hypervisor"),
            ("storage::aoe::target", "storage"),
            ("dom0::system", "dom0"),
            ("guests", "guests"),
            ("node", "node"),
            ("", ""),
        ] {
            assert_eq!(target_word(path), word, "{path}");
        }
    }
}
