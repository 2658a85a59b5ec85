//! `redoubt job`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// All jobs the node knows
    #[command(visible_alias = "ls")]
    List,
    /// Wait until a job has ended; its failure is the command's
    Wait {
        /// Number of the job
        id: u64,
    },
    /// End a job so that nothing of it is left
    Cancel {
        /// Number of the job
        id: u64,
    },
}
