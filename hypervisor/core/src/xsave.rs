//! What XSAVE stores: the x87 unit that holds nothing is marked so.
//!
//! Spec: SDM volume 1, 13.4 (the area), 13.6 (initial configurations), 13.8
//! (XRSTOR); APM volume 4, XRSTOR.

use core::ops::Range;

/// The legacy region up to the SSE state, but for MXCSR and its mask, which
/// belong to SSE.
const X87_CONTROL: Range<usize> = 0..24;
/// ST0 to ST7, 16 bytes each of which ten are in use.
const X87_REGISTERS: Range<usize> = 32..160;
/// The first byte of XSTATE_BV: bit 0 is x87.
const STATE_BITS: usize = 512;
/// FCW after FNINIT; everything else of [`X87_CONTROL`] is zero then.
const INITIAL_CONTROL_WORD: [u8; 2] = 0x037f_u16.to_le_bytes();

/// Clears the x87 bit of XSTATE_BV in a saved area whose x87 state is the initial
/// one, byte for byte, so that XRSTOR initializes the unit instead of loading it.
///
/// Processors may do so themselves at XSAVE (SDM 13.6). QEMU does not, and its
/// XRSTOR of the status word changes a flag word of CPU 0 without a lock
/// (`cpu_clear_ignne`): CPU 0 then loses whether nested paging is on if it enters
/// or leaves a guest in that moment, and the guest dies of it. Nearly all such loads
/// were this program's; those that guests do themselves stay.
pub fn forget_initial_x87(area: &mut [u8]) {
    let initial =
        area.get(X87_CONTROL).is_some_and(|control| {
            control.starts_with(&INITIAL_CONTROL_WORD) && control.iter().skip(2).all(|byte| *byte == 0)
        }) && area.get(X87_REGISTERS).is_some_and(|registers| registers.iter().all(|byte| *byte == 0));
    if let (true, Some(bits)) = (initial, area.get_mut(STATE_BITS)) {
        *bits &= !1;
    }
}

#[cfg(test)]
mod tests {
    use super::{STATE_BITS, forget_initial_x87};

    /// As XSAVE leaves it after FNINIT, with SSE and AVX in use.
    fn initial() -> [u8; 832] {
        let mut area = [0; 832];
        area[..2].copy_from_slice(&[0x7f, 0x03]);
        area[24..32].copy_from_slice(&[0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
        area[160..512].fill(0xaa);
        area[STATE_BITS] = 0b111;
        area
    }

    #[test]
    fn only_the_x87_bit_of_an_initial_unit_goes() {
        let mut area = initial();
        forget_initial_x87(&mut area);
        let mut expected = initial();
        expected[STATE_BITS] = 0b110;
        assert_eq!(area, expected);
    }

    #[test]
    fn any_other_x87_state_is_kept() {
        for at in (0..24).chain(32..160) {
            let mut area = initial();
            area[at] ^= 0x40;
            let before = area;
            forget_initial_x87(&mut area);
            assert_eq!(area, before, "byte {at}");
        }
    }

    #[test]
    fn an_area_too_short_is_left_alone() {
        for length in [0, 24, 160, 512] {
            let mut area = initial();
            forget_initial_x87(&mut area[..length]);
            assert_eq!(area, initial());
        }
    }
}
