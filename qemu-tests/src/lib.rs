//! Whole nodes against real peers.
//!
//! * [`packages`]: the Debian packages all this needs;
//! * [`programs`]: the project's own programs, built;
//! * [`debian`]: a guest's root file system, kernel and initrd;
//! * [`test_guest`]: a tiny guest that starts in seconds;
//! * [`lab`]: a network namespace with DHCP, TFTP and storage targets;
//! * [`machine`]: a QEMU machine that is the node;
//! * [`debugger`]: QEMU's way to the registers of its processors;
//! * [`operator`]: the CLI as an operator uses it;
//! * [`world`]: all of these together; [`scenarios`]: what must hold for them;
//! * [`hostile`]: targets that do wrong by script, and what must come of it;
//! * [`measure`]: what `cargo measure` measures;
//! * [`http`]: fetches a page;
//! * [`process`]: child processes that end with their owner.

pub mod debian;
pub mod debugger;
pub mod hostile;
pub mod http;
pub mod lab;
pub mod machine;
pub mod measure;
pub mod operator;
pub mod packages;
pub mod process;
pub mod programs;
pub mod scenarios;
pub mod test_guest;
pub mod world;
