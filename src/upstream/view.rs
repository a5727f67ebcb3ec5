//! An upstream as the admin interface and the metrics show it.
//!
//! Owns the shape of the answer. Leaves the words and numbers to those who know them.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::breaker::{Hold, Mode};
use super::endpoint::{Endpoint, Ready};
use super::freshness::SourceView;
use super::pool::PoolView;
use super::set::EndpointSet;
use crate::addr::UpstreamName;
use crate::failure::BreakerClass;

/// An upstream at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: UpstreamName,
    /// Its endpoints, without those that only finish what is open.
    pub endpoints: Vec<EndpointView>,
    /// Connections that wait for a place.
    pub waiting: usize,
    /// More circuits are open than `max_ejected` allows: some connections are let through them.
    pub panicking: bool,
    /// How fresh the set is, where it comes from a source that can fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceView>,
    /// Connections that are kept ready, where some are to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolView>,
}

/// An endpoint at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointView {
    /// Its name in records and metrics: where it is, as written.
    pub address: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Used only when nobody of a lower tier is ready, or by what spills over.
    pub backup: bool,
    /// Which tier that is, where it is not the first.
    #[serde(skip_serializing_if = "is_first")]
    pub tier: u16,
    /// Where it stands, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// The zones whose clients it is for, where its source says that.
    #[serde(skip_serializing_if = "is_empty")]
    pub for_zones: Arc<[Arc<str>]>,
    /// `unknown`, `up` or `down`.
    pub health: &'static str,
    /// What is in force: `closed`, `open` or `half-open`.
    pub breaker: &'static str,
    /// What the rules come to, where that is not in force: in shadow mode, or under an operator's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker_shadow: Option<&'static str>,
    /// What an operator ordered, and holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorView>,
    /// Until the circuit becomes half-open, while its rules have it open and await no health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reopens_in_ms: Option<u64>,
    /// Connections open or being established.
    pub open: u32,
    /// Would it take a connection now, if only as a trial, or once one of those it has ends?
    pub ready: bool,
    /// Its limit, while it has as many connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_at: Option<u32>,
    /// It is not ready, and gets connections all the same, because too many others are not.
    pub panicking: bool,
    /// The last thing that went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailureView>,
    /// Connections that were established, ever.
    pub established_total: u64,
    /// Connections that failed, ever: before they were established, or soon after.
    pub failed_total: u64,
    /// How long the latest took to be established.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub establish_ms: Option<u64>,
}

/// What an operator ordered of an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorView {
    /// It takes no new connections.
    pub drained: bool,
    /// How its circuit is held: `open` or `closed`; `auto`: by its rules.
    pub circuit: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(tier: &u16) -> bool {
    *tier == 0
}

fn is_empty(zones: &Arc<[Arc<str>]>) -> bool {
    zones.is_empty()
}

/// The last thing that went wrong at an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct LastFailureView {
    /// What the circuit counts it as.
    pub class: BreakerClass,
    /// What was seen.
    pub detail: Box<str>,
    /// How long ago.
    pub ago_ms: u64,
}

impl Endpoint {
    fn operator(&self) -> Option<OperatorView> {
        let held = self.breaker.held();
        let circuit = held.map_or("auto", Hold::label);
        (self.drained || held.is_some()).then_some(OperatorView { drained: self.drained, circuit })
    }
}

impl EndpointSet {
    /// What is known of the members at `now`.
    pub(super) fn view(&mut self, now: Instant) -> Vec<EndpointView> {
        let through = self.census(now, &[]);
        let ms = |duration: std::time::Duration| duration.as_millis() as u64;
        let members = self.endpoints.iter().enumerate().filter(|(_, endpoint)| !endpoint.leaving);
        members
            .map(|(place, endpoint)| EndpointView {
                address: endpoint.label.clone(),
                weight: endpoint.spec.weight,
                backup: endpoint.spec.is_backup(),
                tier: endpoint.spec.tier,
                zone: endpoint.spec.zone.clone(),
                for_zones: endpoint.spec.for_zones.clone(),
                health: endpoint.health().label(),
                breaker: endpoint.breaker.state(now).label(),
                breaker_shadow: (endpoint.breaker.mode() == Mode::Shadow)
                    .then(|| endpoint.breaker.detected(now).label()),
                operator: endpoint.operator(),
                reopens_in_ms: endpoint
                    .breaker
                    .opens_again(now)
                    .map(|again| ms(again.saturating_duration_since(now))),
                open: endpoint.open,
                ready: matches!(endpoint.ready(now), Ready::Yes | Ready::Full),
                full_at: endpoint.most.filter(|_| endpoint.ready(now) == Ready::Full),
                panicking: through.binary_search(&place).is_ok(),
                last_failure: endpoint.last_failure.as_ref().map(|last| LastFailureView {
                    class: last.class,
                    detail: last.detail.clone(),
                    ago_ms: ms(now.saturating_duration_since(last.at)),
                }),
                established_total: endpoint.established_total,
                failed_total: endpoint.failed_total,
                establish_ms: endpoint.took.map(ms),
            })
            .collect()
    }
}
