//! How many connections an endpoint is kept ready: as many as were asked for in the busiest second of late. Pure: the time
//! is passed in. Leaves to [`stock`] which of them are dialled and given up, and to `establish::warm` the connections.

pub mod stock;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

/// What is kept ready, at each endpoint that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least so many, also when nobody has come for long.
    pub min: u32,
    /// At most so many, however many come.
    pub max: u32,
    /// A connection that nobody has asked for is closed after this time: before its server would.
    pub max_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { min: 0, max: 0, max_age: Duration::from_secs(30) }
    }
}

/// How many are there, for the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolView {
    /// Through their handshake, and waiting for a client.
    pub ready: usize,
    /// On the way there.
    pub dialling: usize,
    /// Clients that were given one, ever.
    pub given_total: u64,
    /// Clients that found none, ever.
    pub missed_total: u64,
}

/// How far back it is looked for the busiest second.
const LOOK_BACK: Duration = Duration::from_secs(30);
/// What one count is for. A connection takes less than that to be replaced.
const SLOT: Duration = Duration::from_secs(1);

/// What was asked of an endpoint lately.
#[derive(Debug, Default)]
pub struct Demand {
    /// When a second began, and how many came within it; the latest last.
    slots: VecDeque<(Instant, u32)>,
}

impl Demand {
    /// A connection was asked for.
    pub fn asked(&mut self, now: Instant) {
        match self.slots.back_mut() {
            Some((since, count)) if now.saturating_duration_since(*since) < SLOT => *count += 1,
            _ => self.slots.push_back((now, 1)),
        }
        self.forget(now);
    }

    /// So many should be ready.
    pub fn wanted(&mut self, settings: &Settings, now: Instant) -> u32 {
        self.forget(now);
        let busiest = self.slots.iter().map(|(_, count)| *count).max().unwrap_or_default();
        // `config` has checked that min is not above max; were it, max holds.
        busiest.max(settings.min).min(settings.max)
    }

    fn forget(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > LOOK_BACK) {
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_busiest_second_asked_for_within_bounds_and_for_half_a_minute() {
        let settings = Settings { min: 1, max: 5, ..Settings::default() };
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut demand = Demand::default();
        assert_eq!(demand.wanted(&settings, start), 1, "nobody has come yet");
        for millis in [0, 10, 400] {
            demand.asked(after(millis));
        }
        assert_eq!(demand.wanted(&settings, after(500)), 3);
        demand.asked(after(5_000));
        assert_eq!(demand.wanted(&settings, after(5_000)), 3, "a quieter second does not count");
        for _ in 0..100 {
            demand.asked(after(6_500));
        }
        assert_eq!(demand.wanted(&settings, after(6_500)), 5);
        assert_eq!(demand.wanted(&settings, after(36_000)), 5);
        assert_eq!(demand.wanted(&settings, after(36_501)), 1, "it was long ago");
    }

    /// By seed: never outside the bounds, and what it remembers is bounded by time, not by how many come.
    #[test]
    fn whatever_comes_it_stays_within_its_bounds_and_remembers_little() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let min = rng.u32(0..4);
            let settings = Settings { min, max: min + rng.u32(0..6), ..Settings::default() };
            let mut demand = Demand::default();
            let mut now = Instant::now();
            for _ in 0..200 {
                now += Duration::from_millis(rng.u64(0..1_500));
                (0..rng.u32(0..4)).for_each(|_| demand.asked(now));
                let wanted = demand.wanted(&settings, now);
                assert!(
                    (settings.min..=settings.max).contains(&wanted),
                    "seed {seed}: {wanted} of {settings:?}"
                );
                assert!(demand.slots.len() <= 32, "seed {seed}");
            }
        }
    }
}
