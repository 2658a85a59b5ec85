//! A guest's network card in a VM file: `"mac=02:00:00:00:00:01,ip=10.0.0.5"`, or a table
//! of the same keys and of what the owner must grant:
//!
//! ```toml
//! vif = [
//!     "ip=10.0.0.5 fd00::5",
//!     { mac = "02:00:00:00:00:01", ip = ["10.0.0.6", "10.1.0.0/24"], trunk = [100, 101] },
//!     { macs = 8, vrrp = [51], router = true, dhcp_server = true },
//!     { ip = "10.0.0.7", management = true },
//! ]
//! ```

use mgmt_proto::machine::{NetworkCard, mac_text, parse_mac};
use mgmt_proto::vif::{Prefix, Privileges};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

type Wrong = (String, &'static str);

const MAC_REMEDY: &str = "write mac=02:00:00:00:00:01";
const IP_REMEDY: &str = "write ip = [\"10.0.0.5\", \"10.1.0.0/24\"]";
const REMEDY: &str =
    "known are mac, ip, macs, vrrp, router, dhcp_server, trunk, management; all cards are on one switch";

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
    let privileges: Privileges =
        table.try_into().map_err(|error: toml::de::Error| (error.message().to_string(), REMEDY))?;
    Ok(NetworkCard { mac, addresses, privileges })
}

/// The short form; of what an owner grants there is none.
fn from_text(text: &str) -> Result<Table, Wrong> {
    let mut table = Table::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key @ ("mac" | "ip"), value)) => {
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
        return Value::String(format!("mac={}{ip}", mac_text(card.mac)));
    }
    let mut table = privileges(&card.privileges);
    table.insert("mac".into(), Value::String(mac_text(card.mac)));
    if !addresses.is_empty() {
        table.insert("ip".into(), Value::Array(addresses.into_iter().map(Value::String).collect()));
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
            "{ macs = 8 }",
            "{ ip = \"10.0.0.5\", vrrp = [51, 52], router = true, trunk = [100] }",
            "{ ip = [\"10.0.0.5\"], dhcp_server = true, management = true }",
        ] {
            let read = card(text).unwrap();
            assert_eq!(from_toml(&value(&read), "other", 3).unwrap(), read, "{text}");
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
            ("7", "neither text nor a table"),
        ] {
            let (said, remedy) = card(text).unwrap_err();
            assert!(said.contains(message) && !remedy.is_empty(), "{text}: {said}");
        }
    }
}
