//! A guest's network card in a VM file: `"mac=02:00:00:00:00:01,ip=10.0.0.5"`, or a table
//! of the same keys and of what the owner must grant:
//!
//! ```toml
//! vif = [
//!     "ip=10.0.0.5 fd00::5,rate=10Mb/s",
//!     { mac = "02:00:00:00:00:01", ip = ["10.0.0.6", "10.1.0.0/24"], trunk = [100, 101] },
//!     { macs = 8, vrrp = [51], router = true, dhcp_server = true },
//!     { ip = "10.0.0.7", management = true },
//! ]
//! ```
//!
//! `rate` is what the card sends at most, as xl's users write it: `1Gb/s`, `500Kb`, or in bytes
//! `250KB/s`; units are decimal.

use mgmt_proto::machine::NetworkCard;
use mgmt_proto::units::{self, mac_text, parse_mac};
use mgmt_proto::vif::{Prefix, Privileges};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

type Wrong = (String, &'static str);

const MAC_REMEDY: &str = "write mac=02:00:00:00:00:01";
const IP_REMEDY: &str = "write ip = [\"10.0.0.5\", \"10.1.0.0/24\"]";
const RATE_REMEDY: &str = "write 10Mb/s, 1Gb, or 250KB/s for bytes; without an interval";
const REMEDY: &str = "known are mac, ip, rate, macs, vrrp, router, dhcp_server, trunk, management; all cards are on one switch";

/// The card number `index` of the guest called `name`; without `mac` it has one that stays
/// with the name.
///
/// # Errors
/// What is wrong, and the remedy.
pub(crate) fn from_toml(value: &Value, name: &str, index: usize) -> Result<NetworkCard, Wrong> {
    let mut table = match value {
        Value::String(text) => from_text(text)?,
        Value::Table(table) => table.clone(),
        _ => return Err(("is neither text nor a table".into(), MAC_REMEDY)),
    };
    let mac = match table.remove("mac") {
        None => derived_mac(name, index),
        Some(Value::String(text)) => {
            parse_mac(text.trim()).ok_or_else(|| (format!("{text:?} is no MAC address"), MAC_REMEDY))?
        }
        Some(other) => return Err((format!("{other} is no MAC address"), MAC_REMEDY)),
    };
    let mut addresses = Vec::new();
    let listed = match table.remove("ip") {
        None => Vec::new(),
        Some(Value::Array(values)) => values,
        Some(one) => vec![one],
    };
    for value in listed {
        let text = value.as_str().ok_or_else(|| (format!("{value} is no IP address"), IP_REMEDY))?;
        for part in text.split_whitespace() {
            let prefix = part.parse::<Prefix>();
            addresses.push(prefix.map_err(|()| (format!("{part:?} is no IP address or prefix"), IP_REMEDY))?);
        }
    }
    let rate = match table.remove("rate") {
        None => None,
        Some(Value::String(text)) => Some(rate(&text)?),
        Some(other) => return Err((format!("{other} is no rate"), RATE_REMEDY)),
    };
    let privileges: Privileges =
        table.try_into().map_err(|error: toml::de::Error| (error.message().to_string(), REMEDY))?;
    Ok(NetworkCard { mac, addresses, privileges, rate })
}

/// Octets per second of a rate in xl's words.
fn rate(text: &str) -> Result<u64, Wrong> {
    let wrong = || (format!("{text:?} is no rate"), RATE_REMEDY);
    let amount = text.trim();
    let amount = amount.strip_suffix("/s").unwrap_or(amount);
    let (number, unit) = units::quantity(amount).ok_or_else(wrong)?;
    let (factor, parts) = match unit {
        "b" => (1, 8),
        "Kb" | "kb" => (1_000, 8),
        "Mb" => (1_000_000, 8),
        "Gb" => (1_000_000_000, 8),
        "B" => (1, 1),
        "KB" | "kB" => (1_000, 1),
        "MB" => (1_000_000, 1),
        "GB" => (1_000_000_000, 1),
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(|amount| amount / parts).ok_or_else(wrong)
}

/// A rate as [`from_toml`] reads it.
pub(crate) fn rate_text(rate: u64) -> String {
    let units = [(125_000_000, "Gb/s"), (125_000, "Mb/s"), (125, "Kb/s")];
    match units.into_iter().find(|(unit, _)| rate.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", rate / unit),
        None => format!("{rate}B/s"),
    }
}

/// The short form; of what an owner grants there is none.
fn from_text(text: &str) -> Result<Table, Wrong> {
    let mut table = Table::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key @ ("mac" | "ip" | "rate"), value)) => {
                table.insert(key.into(), Value::String(value.trim().into()));
            }
            Some((key, _)) if privilege_names().contains(&key) => {
                return Err((
                    format!("{part:?} is not for text"),
                    "write a table: { macs = 8, router = true }",
                ));
            }
            _ => return Err((format!("{part:?} is not known"), REMEDY)),
        }
    }
    Ok(table)
}

const fn privilege_names() -> [&'static str; 6] {
    ["macs", "vrrp", "router", "dhcp_server", "trunk", "management"]
}

