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

/// An upstream at a moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: crate::addr::UpstreamName,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
    /// Waiting for a place.
    pub waiting: usize,
    /// Letting connections through open circuits.
    pub panicking: bool,
}
/// An endpoint at a moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EndpointView {
    /// Where it is.
    pub address: std::sync::Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Used only when no primary is ready.
    pub backup: bool,
    /// `unknown`, `up` or `down`.
    pub health: &'static str,
    /// `closed`, `open` or `half-open`.
    pub breaker: &'static str,
    /// Until it becomes half-open.
    pub reopens_in_ms: Option<u64>,
    /// Connections open.
    pub open: u32,
    /// Would it take one?
    pub ready: bool,
    /// Gets connections all the same.
    pub panicking: bool,
    /// The last failure.
    pub last_failure: Option<()>,
    /// Ever.
    pub established_total: u64,
    /// Ever.
    pub failed_total: u64,
    /// The latest.
    pub establish_ms: Option<u64>,
}
