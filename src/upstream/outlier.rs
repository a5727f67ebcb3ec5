//! An endpoint that does worse than the others of its set: not so bad that it would be noticed alone, and yet the one that
//! clients should not meet. Owns the comparison. Leaves counting to `breaker`.
//!
//! Success rates of at least `minimum` connections within `window` are compared, where `outlier_endpoints` have so many. An
//! endpoint is held against the others alone: in the mean of a small set it would hide itself. And others that are all
//! perfect do not make a single failure an outlier: they are taken to differ by [`SPREAD`] at least.

use std::time::Instant;

use super::breaker::State;
use super::endpoint::EndpointId;
use super::set::EndpointSet;

/// Success rates of endpoints that are equally good differ by so much.
const SPREAD: f64 = 0.05;

/// Is this success rate so many standard deviations below what others have? Then their mean.
fn stands_out(rate: f64, others: &[f64], factor: f64) -> Option<f64> {
    let count = others.len() as f64;
    let mean = others.iter().sum::<f64>() / count;
    let variance = others.iter().map(|other| (other - mean).powi(2)).sum::<f64>() / count;
    (rate < mean - factor * variance.sqrt().max(SPREAD)).then_some(mean)
}

impl EndpointSet {
    /// After a failure: opens the circuit of an endpoint that does so much worse than the others.
    pub(super) fn compare(&mut self, id: EndpointId, now: Instant, rng: &mut fastrand::Rng) {
        let (Some(factor), minimum) = (self.breaker.outlier, self.breaker.minimum.max(1)) else { return };
        let Some(place) = self.place_of(id) else { return };
        let (mut rate, mut others) = (None, Vec::new());
        for (at, endpoint) in self.endpoints.iter_mut().enumerate().filter(|(_, member)| !member.leaving) {
            let (well, failed) = endpoint.breaker.counted(now);
            let all = well.saturating_add(failed);
            let closed = endpoint.breaker.detected(now) == State::Closed;
            match f64::from(well) / f64::from(all.max(1)) {
                _ if all < minimum || !closed => {}
                its if at == place => rate = Some(its),
                its => others.push(its),
            }
        }
        let Some(rate) = rate.filter(|_| !others.is_empty()) else { return };
        if others.len() + 1 < self.breaker.outlier_endpoints as usize || !self.may_eject(now) {
            return;
        }
        if let Some(mean) = stands_out(rate, &others, factor) {
            let percent = |rate: f64| (rate * 100.0).round();
            let why =
                format!("{} % of its connections go well, of the others' {} %", percent(rate), percent(mean));
            let transition = self.endpoints[place].breaker.eject(now, why, rng);
            self.tell(place, transition);
        }
    }

    /// Doing worse than others is no reason to put more out than `max_ejected` allows.
    fn may_eject(&self, now: Instant) -> bool {
        let out = self.members().filter(|member| member.breaker().detected(now) != State::Closed).count();
        let cap = (self.members().count() as f64 * self.breaker.max_ejected).ceil();
        out < (cap as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::BreakerClass;
    use crate::upstream::endpoint::Endpoint;
    use crate::upstream::{EndpointSpec, Settings, breaker};

    #[test]
    fn how_much_worse_an_outlier_is_goes_by_how_much_the_others_differ() {
        for (rate, others, is_one) in [
            (0.99, [1.0, 1.0, 1.0, 1.0], false),
            (0.91, [1.0, 1.0, 1.0, 1.0], false),
            (0.90, [1.0, 1.0, 1.0, 1.0], true),
            (0.70, [1.0, 0.9, 0.8, 0.7], false),
            (0.60, [1.0, 0.9, 0.8, 0.7], true),
            (0.00, [0.0, 0.0, 0.0, 0.0], false),
            (0.20, [0.9, 0.1, 0.9, 0.1], false),
        ] {
            assert_eq!(stands_out(rate, &others, 1.9).is_some(), is_one, "{rate} beside {others:?}");
        }
    }

    /// Four endpoints, of which one fails two connections in five and the others one in fifty: that one is found, by every
    /// seed, and never one of the others.
    #[test]
    fn the_one_that_does_worse_is_found_and_no_other() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let breaker = breaker::Settings {
                consecutive: None,
                outlier: Some(1.9),
                outlier_endpoints: 4,
                minimum: 40,
                open_for: Duration::from_secs(3600),
                max_open: Duration::from_secs(3600),
                ..breaker::Settings::default()
            };
            let mut set = EndpointSet::new(Settings { breaker, ..Settings::default() });
            let mut now = Instant::now();
            let bad = "db0:1";
            let specs = (0..4).map(|n| EndpointSpec::new(format!("db{n}:1").parse().unwrap())).collect();
            set.update(specs, now, &mut rng);
            for _ in 0..1_000 {
                now += Duration::from_millis(20);
                let mut picked = set.pick(now, None, &[], &mut rng).unwrap();
                set.established(&mut picked.attempt, now, Duration::ZERO);
                let share = if &*picked.label == bad { 0.4 } else { 0.02 };
                match rng.f64() < share {
                    true => set.failed(picked.attempt, now, BreakerClass::EarlyClose, "seen", &mut rng),
                    false => set.ended_well(picked.attempt, now),
                }
            }
            let out = |member: &Endpoint| member.breaker().detected(now) == State::Open;
            let found: Vec<_> =
                set.members().filter(|member| out(member)).map(|it| it.spec().address.to_string()).collect();
            assert_eq!(found, [bad], "seed {seed}");
        }
    }
}
