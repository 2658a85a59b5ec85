//! What is printed of a node's state: what it keeps, and where.

use crate::table::Table;
use mgmt_proto::reason::Reason;
use mgmt_proto::state::{Imported, KeptFacts, StateCondition, StateFacts, StateProtection};
use serde::Serialize;
use std::fmt::Write;

/// A node's state.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// diskless, connecting, opening, kept or failed.
    pub condition: &'static str,
    /// The volume, or null.
    pub volume: Option<String>,
    /// What is wrong with it, or null.
    pub problem: Option<String>,
    /// The number it was given when it was formatted, or null.
    pub serial: Option<String>,
    /// The node's key was made since power-on and is not kept.
    pub fresh_identity: bool,
    /// all, or looks: what the node obeys while it does not know whom its owner trusts.
    pub obeys: &'static str,
    /// Serial of the trust bundle that holds.
    pub trust_serial: u64,
    /// Serial of the one that is kept.
    pub kept_trust_serial: u64,
    /// Audit entries that are kept.
    pub audit_entries: u64,
    /// Bytes of settings.
    pub bytes: u64,
    /// Room for them.
    pub bytes_max: u64,
    /// Bytes of kernels and initrds.
    pub kernel_bytes: u64,
    /// Room for them.
    pub kernel_bytes_max: u64,
    /// Guests that start with the node, in their order.
    pub guests: Vec<Kept>,
    /// Why it does not know whom its owner trusts, or null.
    pub doubt: Option<String>,
    /// The volume was empty and was formatted since power-on.
    pub formatted: bool,
    /// image-key: who reads the image on the boot wire can forge what is on the volume.
    pub protection: &'static str,
    /// Least serial of the trust bundle, as sealed; 0 for none.
    pub trust_serial_min: u64,
}

/// A guest that starts with the node.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Lower numbers start first.
    pub order: u32,
    /// SHA-256 of its kernel.
    pub kernel_sha256: String,
    /// SHA-256 of its initrd, or null.
    pub ramdisk_sha256: Option<String>,
    /// What keeps it from starting, or null.
    pub problem: Option<String>,
}

/// What came of an imported configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Import {
    /// Guests that are kept now.
    pub guests: Vec<ImportedGuest>,
    /// Serial of the trust bundle that holds now.
    pub trust_serial: u64,
    /// Whether it came from the file.
    pub trust_changed: bool,
}

/// A guest of an imported configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ImportedGuest {
    /// Its name.
    pub name: String,
    /// What it lacks, or null.
    pub lacks: Option<String>,
}

const fn word(condition: StateCondition) -> &'static str {
    match condition {
        StateCondition::Diskless => "diskless",
        StateCondition::Connecting => "connecting",
        StateCondition::Opening => "opening",
        StateCondition::Kept => "kept",
        StateCondition::Failed => "failed",
    }
}

fn kept(facts: &KeptFacts) -> Kept {
    Kept {
        name: facts.name.clone(),
        order: facts.order,
        kernel_sha256: hex::encode(facts.kernel),
        ramdisk_sha256: facts.ramdisk.map(hex::encode),
        problem: facts.problem.as_ref().map(Reason::message),
    }
}

/// The state, for programs.
#[must_use]
pub fn state(facts: &StateFacts) -> State {
    let ([bytes, bytes_max], [kernel_bytes, kernel_bytes_max]) = (facts.bytes, facts.kernel_bytes);
    State {
        condition: word(facts.condition),
        volume: Some(facts.volume.clone()).filter(|volume| !volume.is_empty()),
        problem: facts.problem.clone(),
        serial: (facts.serial != [0; 16]).then(|| hex::encode(facts.serial)),
        fresh_identity: facts.fresh_identity,
        obeys: if facts.only_looks() { "looks" } else { "all" },
        doubt: facts.doubt.clone(),
        formatted: facts.formatted,
        protection: match facts.protection {
            StateProtection::ImageKey => "image-key",
        },
        trust_serial_min: facts.trust_serial_min,
        trust_serial: facts.trust_serial,
        kept_trust_serial: facts.kept_trust_serial,
        audit_entries: facts.audit_entries,
        bytes,
        bytes_max,
        kernel_bytes,
        kernel_bytes_max,
        guests: facts.guests.iter().map(kept).collect(),
    }
}

/// In one line: whether state is kept, where, or what will be forgotten.
#[must_use]
pub fn summary(facts: &StateFacts) -> String {
    let forgotten = "identity, trust bundle, guests' definitions and audit log last until power-off";
    let volume = &facts.volume;
    let problem = facts.problem.as_deref().unwrap_or("is not open yet");
    let looks = "until it comes the node obeys only requests that look";
    if let Some(doubt) = &facts.doubt {
        return format!("{doubt}: the node obeys only requests that look");
    }
    match facts.condition {
        StateCondition::Failed if facts.only_looks() => {
            format!("nothing is kept: {volume} {problem}; {looks}")
        }
        _ if facts.only_looks() => format!("not kept yet: {volume} {problem}; {looks}"),
        StateCondition::Diskless => format!("nothing is kept: {forgotten}"),
        StateCondition::Connecting | StateCondition::Opening => {
            format!("not kept yet: {volume} {problem}; until then {forgotten}")
        }
        StateCondition::Kept => {
            let trouble = facts.problem.as_ref().map(|why| format!(", which {why}")).unwrap_or_default();
            let formatted = if facts.formatted { ", formatted since power-on" } else { "" };
            format!("kept on {volume}{trouble}, serial {}{formatted}", hex::encode(facts.serial))
        }
        StateCondition::Failed => format!("nothing is kept: {volume} {problem}; {forgotten}"),
    }
}

