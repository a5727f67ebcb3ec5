//! A connection's life, from the accepted socket to its record: the table of contents of nuncio.
//!
//! Every step is one named call, in the order of the crate's map. Only this file touches the record. What a step does is
//! in the step's own file; what a failure means is in `failure`, what the end of a relay means in [`verdict`], TLS on the
//! client's own leg in [`secure`], what it asks for before its first byte in [`context`].

mod before;
mod context;
mod secure;
mod split;
mod verdict;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::accept::Accepted;
use crate::addr::ListenerName;
use crate::admit::{Gate, Ticket};
use crate::drain::Watch;
use crate::establish::{self, Established, Reached, Target};
use crate::failure::{BreakerClass, Failure, Outcome, Side, Stage};
use crate::metrics::Metrics;
use crate::preface::{self, Unopened};
use crate::protocol::{Interviewed, Meeting, Negotiated, Offer, Opening, Protocol};
use crate::record::{Ending, Journal, Record};
use crate::refuse::{self, Heard};
use crate::relay::{self, Carried, Ended, Flow, Greeting, How, Leg as _};
use crate::rollout::Split;
use crate::route;
use crate::socket::{self, Gone, Stream};
use crate::tls::unbuffered::Unbuffered;
use crate::trail::Trail;
use crate::upstream::{Lease, Place, Session};
use before::{broken_socket, draining, left, left_for, outcome, unknown_session};
use context::Speech;
use verdict::Verdict;

pub use secure::ClientTls;

