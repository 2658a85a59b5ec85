//! What an entry tells of a command, as a command: so that whoever judges a log judges as
//! the node did.

use crate::disk::GuestSettings;
use crate::machine::{Action, Disk, Machine};
use crate::verb::{Discover, Fault, Request};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A guest of which only the name is known.
fn named(name: String) -> Machine {
    Machine {
        name,
        memory_bytes: 0,
        vcpus: 0,
        cpu_weight: 0,
        cap_percent: 0,
        kernel: [0; 32],
        ramdisk: None,
        command_line: String::new(),
        disks: Vec::new(),
        network_cards: Vec::new(),
        on_poweroff: Action::Destroy,
        on_reboot: Action::Destroy,
        on_crash: Action::Destroy,
    }
}

/// A request that has the role and the guest of the one that an entry with this verb and
/// object tells of; what the log does not keep is empty. None for a verb of a later version.
/// It goes the way of [`super::subject`] back.
#[must_use]
pub fn command(verb: &str, object: &str) -> Option<Request> {
    let (digest, length, settings) = ([0; 32], 0, Vec::new());
    let (name, volume) = (object.to_string(), object.to_string());
    Some(match verb {
        "node poweroff" => Request::NodeStop { power_off: true },
        "node reboot" => Request::NodeStop { power_off: false },
        "blob put" => Request::BlobPut { digest, length },
        "blob resume" => Request::BlobResume { digest, length },
        "create" => {
            let settings = GuestSettings::default();
            Request::CreateWith { machine: named(name), settings, paused: false }
        }
        "console read" => Request::ConsoleRead { name, from: 0 },
        "console write" => Request::ConsoleWrite { name, bytes: Vec::new() },
        "pause" => Request::Pause { name },
        "unpause" => Request::Unpause { name },
        "shutdown" => Request::Shutdown { name },
        "reboot" => Request::Reboot { name },
        "destroy" => Request::Destroy { name },
        "inject-fault" => Request::InjectFault(Fault::Panic),
        "storage probe" => Request::StorageProbe { volume, settings },
        "storage reserve" => Request::StorageReserve { volume, settings, force: false },
        "storage reserve --force" => Request::StorageReserve { volume, settings, force: true },
        "storage release" => Request::StorageRelease { volume, settings, force: false },
        "storage release --force" => Request::StorageRelease { volume, settings, force: true },
        "storage path enable" => Request::StoragePath { volume, path: 0, enabled: true },
        "storage path disable" => Request::StoragePath { volume, path: 0, enabled: false },
        "block-attach" => {
            let disk = Disk { volume: String::new(), read_only: true };
            Request::BlockAttach { name, disk, settings }
        }
        "block-detach" => Request::BlockDetach { name, slot: 0, force: false },
        "limit" => Request::Limit { name, slot: None, limits: Vec::new() },
        "trust update" => Request::TrustUpdate { signed: Vec::new() },
        "autostart on" => Request::Autostart { name, order: Some(0) },
        "autostart off" => Request::Autostart { name, order: None },
        "config export" => Request::ConfigExport { from: 0 },
        "storage discover" if object == "aoe" => Request::StorageDiscover(Discover::Aoe),
        "storage discover" => Request::StorageDiscover(Discover::Iscsi(name)),
        "config import" => Request::ConfigImport { digest },
        "node lockdown" => Request::Lockdown,
        "capture" => Request::Capture { name, from: 0, snap_bytes: 0 },
        "job cancel" => Request::JobCancel { id: 0 },
        "start" => Request::Start { name },
        "rename" => Request::Rename { name, to: String::new() },
        "node key rotate" => Request::NodeKeyRotate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::command;
    use crate::audit::subject;
    use crate::trust::{is_rescue, required};
    use crate::vectors;
    use crate::verb::Request;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    /// Every request that is recorded comes back with its role and its guest.
    #[test]
    fn an_entry_is_judged_as_its_command_was() {
        let (name, volume) = ("web1".to_string(), "aoe:e1.1".to_string());
        let others = [
            Request::NodeStop { power_off: false },
            Request::StorageReserve { volume: volume.clone(), settings: Vec::new(), force: true },
            Request::StorageRelease { volume: volume.clone(), settings: Vec::new(), force: true },
            Request::StoragePath { volume, path: 1, enabled: false },
            Request::Autostart { name, order: None },
        ];
        let mut recorded = 0;
        for request in vectors::requests().iter().chain(&others) {
            let Some((verb, object)) = subject(request) else { continue };
            let again = command(verb, &object).unwrap_or_else(|| panic!("{verb}"));
            assert_eq!(subject(&again), Some((verb, object)));
            assert_eq!((required(&again), again.guest()), (required(request), request.guest()), "{verb}");
            assert_eq!(is_rescue(&again), is_rescue(request), "{verb}");
            recorded += 1;
        }
        assert!(recorded > 30, "{recorded}");
        assert_eq!(command("list", ""), None);
        assert_eq!(command("fly", "web1"), None);
    }
}
