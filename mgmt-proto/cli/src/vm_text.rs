//! A guest of a node as a VM file, from which it can be created again.

use crate::{json, vif_text};
use mgmt_proto::config::GuestConfig;
use mgmt_proto::disk::{Digests, DiskSetting, Limit, Policy};
use mgmt_proto::machine::Disk;
use mgmt_proto::units::mac_text;
use std::net::Ipv4Addr;
use toml::{Table, Value};

/// What is said of a disk whose secret nobody tells.
const SECRET_LEFT_OUT: &str = "# its secret was left out: add secret = \"FILE\", or be asked for it";

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

fn number(value: u64) -> Value {
    i64::try_from(value).map_or_else(|_| text(value.to_string()), Value::Integer)
}

fn limit(limit: Limit) -> (&'static str, Value) {
    match limit {
        Limit::BytesPerSecond(amount) => ("bytes_per_s", number(amount)),
        Limit::OperationsPerSecond(amount) => ("operations_per_s", number(amount)),
        Limit::BurstMs(time) => ("burst", text(format!("{time}ms"))),
    }
}

/// A setting as [`crate::disk_text`] reads it; none for a secret.
fn setting(setting: &DiskSetting) -> Option<(&'static str, Value)> {
    Some(match setting {
        DiskSetting::Policy(Policy::Failover) => ("policy", text("failover")),
        DiskSetting::Policy(Policy::RoundRobin) => ("policy", text("round-robin")),
        DiskSetting::Portal(address, port) => {
            ("portal", text(format!("{}:{port}", Ipv4Addr::from(*address))))
        }
        DiskSetting::Station(station) => ("station", text(mac_text(*station))),
        DiskSetting::Digests(digests) => {
            let word = match digests {
                Digests::Preferred => "preferred",
                Digests::Required => "required",
                Digests::Off => "off",
            };
            ("digests", text(word))
        }
        DiskSetting::DeadlineMs(time) => ("timeout", text(format!("{time}ms"))),
        DiskSetting::Limit(it) => limit(*it),
        DiskSetting::Reserve => ("reserve", Value::Boolean(true)),
        DiskSetting::AllowMd5 => ("allow_md5", Value::Boolean(true)),
        DiskSetting::Preempt(key) => ("preempt", text(format!("{key:#018x}"))),
        DiskSetting::Secret(_) | DiskSetting::TargetSecret(..) => return None,
    })
}

