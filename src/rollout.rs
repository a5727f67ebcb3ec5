//! rollout: which of several upstreams a listener's connections go to, by weights; and weights that move by themselves, from one
//! upstream to the next version of it, for as long as that one serves as well.
//!
//! Pure, but for [`Split`], which locks and logs: the time is passed in, and what became of connections is told. Leaves to `route` whose turn it is to be asked for, to
//! `connection` what became of them, and to `service` who looks after it.

mod live;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::addr::UpstreamName;

pub use live::Split;

/// One of the upstreams, and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Which.
    pub upstream: UpstreamName,
    /// Beside the others' weights; 0: no new connections.
    pub weight: u32,
}

/// How a listener's connections are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Among whom.
    pub shares: Vec<Share>,
    /// Connections of one source go to one upstream. Otherwise each is drawn anew.
    pub sticky: bool,
    /// The weights move by themselves.
    pub progressive: Option<Progressive>,
}

/// How the canary's share grows, and what ends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Progressive {
    /// Whose share grows; the other one's shrinks.
    pub canary: UpstreamName,
    /// Its share at each step, in percent, rising.
    pub steps: Vec<u32>,
    /// How long each step takes at least.
    pub pause: Duration,
    /// And how many of its connections must have been established, or failed, before the next one.
    pub minimum: u32,
    /// Its share of failed connections may be so much above the stable one's, 0 to 1.
    pub failures: f64,
    /// Its p99 of each time may be so much above the stable one's: 0.5 is half as much again.
    pub slower: f64,
}

/// How a connection ended, as far as its upstream had a part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// It had been established, and counted then.
    pub established: bool,
    /// It failed, and not for its client's or our own sake.
    pub failed: bool,
    /// From its being established to the server's first byte; `None`: there was none.
    pub first_byte: Option<Duration>,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Phase {
    /// Nothing moves by itself.
    Fixed,
    /// On the way.
    Running {
        /// Which step, from 1.
        step: usize,
    },
    /// All steps were gone.
    Done,
    /// The canary was worse: everything goes to the stable one again.
    RolledBack {
        /// In which step, from 1.
        step: usize,
        /// In how far it was worse.
        why: String,
    },
    /// Somebody set the weights by hand.
    ByHand,
}

/// Something that whoever looks after it should tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The canary has so many percent now.
    Step(u32),
    /// It has everything.
    Done,
    /// It was worse, and has nothing any more.
    RolledBack(String),
}

/// The shares of a listener as they are now.
#[derive(Debug)]
pub struct Rollout {
    settings: Settings,
    shares: Vec<Share>,
    phase: Phase,
    /// When the step began.
    since: Instant,
    /// Within this step.
    stable: Tally,
    canary: Tally,
    /// Connections of the canary since it began, and those of them that failed.
    met: (u64, u64),
}

/// The same, for the API and the metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolloutView {
    /// Who has which share now.
    pub split: Vec<Share>,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// Connections that met the canary since it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_connections: Option<u64>,
    /// Those of them that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_failed: Option<u64>,
}

/// What one side did within a step.
#[derive(Debug)]
struct Tally {
    /// Established, or failed before.
    connections: u64,
    failed: u64,
    times: [Histogram<u32>; 2],
}

/// What is timed, in words.
const TIMES: [&str; 2] = ["to be established", "to the first byte"];
const ESTABLISH: usize = 0;
const FIRST_BYTE: usize = 1;
/// Longest sample told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;
/// A p99 is compared once so many were measured on both sides.
const ENOUGH: u64 = 100;
/// And only beyond this difference: below it is the machine's noise.
const NOISE: Duration = Duration::from_millis(2);
/// How sure it is that more failed than may: one in a thousand would look so by chance.
const CHANCE: f64 = 1e-3;

impl Tally {
    fn new() -> Tally {
        // Two digits; they grow as they must.
        let empty = || {
            let mut histogram =
                Histogram::new_with_bounds(1, 2, 2).unwrap_or_else(|_| unreachable!("bounds that are right"));
            histogram.auto(true);
            histogram
        };
        Tally { connections: 0, failed: 0, times: [empty(), empty()] }
    }

    fn time(&mut self, what: usize, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        let recorded = self.times[what].record(micros);
        debug_assert!(recorded.is_ok(), "it grows by itself");
    }

    fn failure_rate(&self) -> f64 {
        if self.connections == 0 { 0.0 } else { self.failed as f64 / self.connections as f64 }
    }
}

