//! The operating system's randomness.

use crate::KeyError;
use zeroize::Zeroizing;

/// Fresh random bytes.
///
/// # Errors
/// [`KeyError::Random`].
pub fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::Random)?;
    Ok(bytes)
}
