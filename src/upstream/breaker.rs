//! The circuit of one endpoint: closed, open, half-open. Pure; leaves to `set` what to do when too many are open.
//!
//! A connection carries a [`Pass`] and gives one verdict. It **failed** when it was not established, or ended with a
//! breaker class. It **proved** the endpoint when it was established and then ended well or lived for `early_close`,
//! whichever came first. Anything else (the client left early) says nothing. Being established alone proves nothing: a
//! server that takes the handshake and hangs up would look healthy for ever.
//!
//! - **closed**: opens after `consecutive` failures with no proof in between (by a connection that was established after
//!   the first of them: old ones that still live say nothing), or when `failure_rate` of the window's connections failed.
//! - **open**: until a time that doubles with every failed trial, or until a health check passes that failed while it was
//!   open. A check that never failed cannot see the fault, and its passing says nothing.
//! - **half-open**: at most `half_open_trials` trials without a verdict at a time. The first proof closes it, the first
//!   failure opens it for twice as long.
//!
//! A verdict of a connection that began before the last opening or closing is dropped. Connections that the set lets
//! through an open circuit (a panic) may close it by a proof; their failures change nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{self, Window};
use crate::failure::BreakerClass;

/// When a circuit opens and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Failures in a row that open it; `None`: that rule is off.
    pub consecutive: Option<u32>,
    /// Share of failed connections within `window` that opens it, 0 to 1; `None`: that rule is off.
    pub failure_rate: Option<f64>,
    /// The time that `failure_rate` looks back.
    pub window: Duration,
    /// Connections within `window` below which `failure_rate` does not speak.
    pub minimum: u32,
    /// How long it stays open the first time; doubles with every failed trial, jittered.
    pub open_for: Duration,
    /// The longest it stays open.
    pub max_open: Duration,
    /// Connections that may try at a time when it is half-open.
    pub half_open_trials: u32,
    /// Share of the set's endpoints that may be out at a time, 0 to 1; beyond it the breaker lets connections through, and says so.
    pub max_ejected: f64,
    /// A connection that the server ends within this time of the handshake, without a byte, counts as a failure.
    pub early_close: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            consecutive: Some(5),
            failure_rate: None,
            window: Duration::from_secs(30),
            minimum: 20,
            open_for: Duration::from_secs(5),
            max_open: Duration::from_secs(120),
            half_open_trials: 1,
            max_ejected: 0.5,
            early_close: Duration::from_secs(1),
        }
    }
}

/// What a circuit is at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Everyone may pass.
    Closed,
    /// A few may try.
    HalfOpen,
    /// Nobody may pass.
    Open,
}

impl State {
    /// The word in logs, labels and the API.
    pub fn label(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::HalfOpen => "half-open",
            State::Open => "open",
        }
    }
}

/// A change of state, for the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state now.
    pub to: State,
    /// What made it so, for a person.
    pub why: String,
}

/// What a connection carries from being picked to its verdict. Made by [`Breaker::admit`], used up by the verdict.
#[derive(Debug)]
pub struct Pass {
    number: u64,
    era: u32,
    trial: bool,
    established: Option<Instant>,
}

impl Pass {
    /// Does it hold one of the half-open circuit's trials?
    pub fn is_trial(&self) -> bool {
        self.trial
    }
}

/// The circuit of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    settings: Arc<Settings>,
    circuit: Circuit,
    /// Counts openings and closings: a pass of an older era has no say.
    era: u32,
    passes: u64,
    /// Failures without a proof in between.
    streak: u32,
    streak_began: Option<Instant>,
    /// One established connection, not a trial, that is watched until it has lived for `early_close`. One is enough: if it
    /// fails or leaves, the next that is established takes its place.
    witness: Option<(u64, Instant)>,
    /// Established connections (a late failure is moved over) and failed ones.
    window: Option<Window>,
}

#[derive(Debug)]
enum Circuit {
    Closed,
    Open { until: Instant, failed_trials: u32, why: String, check_failed: bool },
    HalfOpen { failed_trials: u32, trials: Vec<Trial>, why: String },
}

/// A trial without a verdict.
#[derive(Debug)]
struct Trial {
    number: u64,
    established: Option<Instant>,
}

impl Breaker {
    /// A closed circuit.
    pub fn new(settings: Arc<Settings>, now: Instant) -> Self {
        let window = settings.failure_rate.map(|_| Window::new(settings.window, now));
        Breaker {
            settings,
            circuit: Circuit::Closed,
            era: 0,
            passes: 0,
            streak: 0,
            streak_began: None,
            witness: None,
            window,
        }
    }

