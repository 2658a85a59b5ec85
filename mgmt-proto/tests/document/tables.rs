//! The tables of PROTOCOL.md are what the types are.
//!
//! `UPDATE_DOCUMENT=1 cargo test -p mgmt-proto --test document` writes them anew.

use crate::comments::{self, Comments};
use crate::tracer::{Holds, Kind, Registry, Shape};
use mgmt_proto::job::Progress;
use mgmt_proto::limits;
use mgmt_proto::reason::{EXPLANATIONS, Refusal};
use mgmt_proto::verb::{Reply, Request};
use std::fmt::Write as _;
use std::path::PathBuf;

/// The lines around what is generated.
const BEGIN: &str = "<!-- tables of the types: written by tests/document -->\n";
const END: &str = "<!-- end of the tables -->\n";

fn shown(shape: &Shape) -> String {
    match shape {
        Shape::Plain(name) => (*name).to_string(),
        Shape::Named(name) => format!("[{name}](#{})", name.to_lowercase()),
        Shape::Optional(inner) => format!("optional {}", shown(inner)),
        Shape::List(inner) => format!("list of {}", shown(inner)),
        Shape::Array(length, inner) => format!("{length} × {}", shown(inner)),
        Shape::Several(items) => {
            format!("({})", items.iter().map(shown).collect::<Vec<_>>().join(", "))
        }
    }
}

fn comment<'a>(comments: &'a Comments, name: &str, part: &str, field: &str) -> &'a str {
    let key = (name.to_string(), part.to_string(), field.to_string());
    comments.get(&key).unwrap_or_else(|| panic!("{name} {part} {field} has no documentation"))
}

fn table(name: &str, kind: &Kind, comments: &Comments) -> String {
    let mut out = format!("\n### {name}\n\n{}\n\n", comment(comments, name, "", ""));
    match kind {
        Kind::Structure(Holds::Fields(fields)) => {
            out.push_str("| field | type | |\n|---|---|---|\n");
            for (field, shape) in fields {
                let says = comment(comments, name, field, "");
                let _ = writeln!(out, "| `{field}` | {} | {says} |", shown(shape));
            }
        }
        Kind::Structure(_) => panic!("{name} has no fields"),
        Kind::Enumeration(variants) => {
            out.push_str("| number | variant, its fields | type | |\n|---|---|---|---|\n");
            for (number, (variant, holds)) in variants.iter().enumerate() {
                // Names in files may be other than in the types.
                let written = comments.keys().find(|(of, part, field)| {
                    of == name && field.is_empty() && part.eq_ignore_ascii_case(&variant.replace('-', ""))
                });
                let written = written.map_or(*variant, |(_, part, _)| part);
                let says = comment(comments, name, written, "");
                let (values, fields) = match holds.as_ref().expect("all variants were looked at") {
                    Holds::Nothing => (String::new(), &[][..]),
                    Holds::Values(values) => {
                        (values.iter().map(shown).collect::<Vec<_>>().join(", "), &[][..])
                    }
                    Holds::Fields(fields) => (String::new(), &fields[..]),
                };
                let _ = writeln!(out, "| {number} | `{written}` | {values} | {says} |");
                for (field, shape) in fields {
                    let says = comment(comments, name, written, field);
                    let _ = writeln!(out, "| | `{field}` | {} | {says} |", shown(shape));
                }
            }
        }
    }
    out
}

/// Every bound that both ends must know, by name.
fn bounds() -> Vec<(&'static str, String)> {
    macro_rules! bounds {
        ($($name:ident)*) => { vec![$((stringify!($name), limits::$name.to_string())),*] };
    }
    bounds! {
        NAME_BYTES DISKS NETWORK_CARDS VCPUS MEMORY_BYTES_MIN MEMORY_BYTES_MAX
        COMMAND_LINE_BYTES VOLUME_BYTES DISK_SETTINGS PORTALS STATIONS SECRET_BYTES
        VOLUME_PAGE_BYTES FOUND_BYTES DIGESTS BLOB_BYTES STREAM_BYTES INPUT_BYTES MESSAGE_BYTES
        BLOB_CHUNK_BYTES SHORT_RECORD_BYTES RECORD_BYTES RECEIVE_BYTES TRANSMIT_BYTES FIRST_RECORD_NS
        EPHEMERAL_FRESH_NS EPHEMERAL_NS KNOCKS_REMEMBERED IDLE_TIMEOUT_NS OPERATORS
        STORAGE_CARDS CARD_ADDRESSES CARD_MACS CARD_ROUTERS CARD_VLANS CARD_RATE_MIN CARD_RATE_MAX CARD_GRANTS
        MANIFEST_BYTES AUDIT_ENTRIES AUDIT_ENTRY_BYTES ROOTS REVOKED SCOPE_PATTERNS BUNDLE_BYTES
        TRUST_LINKS TRUST_BYTES KEPT_GUESTS NODE_KEYS JOBS JOBS_URGENT JOB_KEPT_NS
        PROGRESS_MS_MIN CONFIG_BYTES CONFIG_SETTINGS
    }
}

