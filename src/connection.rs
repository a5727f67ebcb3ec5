//! A connection's life, from the accepted socket to its record: the table of contents of nuncio.
//!
//! Every step is one named call, in the order of the crate's map. Only this file touches the record. What a step does is
//! in the step's own file; what a failure means is in `failure`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::accept::Accepted;
use crate::addr::ListenerName;
use crate::admit::{Gate, Ticket};
use crate::drain::Watch;
use crate::establish::{self, Established, Target};
use crate::failure::{BreakerClass, Failure, Outcome, Reason, Side, Stage};
use crate::metrics::Metrics;
use crate::record::{Ending, Journal, Record};
use crate::relay::{self, Carried, Ended, Flow, How, Leg, OnTruncation, Party};
use crate::route;
use crate::socket::{self, Gone, Stream};
use crate::tls;
use crate::tls::unbuffered::Unbuffered;
use crate::trail::Trail;
use crate::upstream::{Lease, Place};

/// A listener as one configuration has it. A connection sees the same one from start to end.
pub struct Listener {
    /// Its name in the file.
    pub name: ListenerName,
    /// Who may come. Outlives a reload that does not change it, so that its counts stay true.
    pub gate: Arc<Gate>,
    /// Where they go.
    pub route: route::Settings,
    /// The upstreams of the same configuration.
    pub targets: Arc<Targets>,
    /// Where records go.
    pub journal: Arc<Journal>,
    /// Where attempts are counted.
    pub metrics: Arc<Metrics>,
    /// When to end.
    pub drain: Watch,
}

/// The upstreams of one configuration, by name.
pub type Targets = std::collections::BTreeMap<crate::addr::UpstreamName, Arc<Target>>;

/// Serves one connection to its end. Whatever happens, one record is written.
///
/// `moved`: another reactor than this one accepted it, so that its socket has to be registered here. `held` is let go when
/// the record is written. Everything is boxed that is large or gone when bytes are relayed: what is left is what each of
/// thousands of idle connections pays. Not an `async fn`, whose future would hold each argument twice.
pub fn serve<H: Send>(
    accepted: Box<Accepted>,
    listener: Arc<Listener>,
    moved: bool,
    held: H,
) -> impl Future<Output = ()> + Send {
    async move {
        let mut record = Record::open(&listener.journal, &listener.name, &accepted.client, accepted.at);
        let ending = match Box::pin(begin(accepted, &listener, moved, &mut record)).await {
            Ok((mut served, carried)) => {
                let ended = served.relay(carried, &listener.drain, record.flow()).await;
                served.settle(&ended, &mut record)
            }
            Err(ending) => ending,
        };
        record.close(*ending);
        drop(held);
    }
}

/// A connection that has its endpoint.
struct Served {
    client: Stream,
    upstream: TcpStream,
    target: Arc<Target>,
    /// The endpoint's entry in the set, settled at the end.
    lease: Lease,
    /// The places at the upstream and at the listener, held to the end.
    _places: (Place, Ticket),
    since: Instant,
}

/// What TLS there is on the upstream's leg. Boxed on its way into the relay: the task has room for it only once.
type Tls = Option<Box<Carried<Unbuffered>>>;

