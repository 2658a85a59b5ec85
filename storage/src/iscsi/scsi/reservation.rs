//! Persistent reservations: who may write.
//!
//! Spec: SPC-4 sections 5.13 (model), 6.15 (IN), 6.16 (OUT).

use super::Cdb;

/// Write exclusive, registrants only (SPC-4 table 210).
const TYPE: u8 = 5;

/// A PERSISTENT RESERVE OUT command with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistentOut {
    /// Registers a key, whatever was registered.
    Register(u64),
    /// Takes the registration away.
    Unregister(u64),
    /// Reserves the unit.
    Reserve(u64),
    /// Gives the reservation up.
    Release(u64),
    /// Takes the reservation from `holder`.
    Preempt {
        /// Our key.
        key: u64,
        /// Whose reservation it is.
        holder: u64,
        /// Ends its commands too, which not every target can.
        abort: bool,
    },
}

impl PersistentOut {
    /// Octets of the parameter list.
    pub const BYTES: u32 = 24;

    /// The command.
    #[must_use]
    pub const fn cdb(self) -> Cdb {
        let (action, kind) = match self {
            Self::Register(_) | Self::Unregister(_) => (6, 0),
            Self::Reserve(_) => (1, TYPE),
            Self::Release(_) => (2, TYPE),
            Self::Preempt { abort: true, .. } => (5, TYPE),
            Self::Preempt { abort: false, .. } => (4, TYPE),
        };
        [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0]
    }

    /// The parameter list (6.16.3).
    #[must_use]
    pub fn parameters(self) -> [u8; 24] {
        let (key, action_key) = match self {
            Self::Register(key) => (0, key),
            Self::Unregister(key) => (key, 0),
            Self::Reserve(key) | Self::Release(key) => (key, 0),
            Self::Preempt { key, holder, .. } => (key, holder),
        };
        let mut list = [0; 24];
        let fields = key.to_be_bytes().into_iter().chain(action_key.to_be_bytes());
        for (target, source) in list.iter_mut().zip(fields) {
            *target = source;
        }
        list
    }
}

/// The initiator that holds a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reservation {
    /// Not asked for, or not known yet.
    #[default]
    Unknown,
    /// No initiator.
    Free,
    /// The initiator that registered this key.
    Held(u64),
    /// The target has no reservations.
    Unsupported,
}

impl Reservation {
    /// Reads the answer to READ RESERVATION (6.15.3).
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let length = u32::from_be_bytes(*data.get(4..)?.first_chunk()?);
        if length == 0 {
            return Some(Self::Free);
        }
        data.get(8..)?.first_chunk().map(|key| Self::Held(u64::from_be_bytes(*key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_commands() {
        let key = 0x0102_0304_0506_0708;
        let register = PersistentOut::Register(key);
        assert_eq!(register.cdb()[..9], [0x5f, 6, 0, 0, 0, 0, 0, 0, 24]);
        assert_eq!(register.parameters()[..16], [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let unregister = PersistentOut::Unregister(key);
        assert_eq!(unregister.parameters()[..9], [1, 2, 3, 4, 5, 6, 7, 8, 0]);
        assert_eq!(PersistentOut::Reserve(key).cdb()[..3], [0x5f, 1, 5]);
        assert_eq!(PersistentOut::Release(key).cdb()[..3], [0x5f, 2, 5]);
        let preempt = |abort| PersistentOut::Preempt { key, holder: 9, abort };
        assert_eq!((preempt(true).cdb()[1], preempt(true).parameters()[15]), (5, 9));
        assert_eq!((preempt(false).cdb()[1], preempt(false).parameters()[15]), (4, 9));
    }

    #[test]
    fn the_holder() {
        assert_eq!(Reservation::parse(&[0, 0, 0, 9, 0, 0, 0, 0]), Some(Reservation::Free));
        let mut data = [0u8; 24];
        (data[7], data[15]) = (16, 5);
        assert_eq!(Reservation::parse(&data), Some(Reservation::Held(5)));
        assert_eq!(Reservation::parse(&data[..12]), None);
    }
}
