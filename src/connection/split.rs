//! A listener's split as its connections meet it: whose turn it is, and what is told of each. Leaves the shares to `rollout`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Listener;
use crate::addr::UpstreamName;
use crate::context::Context;
use crate::establish::Target;
use crate::failure::{Outcome, Reason, Side};
use crate::protocol::Opening;
use crate::record::{Ending, Seen};
use crate::rollout::End;
use crate::route::Route;

/// The route with the upstream whose turn it is, where several have theirs and the client has named neither one of them nor an
/// endpoint.
pub(super) fn drawn(route: Route, asked: &Context, listener: &Listener) -> Route {
    let names_none = asked.options.upstream.is_none() && asked.options.endpoint.is_none();
    let split = listener.split.as_ref().filter(|_| names_none);
    match split.and_then(|split| split.choose(route.source)) {
        Some(upstream) => Route { upstream, ..route },
        None => route,
    }
}

/// Where the session is that the client wants to have cancelled; `None`: it wants nothing of that kind, or it is nowhere.
pub(super) fn holding<'a>(opening: &Opening, listener: &'a Listener) -> Option<(Route, &'a Arc<Target>)> {
    let (split, key) = listener.split.as_ref().zip(opening.cancels.as_ref())?;
    split.settings().shares.into_iter().find_map(|share| {
        let target = listener.targets.get(&share.upstream)?;
        target.upstream.sessions().find(key)?;
        Some((Route { upstream: share.upstream, source: 0 }, target))
    })
}

/// It can carry data, after so long; `None`: it was ready before its client came.
pub(super) fn established(listener: &Listener, route: &Route, took: Option<Duration>) {
    if let Some(split) = &listener.split {
        split.established(&route.upstream, took, Instant::now());
    }
}

/// Its client has left before it could carry data, having waited for so long.
pub(super) fn given_up(listener: &Listener, upstream: &str, waited: Duration) {
    if let Some(split) = &listener.split {
        split.given_up(upstream, waited, Instant::now());
    }
}

/// It is over; of those only that had something to carry, and none that only cancels.
pub(super) fn ended(listener: &Listener, upstream: Option<&UpstreamName>, seen: &Seen, ending: &Ending) {
    if let Some((split, upstream)) = listener.split.as_ref().zip(upstream).filter(|_| !seen.cancels) {
        let now = Instant::now();
        let end = End { accepted: now.checked_sub(seen.lasted), ..end(seen, ending) };
        split.ended(upstream, end, now);
    }
}

/// What its end says of the upstream. What its client did says nothing, nor what we do to everybody.
fn end(seen: &Seen, ending: &Ending) -> End {
    let ours = |reason| matches!(reason, Reason::Draining | Reason::LifetimeReached | Reason::IdleTimeout);
    let not_the_clients =
        ending.failure.as_ref().is_some_and(|failure| failure.side != Side::Client && !ours(failure.reason));
    let is_bad = not_the_clients && matches!(ending.outcome, Outcome::Failed | Outcome::Refused);
    // Asked, and left without an answer: however orderly that looks.
    let silent = seen.sent > 0 && seen.received == 0;
    End {
        established: seen.established,
        failed: is_bad || silent && ending.closed_by == Some(Side::Upstream),
        first_byte: seen.first_byte.or(silent.then_some(seen.lasted)),
        accepted: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Stage};

    const SERVED: Seen = Seen {
        cancels: false,
        established: true,
        was_warm: false,
        sent: 10,
        received: 20,
        first_byte: Some(Duration::from_millis(3)),
        lasted: Duration::from_secs(5),
    };

    fn ending(outcome: Outcome, failure: Option<(Reason, Side)>, closed_by: Side) -> Ending {
        let failure = failure.map(|(reason, side)| Failure::new(Stage::Relay, reason, side, "seen"));
        Ending { outcome, failure, closed_by: Some(closed_by), quiet: false }
    }

    #[test]
    fn an_end_counts_against_the_upstream_unless_it_is_the_clients_or_everybodys() {
        let (failed, refused) = (Outcome::Failed, Outcome::Refused);
        for (outcome, reason, side, counts) in [
            (failed, Reason::UpstreamReset, Side::Upstream, true),
            (refused, Reason::CircuitOpen, Side::Upstream, true),
            (refused, Reason::ConnectionLimitReached, Side::Ambassador, true),
            (failed, Reason::TlsCertificateError, Side::Ambassador, true),
            (failed, Reason::ClientReset, Side::Client, false),
            (Outcome::Cancelled, Reason::Draining, Side::Ambassador, false),
            (failed, Reason::IdleTimeout, Side::Ambassador, false),
        ] {
            let ending = ending(outcome, Some((reason, side)), Side::Client);
            assert_eq!(end(&SERVED, &ending).failed, counts, "{reason:?}");
        }
        assert!(!end(&SERVED, &ending(Outcome::Success, None, Side::Upstream)).failed);
    }

    /// A server that takes what it is asked and never answers, whoever loses patience: it is slow, however orderly the end.
    #[test]
    fn who_was_asked_and_did_not_answer_took_as_long_as_it_lasted() {
        let silent = Seen { received: 0, first_byte: None, ..SERVED };
        let by_client = end(&silent, &ending(Outcome::Success, None, Side::Client));
        assert_eq!((by_client.failed, by_client.first_byte), (false, Some(SERVED.lasted)));
        assert!(end(&silent, &ending(Outcome::Success, None, Side::Upstream)).failed);
        // Who was asked nothing owes nothing.
        let unasked = Seen { sent: 0, ..silent };
        let end = end(&unasked, &ending(Outcome::Success, None, Side::Upstream));
        assert_eq!((end.failed, end.first_byte), (false, None));
    }
}