/// The state, for people.
#[must_use]
pub fn lines(facts: &StateFacts) -> String {
    let mut text = format!("state    {}\n", summary(facts));
    let kept = match facts.kept_trust_serial {
        serial if serial == facts.trust_serial => "kept".to_string(),
        _ if facts.trust_serial == 0 => "sealed into the image".to_string(),
        0 => "not kept".to_string(),
        serial => format!("{serial} is kept"),
    };
    let _ = writeln!(text, "trust    bundle {}, {kept}", facts.trust_serial);
    if facts.trust_serial_min > 0 {
        let _ = writeln!(text, "         at least {} is needed, as sealed", facts.trust_serial_min);
    }
    if facts.condition == StateCondition::Kept {
        let _ = match facts.protection {
            StateProtection::ImageKey => {
                writeln!(text, "proof    keyed by the image: forgeable by readers of the boot wire")
            }
        };
        let kib = |[used, room]: [u64; 2]| format!("{} of {} KiB", used >> 10, room >> 10);
        let _ = writeln!(text, "audit    {} entries", facts.audit_entries);
        let _ = writeln!(text, "room     settings {}, kernels {}", kib(facts.bytes), kib(facts.kernel_bytes));
    }
    if !facts.guests.is_empty() {
        let _ = write!(text, "\n{}", guests(&facts.guests));
    }
    text
}

/// Guests that start with the node, as a table.
#[must_use]
pub fn guests(guests: &[KeptFacts]) -> Table {
    let mut table = Table::new(&["Name", ">Order", "Kernel", "Problem"]);
    for guest in guests {
        let kernel: String = hex::encode(guest.kernel).chars().take(12).collect();
        let problem = guest.problem.as_ref().map_or_else(|| "-".into(), Reason::message);
        table.push(vec![guest.name.clone(), guest.order.to_string(), kernel, problem]);
    }
    table
}

/// What came of an import, for programs.
#[must_use]
pub fn import(imported: &Imported) -> Import {
    let guest = |(name, lacks): &(String, Option<Reason>)| ImportedGuest {
        name: name.clone(),
        lacks: lacks.as_ref().map(Reason::message),
    };
    Import {
        guests: imported.guests.iter().map(guest).collect(),
        trust_serial: imported.trust_serial,
        trust_changed: imported.trust_changed,
    }
}

/// The same for people.
#[must_use]
pub fn import_lines(imported: &Imported) -> String {
    let mut text = String::new();
    for (name, lacks) in &imported.guests {
        let lacks = lacks
            .as_ref()
            .map(|lacks| format!("; {}: {}", lacks.message(), lacks.remedy()))
            .unwrap_or_default();
        let _ = writeln!(text, "{name}: starts with the node{lacks}");
    }
    let from = if imported.trust_changed { "from the file" } else { "as before" };
    let _ = writeln!(text, "trust: bundle {}, {from}", imported.trust_serial);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_kept_or_what_will_be_forgotten() {
        let diskless = StateFacts::default();
        assert_eq!(
            summary(&diskless),
            "nothing is kept: identity, trust bundle, guests' definitions and audit log last until power-off"
        );
        let facts = StateFacts {
            condition: StateCondition::Kept,
            volume: "aoe:e9.0".into(),
            serial: [0xab; 16],
            guests: vec![KeptFacts {
                name: "web".into(),
                order: 3,
                kernel: [1; 32],
                ramdisk: None,
                problem: None,
            }],
            ..StateFacts::default()
        };
        assert_eq!(summary(&facts), format!("kept on aoe:e9.0, serial {}", "ab".repeat(16)));
        assert!(lines(&facts).contains("forgeable by readers of the boot wire\n"));
        let doubtful = StateFacts { doubt: Some("bundle 1 is too old".into()), ..facts.clone() };
        assert_eq!(summary(&doubtful), "bundle 1 is too old: the node obeys only requests that look");
        assert_eq!(state(&doubtful).obeys, "looks");
        let formatted = StateFacts { formatted: true, ..facts.clone() };
        assert!(summary(&formatted).ends_with(", formatted since power-on"));
        assert!(lines(&facts).contains("web       3  010101010101  -"), "{}", lines(&facts));
        let failed = StateFacts {
            condition: StateCondition::Failed,
            problem: Some("holds data that is not a node's state".into()),
            ..facts
        };
        assert!(summary(&failed).starts_with("nothing is kept: aoe:e9.0 holds data that is not"));
        assert_eq!(state(&failed).condition, "failed");
    }
}
