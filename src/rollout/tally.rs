//! What the two sides of a rollout have shown, and whether the one is so much worse than the other that it is no chance.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What one side did within a step.
#[derive(Debug)]
pub(super) struct Tally {
    /// Established, or failed before.
    pub(super) connections: u64,
    /// Established in an earlier step, and ended in this one: how many last is as good as how many fail.
    pub(super) of_before: u64,
    /// Those of both that failed, at any time.
    pub(super) failed: u64,
    /// Those of the failed that their clients left, having waited for longer than may be.
    pub(super) given_up: u64,
    times: [Histogram<u32>; 2],
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timed {
    Establish,
    FirstByte,
}

impl Timed {
    pub(super) const ALL: [Timed; 2] = [Timed::Establish, Timed::FirstByte];

    pub(super) fn in_words(self) -> &'static str {
        match self {
            Timed::Establish => "to be established",
            Timed::FirstByte => "to the first byte",
        }
    }
}

/// Longest sample told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;
/// A p99 says something once so many were measured.
const ENOUGH: u64 = 100;
/// What is beyond a p99.
const TAIL: f64 = 0.01;
/// And only beyond this difference: below it is the machine's noise.
const NOISE: Duration = Duration::from_millis(2);
/// How sure it is that the one is worse: one in a thousand would look so by chance.
const CHANCE: f64 = 1e-3;
/// What is in use already has proved itself before anybody counted: as if by so many connections that did not fail. More of
/// them, and a network that fails everybody would be held against the canary.
const CREDIT: u64 = 10;
/// The same where there is nobody to compare with.
const LONE_CREDIT: u64 = 100;

impl Tally {
    pub(super) fn new() -> Tally {
        // Two digits; they grow as they must.
        let empty = || {
            let mut histogram =
                Histogram::new_with_bounds(1, 2, 2).unwrap_or_else(|_| unreachable!("bounds that are right"));
            histogram.auto(true);
            histogram
        };
        Tally { connections: 0, of_before: 0, failed: 0, given_up: 0, times: [empty(), empty()] }
    }

    pub(super) fn time(&mut self, what: Timed, took: Duration) {
        let recorded = self.times[what as usize].record(micros(took));
        debug_assert!(recorded.is_ok(), "it grows by itself");
    }

    /// It was measured often enough to be compared.
    pub(super) fn knows(&self, what: Timed) -> bool {
        self.times[what as usize].len() >= ENOUGH
    }

    pub(super) fn p99(&self, what: Timed) -> Duration {
        Duration::from_micros(self.times[what as usize].value_at_quantile(1.0 - TAIL))
    }

    /// How long another's p99 may be that may be so much `slower`.
    pub(super) fn bound(&self, what: Timed, slower: f64) -> Duration {
        let usual = self.p99(what);
        usual.mul_f64(1.0 + slower).max(usual + NOISE)
    }

    /// How many took longer than that, of how many.
    fn beyond(&self, what: Timed, bound: Duration) -> Rate {
        let times = &self.times[what as usize];
        let first = times.highest_equivalent(micros(bound)) + 1;
        Rate { of: times.len(), bad: times.count_between(first, u64::MAX) }
    }

    /// Whether more than one in a hundred take longer than `bound`, and more than with `usual`.
    pub(super) fn is_slower(&self, what: Timed, bound: Duration, usual: &Tally) -> bool {
        self.knows(what) && is_worse(self.beyond(what, bound), usual.beyond(what, bound), TAIL)
    }

    pub(super) fn failures(&self) -> Rate {
        Rate { bad: self.failed, of: (self.connections + self.of_before).max(self.failed) }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST)
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) bad: u64,
    pub(super) of: u64,
}

impl Rate {
    pub(super) fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.bad as f64 / self.of as f64 }
    }

    pub(super) fn and(self, other: Rate) -> Rate {
        Rate { bad: self.bad + other.bad, of: self.of + other.of }
    }

    /// Of somebody who is known to be good. `lone`: nothing more will be seen of it.
    pub(super) fn with_credit(self, lone: bool) -> Rate {
        let credit = if lone && self.of == 0 { LONE_CREDIT } else { CREDIT };
        Rate { of: self.of + credit, ..self }
    }
}

/// Whether so much more of the one are bad than of the other, beyond what is `allowed`, that it is no chance: how few the
/// other's are counts as well as how few the one's are.
///
/// The likelihood ratio of two coins: at the most likely pair of shares that would be allowed, what was seen is less likely
/// than at the shares that were seen by more than `CHANCE`.
pub(super) fn is_worse(one: Rate, other: Rate, allowed: f64) -> bool {
    if one.share() <= other.share() + allowed {
        return false;
    }
    let unlikely = |share: f64| {
        one.of as f64 * divergence(one.share(), share + allowed)
            + other.of as f64 * divergence(other.share(), share)
    };
    // Convex, with its least value between what the other has shown and what the one would need.
    let (mut low, mut high) = (other.share(), one.share() - allowed);
    for _ in 0..50 {
        let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        match unlikely(left) < unlikely(right) {
            true => high = right,
            false => low = left,
        }
    }
    unlikely((low + high) / 2.0) > -CHANCE.ln()
}

/// Kullback and Leibler's, of two coins.
fn divergence(seen: f64, expected: f64) -> f64 {
    let part =
        |seen: f64, expected: f64| if seen > 0.0 { seen * (seen / expected.max(1e-12)).ln() } else { 0.0 };
    part(seen, expected) + part(1.0 - seen, 1.0 - expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bad: u64, of: u64) -> Rate {
        Rate { bad, of }
    }

    /// How many have to be seen depends on both sides, and on what is allowed.
    #[test]
    fn few_on_either_side_prove_little() {
        for (one, other, allowed, worse) in [
            (rate(1, 1), rate(0, 1000), 0.01, false),
            (rate(2, 2), rate(0, 1000), 0.01, true),
            (rate(4, 20), rate(0, 1000), 0.01, true),
            (rate(4, 20), rate(0, 20), 0.01, false),
            (rate(20, 100), rate(0, 100), 0.01, true),
            (rate(20, 100), rate(20, 100), 0.01, false),
            (rate(30, 100), rate(20, 100), 0.01, false),
            (rate(300, 1000), rate(200, 1000), 0.01, true),
            (rate(300, 1000), rate(200, 1000), 0.1, false),
            (rate(100, 100), rate(0, 0), 0.01, false),
            (rate(2, 2), rate(0, 0).with_credit(true), 0.01, true),
            (rate(0, 0), rate(0, 0), 0.0, false),
            (rate(2, 2), rate(0, 0).with_credit(false), 0.0, false),
            (rate(1, 1), rate(0, 100_000), 0.0, true),
            (rate(1000, 1000), rate(1000, 1000), 0.0, false),
            (rate(7, 7), rate(0, 7), 1.0, false),
        ] {
            assert_eq!(is_worse(one, other, allowed), worse, "{one:?} {other:?} {allowed}");
        }
    }
}
