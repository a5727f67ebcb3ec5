//! What a connection carries from being picked to its verdict.

use std::time::Instant;

/// Made by [`Breaker::admit`](super::Breaker::admit), used up by the verdict.
#[derive(Debug)]
pub struct Pass {
    pub(super) number: u64,
    pub(super) era: u32,
    pub(super) trial: bool,
    pub(super) established: Option<Instant>,
    /// The verdict was given while it went on: its end says nothing.
    pub(super) spent: bool,
}

impl Pass {
    /// Does it hold one of the half-open circuit's trials?
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// For the verdict that is given before the end; what is left says nothing.
    pub(in crate::upstream) fn spend(&mut self) -> Pass {
        let left = Pass { number: 0, era: self.era, trial: false, established: None, spent: true };
        std::mem::replace(self, left)
    }
}
