//! A listener's split as its connections meet it: whose turn it is, and what is told of each. Leaves the shares to `rollout`.

use std::time::{Duration, Instant};

use super::Listener;
use crate::failure::{Outcome, Side};
use crate::record::{Ending, Record};
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

/// It is over. What its client or we did says nothing about the upstream.
pub(super) fn ended(listener: &Listener, record: &Record, ending: &Ending) {
    let Some((split, upstream)) = listener.split.as_ref().zip(record.upstream()) else { return };
    let by_upstream = ending.failure.as_ref().is_some_and(|failure| failure.side == Side::Upstream);
    let end = End {
        established: record.is_relaying(),
        failed: by_upstream && matches!(ending.outcome, Outcome::Failed | Outcome::Refused),
        first_byte: record.flow().first_byte(),
    };
    split.ended(upstream, end, Instant::now());
}
