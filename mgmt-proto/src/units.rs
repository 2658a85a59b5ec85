//! Sizes, times, MAC addresses and decimal numbers as people read and write them.

use alloc::format;
use alloc::string::String;

/// A number and the letters behind it.
#[must_use]
pub fn quantity(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    Some((digits.trim().parse().ok()?, text.get(digits.len()..)?))
}

/// Reads a size: a number, with k, m, g or t for powers of 1024; without a letter it counts
/// `bare` bytes.
#[must_use]
pub fn parse_size(text: &str, bare: u64) -> Option<u64> {
    let (number, unit) = quantity(text)?;
    number.checked_mul(match unit.to_ascii_lowercase().as_str() {
        "" => bare,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    })
}

/// Reads a duration in milliseconds: a number with ms, s, m or h; without one, seconds.
#[must_use]
pub fn parse_milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = quantity(text)?;
    number.checked_mul(match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    })
}

/// Reads a MAC address: six bytes in hexadecimal, with colons.
#[must_use]
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(parts.next().filter(is_byte)?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes a MAC address.
#[must_use]
pub fn mac_text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Writes `value`, counted in 10^-`places`, with the first `digits` of these places, 1 to 9.
#[must_use]
pub fn decimal(value: u64, places: u32, digits: u32) -> String {
    let (whole, shown) = (10_u64.pow(places), 10_u64.pow(places - digits));
    format!("{}.{:0width$}", value / whole, value % whole / shown, width = digits as usize)
}

/// Writes nanoseconds as seconds with one digit after the point.
#[must_use]
pub fn seconds(ns: u64) -> String {
    decimal(ns, 9, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        for (text, bytes) in
            [("512", 512), ("4k", 4096), ("4KiB", 4096), ("16M", 16 << 20), (" 2 g ", 2 << 30)]
        {
            assert_eq!(parse_size(text, 1), Some(bytes), "{text}");
        }
        assert_eq!((parse_size("512", 1 << 20), parse_size("1k", 1 << 20)), (Some(512 << 20), Some(1024)));
        for text in ["", "k", "4q", "-1", "1.5k", "99999999999T"] {
            assert_eq!(parse_size(text, 1), None, "{text}");
        }
        for (text, time) in [("5", 5000), ("5s", 5000), ("500ms", 500), ("2min", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_milliseconds(text), Some(time), "{text}");
        }
        for text in ["", "s", "5d", "-1s", "18446744073709551615h"] {
            assert_eq!(parse_milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn mac_addresses_are_read_and_written() {
        let mac = [2, 0, 10, 255, 0, 1];
        assert_eq!(mac_text(mac), "02:00:0a:ff:00:01");
        assert_eq!(parse_mac("02:00:0A:ff:00:01"), Some(mac));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_are_cut_and_filled() {
        assert_eq!(decimal(1_234_567_890, 9, 1), "1.2");
        assert_eq!(decimal(1_034_567_890, 9, 9), "1.034567890");
        assert_eq!(decimal(7, 1, 1), "0.7");
        assert_eq!(decimal(2_050, 3, 2), "2.05");
        assert_eq!(seconds(999_999_999), "0.9");
    }
}
