//! Address-space identifiers of one CPU.
//!
//! A tag is never used again without a flush, so a guest never runs on another
//! guest's translations (APM 15.16).

/// What a vCPU remembers of the tag it last ran with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The CPU that gave it, plus one; zero is none.
    cpu: u32,
    generation: u64,
    asid: u32,
}

impl Tag {
    /// A tag no CPU will take for its own: forces a fresh one.
    pub const NONE: Self = Self { cpu: 0, generation: 0, asid: 0 };

    /// The identifier for the control block.
    #[must_use]
    pub const fn asid(&self) -> u32 {
        self.asid
    }
}

/// One CPU's tags.
#[derive(Debug)]
pub struct Asids {
    cpu: u32,
    count: u32,
    next: u32,
    generation: u64,
}

impl Asids {
    /// For `cpu`, which has identifiers 1 to `count` - 1.
    #[must_use]
    pub const fn new(cpu: u32, count: u32) -> Self {
        Self { cpu: cpu + 1, count, next: 1, generation: 1 }
    }

    /// Makes `tag` valid here; true when the whole TLB must be flushed on entry.
    pub const fn assign(&mut self, tag: &mut Tag) -> bool {
        if tag.cpu == self.cpu && tag.generation == self.generation {
            return false;
        }
        let mut flush = false;
        if self.next >= self.count {
            self.next = 1;
            self.generation += 1;
            flush = true;
        }
        *tag = Tag { cpu: self.cpu, generation: self.generation, asid: self.next };
        self.next += 1;
        flush
    }
}

#[cfg(test)]
mod tests {
    use super::{Asids, Tag};

    #[test]
    fn no_reuse_without_a_flush() {
        let mut asids = Asids::new(0, 4);
        let mut tags = [Tag::NONE; 4];
        assert!(!asids.assign(&mut tags[0]));
        assert!(!asids.assign(&mut tags[1]));
        assert!(!asids.assign(&mut tags[2]));
        assert!(!asids.assign(&mut tags[1]));
        assert_eq!([tags[0].asid(), tags[1].asid(), tags[2].asid()], [1, 2, 3]);
        assert!(asids.assign(&mut tags[3]), "the fourth starts a generation");
        assert_eq!(tags[3].asid(), 1);
        assert!(!asids.assign(&mut tags[0]), "stale: gets a new one in the flushed generation");
        assert_eq!(tags[0].asid(), 2);
    }

    #[test]
    fn another_cpu_gives_its_own() {
        let mut first = Asids::new(0, 16);
        let mut second = Asids::new(1, 16);
        let mut tag = Tag::NONE;
        first.assign(&mut tag);
        let before = tag;
        second.assign(&mut tag);
        assert_ne!(tag, before);
    }
}
