//! What the verbs do, by noun.

pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod guest;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod storage;