/// The walk up to the first byte: admit, route, establish.
async fn begin(
    accepted: Box<Accepted>,
    listener: &Listener,
    moved: bool,
    record: &mut Record,
) -> Result<(Box<Served>, Tls), Box<Ending>> {
    let ticket = match listener.gate.admit(&accepted, Instant::now()).await {
        Ok(ticket) => ticket,
        Err(failure) => return Err(refuse(&accepted.stream, failure)),
    };
    record.draft().user = ticket.user();
    if listener.drain.is_draining() {
        return Err(refuse(&accepted.stream, draining(Stage::Admit)));
    }

    let route = route::decide(&listener.route, ticket.source());
    record.draft().upstream = Some(route.upstream.clone());
    record.stage = Stage::Queue;
    let Some(target) = listener.targets.get(&route.upstream) else {
        return Err(refuse(&accepted.stream, no_such_upstream(&route)));
    };

    let client = match moved {
        false => accepted.stream,
        true => accepted.stream.into_reactor().map_err(|error| broken_socket(&error))?,
    };
    let Established { lease, place, stream, secured } =
        wait_for(target, route.source, &client, listener, record).await?;
    let draft = record.draft();
    draft.endpoint = Some(lease.label().clone());
    let (summary, carried) = secured.map(|secured| (secured.summary, Box::new(secured.carried))).unzip();
    draft.tls = summary;
    record.relaying();
    let (target, since) = (target.clone(), Instant::now());
    let served = Served { client, upstream: stream, target, lease, _places: (place, ticket), since };
    Ok((Box::new(served), carried))
}

impl Served {
    /// The rest of the way.
    fn relay<'a>(
        &'a mut self,
        carried: Tls,
        drain: &Watch,
        flow: &'a Flow,
    ) -> impl Future<Output = Ended> + Send + use<'a> {
        let stop = drain.ended(fastrand::f64());
        let carried = carried.map(|carried| *carried);
        relay::run(&mut self.client, &mut self.upstream, carried, &self.target.relay, flow, stop)
    }

    /// What its end says, also about the endpoint.
    fn settle(self, ended: &Ended, record: &mut Record) -> Box<Ending> {
        record.tcp = socket::tcp_facts(&self.upstream).map(Box::new);
        let early_close = self.target.early_close;
        let verdict = judge(ended, ended.closed_after <= early_close, &self.target);
        match verdict.class {
            // Its client left before it could show itself: that says nothing about the endpoint, for better or worse.
            None if self.since.elapsed() <= early_close && !ended.upstream_spoke => drop(self.lease),
            class => self.lease.ended(Instant::now(), class),
        }
        verdict.ending(record)
    }
}

/// Establishes, unless the client leaves or the drain ends it first.
async fn wait_for(
    target: &Target,
    source: u64,
    client: &Stream,
    listener: &Listener,
    record: &mut Record,
) -> Result<Established, Box<Ending>> {
    let mut trail = Trail::default();
    let begun = Instant::now();
    let outcome = tokio::select! {
        biased;
        established = establish::establish(target, source, &mut trail) => Ok(established),
        gone = client.gone() => Err(left(gone, &trail, begun.elapsed())),
        () = listener.drain.ended(0.0) => Err(refuse(client, draining(trail.stage))),
    };
    trail.give_up(Instant::now());
    let upstream = target.upstream.name();
    for attempt in &trail.attempts {
        listener.metrics.attempt(upstream, attempt.result());
    }
    if trail.budget_exhausted {
        listener.metrics.budget_exhausted(upstream);
    }
    record.stage = trail.stage;
    let draft = record.draft();
    draft.endpoint = trail.attempts.last().map(|attempt| attempt.endpoint.clone());
    draft.attempts = trail.attempts;
    draft.times = trail.times;
    match outcome {
        Ok(Ok(established)) => Ok(established),
        Ok(Err(failure)) => Err(refuse(client, failure)),
        Err(ending) => Err(ending),
    }
}

/// No, in the way that plain TCP has: a reset, which no client mistakes for an answer that was empty.
fn refuse(client: &Stream, failure: Failure) -> Box<Ending> {
    client.reset_on_close();
    let outcome = match failure.reason {
        Reason::AdmissionDenied | Reason::ConnectionLimitReached | Reason::CircuitOpen | Reason::Draining => {
            Outcome::Refused
        }
        _ => Outcome::Failed,
    };
    Box::new(Ending { outcome, failure: Some(failure), closed_by: Some(Side::Ambassador), quiet: false })
}

