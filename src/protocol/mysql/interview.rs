//! What the client has to say before the server can be asked for TLS.
//!
//! Servers read capabilities, packet size and character set before TLS and not again inside it. So they have to be the
//! client's own, and the client has to be greeted, and heard, first.

use super::super::{Interviewed, Offer, Opening, Talk};
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
    /// TLS that the client may ask for, as the greeting says; inside, it goes on behind its request.
    offer: Offer,
}

impl Interview {
    /// `greeting`: the server's packet as it came.
    pub(super) fn new(greeting: &[u8], offer: Offer) -> Interview {
        let mut greeting = greeting.to_vec();
        match offer {
            Offer::No => take_ssl(&mut greeting),
            Offer::Optional | Offer::Required => {}
            Offer::Taken => greeting.clear(),
        }
        Interview { greeting, offer }
    }

    /// The number of the client's next packet.
    fn number(&self) -> u8 {
        if self.offer == Offer::Taken { 2 } else { 1 }
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
            (Some(number), Ok(packet)) if *number == self.number() => match packet {
                Some(packet) => packet,
                None => return Ok(None),
            },
            (None, Ok(None) | Err(TooLong)) => return Ok(None),
            _ => return Err(unfit(Unfit::Odd)),
        };
        if self.offer.is_open() && is_ssl_request(&packet) {
            // It awaits no answer: what stands behind is its handshake, and is for TLS to judge.
            let bytes = heard.split_off(packet.length());
            heard.clear();
            let opening = Opening { bytes, wants_tls: true, ..Opening::default() };
            return Ok(Some(Interviewed { request: Vec::new(), opening }));
        }
        let response = match self.offer {
            // What it said before TLS it says again.
            Offer::Taken => Response::read_any(packet.body),
            Offer::No | Offer::Optional | Offer::Required => Response::read(packet.body),
        };
        let response = response.map_err(unfit)?;
        if self.offer == Offer::Required {
            let detail = "the client speaks plaintext, and this listener serves nobody without TLS";
            return Err(Failure::new(Stage::Greet, Reason::AdmissionDenied, Side::Client, detail).mend(
                "switch TLS on in the client (mariadb --ssl, mysql --ssl-mode=REQUIRED, sslMode=REQUIRED), or write tls = \"optional\" in its listener",
            ));
        }
        if Plugin::of(response.plugin).answers(response.proof) == Answer::Sealed {
            return Err(failed(super::auth::SEALED.0).mend(super::auth::SEALED.1));
        }
        let request = ssl_request(&packet);
        let bytes = std::mem::take(heard);
        Ok(Some(Interviewed { request, opening: Opening { bytes, ..Opening::default() } }))
    }

    /// A client begins with TLS right behind its request for it, and waits for no answer.
    fn may_read(&self, heard: &[u8]) -> Option<usize> {
        let until = match *heard {
            // Of a length that is too long no more is waited for.
            [a, b, c, _, ..] => HEADER + usize::from(a) + (usize::from(b) << 8) + (usize::from(c) << 16),
            _ => HEADER,
        };
        self.offer.is_open().then(|| until.saturating_sub(heard.len()).max(1))
    }

    fn awaits(&self) -> &'static str {
        "the client's answer to the server's greeting"
    }

    /// The header of its next packet.
    fn unanswered(&self) -> Vec<u8> {
        vec![0, 0, 0, self.number()]
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
    put_packet(1, packet.body.get(..HEAD).unwrap_or_default(), &mut request);
    if let Some(byte) = request.get_mut(HEADER + SSL_AT) {
        *byte = with_ssl(*byte);
    }
    request
}

/// The front of a client's answer, with its own wish for TLS.
fn is_ssl_request(packet: &Packet<'_>) -> bool {
    packet.body.len() == HEAD && packet.body.get(SSL_AT).is_some_and(|byte| with_ssl(*byte) == *byte)
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
