//! establish: a place in the queue, then endpoint after endpoint until one is connected through TLS or the budget is spent.
//!
//! Owns the loop, its deadlines and its rule: nothing of the client has been delivered yet, so another endpoint may be
//! tried, as often as `retry` allows. Leaves choosing to `upstream`, TCP to `dial`, the words before TLS to `protocol`, TLS
//! to `tls`, and what the client is told to `connection`.

mod bound;
mod http;
mod login;
mod own;
mod pending;
pub mod warm;
mod way;
mod wrapped;

pub use bound::Wish;
pub use http::HttpCheck;
pub use own::OwnListeners;
pub use pending::{Pending, secure, take_leave};

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::account::Login;
use crate::addr::Host;
use crate::backoff;
use crate::converse::{Trouble, converse};
use crate::dial::{self, header::Introduction};
use crate::discovery::Resolver;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::health;
use crate::protocol::{Asking, Negotiated, Protocol};
use crate::relay;
use crate::tls::{ClientTls, Secured, Seen};
use crate::trail::{Attempt, Times, Trail};
use crate::upstream::{EndpointId, EndpointSpec, Lease, Place, Upstream, UpstreamView, Whereabouts};
use bound::{Bound, out_of_time};
use way::To;
use wrapped::Wrapped;

/// Bounds on each stage and on all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Name to addresses.
    pub resolve: Duration,
    /// TCP, over all addresses of one endpoint.
    pub connect: Duration,
    /// The plaintext messages before TLS.
    pub negotiate: Duration,
    /// TLS.
    pub handshake: Duration,
    /// Queue, and all attempts together.
    pub establish: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Timeouts {
            resolve: seconds(3),
            connect: seconds(3),
            negotiate: seconds(5),
            handshake: seconds(5),
            establish: seconds(10),
        }
    }
}

impl Timeouts {
    /// What a stage may take where nothing else presses.
    fn due(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Resolve => self.resolve,
            Stage::Connect | Stage::Proxy => self.connect,
            Stage::Negotiate => self.negotiate,
            Stage::Handshake => self.handshake,
            Stage::Accept | Stage::Admit | Stage::Route | Stage::Queue | Stage::Greet | Stage::Relay => {
                Duration::ZERO
            }
        }
    }
}

/// An upstream with everything that it takes to reach it, as one configuration has it.
pub struct Target {
    /// Endpoints, health, breakers, queue: they outlive a reload.
    pub upstream: Arc<Upstream>,
    /// Names to addresses.
    pub resolver: Resolver,
    /// Whom never to connect to.
    pub own: Arc<OwnListeners>,
    /// The name that the whole set comes from, where it does: asked again when a connection to one of its addresses fails.
    pub set_name: Option<Host>,
    /// TCP.
    pub dial: dial::Settings,
    /// What is spoken.
    pub protocol: Protocol,
    /// TLS; `None`: the bytes go as they are.
    pub tls: Option<Arc<ClientTls>>,
    /// TLS begins once it is asked for in the protocol's own words, instead of with the first byte.
    pub negotiates: bool,
    /// What health checks ask over HTTP, where they do.
    pub http: Option<HttpCheck>,
    /// Whom health checks log in as, where they do.
    pub login: Option<Login>,
    /// Bounds on each stage.
    pub timeouts: Timeouts,
    /// How often another attempt follows.
    pub retry: backoff::Settings,
    /// How bytes are relayed afterwards.
    pub relay: relay::Settings,
    /// What counts against the endpoint once it is established.
    pub judged_by: JudgedBy,
    /// Connections that are ready before a client comes, where some are to be.
    pub pool: Option<warm::Pool>,
}

/// What counts against an endpoint whose connection was established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JudgedBy {
    /// How soon an end without a byte does.
    pub early_close: Duration,
    /// How soon a later one does.
    pub zero_byte: Option<Duration>,
    /// How late the first byte of the first answer does.
    pub slow_first_byte: Option<Duration>,
}