    /// Other settings from now on: what was counted stays, and so does the circuit. It is open no longer than they allow,
    /// and closed where no rule is left that could have opened it.
    pub(super) fn reconfigure(&mut self, settings: Arc<Settings>, now: Instant) -> Option<Transition> {
        let same_window = self.window.is_some() && self.settings.window == settings.window;
        self.window = settings.failure_rate.and_then(|_| match same_window {
            true => self.window.take(),
            false => Some(Window::new(settings.window, now)),
        });
        if let Circuit::Open { until, .. } = &mut self.circuit {
            *until = (*until).min(now + settings.max_open);
        }
        let is_off = settings.consecutive.is_none() && settings.failure_rate.is_none();
        self.settings = settings;
        if is_off { self.proved("its rules were turned off") } else { None }
    }

    /// What it is at `now`.
    pub fn state(&self, now: Instant) -> State {
        match &self.circuit {
            Circuit::Closed => State::Closed,
            _ if self.proved_by_time(now) => State::Closed,
            Circuit::Open { until, .. } if now < *until => State::Open,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// May a connection pass at `now`? When half-open: is a trial free?
    pub fn admits(&self, now: Instant) -> bool {
        match (self.state(now), &self.circuit) {
            (State::Closed, _) => true,
            (State::Open, _) => false,
            (State::HalfOpen, Circuit::HalfOpen { trials, .. }) => {
                trials.len() < self.settings.half_open_trials.max(1) as usize
            }
            (State::HalfOpen, _) => true,
        }
    }

    /// When it becomes half-open, if it is open at `now`.
    pub fn opens_again(&self, now: Instant) -> Option<Instant> {
        match (self.state(now), &self.circuit) {
            (State::Open, Circuit::Open { until, .. }) => Some(*until),
            _ => None,
        }
    }

    /// Why it is not closed, for a person.
    pub fn why(&self) -> Option<&str> {
        match &self.circuit {
            Circuit::Closed => None,
            Circuit::Open { why, .. } | Circuit::HalfOpen { why, .. } => Some(why),
        }
    }

    /// How bad it looks: trials that failed since it was last closed.
    pub fn failed_trials(&self) -> u32 {
        match &self.circuit {
            Circuit::Closed => 0,
            Circuit::Open { failed_trials, .. } | Circuit::HalfOpen { failed_trials, .. } => *failed_trials,
        }
    }

    /// Trials without a verdict.
    pub fn trials(&self) -> usize {
        match &self.circuit {
            Circuit::HalfOpen { trials, .. } => trials.len(),
            Circuit::Closed | Circuit::Open { .. } => 0,
        }
    }

    /// Lets time act: an open circuit becomes half-open, a connection that lived for `early_close` proves the endpoint.
    /// Called before anything else at `now`; says what changed.
    pub fn advance(&mut self, now: Instant) -> Option<Transition> {
        if self.proved_by_time(now) {
            return self.proved("a connection was established and lasted");
        }
        match &self.circuit {
            Circuit::Open { until, .. } if *until <= now => {
                self.half_open("its time is over: it may be tried")
            }
            _ => None,
        }
    }

    /// A connection is picked. A pass is given whether or not [`Breaker::admits`]: the set lets some through in a panic.
    pub fn admit(&mut self, now: Instant) -> Pass {
        let trial = self.admits(now);
        self.passes += 1;
        let number = self.passes;
        let trial = match &mut self.circuit {
            Circuit::HalfOpen { trials, .. } if trial => {
                trials.push(Trial { number, established: None });
                true
            }
            _ => false,
        };
        Pass { number, era: self.era, trial, established: None }
    }

    /// It is connected, through TLS where there is TLS. Not yet a verdict.
    pub fn established(&mut self, pass: &mut Pass, now: Instant) {
        pass.established = Some(now);
        if pass.era != self.era {
            return;
        }
        match &mut self.circuit {
            Circuit::HalfOpen { trials, .. } if pass.trial => {
                if let Some(trial) = trials.iter_mut().find(|trial| trial.number == pass.number) {
                    trial.established = Some(now);
                }
            }
            Circuit::Closed if self.streak == 0 => {}
            _ => self.witness = self.witness.or(Some((pass.number, now))),
        }
        if let (Circuit::Closed, Some(window)) = (&self.circuit, &mut self.window) {
            window.add(now, 1, 0);
        }
    }

    /// It was not established, or ended badly.
    pub fn failed(
        &mut self,
        pass: Pass,
        now: Instant,
        class: BreakerClass,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        self.forget(&pass);
        if pass.era != self.era {
            return None;
        }
        match &self.circuit {
            Circuit::Closed => self.count_failure(&pass, now, class, rng),
            Circuit::HalfOpen { failed_trials, .. } if pass.trial => {
                let failed_trials = failed_trials.saturating_add(1);
                Some(self.open(now, failed_trials, format!("a trial failed: {}", in_words(class)), rng))
            }
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => None,
        }
    }

    /// It ended, and the upstream did nothing wrong.
    pub fn ended_well(&mut self, pass: Pass) -> Option<Transition> {
        self.forget(&pass);
        let established = pass.established.filter(|_| pass.era == self.era)?;
        match self.circuit {
            Circuit::Closed if self.streak_began.is_none_or(|began| established < began) => None,
            _ => self.proved("a connection was established and ended well"),
        }
    }

    /// It ended in a way that says nothing about the endpoint.
    pub fn released(&mut self, pass: Pass) {
        self.forget(&pass);
    }

    /// An active health check passed or failed.
    pub fn checked(&mut self, passed: bool) -> Option<Transition> {
        match &mut self.circuit {
            Circuit::Open { check_failed, .. } if !passed => *check_failed = true,
            Circuit::Open { check_failed: true, .. } => {
                return self.half_open("a health check passes again: it may be tried");
            }
            _ => {}
        }
        None
    }

    /// Other checks than before, or none: that one failed says nothing about what the next ones can see.
    pub(super) fn forget_checks(&mut self) {
        if let Circuit::Open { check_failed, .. } = &mut self.circuit {
            *check_failed = false;
        }
    }

    fn proved_by_time(&self, now: Instant) -> bool {
        let lasted = |at: Instant| now.saturating_duration_since(at) >= self.settings.early_close;
        self.witness.is_some_and(|(_, at)| lasted(at))
            || match &self.circuit {
                Circuit::HalfOpen { trials, .. } => {
                    trials.iter().any(|trial| trial.established.is_some_and(lasted))
                }
                Circuit::Closed | Circuit::Open { .. } => false,
            }
    }

    fn proved(&mut self, why: &str) -> Option<Transition> {
        self.streak = 0;
        self.streak_began = None;
        self.witness = None;
        if matches!(self.circuit, Circuit::Closed) {
            return None;
        }
        self.enter(Circuit::Closed);
        Some(Transition { to: State::Closed, why: why.into() })
    }

    fn count_failure(
        &mut self,
        pass: &Pass,
        now: Instant,
        class: BreakerClass,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        self.streak = self.streak.saturating_add(1);
        self.streak_began = self.streak_began.or(Some(now));
        let streak = self.streak;
        if self.settings.consecutive.is_some_and(|limit| streak >= limit.max(1)) {
            return Some(self.open(now, 0, format!("{streak} × {}", in_words(class)), rng));
        }
        let rate = self.settings.failure_rate?;
        let window = self.window.as_mut()?;
        if let Some(then) = pass.established {
            window.take_back_left(now, then);
        }
        window.add(now, 0, 1);
        let (well, failed) = window.sums(now);
        let all = well.saturating_add(failed);
        let share = f64::from(failed) / f64::from(all.max(1));
        if all < self.settings.minimum || share < rate {
            return None;
        }
        let why = format!("{failed} of {all} connections failed, the last by {}", in_words(class));
        Some(self.open(now, 0, why, rng))
    }

    fn open(&mut self, now: Instant, failed_trials: u32, why: String, rng: &mut fastrand::Rng) -> Transition {
        let Settings { open_for, max_open, .. } = *self.settings;
        // Shortened by up to a quarter, never lengthened: ambassadors that saw the same failure do not try again all at
        // once, and what the file calls the longest is the longest.
        let length = backoff::doubled(open_for, failed_trials, max_open).mul_f64(0.75 + 0.25 * rng.f64());
        let transition =
            Transition { to: State::Open, why: format!("{why}; for {:.1} s", length.as_secs_f64()) };
        self.enter(Circuit::Open { until: now + length, failed_trials, why, check_failed: false });
        transition
    }

    fn half_open(&mut self, reason: &str) -> Option<Transition> {
        let Circuit::Open { failed_trials, why, .. } = &mut self.circuit else { return None };
        // Not a new era: what was let through while it was open may still prove the endpoint.
        let why = std::mem::take(why);
        self.circuit = Circuit::HalfOpen { failed_trials: *failed_trials, trials: Vec::new(), why };
        Some(Transition { to: State::HalfOpen, why: reason.into() })
    }

    fn enter(&mut self, circuit: Circuit) {
        self.circuit = circuit;
        self.era = self.era.wrapping_add(1);
        self.streak = 0;
        self.streak_began = None;
        self.witness = None;
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }

    /// Its trial, and its place as the witness, are free again.
    fn forget(&mut self, pass: &Pass) {
        if let Circuit::HalfOpen { trials, .. } = &mut self.circuit {
            trials.retain(|trial| trial.number != pass.number);
        }
        self.witness = self.witness.filter(|(number, _)| *number != pass.number);
    }
}

/// A failure's class as a person reads it.
pub fn in_words(class: BreakerClass) -> &'static str {
    match class {
        BreakerClass::Refused => "connection refused",
        BreakerClass::Timeout => "no answer in time",
        BreakerClass::Handshake => "handshake failed",
        BreakerClass::CertificateRefused => "our certificate refused",
        BreakerClass::EarlyClose => "closed right after the handshake",
    }
}

#[cfg(test)]
mod tests;
