//! Loads dom0's program: a static 64-bit ELF file.
//!
//! Spec: System V ABI, ELF-64 object file format. The file is part of the signed
//! image, and still every offset is checked.

use hv_x86::{PAGE_SIZE, to_usize};

fn bytes<const N: usize>(file: &[u8], offset: u64) -> Result<[u8; N], &'static str> {
    file.get(to_usize(offset)..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or("the program is cut short")
}

fn word(file: &[u8], offset: u64) -> Result<u64, &'static str> {
    bytes(file, offset).map(u64::from_le_bytes)
}

/// Maps a page: address, bytes from its start, writable, executable.
type MapPage<'a> = &'a mut dyn FnMut(u64, &[u8], bool, bool) -> Option<()>;

/// Maps every loadable segment page by page; returns the entry point.
pub(crate) fn load(file: &[u8], map: MapPage<'_>) -> Result<u64, &'static str> {
    // 64-bit, little-endian, current version; executable; x86-64.
    if bytes(file, 0)? != *b"\x7fELF\x02\x01\x01" || bytes(file, 16)? != [2, 0, 62, 0] {
        return Err("not a static 64-bit program");
    }
    let entry = word(file, 24)?;
    let headers = word(file, 32)?;
    let count = u16::from_le_bytes(bytes(file, 56)?);
    for index in 0..u64::from(count.min(16)) {
        let header = headers.checked_add(index * 56).ok_or("the program is cut short")?;
        // PT_LOAD
        if u32::from_le_bytes(bytes(file, header)?) == 1 {
            load_segment(file, header, map)?;
        }
    }
    Ok(entry)
}

fn load_segment(file: &[u8], header: u64, map: MapPage<'_>) -> Result<(), &'static str> {
    let flags = u32::from_le_bytes(bytes(file, header + 4)?);
    let (offset, address) = (word(file, header + 8)?, word(file, header + 16)?);
    let (in_file, in_memory) = (word(file, header + 32)?, word(file, header + 40)?);
    let end = address.checked_add(in_memory).ok_or("a segment wraps")?;
    if end > hv_abi::boot::BOOT_INFO || in_file > in_memory || address % PAGE_SIZE != offset % PAGE_SIZE {
        return Err("a segment is out of bounds");
    }
    let (writable, executable) = (flags & 2 != 0, flags & 1 != 0);
    if writable && executable {
        return Err("a segment is writable and executable");
    }
    let source = offset.checked_add(in_file).and_then(|last| file.get(to_usize(offset)..to_usize(last)));
    let source = source.ok_or("the program is cut short")?;
    let lead = address % PAGE_SIZE;
    let mut page = address - lead;
    let mut buffer = [0; 4096];
    while page < end {
        // What of this page is in the file: a whole page may be used in place.
        let from = to_usize(page.saturating_sub(address)).min(source.len());
        let skip = if page < address { to_usize(lead) } else { 0 };
        let part = source.get(from..source.len().min(from + 4096 - skip)).unwrap_or(&[]);
        if part.len() == 4096 {
            map(page, part, writable, executable).ok_or("no memory for the program")?;
        } else {
            buffer.fill(0);
            if let Some(target) = buffer.get_mut(skip..skip + part.len()) {
                target.copy_from_slice(part);
            }
            map(page, &buffer, true, executable).ok_or("no memory for the program")?;
        }
        page += PAGE_SIZE;
    }
    Ok(())
}
