//! Little-endian fields of a file, where it is long enough.

/// `length` bytes from `offset`.
pub(super) fn bytes_at(file: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    file.get(offset..offset.checked_add(length)?)
}

/// The byte at `offset`.
pub(super) fn u8_at(file: &[u8], offset: usize) -> Option<u8> {
    file.get(offset).copied()
}

/// The 16-bit value at `offset`.
pub(super) fn u16_at(file: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes_at(file, offset, 2)?.try_into().ok()?))
}

/// The 32-bit value at `offset`.
pub(super) fn u32_at(file: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes_at(file, offset, 4)?.try_into().ok()?))
}

/// The 64-bit value at `offset`.
pub(super) fn u64_at(file: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes_at(file, offset, 8)?.try_into().ok()?))
}

/// Writes `value` at `offset` of a buffer that is long enough.
pub(super) fn put(buffer: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(target) = buffer.get_mut(offset..offset.saturating_add(value.len())) {
        target.copy_from_slice(value);
    }
}