/// Whose turn it is. `key`: the source's, or a random one. A weight that grows takes from the others, and moves nobody else
/// (weighted rendezvous hashing). `None`: nobody has a weight.
pub fn choose(shares: &[Share], key: u64) -> Option<&UpstreamName> {
    let score = |share: &Share| {
        // Fixed keys: a fleet of ambassadors must agree.
        let mut hasher = DefaultHasher::new();
        (key, &*share.upstream).hash(&mut hasher);
        // Uniform in (0, 1).
        let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(share.weight) / uniform.ln()
    };
    let with_weight = shares.iter().filter(|share| share.weight > 0);
    with_weight.max_by(|one, other| score(one).total_cmp(&score(other))).map(|share| &share.upstream)
}

impl Rollout {
    /// At its beginning.
    pub fn new(settings: Settings, now: Instant) -> Rollout {
        let mut rollout = Rollout {
            shares: settings.shares.clone(),
            phase: Phase::Fixed,
            since: now,
            stable: Tally::new(),
            canary: Tally::new(),
            met: (0, 0),
            settings,
        };
        if rollout.settings.progressive.is_some() {
            rollout.begin_step(1, now);
        }
        rollout
    }

    /// As the file has them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whose turn it is; `key`: the source's.
    pub fn choose(&self, key: u64, rng: &mut fastrand::Rng) -> Option<&UpstreamName> {
        choose(&self.shares, if self.settings.sticky { key } else { rng.u64(..) })
    }

