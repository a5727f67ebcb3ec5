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
//!
//! Where a slow first byte or a silent end counts as a failure, living on proves less: a client that awaits an answer proves
//! nothing until it has it, and silence has to last for as long as it might end badly.
//!
//! With `trials = "checks"` time alone makes nothing half-open, but a health check that passes behind it. Checks that say
//! nothing at all for `max_open` are not waited for: a circuit that nobody tries would stay open for ever.
//!
//! A failure counts as often as its class weighs; one that weighs nothing says nothing. What is in force beside these rules
//! is in [`hold`]. Leaves comparing endpoints (`outlier`) to the set.

mod hold;
mod pass;
mod settings;
mod tally;

use std::sync::Arc;
use std::time::Instant;

use crate::backoff;
use crate::failure::BreakerClass;

pub use hold::{Hold, Mode};
pub use pass::Pass;
pub use settings::{Settings, Trials, Weights};
use tally::Tally;

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
    /// Did it come into force?
    pub mode: Mode,
}

/// The circuit of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    settings: Arc<Settings>,
    circuit: Circuit,
    held: Option<Hold>,
    /// Counts openings and closings: a pass of an older era has no say.
    era: u32,
    passes: u64,
    tally: Tally,
    /// One established connection, not a trial, that is watched until it has lived for long enough, and when that is. One is
    /// enough: if it fails or leaves, the next that is established takes its place.
    witness: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum Circuit {
    Closed,
    Open {
        until: Instant,
        failed_trials: u32,
        why: String,
        check_failed: bool,
        /// When a check last said anything.
        checked: Option<Instant>,
    },
    HalfOpen {
        failed_trials: u32,
        trials: Vec<Trial>,
        why: String,
    },
}

/// A trial without a verdict.
#[derive(Debug)]
struct Trial {
    number: u64,
    /// When living on will have proved the endpoint; `None`: it is not established, or its client awaits an answer.
    proves: Option<Instant>,
}

impl Breaker {
    /// A closed circuit.
    pub fn new(settings: Arc<Settings>, now: Instant) -> Self {
        Breaker {
            tally: Tally::new(&settings, now),
            settings,
            circuit: Circuit::Closed,
            held: None,
            era: 0,
            passes: 0,
            witness: None,
        }
    }

    /// Other settings from now on: what was counted stays, and so does the circuit. It is open no longer than they allow,
    /// and closed where no rule is left that could have opened it.
    pub(super) fn reconfigure(&mut self, settings: Arc<Settings>, now: Instant) -> Option<Transition> {
        let before = self.state(now);
        self.tally.reconfigure(&self.settings, &settings, now);
        if let Circuit::Open { until, .. } = &mut self.circuit {
            *until = (*until).min(now + settings.max_open);
        }
        let has_rules = settings.has_rules();
        self.settings = settings;
        match has_rules {
            true => self.in_force_since(before, "breaker.shadow was changed", now),
            false => self.proved("its rules were turned off"),
        }
    }