impl JudgedBy {
    /// How long a connection has to live without a word until that says anything for its endpoint.
    pub fn lasting(&self) -> Duration {
        self.early_close.max(self.zero_byte.unwrap_or_default())
    }

    /// Does it matter when the server says its first words?
    pub fn is_watched(&self) -> bool {
        self.zero_byte.is_some() || self.slow_first_byte.is_some()
    }
}

impl Target {
    /// The upstream and what is kept ready for it.
    pub fn view(&self, now: std::time::Instant) -> UpstreamView {
        let pool = self.pool.as_ref().map(warm::Pool::view);
        UpstreamView { pool, ..self.upstream.view(now) }
    }
}

/// What there was to see at one endpoint, beside its trail. For a person who looks: a connection has no use for it.
#[derive(Debug, Default)]
pub struct Sight {
    /// What its name was resolved to, or its own address.
    pub addresses: Vec<SocketAddr>,
    /// The address that won the race.
    pub connected: Option<SocketAddr>,
    /// The name that was asked for in TLS, and that the certificate had to carry.
    pub server_name: Option<String>,
    /// The handshake.
    pub tls: Seen,
}

impl Sight {
    /// Keeps everything.
    pub fn new() -> Sight {
        Sight { tls: Seen::watching(), ..Sight::default() }
    }
}

/// A connection to an endpoint, ready to carry the client's bytes.
pub struct Established {
    /// The place in the upstream's queue, freed when dropped, and the endpoint's entry in the set, settled when the
    /// connection ends. A request to cancel a session's work has neither: it waits for nobody, and shows nothing.
    pub lease: Option<(Place, Lease)>,
    /// What was reached.
    pub reached: Reached,
}

/// An endpoint that was reached.
pub struct Reached {
    /// The socket.
    pub stream: TcpStream,
    /// What was said before TLS; empty with `tls = "direct"` or `"off"`.
    pub negotiated: Negotiated,
    /// The TLS session; `None` with `tls = "off"`, and as long as it is pending.
    pub secured: Option<Secured>,
    /// TLS that waits for the client's word; see [`secure`].
    pub pending: Option<Box<Pending>>,
}

/// Waits for a place, then tries endpoints until one is established, an attempt fails for good, or the time is up.
///
/// # Errors
/// The last attempt's failure, or what kept the first attempt from being made.
pub async fn establish(
    target: &Target,
    source: u64,
    wish: Wish<'_>,
    opening: &[u8],
    trail: &mut Trail,
) -> Result<Established, Failure> {
    let begun = Instant::now();
    let bound = Bound::of(target, wish);
    let deadline = begun + bound.limit;
    let place = target.upstream.place(bound.limit).await?;
    trail.times.queue = Some(begun.elapsed());

    let attempts = target.retry.attempts.min(wish.attempts.unwrap_or(u32::MAX));
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last: Option<Failure> = None;
    for number in 1..=attempts {
        let (queued, asked) = (trail.times.queue.unwrap_or_default(), Instant::now());
        let left = deadline.saturating_duration_since(asked);
        let leased = match wish.endpoint {
            None => target.upstream.lease(Some(source), &tried, queued, left).await,
            Some(endpoint) => target.upstream.lease_only(asked.into_std(), endpoint, tried.is_empty()),
        };
        trail.times.queue = Some(queued + asked.elapsed());
        let mut lease = match leased {
            Ok(lease) => lease,
            // What was seen at an endpoint says more than that no other is left.
            Err(none_ready) => return Err(last.unwrap_or(none_ready)),
        };
        let again = tried.contains(&lease.id());
        if again && !pause(&target.retry, number, deadline).await {
            return Err(out_of_time(bound, last));
        }
        tried.push(lease.id());

        if let Some(warm) = target.pool.as_ref().and_then(|pool| pool.take(&target.upstream, lease.id())) {
            let endpoint = lease.label().clone();
            trail.attempts.push(Attempt { endpoint, stage: None, reason: None, took: Duration::ZERO });
            trail.times = warm::times(trail.times.queue, warm.age);
            lease.established(Instant::now().into_std(), warm.took);
            return Ok(Established { lease: Some((place, lease)), reached: warm.reached });
        }
        let manner = Manner { opening, alone: false, client: wish.introduction, ..Manner::of(target) };
        let (attempted, took) = attempt(target, manner, lease.label(), lease.spec(), deadline, trail).await;
        let failure = match attempted {
            Ok(mut reached) => {
                match &mut reached.pending {
                    Some(pending) => pending.took = took,
                    None => lease.established(Instant::now().into_std(), took),
                }
                return Ok(Established { lease: Some((place, lease)), reached });
            }
            Err(failure) => failure,
        };
        let out_of_time_now = Instant::now() >= deadline;
        // An endpoint that our own deadline left less than its due has shown nothing: a connection that waited long in the
        // queue would otherwise open the circuits of healthy endpoints.
        let of_stage = trail.times.of(failure.stage).unwrap_or(took);
        let cut_short = out_of_time_now && of_stage < target.timeouts.due(failure.stage);
        let class = failure.breaker_class().filter(|_| failure.side == Side::Upstream && !cut_short);
        if let Some(class) = class {
            lease.failed_with(Instant::now().into_std(), class, &failure.detail);
        }
        // Whoever named us among the endpoints may well have named others.
        let ours = failure.side == Side::Ambassador && failure.reason != Reason::ProxyLoopDetected;
        let may_try_another = failure.reason.may_try_another() && !ours;
        last = Some(failure);
        if out_of_time_now {
            return Err(out_of_time(bound, last));
        }
        if !may_try_another || number == attempts {
            break;
        }
        if !target.upstream.retry_allowed() {
            trail.budget_exhausted = true;
            break;
        }
    }
    Err(last.unwrap_or_else(|| {
        Failure::new(Stage::Connect, Reason::ProxyConfigurationError, Side::Ambassador, "retry.attempts is 0")
    }))
}

