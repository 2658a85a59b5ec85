//! The text form of a trust bundle, which people edit:
//!
//! ```toml
//! serial = 2
//! threshold = 2
//! roots = [
//!     "redoubt-ed25519 64-hexadecimal-digits alice",
//!     "redoubt-ed25519 64-hexadecimal-digits bob",
//! ]
//! revoked = []
//!
//! [[operator]]
//! key = "redoubt-ed25519 64-hexadecimal-digits carol"
//! role = "operator"
//! nodes = [ "rack1-*" ]           # all without it
//! guests = [ "web*" ]             # all without it
//! from = "2026-12-01"             # at once without it; times are UTC
//! until = "2027-12-01T12:00:00Z"  # for ever without it
//!
//! [[card_grant]]                  # what guests' network cards may beyond plain ones
//! guests = [ "fw*" ]              # and nodes, as above
//! allow = { macs = 8, vrrp = [51], router = true, dhcp_server = true, trunk = [100] }
//! ```

use crate::{exit, vif_text};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use keys::PublicKey;
use mgmt_proto::bundle::{Bundle, Grant, Scope, VERSION};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::trust::Role;
use mgmt_proto::vif;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    /// Of the bundle it becomes.
    pub serial: u64,
    /// How many roots must sign the next one.
    #[serde(default = "one")]
    pub threshold: u8,
    /// Public keys that sign the next one.
    pub roots: Vec<String>,
    /// Public keys that may nothing.
    #[serde(default)]
    pub revoked: Vec<String>,
    /// Who may command.
    #[serde(default, rename = "operator")]
    pub operators: Vec<Operator>,
    /// What guests' network cards may beyond plain ones.
    #[serde(default, rename = "card_grant", skip_serializing_if = "Vec::is_empty")]
    pub card_grants: Vec<CardGrant>,
}

/// What the cards of some guests may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardGrant {
    /// On which nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// Of which guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<Vec<String>>,
    /// The most that they may.
    pub allow: toml::Table,
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Whose the key is; the key's comment without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Public key.
    pub key: String,
    /// What it may do.
    pub role: Role,
    /// On which nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
    /// With which guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<Vec<String>>,
    /// From when on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

const fn one() -> u8 {
    1
}

fn wrong(origin: &str, message: impl Into<String>) -> Failure {
    Failure::new(Code::Usage, origin, message, "")
}

/// Seconds since 1970 of a date, which begins at midnight UTC, or a point in time.
///
/// # Errors
/// [`Code::Usage`].
pub fn seconds(text: &str, origin: &str) -> Result<u64, Failure> {
    let date =
        || text.parse::<Date>().and_then(|date| date.to_zoned(TimeZone::UTC)).map(|zoned| zoned.timestamp());
    let time = text.parse::<Timestamp>().or_else(|_| date()).map_err(|_| {
        exit::usage(origin, format!("{text} is no time"), "write 2027-12-01 or 2027-12-01T12:00:00Z")
    })?;
    u64::try_from(time.as_second()).map_err(|_| wrong(origin, format!("{text} is before 1970")))
}

/// A point in time, or nothing for 0.
#[must_use]
pub fn time(seconds: u64) -> Option<String> {
    let time = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    (seconds != 0).then(|| time.to_string())
}

fn scope(names: Option<&Vec<String>>) -> Scope {
    names.map_or(Scope::All, |names| Scope::Named(names.clone()))
}

fn names(scope: &Scope) -> Option<Vec<String>> {
    match scope {
        Scope::All => None,
        Scope::Named(names) => Some(names.clone()),
    }
}

fn key(text: &str, origin: &str) -> Result<PublicKey, Failure> {
    PublicKey::parse(text, origin).map_err(|error| exit::key(&error))
}

fn line(bytes: [u8; 32], comment: &str) -> String {
    PublicKey { bytes, comment: comment.into() }.to_string()
}

impl CardGrant {
    fn from_vif(grant: &vif::CardGrant) -> Self {
        let allow = vif_text::privileges(&grant.privileges);
        Self { nodes: names(&grant.nodes), guests: names(&grant.guests), allow }
    }

    fn to_vif(&self, origin: &str) -> Result<vif::CardGrant, Failure> {
        let privileges = self.allow.clone().try_into();
        Ok(vif::CardGrant {
            nodes: scope(self.nodes.as_ref()),
            guests: scope(self.guests.as_ref()),
            privileges: privileges.map_err(|error: toml::de::Error| {
                wrong(origin, format!("card_grant: {}", error.message()))
            })?,
        })
    }
}

