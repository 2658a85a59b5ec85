//! This program's random numbers.

use crate::raw;
use crate::watch::Mutex;
use hv_abi::random::{Generator, Source};

struct Own;

impl Source for Own {
    fn seed(&mut self) -> Option<u64> {
        raw::rdseed()
    }

    fn random(&mut self) -> Option<u64> {
        raw::rdrand()
    }

    fn counter(&mut self) -> u64 {
        raw::tsc().0
    }
}

static GENERATOR: Mutex<Option<Generator>> = Mutex::new(None);

/// Fills bytes.
pub(crate) fn fill(target: &mut [u8]) {
    let mut guard = GENERATOR.lock();
    let generator = guard.get_or_insert_with(|| Generator::new(&mut Own, &[]));
    generator.fill(target, &mut Own);
    if let Some(fault) = generator.fault() {
        log::error!("the processor's source of random numbers: {fault:?}");
    }
}
