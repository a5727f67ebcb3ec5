//! The endpoint set of an upstream: who is in it, who is healthy, whose circuit is open, and whose turn it is.
pub mod balancer;
pub mod breaker;
pub mod endpoint;
pub mod queue;
pub mod set;

use std::time::Duration;

use crate::addr::EndpointAddr;

/// Everything the pure core of an upstream wants to know.
#[derive(Clone, Debug, PartialEq, Default)]
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
}

/// What may be open and waiting at an upstream at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections open or being established; `None`: no limit.
    pub connections: Option<u32>,
    /// Connections waiting for a place; beyond it they are refused at once.
    pub pending: u32,
    /// How long one waits for a place.
    pub queue_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: None, pending: 1024, queue_timeout: Duration::from_secs(5) }
    }
}

/// One endpoint as a source of the set describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// Where it is.
    pub address: EndpointAddr,
    /// Its share, 1 to 1000 (0: takes no new connections).
    pub weight: u32,
    /// Used only when no primary is ready.
    pub backup: bool,
    /// SNI and the name its certificate must carry, where it differs from the upstream's.
    pub server_name: Option<String>,
}

/// STUB of U's shell: replaced when `upstream` is merged.
#[derive(Debug, Default)]
pub struct Upstream {
    endpoints: std::sync::Mutex<Vec<(EndpointId, EndpointSpec)>>,
}
/// One endpoint of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u64);
impl Upstream {
    /// A new set.
    pub fn update(&self, specs: Vec<EndpointSpec>, _now: std::time::Instant) {
        let specs = specs.into_iter().enumerate().map(|(id, spec)| (EndpointId(id as u64), spec)).collect();
        *self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = specs;
    }
    /// The set.
    pub fn endpoints(&self) -> Vec<(EndpointId, EndpointSpec)> {
        self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
    /// A check's result.
    pub fn check_result(
        &self,
        _id: EndpointId,
        _now: std::time::Instant,
        _result: Result<Duration, (crate::failure::BreakerClass, String)>,
    ) {
    }
}
