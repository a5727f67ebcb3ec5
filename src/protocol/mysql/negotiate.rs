//! The server's greeting before TLS, and where nobody else has anything to say, the request for TLS too.
//!
//! It comes in plaintext, from whoever is on the way: nothing may stand behind it, and what an error says is quoted as what
//! it is, unproven.

use super::super::reply::quoted;
use super::super::{Negotiated, Talk};
use super::greeting::{HandshakeV10, Said};
use super::{
    HEADER, LONG_PASSWORD, PLUGIN_AUTH, PROTOCOL_41, SECURE_CONNECTION, SSL, TooLong, first_packet,
    put_packet,
};
use crate::failure::{BreakerClass, Failure, Reason, Stage};

/// Greetings have some hundred bytes, errors 512 of text.
pub(super) const LONGEST_GREETING: usize = 4096;
/// What we take in one packet, where there is no client whose word counts.
const PACKET_SIZE: u32 = 1 << 24;

/// The conversation with a server before TLS.
pub(super) struct Negotiation {
    /// There is no client to be heard first.
    alone: bool,
}

impl Negotiation {
    pub(super) fn new(alone: bool) -> Negotiation {
        Negotiation { alone }
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        let Some(header) = heard.first_chunk::<HEADER>() else { return Ok(None) };
        let packet = match first_packet(heard, LONGEST_GREETING) {
            Err(TooLong) => return Err(not_mysql(header)),
            Ok(_) if header[3] != 0 => return Err(not_mysql(header)),
            Ok(None) => return Ok(None),
            Ok(Some(packet)) => packet,
        };
        if let Some(said) = Said::read(packet.body) {
            return Err(said_no(&said));
        }
        let Some(greeting) = HandshakeV10::read(packet.body) else {
            return Err(not_mysql(&heard[..packet.length()]));
        };
        if greeting.capabilities() & SSL == 0 {
            return Err(refused("the server does not offer TLS (its greeting has no CLIENT_SSL)").mend(
                "give it ssl_cert, ssl_key and ssl_ca in its my.cnf; or, where the network is trusted, tls = \"off\" here",
            ));
        }
        if greeting.capabilities() & PROTOCOL_41 == 0 {
            return Err(
                error("the server speaks the protocol of before MySQL 4.1").mend("use a later server")
            );
        }
        if heard.len() > packet.length() {
            let detail =
                "there are bytes in plaintext behind the server's greeting: someone may be injecting them";
            let mend = "find out who is on the way to the server: none says more before it is answered";
            return Err(error(detail).mend(mend));
        }
        if self.alone {
            say.extend(ssl_request(&greeting));
        }
        Ok(Some(Negotiated { greeting: std::mem::take(heard) }))
    }

    fn awaits(&self) -> &'static str {
        "the server's greeting"
    }

    fn if_late(&self) -> Option<&'static str> {
        Some(
            "is it a MySQL or MariaDB server? One that looks up our host's name first may hang in its DNS \
             (skip_name_resolve = ON there)",
        )
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        (!heard.is_empty()).then(|| not_mysql(heard))
    }
}

/// SSLRequest on nobody's behalf: what its server takes of ours.
fn ssl_request(greeting: &HandshakeV10<'_>) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + 32);
    put_packet(1, &own_words(greeting, true), &mut request);
    request
}

/// What a handshake response begins with that is our own: capabilities, packet size, character set, and nothing for what is
/// reserved.
pub(super) fn own_words(greeting: &HandshakeV10<'_>, tls: bool) -> [u8; 32] {
    let wanted = LONG_PASSWORD | SECURE_CONNECTION | PLUGIN_AUTH;
    let flags = greeting.capabilities() & wanted | PROTOCOL_41 | if tls { SSL } else { 0 };
    let mut words = [0; 32];
    words[..4].copy_from_slice(&flags.to_le_bytes());
    words[4..8].copy_from_slice(&PACKET_SIZE.to_le_bytes());
    words[8] = greeting.charset();
    words
}

fn error(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

/// An error in place of the greeting.
fn said_no(said: &Said<'_>) -> Failure {
    let (detail, mend) = said.words("its greeting");
    let failure = refused(detail).mend(mend);
    match said.is_overload() {
        true => failure.counted_as(BreakerClass::Overloaded),
        false => failure,
    }
}

fn not_mysql(heard: &[u8]) -> Failure {
    match heard {
        [b'S', b'S', b'H', ..] => error("no MySQL server answers there: it is an SSH server"),
        [0x15, 0x03, ..] => error("no MySQL server answers there: it sent a TLS alert")
            .mend("set tls = \"direct\" if this port speaks TLS from its first byte"),
        [_, _, _, 0, 11, ..] => error("no MySQL server's classic protocol is spoken there")
            .mend("port 33060 is that of the X protocol: use 3306"),
        [_, _, _, 0, version @ 1..=9, ..] => {
            error(format!("the server speaks version {version} of the protocol, and TLS began with 10"))
        }
        _ => {
            let first = &heard[..heard.len().min(20)];
            error(format!("no MySQL server answers there: it began with \"{}\"", quoted(first)))
        }
    }
}
