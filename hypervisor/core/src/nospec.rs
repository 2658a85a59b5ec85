//! Indexes that a guest chooses, held within their array also while the processor guesses
//! that the check before them succeeds.
//!
//! Spec: AMD, "Software techniques for managing speculation on AMD processors", V1-2.

/// `index` if it is below `length`, else 0, without a branch that could be predicted.
#[must_use]
#[inline]
pub fn index(index: usize, length: usize) -> usize {
    let mask = usize::from(index < length).wrapping_neg();
    // The compiler must not know the mask, or it would make a branch of it again.
    index & core::hint::black_box(mask)
}

/// The element at an index that a guest chose.
#[must_use]
#[inline]
pub fn get<T>(slice: &[T], at: usize) -> Option<&T> {
    if at < slice.len() { slice.get(index(at, slice.len())) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{get, index};

    #[test]
    fn indexes_beyond_the_end_become_the_first() {
        assert_eq!([0, 1, 3, 4, 5, usize::MAX].map(|at| index(at, 4)), [0, 1, 3, 0, 0, 0]);
        assert_eq!(index(0, 0), 0);
        assert_eq!((get(&[7, 8], 1), get(&[7, 8], 2), get::<u8>(&[], 0)), (Some(&8), None, None));
    }
}
