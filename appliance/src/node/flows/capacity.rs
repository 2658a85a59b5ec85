//! Whether dom0 has memory for what is asked for: [`crate::ledger`] says what it takes.

use mgmt_proto::disk::{DiskSetting, GuestSettings};
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::reason::{Reason, Refusal};

use crate::hypervisor::Hypervisor;
use crate::ledger::{HEAP_BYTES, attaching_bytes, guest_bytes, iscsi_disks, kib, own_bytes};
use crate::network::nic::Nic;
use crate::network::stacks::VOLUMES_CONNECTED_MAX;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Heap that is promised: to the node itself, to guests, to what is kept of them, and to
    /// sessions that still say goodbye to their targets.
    pub(crate) fn heap_promised(&self) -> usize {
        let cards = self.network.stacks.cards();
        let own = own_bytes(cards, self.settings.manifest.state.is_some());
        let guests = self.guests.list.iter().map(|guest| guest_bytes(&guest.machine, &guest.settings, cards));
        let coming = self.guests.attaching.iter().map(|it| it.heap_bytes(cards));
        own + guests.sum::<usize>()
            + coming.sum::<usize>()
            + self.guests.autostart.bytes()
            + self.volumes.retiring_bytes()
    }

    /// Whether the heap can promise so much more.
    fn check_heap_bytes(&self, name: &str, bytes: usize) -> Result<(), Refusal> {
        let free = HEAP_BYTES.saturating_sub(self.heap_promised());
        if bytes <= free {
            return Ok(());
        }
        let [wanted_kib, free_kib, total_kib] = [bytes, free, HEAP_BYTES].map(|bytes| kib(bytes) as u64);
        Err(Refusal::of(name, Reason::NoHeap { wanted_kib, free_kib, total_kib }))
    }

    /// Whether so many more volumes can be connected over iSCSI.
    fn check_connections(&self, name: &str, more: usize) -> Result<(), Refusal> {
        let used = iscsi_disks(self.guests.list.iter().flat_map(|guest| &guest.machine.disks))
            + iscsi_disks(self.guests.attaching.iter().map(|it| it.disk()))
            + usize::from(self.volumes.has_iscsi_state());
        if more == 0 || used + more <= VOLUMES_CONNECTED_MAX {
            return Ok(());
        }
        let free = VOLUMES_CONNECTED_MAX.saturating_sub(used) as u64;
        let (wanted, most) = (more as u64, VOLUMES_CONNECTED_MAX as u64);
        Err(Refusal::of(name, Reason::NoConnections { wanted, free, most }))
    }

    /// Whether dom0 has memory for a guest, whatever that does.
    pub(crate) fn check_heap(&self, machine: &Machine, settings: &GuestSettings) -> Result<(), Refusal> {
        self.check_connections(&machine.name, iscsi_disks(machine.disks.iter()))?;
        let cards = self.network.stacks.cards();
        self.check_heap_bytes(&machine.name, guest_bytes(machine, settings, cards))
    }

    /// Whether dom0 has memory for one more disk of a guest.
    pub(crate) fn check_heap_of_disk(
        &self,
        name: &str,
        disk: &Disk,
        settings: &[DiskSetting],
    ) -> Result<(), Refusal> {
        self.check_connections(name, iscsi_disks(core::iter::once(disk)))?;
        self.check_heap_bytes(name, attaching_bytes(disk, settings, self.network.stacks.cards()))
    }

    /// Whether dom0 has memory for what is to be kept of guests.
    pub(crate) fn check_heap_of_kept(&self, name: &str, bytes: usize) -> Result<(), Refusal> {
        self.check_heap_bytes(name, bytes)
    }
}
