//! `redoubt key`.

use super::word;
use clap::{Args, Subcommand};
use mgmt_proto::role::Role;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make an owner's and an operator's key
    Init {
        /// Where [default: ~/.config/redoubt]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Under a passphrase: asked for, or the first line of $REDOUBT_PASSPHRASE_FILE
        #[arg(long)]
        encrypt: bool,
    },
    /// Put a private key under a passphrase, or another one
    Encrypt {
        /// Private key
        key: PathBuf,
    },
    /// Public keys at hand: in ~/.config/redoubt and in the ssh-agent
    List,
    /// The public key of the identity, as a line for node.toml
    Show,
    /// Add an operator to a trust file
    Add(AddKey),
    /// Give an operator of a trust file a new key; the old one holds for some days more
    Rotate {
        /// Trust file
        file: PathBuf,
        /// The operator's name or old public key
        who: String,
        /// File of the new public key
        key: PathBuf,
        /// For how long the old one holds
        #[arg(long, default_value_t = 7, value_name = "DAYS")]
        overlap_days: u64,
    },
    /// Take everything from a key in a trust file, for ever
    Revoke {
        /// Trust file
        file: PathBuf,
        /// The operator's name or public key
        who: String,
    },
    /// Trust bundles: who may command which nodes, signed by the owners' root keys
    #[command(subcommand)]
    Bundle(Bundle),
}

#[derive(Debug, Args)]
pub(crate) struct AddKey {
    /// Trust file
    pub(crate) file: PathBuf,
    /// The operator's name
    pub(crate) name: String,
    /// File of the public key
    pub(crate) key: PathBuf,
    /// What it may do
    #[arg(long, default_value = "operator", value_parser = word::<Role>(&[
        ("viewer", "Look"),
        ("operator", "Run guests"),
        ("admin", "Stop the node, bring trust bundles"),
    ]))]
    pub(crate) role: Role,
    /// On these nodes only; a * at the end stands for any rest
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) on: Vec<String>,
    /// With these guests only; a * at the end stands for any rest
    #[arg(long, value_name = "GUEST", value_delimiter = ',')]
    pub(crate) guests: Vec<String>,
    /// From this date or time on
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Until this date or time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    /// What the node holds, or what a file is
    Show {
        /// Bundle
        file: Option<PathBuf>,
    },
    /// Write what the node holds as a trust file, to be edited
    Fetch {
        /// Trust file to write
        out: PathBuf,
    },
    /// Make a bundle from a trust file; it has no signature yet
    Make {
        /// Trust file
        file: PathBuf,
        /// Bundle to write
        out: PathBuf,
    },
    /// Add the signature of a root key, which -i names
    Sign {
        /// Bundle
        bundle: PathBuf,
    },
    /// Bring a signed bundle to the node
    Push {
        /// Bundle
        bundle: PathBuf,
    },
}
