//! The description of a guest, as the CLI makes it from a VM file.

use crate::code::{Code, Failure};
use crate::codec;
pub use crate::disk::Disk;
use crate::disk::{GuestSettings, check_name};
use crate::limits;
use crate::vif::{self, Prefix, Privileges};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// SHA-256 of a kernel or initrd.
pub type Digest = [u8; 32];

/// What happens when a guest turns itself off, resets or crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Its resources are given back.
    Destroy,
    /// It starts again from its kernel.
    Restart,
    /// It stays, stopped, to be looked at.
    Preserve,
}

/// A network card of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCard {
    /// Its address.
    pub mac: [u8; 6],
    /// The only IP addresses that it may have; empty is any that the node does not protect.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::CARD_ADDRESSES + 1 }>")]
    pub addresses: Vec<Prefix>,
    /// What it may beyond a plain card.
    pub privileges: Privileges,
    /// Most octets per second that it sends; without, what any card may.
    pub rate: Option<u64>,
}

impl NetworkCard {
    /// A plain card.
    #[must_use]
    pub fn plain(mac: [u8; 6]) -> Self {
        Self { mac, ..Self::default() }
    }
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Unique on the node.
    pub name: String,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Scheduling weight.
    pub cpu_weight: u32,
    /// Most CPU time in percent of one CPU; 0 is no cap.
    pub cap_percent: u32,
    /// Kernel by digest.
    pub kernel: Digest,
    /// Initrd by digest.
    pub ramdisk: Option<Digest>,
    /// Kernel command line.
    pub command_line: String,
    /// Disks, in the order the guest sees them.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::DISKS + 1 }>")]
    pub disks: Vec<Disk>,
    /// Network cards, in the order the guest sees them.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::NETWORK_CARDS + 1 }>")]
    pub network_cards: Vec<NetworkCard>,
    /// When it turns itself off.
    pub on_poweroff: Action,
    /// When it resets.
    pub on_reboot: Action,
    /// When it crashes.
    pub on_crash: Action,
}

/// A guest and what is set for it from their bytes, if they are all of them that; nothing is
/// checked.
#[must_use]
pub fn decode_guest(bytes: &[u8]) -> Option<(Machine, GuestSettings)> {
    codec::whole(bytes)
}

impl Machine {
    /// Checks everything that can be checked without a node.
    ///
    /// # Errors
    /// A [`Failure`] with [`Code::Usage`] that names the field.
    pub fn validate(&self) -> Result<(), Failure> {
        let wrong = |what: String, remedy: &str| Failure::new(Code::Usage, &self.name, what, remedy);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if self.name.is_empty() || self.name.len() > limits::NAME_BYTES || !self.name.bytes().all(legal) {
            return Err(wrong(
                format!("name has {} bytes or other characters than letters, digits, - _ .", self.name.len()),
                "use 1 to 63 of those",
            ));
        }
        if !self.name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(wrong("name does not start with a letter or digit".into(), "rename the guest"));
        }
        if !(limits::MEMORY_BYTES_MIN..=limits::MEMORY_BYTES_MAX).contains(&self.memory_bytes) {
            return Err(wrong(
                format!("memory is {} MiB", self.memory_bytes >> 20),
                "16 MiB to 240 GiB are possible",
            ));
        }
        if !(1..=limits::VCPUS).contains(&self.vcpus) {
            return Err(wrong(format!("vcpus is {}", self.vcpus), "1 to 32 are possible"));
        }
        if !(1..=65_535).contains(&self.cpu_weight) {
            return Err(wrong(format!("cpu_weight is {}", self.cpu_weight), "1 to 65535; 256 is usual"));
        }
        if self.cap_percent > 100 * self.vcpus {
            return Err(wrong(
                format!("cap is {} percent with {} vcpus", self.cap_percent, self.vcpus),
                "at most 100 for each vcpu; 0 is no cap",
            ));
        }
        if self.command_line.len() > limits::COMMAND_LINE_BYTES {
            return Err(wrong(format!("cmdline has {} bytes", self.command_line.len()), "at most 2047"));
        }
        self.validate_devices()
    }

    fn validate_devices(&self) -> Result<(), Failure> {
        let wrong = |what: String, remedy: &str| Failure::new(Code::Usage, &self.name, what, remedy);
        if self.disks.len() > limits::DISKS {
            return Err(wrong(format!("{} disks", self.disks.len()), "at most 8"));
        }
        if self.network_cards.len() > limits::NETWORK_CARDS {
            return Err(wrong(format!("{} network cards", self.network_cards.len()), "at most 4"));
        }
        for disk in &self.disks {
            if disk.volume.len() > limits::VOLUME_BYTES {
                return Err(wrong("the name of a volume is too long".into(), "at most 512 bytes"));
            }
            check_name(&disk.volume).map_err(|failure| {
                wrong(format!("disk {}: {}", failure.object, failure.message), &failure.remedy)
            })?;
        }
        for (index, card) in self.network_cards.iter().enumerate() {
            // Bit 0 of the first byte: a group address (IEEE 802-2014, 8.2.2).
            if card.mac[0] & 1 != 0 || card.mac == [0; 6] {
                return Err(wrong(
                    format!("vif {index} has no unicast MAC"),
                    "clear the lowest bit of its first byte",
                ));
            }
            if self.network_cards.iter().take(index).any(|other| other.mac == card.mac) {
                return Err(wrong(format!("vif {index} has the MAC of another"), "give each its own"));
            }
            let rates = limits::CARD_RATE_MIN..=limits::CARD_RATE_MAX;
            if let Some(rate) = card.rate.filter(|rate| !rates.contains(rate)) {
                return Err(wrong(
                    format!("vif {index} has a rate of {rate} bytes per second"),
                    "100Kb/s to 10Gb/s are possible",
                ));
            }
            if let Some((what, remedy)) = vif::fault(&card.addresses, &card.privileges) {
                return Err(wrong(format!("vif {index} {what}"), remedy));
            }
        }
        Ok(())
    }
}