/// A listener as one configuration has it. A connection sees the same one from start to end.
pub struct Listener {
    /// Its name in the file.
    pub name: ListenerName,
    /// Who may come. Outlives a reload that does not change it, so that its counts stay true.
    pub gate: Arc<Gate>,
    /// What they speak: what the upstream does. Where a destination chooses it, only what all of them do.
    pub protocol: Protocol,
    /// How they say what they want before their first byte, or others do for them.
    pub context: crate::context::Kind,
    /// How long a client may take for its first message, and for its TLS handshake.
    pub preface_timeout: Duration,
    /// TLS that it has to give to its clients.
    pub tls: Option<ClientTls>,
    /// Where they go.
    pub route: route::Settings,
    /// Among whom they are divided, where they are. Outlives a reload that does not change it.
    pub split: Option<Arc<Split>>,
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
#[expect(clippy::manual_async_fn, reason = "an async fn's future would hold each argument twice")]
pub fn serve<H: Send>(
    accepted: Box<Accepted>,
    listener: Arc<Listener>,
    moved: bool,
    held: H,
) -> impl Future<Output = ()> + Send {
    async move {
        let mut record = Record::open(&listener.journal, &listener.name, &accepted.client, accepted.at);
        let ending = match Box::pin(begin(accepted, &listener, moved, &mut record)).await {
            Ok(mut served) => {
                let ended = match served.target.judged_by.is_watched() {
                    false => served.relay(&listener.drain, record.flow()).await,
                    true => watch::relay(&mut served, &listener.drain, record.flow()).await,
                };
                Box::pin(settle(served, ended, &listener, &mut record)).await
            }
            Err(ending) => {
                split::ended(&listener, record.upstream(), &record.seen(), &ending);
                ending
            }
        };
        record.close(*ending);
        drop(held);
    }
}

/// A connection that has its endpoint.
struct Served {
    client: Stream,
    upstream: TcpStream,
    /// Boxed, as it moves on into the relay: what was here takes no room then.
    first: Option<Box<First>>,
    target: Arc<Target>,
    since: Instant,
    /// The place at the upstream, and the endpoint's entry in the set, settled at the end. None: it only cancels.
    lease: Option<(Place, Lease)>,
    /// The place at the listener, and that of the session's key among those that can be cancelled, held to the end.
    _held: (Ticket, Option<Arc<Session>>),
}

/// What a relay begins with.
#[derive(Default)]
struct First {
    carried: Option<Carried<Unbuffered>>,
    greeting: Option<Box<Greeting>>,
}

/// Why a walk ends before its relay.
enum Stop {
    /// We say no, to a client that we have heard so far.
    No(Heard, Failure),
    /// It is over already.
    Over(Box<Ending>),
}

/// The walk up to the first byte, and what is said where it ends before that.
async fn begin(
    accepted: Box<Accepted>,
    listener: &Listener,
    moved: bool,
    record: &mut Record,
) -> Result<Box<Served>, Box<Ending>> {
    let accepted = context::as_connected(accepted, listener);
    record.draft().metered = listener.gate.meters_users();
    let admitted = admit(&accepted, listener, &mut record.draft().user).await;
    let mut speech = Speech::new(listener);
    let mut client = match (moved, &admitted, speech.has_words()) {
        // Turning a flood away without a word costs as little as can be.
        (false, _, _) | (_, Err(_), false) => accepted.stream,
        _ => accepted.stream.into_reactor().map_err(|error| broken_socket(&error))?,
    };
    client = secure::client_stream(client, listener);
    let walked = walk(admitted, &mut client, &mut speech, listener, record).await;
    match walked {
        Ok(Walked { lease, reached, greeting, target, held }) => {
            let Reached { stream: upstream, secured, .. } = reached;
            let first = First { carried: secured.map(|secured| secured.carried), greeting };
            let first = Some(Box::new(first));
            let since = Instant::now();
            Ok(Box::new(Served { client, upstream, first, target, since, lease, _held: held }))
        }
        Err(Stop::Over(ending)) => {
            record.at_end().client_tls = secure::summary(&client);
            if let Some(socket) = client.beneath_failed_tls() {
                refuse::part(socket).await;
            }
            Err(ending)
        }
        Err(Stop::No(heard, failure)) => {
            let ending = refuse(&mut client, &mut speech, listener, heard, failure, record).await;
            record.at_end().client_tls = secure::summary(&client);
            Err(ending)
        }
    }
}

/// What a walk comes to.
struct Walked {
    lease: Option<(Place, Lease)>,
    reached: Reached,
    greeting: Option<Box<Greeting>>,
    target: Arc<Target>,
    held: (Ticket, Option<Arc<Session>>),
}

/// context, route, preface, establish, greet.
async fn walk(
    admitted: Result<Ticket, Failure>,
    client: &mut Stream,
    speech: &mut Speech,
    listener: &Listener,
    record: &mut Record,
) -> Result<Walked, Stop> {
    let mut ticket = admitted.map_err(|failure| Stop::No(Heard::Nothing, failure))?;
    let asked = tokio::select! {
        biased;
        asked = context::hear(speech, &mut ticket, client, listener) => asked,
        () = listener.drain.ended(0.0) => Err(Unopened::Failed(draining(Stage::Admit))),
    };
    record.tell(listener.context, asked.as_ref().ok(), client.peer_process());
    let no_opening = |unopened, client: &Stream| {
        unopened_means(unopened, Heard::Opening(Vec::new()), &Trail::default(), client, listener)
    };
    let asked = asked.map_err(|unopened| no_opening(unopened, client))?;

    let decided = context::decide(listener, &ticket, &asked);
    let (route, target) = decided.map_err(|failure| Stop::No(Heard::Opening(Vec::new()), failure))?;
    speech.protocol = target.protocol;
    let told = |failure| Stop::Over(left_for(Some(failure), false));
    if speech.is_answered_first(secure::offer(client, listener)) {
        speech.grant(client, listener, record.id(), None).await.map_err(told)?;
    }
    let opening = tokio::select! {
        biased;
        opening = open(client, target.protocol, listener) => opening,
        () = listener.drain.ended(0.0) => Err(Unopened::Failed(draining(Stage::Admit))),
    };
    let opening = opening.map_err(|unopened| no_opening(unopened, client))?;
    // A session that is to be cancelled is where it is, whosever turn it is.
    let (route, target) = split::holding(&opening, listener).unwrap_or((route, target));
    record.draft().upstream = Some(route.upstream.clone());
    record.stage = Stage::Queue;

    let cancels = opening.cancels.is_some();
    record.draft().cancels = cancels;
    let mut trail = Trail::default();
    let mut took = None;
    let established = async {
        let introduction = context::introduction(&asked, target, client, record.id());
        let way = (route.source, context::wish(&asked, introduction.as_ref()));
        let begun = Instant::now();
        let established = wait_for(target, way, &opening, client, listener, &mut trail).await?;
        took = trail.times.warm.is_none().then(|| begun.elapsed());
        speech.grant(client, listener, record.id(), Some(&trail)).await.map_err(told)?;
        interview(target, established, opening, client, listener, &mut trail).await
    }
    .await;
    note(trail, target, listener, record);
    let (Established { lease, mut reached }, opening) = established?;
    if !cancels {
        split::established(listener, &route, took);
    }
    if let Some(secured) = &mut reached.secured {
        record.draft().tls = Some(std::mem::take(&mut secured.summary));
    }
    record.relaying();
    record.flow().add_sent(opening.bytes.len());
    let offer = secure::offer(client, listener);
    let (mut greeting, session) = greet(target, opening, offer, &mut reached, lease.as_ref());
    if let (Some(greeting), Offer::Required) = (&mut greeting, offer) {
        greeting.asks_within(listener.preface_timeout);
    }
    Ok(Walked { lease, reached, greeting, target: target.clone(), held: (ticket, session) })
}

/// The client's own TLS where that begins with the first byte, and what it opens with.
async fn open(client: &mut Stream, protocol: Protocol, listener: &Listener) -> Result<Opening, Unopened> {
    secure::from_the_first_byte(client, listener).await?;
    let offer = secure::offer(client, listener);
    preface::read(client, protocol, offer, listener.preface_timeout).await
}

/// What it means that a client's words came to nothing. `heard`: how far the conversation is.
fn unopened_means(
    unopened: Unopened,
    heard: Heard,
    trail: &Trail,
    client: &Stream,
    listener: &Listener,
) -> Stop {
    match unopened {
        Unopened::Left => Stop::Over(left(Gone::Silently, trail, Duration::ZERO)),
        Unopened::LeftFor(failure) => {
            Stop::Over(left_for(Some(secure::explained(failure, client, listener)), false))
        }
        Unopened::Failed(failure) => Stop::No(heard, failure),
        Unopened::Unsecured(failure) => {
            let failure = secure::explained(failure, client, listener);
            let closed_by = Some(failure.side);
            let outcome = outcome(&failure);
            Stop::Over(Box::new(Ending { outcome, failure: Some(failure), closed_by, quiet: false }))
        }
    }
}

/// Who may come, and when nobody may any more.
async fn admit(accepted: &Accepted, listener: &Listener, user: &mut Option<u32>) -> Result<Ticket, Failure> {
    let ticket = listener.gate.admit(accepted, Instant::now(), user).await?;
    if listener.drain.is_draining() {
        return Err(draining(Stage::Admit));
    }
    Ok(ticket)
}

/// Establishes, unless the client leaves or the drain ends it first.
async fn wait_for(
    target: &Target,
    (source, wish): (u64, establish::Wish<'_>),
    opening: &Opening,
    client: &mut Stream,
    listener: &Listener,
    trail: &mut Trail,
) -> Result<Established, Stop> {
    let heard = || Heard::opening(opening);
    // Where everybody else has to show who they are, only what a session's own key asks for goes on.
    let anywhere = secure::offer(client, listener) != Offer::Required;
    let begun = Instant::now();
    let established = async {
        match &opening.cancels {
            None => establish::establish(target, source, wish, &opening.bytes, trail).await,
            Some(key) => {
                let only = || target.upstream.only_endpoint().filter(|_| anywhere);
                let at = target.upstream.sessions().find(key).or_else(only);
                establish::establish_at(target, &at.ok_or_else(unknown_session)?, trail).await
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        established = established => established.map_err(|failure| Stop::No(heard(), failure)),
        // Before the attempt under way is given up: who left before any had ended may be a probe. A request to cancel is
        // carried on: some clients close once they have sent it. And so is what a server would hold against us.
        gone = client.gone(), if opening.cancels.is_none() && !target.protocol.blocks_hosts() => {
            let waited = begun.elapsed();
            split::given_up(listener, target.upstream.name(), waited);
            let ending = left(gone, trail, waited);
            let quiet = ending.quiet && opening.bytes.is_empty();
            Err(Stop::Over(Box::new(Ending { quiet, ..*ending })))
        }
        () = listener.drain.ended(0.0) => Err(Stop::No(heard(), draining(trail.stage))),
    };
    trail.give_up(Instant::now());
    outcome
}

/// Where a server cannot be asked for TLS before its client has said something: hears it, and goes on with TLS.
async fn interview(
    target: &Target,
    established: Established,
    opening: Opening,
    client: &mut Stream,
    listener: &Listener,
    trail: &mut Trail,
) -> Result<(Established, Opening), Stop> {
    if established.reached.pending.is_none() {
        return Ok((established, opening));
    }
    trail.stage = Stage::Greet;
    let negotiated = &established.reached.negotiated;
    let Interviewed { request, opening } = match hear_out(target, negotiated, client, listener, trail).await {
        Ok(Some(interviewed)) => interviewed,
        Ok(None) => return Ok((established, opening)),
        Err(stop) => {
            // Nobody waits for that.
            drop(tokio::spawn(establish::take_leave(target.protocol, established)));
            return Err(stop);
        }
    };
    let secured = tokio::select! {
        biased;
        secured = establish::secure(target, established, &request, trail) => secured,
        () = listener.drain.ended(0.0) => Err(draining(Stage::Handshake)),
    };
    match secured {
        Ok(established) => Ok((established, opening)),
        Err(failure) => Err(Stop::No(Heard::Greeted(opening.bytes), failure)),
    }
}

/// What the client answers to the server's greeting; `None`: there is nothing to ask.
async fn hear_out(
    target: &Target,
    negotiated: &Negotiated,
    client: &mut Stream,
    listener: &Listener,
    trail: &Trail,
) -> Result<Option<Interviewed>, Stop> {
    tokio::select! {
        biased;
        // Before it was greeted: as a bare probe is.
        gone = client.gone() => {
            let waited = trail.attempts.iter().map(|attempt| attempt.took).sum();
            return Err(Stop::Over(left(gone, &Trail::default(), waited)));
        }
        () = std::future::ready(()) => {}
    }
    let heard = tokio::select! {
        biased;
        heard = ask(target, negotiated, client, listener) => heard,
        () = listener.drain.ended(0.0) => Err(Unopened::Failed(draining(Stage::Greet))),
    };
    heard.map_err(|unopened| {
        let interview = target.protocol.interview(negotiated, secure::offer(client, listener));
        let heard = Heard::Greeted(interview.map_or_else(Vec::new, |talk| talk.unanswered()));
        unopened_means(unopened, heard, trail, client, listener)
    })
}

/// Asks the client; inside its own TLS once more, where it wants that first. `None`: there is nothing to ask.
async fn ask(
    target: &Target,
    negotiated: &Negotiated,
    client: &mut Stream,
    listener: &Listener,
) -> Result<Option<Interviewed>, Unopened> {
    let limit = listener.preface_timeout;
    loop {
        let offer = secure::offer(client, listener);
        let Some(mut talk) = target.protocol.interview(negotiated, offer) else { return Ok(None) };
        let heard = preface::hear(client, &mut *talk, Stage::Greet, limit).await?;
        if !heard.opening.wants_tls {
            return Ok(Some(heard));
        }
        let wrapping = target.protocol.wrapping();
        preface::secure(client, wrapping, heard.opening.bytes, Stage::Greet, limit).await?;
    }
}

/// What there is to tell of the way to the upstream.
fn note(trail: Trail, target: &Target, listener: &Listener, record: &mut Record) {
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
}

/// What both sides are told first, and who reads along until the session has begun; its key is kept where it may be
/// cancelled by it.
fn greet(
    target: &Target,
    opening: Opening,
    offer: Offer,
    reached: &mut Reached,
    lease: Option<&(Place, Lease)>,
) -> (Option<Box<Greeting>>, Option<Arc<Session>>) {
    if target.protocol == Protocol::Tcp {
        return (None, None);
    }
    let at = reached.stream.peer_addr().ok();
    let held = lease.map(|(_, lease)| (target.upstream.sessions().open(), lease.whereabouts(at)));
    let session = held.as_ref().map(|(session, _)| session.clone());
    let keep_key = Box::new(move |key| {
        if let Some((session, at)) = held {
            session.keep(key, at);
        }
    });
    let negotiated = std::mem::take(&mut reached.negotiated);
    let secured = reached.secured.is_some();
    let meeting = Meeting { opening, negotiated, secured, offer, keep_key };
    let greeting = target.protocol.greet(meeting);
    (Some(Box::new(greeting)), session)
}

impl Served {
    /// The rest of the way.
    fn relay<'a>(
        &'a mut self,
        drain: &Watch,
        flow: &'a Flow,
    ) -> impl Future<Output = Ended> + Send + use<'a> {
        let First { carried, greeting } = self.first.take().map(|first| *first).unwrap_or_default();
        let settings = &self.target.relay;
        let ends = self.lease.as_ref().map_or_else(|| drain.clone(), |(_, lease)| lease.ends(drain));
        let stop = ends.ended(fastrand::f64());
        relay::run(&mut self.client, &mut self.upstream, carried, greeting, settings, flow, stop)
    }
}

/// What the end of a relay says about the endpoint, and what the client may have to be told.
async fn settle(served: Box<Served>, ended: Ended, listener: &Listener, record: &mut Record) -> Box<Ending> {
    record.at_end().client_tls = secure::summary(&served.client);
    record.at_end().tcp = socket::tcp_facts(&served.upstream);
    let Served { mut client, upstream, target, since, lease, _held: held, .. } = *served;
    // Who is refused may be waited for, and holds nothing meanwhile.
    drop((upstream, held));
    let Some((place, lease)) = lease else {
        return ending(verdict::of_cancelling(&ended, &target), record);
    };
    drop(place);
    let by = &target.judged_by;
    let early = ended.closed_after <= by.early_close;
    let mut verdict = verdict::judge(&ended, early, target.relay.on_truncation, target.tls.as_deref());
    if ended.how == How::Stopped && !listener.drain.is_draining() {
        verdict.outcome = Outcome::Failed;
        verdict.failure = Some(verdict::of_its_endpoint(lease.label()));
    }
    match verdict::class(&verdict, &ended, by) {
        // Its client left before it could show itself: that says nothing about the endpoint, for better or worse.
        None if since.elapsed() <= by.lasting() && !ended.upstream_spoke => drop(lease),
        // Something on the way may have forgotten it while it waited for its client.
        Some(BreakerClass::EarlyClose) if record.seen().was_warm => drop(lease),
        class => lease.ended(Instant::now(), class),
    }
    let mut ending = ending(verdict, record);
    if ending.closed_by == Some(Side::Client)
        && let Some(failure) = ending.failure.take()
    {
        let failure = secure::explained(failure, &client, listener);
        if client.tls_failure().is_some() {
            ending.outcome = outcome(&failure);
        }
        ending.failure = Some(failure);
    }
    split::ended(listener, record.upstream(), &record.seen(), &ending);
    if let Some(socket) = client.beneath_failed_tls() {
        refuse::part(socket).await;
    }
    if ended.refusable
        && let Some(failure) = &ending.failure
    {
        let id = record.id().to_string();
        let heard = Heard::Greeted(ended.unanswered);
        let offer = secure::offer(&client, listener);
        refuse::refuse(&mut client, target.protocol, offer, heard, failure, &id).await;
    }
    ending
}

/// A client that came and went without a byte either way is a liveness probe here too, only one that was quicker served.
fn ending(verdict: Verdict, record: &Record) -> Box<Ending> {
    let Verdict { outcome, failure, closed_by, class: _ } = verdict;
    let silent = record.flow().sent() == 0 && record.flow().received() == 0;
    let quiet = silent && failure.is_none() && closed_by == Some(Side::Client);
    Box::new(Ending { outcome, failure, closed_by, quiet })
}

/// No, see [`Speech::refuse`]; or a reset, where nobody could be had and that is wanted then.
async fn refuse(
    client: &mut Stream,
    speech: &mut Speech,
    listener: &Listener,
    heard: Heard,
    failure: Failure,
    record: &mut Record,
) -> Box<Ending> {
    if before::breaks_off(&failure, listener, record.upstream()) {
        client.reset_on_close();
    } else {
        secure::before_a_word(client, listener);
        let offer = secure::offer(client, listener);
        let id = record.id();
        let draft = record.draft();
        let tried = (draft.endpoint.as_deref(), draft.attempts.len());
        speech.refuse(client, offer, heard, &failure, id, tried).await;
    }
    let outcome = outcome(&failure);
    Box::new(Ending { outcome, failure: Some(failure), closed_by: Some(Side::Ambassador), quiet: false })
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
    const SERVED: usize = 280;
}
