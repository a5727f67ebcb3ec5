//! Percentiles of the last minute or two per upstream, for the API, the demo and a person's eye.
//!
//! Prometheus computes its own from the histograms; this answers "how is it now?" without one.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// What one slot covers. Two are looked at, so an answer covers between one and two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// Longest sample told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// Samples of a moving window, to two digits, in a few KiB.
#[derive(Debug)]
pub(super) struct Window {
    since: Instant,
    current: Histogram<u32>,
    previous: Histogram<u32>,
}

/// The percentiles of one duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Samples in the window.
    pub count: u64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 90th percentile, in milliseconds.
    pub p90_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

impl Window {
    /// An empty window.
    pub(super) fn new(now: Instant) -> Self {
        Window { since: now, current: empty(), previous: empty() }
    }

    /// Takes `times` samples of about `took`.
    pub(super) fn add(&mut self, now: Instant, took: Duration, times: u64) {
        self.turn(now);
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        let recorded = self.current.record_n(micros, u32::try_from(times).unwrap_or(u32::MAX));
        debug_assert!(recorded.is_ok(), "it grows by itself");
    }

    /// What the window holds.
    pub(super) fn quantiles(&mut self, now: Instant) -> Quantiles {
        self.turn(now);
        let mut all = self.previous.clone();
        // Both have the same digits and grow on demand, so adding cannot fail; were it to, the newer half is shown alone.
        if all.add(&self.current).is_err() {
            all.clone_from(&self.current);
        }
        let at = |quantile| all.value_at_quantile(quantile) as f64 / 1000.0;
        match all.len() {
            0 => Quantiles::default(),
            count => Quantiles { count, p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99) },
        }
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.previous, &mut self.current);
        self.current.reset();
        if age >= WINDOW * 2 {
            self.previous.reset();
        }
        self.since = now;
    }
}

fn empty() -> Histogram<u32> {
    // Any number of digits up to five is taken, so this cannot fail.
    let mut histogram = Histogram::new(2).expect("two significant digits are allowed");
    // Small until a slow sample comes.
    histogram.auto(true);
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_forgotten_after_two_windows_and_not_before_one() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for milliseconds in 1..=100 {
            window.add(start, Duration::from_millis(milliseconds), 1);
        }
        let now = window.quantiles(start + WINDOW - Duration::from_secs(1));
        assert_eq!(now.count, 100);
        assert!((49.0..52.0).contains(&now.p50_ms), "{now:?}");
        assert!((98.0..101.0).contains(&now.p99_ms), "{now:?}");
        window.add(start + WINDOW, Duration::from_secs(1), 1);
        assert_eq!(window.quantiles(start + WINDOW).count, 101);
        assert_eq!(window.quantiles(start + WINDOW * 2).count, 1);
        assert_eq!(window.quantiles(start + WINDOW * 5), Quantiles::default());
    }

    #[test]
    fn a_sample_of_a_day_counts_as_the_longest() {
        let start = Instant::now();
        let mut window = Window::new(start);
        window.add(start, Duration::from_secs(86_400), 3);
        let seen = window.quantiles(start);
        assert_eq!(seen.count, 3);
        assert!(seen.p50_ms > 3_500_000.0, "{seen:?}");
    }
}
