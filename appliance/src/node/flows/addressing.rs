//! Tells the log of the first card's address.

use mgmt_proto::manifest::Addressing;

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Says what is new of the first card's address.
    pub(crate) fn log_address(&mut self, now_ns: u64) {
        let manifest = &self.settings.manifest;
        let is_dhcp = manifest.addressing == Addressing::Dhcp;
        self.network.log_address(manifest.port, is_dhcp, now_ns);
    }
}
