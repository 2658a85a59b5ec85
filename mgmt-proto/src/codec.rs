//! Bytes to values: all of them, or none.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::limits::DISK_SETTINGS;

/// The value that these bytes encode, if nothing is behind it.
pub(crate) fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

/// A list of at most so many, or one that names nothing but its end: what a byte encodes
/// may take a hundred times as much memory.
pub(crate) struct Few<T, const MOST: usize>(pub(crate) Vec<T>);

struct FewVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for FewVisitor<T, MOST> {
    type Value = Few<T, MOST>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            if values.len() >= MOST {
                return Err(A::Error::invalid_length(MOST, &self));
            }
            values.push(value);
        }
        Ok(Few(values))
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

/// One more than is allowed, so that a check of the value can say so.
pub(crate) const SETTINGS: usize = DISK_SETTINGS + 1;

/// A list of at most so many.
pub(crate) fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Few::<T, MOST>::deserialize(deserializer).map(|list| list.0)
}

/// What is set for a disk or a guest.
pub(crate) fn settings<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    few::<D, T, SETTINGS>(deserializer)
}

#[cfg(test)]
mod tests {
    use super::whole;
    use crate::disk::{DiskSetting, GuestSettings, Limit};
    use crate::limits::{DISK_SETTINGS, DISKS};
    use crate::verb::Request;
    use alloc::string::String;
    use alloc::vec;

    #[test]
    fn a_list_that_is_too_long_is_not_decoded() {
        for (count, decoded) in
            [(0, true), (DISK_SETTINGS, true), (DISK_SETTINGS + 2, false), (60_000, false)]
        {
            let settings = vec![DiskSetting::Reserve; count];
            let request = Request::StorageProbe { volume: String::from("aoe:e1.1"), settings };
            let bytes = postcard::to_allocvec(&request).unwrap();
            assert_eq!(whole::<Request>(&bytes).is_some(), decoded, "{count} settings");
            let limits = vec![Limit::BurstMs(1); count];
            let guest = GuestSettings { limits, disks: vec![] };
            let bytes = postcard::to_allocvec(&guest).unwrap();
            assert_eq!(whole::<GuestSettings>(&bytes).is_some(), decoded, "{count} limits");
            let guest = GuestSettings { limits: vec![], disks: vec![vec![DiskSetting::Reserve; count]] };
            let bytes = postcard::to_allocvec(&guest).unwrap();
            assert_eq!(whole::<GuestSettings>(&bytes).is_some(), decoded, "{count} of a disk");
        }
        for (disks, decoded) in [(DISKS, true), (DISKS + 2, false), (60_000, false)] {
            let guest = GuestSettings { limits: vec![], disks: vec![vec![]; disks] };
            let bytes = postcard::to_allocvec(&guest).unwrap();
            assert_eq!(whole::<GuestSettings>(&bytes).is_some(), decoded, "{disks} disks");
        }
    }
}
