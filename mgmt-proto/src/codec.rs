//! Bytes to values: all of them, or none.

use serde::de::DeserializeOwned;

/// The value that these bytes encode, if nothing is behind it.
pub(crate) fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}
