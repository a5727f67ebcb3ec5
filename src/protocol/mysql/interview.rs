//! What the client has to say before the server can be asked for TLS.
//!
//! Servers read capabilities, packet size and character set before TLS and not again inside it. So they have to be the
//! client's own, and the client has to be greeted, and heard, first.

use super::super::{Interviewed, Opening, Talk};
use super::auth::{Answer, Plugin};
use super::greeting::{HandshakeV10, with_ssl, without_ssl};
use super::response::{HEAD, Response, SSL_AT, Unfit};
use super::{HEADER, LONGEST, Packet, TooLong, first_packet, put_packet};
use crate::failure::{Failure, Reason, Side, Stage};

/// What helps a client that insists on TLS of its own.
pub(super) const SWITCH_OFF: &str = "switch TLS off in the client (mariadb --skip-ssl, mysql --ssl-mode=DISABLED, sslMode=DISABLED): nuncio speaks it to the \
     server";

/// The conversation with a client between the server's greeting and TLS.
pub(super) struct Interview {
    /// The greeting, until it is said.
    greeting: Vec<u8>,
}

impl Interview {
    /// `greeting`: the server's packet as it came.
    pub(super) fn new(greeting: &[u8]) -> Interview {
        let mut greeting = greeting.to_vec();
        take_ssl(&mut greeting);
        Interview { greeting }
    }
}

/// A greeting's packet without the offer of TLS.
pub(super) fn take_ssl(packet: &mut [u8]) {
    let at = packet.get(HEADER..).and_then(HandshakeV10::read).map(|greeting| HEADER + greeting.ssl_at());
    if let Some(byte) = at.and_then(|at| packet.get_mut(at)) {
        *byte = without_ssl(*byte);
    }
}

impl Talk for Interview {
    type Outcome = Interviewed;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Interviewed>, Failure> {
        say.append(&mut self.greeting);
        if let [0x16, 0x03, 1..=u8::MAX, ..] = heard[..] {
            return Err(unfit(Unfit::Tls));
        }
        // Its number is told before its length: what comes first may be no MySQL at all.
        let packet = match (heard.get(3), first_packet(heard, LONGEST)) {
            (Some(1), Ok(Some(packet))) => packet,
            (Some(1) | None, Ok(None)) => return Ok(None),
            (None, Err(TooLong)) => return Ok(None),
            _ => return Err(unfit(Unfit::Odd)),
        };
        let response = Response::read(packet.body).map_err(unfit)?;
        if Plugin::of(response.plugin).answers(response.proof) == Answer::Sealed {
            return Err(failed(super::auth::SEALED.0).mend(super::auth::SEALED.1));
        }
        let request = ssl_request(&packet);
        let bytes = std::mem::take(heard);
        Ok(Some(Interviewed { request, opening: Opening { bytes, ..Opening::default() } }))
    }

    fn awaits(&self) -> &'static str {
        "the client's answer to the server's greeting"
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        heard.is_empty().then(|| {
            failed(
                "the client left after the server's greeting: it only looked whether somebody is there, or insists on TLS of \
                 its own",
            )
            .mend(SWITCH_OFF)
        })
    }
}

/// The front of the client's own words, with the wish for TLS.
fn ssl_request(packet: &Packet<'_>) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + HEAD);
    put_packet(packet.number, packet.body.get(..HEAD).unwrap_or_default(), &mut request);
    if let Some(byte) = request.get_mut(HEADER + SSL_AT) {
        *byte = with_ssl(*byte);
    }
    request
}

fn failed(detail: &str) -> Failure {
    Failure::new(Stage::Greet, Reason::BadPreface, Side::Client, detail)
}

fn unfit(unfit: Unfit) -> Failure {
    let (detail, mend) = why_unfit(unfit);
    failed(detail).mend(mend)
}

/// What is wrong with such a client, and what to do.
pub(super) fn why_unfit(unfit: Unfit) -> (&'static str, &'static str) {
    match unfit {
        Unfit::Old => (
            "the client speaks the protocol of before MySQL 4.1, which has no room for TLS",
            "use a client library of 4.1 or later (old ones speak so with old passwords: secure_auth, or SET old_passwords=0)",
        ),
        Unfit::Tls => ("the client begins with TLS of its own, though none is offered", SWITCH_OFF),
        Unfit::Odd => (
            "what the client answered to the server's greeting is none of MySQL's",
            "is this the protocol that the client speaks?",
        ),
    }
}
