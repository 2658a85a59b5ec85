//! The operator's end of a node, as a library: what the command line and the
//! tests of whole nodes share.
//!
//! * [`connection`]: a session over TCP;
//! * [`known_nodes`]: which key a node had last time;
//! * [`settings`]: the operator's configuration file;
//! * [`vm_file`]: the description of a guest in a file;
//! * [`blobs`]: kernels and initrds on the workstation;
//! * [`table`], [`json`]: what is printed;
//! * [`exit`]: exit codes.
#![forbid(unsafe_code)]

pub mod blobs;
pub mod connection;
pub mod exit;
pub mod json;
pub mod known_nodes;
pub mod settings;
pub mod table;
pub mod vm_file;

pub use connection::Connection;

#[cfg(test)]
mod tests;
