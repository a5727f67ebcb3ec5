//! Asking the server for TLS: the client's PRELOGIN with encryption in it, and the server's own for an answer.
//!
//! The answer comes in plaintext, from whoever is on the way. So nothing may stand behind it, and what the client is given
//! of it is what it would be told without TLS.

use super::super::{Negotiated, Talk};
use super::packet::{Message, PRELOGIN, TABULAR, message};
use super::prelogin::{Encryption, Prelogin};
use super::token::error_in;
use crate::failure::{Failure, Reason, Stage};

/// A server that takes nothing but TDS 8 does not answer PRELOGIN in plaintext.
const STRICT: &str = "if the server takes strict encryption only (Force Strict Encryption, TDS 8), set tls = \"direct\"; else look in its log";

/// The conversation with a server before TLS.
pub(super) struct Negotiation {
    /// Our own PRELOGIN, until it is said.
    ask: Vec<u8>,
}

impl Negotiation {
    /// For a client that opened so; without one, as a check.
    pub(super) fn new(opening: &[u8]) -> Negotiation {
        let of_client = match message(opening, PRELOGIN) {
            Message::Whole { payload, .. } => Prelogin::read(&payload),
            Message::Part | Message::Odd(_) => None,
        };
        let mut prelogin = of_client.unwrap_or_else(Prelogin::of_a_check);
        prelogin.set(Encryption::On);
        let mut ask = Vec::new();
        prelogin.ask(&mut ask);
        Negotiation { ask }
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        say.append(&mut self.ask);
        let (payload, length) = match message(heard, TABULAR) {
            Message::Part => return Ok(None),
            Message::Odd(why) => return Err(not_sqlserver(heard, why)),
            Message::Whole { payload, length } => (payload, length),
        };
        if let Some(said) = error_in(&payload) {
            let detail = format!("the server answered PRELOGIN with an error: {said}");
            return Err(refused(detail).mend("look in the server's log: it said so before TLS began"));
        }
        let Some(mut answer) = Prelogin::read(&payload) else {
            return Err(not_sqlserver(heard, "an answer to PRELOGIN that is none"));
        };
        match answer.encryption() {
            Some(Encryption::On | Encryption::Required) => {}
            Some(Encryption::NotSupported) => return Err(no_tls("it has no encryption (ENCRYPT_NOT_SUP)")),
            Some(Encryption::Off) => return Err(no_tls("it wants none beyond the login (ENCRYPT_OFF)")),
            None => return Err(no_tls("it says nothing of encryption")),
        }
        // Last, so that what a server says is told as the same however it was cut.
        if heard.len() > length {
            return Err(error(
                "there are bytes in plaintext behind the answer to PRELOGIN: someone may be injecting them",
            )
            .mend("find out who is on the way to the server: no SQL Server sends them"));
        }
        answer.set(Encryption::NotSupported);
        heard.clear();
        let mut greeting = Vec::new();
        answer.put(TABULAR, &mut greeting);
        Ok(Some(Negotiated { greeting }))
    }

    fn awaits(&self) -> &'static str {
        "the server's answer to PRELOGIN"
    }

    fn if_late(&self) -> Option<&'static str> {
        Some(STRICT)
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        let how = if heard.is_empty() { "without a word" } else { "in the middle of its answer" };
        Some(error(format!("the server hung up at our PRELOGIN, {how}")).mend(STRICT))
    }
}

fn no_tls(why: &str) -> Failure {
    refused(format!("the server answered no to encryption: {why}")).mend(
        "give the server a certificate (SQL Server Configuration Manager, or network.tlscert in mssql.conf); or, where the \
         network is trusted, tls = \"off\" here",
    )
}

fn not_sqlserver(heard: &[u8], why: &str) -> Failure {
    let failure = error(format!("this does not look like a SQL Server: it sent {why}"));
    match heard {
        // A TLS record: an alert, of a server that expects TLS from the first byte.
        [0x15 | 0x16, ..] => failure.mend(STRICT),
        _ => failure,
    }
}

fn error(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}