/// One attempt at the endpoint that holds a session, past the queue: a session that is to be cancelled may be what all wait
/// for.
///
/// # Errors
/// As [`try_endpoint`].
pub async fn establish_at(
    target: &Target,
    at: &Whereabouts,
    trail: &mut Trail,
) -> Result<Established, Failure> {
    let manner = Manner { address: at.address, alone: false, ..Manner::of(target) };
    let deadline = Instant::now() + target.timeouts.establish;
    let (reached, _) = attempt(target, manner, &at.label, &at.spec, deadline, trail).await;
    Ok(Established { lease: None, reached: reached? })
}

/// One attempt, and how long it took. It stands in the trail, also while it is under way.
async fn attempt(
    target: &Target,
    manner: Manner<'_>,
    endpoint: &Arc<str>,
    spec: &EndpointSpec,
    deadline: Instant,
    trail: &mut Trail,
) -> (Result<Reached, Failure>, Duration) {
    let begun = Instant::now();
    trail.under_way = Some((endpoint.clone(), begun.into_std()));
    let attempted = reach(target, manner, spec, deadline, trail, None).await;
    trail.under_way = None;
    let took = begun.elapsed();
    let (stage, reason) = attempted.as_ref().err().map(|failure| (failure.stage, failure.reason)).unzip();
    trail.attempts.push(Attempt { endpoint: endpoint.clone(), stage, reason, took });
    (attempted, took)
}

/// One endpoint, from its name to an established connection.
///
/// # Errors
/// What kept it from being established. `trail` has how far it came and what was measured either way.
pub async fn try_endpoint(
    target: &Target,
    spec: &EndpointSpec,
    deadline: Instant,
    trail: &mut Trail,
) -> Result<Reached, Failure> {
    look_at_endpoint(target, spec, deadline, trail, None).await
}

/// As [`try_endpoint`], and remembers what there was to see, however it ends.
///
/// # Errors
/// As [`try_endpoint`].
pub async fn look_at_endpoint(
    target: &Target,
    spec: &EndpointSpec,
    deadline: Instant,
    trail: &mut Trail,
    sight: Option<&mut Sight>,
) -> Result<Reached, Failure> {
    reach(target, Manner::of(target), spec, deadline, trail, sight).await
}

