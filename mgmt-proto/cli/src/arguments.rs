//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Drives a Redoubt node.
#[derive(Debug, Parser)]
#[command(name = "redoubt", version, about, after_help = redoubt::exit::HELP, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The node, address or address:port
    #[arg(short, long, global = true, env = "REDOUBT_NODE", value_name = "ADDR[:PORT]")]
    pub(crate) node: Option<String>,
    /// Private key to sign with [default: ~/.config/redoubt/operator.key]
    #[arg(short, long, global = true, env = "REDOUBT_IDENTITY", value_name = "KEYFILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Context of the configuration file to use
    #[arg(long, global = true, env = "REDOUBT_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// How long to wait: for the connection, for each answer
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Keep trying to connect, for a node that is starting
    #[arg(long, global = true)]
    pub(crate) wait: bool,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    pub(crate) output: Form,
    /// Say more on stderr
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Take the key the node has now, and remember it
    #[arg(long, global = true)]
    pub(crate) accept_new_key: bool,
    /// The node makes a new key at each boot: do not compare it
    #[arg(long, global = true)]
    pub(crate) fresh_identity: bool,
    /// The node's public key, which it must have
    #[arg(long, global = true, value_name = "HEX")]
    pub(crate) node_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// For programs; the shapes are stable
    Json,
    /// As table, with more columns
    Wide,
    /// Names only, one on each line
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keys of owners and operators
    #[command(subcommand)]
    Key(Key),
    /// The node itself
    #[command(subcommand)]
    Node(Node),
    /// Volumes
    #[command(subcommand)]
    Storage(Storage),
    /// Check a VM file against the node, without creating a guest
    Check {
        /// VM file
        file: PathBuf,
        /// Settings that count more than the file's
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Create and start a guest
    Create {
        /// VM file
        file: PathBuf,
        /// Settings that count more than the file's
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Leave it paused
        #[arg(short, long)]
        paused: bool,
        /// Attach to its console
        #[arg(short, long)]
        console: bool,
    },
    /// List the guests
    #[command(visible_alias = "ls")]
    List,
    /// Everything about one guest
    Info {
        /// Name or ID
        guest: String,
    },
    /// Attach to a guest's console; Ctrl+] leaves
    Console(Console),
    /// Stop a guest's vCPUs
    Pause {
        /// Name or ID
        guest: String,
    },
    /// Let a guest's vCPUs run again
    Unpause {
        /// Name or ID
        guest: String,
    },
    /// Press a guest's power button
    Shutdown {
        /// Name or ID
        #[arg(required_unless_present = "all")]
        guest: Option<String>,
        /// Wait until it is off
        #[arg(short = 'w', long = "until-off")]
        until_off: bool,
        /// All guests
        #[arg(short, long, conflicts_with = "guest")]
        all: bool,
    },
    /// Start a guest again from its kernel, at once
    Reboot {
        /// Name or ID
        guest: String,
    },
    /// End a guest at once
    Destroy {
        /// Name or ID
        guest: String,
    },
    /// Make dom0 fail, where the image allows it
    #[command(hide = true)]
    InjectFault {
        /// How
        fault: FaultKind,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Console {
    /// Name or ID
    pub(crate) guest: String,
    /// Key that leaves, as ^] or one character
    #[arg(short, long, default_value = "^]", value_name = "KEY")]
    pub(crate) escape: String,
    /// Print what was written so far and leave
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FaultKind {
    /// A panic
    Panic,
    /// A wild memory access
    Access,
    /// A loop without end
    Hang,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make an owner's and an operator's key
    Init {
        /// Where [default: ~/.config/redoubt]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Facts about the node
    Info,
    /// The node's log
    Log {
        /// Go on as it grows
        #[arg(short, long)]
        follow: bool,
    },
    /// Restart the machine, with all its guests
    Reboot,
    /// Turn the machine off, with all its guests
    #[command(visible_alias = "shutdown")]
    Poweroff,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Storage {
    /// Look for volumes
    Discover {
        #[command(subcommand)]
        protocol: Option<Discover>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Discover {
    /// On the node's wire (the default)
    Aoe,
    /// At an iSCSI portal
    Iscsi {
        /// Address[:port] of the portal
        portal: String,
    },
}
