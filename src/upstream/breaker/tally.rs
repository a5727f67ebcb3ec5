//! What a closed circuit has counted: failures without a proof in between, and the connections of a window.

use std::time::Instant;

use super::{Pass, Settings, in_words};
use crate::backoff::Window;
use crate::failure::BreakerClass;

/// The counts of one circuit.
#[derive(Debug)]
pub(super) struct Tally {
    /// What the failures without a proof in between weigh.
    streak: u32,
    /// How many they are.
    failures: u32,
    /// The first of them.
    began: Option<Instant>,
    /// Established connections (a late failure is moved over) and what the failed ones weigh.
    window: Option<Window>,
}

impl Tally {
    pub(super) fn new(settings: &Settings, now: Instant) -> Tally {
        let window = settings.has_window().then(|| Window::new(settings.window, now));
        Tally { streak: 0, failures: 0, began: None, window }
    }

    /// What was counted stays, unless it is counted over another time from now on.
    pub(super) fn reconfigure(&mut self, old: &Settings, new: &Settings, now: Instant) {
        let window = self.window.take().filter(|_| old.window == new.window);
        self.window = new.has_window().then(|| window.unwrap_or_else(|| Window::new(new.window, now)));
    }

    /// When the first of the failures was that nothing has disproved.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    pub(super) fn established(&mut self, now: Instant) {
        if let Some(window) = &mut self.window {
            window.add(now, 1, 0);
        }
    }

    /// Connections of the window: those that went well so far, and what the failed ones weigh.
    pub(super) fn counted(&mut self, now: Instant) -> (u32, u32) {
        self.window.as_mut().map_or((0, 0), |window| window.sums(now))
    }

    /// Counts a failure. Why that opens the circuit, if it does.
    pub(super) fn failed(
        &mut self,
        pass: &Pass,
        now: Instant,
        class: BreakerClass,
        settings: &Settings,
    ) -> Option<String> {
        if let (Some(window), Some(then)) = (&mut self.window, pass.established) {
            window.take_back_left(now, then);
        }
        let weight = settings.weights.of(class);
        if weight == 0 {
            return None;
        }
        self.streak = self.streak.saturating_add(weight);
        self.failures = self.failures.saturating_add(1);
        self.began = self.began.or(Some(now));
        let Tally { streak, failures, .. } = *self;
        if settings.consecutive.is_some_and(|limit| streak >= limit.max(1)) {
            let weighed = if streak == failures { String::new() } else { format!(" (weighing {streak})") };
            return Some(format!("{failures} × {}{weighed}", in_words(class)));
        }
        let window = self.window.as_mut()?;
        window.add(now, 0, weight);
        let rate = settings.failure_rate?;
        let (well, failed) = window.sums(now);
        let all = well.saturating_add(failed);
        let share = f64::from(failed) / f64::from(all.max(1));
        (all >= settings.minimum && share >= rate)
            .then(|| format!("{failed} of {all} connections failed, the last by {}", in_words(class)))
    }

    /// The endpoint has proved that it serves.
    pub(super) fn forget_streak(&mut self) {
        (self.streak, self.failures, self.began) = (0, 0, None);
    }

    /// The circuit opened or closed: all is counted anew.
    pub(super) fn clear(&mut self) {
        self.forget_streak();
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }
}