/// How a server is spoken to.
#[derive(Clone, Copy)]
struct Manner<'a> {
    tls: Option<&'a Arc<ClientTls>>,
    /// See [`Target::negotiates`].
    negotiates: bool,
    /// Only this one of its addresses.
    address: Option<SocketAddr>,
    /// What the client opened with.
    opening: &'a [u8],
    /// There is no client to be heard.
    alone: bool,
    /// Whom the server is told of, where it wants to know.
    client: Option<&'a Introduction>,
    /// It is one of the target's own, that want to know if any do.
    introduces: bool,
}

impl Manner<'_> {
    /// As the target's own endpoints are.
    fn of(target: &Target) -> Manner<'_> {
        Manner {
            tls: target.tls.as_ref(),
            negotiates: target.negotiates,
            address: None,
            opening: b"",
            alone: true,
            client: None,
            introduces: true,
        }
    }
}

/// Any server that is spoken to on behalf of a target, with the target's TLS or other.
async fn reach(
    target: &Target,
    Manner { tls, negotiates, address, opening, alone, client, introduces }: Manner<'_>,
    spec: &EndpointSpec,
    deadline: Instant,
    trail: &mut Trail,
    mut sight: Option<&mut Sight>,
) -> Result<Reached, Failure> {
    trail.times = Times { queue: trail.times.queue, ..Times::default() };
    let server_name = match tls {
        None => None,
        Some(tls) => {
            // Looked at here and not by a timer: a laptop that slept, or a clock that was set, must not use an expired
            // certificate. And before the dial: the server is not bothered with what we know to be in vain.
            tls.ready(SystemTime::now())?;
            Some((tls, tls.name_for(spec)?))
        }
    };
    let bound = |limit: Duration| limit.min(deadline.saturating_duration_since(Instant::now()));

    let to = To { endpoint: &spec.address, address, client, introduces };
    let (mut stream, at) = way::open(target, to, deadline, trail, sight.as_deref_mut()).await?;

    let Some((tls, name)) = server_name else {
        return Ok(Reached { stream, negotiated: Negotiated::default(), secured: None, pending: None });
    };
    let negotiated = match negotiates {
        true => {
            let as_host = own_literal(&stream);
            let asking = Asking { as_host: &as_host, server_name: &name.to_str(), opening, alone };
            let limit = bound(target.timeouts.negotiate);
            negotiate(target.protocol, &asking, &mut stream, limit, trail).await?
        }
        false => Negotiated::default(),
    };
    if negotiates && !alone && target.protocol.interviews() {
        let pending = Pending { tls: tls.clone(), name, at, took: Duration::ZERO };
        return Ok(Reached { stream, negotiated, secured: None, pending: Some(Box::new(pending)) });
    }
    let begun = Instant::now();
    trail.stage = Stage::Handshake;
    let limit = bound(target.timeouts.handshake);
    let mut unseen = Seen::default();
    let seen = match sight {
        None => &mut unseen,
        Some(sight) => {
            sight.server_name = Some(name.to_str().into_owned());
            &mut sight.tls
        }
    };
    let secured = match target.protocol.wrapping().filter(|_| negotiates) {
        None => tls.handshake_seen(&mut stream, at, name, limit, seen).await,
        Some(wrapping) => {
            let mut wrapped = Wrapped::new(&mut stream, wrapping);
            let secured = tls.handshake_seen(&mut wrapped, at, name, limit, seen).await;
            wrapped.finish(secured, limit).await
        }
    };
    trail.times.handshake = Some(begun.elapsed());
    Ok(Reached { stream, negotiated, secured: Some(secured?), pending: None })
}