    /// Somebody wants these weights, of upstreams that are in the split; those that are not named have none. What moved by
    /// itself does so no more.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn set(&mut self, wanted: &[(String, u32)]) -> Result<(), String> {
        for (name, weight) in wanted {
            if !self.shares.iter().any(|share| *share.upstream == **name) {
                let known: Vec<_> = self.shares.iter().map(|share| &*share.upstream).collect();
                return Err(format!(
                    "'{}' is not in this split; there are {}",
                    name.escape_debug(),
                    known.join(", ")
                ));
            }
            if *weight > MAX_WEIGHT {
                return Err(format!("the weight {weight} of '{name}' is above {MAX_WEIGHT}"));
            }
            if wanted.iter().filter(|(other, _)| other == name).count() > 1 {
                return Err(format!("'{name}' is named twice"));
            }
        }
        let weight = |share: &Share| {
            wanted.iter().find(|(name, _)| *share.upstream == **name).map_or(0, |(_, weight)| *weight)
        };
        if self.shares.iter().map(weight).sum::<u32>() == 0 {
            return Err("with these weights nobody would get a connection".to_owned());
        }
        for share in &mut self.shares {
            share.weight = weight(share);
        }
        self.phase = Phase::ByHand;
        Ok(())
    }

    /// A connection to `upstream` can carry data, after so long; `None`: it was ready before its client came.
    pub fn established(&mut self, upstream: &str, took: Option<Duration>) {
        if let Some(tally) = self.met(upstream) {
            tally.connections += 1;
            if let Some(took) = took {
                tally.time(ESTABLISH, took);
            }
        }
    }

    /// A connection that was sent to `upstream` has ended, or never came to be.
    pub fn ended(&mut self, upstream: &str, end: End) -> Option<News> {
        let End { established, failed, first_byte } = end;
        if !established && !failed {
            return None;
        }
        if failed && self.is_canary(upstream) {
            self.met.1 += 1;
        }
        let is_canary = self.is_canary(upstream);
        if established && !is_canary && self.canary_has_all() {
            // Its servers are perhaps taken away now: that is nothing to measure the canary by.
            return None;
        }
        let tally = match established {
            true => self.tally(upstream)?,
            false => self.met(upstream)?,
        };
        if let Some(took) = first_byte {
            tally.time(FIRST_BYTE, took);
        }
        let is_of_before = established && tally.failed >= tally.connections;
        if failed && is_of_before && !is_canary {
            // Of an earlier step: neither.
            return None;
        }
        tally.connections += u64::from(!established);
        tally.failed += u64::from(failed);
        // One may have been counted in the step before.
        tally.connections = tally.connections.max(tally.failed);
        // That it fails is seen with the very connection; the times are looked at with every tick.
        let why = self.fails_more().filter(|_| failed && self.is_canary(upstream))?;
        Some(self.roll_back(why))
    }

    fn canary_has_all(&self) -> bool {
        self.shares.iter().all(|share| share.weight == 0 || self.is_canary(&share.upstream))
    }

    fn is_canary(&self, upstream: &str) -> bool {
        self.settings.progressive.as_ref().is_some_and(|progressive| *progressive.canary == *upstream)
    }

    /// Somebody has met `upstream`.
    fn met(&mut self, upstream: &str) -> Option<&mut Tally> {
        self.met.0 += u64::from(self.is_canary(upstream));
        self.tally(upstream)
    }

    /// As long as it matters.
    fn tally(&mut self, upstream: &str) -> Option<&mut Tally> {
        let is_canary = self.is_canary(upstream);
        matches!(self.phase, Phase::Running { .. }).then_some(if is_canary {
            &mut self.canary
        } else {
            &mut self.stable
        })
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Option<News> {
        let Phase::Running { step } = self.phase else { return None };
        if let Some(why) = self.fails_more().or_else(|| self.is_slower()) {
            return Some(self.roll_back(why));
        }
        let progressive = self.settings.progressive.as_ref()?;
        let is_over = now.saturating_duration_since(self.since) >= progressive.pause
            && self.canary.connections >= u64::from(progressive.minimum);
        if !is_over {
            return None;
        }
        match progressive.steps.get(step).copied() {
            Some(percent) => {
                self.begin_step(step + 1, now);
                Some(News::Step(percent))
            }
            None => {
                self.phase = Phase::Done;
                Some(News::Done)
            }
        }
    }

    fn roll_back(&mut self, why: String) -> News {
        self.give_canary(0);
        let (connections, failed) = self.met;
        let why = format!("{why}; {connections} connections met it, {failed} of them failed");
        let step = if let Phase::Running { step } = self.phase { step } else { 0 };
        self.phase = Phase::RolledBack { step, why: why.clone() };
        News::RolledBack(why)
    }

    /// In how far more of the canary's connections fail than may; `None`: that cannot be said.
    fn fails_more(&self) -> Option<String> {
        let allowed = self.settings.progressive.as_ref()?;
        let may_fail = (self.stable.failure_rate() + allowed.failures).clamp(1e-4, 1.0);
        let rate = self.canary.failure_rate();
        // Chernoff's bound: so many failures come by chance with at most exp(-n × divergence).
        if rate <= may_fail || self.canary.connections as f64 * divergence(rate, may_fail) <= -CHANCE.ln() {
            return None;
        }
        Some(format!(
            "{} of {} connections failed ({:.1} %), where the stable one's {:.1} % and {:.1} % more are allowed",
            self.canary.failed,
            self.canary.connections,
            rate * 100.0,
            self.stable.failure_rate() * 100.0,
            allowed.failures * 100.0
        ))
    }

    /// In how far the canary is slower than it may be.
    fn is_slower(&self) -> Option<String> {
        let allowed = self.settings.progressive.as_ref()?;
        let times = self.stable.times.iter().zip(&self.canary.times).zip(TIMES);
        for ((stable, canary), what) in times {
            if stable.len().min(canary.len()) < ENOUGH {
                continue;
            }
            let p99 = |histogram: &Histogram<u32>| Duration::from_micros(histogram.value_at_quantile(0.99));
            let (stable, canary) = (p99(stable), p99(canary));
            let bound = stable.mul_f64(1.0 + allowed.slower).max(stable + NOISE);
            if canary > bound {
                let ms = |took: Duration| took.as_secs_f64() * 1e3;
                return Some(format!(
                    "its p99 {what} is {:.1} ms, where the stable one's is {:.1} ms and at most {:.1} ms are allowed",
                    ms(canary),
                    ms(stable),
                    ms(bound)
                ));
            }
        }
        None
    }

    fn begin_step(&mut self, step: usize, now: Instant) {
        let percent = self
            .settings
            .progressive
            .as_ref()
            .and_then(|progressive| progressive.steps.get(step - 1).copied());
        self.give_canary(percent.unwrap_or(100).min(100));
        self.phase = Phase::Running { step };
        self.since = now;
        self.canary = Tally::new();
        // Where it gets no more connections, what it has shown last is what there is to compare with.
        if percent.is_some_and(|percent| percent < 100) {
            self.stable = Tally::new();
        }
    }

    /// Of a hundred connections; the other has the rest.
    fn give_canary(&mut self, percent: u32) {
        let Some(progressive) = &self.settings.progressive else { return };
        for share in &mut self.shares {
            share.weight = if share.upstream == progressive.canary { percent } else { 100 - percent };
        }
    }

    /// As it is now.
    pub fn view(&self) -> RolloutView {
        let has_canary = self.settings.progressive.is_some();
        RolloutView {
            split: self.shares.clone(),
            phase: self.phase.clone(),
            canary_connections: has_canary.then_some(self.met.0),
            canary_failed: has_canary.then_some(self.met.1),
        }
    }
}

/// As a share of an endpoint.
pub const MAX_WEIGHT: u32 = 1000;

/// Kullback and Leibler's, of two coins.
fn divergence(seen: f64, expected: f64) -> f64 {
    let part =
        |seen: f64, expected: f64| if seen > 0.0 { seen * (seen / expected.max(1e-12)).ln() } else { 0.0 };
    part(seen, expected) + part(1.0 - seen, 1.0 - expected)
}

#[cfg(test)]
mod tests;
