//! What touches several parts of the node, as methods of it.

mod addressing;
mod admission;
mod capacity;
mod capture;
mod cards;
pub(crate) mod commands;
mod disks;
mod facts;
mod jobs;
mod lifecycle;
mod lockdown;
mod neighbourhood;
mod protection;
pub(crate) mod state;
mod storage;
mod trust;
mod typing;
mod uploads;