    /// What the rules come to at `now`.
    pub fn detected(&self, now: Instant) -> State {
        match &self.circuit {
            Circuit::Closed => State::Closed,
            _ if self.proved_by_time(now) => State::Closed,
            Circuit::Open { .. } if !self.is_due(now) => State::Open,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Would the rules let a connection pass at `now`? When half-open: is a trial free?
    fn has_room(&self, now: Instant) -> bool {
        match (self.detected(now), &self.circuit) {
            (State::Closed, _) => true,
            (State::Open, _) => false,
            (State::HalfOpen, Circuit::HalfOpen { trials, .. }) => {
                trials.len() < self.settings.half_open_trials.max(1) as usize
            }
            (State::HalfOpen, _) => true,
        }
    }

    /// When time alone makes it half-open, if it is open.
    fn due(&self) -> Option<Instant> {
        match (&self.circuit, self.settings.trials) {
            (Circuit::Open { until, .. }, Trials::Clients) => Some(*until),
            (Circuit::Open { until, checked, .. }, Trials::Checks) => {
                let heard = checked.map_or(*until, |checked| checked.max(*until));
                Some(heard + self.settings.max_open)
            }
            (Circuit::Closed | Circuit::HalfOpen { .. }, _) => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// When time alone changes what it is at `now`: it may be tried then, or something has lasted for long enough.
    pub(super) fn changes_at(&self, now: Instant) -> Option<Instant> {
        let trials = match &self.circuit {
            Circuit::HalfOpen { trials, .. } => trials.as_slice(),
            Circuit::Closed | Circuit::Open { .. } => &[],
        };
        let witness = self.witness.map(|(_, then)| then);
        let lasting = trials.iter().filter_map(|trial| trial.proves).chain(witness);
        lasting.chain(self.due()).filter(|then| now < *then).min()
    }

    /// When it becomes half-open, if the rules have it open at `now`, and it awaits no check.
    pub fn opens_again(&self, now: Instant) -> Option<Instant> {
        match (self.detected(now), &self.circuit) {
            (State::Open, Circuit::Open { until, .. }) => Some(*until).filter(|until| now < *until),
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
        match self.is_due(now) {
            true => self.half_open("its time is over: it may be tried"),
            false => None,
        }
    }

    /// A connection is picked. A pass is given whether or not [`Breaker::admits`]: the set lets some through in a panic.
    pub fn admit(&mut self, now: Instant) -> Pass {
        let trial = self.has_room(now);
        self.passes += 1;
        let number = self.passes;
        let trial = match &mut self.circuit {
            Circuit::HalfOpen { trials, .. } if trial => {
                trials.push(Trial { number, proves: None });
                true
            }
            _ => false,
        };
        Pass { number, era: self.era, trial, established: None, spent: false }
    }

    /// It is connected, through TLS where there is TLS. Not yet a verdict.
    pub fn established(&mut self, pass: &mut Pass, now: Instant) {
        pass.established = Some(now);
        if pass.era != self.era {
            return;
        }
        self.proves_from(pass, now + self.settings.lasting());
        if matches!(self.circuit, Circuit::Closed) {
            self.tally.established(now);
        }
    }

    /// Its client awaits its first answer: until that has come, living on proves nothing.
    pub fn asks(&mut self, pass: &Pass) {
        match &mut self.circuit {
            Circuit::HalfOpen { trials, .. } if pass.trial => trials
                .iter_mut()
                .filter(|trial| trial.number == pass.number)
                .for_each(|trial| trial.proves = None),
            _ => self.unwatch(pass),
        }
    }

    /// The server said something, and in time. If that was no, it ends at once.
    pub fn answers(&mut self, pass: &Pass, now: Instant) {
        let counts = pass.era == self.era && !pass.spent;
        let established = pass.established.filter(|_| counts);
        if established.is_some_and(|at| pass.trial || self.tally.began().is_none_or(|began| began <= at)) {
            self.unwatch(pass);
            self.proves_from(pass, now + self.settings.early_close);
        }
    }

    /// Living on until then proves the endpoint.
    fn proves_from(&mut self, pass: &Pass, then: Instant) {
        match &mut self.circuit {
            Circuit::HalfOpen { trials, .. } if pass.trial => trials
                .iter_mut()
                .filter(|trial| trial.number == pass.number)
                .for_each(|trial| trial.proves = Some(then)),
            Circuit::Closed if self.tally.began().is_none() => {}
            _ => self.witness = self.witness.or(Some((pass.number, then))),
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
        if pass.era != self.era || pass.spent {
            return None;
        }
        match &self.circuit {
            Circuit::Closed => {
                let why = self.tally.failed(&pass, now, class, &self.settings)?;
                Some(self.open(now, 0, why, rng))
            }
            _ if self.settings.weights.of(class) == 0 => None,
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
            Circuit::Closed if self.tally.began().is_none_or(|began| established < began) => None,
            _ => self.proved("a connection was established and ended well"),
        }
    }

    /// It ended in a way that says nothing about the endpoint.
    pub fn released(&mut self, pass: Pass) {
        self.forget(&pass);
    }

    /// It does worse than others.
    pub(super) fn eject(&mut self, now: Instant, why: String, rng: &mut fastrand::Rng) -> Option<Transition> {
        matches!(self.circuit, Circuit::Closed).then(|| self.open(now, 0, why, rng))
    }

    /// Connections of the window: those that went well so far, and what the failed ones weigh.
    pub(super) fn counted(&mut self, now: Instant) -> (u32, u32) {
        self.tally.counted(now)
    }

    /// An active health check passed or failed.
    pub fn checked(&mut self, passed: bool, now: Instant) -> Option<Transition> {
        let Circuit::Open { check_failed, checked, until, .. } = &mut self.circuit else { return None };
        *checked = Some(now);
        let is_trial = self.settings.trials == Trials::Checks && *until <= now;
        match (passed, *check_failed) {
            (false, _) => {
                *check_failed = true;
                None
            }
            (true, true) => self.half_open("a health check passes again: it may be tried"),
            (true, false) if is_trial => {
                self.half_open("its time is over, and a health check passes: it may be tried")
            }
            (true, false) => None,
        }
    }

    /// Other checks than before, or none: that one failed says nothing about what the next ones can see.
    pub(super) fn forget_checks(&mut self) {
        if let Circuit::Open { check_failed, .. } = &mut self.circuit {
            *check_failed = false;
        }
    }

    fn proved_by_time(&self, now: Instant) -> bool {
        let lasted = |then: Instant| then <= now;
        self.witness.is_some_and(|(_, then)| lasted(then))
            || match &self.circuit {
                Circuit::HalfOpen { trials, .. } => {
                    trials.iter().any(|trial| trial.proves.is_some_and(lasted))
                }
                Circuit::Closed | Circuit::Open { .. } => false,
            }
    }

    fn proved(&mut self, why: &str) -> Option<Transition> {
        self.tally.forget_streak();
        self.witness = None;
        if matches!(self.circuit, Circuit::Closed) {
            return None;
        }
        self.enter(Circuit::Closed);
        Some(Transition { to: State::Closed, why: why.into(), mode: self.mode() })
    }

    fn open(&mut self, now: Instant, failed_trials: u32, why: String, rng: &mut fastrand::Rng) -> Transition {
        let Settings { open_for, max_open, .. } = *self.settings;
        // Shortened by up to a quarter, never lengthened: ambassadors that saw the same failure do not try again all at
        // once, and what the file calls the longest is the longest.
        let length = backoff::doubled(open_for, failed_trials, max_open).mul_f64(0.75 + 0.25 * rng.f64());
        let transition = Transition {
            to: State::Open,
            why: format!("{why}; for {:.1} s", length.as_secs_f64()),
            mode: self.mode(),
        };
        let until = now + length;
        self.enter(Circuit::Open { until, failed_trials, why, check_failed: false, checked: None });
        transition
    }

    fn half_open(&mut self, reason: &str) -> Option<Transition> {
        let Circuit::Open { failed_trials, why, .. } = &mut self.circuit else { return None };
        // Not a new era: what was let through while it was open may still prove the endpoint.
        let why = std::mem::take(why);
        self.circuit = Circuit::HalfOpen { failed_trials: *failed_trials, trials: Vec::new(), why };
        Some(Transition { to: State::HalfOpen, why: reason.into(), mode: self.mode() })
    }

    fn enter(&mut self, circuit: Circuit) {
        self.circuit = circuit;
        self.era = self.era.wrapping_add(1);
        self.tally.clear();
        self.witness = None;
    }

    /// Its trial, and its place as the witness, are free again.
    fn forget(&mut self, pass: &Pass) {
        if let Circuit::HalfOpen { trials, .. } = &mut self.circuit {
            trials.retain(|trial| trial.number != pass.number);
        }
        self.unwatch(pass);
    }

    fn unwatch(&mut self, pass: &Pass) {
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
        BreakerClass::ZeroByte => "closed without a byte",
        BreakerClass::Slow => "first byte too late",
        BreakerClass::Overloaded => "no place, or not now, says the server",
    }
}

#[cfg(test)]
mod tests;
