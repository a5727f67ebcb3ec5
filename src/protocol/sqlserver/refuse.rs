//! No, as a SQL Server says it: a client reads an error only in answer to its login, so its PRELOGIN is answered first.

use std::mem;

use super::super::sentence::sentence;
use super::super::{Refusal, Talk};
use super::packet::{HEADER, LOGIN7, Message, PRELOGIN, TABULAR, message, put_message};
use super::preface::bad;
use super::prelogin::Prelogin;
use super::token::Error;
use crate::failure::{Failure, Reason};

/// In letters of two bytes: all of it fits into one packet.
const LONGEST: usize = 1200;
/// Ends the connection, as every driver knows.
const CLASS: u8 = 20;

/// Hears the client out up to its login.
pub(super) struct Refusing {
    number: u32,
    text: String,
    /// What the client had said before.
    said: Vec<u8>,
    has_prelogin: bool,
}

impl Refusing {
    pub(super) fn new(refusal: &Refusal<'_>) -> Refusing {
        Refusing {
            number: number(refusal.failure.reason),
            text: sentence(refusal, LONGEST),
            said: refusal.said.to_vec(),
            has_prelogin: false,
        }
    }
}

impl Talk for Refusing {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        if !self.said.is_empty() {
            heard.splice(..0, mem::take(&mut self.said));
        }
        if heard.first() == Some(&PRELOGIN) && !self.has_prelogin {
            let (payload, length) = match message(heard, PRELOGIN) {
                Message::Part => return Ok(None),
                Message::Odd(why) => return Err(bad(format!("the client sent {why}"))),
                Message::Whole { payload, length } => (payload, length),
            };
            let prelogin = Prelogin::read(&payload);
            let prelogin =
                prelogin.ok_or_else(|| bad("the client's PRELOGIN has options that lie outside of it"))?;
            prelogin.answered().put(TABULAR, say);
            heard.drain(..length);
            self.has_prelogin = true;
        }
        match heard.first() {
            None => return Ok(None),
            Some(&LOGIN7) => {}
            Some(_) => return Err(bad("the client sent something else than a login")),
        }
        // Length and version stand first.
        let Some(version) = heard.get(HEADER + 4..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        let is_older = matches!(u32::from_le_bytes(*version) >> 24, 0x70 | 0x71);
        let error = Error { number: self.number, class: CLASS, text: &self.text, server: "nuncio", is_older };
        put_message(TABULAR, &error.result(), say);
        heard.clear();
        Ok(Some(()))
    }

    fn awaits(&self) -> &'static str {
        if self.has_prelogin { "the client's login" } else { "the client's PRELOGIN or login" }
    }
}

/// The error that a client would have to do with, had it met this failure at the server itself.
///
/// 40613 (not currently available) is more than a name: drivers and frameworks that try again by themselves go by it. So it
/// is told where that may help in a moment, and 50000, the number of errors that have none, where somebody has to mend
/// something first.
fn number(reason: Reason) -> u32 {
    match reason {
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationUnavailable
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::CircuitOpen
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::EstablishTimeout
        | Reason::EarlyClose => 40613,
        // The maximum number of user connections has been reached.
        Reason::ConnectionLimitReached | Reason::QueueTimeout => 17809,
        // SHUTDOWN is in progress.
        Reason::Draining => 6005,
        Reason::DestinationNotFound
        | Reason::DestinationIpProhibited
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::NegotiationError
        | Reason::NegotiationRefused
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::HalfCloseTimeout
        | Reason::PrefaceTimeout
        | Reason::BadPreface
        | Reason::AdmissionDenied
        | Reason::ClientCertificateRefused
        | Reason::LifetimeReached
        | Reason::IdleTimeout
        | Reason::ProxyLoopDetected
        | Reason::ProxyConfigurationError
        | Reason::ProxyInternalError => 50000,
    }
}
