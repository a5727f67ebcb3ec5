//! How long an endpoint takes to be reached, as `peak_ewma` judges it. Pure: time is passed in.
//!
//! A slow attempt counts at once, in full; a quick one only as time passes. So an endpoint that turns slow is left within
//! one connection, and taken back over some seconds. Leaves what is done with it to `balancer`.

use std::time::{Duration, Instant};

/// The memory of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// In seconds, as it was at that time.
    known: Option<(f64, Instant)>,
}

impl Latency {
    /// What is left of a peak after this long: 1/e. Long enough that a few connections a minute remember it, short enough
    /// that nobody is left alone for a bad moment.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// What one counts as that was never reached: at first nothing, so that it is tried; while others try it already, this.
    pub const UNKNOWN: f64 = 1.0;

    /// A failed attempt counts as so many times of what an attempt takes: otherwise who refuses fast would be the fastest.
    const FAILED: f64 = 10.0;

    /// And as no more than this, in seconds: several in a row are the breaker's affair.
    const LONGEST: f64 = 10.0;

    /// In seconds at `now`; `None`: it was never tried.
    pub fn at(&self, now: Instant) -> Option<f64> {
        self.known.map(|(seconds, at)| seconds * left_of(now.saturating_duration_since(at)))
    }

    /// An attempt was established and took so long.
    pub fn took(&mut self, now: Instant, took: Duration) {
        let took = took.as_secs_f64();
        let seconds = match (self.known, self.at(now)) {
            (Some((known, at)), Some(faded)) if took < faded => {
                let weight = left_of(now.saturating_duration_since(at));
                known * weight + took * (1.0 - weight)
            }
            _ => took,
        };
        self.known = Some((seconds, now));
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant) {
        let faded = self.at(now).unwrap_or(Self::UNKNOWN / Self::FAILED);
        self.known = Some(((faded * Self::FAILED).min(Self::LONGEST.max(faded)), now));
    }
}

fn left_of(age: Duration) -> f64 {
    (-age.as_secs_f64() / Latency::DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time_not_with_traffic() {
        let start = Instant::now();
        let mut latency = Latency::default();
        assert_eq!(latency.at(start), None);
        latency.took(start, 2 * MS);
        latency.took(start, 500 * MS);
        for _ in 0..1000 {
            latency.took(start, 2 * MS);
        }
        assert_eq!(latency.at(start), Some(0.5), "a thousand quick ones in the same moment change nothing");
        let later = start + Latency::DECAY;
        latency.took(later, 2 * MS);
        let left = latency.at(later).unwrap();
        assert!((0.18..0.19).contains(&left), "{left}");
        assert!(latency.at(later + 10 * Latency::DECAY).unwrap() < 0.001, "in silence it is forgotten too");
    }

    #[test]
    fn who_fails_fast_counts_as_slow() {
        let start = Instant::now();
        let mut quick_to_fail = Latency::default();
        quick_to_fail.failed(start);
        assert_eq!(quick_to_fail.at(start), Some(Latency::UNKNOWN), "never reached at all");
        let mut flaky = Latency::default();
        flaky.took(start, MS);
        flaky.failed(start);
        flaky.took(start, MS);
        assert!(flaky.at(start).unwrap() > 0.009, "a success right after it does not undo it");
        for _ in 0..20 {
            flaky.failed(start);
        }
        assert_eq!(flaky.at(start), Some(Latency::LONGEST));
    }
}
