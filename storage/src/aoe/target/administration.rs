//! What an operator may ask a target: its configuration string, the MAC addresses it
//! answers, and who has reserved it.
//!
//! Spec: AoE r11, sections 3.2 (query config), 3.3 (MAC mask list), 3.4 (reserve).

use alloc::vec::Vec;

use super::{AOE_ADMINISTRATIONS_MAX, Body, Config, MacAddress, Mask, Reserve, Target};

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Administration {
    /// Reads the configuration string.
    ReadConfig,
    /// Answered only by a target whose string is this one.
    TestConfig(Vec<u8>),
    /// Answered only by a target whose string begins so.
    TestConfigPrefix(Vec<u8>),
    /// Sets the string of a target that has none.
    SetConfig(Vec<u8>),
    /// Sets the string whatever it was.
    ForceConfig(Vec<u8>),
    /// Lists the MAC addresses that the target answers; none means all.
    ReadMasks,
    /// Adds (`1`) or deletes (`2`) MAC addresses: each entry is a zero, the directive and
    /// the MAC address.
    EditMasks(Vec<[u8; 8]>),
    /// Lists the MAC addresses that hold the target.
    ReadReservation,
    /// Reserves the target for these MAC addresses, or with none releases it.
    Reserve(Vec<MacAddress>),
    /// The same, even if another initiator holds it.
    ForceReserve(Vec<MacAddress>),
}

impl Administration {
    /// A directive that lets a MAC address in.
    #[must_use]
    pub const fn add_station([a, b, c, d, e, f]: MacAddress) -> [u8; 8] {
        [0, 1, a, b, c, d, e, f]
    }

    /// A directive that shuts a MAC address out.
    #[must_use]
    pub const fn delete_station([a, b, c, d, e, f]: MacAddress) -> [u8; 8] {
        [0, 2, a, b, c, d, e, f]
    }

    pub(super) fn body(&self) -> Body<'_> {
        let config = |command, string| Body::Config(Config { command, string, ..Config::READ });
        match self {
            Self::ReadConfig => Body::Config(Config::READ),
            Self::TestConfig(string) => config(1, string.as_slice()),
            Self::TestConfigPrefix(string) => config(2, string.as_slice()),
            Self::SetConfig(string) => config(3, string.as_slice()),
            Self::ForceConfig(string) => config(4, string.as_slice()),
            Self::ReadMasks => Body::Mask(Mask { command: 0, error: 0, directives: &[] }),
            Self::EditMasks(directives) => Body::Mask(Mask { command: 1, error: 0, directives }),
            Self::ReadReservation => Body::Reserve(Reserve { command: 0, macs: &[] }),
            Self::Reserve(macs) => Body::Reserve(Reserve { command: 1, macs }),
            Self::ForceReserve(macs) => Body::Reserve(Reserve { command: 2, macs }),
        }
    }
}

/// What a target answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its configuration string.
    Config(Vec<u8>),
    /// The MAC addresses that it answers; none means all.
    Masks(Vec<MacAddress>),
    /// The MAC addresses that hold it.
    Reservation(Vec<MacAddress>),
    /// It would not.
    Refused(&'static str),
}

impl Target {
    /// Asks the target something; [`Self::take_outcome`] tells what it answered. A
    /// test of the configuration string that fails is never answered: the caller
    /// sets a time limit and then calls [`Self::cancel_administration`].
    ///
    /// # Errors
    /// Too much has been asked and not answered.
    pub fn administer(&mut self, command: Administration) -> Result<(), Administration> {
        if self.administrations.len() >= AOE_ADMINISTRATIONS_MAX {
            return Err(command);
        }
        self.administrations.push_back(command);
        Ok(())
    }

    /// The next answer.
    pub fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Stops asking.
    pub fn cancel_administration(&mut self) {
        self.administrations.clear();
        while let Some(index) =
            self.slots.iter().position(|slot| matches!(slot.kind, super::Kind::Administration(_)))
        {
            self.leave(index);
        }
    }
}

/// Whether an answer is one to that command.
pub(super) fn mask_answer(command: &Administration, body: &Body<'_>) -> bool {
    let asked = command.body();
    matches!(
        (asked, body),
        (Body::Config(_), Body::Config(_))
            | (Body::Mask(_), Body::Mask(_))
            | (Body::Reserve(_), Body::Reserve(_))
    )
}

pub(super) fn answer_of(body: &Body<'_>) -> Option<Outcome> {
    match body {
        Body::Config(config) => Some(Outcome::Config(config.string.to_vec())),
        Body::Mask(Mask { error: 2, .. }) => Some(Outcome::Refused("the target knows no such directive")),
        Body::Mask(Mask { error: 3, .. }) => Some(Outcome::Refused("the target's list is full")),
        Body::Mask(Mask { error: 1.., .. }) => Some(Outcome::Refused("the target would not edit its list")),
        Body::Mask(mask) => {
            let macs = mask.directives.iter().map(|[_, _, a, b, c, d, e, f]| [*a, *b, *c, *d, *e, *f]);
            Some(Outcome::Masks(macs.collect()))
        }
        Body::Reserve(list) => Some(Outcome::Reservation(list.macs.to_vec())),
        Body::Ata(_) | Body::Other(_) => None,
    }
}
