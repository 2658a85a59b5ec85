//! `redoubt storage`, and disks of guests.

use crate::commands::volume;
use clap::{Args, Subcommand};

/// A disk: a volume and what is set for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct DiskArgument {
    /// Volume, as aoe:e11.1 or iscsi://[user@]portal/iqn/lun; settings may follow
    /// after commas, as in a VM file
    #[arg(value_name = "VOLUME")]
    pub(crate) disk: String,
    /// Settings: access=ro, timeout=30s, portal=10.0.0.2, secret=FILE and so on, as in a
    /// VM file; a user without a secret is asked for it
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArguments {
    /// Name or ID
    pub(crate) guest: String,
    /// Only this disk, by slot or volume; otherwise all of them together
    #[arg(long, value_name = "SLOT|VOLUME")]
    pub(crate) disk: Option<String>,
    /// Bytes per second, as 50M
    #[arg(long, value_name = "N")]
    pub(crate) bytes_per_s: Option<String>,
    /// Operations per second
    #[arg(long, value_name = "N")]
    pub(crate) operations_per_s: Option<String>,
    /// What may be saved up while idle, as a time at these rates
    #[arg(long, value_name = "TIME")]
    pub(crate) burst: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoragePath {
    /// The paths of all volumes in use, or of one
    #[command(visible_alias = "ls")]
    List {
        /// The volume
        volume: Option<String>,
    },
    /// Use a path again
    Enable {
        /// The volume
        volume: String,
        /// Number of the path
        path: u32,
    },
    /// Take a path out of use, for work on a cable, switch or target
    Disable {
        /// The volume
        volume: String,
        /// Number of the path
        path: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Storage {
    /// Look for volumes
    Discover {
        #[command(subcommand)]
        protocol: Option<Discover>,
    },
    /// Volumes in use: what, since when, which retry, what was negotiated, how fast
    Show {
        /// Everything about this one
        volume: Option<String>,
    },
    /// Have the node log in to a volume, look at it and leave
    Probe(DiskArgument),
    /// The ways to a volume's target
    #[command(subcommand)]
    Path(StoragePath),
    /// Reserve a volume for this node; that stays until it is released
    Reserve {
        #[command(flatten)]
        disk: DiskArgument,
        /// Whoever else holds it gives way: only if that node is surely gone
        #[arg(short, long)]
        force: bool,
    },
    /// Give up this node's reservation of a volume
    Release {
        #[command(flatten)]
        disk: DiskArgument,
        /// Also another node's: only if that node is surely gone
        #[arg(short, long)]
        force: bool,
    },
    /// Measure a volume from this workstation, without a node
    Bench(Box<volume::Bench>),
    /// Read a volume from this workstation to a file, without a node
    Read(Box<volume::Transfer>),
    /// Write a file from this workstation to a volume, without a node
    Write(Box<volume::Transfer>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Discover {
    /// On the node's wire (the default)
    Aoe {
        /// On the wire of this workstation's network card, without a node
        #[arg(long, value_name = "NAME")]
        interface: Option<String>,
    },
    /// At an iSCSI portal
    Iscsi {
        /// Portal, as [user@]address[:port]
        portal: String,
        /// Settings: secret=FILE, target_secret=FILE, allow_md5=yes, as of a disk; a user
        /// without a secret is asked for it
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// From this workstation, without a node
        #[arg(long)]
        here: bool,
    },
}
