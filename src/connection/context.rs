//! context: the client's context on its walk: heard once it is let in, obeyed on the way, and answered.
//!
//! Owns in whose words a client is spoken to: until it is told yes, in those in which it asked for a destination; from then on,
//! and where nobody asks, in its protocol's. Leaves the words themselves to `context` and `protocol`.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Listener, secure, split};
use crate::accept::Accepted;
use crate::addr::EndpointAddr;
use crate::admit::Ticket;
use crate::context::{Context, Grant, Hearing, Kind, Options, Refusal};
use crate::dial::header::{ClientTls, Introduction};
use crate::establish::{Target, Wish};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::preface::{self, Unopened};
use crate::protocol::{Offer, Protocol};
use crate::record::ConnectionId;
use crate::refuse::{self, Heard};
use crate::relay::Leg;
use crate::route::{self, Route};
use crate::socket::Stream;
use crate::tls;
use crate::trail::Trail;

/// How a client is spoken to.
pub(super) struct Speech {
    /// What it speaks itself.
    pub(super) protocol: Protocol,
    /// It awaits an answer in these words first.
    asking: Option<Hearing>,
}

impl Speech {
    /// As a listener's clients begin.
    pub(super) fn new(listener: &Listener) -> Speech {
        Speech { protocol: listener.protocol, asking: listener.context.hearing() }
    }

    /// Is there a way to say no?
    pub(super) fn has_words(&self) -> bool {
        self.protocol != Protocol::Tcp || self.asking.as_ref().is_some_and(Hearing::is_answered)
    }

    /// Must the client be told yes before the server is reached, since its own first words are wanted for that?
    pub(super) fn is_answered_first(&self, offer: Offer) -> bool {
        self.asking.is_some() && self.protocol.preface(offer).is_some()
    }

    /// Tells the client yes, where it awaits that.
    pub(super) async fn grant(
        &mut self,
        client: &mut Stream,
        listener: &Listener,
        id: ConnectionId,
        trail: Option<&Trail>,
    ) -> Result<(), Failure> {
        let Some(asking) = self.asking.take().filter(Hearing::is_answered) else { return Ok(()) };
        let id = id.to_string();
        let endpoint = trail.and_then(|trail| trail.attempts.last()).map(|attempt| &*attempt.endpoint);
        let attempts = trail.map_or(0, |trail| trail.attempts.len());
        let words = asking.granted(&Grant { id: &id, endpoint, attempts });
        let gone = |detail: String| Failure::new(Stage::Greet, Reason::ClientReset, Side::Client, detail);
        match timeout(listener.preface_timeout, client.write_all(&words)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(gone(format!("the client went away before it was told yes: {error}"))),
            Err(_) => Err(gone("the client did not take the answer to what it had asked for".to_owned())),
        }
    }

    /// No, in the client's own words where there are some, else a reset, which no client mistakes for an empty answer.
    pub(super) async fn refuse<C: Leg>(
        &mut self,
        client: &mut C,
        offer: Offer,
        heard: Heard,
        failure: &Failure,
        id: ConnectionId,
        tried: (Option<&str>, usize),
    ) {
        let id = id.to_string();
        match &mut self.asking {
            Some(asking) if asking.is_answered() => {
                let (endpoint, attempts) = tried;
                let refusal = Refusal { failure, id: &id, endpoint, attempts };
                refuse::refuse_asking(client, asking, heard == Heard::Nothing, &refusal).await;
            }
            _ => refuse::refuse(client, self.protocol, offer, heard, failure, &id).await,
        }
    }
}

/// Asks the kernel where a connection was going, where that matters.
pub(super) fn as_connected(mut accepted: Box<Accepted>, listener: &Listener) -> Box<Accepted> {
    if listener.context == Kind::OriginalDestination {
        accepted.redirected_from = accepted.stream.original_destination();
    }
    accepted
}

/// What is said of the connection before its first byte, and by whom it comes then.
pub(super) async fn hear(
    speech: &mut Speech,
    ticket: &mut Ticket,
    client: &mut Stream,
    listener: &Listener,
) -> Result<Context, Unopened> {
    if listener.context == Kind::OriginalDestination {
        return original_destination(client).map_err(Unopened::Failed);
    }
    let Some(asking) = &mut speech.asking else { return Ok(Context::default()) };
    let context = preface::hear(client, asking, Stage::Admit, listener.preface_timeout).await?;
    if listener.context == Kind::ProxyProtocol {
        let admitted = match context.hides_source {
            true => listener.gate.admit_hidden(ticket),
            false => listener.gate.admit_behind(ticket, context.source.map(|source| source.ip())),
        };
        admitted.map_err(Unopened::Failed)?;
    }
    Ok(context)
}

fn original_destination(client: &Stream) -> Result<Context, Failure> {
    match client.original_destination() {
        Some(destination) => Ok(Context { destination: Some(destination.into()), ..Context::default() }),
        None => {
            let detail = "the client connected to the listener itself: nothing has redirected it here";
            Err(Failure::new(Stage::Admit, Reason::DestinationNotFound, Side::Client, detail)
                .mend("redirect connections to it as packaging/nftables shows, and connect to the servers' own addresses"))
        }
    }
}

/// Which upstream it goes to.
pub(super) fn decide<'a>(
    listener: &'a Listener,
    ticket: &Ticket,
    asked: &Context,
) -> Result<(Route, &'a Arc<Target>), Failure> {
    let has = |upstream: &str, endpoint: &EndpointAddr| {
        listener.targets.get(upstream).is_some_and(|target| target.upstream.has(endpoint))
    };
    let route = route::decide(&listener.route, ticket.source(), asked, has)?;
    let route = split::drawn(route, asked, listener);
    let target = listener.targets.get(&route.upstream).ok_or_else(|| no_such_upstream(&route))?;
    Ok((route, target))
}

fn no_such_upstream(route: &Route) -> Failure {
    let detail = format!("there is no upstream '{}'", route.upstream);
    Failure::new(Stage::Route, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}

/// What is asked for on the way to the server.
pub(super) fn wish<'a>(context: &'a Context, introduction: Option<&'a Introduction>) -> Wish<'a> {
    let Options { attempts, deadline, endpoint, .. } = &context.options;
    Wish { attempts: *attempts, deadline: *deadline, endpoint: endpoint.as_ref(), introduction }
}

/// What a server is told of the client, where it wants to know.
pub(super) fn introduction(
    context: &Context,
    target: &Target,
    client: &Stream,
    id: ConnectionId,
) -> Option<Introduction> {
    target.dial.header?;
    let asked = context.destination.as_ref().and_then(EndpointAddr::socket_addr);
    let addresses = client.tcp_addresses().map(|(peer, local)| {
        // Who was introduced to us is introduced as that.
        (context.source.unwrap_or(peer), asked.unwrap_or(local))
    });
    let tls = secure::summary(client).map(|summary| ClientTls {
        version: summary.version.to_owned(),
        suite: summary.suite.to_owned(),
        name: summary.peer.as_ref().map(|peer| tls::describe_peer(peer).subject),
    });
    let Options { correlation, traceparent, .. } = &context.options;
    let told = [("correlation", correlation), ("traceparent", traceparent)];
    let told: Vec<_> = (told.iter())
        .filter_map(|(key, value)| {
            // A semicolon would begin another option there.
            let value = value.as_ref().filter(|value| !value.contains(';'))?;
            Some(format!("{key}={value}"))
        })
        .collect();
    Some(Introduction { addresses, id: id.to_string(), options: told.join(";"), tls })
}
