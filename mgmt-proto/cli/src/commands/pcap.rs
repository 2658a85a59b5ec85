//! `redoubt node pcap`: what a guest's cards send and receive, as a capture file.
//!
//! Spec: draft-ietf-opsawg-pcap sections 4 and 5.

use crate::arguments::Pcap;
use crate::commands::stream;
use crate::scope::{Reader, Scope, write_to};
use mgmt_proto::code::Failure;
use mgmt_proto::verb::Request;
use redoubt::exit;
use redoubt::session::find;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// Frames are Ethernet's.
const LINK_ETHERNET: u32 = 1;
/// Octets of a record before the frame.
const RECORD_HEADER_BYTES: usize = 16;
/// Pause between looks at a guest that sends and receives nothing.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn run(scope: &Scope<'_>, options: &Pcap) -> Result<(), Failure> {
    let mut connection = scope.open()?;
    let name = find(&mut connection, &options.port)?.machine.name;
    if scope.dry_run {
        return Ok(());
    }
    let mut output = create(&options.write)?;
    let name_of_file = options.write.display().to_string();
    let mut put = |bytes: &[u8]| write_to(&mut *output, &name_of_file, bytes);
    if put(&file_header(options.snap))? == Reader::Gone {
        return Ok(());
    }
    let (mut from, mut written, mut lost, mut ends) = (0, 0_u64, 0, 0_u64);
    while options.count.is_none_or(|count| written < count) {
        let request = Request::Capture { name: name.clone(), from, snap_bytes: options.snap };
        let (stream, _) = stream::next(&mut connection, &request)?;
        let left = options.count.map_or(u64::MAX, |count| count - written);
        let (count, length) = whole_records(&stream.bytes, left);
        if length > 0 && put(stream.bytes.get(..length).unwrap_or_default())? == Reader::Gone {
            return Ok(());
        }
        written += count;
        if from != 0 && count < left {
            let gap = stream.next.saturating_sub(from).saturating_sub(count);
            if gap != 0 {
                log::info!("{gap} frames are missing before frame {}", written - count + 1);
            }
            lost += gap;
        }
        // A capture that nobody read has ended, and begins again.
        if from != 0 && stream.next == 0 {
            log::info!("frames are missing after frame {written}: the capture had ended, and begins again");
            ends += 1;
        }
        from = stream.next;
        if count == 0 && from != 0 {
            std::thread::sleep(PAUSE);
        }
    }
    let unknown = if ends == 0 { "" } else { ", and those before it began again" };
    eprintln!("{written} frames, {lost} lost{unknown}");
    Ok(())
}

fn create(path: &Path) -> Result<Box<dyn Write>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = File::create(path)
        .map_err(|error| exit::usage(path.display().to_string(), error.to_string(), "name another file"))?;
    Ok(Box::new(file))
}

fn file_header(snap: u32) -> Vec<u8> {
    let [major, minor] = VERSION.map(u16::to_le_bytes);
    let zone_and_accuracy = [0; 8];
    [
        &MAGIC.to_le_bytes()[..],
        &major,
        &minor,
        &zone_and_accuracy,
        &snap.to_le_bytes(),
        &LINK_ETHERNET.to_le_bytes(),
    ]
    .concat()
}

/// How many whole records `bytes` begin with, at most `most`, and their length.
fn whole_records(bytes: &[u8], most: u64) -> (u64, usize) {
    let (mut count, mut length) = (0, 0);
    while count < most
        && let Some(kept) = bytes.get(length + 8..length + 12).and_then(|field| field.first_chunk::<4>())
        && let Ok(kept) = usize::try_from(u32::from_le_bytes(*kept))
        && let Some(end) = kept.checked_add(length + RECORD_HEADER_BYTES)
        && end <= bytes.len()
    {
        (count, length) = (count + 1, end);
    }
    (count, length)
}

#[cfg(test)]
mod tests {
    use super::{file_header, whole_records};

    #[test]
    fn the_file_begins_as_readers_expect() {
        let header = file_header(65_535);
        assert_eq!(
            header,
            [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0]
        );
    }

    #[test]
    fn only_whole_records_are_taken() {
        let record = |length: u8| {
            [&[0; 8][..], &[length, 0, 0, 0], &[length, 0, 0, 0], &vec![7; length.into()]].concat()
        };
        let bytes = [record(3), record(0), record(5)].concat();
        assert_eq!(whole_records(&bytes, u64::MAX), (3, 56));
        assert_eq!(whole_records(&bytes, 2), (2, 35));
        for cut in 36..56 {
            assert_eq!(whole_records(&bytes[..cut], u64::MAX), (2, 35), "{cut}");
        }
        assert_eq!(whole_records(&[0xff; 40], u64::MAX), (0, 0), "a length that lies");
    }
}