/// Asks the server for TLS in the protocol's own words, where that is how TLS begins.
async fn negotiate(
    protocol: Protocol,
    asking: &Asking<'_>,
    stream: &mut TcpStream,
    limit: Duration,
    trail: &mut Trail,
) -> Result<Negotiated, Failure> {
    let Some(mut talk) = protocol.negotiation(asking) else {
        return Ok(Negotiated::default());
    };
    let begun = Instant::now();
    trail.stage = Stage::Negotiate;
    let conversed = tokio::time::timeout(limit, converse(stream, &mut *talk)).await;
    trail.times.negotiate = Some(begun.elapsed());
    let awaited = talk.awaits();
    let failed = |reason, detail| Err(Failure::upstream(Stage::Negotiate, reason, detail));
    // Who takes our words for no protocol of its own may as well reset the connection as keep silent.
    let mended = |failure: Failure| match talk.if_late() {
        None => failure,
        Some(mend) => failure.mend(mend),
    };
    match conversed {
        Ok(Ok(negotiated)) => Ok(negotiated),
        Ok(Err(Trouble::Failed(failure) | Trouble::Left(failure))) => Err(failure),
        Ok(Err(Trouble::Closed { .. })) => failed(
            Reason::NegotiationError,
            format!("the server closed the connection instead of sending {awaited}"),
        ),
        Ok(Err(Trouble::Io(error))) => {
            let detail = format!("the connection broke while nuncio waited for {awaited}: {error}");
            Err(mended(Failure::upstream(Stage::Negotiate, Reason::ConnectionTerminated, detail)))
        }
        Err(_) => {
            let limit = humantime::format_duration(round(limit));
            let detail = format!("{awaited} did not come within {limit}");
            Err(mended(Failure::upstream(Stage::Negotiate, Reason::NegotiationTimeout, detail)))
        }
    }
}

/// How we call ourselves where a protocol asks: the address that we dial from, as RFC 5321, 4.1.3 writes it. A host's name
/// would have to be looked up, and may well be none that the server can resolve.
fn own_literal(stream: &TcpStream) -> String {
    match stream.local_addr().map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        Ok(IpAddr::V4(ip)) => format!("[{ip}]"),
        Err(_) => "[127.0.0.1]".to_owned(),
    }
}

/// Waits before the same endpoint is tried again; false where the deadline comes first.
async fn pause(retry: &backoff::Settings, number: u32, deadline: Instant) -> bool {
    let pause = backoff::pause(retry, number.saturating_sub(1), &mut fastrand::Rng::new());
    let until = Instant::now() + pause;
    if until >= deadline {
        return false;
    }
    tokio::time::sleep_until(until).await;
    true
}

fn broken_at_the_end(error: &std::io::Error) -> Failure {
    let detail = format!("the connection broke at the end of the TLS handshake: {error}");
    Failure::upstream(Stage::Handshake, Reason::ConnectionTerminated, detail)
}

/// To whole milliseconds, for a person.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Health checks go the same way as connections, so that what passes a check is what serves a client.
impl health::Probe for Target {
    fn check<'a>(
        &'a self,
        spec: &'a EndpointSpec,
        kind: health::Kind,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async move {
            let deadline = Instant::now() + self.timeouts.establish;
            if kind == health::Kind::Protocol
                && let Some(login) = &self.login
            {
                return login::check(self, login, spec, deadline).await;
            }
            match kind {
                health::Kind::Off => Ok(()),
                health::Kind::Tcp => {
                    let to = To { endpoint: &spec.address, address: None, client: None, introduces: true };
                    way::open(self, to, deadline, &mut Trail::default(), None).await.map(drop)
                }
                health::Kind::Tls | health::Kind::Protocol => {
                    let Reached { mut stream, secured, .. } =
                        try_endpoint(self, spec, deadline, &mut Trail::default()).await?;
                    let farewell = match kind {
                        health::Kind::Protocol => self.protocol.farewell(),
                        _ => b"",
                    };
                    match (secured, &self.tls) {
                        (Some(secured), Some(tls)) => secured.prove(&mut stream, PROOF, farewell, tls).await,
                        (None, _) | (_, None) => Ok(()),
                    }
                }
                health::Kind::Http => http::check(self, spec, deadline).await,
            }
        })
    }
}

/// How long a check listens, after the handshake, for the refusal that TLS 1.3 sends late.
const PROOF: Duration = Duration::from_millis(100);