/// A card as [`from_toml`] reads it.
pub(crate) fn value(card: &NetworkCard) -> Value {
    let addresses: Vec<String> = card.addresses.iter().map(Prefix::to_string).collect();
    if card.privileges.is_plain() {
        let ip = if addresses.is_empty() { String::new() } else { format!(",ip={}", addresses.join(" ")) };
        let rate = card.rate.map_or_else(String::new, |rate| format!(",rate={}", rate_text(rate)));
        return Value::String(format!("mac={}{ip}{rate}", mac_text(card.mac)));
    }
    let mut table = privileges(&card.privileges);
    table.insert("mac".into(), Value::String(mac_text(card.mac)));
    if !addresses.is_empty() {
        table.insert("ip".into(), Value::Array(addresses.into_iter().map(Value::String).collect()));
    }
    if let Some(rate) = card.rate {
        table.insert("rate".into(), Value::String(rate_text(rate)));
    }
    Value::Table(table)
}

/// What a card may beyond a plain one, as a table of what is not so anyway.
pub(crate) fn privileges(privileges: &Privileges) -> Table {
    let Privileges { macs, vrrp, router, dhcp_server, trunk, management } = privileges;
    let numbers = |numbers: Vec<i64>| Value::Array(numbers.into_iter().map(Value::Integer).collect());
    let mut table = Table::new();
    if *macs > 0 {
        table.insert("macs".into(), Value::Integer((*macs).into()));
    }
    if !vrrp.is_empty() {
        table.insert("vrrp".into(), numbers(vrrp.iter().map(|id| (*id).into()).collect()));
    }
    if !trunk.is_empty() {
        table.insert("trunk".into(), numbers(trunk.iter().map(|id| (*id).into()).collect()));
    }
    for (name, set) in [("router", router), ("dhcp_server", dhcp_server), ("management", management)] {
        if *set {
            table.insert(name.into(), Value::Boolean(true));
        }
    }
    table
}

/// A MAC that stays with a name: locally administered, unicast (IEEE 802-2014,
/// 8.2.2 and 8.4).
fn derived_mac(name: &str, index: usize) -> [u8; 6] {
    let digest = Sha256::digest(format!("redoubt vif {name} {index}"));
    let mut mac = [0; 6];
    for (target, byte) in mac.iter_mut().zip(digest.as_slice()) {
        *target = *byte;
    }
    mac[0] = mac[0] & 0xfc | 0x02;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(text: &str) -> Result<NetworkCard, Wrong> {
        let table: Table = format!("vif = {text}").parse().unwrap();
        from_toml(&table["vif"], "web", 0)
    }

    #[test]
    fn both_forms_say_the_same() {
        let text = card("\"mac=02:00:00:00:00:01, ip=10.0.0.5 fd00::/64\"").unwrap();
        let table = card("{ mac = \"02:00:00:00:00:01\", ip = [\"10.0.0.5\", \"fd00::/64\"] }").unwrap();
        assert_eq!(text, table);
        assert_eq!(text.addresses.len(), 2);
        assert_eq!(card("\"\"").unwrap(), card("{}").unwrap());
    }

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "\"\"",
            "\"ip=10.0.0.5 10.1.0.0/24\"",
            "\"rate=1Gb/s\"",
            "\"ip=10.0.0.5,rate=12501B\"",
            "{ macs = 8, rate = \"10Mb/s\" }",
            "{ ip = \"10.0.0.5\", vrrp = [51, 52], router = true, trunk = [100] }",
            "{ ip = [\"10.0.0.5\"], dhcp_server = true, management = true }",
        ] {
            let read = card(text).unwrap();
            assert_eq!(from_toml(&value(&read), "other", 3).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn rates_are_as_xl_has_them() {
        for (text, octets, written) in [
            ("1Gb", 125_000_000, "1Gb/s"),
            ("10Mb/s", 1_250_000, "10Mb/s"),
            ("500Kb/s", 62_500, "500Kb/s"),
            ("250KB/s", 250_000, "2Mb/s"),
            ("100 MB/s", 100_000_000, "800Mb/s"),
            ("1GB", 1_000_000_000, "8Gb/s"),
            ("100008b/s", 12_501, "12501B/s"),
        ] {
            assert_eq!(card(&format!("\"rate={text}\"")).unwrap().rate, Some(octets), "{text}");
            assert_eq!(rate_text(octets), written);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            ("\"mac=02:00\"", "no MAC address"),
            ("\"ip=10.0.0\"", "no IP address or prefix"),
            ("\"bridge=br0\"", "\"bridge=br0\" is not known"),
            ("\"macs=8\"", "not for text"),
            ("{ ip = 5 }", "no IP address"),
            ("{ bridge = \"br0\" }", "unknown field `bridge`"),
            ("{ macs = 300 }", "300"),
            ("\"rate=10\"", "\"10\" is no rate"),
            ("\"rate=1MB/s@20ms\"", "\"1MB/s@20ms\" is no rate"),
            ("\"rate=99999999999999999999Gb\"", "is no rate"),
            ("{ rate = 5 }", "5 is no rate"),
            ("7", "neither text nor a table"),
        ] {
            let (said, remedy) = card(text).unwrap_err();
            assert!(said.contains(message) && !remedy.is_empty(), "{text}: {said}");
        }
    }
}
