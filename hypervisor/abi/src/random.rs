//! Random numbers: a ChaCha20 generator for each of the two programs.
//!
//! It is seeded from the processor's own source, from what the other program hands over, and
//! from how long things take, and again after each [`RESEED_BYTES`]. So guests that ask for much
//! do not drain the processor's source, and a source that is stuck harms nothing that was
//! seeded before it stuck. Spec: NIST SP 800-90B, 4.4.1 (repetition count).

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// After how many bytes fresh numbers are mixed in.
pub const RESEED_BYTES: usize = 64 * 1024;
/// Words asked of the processor for each seed.
const WORDS: usize = 8;
/// How often the processor is asked for one word, of each of its two instructions.
const TRIES: usize = 64;
/// How often the counter is read for each seed.
const TIMES: usize = 64;

/// What a processor has to offer.
pub trait Source {
    /// A word of RDSEED, if there is one now.
    fn seed(&mut self) -> Option<u64>;
    /// A word of RDRAND, if there is one now.
    fn random(&mut self) -> Option<u64>;
    /// The time-stamp counter.
    fn counter(&mut self) -> u64;
}

/// What was wrong with the processor's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It gave nothing.
    Silent,
    /// It gave the same word twice in a row, or nothing but ones or zeroes.
    Stuck,
}

/// Mixes what the source gives into `hash`.
fn gather(source: &mut dyn Source, hash: &mut Sha256) -> Result<(), Fault> {
    let mut before = source.counter();
    for _ in 0..TIMES {
        let now = source.counter();
        hash.update(now.wrapping_sub(before).to_le_bytes());
        before = now;
    }
    hash.update(before.to_le_bytes());
    let mut last = 0;
    for _ in 0..WORDS {
        let seed = (0..TRIES).find_map(|_| source.seed());
        let word = seed.or_else(|| (0..TRIES).find_map(|_| source.random())).ok_or(Fault::Silent)?;
        // Of 64 good bits one in 2^64 would be refused wrongly.
        if word == last || word == 0 || word == u64::MAX {
            return Err(Fault::Stuck);
        }
        last = word;
        hash.update(word.to_le_bytes());
    }
    Ok(())
}

/// A generator.
pub struct Generator {
    stream: ChaCha20Rng,
    left: usize,
    fault: Option<Fault>,
}

impl core::fmt::Debug for Generator {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Generator").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Generator {
    /// One with what was handed over, such as the seed of the boot.
    #[must_use]
    pub fn new(source: &mut dyn Source, handed_over: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"redoubt random 1");
        hash.update(handed_over);
        let fault = gather(source, &mut hash).err();
        Self { stream: ChaCha20Rng::from_seed(hash.finalize().into()), left: RESEED_BYTES, fault }
    }

    /// What was wrong with the processor's source when it was asked last.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Fills bytes. Earlier output cannot be found out from the generator after each seed.
    pub fn fill(&mut self, target: &mut [u8], source: &mut dyn Source) {
        for part in target.chunks_mut(RESEED_BYTES) {
            if self.left < part.len() {
                let mut old = [0; 32];
                self.stream.fill_bytes(&mut old);
                *self = Self::new(source, &old);
            }
            self.left -= part.len();
            self.stream.fill_bytes(part);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Fault, Generator, RESEED_BYTES, Source, WORDS};
    use std::vec::Vec;

    /// A word by how often it was asked for.
    type Word = fn(u64) -> u64;

    /// Counts what it is asked for.
    #[derive(Clone)]
    struct Fake {
        seeds: Option<Word>,
        randoms: Option<Word>,
        asked: [u64; 2],
        counter: u64,
    }

    impl Source for Fake {
        fn seed(&mut self) -> Option<u64> {
            self.asked[0] += 1;
            // Every other time it is empty, as the real one is when it is asked too often.
            self.seeds.filter(|_| self.asked[0].is_multiple_of(2)).map(|word| word(self.asked[0]))
        }
        fn random(&mut self) -> Option<u64> {
            self.asked[1] += 1;
            self.randoms.map(|word| word(self.asked[1]))
        }
        fn counter(&mut self) -> u64 {
            self.counter += 7;
            self.counter
        }
    }

    fn good(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }

    fn fake() -> Fake {
        Fake { seeds: Some(good), randoms: Some(good), asked: [0, 0], counter: 0 }
    }

    fn bytes(generator: &mut Generator, source: &mut Fake) -> [u8; 16] {
        let mut target = [0; 16];
        generator.fill(&mut target, source);
        target
    }

    #[test]
    fn everything_that_is_mixed_in_counts() {
        let first = |mut source: Fake, handed_over: &[u8]| {
            let mut generator = Generator::new(&mut source, handed_over);
            bytes(&mut generator, &mut source)
        };
        let other: Word = |number| good(number + 1);
        let all = [
            first(fake(), b""),
            first(fake(), b"boot"),
            first(Fake { seeds: Some(other), ..fake() }, b""),
            first(Fake { counter: 1, ..fake() }, b""),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|two| one != two), "{at}");
        }
        assert_eq!(first(fake(), b""), all[0], "nothing else is");
    }

    #[test]
    fn the_second_instruction_serves_where_the_first_is_silent() {
        let mut source = Fake { seeds: None, ..fake() };
        assert_eq!(Generator::new(&mut source, b"").fault(), None);
        assert_eq!(source.asked[1], WORDS as u64);
    }

    #[test]
    fn a_stuck_or_silent_source_is_detected() {
        let cases: [(Option<Word>, Fault); 5] = [
            (Some(|_| u64::MAX), Fault::Stuck),
            (Some(|_| 0), Fault::Stuck),
            (Some(|_| 0x1234_5678_9abc_def0), Fault::Stuck),
            // It sticks after the first words.
            (Some(|number| good(number.min(3))), Fault::Stuck),
            (None, Fault::Silent),
        ];
        for (randoms, fault) in cases {
            let mut source = Fake { seeds: None, randoms, ..fake() };
            let mut generator = Generator::new(&mut source, b"boot");
            assert_eq!(generator.fault(), Some(fault));
            // What was handed over is still there.
            assert_ne!(bytes(&mut generator, &mut source), [0; 16]);
        }
    }

    #[test]
    fn many_bytes_ask_the_processor_for_few_words() {
        let mut source = Fake { seeds: None, ..fake() };
        let mut generator = Generator::new(&mut source, b"");
        let mut target: Vec<u8> = std::vec![0; 10 * RESEED_BYTES + 1];
        generator.fill(&mut target, &mut source);
        assert_eq!(source.asked[1], 11 * WORDS as u64);
        let halves = target.split_at(5 * RESEED_BYTES);
        assert_ne!(halves.0[..64], halves.1[..64]);
        assert!(
            target.chunks(32).all(|chunk| chunk.len() < 32 || chunk.iter().any(|byte| *byte != chunk[0]))
        );
    }

    #[test]
    fn a_source_that_sticks_later_harms_nothing_before() {
        let mut source = fake();
        let mut generator = Generator::new(&mut source, b"");
        let stuck: Word = |_| u64::MAX;
        (source.seeds, source.randoms) = (Some(stuck), Some(stuck));
        let mut target: Vec<u8> = std::vec![0; RESEED_BYTES];
        generator.fill(&mut target, &mut source);
        assert_eq!(generator.fault(), None);
        let (mut one, mut two) = ([0; 32], [0; 32]);
        generator.fill(&mut one, &mut source);
        assert_eq!(generator.fault(), Some(Fault::Stuck));
        generator.fill(&mut two, &mut source);
        assert_ne!(one, two);
    }
}