impl TrustFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the line and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| exit::file(path, &error))?;
        toml::from_str(&text)
            .map_err(|error| wrong(&path.display().to_string(), error.to_string().trim_end()))
    }

    /// Writes a file over an older one. Comments in it are lost.
    ///
    /// # Errors
    /// Of the file.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        keys::file::write(path, self.to_text().as_bytes(), 0o644, keys::Existing::Replace)
            .map_err(|error| exit::key(&error))
    }

    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// From what a node holds.
    #[must_use]
    pub fn from_bundle(bundle: &Bundle) -> Self {
        let operator = |grant: &Grant| Operator {
            name: Some(grant.name.clone()),
            key: line(grant.key, ""),
            role: grant.role,
            nodes: names(&grant.nodes),
            guests: names(&grant.guests),
            from: time(grant.not_before_s),
            until: time(grant.not_after_s),
        };
        Self {
            serial: bundle.serial,
            threshold: bundle.threshold,
            roots: bundle.roots.iter().map(|root| line(*root, "")).collect(),
            revoked: bundle.revoked.iter().map(|key| line(*key, "")).collect(),
            operators: bundle.grants.iter().map(operator).collect(),
            card_grants: bundle.card_grants.iter().map(CardGrant::from_vif).collect(),
        }
    }

    /// The bundle that it says, made at `issued_s`.
    ///
    /// # Errors
    /// [`Code::Usage`] names what is wrong.
    pub fn to_bundle(&self, issued_s: u64, origin: &str) -> Result<Bundle, Failure> {
        let all = |texts: &[String]| -> Result<Vec<[u8; 32]>, Failure> {
            texts.iter().map(|text| key(text, origin).map(|key| key.bytes)).collect()
        };
        let mut grants = Vec::new();
        for operator in &self.operators {
            let key = key(&operator.key, origin)?;
            let point = |text: &Option<String>| text.as_deref().map_or(Ok(0), |text| seconds(text, origin));
            grants.push(Grant {
                key: key.bytes,
                role: operator.role,
                nodes: scope(operator.nodes.as_ref()),
                guests: scope(operator.guests.as_ref()),
                not_before_s: point(&operator.from)?,
                not_after_s: point(&operator.until)?,
                name: operator.name.clone().unwrap_or(key.comment),
            });
        }
        Ok(Bundle {
            version: VERSION,
            serial: self.serial,
            issued_s,
            roots: all(&self.roots)?,
            threshold: self.threshold,
            grants,
            revoked: all(&self.revoked)?,
            card_grants: self.card_grants.iter().map(|it| it.to_vif(origin)).collect::<Result<_, _>>()?,
        })
    }

    /// The operator with this name or key.
    fn position(&self, who: &str) -> Option<usize> {
        let wanted = PublicKey::parse(who, "").ok().map(|key| key.bytes);
        self.operators.iter().position(|operator| {
            let key = PublicKey::parse(&operator.key, "").ok();
            let comment = key.as_ref().map(|key| key.comment.as_str());
            operator.name.as_deref().or(comment) == Some(who)
                || key.as_ref().is_some_and(|key| Some(key.bytes) == wanted)
        })
    }

    /// The operator with this name or key.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn find(&self, who: &str) -> Result<&Operator, Failure> {
        self.position(who).and_then(|at| self.operators.get(at)).ok_or_else(|| {
            Failure::new(
                Code::NotFound,
                who,
                "no operator has that name or key",
                "see `redoubt key bundle show FILE`",
            )
        })
    }

    /// Adds an operator, in the next bundle.
    ///
    /// # Errors
    /// [`Code::Conflict`] if the key or name is there.
    pub fn add(&mut self, operator: Operator) -> Result<(), Failure> {
        let taken = |who: &str| self.position(who).is_some();
        if taken(&operator.key) || operator.name.as_deref().is_some_and(taken) {
            let name = operator.name.unwrap_or(operator.key);
            return Err(Failure::new(Code::Conflict, name, "is there already", "rotate or revoke it"));
        }
        self.operators.push(operator);
        self.serial += 1;
        Ok(())
    }

    /// Lets an operator have a new key, and the old one until `until_s`.
    ///
    /// # Errors
    /// [`Code::NotFound`] or [`Code::Conflict`].
    pub fn rotate(&mut self, who: &str, new: &PublicKey, until_s: u64) -> Result<(), Failure> {
        let old = self.find(who)?.clone();
        let name = old.name.clone().unwrap_or_else(|| who.into());
        if let Some(at) = self.position(who)
            && let Some(entry) = self.operators.get_mut(at)
        {
            entry.until = time(until_s);
            entry.name = Some(format!("{name}-before-{}", self.serial + 1));
        }
        self.add(Operator { key: new.to_string(), name: Some(name), ..old })
    }

    /// Takes everything from an operator, at once and for ever.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn revoke(&mut self, who: &str) -> Result<(), Failure> {
        let key = self.find(who)?.key.clone();
        self.operators.retain(|operator| operator.key != key);
        self.revoked.push(key);
        self.serial += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Operator, TrustFile, seconds, time};
    use ed25519_dalek::SigningKey;
    use keys::PublicKey;
    use mgmt_proto::bundle::Scope;
    use mgmt_proto::code::Code;
    use mgmt_proto::trust::Role;

    fn key(number: u8, comment: &str) -> PublicKey {
        PublicKey::of(&SigningKey::from_bytes(&[number; 32]), comment)
    }

    fn file() -> TrustFile {
        let text = format!(
            "serial = 2\nthreshold = 2\nroots = [ \"{}\", \"{}\" ]\n[[operator]]\nkey = \"{}\"\nrole = \"operator\"\n\
             nodes = [ \"rack1-*\" ]\nfrom = \"2026-12-01\"\nuntil = \"2027-12-01T12:00:00Z\"\n",
            key(1, "alice"),
            key(2, "bob"),
            key(3, "carol")
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_file_becomes_a_bundle_and_a_file_again() {
        let bundle = file().to_bundle(9, "t").unwrap();
        assert_eq!((bundle.serial, bundle.threshold, bundle.issued_s), (2, 2, 9));
        assert_eq!(bundle.roots, [key(1, "").bytes, key(2, "").bytes]);
        let grant = &bundle.grants[0];
        assert_eq!((grant.name.as_str(), grant.role), ("carol", Role::Operator));
        assert_eq!((grant.not_before_s, grant.not_after_s), (1_796_083_200, 1_827_662_400));
        assert_eq!(grant.nodes, Scope::Named(vec!["rack1-*".into()]));
        assert_eq!(grant.guests, Scope::All);
        let again = TrustFile::from_bundle(&bundle);
        assert_eq!(toml::from_str::<TrustFile>(&again.to_text()).unwrap(), again);
        assert_eq!(again.to_bundle(9, "t").unwrap(), bundle);
    }

    #[test]
    fn times_are_dates_or_points() {
        assert_eq!(seconds("1970-01-02", ""), Ok(86_400));
        assert_eq!(seconds("1970-01-02T00:00:01Z", ""), Ok(86_401));
        for wrong in ["tomorrow", "1969-12-31", "2026-13-01", ""] {
            assert_eq!(seconds(wrong, "t").unwrap_err().code, Code::Usage, "{wrong}");
        }
        assert_eq!((time(0), time(86_401)), (None, Some("1970-01-02T00:00:01Z".into())));
    }

    #[test]
    fn operators_come_change_keys_and_go() {
        let mut file = file();
        let dave = Operator {
            name: Some("dave".into()),
            key: key(4, "").to_string(),
            role: Role::Admin,
            nodes: None,
            guests: None,
            from: None,
            until: None,
        };
        file.add(dave.clone()).unwrap();
        assert_eq!(file.add(dave).unwrap_err().code, Code::Conflict);
        file.rotate("carol", &key(5, "carol"), 86_400).unwrap();
        let bundle = file.to_bundle(0, "t").unwrap();
        let told: Vec<_> =
            bundle.grants.iter().map(|grant| (grant.name.as_str(), grant.key, grant.not_after_s)).collect();
        assert_eq!(
            told,
            [
                ("carol-before-4", key(3, "").bytes, 86_400),
                ("dave", key(4, "").bytes, 0),
                ("carol", key(5, "").bytes, 1_827_662_400),
            ]
        );
        file.revoke("carol-before-4").unwrap();
        assert_eq!(file.revoke("nobody").unwrap_err().code, Code::NotFound);
        let bundle = file.to_bundle(0, "t").unwrap();
        assert_eq!((bundle.serial, bundle.revoked), (5, vec![key(3, "").bytes]));
        assert_eq!(bundle.grants.len(), 2);
    }
}