fn bounds_table(source: &str) -> String {
    let mut out = String::from("\n### Bounds\n\n| bound | | |\n|---|---|---|\n");
    let bounds = bounds();
    let mut says = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            says = format!("{says}{text}");
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let name = rest.split(':').next().unwrap_or_default();
            match bounds.iter().find(|(bound, _)| *bound == name) {
                Some((_, value)) => {
                    let _ = writeln!(out, "| `{name}` | {value} |{says} |");
                }
                None => assert!(rest.contains(": Lane"), "{name} is not in the document"),
            }
            says.clear();
        }
    }
    out
}

/// Reasons carry their documentation as data; their fields are named in it.
fn describe_reasons(registry: &Registry, comments: &mut Comments) {
    let mut add = |part: &str, field: &str, text: &str| {
        comments.insert(("Reason".into(), part.into(), field.into()), text.into());
    };
    add("", "", "Why a request was refused, or failed.");
    for it in EXPLANATIONS {
        let code = it.code.map_or_else(String::new, |code| format!("{code:?}: "));
        add(it.name, "", &format!("{code}{}", it.meaning));
    }
    let Some(Kind::Enumeration(variants)) = registry.kinds.get("Reason") else { panic!("no reasons") };
    for (variant, holds) in variants {
        if let Some(Holds::Fields(fields)) = holds {
            fields.iter().for_each(|(field, _)| add(variant, field, ""));
        }
    }
}

fn generated(directory: &std::path::Path) -> String {
    let mut registry = Registry::default();
    registry.trace::<Request>();
    registry.trace::<Reply>();
    registry.trace::<Refusal>();
    registry.trace::<Progress>();
    // Types that are not of this crate.
    let foreign = [
        ("IpAddr", "", "An IP address, its bytes in the order of the network."),
        ("IpAddr", "V4", "IPv4."),
        ("IpAddr", "V6", "IPv6."),
    ];
    let mut comments: Comments = foreign
        .into_iter()
        .map(|(name, part, says)| ((name.into(), part.into(), String::new()), says.into()))
        .collect();
    for file in std::fs::read_dir(directory.join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            comments::read(&std::fs::read_to_string(path).unwrap(), &mut comments);
        }
    }
    describe_reasons(&registry, &mut comments);
    let mut order = registry.order.clone();
    order.sort_unstable_by_key(|name| (!matches!(*name, "Request" | "Reply" | "Refusal"), *name));
    let mut out = String::from(BEGIN);
    for name in order {
        out.push_str(&table(name, &registry.kinds[name], &comments));
    }
    let limits = std::fs::read_to_string(directory.join("src/limits.rs")).unwrap();
    out.push_str(&bounds_table(&limits));
    out + "\n" + END
}

#[test]
fn the_document_tells_every_field_of_every_type() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = directory.join("PROTOCOL.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("where the tables begin");
    let (_, after) = rest.split_once(END).expect("where the tables end");
    let expected = format!("{before}{}{after}", generated(&directory));
    if std::env::var_os("UPDATE_DOCUMENT").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let differs = document.lines().zip(expected.lines()).find(|(has, wants)| has != wants);
    assert!(
        document == expected || std::env::var_os("UPDATE_DOCUMENT").is_some(),
        "PROTOCOL.md is not what the types are: {differs:?}; \
         `UPDATE_DOCUMENT=1 cargo test -p mgmt-proto --test document` writes its tables anew"
    );
}
