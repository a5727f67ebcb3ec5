//! rollout: which of several upstreams a listener's connections go to, by weights; and weights that move by themselves, from one
//! upstream to the next version of it, for as long as that one serves as well.
//!
//! Pure, but for [`Split`], which locks and logs, and for the file that keeps where it stands: the time is passed in, and what
//! became of connections is told. Leaves to `route` whose turn it is to be asked for, to `connection` what became of them, to
//! `service` who looks after it, and to `tally` what is a difference.

mod judge;
mod kept;
mod live;
mod share;
mod state_file;
mod tally;
mod view;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::addr::UpstreamName;
use tally::{Tally, Timed};

pub use kept::Kept;
pub use live::Split;
pub use share::{MAX_WEIGHT, Share, choose};
pub use state_file::read;
pub use view::{Progress, RolloutView, Trial};

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
    /// Where it is kept over restarts how far it is; `None`: nowhere.
    pub state_file: Option<PathBuf>,
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
    /// When it was accepted; `None`: just now.
    pub accepted: Option<Instant>,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The step's time is over, and too few have met the canary for the next one: so many, of so many.
    Waits(u64, u32),
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
    /// It was told that the step waits for connections.
    waits: bool,
    /// Within this step.
    stable: Tally,
    canary: Tally,
    /// What the stable one has shown in the step before.
    before: Tally,
    /// Connections of the canary since it began, and those of them that failed.
    met: (u64, u64),
}

impl Rollout {
    /// At its beginning.
    pub fn new(settings: Settings, now: Instant) -> Rollout {
        let mut rollout = Rollout {
            shares: settings.shares.clone(),
            phase: Phase::Fixed,
            since: now,
            waits: false,
            stable: Tally::new(),
            canary: Tally::new(),
            before: Tally::new(),
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
                tally.time(Timed::Establish, took);
            }
        }
    }

    /// A connection that was sent to `upstream` has ended, or never came to be.
    pub fn ended(&mut self, upstream: &str, end: End) -> Option<News> {
        let End { established, failed, first_byte, accepted } = end;
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
        let is_of_before = established && accepted.is_some_and(|accepted| accepted < self.since);
        let tally = match established {
            true => self.tally(upstream)?,
            false => self.met(upstream)?,
        };
        if let Some(took) = first_byte {
            tally.time(Timed::FirstByte, took);
        }
        tally.connections += u64::from(!established);
        tally.of_before += u64::from(is_of_before);
        tally.failed += u64::from(failed);
        // That it fails is seen with the very connection; the times are looked at with every tick.
        let why = self.fails_more().filter(|_| failed && self.is_canary(upstream))?;
        Some(self.roll_back(why))
    }

    /// Its client has left before a connection to `upstream` could be established, having waited for so long. That is a failure
    /// where it was longer than the canary's p99 may be; else it says nothing, and the client may be a mere probe.
    pub fn given_up(&mut self, upstream: &str, waited: Duration) -> Option<News> {
        let bound = self.bound(Timed::Establish)?;
        if waited <= bound {
            return None;
        }
        if let Some(tally) = self.tally(upstream) {
            tally.given_up += 1;
        }
        self.ended(upstream, End { failed: true, ..End::default() })
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
        let may_end = now.saturating_duration_since(self.since) >= progressive.pause;
        if self.canary.connections < u64::from(progressive.minimum) {
            let waits = News::Waits(self.canary.connections, progressive.minimum);
            return (may_end && !std::mem::replace(&mut self.waits, true)).then_some(waits);
        }
        if !may_end {
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

    fn begin_step(&mut self, step: usize, now: Instant) {
        let percent = self
            .settings
            .progressive
            .as_ref()
            .and_then(|progressive| progressive.steps.get(step - 1).copied());
        self.give_canary(percent.unwrap_or(100).min(100));
        self.phase = Phase::Running { step };
        self.since = now;
        self.waits = false;
        self.canary = Tally::new();
        // Where it gets no more connections, what it has shown last is what there is to compare with.
        if self.stable.connections > 0 {
            self.before = std::mem::replace(&mut self.stable, Tally::new());
        }
    }

    /// Of a hundred connections; the other has the rest.
    fn give_canary(&mut self, percent: u32) {
        let Some(progressive) = &self.settings.progressive else { return };
        for share in &mut self.shares {
            share.weight = if share.upstream == progressive.canary { percent } else { 100 - percent };
        }
    }
}

#[cfg(test)]
mod tests;
