//! `redoubt audit`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Print the log: what had an effect, or with --refused what was refused or failed
    Show {
        /// First entry, by its sequence number
        #[arg(long, default_value_t = 0, value_name = "N")]
        from: u64,
        /// A saved copy instead of the node
        #[arg(long)]
        file: Option<PathBuf>,
        /// The log of what was refused or failed, where those alike are one entry
        #[arg(long, conflicts_with = "file")]
        refused: bool,
    },
    /// Check the log: that nothing is missing, altered or unsigned; with --root also that
    /// who signed was trusted then
    Verify {
        /// Keep a copy
        #[arg(long, conflicts_with = "file")]
        save: Option<PathBuf>,
        /// Check a saved copy instead of the node, with the key of --node-key or the one remembered
        #[arg(long)]
        file: Option<PathBuf>,
        /// The log of what was refused or failed
        #[arg(long, conflicts_with_all = ["file", "root"])]
        refused: bool,
        #[command(flatten)]
        trust: AuditTrust,
    },
}

/// Who was trusted when.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditTrust {
    /// Public key of the owner who sealed the image
    #[arg(long, value_name = "KEY")]
    pub(crate) root: Option<PathBuf>,
    /// The node.toml that was sealed: its operators held until the first bundle
    #[arg(long, value_name = "FILE", requires = "root")]
    pub(crate) sealed: Option<PathBuf>,
    /// The signed trust bundles that were brought to the node, each
    #[arg(long, value_name = "FILE", requires = "root")]
    pub(crate) bundle: Vec<PathBuf>,
}
