//! Why a name cannot be changed as asked. Nothing has changed then.

/// A change of names that was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No adapter has this name.
    #[error("no adapter is named {0:?}")]
    NotFound(String),
    /// The name stands for another adapter, and replacing was not asked for.
    #[error("{0:?} is loaded already; ask for load_inplace to replace it")]
    AlreadyLoaded(String),
    /// The name does not stand for the generation that the caller expects.
    #[error("{name:?} is at generation {found}, expected {expected}")]
    GenerationMismatch {
        /// The name.
        name: String,
        /// What the caller expects.
        expected: String,
        /// What stands there; `none` where nothing does.
        found: String,
    },
    /// Rolling back where nothing was replaced, or what was replaced has been evicted.
    #[error("{0:?} has no earlier generation to go back to")]
    NothingBefore(String),
    /// Changing the share of a canary where there is none.
    #[error("{0:?} has no generation on trial; name one by lora_path")]
    NoCanary(String),
    /// More adapters than allowed, and all of them pinned.
    #[error("{most} adapters may be loaded, and those that are there are pinned")]
    TooManyAdapters {
        /// The most there may be.
        most: usize,
    },
    /// More bytes than allowed, and nothing unpinned to evict.
    #[error("adapters may take {most} bytes, and {needed} would be needed")]
    TooManyBytes {
        /// The most there may be.
        most: u64,
        /// What pinned adapters and the new one take.
        needed: u64,
    },
    /// A rank above the limit.
    #[error("its largest rank is {rank}, at most {most} is allowed")]
    RankTooLarge {
        /// Its largest rank.
        rank: usize,
        /// The most.
        most: usize,
    },
}