/// Who leaves without a byte, without an error and as soon as this is a bare liveness probe (a load balancer, a kubelet).
/// Who waited longer wanted something.
const PROBE: Duration = Duration::from_secs(1);

/// The client went away before it was served. A bare liveness probe is counted, and kept out of the log; but not where
/// the upstream had trouble: then it may be a client that saw no greeting and gave up.
fn left(gone: Gone, trail: &Trail, waited: Duration) -> Box<Ending> {
    let failure = match gone {
        Gone::Silently => None,
        Gone::Reset => {
            let detail = "the client reset the connection before it was served";
            Some(Failure::new(trail.stage, Reason::ClientReset, Side::Client, detail))
        }
    };
    let quiet = failure.is_none() && trail.attempts.is_empty() && waited < PROBE;
    Box::new(Ending { outcome: Outcome::Cancelled, failure, closed_by: Some(Side::Client), quiet })
}

fn broken_socket(error: &std::io::Error) -> Box<Ending> {
    let detail = format!("the client's socket could not be handed to its reactor: {error}");
    let failure = Failure::new(Stage::Accept, Reason::ProxyInternalError, Side::Ambassador, detail);
    let outcome = Outcome::Failed;
    Box::new(Ending { outcome, failure: Some(failure), closed_by: Some(Side::Ambassador), quiet: false })
}

fn draining(stage: Stage) -> Failure {
    Failure::new(stage, Reason::Draining, Side::Ambassador, "nuncio is shutting down")
}

