//! The guests: what each is and has, their shares of a turn, and who types on their consoles.

pub mod console_lock;
pub mod guest;
pub mod pending_attach;
pub(crate) mod quotas;
pub(crate) mod record;
