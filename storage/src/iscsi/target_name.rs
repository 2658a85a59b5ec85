//! An iSCSI target's name.
//!
//! Spec: RFC 7143 section 4.2.7 (the three kinds, 223 octets at most); RFC 3722 sections 4
//! and 5 (letter case is folded before names are compared; which ASCII characters remain).

use alloc::string::{String, ToString};
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use crate::volume::NameError;

/// Octets of a name at most (RFC 7143, 4.2.7.1).
const OCTETS_MAX: usize = 223;

/// A target's name: sent as it is written, since not every target folds letter case, and
/// compared as RFC 7143 says.
#[derive(Clone, Debug)]
pub struct TargetName(String);

impl TargetName {
    /// The name as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it is compared: RFC 3722's preparation, of which case folding is what
    /// concerns ASCII.
    #[must_use]
    pub fn normalised(&self) -> Self {
        Self(self.0.to_ascii_lowercase())
    }

    fn octets(&self) -> impl Iterator<Item = u8> {
        self.0.bytes().map(|it| it.to_ascii_lowercase())
    }

    /// Stands for no target where only a portal is meant.
    #[must_use]
    pub(crate) fn discovery() -> Self {
        Self(String::from("iqn.discovery"))
    }

    /// Whether a text begins as such a name does.
    #[must_use]
    pub fn is_begun(text: &str) -> bool {
        let kinds = ["iqn.", "eui.", "naa."];
        text.get(..4).is_some_and(|kind| kinds.iter().any(|known| known.eq_ignore_ascii_case(kind)))
    }
}

impl FromStr for TargetName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if !Self::is_begun(name) || name.len() == 4 {
            return Err(NameError::Target);
        }
        if name.len() > OCTETS_MAX {
            return Err(NameError::TargetLength);
        }
        // RFC 3722 has no `_`; names in the field do.
        let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | ':' | '_');
        match name.chars().find(|it| !plain(*it)) {
            Some(other) => Err(NameError::TargetCharacter(other)),
            None => Ok(Self(name.to_string())),
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl PartialEq for TargetName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for TargetName {}

impl PartialOrd for TargetName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TargetName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.octets().cmp(other.octets())
    }
}

impl Hash for TargetName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normalised().0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn names_are_compared_without_regard_to_case() {
        let name = |text: &str| text.parse::<TargetName>().unwrap();
        let (one, other) = (name("iqn.2026-11.Example:Disk_1"), name("IQN.2026-11.example:disk_1"));
        assert_eq!((&one, one.cmp(&other)), (&other, Ordering::Equal));
        assert_eq!(one.to_string(), "iqn.2026-11.Example:Disk_1", "sent as written");
        assert_eq!(other.normalised().as_str(), "iqn.2026-11.example:disk_1");
        assert!(one != name("iqn.2026-11.example:disk-1") && one < name("iqn.2026-11.example:disk_2"));
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, error) in [
            ("disk", NameError::Target),
            ("iqn.", NameError::Target),
            ("iqx.a", NameError::Target),
            ("iqn.2026-11.example:a~b", NameError::TargetCharacter('~')),
            ("iqn.a b", NameError::TargetCharacter(' ')),
            ("iqn.ä", NameError::TargetCharacter('ä')),
            ("iqn.a/b", NameError::TargetCharacter('/')),
        ] {
            assert_eq!(text.parse::<TargetName>(), Err(error), "{text}");
        }
        let long = format!("iqn.{}", "a".repeat(219));
        assert!(long.parse::<TargetName>().is_ok());
        assert_eq!(format!("{long}a").parse::<TargetName>(), Err(NameError::TargetLength));
        assert!(NameError::TargetCharacter('\u{202e}').to_string().contains("'\\u{202e}'"));
    }
}
