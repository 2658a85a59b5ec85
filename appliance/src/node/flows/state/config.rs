//! What is kept, in a file that a node has signed: for another node like it, or for
//! the day after the volume is lost.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::bundle::Refused;
use mgmt_proto::code::Code;
use mgmt_proto::config::{Config, KeptGuest, VERSION};
use mgmt_proto::disk::DiskSetting;
use mgmt_proto::limits::{CONFIG_BYTES, STREAM_BYTES};
use mgmt_proto::machine::{Digest, Disk};
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::state::Imported;
use mgmt_proto::verb::{Outcome, Reply, Stream};
use storage::volume::VolumeName;

use crate::blobs::persisted::Keeping;
use crate::guests::autostart::{check, files};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// What was sealed, in words.
    fn sealed_settings(&self) -> Vec<(String, String)> {
        let manifest = &self.settings.manifest;
        let cards = manifest.storage_cards.iter().map(ToString::to_string).collect::<Vec<_>>();
        let grants = manifest.card_grants.iter().map(ToString::to_string).collect::<Vec<_>>();
        let words = [
            ("name", manifest.name.clone()),
            ("port", manifest.port.to_string()),
            ("addressing", manifest.addressing.to_string()),
            ("mtu", manifest.mtu.to_string()),
            ("storage_cards", cards.join("; ")),
            ("aoe", alloc::format!("{:?}", manifest.aoe).to_lowercase()),
            ("dom0_cpu", alloc::format!("{:?}", manifest.dom0_cpu).to_lowercase()),
            ("fault_injection", manifest.fault_injection.to_string()),
            ("state", self.state.volume().to_string()),
            ("restart_delay_s", manifest.restart_delay_s.to_string()),
            ("guest_addresses_required", manifest.guest_addresses_required.to_string()),
            ("card_grants", grants.join("; ")),
            ("smt", manifest.smt.to_string()),
        ];
        words.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }

    /// Part of the file. It is the same as long as nothing of it changes.
    pub(crate) fn export_config(&self, from: u64) -> Outcome {
        let guests = self.guests.autostart.list.iter().map(|kept| {
            let guest = &kept.guest;
            let mut open = KeptGuest::without_secrets(guest.order, &guest.machine, &guest.settings);
            open.secrets_left_out.extend(&guest.secrets_left_out);
            open.secrets_left_out.sort_unstable();
            open.secrets_left_out.dedup();
            open
        });
        let config = Config {
            version: VERSION,
            node: self.settings.manifest.name.clone(),
            settings: self.sealed_settings(),
            trust: self.trust.bundles.links().to_vec(),
            guests: guests.collect(),
        };
        let file =
            config.sign(&self.keys.identity.key).ok_or_else(|| Refusal::of("", Reason::ConfigTooLong))?;
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(file.len());
        let end = from.saturating_add(STREAM_BYTES).min(file.len());
        let bytes = file.get(from..end).unwrap_or_default().to_vec();
        Ok(Reply::Stream(Stream { bytes, next: end as u64 }))
    }

    /// Takes guests and bundles of a file that was sent as a blob.
    pub(crate) fn import_config(
        &mut self,
        asker: &Asker,
        digest: &Digest,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        self.check_persistence("")?;
        let mut config = self.read_config(digest)?;
        for guest in &config.guests {
            check(guest)?;
            if !self.trust.bundles.covers_guest(&asker.operator, &guest.machine.name) {
                return Err(Refusal::of(&guest.machine.name, Reason::GuestNotGranted));
            }
        }
        for guest in &mut config.guests {
            self.fill_secrets(guest);
        }
        self.check_room(&config.guests)?;
        let trust_changed = self.import_trust(&config.trust);
        let lacks = |guest: &KeptGuest| {
            let missing =
                |file: &Digest| self.blobs.persisted.find(file).is_none() && self.blobs.find(file).is_none();
            if files(guest).any(|file| missing(&file)) {
                return Some(Reason::FilesMissing);
            }
            guest.secrets_left_out.first().map(|disk| Reason::SecretMissing { disk: *disk })
        };
        let guests = config.guests.iter().map(|guest| (guest.machine.name.clone(), lacks(guest))).collect();
        let imported = Imported { guests, trust_serial: self.trust.serial(), trust_changed };
        let promise = self.state.changes.promise(Ok(Reply::Imported(imported)), now_ns);
        self.operators.begin_work(asker, Work::Kept(promise), now_ns);
        self.blobs.persisted.queue.push_back(Keeping { promise, guests: config.guests, lacking: true });
        Ok(())
    }

    fn read_config(&mut self, digest: &Digest) -> Result<Config, Refusal> {
        let Some((domain, length)) = self.blobs.find(digest) else {
            return Err(Refusal::of("", Reason::ConfigMissing));
        };
        if length > CONFIG_BYTES {
            return Err(Refusal::said(Code::Integrity, "", "the configuration is too long", ""));
        }
        let mut file = Vec::new();
        self.hypervisor.with_blob(domain, length, &mut |_, bytes| file.extend_from_slice(bytes));
        self.blobs.drop_one(&mut self.hypervisor, digest);
        let (config, _) = Config::open(&file).map_err(|fault| {
            let message = alloc::format!("the configuration {fault}");
            Refusal::said(Code::Integrity, "", message, "make it with `node config export`")
        })?;
        Ok(config)
    }

    /// Secrets are not in the file: those of the same guest for the same volume stay.
    fn fill_secrets(&self, guest: &mut KeptGuest) {
        let Some(known) = self.guests.autostart.find(&guest.machine.name).map(|kept| &kept.guest) else {
            return;
        };
        guest.settings.disks.resize(guest.machine.disks.len(), Vec::new());
        let (disks, settings) = (&guest.machine.disks, &mut guest.settings.disks);
        guest.secrets_left_out.retain(|index| {
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            let (Some(disk), Some(target)) = (disks.get(index), settings.get_mut(index)) else {
                return false;
            };
            // The same user at the same portal: a secret goes nowhere else.
            let name = disk.volume.parse::<VolumeName>();
            let is_same = |other: &Disk| other.volume.parse() == name && name.is_ok();
            let same = known.machine.disks.iter().position(is_same);
            let secrets: Vec<DiskSetting> = same
                .and_then(|index| known.settings.disks.get(index))
                .into_iter()
                .flatten()
                .filter(|it| matches!(it, DiskSetting::Secret(_) | DiskSetting::TargetSecret(..)))
                .cloned()
                .collect();
            let lacking = secrets.is_empty();
            target.extend(secrets);
            lacking
        });
    }

    /// Bundles move forward only; whether one did.
    fn import_trust(&mut self, links: &[Vec<u8>]) -> bool {
        let mut changed = false;
        for link in links {
            match self.trust.bundles.update(link) {
                Ok(()) => changed = true,
                Err(Refused::Stale { .. }) => {}
                Err(refused) => {
                    log::warn!("a trust bundle of the imported configuration {refused}");
                }
            }
        }
        if changed {
            self.trust.write_bundles(self.operators.audit.memory());
            // Before the guests of the same file: in their batch or an earlier one.
            self.persist_trust();
        }
        changed
    }
}
