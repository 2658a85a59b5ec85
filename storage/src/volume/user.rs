//! The user in a volume's name: what stands before `@`.
//!
//! A name may be anything a person can read. Letters, digits and a few signs stand for
//! themselves; `%` comes before two hexadecimal digits (RFC 3986, 2.1) of any other octet.
//! Other tools write a password there, as `user%password@` or `user:password@`: such a
//! text must not be taken for a name, because names are shown, kept and sent. So an escape
//! is one only of what needs it, never of a letter or digit; and `:` stands for itself
//! only in a name that is an iSCSI name. A password whose first characters look like the
//! escape of some other sign cannot be told from that.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::NameError;
use crate::iscsi::{Portal, TargetName};

/// The user that a text stands for.
///
/// # Errors
/// It is empty, or may hold a password.
pub fn decode(text: &str) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::User);
    }
    if text.contains(':') && !TargetName::is_begun(text) {
        return Err(NameError::Secret);
    }
    let (mut octets, mut rest) = (Vec::new(), text.bytes());
    while let Some(octet) = rest.next() {
        octets.push(if octet == b'%' { escaped(&mut rest)? } else { octet });
    }
    let user = String::from_utf8(octets).map_err(|_| NameError::Secret)?;
    if user.chars().all(is_visible) { Ok(user) } else { Err(NameError::Secret) }
}

fn escaped(rest: &mut impl Iterator<Item = u8>) -> Result<u8, NameError> {
    let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (digit(), digit()) {
        (Some(high), Some(low)) if !(high << 4 | low).is_ascii_alphanumeric() => Ok(high << 4 | low),
        _ => Err(NameError::Secret),
    }
}

/// Neither a control character nor one that changes how others look.
fn is_visible(character: char) -> bool {
    let shapes = matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    );
    !character.is_control() && !shapes
}

/// The text that stands for a user.
#[must_use]
pub fn encode(user: &str) -> String {
    let is_iscsi_name = TargetName::is_begun(user);
    let plain = |octet: u8| {
        octet.is_ascii_alphanumeric()
            || matches!(octet, b'-' | b'.' | b'_' | b'~' | b'+' | b'=')
            || (octet == b':' && is_iscsi_name)
    };
    let mut text = String::new();
    for octet in user.bytes() {
        if plain(octet) {
            text.push(char::from(octet));
        } else {
            text.push_str(&format!("%{octet:02X}"));
        }
    }
    text
}

/// Reads `[user@]address[:port]`.
///
/// # Errors
/// The user is none, or may hold a password; or the address is no portal.
pub fn at_portal(text: &str) -> Result<(Option<String>, Portal), NameError> {
    let (user, address) = match text.rsplit_once('@') {
        Some((user, address)) => (Some(decode(user)?), address),
        None => (None, text),
    };
    Ok((user, Portal::parse(address).ok_or(NameError::Portal)?))
}

/// A name, or part of one, as it may be shown: without what may be a password in it.
#[must_use]
pub fn without_secret(name: &str) -> Cow<'_, str> {
    let Some((before, rest)) = name.rsplit_once('@') else { return Cow::Borrowed(name) };
    let (scheme, user) = match before.strip_prefix("iscsi://") {
        Some(user) => ("iscsi://", user),
        None => ("", before),
    };
    if user.is_empty() || decode(user).is_ok() {
        return Cow::Borrowed(name);
    }
    let ends = |it: char| it == '%' || !is_visible(it) || (it == ':' && !TargetName::is_begun(user));
    let kept = user.split(ends).next().unwrap_or_default();
    Cow::Owned(format!("{scheme}{kept}***@{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_be_written() {
        for (text, user) in [
            ("alice", "alice"),
            ("dom/alice", "dom/alice"),
            ("dom%2Falice", "dom/alice"),
            ("iqn.1993-08.org.debian:01:abc", "iqn.1993-08.org.debian:01:abc"),
            ("iqn.1993-08.org.debian%3a01%3Aabc", "iqn.1993-08.org.debian:01:abc"),
            ("a%40b@c", "a@b@c"),
            ("50%25", "50%"),
            ("J%C3%BCrgen", "Jürgen"),
            ("Jürgen", "Jürgen"),
            ("a%20b%2Cc", "a b,c"),
            ("bob%3Ax", "bob:x"),
        ] {
            assert_eq!(decode(text).unwrap(), user, "{text}");
            assert_eq!(decode(&encode(user)).unwrap(), user, "{text}");
            assert_eq!(
                without_secret(&format!("iscsi://{text}@10.0.0.1/x")),
                format!("iscsi://{text}@10.0.0.1/x")
            );
        }
        assert_eq!(encode("dom/alice:1"), "dom%2Falice%3A1");
        assert_eq!(encode("iqn.a:b"), "iqn.a:b");
        // Every octet that a name may hold survives.
        let all: String = (' '..='~').collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn possible_passwords_are_refused_and_hidden() {
        for text in [
            "bob%secret",
            "bob%ab12",
            "bob%41bc",
            "bob%",
            "bob%4",
            "bob%0asecret",
            "bob%e2%80%aesecret",
            "bob:secret",
            "bob:%2f",
            "bob%25%secret",
            "bob%se/cr@et",
            "bob\nsecret",
        ] {
            assert_eq!(decode(text), Err(NameError::Secret), "{text}");
            for scheme in ["iscsi://", ""] {
                let shown = without_secret(&format!("{scheme}{text}@10.0.0.1/iqn.a/0")).into_owned();
                assert_eq!(shown, format!("{scheme}bob***@10.0.0.1/iqn.a/0"), "{text}");
            }
        }
        assert_eq!(decode("iqn.a:b%secret"), Err(NameError::Secret));
        assert_eq!(without_secret("iqn.a:b%secret@10.0.0.1"), "iqn.a:b***@10.0.0.1");
        assert_eq!(without_secret("ISCSI://bob%secret@x"), "ISCSI***@x");
        assert_eq!(decode(""), Err(NameError::User));
        assert_eq!(without_secret("aoe:e1.1"), "aoe:e1.1");
    }
}
