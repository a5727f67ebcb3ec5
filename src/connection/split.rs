//! A listener's split as its connections meet it: whose turn it is, and what is told of each. Leaves the shares to `rollout`.

use std::time::{Duration, Instant};

use super::Listener;
use crate::addr::UpstreamName;
use crate::failure::{Failure, Outcome, Side};
use crate::rollout::End;
use crate::route::Route;

/// The route with the upstream whose turn it is, where several have theirs.
pub(super) fn drawn(route: Route, listener: &Listener) -> Route {
    let turn = listener.split.as_ref().and_then(|split| split.choose(route.source));
    match turn {
        Some(upstream) => Route { upstream, ..route },
        None => route,
    }
}

/// It can carry data, after so long.
pub(super) fn established(listener: &Listener, route: &Route, took: Duration) {
    if let Some(split) = &listener.split {
        split.established(&route.upstream, took, Instant::now());
    }
}

/// It is over.
pub(super) fn ended(listener: &Listener, upstream: Option<&UpstreamName>, end: End) {
    if let Some((split, upstream)) = listener.split.as_ref().zip(upstream) {
        split.ended(upstream, end, Instant::now());
    }
}

/// What its client or we did says nothing about the upstream.
pub(super) fn is_upstreams(outcome: Outcome, failure: Option<&Failure>) -> bool {
    let by_upstream = failure.is_some_and(|failure| failure.side == Side::Upstream);
    by_upstream && matches!(outcome, Outcome::Failed | Outcome::Refused)
}
