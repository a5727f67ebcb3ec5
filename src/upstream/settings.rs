//! What a configuration says about an upstream's endpoints, whoever they are.

use std::sync::Arc;
use std::time::Duration;

use super::{WhenUnready, balancer, breaker};

/// Everything the pure core of an upstream wants to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whose turn it is.
    pub balance: balancer::Balance,
    /// When an endpoint's circuit opens.
    pub breaker: breaker::Settings,
    /// When active checks flip an endpoint.
    pub rise: u32,
    /// See `rise`.
    pub fall: u32,
    /// What may be open and waiting at a time.
    pub limits: Limits,
    /// How long an endpoint takes to have all of its weight, once it comes or comes back; `None`: it has it at once.
    pub slow_start: Option<Duration>,
    /// The share of a tier, by weight, below which a part of its connections goes on to the next; `None`: all or nothing.
    pub spill_over: Option<f64>,
    /// Where we are: endpoints there come first within a tier.
    pub zone: Option<Arc<str>>,
    /// How long connections may stay at an endpoint that has left the set; `None`: as long as they last.
    pub leave_timeout: Option<Duration>,
    /// Connections end when active checks take their endpoint down.
    pub close_when_down: bool,
    /// What connections meet while nobody is ready.
    pub when_unready: WhenUnready,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            balance: balancer::Balance::default(),
            breaker: breaker::Settings::default(),
            rise: 2,
            fall: 3,
            limits: Limits::default(),
            slow_start: None,
            spill_over: None,
            zone: None,
            leave_timeout: None,
            close_when_down: false,
            when_unready: WhenUnready::default(),
        }
    }
}

/// What may be open and waiting at an upstream at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections open or being established; `None`: no limit.
    pub connections: Option<u32>,
    /// The same, at each endpoint.
    pub connections_per_endpoint: Option<u32>,
    /// Connections waiting for a place; beyond it they are refused at once.
    pub pending: u32,
    /// How long one waits for a place.
    pub queue_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: None,
            connections_per_endpoint: None,
            pending: 1024,
            queue_timeout: Duration::from_secs(5),
        }
    }
}
