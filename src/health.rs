//! Active health checks.
use std::time::Duration;
/// How an upstream's endpoints are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is done; `None`: the deepest that the upstream has.
    pub kind: Option<Kind>,
    /// Time between two checks of an endpoint.
    pub interval: Duration,
    /// Time one may take.
    pub timeout: Duration,
    /// Passed checks in a row that make it healthy.
    pub rise: u32,
    /// Failed checks in a row that make it unhealthy.
    pub fall: u32,
    /// Share of `interval` by which each pause is drawn shorter or longer.
    pub jitter: f64,
}
impl Default for Settings {
    fn default() -> Self {
        Settings {
            kind: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            jitter: 0.1,
        }
    }
}
/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: only the breaker judges.
    Off,
    /// Connects.
    Tcp,
    /// Connects and goes through the TLS handshake, our certificate included.
    Tls,
}
