//! The operator's configuration file, `~/.config/redoubt/config.toml`:
//!
//! ```toml
//! context = "lab"
//!
//! [contexts.lab]
//! node = "10.0.0.2"
//! identity = "~/.config/redoubt/operator.key"
//! fresh_identity = true
//! # node_key = "64 hexadecimal digits"
//! ```

use crate::exit;
use mgmt_proto::code::{Code, Failure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The context that counts unless told otherwise.
    pub context: Option<String>,
    /// Contexts by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A node and who to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Address of the node.
    pub node: Option<String>,
    /// File of the private key.
    pub identity: Option<PathBuf>,
    /// The node makes a new key at each boot.
    #[serde(default)]
    pub fresh_identity: bool,
    /// The node's key.
    pub node_key: Option<String>,
}

/// Where the operator's files are.
#[must_use]
pub fn directory() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("redoubt")
}

impl Settings {
    /// Reads the file, if it is there.
    ///
    /// # Errors
    /// Names the line and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| exit::usage(path.display().to_string(), error.to_string(), "")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(exit::file(path, &error)),
        }
    }

    /// The context of this name, or the one that counts by default.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn context(&self, name: Option<&str>) -> Result<Context, Failure> {
        let Some(name) = name.or(self.context.as_deref()) else { return Ok(Context::default()) };
        self.contexts.get(name).cloned().ok_or_else(|| {
            Failure::new(Code::NotFound, name, "the configuration has no such context", "see config.toml")
        })
    }
}
