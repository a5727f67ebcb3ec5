//! What there is of one endpoint, and whether more of it may be dialled. Leaves to [`super`] what there is room for, and whose
//! turn it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::HALF;
use crate::upstream::pool::{Demand, Settings};

/// An endpoint that could not be dialled is left alone so long; doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What there is of one endpoint.
#[derive(Debug)]
pub(super) struct Shelf<T, D> {
    pub(super) demand: Demand,
    /// The oldest first.
    pub(super) ready: VecDeque<T>,
    pub(super) dialling: Vec<Dialling<D>>,
    /// It could be dialled the last time that it was.
    pub(super) is_proven: bool,
    /// Failures, since one that was kept there last served somebody or grew old.
    failures: u32,
    /// It failed the last time, and is not dialled before then.
    pub(super) until: Option<Instant>,
    pub(super) is_in_line: bool,
}

#[derive(Debug)]
pub(super) struct Dialling<D> {
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) is_late: bool,
    pub(super) in_doubt: bool,
    pub(super) _given_up_with_this: D,
}

impl<T, D> Default for Shelf<T, D> {
    fn default() -> Self {
        Shelf {
            demand: Demand::default(),
            ready: VecDeque::new(),
            dialling: Vec::new(),
            is_proven: false,
            failures: 0,
            until: None,
            is_in_line: false,
        }
    }
}

impl<T, D> Shelf<T, D> {
    pub(super) fn count(&self) -> usize {
        self.ready.len() + self.dialling.len()
    }

    /// Does it want more than there are, and may it be dialled now?
    pub(super) fn lacks(&mut self, settings: &Settings, room: u32, now: Instant) -> bool {
        let at_once = if self.is_proven { HALF } else { 1 };
        self.dialling.len() < at_once
            && self.until.is_none_or(|until| until <= now)
            && self.count() < self.demand.wanted(settings, now).min(room) as usize
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.until.is_some()
    }

    /// What was kept there served somebody, or could have.
    pub(super) fn was_of_use(&mut self) {
        if self.is_proven {
            self.failures = 0;
        }
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.is_proven = false;
        // Those that were dialled together fail together: that is once.
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        let pause = PAUSE.saturating_mul(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.until = Some(now + pause);
        self.failures = self.failures.saturating_add(1);
    }
}
