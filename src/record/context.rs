//! What is known of a connection beside its addresses: what was told of it before its first byte, and by which process.

use serde::Serialize;

use super::view::{Millis, Pairs};
use crate::addr::{ClientAddr, EndpointAddr};
use crate::context::{Context, Kind, Options};
use crate::socket::Process;

/// What is known of a connection beside its addresses. Most have none of it.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The process of a client on a Unix socket, and what that calls itself.
    pub(super) process: Option<Process>,
    /// The client itself, where that is not who connected.
    source: Option<ClientAddr>,
    pub(super) context: Option<Box<ContextView>>,
}

/// What the client, or the proxy before us, said before the first byte. What was not said is absent.
#[derive(Clone, Debug, Serialize)]
pub struct ContextView {
    /// In which way.
    kind: &'static str,
    /// The proxy that connected on the client's behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<ClientAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<EndpointAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<Millis>,
    /// The upstream that was asked for.
    #[serde(rename = "upstream", skip_serializing_if = "Option::is_none")]
    asked_upstream: Option<Box<str>>,
    /// The endpoint that was asked for.
    #[serde(rename = "endpoint", skip_serializing_if = "Option::is_none")]
    asked_endpoint: Option<EndpointAddr>,
}

impl Surroundings {
    /// `peer`: who connected. `None`: there is nothing to tell.
    pub(super) fn new(
        kind: Kind,
        context: Option<&Context>,
        process: Option<Process>,
        peer: &ClientAddr,
    ) -> Option<Surroundings> {
        let context = context.filter(|context| **context != Context::default());
        if context.is_none() && process.is_none() {
            return None;
        }
        let source = context.and_then(|context| context.source).map(ClientAddr::Tcp);
        let context = context.map(|context| Box::new(ContextView::new(kind, context, peer)));
        Some(Surroundings { process, source, context })
    }

    /// The client itself, where that is not who connected.
    pub(super) fn source(&self) -> Option<&ClientAddr> {
        self.source.as_ref()
    }

    /// Did the client ask for something? Then it is no bare liveness probe, whatever follows.
    pub(super) fn asks(&self) -> bool {
        self.context.as_ref().is_some_and(|context| context.destination.is_some())
    }
}

impl ContextView {
    fn new(kind: Kind, context: &Context, peer: &ClientAddr) -> ContextView {
        let Context { source, hides_source: _, destination, authority, unique_id, user, options } =
            context.clone();
        let Options { attempts, deadline, upstream, endpoint, correlation, traceparent } = options;
        ContextView {
            kind: kind.label(),
            via: source.map(|_| peer.clone()),
            destination,
            authority,
            unique_id,
            user,
            correlation,
            traceparent,
            max_attempts: attempts,
            deadline_ms: deadline.map(Millis),
            asked_upstream: upstream,
            asked_endpoint: endpoint,
        }
    }

    /// Is it the address of the proxy that connected?
    pub(super) fn is_via(&self, address: &ClientAddr) -> bool {
        self.via.as_ref() == Some(address)
    }

    pub(super) fn write(&self, line: &mut Pairs) {
        line.pair("context", self.kind);
        line.known("via", self.via.as_ref());
        line.known("destination", self.destination.as_ref());
        line.maybe_quoted("authority", self.authority.as_deref());
        line.maybe_quoted("unique_id", self.unique_id.as_deref());
        line.maybe_quoted("user", self.user.as_deref());
        line.maybe_quoted("correlation", self.correlation.as_deref());
        line.maybe_quoted("traceparent", self.traceparent.as_deref());
        line.known("max_attempts", self.max_attempts);
        line.known("deadline_ms", self.deadline_ms);
        line.maybe_quoted("asked_upstream", self.asked_upstream.as_deref());
        line.known("asked_endpoint", self.asked_endpoint.as_ref());
    }
}
