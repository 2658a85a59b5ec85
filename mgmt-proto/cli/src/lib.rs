//! The operator's end of a node, as a library: what the command line and the
//! tests of whole nodes share.
//!
//! * [`session`]: from a node that is meant to a session with it;
//! * [`connection`]: a session over TCP;
//! * [`agent`]: keys in files and in an ssh-agent;
//! * [`fleet`]: nodes, groups and their keys; [`rollout`]: one verb on many nodes;
//! * [`known_nodes`]: which key a node had last time; [`passes`]: by what it knows the operator;
//! * [`settings`]: the operator's configuration file;
//! * [`vm_file`]: the description of a guest in a file; [`vm_text`]: of one on a node;
//!   [`disk_text`]: of a disk;
//! * [`blobs`]: kernels and initrds on the workstation;
//! * [`audit`]: copies of a node's log of what was done, and their check;
//! * [`top`]: what node and guests use; [`metrics`]: the same for Prometheus;
//! * [`support`]: what a bug report needs;
//! * [`initiator`]: a volume without a node;
//! * [`volumes`]: what is printed of volumes and of a guest's disks;
//! * [`state`]: what a node keeps; [`jobs`]: its long work;
//! * [`answer`], [`table`], [`json`]: what is printed, and in which form;
//! * [`exit`]: exit codes.
//!
//! ```no_run
//! use mgmt_proto::verb::{Reply, Request};
//! # fn main() -> Result<(), mgmt_proto::code::Failure> {
//! let key = keys::secret::load("operator.key".as_ref()).map_err(|error| redoubt::exit::key(&error))?;
//! let mut node = redoubt::Connection::open("10.0.0.2", &key, None)?;
//! if let Reply::Guests(guests) = node.request(Request::List)? {
//!     for guest in guests {
//!         println!("{} {:?}", guest.machine.name, guest.state);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod agent;
pub mod answer;
pub mod audit;
pub mod blobs;
pub mod cards;
pub mod connection;
pub mod disk_text;
pub mod exit;
pub mod fleet;
pub mod initiator;
pub mod jobs;
pub mod json;
pub mod kernel_image;
pub mod known_nodes;
pub mod log_filter;
pub mod logger;
pub mod metrics;
pub mod nearest;
pub mod passes;
pub mod rollout;
pub mod session;
pub mod settings;
pub mod state;
pub mod support;
pub mod table;
pub mod top;
pub mod trust_file;
mod vif_text;
pub mod vm_file;
pub mod vm_text;
pub mod volumes;

pub use connection::Connection;

#[cfg(test)]
mod tests;
