//! Addresses of different spaces, which must not be taken for each other.

use core::fmt;

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// So many bytes further on; addresses wrap.
            #[must_use]
            pub const fn after(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// So many bytes further on, if there is such an address.
            #[must_use]
            pub fn checked_after(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// The start of the block around it whose size is this power of two.
            #[must_use]
            pub const fn align_down(self, size: u64) -> Self {
                Self(self.0 & !(size - 1))
            }

            /// How far it lies behind that start.
            #[must_use]
            pub const fn offset_in(self, size: u64) -> u64 {
                self.0 & (size - 1)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// Host-physical: what the processor's own page tables lead to.
    Hpa
}
address! {
    /// Guest-physical: what a guest takes for physical memory.
    Gpa
}
address! {
    /// On the bus: where a device finds memory.
    BusAddress
}

#[cfg(test)]
mod tests {
    use super::Hpa;

    #[test]
    fn parts_of_an_address_make_it_up_again() {
        let address = Hpa(0x1234_5678);
        assert_eq!(address.align_down(4096), Hpa(0x1234_5000));
        assert_eq!(address.offset_in(4096), 0x678);
        assert_eq!(address.align_down(4096).after(0x678), address);
        assert_eq!(Hpa(u64::MAX).checked_after(1), None);
    }
}
