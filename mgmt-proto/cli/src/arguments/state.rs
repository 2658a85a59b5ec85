//! The command line of what a node keeps.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// From now on
    On,
    /// No longer
    Off,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Autostart {
    /// Name; without, list them
    #[arg(requires = "switch")]
    pub(crate) guest: Option<String>,
    /// Whether it starts with the node; `off` forgets its description
    pub(crate) switch: Option<Switch>,
    /// Lower numbers start first
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) order: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeKey {
    /// The key it has, and those it had before
    Show,
    /// Give it another key, which the one it has signs: whoever remembers that one follows
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeConfig {
    /// Write what the node keeps to a file that it signs, without secrets
    Export {
        /// The file, which must not exist
        file: PathBuf,
    },
    /// Have the node keep the guests of such a file, and its trust bundle if that is newer
    Import {
        /// The file
        file: PathBuf,
        /// A kernel or initrd of its guests, to be sent too
        #[arg(long, value_name = "PATH")]
        blob: Vec<PathBuf>,
    },
}
