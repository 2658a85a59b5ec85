//! The unit of an honest target.

use super::SECTORS;

/// What the unit tells about itself.
pub(super) fn describe(cdb: &[u8], thin: bool) -> Option<Vec<u8>> {
    let field = |at: usize| cdb.get(at).copied().unwrap_or(0);
    Some(match (field(0), field(1), field(2)) {
        (0x12, 0, _) => [&[0][..], &[b'x'; 35]].concat(),
        (0x12, 1, 0) if thin => vec![0, 0, 0, 4, 0, 0x83, 0xb0, 0xb2],
        (0x12, 1, 0) => vec![0, 0, 0, 2, 0, 0x83],
        (0x12, 1, 0xb0) if thin => {
            let mut page = vec![0; 64];
            page.splice(..4, [0, 0xb0, 0, 60]);
            page.splice(20..28, [0, 0, 1, 0, 0, 0, 0, 1]);
            page.splice(36..44, [0, 0, 0, 0, 0, 0, 1, 0]);
            page
        }
        (0x12, 1, 0xb2) if thin => vec![0, 0xb2, 0, 4, 0, 0xc0, 2, 0],
        (0x12, 1, 0x83) => vec![0, 0x83, 0, 12, 1, 3, 0, 8, 6, 0, 0, 0, 0, 0, 0, 1],
        (0x9e, ..) => {
            let mut capacity = (SECTORS - 1).to_be_bytes().to_vec();
            capacity.extend([0, 0, 2, 0, 0, 0, if thin { 0xc0 } else { 0 }]);
            capacity.resize(32, 0);
            capacity
        }
        (0xa0, ..) => vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        (0x1a, ..) => vec![3, 0, 0, 0],
        _ => return None,
    })
}
