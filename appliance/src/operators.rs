//! Operators: their sessions, the jobs that they began, what they changed last, and the record of it.

pub mod audit;
pub mod jobs;
pub(crate) mod places;
pub mod revisions;
pub mod sessions;
