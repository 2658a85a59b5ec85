//! What is kept of a guest follows what operators do to its disks while it runs.

use alloc::vec::Vec;

use mgmt_proto::config::KeptGuest;
use mgmt_proto::disk::{DiskSetting, Limit};
use mgmt_proto::machine::Disk;
use storage::volume::VolumeName;

/// What was done to a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A disk was added.
    Attached(&'a Disk, &'a [DiskSetting]),
    /// The disk with this volume was taken away.
    Detached(&'a str),
    /// All disks together have these limits, or the one with this volume.
    Limited(Option<&'a str>, &'a [Limit]),
}

/// Whether two texts name one disk, however they spell it.
fn is_same(one: &str, other: &str) -> bool {
    let names = (one.parse::<VolumeName>(), other.parse::<VolumeName>());
    one == other || matches!(names, (Ok(one), Ok(other)) if one.is_same_disk(&other))
}

/// The description after a step; None if it says so already.
pub(crate) fn after(kept: &KeptGuest, step: Step<'_>) -> Option<KeptGuest> {
    let mut next = kept.clone();
    next.settings.disks.resize(next.machine.disks.len(), Vec::new());
    let place = |volume: &str| kept.machine.disks.iter().position(|disk| is_same(&disk.volume, volume));
    match step {
        Step::Attached(disk, settings) => {
            if place(&disk.volume).is_some() {
                return None;
            }
            next.machine.disks.push(disk.clone());
            next.settings.disks.push(settings.to_vec());
        }
        Step::Detached(volume) => {
            let at = place(volume)?;
            next.machine.disks.remove(at);
            next.settings.disks.remove(at);
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            next.secrets_left_out.retain(|disk| *disk != at);
            next.secrets_left_out.iter_mut().filter(|disk| **disk > at).for_each(|disk| *disk -= 1);
        }
        Step::Limited(None, limits) => next.settings.limits = limits.to_vec(),
        Step::Limited(Some(volume), limits) => {
            let settings = next.settings.disks.get_mut(place(volume)?)?;
            settings.retain(|setting| !matches!(setting, DiskSetting::Limit(_)));
            settings.extend(limits.iter().map(|limit| DiskSetting::Limit(*limit)));
        }
    }
    (next != *kept).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::{Step, after};
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;
    use mgmt_proto::config::KeptGuest;
    use mgmt_proto::disk::{DiskSetting, GuestSettings, Limit};
    use mgmt_proto::machine::{Disk, Machine};

    fn disk(volume: &str) -> Disk {
        Disk { volume: volume.to_string(), read_only: false }
    }

    fn kept() -> KeptGuest {
        let disks = vec![disk("aoe:e1.1"), disk("aoe:e1.2"), disk("aoe:e1.3")];
        let machine = Machine { disks, ..crate::node::tests::machine() };
        // As an import leaves it: fewer settings than disks.
        let disks = vec![vec![DiskSetting::Reserve]];
        let settings = GuestSettings { limits: Vec::new(), disks };
        KeptGuest { order: 3, machine, settings, secrets_left_out: vec![0, 1, 2] }
    }

    #[test]
    fn a_description_follows_each_step() {
        let (new, settings) = (disk("aoe:e1.4"), [DiskSetting::DeadlineMs(5)]);
        let next = after(&kept(), Step::Attached(&new, &settings)).unwrap();
        assert_eq!((next.machine.disks.len(), next.settings.disks.len()), (4, 4));
        assert_eq!((&next.machine.disks[3], &next.settings.disks[3][..]), (&new, &settings[..]));
        assert_eq!(after(&next, Step::Attached(&new, &settings)), None);

        let next = after(&next, Step::Detached("aoe:e1.2")).unwrap();
        let volumes: Vec<_> = next.machine.disks.iter().map(|disk| disk.volume.as_str()).collect();
        assert_eq!(volumes, ["aoe:e1.1", "aoe:e1.3", "aoe:e1.4"]);
        assert_eq!(next.settings.disks, [vec![DiskSetting::Reserve], vec![], settings.to_vec()]);
        assert_eq!(next.secrets_left_out, [0, 1]);
        assert_eq!(after(&next, Step::Detached("aoe:e1.2")), None);

        let limits = [Limit::OperationsPerSecond(7)];
        let next = after(&next, Step::Limited(None, &limits)).unwrap();
        assert_eq!(next.settings.limits, limits);
        let next = after(&next, Step::Limited(Some("aoe:e1.1"), &limits)).unwrap();
        assert_eq!(next.settings.disks[0], [DiskSetting::Reserve, DiskSetting::Limit(limits[0])]);
        assert_eq!(after(&next, Step::Limited(Some("aoe:e1.1"), &limits)), None);
        let next = after(&next, Step::Limited(Some("aoe:e1.1"), &[])).unwrap();
        assert_eq!(next.settings.disks[0], [DiskSetting::Reserve]);
    }
}
