//! before: what it means that a connection ends before bytes are relayed. Leaves what comes after to `verdict`.

use std::time::{Duration, Instant};

use super::Listener;
use crate::addr::UpstreamName;
use crate::failure::{Failure, Outcome, Reason, Side, Stage};
use crate::record::Ending;
use crate::socket::Gone;
use crate::trail::Trail;
use crate::upstream::WhenUnready;

/// Whether we said no to what would have worked.
pub(super) fn outcome(failure: &Failure) -> Outcome {
    match failure.reason {
        Reason::AdmissionDenied | Reason::ConnectionLimitReached | Reason::CircuitOpen | Reason::Draining => {
            Outcome::Refused
        }
        _ => Outcome::Failed,
    }
}

/// Whether a client that is refused so meets a reset and no words: nobody of its upstream can be used. What it had asked of
/// us, and we would not do, it is told all the same.
pub(super) fn breaks_off(failure: &Failure, listener: &Listener, upstream: Option<&UpstreamName>) -> bool {
    let Some(target) = upstream.and_then(|upstream| listener.targets.get(upstream)) else { return false };
    failure.side == Side::Upstream
        && target.upstream.when_unready() == WhenUnready::Reset
        && !target.upstream.standing(Instant::now()).is_usable()
}

pub(super) fn unknown_session() -> Failure {
    let detail = "no connection through this upstream has the session that is to be cancelled";
    Failure::new(Stage::Route, Reason::DestinationNotFound, Side::Client, detail).mend(
        "nothing, if it had ended already; else send the request through the same nuncio as the session",
    )
}

/// Who leaves without a byte, without an error and as soon as this is a bare liveness probe (a load balancer, a kubelet).
/// Who waited longer wanted something.
const PROBE: Duration = Duration::from_secs(1);

/// The client went away before it was served. A bare liveness probe is counted, and kept out of the log; but not where
/// the upstream had trouble: then it may be a client that saw no greeting and gave up.
pub(super) fn left(gone: Gone, trail: &Trail, waited: Duration) -> Box<Ending> {
    let failure = match gone {
        Gone::Silently => None,
        Gone::Reset => {
            let detail = "the client reset the connection before it was served";
            Some(Failure::new(trail.stage, Reason::ClientReset, Side::Client, detail))
        }
    };
    let quiet = failure.is_none() && trail.attempts.is_empty() && waited < PROBE;
    left_for(failure, quiet)
}

pub(super) fn left_for(failure: Option<Failure>, quiet: bool) -> Box<Ending> {
    Box::new(Ending { outcome: Outcome::Cancelled, failure, closed_by: Some(Side::Client), quiet })
}

pub(super) fn broken_socket(error: &std::io::Error) -> Box<Ending> {
    let detail = format!("the client's socket could not be handed to its reactor: {error}");
    let failure = Failure::new(Stage::Accept, Reason::ProxyInternalError, Side::Ambassador, detail);
    let outcome = Outcome::Failed;
    Box::new(Ending { outcome, failure: Some(failure), closed_by: Some(Side::Ambassador), quiet: false })
}

pub(super) fn draining(stage: Stage) -> Failure {
    Failure::new(stage, Reason::Draining, Side::Ambassador, "shutting down: no new connections are taken")
}
