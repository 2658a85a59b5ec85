//! `redoubt node log`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};
use log::Level;
use redoubt::log_filter::LogFilter;

#[derive(Clone, Debug, Args)]
pub(crate) struct NodeLog {
    /// Go on as it grows
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// That of the run before this one, as memory kept it over the restart
    #[arg(long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    /// Only lines of this level, or a worse one
    #[arg(long, value_parser = PossibleValuesParser::new(["error", "warn", "info"]).try_map(|it| it.parse::<Level>()))]
    level: Option<Level>,
    /// Only lines of this part of the node, as storage or network; several are possible
    #[arg(long, value_name = "PART", action = ArgAction::Append)]
    target: Vec<String>,
}

impl NodeLog {
    /// Which lines are shown.
    pub(crate) fn filter(&self) -> LogFilter {
        LogFilter { level: self.level, targets: self.target.clone() }
    }
}
