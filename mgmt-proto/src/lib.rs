//! The management protocol: what operators and nodes say to each other.
//!
//! * [`verb`]: requests, and the one table of verbs; [`reply`]: replies; [`facts`]: of a node and its guests;
//! * [`found`]: what a search for volumes found;
//! * [`reason`]: why a node refuses or fails; [`code`]: error codes, which are also the CLI's exit codes;
//! * [`machine`]: the description of a guest; [`disk`]: what is set for its disks;
//! * [`volume`]: what a node tells of its volumes;
//! * [`secret`]: what is never printed; [`units`]: sizes, times, MAC addresses and decimals as text;
//! * [`handshake`]: how two ends come to trust each other; [`door`]: the node's side of it;
//! * [`record`]: the encrypted frames after that;
//! * [`proof`]: that an operator signed it; [`envelope`]: a signed command, verified before it is decoded;
//! * [`job`]: long work;
//! * [`server`], [`client`]: the two ends as state machines; [`pump`]: a client over a
//!   stream;
//! * [`role`], [`trust`]: who may do what; [`bundle`]: who decides that; [`audit`]: what was done;
//! * [`state`]: what a node keeps, and where; [`config`]: how it is set, in a file;
//! * [`node_key`]: how a node's key gives way to another;
//! * [`manifest`]: what the owner seals into an image.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod audit;
pub mod bundle;
pub mod client;
pub mod code;
mod codec;
pub mod config;
pub mod disk;
pub mod door;
pub mod envelope;
pub mod facts;
pub mod fault;
pub mod found;
pub mod handshake;
pub mod job;
pub mod limits;
pub mod machine;
pub mod manifest;
pub mod node_key;
pub mod platform;
pub mod proof;
pub mod pump;
pub mod reason;
pub mod record;
pub mod reply;
pub mod role;
pub mod scope;
pub mod secret;
pub mod server;
pub mod state;
pub mod trust;
pub mod units;
pub mod verb;
pub mod vif;
pub mod volume;

#[cfg(test)]
#[path = "../../storage/src/tests/mutate.rs"]
mod mutate;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
