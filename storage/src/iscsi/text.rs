//! Text keys: `key=value` pairs, each ended by a zero octet.
//!
//! Spec: RFC 7143 section 6.1.

use alloc::vec::Vec;

/// Appends a pair.
pub(crate) fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// The pairs in `text`; `None` stands for a malformed one.
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = Option<(&str, &str)>> {
    text.split(|octet| *octet == 0).filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = core::str::from_utf8(pair).ok()?.split_once('=')?;
        // 6.1: keys are at most 63 octets.
        (!key.is_empty() && key.len() <= 63).then_some((key, value))
    })
}

/// A number, decimal or hexadecimal (6.1).
pub(crate) fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_numbers() {
        let mut text = Vec::new();
        push(&mut text, "A", "b=c");
        push(&mut text, "D", "");
        text.extend_from_slice(b"bad\0\xff=1\0");
        let all: Vec<_> = pairs(&text).collect();
        assert_eq!(all, [Some(("A", "b=c")), Some(("D", "")), None, None]);
        assert_eq!((number("0x1F"), number("31"), number("-1")), (Some(31), Some(31), None));
    }
}
