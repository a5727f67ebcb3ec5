//! What was told of a connection before its first byte, as the record shows it.

use serde::Serialize;

use super::view::{Millis, Pairs};
use crate::addr::{ClientAddr, EndpointAddr};
use crate::context::{Context, Kind, Options};

/// What is known of a connection's surroundings. What is not known, or does not apply, is absent.
#[derive(Clone, Debug, Serialize)]
pub struct ContextView {
    /// How it was told.
    pub kind: &'static str,
    /// The process of a client on a Unix socket. For a person to read: it may be another one by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What that process calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Box<str>>,
    /// Boxed: most connections have none of it.
    #[serde(flatten)]
    told: Option<Box<Told>>,
}

/// What the client, or the proxy before us, said.
#[derive(Clone, Debug, Default, Serialize)]
struct Told {
    /// The proxy that connected on the client's behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<ClientAddr>,
    /// The client itself, where that is not who connected.
    #[serde(skip)]
    source: Option<ClientAddr>,
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

impl ContextView {
    /// `peer`: who connected. `None`: there is nothing to tell.
    pub(super) fn new(
        kind: Kind,
        context: Option<&Context>,
        process: Option<(u32, Option<Box<str>>)>,
        peer: &ClientAddr,
    ) -> Option<ContextView> {
        let told = context.filter(|context| **context != Context::default());
        if told.is_none() && process.is_none() {
            return None;
        }
        let told = told.map(|context| {
            let Context { source, destination, authority, unique_id, user, options } = context.clone();
            let Options { attempts, deadline, upstream, endpoint, correlation, traceparent } = options;
            Box::new(Told {
                via: source.map(|_| peer.clone()),
                source: source.map(ClientAddr::Tcp),
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
            })
        });
        let (pid, process) = process.unzip();
        Some(ContextView { kind: kind.label(), pid, process: process.flatten(), told })
    }

    /// The client itself, where that is not who connected.
    pub(super) fn source(&self) -> Option<&ClientAddr> {
        self.told.as_ref()?.source.as_ref()
    }

    /// Is it the address of the proxy that connected?
    pub(super) fn is_via(&self, address: &ClientAddr) -> bool {
        self.told.as_ref().is_some_and(|told| told.via.as_ref() == Some(address))
    }

    /// Did the client ask for something? Then it is no bare liveness probe, whatever follows.
    pub(super) fn asks(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.destination.is_some())
    }

    pub(super) fn write(&self, line: &mut Pairs) {
        let ContextView { kind, pid, process, told } = self;
        line.pair("context", kind);
        line.known("pid", *pid);
        line.maybe_quoted("process", process.as_deref());
        let Some(told) = told else { return };
        line.known("via", told.via.as_ref());
        line.known("destination", told.destination.as_ref());
        line.maybe_quoted("authority", told.authority.as_deref());
        line.maybe_quoted("unique_id", told.unique_id.as_deref());
        line.maybe_quoted("user", told.user.as_deref());
        line.maybe_quoted("correlation", told.correlation.as_deref());
        line.maybe_quoted("traceparent", told.traceparent.as_deref());
        line.known("max_attempts", told.max_attempts);
        line.known("deadline_ms", told.deadline_ms);
        line.maybe_quoted("asked_upstream", told.asked_upstream.as_deref());
        line.known("asked_endpoint", told.asked_endpoint.as_ref());
    }
}
