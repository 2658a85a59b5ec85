//! What `cargo measure` measures.
//!
//! * [`figure`]: a figure, the table of them, budgets;
//! * [`machine_monitor`]: QEMU's own count of instructions;
//! * [`hand_off`]: from firmware to the first signed reply;
//! * [`memory`]: what a node and an idle guest need;
//! * [`start`]: from `create` to a guest's first instruction and to its programs;
//! * [`tiny`]: a kernel of a few bytes;
//! * [`load`]: the load generator, its initramfs, and how it is commanded;
//! * [`linux`]: a plain Linux node in the same machine, for comparison;
//! * [`initiators`]: what they cost and reach without a node;
//! * [`counted`]: what a whole machine executes for a read, by a node and by Linux;
//! * [`turn`]: the heaviest turn of a node under every load;
//! * [`disks`] (also as `jumbo`: frames of 9000 octets), [`streams`]: what guests get from network disks and TCP.

pub mod counted;
pub mod disks;
pub mod figure;
pub mod hand_off;
pub mod initiators;
pub mod linux;
pub mod load;
pub mod machine_monitor;
pub mod memory;
pub mod start;
pub mod streams;
pub mod tiny;
pub mod turn;
