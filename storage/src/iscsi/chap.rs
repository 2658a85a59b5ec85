//! CHAP: proof of identity, ours and the target's.
//!
//! Spec: RFC 7143 sections 12.1.3 and 13.1 of its registry (algorithms 5 to 8); RFC
//! 1994 section 4.1 (the response); RFC 7143 section 6.1 (large binary values).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use sha3::Sha3_256;
use zeroize::Zeroize;

/// Octets of a challenge or response at most (12.1.3).
const BINARY_BYTES_MAX: usize = 1_024;
/// Octets of our challenge.
const CHALLENGE_BYTES: usize = 32;

/// A secret. It is never printed, and wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub const fn new(secret: Vec<u8>) -> Self {
        Self(secret)
    }

    /// The secret itself, for a caller that has to pass it on.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// What an initiator needs to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name we go by.
    pub name: String,
    /// The secret that goes with it.
    pub secret: Secret,
    /// What the target has to prove in turn: its name, if it matters, and its secret.
    pub target: Option<(Option<String>, Secret)>,
    /// MD5 is good enough for this volume.
    pub allow_md5: bool,
}

/// How a response is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha3,
    Sha2,
    Sha1,
    Md5,
}

impl Algorithm {
    /// The strongest first, as they are offered.
    const ALL: [(&'static str, Self); 4] =
        [("8", Self::Sha3), ("7", Self::Sha2), ("6", Self::Sha1), ("5", Self::Md5)];

    /// What is offered, without what has been tried in vain.
    fn offered(allow_md5: bool, tried: &[Self]) -> impl Iterator<Item = (&'static str, Self)> {
        let kept = move |(_, algorithm): &(&str, Self)| {
            (*algorithm != Self::Md5 || allow_md5) && !tried.contains(algorithm)
        };
        Self::ALL.into_iter().filter(kept)
    }

    pub(crate) fn offer(allow_md5: bool, tried: &[Self]) -> String {
        let codes: Vec<&str> = Self::offered(allow_md5, tried).map(|(code, _)| code).collect();
        codes.join(",")
    }

    pub(crate) fn parse(code: &str, allow_md5: bool, tried: &[Self]) -> Option<Self> {
        Self::offered(allow_md5, tried).find(|(known, _)| *known == code).map(|(_, algorithm)| algorithm)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha3 => "SHA3-256",
            Self::Sha2 => "SHA-256",
            Self::Sha1 => "SHA-1",
            Self::Md5 => "MD5",
        }
    }

    /// RFC 1994 section 4.1: the hash of identifier, secret and challenge.
    pub(crate) fn respond(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let parts = [&[identifier][..], &secret.0, challenge];
        match self {
            Self::Sha3 => {
                parts.iter().fold(Sha3_256::new(), |hash, it| hash.chain_update(it)).finalize().to_vec()
            }
            Self::Sha2 => {
                parts.iter().fold(Sha256::new(), |hash, it| hash.chain_update(it)).finalize().to_vec()
            }
            Self::Sha1 => {
                parts.iter().fold(Sha1::new(), |hash, it| hash.chain_update(it)).finalize().to_vec()
            }
            Self::Md5 => parts.iter().fold(Md5::new(), |hash, it| hash.chain_update(it)).finalize().to_vec(),
        }
    }
}

/// A challenge for the target: unpredictable to it, since a secret goes in.
pub(crate) fn challenge(secret: &Secret, seed: u64, now_ns: u64) -> Vec<u8> {
    let hash = Sha256::new().chain_update(b"redoubt CHAP challenge").chain_update(&secret.0);
    let hash = hash.chain_update(seed.to_be_bytes()).chain_update(now_ns.to_be_bytes());
    hash.finalize().iter().copied().take(CHALLENGE_BYTES).collect()
}

/// Compares without telling by the time where two values differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// A large binary value, hexadecimal (6.1).
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::from("0x");
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// Reads a large binary value, hexadecimal or base64 (6.1).
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        decode_hexadecimal(digits)?
    } else {
        decode_base64(text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"))?)?
    };
    (1..=BINARY_BYTES_MAX).contains(&bytes.len()).then_some(bytes)
}

fn decode_hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut held = u8::from(!digits.len().is_multiple_of(2)).checked_sub(1).map(|_| 0);
    for digit in digits.chars().take(BINARY_BYTES_MAX * 2 + 2) {
        let value = u8::try_from(digit.to_digit(16)?).ok()?;
        match held.take() {
            None => held = Some(value),
            Some(high) => bytes.push((high << 4) | value),
        }
    }
    held.is_none().then_some(bytes)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0u32, 0u32);
    for digit in digits.bytes().take(BINARY_BYTES_MAX * 2) {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = ((held << 6) | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            let [.., byte] = (held >> bits).to_be_bytes();
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    const MD5: &str = "0xd95bf5b4bbeeb26238ccc4b2ee701cee";
    const SHA1: &str = "0x5cf5977119dff5737578276eb8edcaca01489647";
    const SHA2: &str = "0x15e2371e51c2756d9baef77129880a19da7e0bda84508ff896670d807431d54b";
    const SHA3: &str = "0x489b34b52c91dbce2d7b09b45aee53a2d020b2252719070de9d052107c25c7aa";

    #[test]
    fn responses_are_the_hash_of_identifier_secret_and_challenge() {
        // Each value made by another program: printf '\x2aabcdefghijkl\x01\x02\x03' | sha256sum.
        let secret = Secret::new(b"abcdefghijkl".to_vec());
        let values = [
            (Algorithm::Md5, MD5),
            (Algorithm::Sha1, SHA1),
            (Algorithm::Sha2, SHA2),
            (Algorithm::Sha3, SHA3),
        ];
        for (algorithm, expected) in values {
            assert_eq!(encode(&algorithm.respond(0x2a, &secret, &[1, 2, 3])), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::new(b"do not show".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn the_weak_algorithm_needs_leave() {
        assert_eq!(Algorithm::parse("5", false, &[]), None);
        assert_eq!(Algorithm::parse("5", true, &[]), Some(Algorithm::Md5));
        assert_eq!(Algorithm::parse("7", true, &[Algorithm::Sha2]), None);
        assert_eq!(Algorithm::offer(true, &[]), "8,7,6,5");
        assert_eq!(Algorithm::offer(false, &[]), "8,7,6");
        assert_eq!(Algorithm::offer(true, &[Algorithm::Sha2]), "8,6,5");
    }

    #[test]
    fn binary_values() {
        assert_eq!(decode("0x00ffA5"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!(decode("0x1a5"), Some(vec![1, 0xa5]));
        assert_eq!(decode("0bAP+l"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!(decode("0bAP8="), Some(vec![0, 0xff]));
        for bad in ["", "0x", "0xg0", "0b", "0bA===", "0bAP+", "0bA_8=", "12"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        let long = vec![7; BINARY_BYTES_MAX];
        assert_eq!(decode(&encode(&long)), Some(long.clone()));
        assert_eq!(decode(&encode(&[long, vec![1]].concat())), None);
        assert!(same(b"ab", b"ab") && !same(b"ab", b"ac") && !same(b"ab", b"abc"));
    }
}
