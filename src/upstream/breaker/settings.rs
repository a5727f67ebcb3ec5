//! What a circuit goes by: its limits, how much each class of failure counts, who makes the trials.

use std::time::Duration;

use crate::failure::BreakerClass;

/// When a circuit opens and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Failures in a row that open it; `None`: that rule is off.
    pub consecutive: Option<u32>,
    /// Share of failed connections within `window` that opens it, 0 to 1; `None`: that rule is off.
    pub failure_rate: Option<f64>,
    /// The time that `failure_rate` and `outlier` look back.
    pub window: Duration,
    /// Connections within `window` below which `failure_rate` and `outlier` do not speak.
    pub minimum: u32,
    /// Standard deviations below the success rate of the set's others that open it; `None`: that rule is off.
    pub outlier: Option<f64>,
    /// Endpoints with enough connections below which `outlier` does not speak.
    pub outlier_endpoints: u32,
    /// How much a failure counts, by its class.
    pub weights: Weights,
    /// How long it stays open the first time; doubles with every failed trial, jittered.
    pub open_for: Duration,
    /// The longest it stays open.
    pub max_open: Duration,
    /// Connections that may try at a time when it is half-open.
    pub half_open_trials: u32,
    /// Who finds out whether an open circuit may be tried.
    pub trials: Trials,
    /// Share of the set's endpoints that may be out at a time, 0 to 1; beyond it the breaker lets connections through, and says so.
    pub max_ejected: f64,
    /// A connection that the server ends within this time of the handshake, without a byte, counts as a failure.
    pub early_close: Duration,
    /// The same for a connection that lived longer, as another class; `None`: it does not count.
    pub zero_byte: Option<Duration>,
    /// A client's first words that wait longer for the first byte of their answer count as a failure; `None`: they do not.
    pub slow_first_byte: Option<Duration>,
    /// Everything is detected, and nothing is enforced.
    pub shadow: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            consecutive: Some(5),
            failure_rate: None,
            window: Duration::from_secs(30),
            minimum: 20,
            outlier: None,
            outlier_endpoints: 5,
            weights: Weights::default(),
            open_for: Duration::from_secs(5),
            max_open: Duration::from_secs(120),
            half_open_trials: 1,
            trials: Trials::default(),
            max_ejected: 0.5,
            early_close: Duration::from_secs(1),
            zero_byte: None,
            slow_first_byte: None,
            shadow: false,
        }
    }
}

impl Settings {
    /// How long an established connection that says nothing has to live until that speaks for its endpoint.
    pub(super) fn lasting(&self) -> Duration {
        self.early_close.max(self.zero_byte.unwrap_or_default())
    }

    /// Is there a rule that opens a circuit?
    pub(super) fn has_rules(&self) -> bool {
        self.consecutive.is_some() || self.has_window()
    }

    /// Is there a rule that looks back?
    pub(super) fn has_window(&self) -> bool {
        self.failure_rate.is_some() || self.outlier.is_some()
    }
}

/// How many failures one of each class counts as; 0: it is none, and says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights([u32; BreakerClass::ALL.len()]);

impl Default for Weights {
    fn default() -> Self {
        Weights([1; BreakerClass::ALL.len()])
    }
}

impl Weights {
    /// What a failure of this class counts.
    pub fn of(&self, class: BreakerClass) -> u32 {
        self.0[class as usize]
    }

    /// From now on it counts so much.
    pub fn set(&mut self, class: BreakerClass, weight: u32) {
        self.0[class as usize] = weight;
    }
}

/// Who finds out whether an open circuit may be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trials {
    /// A client's connection, once its time is over.
    #[default]
    Clients,
    /// A health check that passes once its time is over: no client meets what a check can see.
    Checks,
}
