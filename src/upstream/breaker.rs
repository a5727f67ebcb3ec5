//! The circuit of one endpoint: closed, open, half-open.
use std::time::Duration;
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
