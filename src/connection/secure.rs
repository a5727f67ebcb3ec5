//! secure: TLS on the client's own leg: when it begins, what is left of it to be offered, and what its failing means.
//!
//! Owns what follows from a listener's `tls`. Leaves the protocol's own request for TLS to `preface` and `relay`, which hear
//! it, bytes and handshake to `socket`, certificates and the words for what is wrong with them to `tls`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Listener;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::preface::{self, Unopened};
use crate::protocol::{First, Offer};
use crate::relay::Leg;
use crate::socket::Stream;
use crate::tls::{self, ServerTls};

/// TLS that a listener has to give.
pub struct ClientTls {
    /// Its certificate, and whom it asks for one.
    pub server: Arc<ServerTls>,
    /// Nobody is served without.
    pub required: bool,
    /// It begins with the first byte, and is not asked for.
    pub direct: bool,
}

/// A handshake begins with a record of this type, which is the first byte of no protocol's plaintext.
const HANDSHAKE: u8 = 0x16;

/// How a client's stream is served: where the listener has TLS, it may turn to it.
pub(super) fn client_stream(stream: Stream, listener: &Listener) -> Stream {
    match &listener.tls {
        Some(tls) => stream.upgradable(tls.server.configs().clone()),
        None => stream,
    }
}

/// What the client may be offered.
pub(super) fn offer(client: &Stream, listener: &Listener) -> Offer {
    match &listener.tls {
        _ if client.tls().is_some() => Offer::Taken,
        None => Offer::No,
        // Where TLS begins with the first byte, it is too late to ask for it.
        Some(ClientTls { direct: true, .. }) => Offer::No,
        Some(ClientTls { required: true, .. }) => Offer::Required,
        Some(ClientTls { required: false, .. }) => Offer::Optional,
    }
}

/// Lets TLS begin where it does so with the client's first byte: because it must, or because that byte says so. Many a client
/// of a protocol that it begins itself does not ask.
pub(super) async fn from_the_first_byte(client: &mut Stream, listener: &Listener) -> Result<(), Unopened> {
    let Some(tls) = &listener.tls else { return Ok(()) };
    let limit = listener.preface_timeout;
    let begins = match (tls.direct, tls.required) {
        (true, true) => true,
        (false, _) if listener.protocol.facts().first == First::Server => false,
        (true, false) | (false, _) => match begins_with_tls(client, limit).await? {
            Some(begins) => begins,
            // It may be one that waits for its server to begin.
            None if listener.protocol.facts().first != First::Client => false,
            None => return silent(client, listener),
        },
    };
    match begins {
        true => preface::secure(client, None, Vec::new(), Stage::Admit, limit).await,
        false => Ok(()),
    }
}

/// A client that has to begin has had its time. Where it need not have TLS, and nobody waits for its first words, it may have
/// more.
fn silent(client: &Stream, listener: &Listener) -> Result<(), Unopened> {
    let offer = offer(client, listener);
    let awaited = match (listener.protocol.preface(offer), offer) {
        (Some(talk), _) => talk.awaits(),
        (None, Offer::Required) => "the client's first message",
        (None, _) => return Ok(()),
    };
    Err(Unopened::Failed(preface::late(awaited, Stage::Admit, listener.preface_timeout)))
}

/// `None`: it says nothing for so long.
async fn begins_with_tls(client: &mut Stream, limit: Duration) -> Result<Option<bool>, Unopened> {
    match timeout(limit, client.first_byte()).await {
        Ok(Ok(Some(byte))) => Ok(Some(byte == HANDSHAKE)),
        Ok(Ok(None)) => Err(Unopened::Left),
        Ok(Err(error)) => {
            let detail = format!("the client went away before it said anything: {error}");
            Err(Unopened::LeftFor(Failure::new(Stage::Admit, Reason::ClientReset, Side::Client, detail)))
        }
        Err(_) => Ok(None),
    }
}

/// A client that is turned away where TLS begins with the first byte has to be told inside.
pub(super) fn before_a_word(client: &mut Stream, listener: &Listener) {
    let begins = listener.tls.as_ref().is_some_and(|tls| tls.direct && tls.required);
    if begins
        && client.tls().is_none()
        && let Err(error) = client.start_tls(None, Vec::new())
    {
        tracing::debug!(%error, "TLS for a client that is refused");
    }
}

/// What the client's TLS agreed on, if it came so far.
pub(super) fn summary(client: &Stream) -> Option<tls::Summary> {
    client.tls().filter(|tls| !tls.is_handshaking()).map(|tls| tls::Summary::of(tls))
}

/// Where the client's TLS broke, it is that which there is to tell of: `failure` is how it looked to whoever spoke through it.
pub(super) fn explained(failure: Failure, client: &Stream, listener: &Listener) -> Failure {
    let (Some(tls), Some(conn)) = (&listener.tls, client.tls()) else { return failure };
    let left = matches!(failure.reason, Reason::ClientReset | Reason::BadPreface) && conn.is_handshaking();
    match client.tls_failure() {
        None if !left => failure,
        error => tls.server.explain(failure.stage, error),
    }
}
