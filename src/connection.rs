//! A connection's life, from the accepted socket to its record: the table of contents of nuncio.
//!
//! Every step is one named call, in the order of the crate's map. Only this file touches the record. What a step does is
//! in the step's own file; what a failure means is in `failure`.

use std::sync::Arc;
use std::time::Instant;

use crate::accept::Accepted;
use crate::addr::ListenerName;
use crate::admit::Gate;
use crate::drain::Watch;
use crate::establish::{self, Established, Target, Trail};
use crate::failure::{BreakerClass, Failure, Outcome, Reason, Side, Stage};
use crate::metrics::Metrics;
use crate::record::{Ending, Journal, Record};
use crate::relay::{self, Carried, Ended, How, Leg, Party};
use crate::route;
use crate::socket::{self, Gone, Stream};
use crate::tls::unbuffered::Unbuffered;
use crate::tls::{self, ClientTls};

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
/// `moved`: another reactor than this one accepted it, so that its socket has to be registered here.
pub async fn serve(accepted: Accepted, listener: Arc<Listener>, moved: bool) {
    let mut record = Record::open(&listener.journal, &listener.name, &accepted.client, accepted.at);
    let ending = live(accepted, &listener, &mut record, moved).await;
    record.close(ending);
}

/// The walk: admit, route, establish, relay.
async fn live(accepted: Accepted, listener: &Listener, record: &mut Record, moved: bool) -> Ending {
    let ticket = match listener.gate.admit(&accepted, Instant::now()) {
        Ok(ticket) => ticket,
        Err(failure) => return refuse(&accepted.stream, failure),
    };
    record.user = ticket.user();
    if listener.drain.is_draining() {
        return refuse(&accepted.stream, draining(Stage::Admit));
    }

    let route = route::decide(&listener.route, &accepted.client);
    record.upstream = Some(route.upstream.clone());
    let Some(target) = listener.targets.get(&route.upstream) else {
        return refuse(&accepted.stream, no_such_upstream(&route));
    };

    let mut client = match moved {
        false => accepted.stream,
        true => match accepted.stream.into_reactor() {
            Ok(client) => client,
            Err(error) => return broken_socket(&error),
        },
    };
    let established = match wait_for(target, route.source, &client, listener, record).await {
        Ok(established) => established,
        Err(ending) => return *ending,
    };
    // The permits of the listener and of the upstream are held until the end.
    let Established { lease, place: _place, mut stream, secured } = established;
    record.endpoint = Some(lease.label().clone());
    let begun = Instant::now();
    let carried = secured.map(|secured| {
        record.tls = Some(Box::new(secured.summary));
        secured.carried
    });
    record.relaying();

    let stop = listener.drain.ended(fastrand::f64());
    let ended = relay_bytes(&mut client, &mut stream, carried, target, record, stop).await;
    record.tcp = socket::tcp_facts(&stream);
    let verdict = judge(&ended, begun.elapsed() <= target.early_close, target.tls.as_deref());
    lease.ended(Instant::now(), verdict.class);
    verdict.ending(record)
}

/// Establishes, unless the client leaves or the drain ends it first.
///
/// The future is boxed: it is large and short-lived, and would otherwise be part of every idle connection's memory.
async fn wait_for(
    target: &Target,
    source: u64,
    client: &Stream,
    listener: &Listener,
    record: &mut Record,
) -> Result<Established, Box<Ending>> {
    let mut trail = Trail::default();
    let outcome = tokio::select! {
        biased;
        established = Box::pin(establish::establish(target, source, &mut trail)) => Ok(established),
        gone = client.gone() => Err(left(gone)),
        () = listener.drain.ended(0.0) => Err(refuse(client, draining(Stage::Connect))),
    };
    let upstream = target.upstream.name();
    for attempt in &trail.attempts {
        listener.metrics.attempt(upstream, attempt.reason.map_or(Ok(()), Err));
    }
    if trail.budget_exhausted {
        listener.metrics.budget_exhausted(upstream);
    }
    record.attempts = trail.attempts;
    record.times = trail.times;
    match outcome {
        Ok(Ok(established)) => Ok(established),
        Ok(Err(failure)) => {
            record.endpoint = record.attempts.last().map(|attempt| attempt.endpoint.clone());
            Err(Box::new(refuse(client, failure)))
        }
        Err(ending) => Err(Box::new(ending)),
    }
}

async fn relay_bytes(
    client: &mut Stream,
    upstream: &mut tokio::net::TcpStream,
    carried: Option<Carried<Unbuffered>>,
    target: &Target,
    record: &Record,
    stop: impl Future<Output = ()> + Send,
) -> Ended {
    relay::run(client, upstream, carried, &target.relay, &record.flow, stop).await
}

/// No, in the way that plain TCP has: a reset, which no client mistakes for an answer that was empty.
fn refuse(client: &Stream, failure: Failure) -> Ending {
    client.reset_on_close();
    let outcome = match failure.reason {
        Reason::AdmissionDenied | Reason::ConnectionLimitReached | Reason::CircuitOpen | Reason::Draining => {
            Outcome::Refused
        }
        _ => Outcome::Failed,
    };
    Ending { outcome, failure: Some(failure), closed_by: Some(Side::Ambassador), quiet: false }
}

/// The client went away before it was served. Without a byte and without an error, that is how a bare liveness probe
/// looks (a load balancer, a kubelet): it is counted, and kept out of the log.
fn left(gone: Gone) -> Ending {
    let failure = match gone {
        Gone::Silently => None,
        Gone::Reset => {
            let detail = "the client reset the connection before it was served";
            Some(Failure::new(Stage::Connect, Reason::ClientReset, Side::Client, detail))
        }
    };
    let quiet = failure.is_none();
    Ending { outcome: Outcome::Cancelled, failure, closed_by: Some(Side::Client), quiet }
}

fn broken_socket(error: &std::io::Error) -> Ending {
    let detail = format!("the client's socket could not be handed to its reactor: {error}");
    let failure = Failure::new(Stage::Accept, Reason::ProxyInternalError, Side::Ambassador, detail);
    Ending {
        outcome: Outcome::Failed,
        failure: Some(failure),
        closed_by: Some(Side::Ambassador),
        quiet: false,
    }
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
    fn ending(self, record: &Record) -> Ending {
        let silent = record.flow.sent() == 0 && record.flow.received() == 0;
        let quiet = silent && self.failure.is_none() && self.closed_by == Some(Side::Client);
        Ending { outcome: self.outcome, failure: self.failure, closed_by: self.closed_by, quiet }
    }
}

/// Judges the end of a relay. `early`: it came within `breaker.early_close` of the handshake.
fn judge(ended: &Ended, early: bool, tls: Option<&ClientTls>) -> Verdict {
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
            _ => Outcome::Failed,
        };
        // After its first byte, or later than `early_close`, an end says nothing about the endpoint's ability to serve:
        // such reasons have no class.
        let class = failure.reason.breaker_class();
        Verdict { outcome, failure: Some(failure), class, closed_by }
    };
    // TLS 1.3 refuses a client's certificate after the handshake: what looks like a broken connection may be that.
    if let Some(late) = tls.and_then(|tls| tls::late_failure(&ended.how, ended.upstream_spoke, tls)) {
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