fn disk(disk: &Disk, settings: &[DiskSetting]) -> Value {
    let access = if disk.read_only { "ro" } else { "rw" };
    if settings.is_empty() {
        return text(format!("{},{access}", disk.volume));
    }
    let mut table = Table::new();
    table.insert("volume".into(), text(&disk.volume));
    table.insert("access".into(), text(access));
    for (key, value) in settings.iter().filter_map(setting) {
        // There may be several portals and stations.
        match table.get_mut(key) {
            None => {
                table.insert(key.into(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(one) => *one = Value::Array(vec![one.clone(), value]),
        }
    }
    Value::Table(table)
}

fn disks(config: &GuestConfig) -> Vec<Value> {
    let settings = |index: usize| config.settings.disks.get(index).map_or(&[][..], Vec::as_slice);
    config.machine.disks.iter().enumerate().map(|(index, it)| disk(it, settings(index))).collect()
}

/// Keys and values in the order of a VM file.
fn pairs(config: &GuestConfig) -> Vec<(String, Value)> {
    let machine = &config.machine;
    let digest = |digest: &[u8; 32]| text(format!("sha256:{}", hex::encode(digest)));
    let memory = match machine.memory_bytes % (1 << 20) {
        0 => number(machine.memory_bytes >> 20),
        _ => text(format!("{}k", machine.memory_bytes >> 10)),
    };
    let mut pairs = vec![
        ("name", text(&machine.name)),
        ("memory", memory),
        ("vcpus", number(machine.vcpus.into())),
        ("cpu_weight", number(machine.cpu_weight.into())),
        ("cap", number(machine.cap_percent.into())),
        ("kernel", digest(&machine.kernel)),
    ];
    pairs.extend(machine.ramdisk.iter().map(|ramdisk| ("ramdisk", digest(ramdisk))));
    let cards = machine.network_cards.iter().map(vif_text::value);
    pairs.extend([
        ("cmdline", text(&machine.command_line)),
        ("disk", Value::Array(disks(config))),
        ("vif", Value::Array(cards.collect())),
        ("on_poweroff", text(json::action(machine.on_poweroff))),
        ("on_reboot", text(json::action(machine.on_reboot))),
        ("on_crash", text(json::action(machine.on_crash))),
    ]);
    pairs.extend(config.order.map(|order| ("autostart", number(order.into()))));
    let mut pairs: Vec<(String, Value)> = pairs.into_iter().map(|(key, value)| (key.into(), value)).collect();
    pairs.extend(config.settings.limits.iter().map(|it| {
        let (key, value) = limit(*it);
        (format!("disk_{key}"), value)
    }));
    pairs
}

/// The guest as a table of the same keys.
#[must_use]
pub fn table(config: &GuestConfig) -> Table {
    pairs(config).into_iter().collect()
}

/// A value in one line: of a disk, what it is comes first.
fn in_line(value: &Value) -> String {
    let Value::Table(table) = value else { return value.to_string() };
    let first = ["volume", "access"];
    let rest = table.keys().map(String::as_str).filter(|key| !first.contains(key));
    let keys = first.into_iter().chain(rest);
    let pairs: Vec<String> =
        keys.filter_map(|key| table.get(key).map(|value| format!("{key} = {value}"))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

/// The guest as the text of a VM file.
#[must_use]
pub fn render(config: &GuestConfig) -> String {
    let mut lines = String::new();
    for (key, value) in pairs(config) {
        let Value::Array(values) = &value else {
            lines += &format!("{key:<11} = {value}\n");
            continue;
        };
        let is_secret = |index: usize| {
            key == "disk" && config.secrets_left_out.iter().any(|disk| usize::try_from(*disk) == Ok(index))
        };
        lines += &format!("{key:<11} = [\n");
        for (index, value) in values.iter().enumerate() {
            let note = if is_secret(index) { format!("  {SECRET_LEFT_OUT}") } else { String::new() };
            lines += &format!("  {},{note}\n", in_line(value));
        }
        lines += "]\n";
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{render, table};
    use crate::vm_file::VmFile;
    use mgmt_proto::config::GuestConfig;
    use mgmt_proto::disk::GuestSettings;
    use std::path::Path;

    fn read(text: &str) -> VmFile {
        let mut file = VmFile::parse(text, "web.vm", Path::new("/vms"), &[]).unwrap();
        assert_eq!(file.read_blobs(), Ok(Vec::new()), "nothing is to be sent");
        file
    }

    /// What is set for a disk has no order.
    fn ordered(mut settings: GuestSettings) -> GuestSettings {
        settings.disks.iter_mut().for_each(|disk| disk.sort_by_key(|it| format!("{it:?}")));
        settings
    }

    #[test]
    fn what_is_shown_creates_the_same_guest() {
        let kernel =
            format!("kernel = \"sha256:{}\"\nramdisk = \"sha256:{}\"\n", "ab".repeat(32), "cd".repeat(32));
        let plain = format!("name = \"web\"\nmemory = 512\n{kernel}");
        let full = format!(
            "{plain}vcpus = 2\ncpu_weight = 300\ncap = 50\ncmdline = 'a \"b\" c=\\d'\nautostart = 7\n\
             on_poweroff = \"restart\"\non_reboot = \"preserve\"\non_crash = \"preserve\"\n\
             vif = [\"mac=02:00:00:00:00:01,rate=10Mb/s\", \"\"]\ndisk_bytes_per_s = \"50M\"\ndisk_burst = \"1s\"\n\
             disk = [\"aoe:e1.1\", \"aoe:e1.2,ro,station=02:00:00:00:00:02,station=02:00:00:00:00:03,reserve\",\n\
             {{ volume = \"iscsi://10.0.0.1/iqn.2026-11.example:web/1\", policy = \"round-robin\", timeout = \"5m\",\n\
             portal = [\"10.0.1.1\"], digests = \"off\", bytes_per_s = \"1G\", operations_per_s = 9, burst = \"2s\",\n\
             preempt = \"0xabcd\" }}]\n"
        );
        for text in [plain, full] {
            let file = read(&text);
            let config = GuestConfig::new(file.autostart, &file.machine, &file.settings);
            let shown = render(&config);
            let again = read(&shown);
            assert_eq!(again.machine, file.machine, "{shown}");
            assert_eq!(ordered(again.settings), ordered(file.settings), "{shown}");
            assert_eq!(again.autostart, file.autostart);
            assert_eq!(toml::from_str::<toml::Table>(&shown).unwrap(), table(&config));
        }
    }

    #[test]
    fn a_secret_that_is_left_out_is_missed() {
        let text = format!(
            "name = \"web\"\nmemory = 512\nkernel = \"sha256:{}\"\n\
             disk = [\"aoe:e1.1\", \"iscsi://bob@10.0.0.1/iqn.2026-11.example:web/1\"]\n",
            "ab".repeat(32)
        );
        let file = read(&text);
        let mut config = GuestConfig::new(None, &file.machine, &file.settings);
        config.secrets_left_out = vec![1];
        let shown = render(&config);
        let line = shown.lines().find(|line| line.contains("bob@")).unwrap();
        assert!(line.ends_with("add secret = \"FILE\", or be asked for it"), "{shown}");
        assert_eq!(shown.matches("left out").count(), 1);
        assert_eq!(read(&shown).machine, file.machine);
        for wrong in ["sha256:", "sha256:abcd", "sha256:zz"] {
            let text = format!("name = \"web\"\nmemory = 512\nkernel = \"{wrong}\"\n");
            let failure = VmFile::parse(&text, "web.vm", Path::new("/vms"), &[]).unwrap_err();
            assert!(failure.message.contains("is no digest"), "{failure}");
        }
    }
}
