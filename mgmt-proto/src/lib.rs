//! The management protocol: what operators and nodes say to each other.
//!
//! * [`verb`]: requests and replies;
//! * [`code`]: error codes, which are also the CLI's exit codes;
//! * [`machine`]: the description of a guest.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod code;
pub mod limits;
pub mod machine;
pub mod verb;