fn no_such_upstream(route: &route::Route) -> Failure {
    let detail = format!("there is no upstream '{}'", route.upstream);
    Failure::new(Stage::Route, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}

/// What the end of a relay means: for the client's record, and for the endpoint's breaker.
struct Verdict {
    outcome: Outcome,
    failure: Option<Failure>,
    class: Option<BreakerClass>,
    closed_by: Option<Side>,
}

impl Verdict {
    /// A client that came and went without a byte either way is a liveness probe here too, only one that was quicker served.
    fn ending(self, record: &Record) -> Box<Ending> {
        let silent = record.flow().sent() == 0 && record.flow().received() == 0;
        let quiet = silent && self.failure.is_none() && self.closed_by == Some(Side::Client);
        Box::new(Ending { outcome: self.outcome, failure: self.failure, closed_by: self.closed_by, quiet })
    }
}

/// Judges the end of a relay. `early`: it began within `breaker.early_close` of the handshake.
fn judge(ended: &Ended, early: bool, target: &Target) -> Verdict {
    let closed_by = ended.closed_by.map(|party| match party {
        Party::Client => Side::Client,
        Party::Upstream => Side::Upstream,
        Party::Ambassador => Side::Ambassador,
    });
    let silent = !ended.upstream_spoke;
    let slammed = silent && early && ended.closed_by == Some(Party::Upstream);
    let upstream = |reason, detail: &str| Failure::upstream(Stage::Relay, reason, detail);
    let by_failure = |failure: Failure| {
        let outcome = match failure.reason {
            Reason::LifetimeReached | Reason::Draining => Outcome::Cancelled,
            // The operator knows that this server ends so: it is told, and is no trouble.
            Reason::Truncated if target.relay.on_truncation == OnTruncation::Close => Outcome::Success,
            _ => Outcome::Failed,
        };
        // After its first byte, or later than `early_close`, an end says nothing about the endpoint's ability to serve.
        // A certificate that is refused is refused to all.
        let tells = |class: &BreakerClass| (silent && early) || *class == BreakerClass::CertificateRefused;
        let class = failure.reason.breaker_class().filter(tells);
        Verdict { outcome, failure: Some(failure), class, closed_by }
    };
    // TLS 1.3 refuses a client's certificate after the handshake: what looks like a broken connection may be that.
    // Without an alert, only where the server broke it early: one that nobody used for an hour breaks for other reasons.
    // And some (nginx) hang up in all order.
    let how = if slammed && ended.how == How::Closed { &How::Truncated } else { &ended.how };
    if (slammed || matches!(how, How::TlsAlert(_) | How::TlsError(_)))
        && let Some(late) =
            target.tls.as_ref().and_then(|tls| tls::late_failure(how, ended.upstream_spoke, tls))
    {
        return by_failure(late);
    }
    let failure = match &ended.how {
        How::Closed if slammed => upstream(Reason::EarlyClose, "the server closed before it sent a byte"),
        How::UpstreamReset if slammed => {
            upstream(Reason::EarlyClose, "the server reset the connection before it sent a byte")
        }
        How::Truncated if slammed => {
            upstream(Reason::EarlyClose, "the server dropped the connection before it sent a byte")
        }
        How::Closed => return Verdict { outcome: Outcome::Success, failure: None, class: None, closed_by },
        How::UpstreamReset => upstream(Reason::UpstreamReset, "the server reset the connection"),
        How::Truncated => upstream(
            Reason::Truncated,
            "the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing",
        ),
        How::TlsAlert(_) | How::TlsError(_) => upstream(Reason::TlsProtocolError, "TLS failed"),
        How::ClientReset => {
            Failure::new(Stage::Relay, Reason::ClientReset, Side::Client, "the client reset the connection")
        }
        How::Vanished(party) => {
            let (side, who) = match party {
                Party::Client => (Side::Client, "client"),
                _ => (Side::Upstream, "server"),
            };
            let detail = format!(
                "the {who}'s host no longer answers, or took no data for tcp.user_timeout: TCP gave it up"
            );
            Failure::new(Stage::Relay, Reason::PeerVanished, side, detail)
        }
        How::Io { party, error } => {
            let (reason, side) = match party {
                Party::Client => (Reason::ClientReset, Side::Client),
                Party::Upstream => (Reason::UpstreamReset, Side::Upstream),
                Party::Ambassador => (Reason::ProxyInternalError, Side::Ambassador),
            };
            Failure::new(Stage::Relay, reason, side, error.as_str())
        }
        How::IdleTimeout => {
            ours(Reason::IdleTimeout, "no byte came from either side for as long as timeouts.idle allows")
        }
        How::HalfCloseTimeout => {
            let side = if ended.closed_by == Some(Party::Client) { Side::Upstream } else { Side::Client };
            let detail =
                "one side had closed, and the other sent nothing for as long as timeouts.half_close allows";
            Failure::new(Stage::Relay, Reason::HalfCloseTimeout, side, detail)
        }
        How::LifetimeReached => ours(Reason::LifetimeReached, "it was older than timeouts.lifetime allows"),
        How::Stopped => {
            ours(Reason::Draining, "nuncio is stopping, and the time for open connections was over")
        }
    };
    by_failure(failure)
}

fn ours(reason: Reason, detail: &str) -> Failure {
    Failure::new(Stage::Relay, reason, Side::Ambassador, detail)
}

#[cfg(test)]
mod tests {
    use tokio::sync::OwnedSemaphorePermit;

    use super::*;

    fn future_of<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What each idle connection pays here, beside its buffers and its TLS session. Its greatest part is the relay's own.
    #[test]
    fn an_idle_connection_stays_within_its_budget() {
        // What the service holds with it: the permit, and the count of its reactor.
        let task = future_of(serve::<(OwnedSemaphorePermit, Arc<()>)>);
        let served = size_of::<Served>();
        assert!(task <= TASK, "{task} bytes of {TASK} in the task");
        assert!(served <= SERVED, "{served} bytes of {SERVED} in what is served");
        assert!(task * 10 >= TASK * 8, "{task} bytes: lower the budget of {TASK}");
    }

    /// With what tokio puts around it, this fills the 640 bytes of a task; one word more, and it takes the next 128.
    const TASK: usize = 536;
    const SERVED: usize = 256;
}
