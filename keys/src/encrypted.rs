//! Private keys under a passphrase:
//! `redoubt-ed25519-secret-v2 argon2id:MEMORY_KIB:PASSES:LANES SALT SEALED`.
//!
//! Salt (16 bytes) and sealed key (48) are hexadecimal. The key that seals is Argon2id
//! (RFC 9106, version 0x13) of passphrase and salt; the seal is ChaCha20-Poly1305 (RFC
//! 8439) with nonce 0, since each salt gives another key, over everything before it.

use crate::KeyError;
use crate::random;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit as _, Nonce};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// First word of an encrypted private key.
pub const TAG: &str = "redoubt-ed25519-secret-v2";
/// RFC 9106, 4: the second recommended choice, for where memory is dear.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// A file may not ask for more: 1 GiB.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 32;
const LANES_MAX: u32 = 16;
const SALT_BYTES: usize = 16;
const SEAL_BYTES: usize = 16;

fn sealer(passphrase: &str, salt: &[u8], costs: (u32, u32, u32)) -> Option<ChaCha20Poly1305> {
    let params = Params::new(costs.0, costs.1, costs.2, Some(32)).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .ok()?;
    Some(ChaCha20Poly1305::new(&Key::from(*key)))
}

/// A key as the line of a file.
///
/// # Errors
/// [`KeyError::Random`].
pub fn seal(key: &SigningKey, passphrase: &str) -> Result<String, KeyError> {
    let salt = random::bytes::<SALT_BYTES>()?;
    let head = format!("{TAG} argon2id:{MEMORY_KIB}:{PASSES}:{LANES} {}", hex::encode(*salt));
    let wrong = || KeyError::Format { origin: "the key".into(), reason: "cannot be encrypted" };
    let cipher = sealer(passphrase, salt.as_slice(), (MEMORY_KIB, PASSES, LANES)).ok_or_else(wrong)?;
    let mut secret = Zeroizing::new(key.to_bytes());
    let tag = cipher
        .encrypt_inout_detached(&Nonce::default(), head.as_bytes(), secret.as_mut_slice().into())
        .map_err(|_| wrong())?;
    Ok(format!("{head} {}{}\n", hex::encode(*secret), hex::encode(tag)))
}

/// The costs in `argon2id:MEMORY_KIB:PASSES:LANES`, within bounds.
fn costs(word: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = word.strip_prefix("argon2id:")?.split(':').map(|number| number.parse::<u32>().ok());
    let costs = (numbers.next()??, numbers.next()??, numbers.next()??);
    let is_bounded = costs.0 <= MEMORY_KIB_MAX
        && (1..=PASSES_MAX).contains(&costs.1)
        && (1..=LANES_MAX).contains(&costs.2)
        && costs.0 >= 8 * costs.2;
    (numbers.next().is_none() && is_bounded).then_some(costs)
}

/// Why a key cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It is damaged, or asks for more than it may.
    Damaged,
    /// Another passphrase, or it was altered.
    Passphrase,
}

/// The key in a line that begins with [`TAG`].
pub(crate) fn open(line: &str, passphrase: &str) -> Result<SigningKey, Closed> {
    let (head, sealed) = line.trim().rsplit_once(' ').ok_or(Closed::Damaged)?;
    let mut words = head.split(' ').skip(1);
    let costs = words.next().and_then(costs).ok_or(Closed::Damaged)?;
    let mut salt = [0; SALT_BYTES];
    let digits = words.next().ok_or(Closed::Damaged)?;
    hex::decode_to_slice(digits, &mut salt).map_err(|_| Closed::Damaged)?;
    let mut both = Zeroizing::new([0; 32 + SEAL_BYTES]);
    hex::decode_to_slice(sealed, both.as_mut_slice()).map_err(|_| Closed::Damaged)?;
    if words.next().is_some() {
        return Err(Closed::Damaged);
    }
    let cipher = sealer(passphrase, &salt, costs).ok_or(Closed::Damaged)?;
    let (secret, tag) = both.split_first_chunk::<32>().ok_or(Closed::Damaged)?;
    let tag: [u8; SEAL_BYTES] = tag.try_into().map_err(|_| Closed::Damaged)?;
    let mut secret = Zeroizing::new(*secret);
    cipher
        .decrypt_inout_detached(&Nonce::default(), head.as_bytes(), secret.as_mut_slice().into(), &tag.into())
        .map_err(|_| Closed::Passphrase)?;
    Ok(SigningKey::from_bytes(&secret))
}

#[cfg(test)]
mod tests {
    use super::{Closed, TAG, costs, open, seal, sealer};
    use ed25519_dalek::SigningKey;

    /// RFC 9106, 5.3 tests Argon2id with a secret and associated data, which are not
    /// used here; this one is of the reference implementation's own tests.
    #[test]
    fn argon2id_is_what_others_compute() {
        use argon2::{Algorithm, Argon2, Params, Version};
        let params = Params::new(65_536, 2, 1, Some(32)).unwrap();
        let mut output = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(b"password", b"somesalt", &mut output)
            .unwrap();
        let expected = "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7";
        assert_eq!(hex::encode(output), expected);
    }

    #[test]
    fn a_key_opens_with_its_passphrase_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let line = seal(&key, "correct horse").unwrap();
        assert!(line.starts_with(TAG) && !line.contains(&hex::encode([7; 32])));
        assert_eq!(open(&line, "correct horse").unwrap().to_bytes(), [7; 32]);
        assert_eq!(open(&line, "correct house").unwrap_err(), Closed::Passphrase);
        assert_ne!(seal(&key, "correct horse").unwrap(), line, "another salt each time");
    }

    #[test]
    fn an_altered_line_does_not_open() {
        // Cheap costs; the line is made as `seal` makes it.
        let head = format!("{TAG} argon2id:8:1:1 {}", hex::encode([1; 16]));
        let cipher = sealer("p", &[1; 16], (8, 1, 1)).unwrap();
        let mut secret = [7; 32];
        let tag = {
            use chacha20poly1305::aead::AeadInOut as _;
            cipher
                .encrypt_inout_detached(&Default::default(), head.as_bytes(), secret.as_mut_slice().into())
                .unwrap()
        };
        let line = format!("{head} {}{}", hex::encode(secret), hex::encode(tag));
        assert_eq!(open(&line, "p").unwrap().to_bytes(), [7; 32]);
        for at in TAG.len()..line.len() {
            let mut altered = line.clone().into_bytes();
            altered[at] = if altered[at] == b'3' { b'4' } else { b'3' };
            let altered = String::from_utf8(altered).unwrap();
            assert!(open(&altered, "p").is_err(), "byte {at}");
        }
        for cut in 0..line.len() {
            assert!(open(&line[..cut], "p").is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_file_cannot_ask_for_more_than_it_may() {
        assert_eq!(costs("argon2id:65536:3:4"), Some((65_536, 3, 4)));
        for wrong in [
            "argon2id:1048577:3:4",
            "argon2id:65536:33:4",
            "argon2id:65536:3:17",
            "argon2id:65536:0:4",
            "argon2id:31:3:4",
            "argon2id:65536:3",
            "argon2id:65536:3:4:1",
            "argon2i:65536:3:4",
            "argon2id:-1:3:4",
        ] {
            assert_eq!(costs(wrong), None, "{wrong}");
        }
    }
}
