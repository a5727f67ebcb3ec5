//! What a client says before anything is dialled: PRELOGIN, or its login where it speaks TDS 7.0. What it says of encryption
//! is left for the answer to deal with: where nuncio has no TLS to the server, the client's own passes. But where its listener
//! has TLS to give, that is agreed on here, and its login comes inside.

use std::mem;

use super::super::{Offer, Opening, Talk};
use super::packet::{LOGIN7, Message, PRELOGIN, TABULAR, message};
use super::prelogin::{Encryption, Prelogin};
use crate::failure::{Failure, Reason, Side, Stage};

/// The login of TDS 4.2 and 5.0.
const LOGIN: u8 = 0x02;

/// The client's PRELOGIN, and what came with it. Or as much as has come of a login: all of that is the server's to judge.
pub(super) struct Preface {
    pub(super) offer: Offer,
}

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        if heard.first() == Some(&LOGIN7) {
            if self.offer == Offer::Required {
                return Err(plaintext());
            }
            return Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() }));
        }
        match message(heard, PRELOGIN) {
            Message::Part => Ok(None),
            Message::Odd(why) => Err(odd(heard, why)),
            Message::Whole { payload, length } => match Prelogin::read(&payload) {
                Some(prelogin) if self.offer.is_open() => {
                    let is_last = heard.len() == length;
                    let agreed = self.agree(&prelogin, is_last, say)?;
                    let bytes = if agreed.wants_tls { Vec::new() } else { mem::take(heard) };
                    heard.clear();
                    Ok(Some(Opening { bytes, ..agreed }))
                }
                Some(_) => Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() })),
                None => Err(bad("the client's PRELOGIN has options that lie outside of it")),
            },
        }
    }

    fn awaits(&self) -> &'static str {
        "the client's PRELOGIN"
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        // Nothing said at all is a port check, and nobody's failure.
        (!heard.is_empty())
            .then(|| bad(format!("the client left after {} bytes of its PRELOGIN", heard.len())))
    }
}

impl Preface {
    /// Whether the client's login comes inside TLS. Who can, and need not beyond the login, is not one that asks for it.
    fn agree(&self, prelogin: &Prelogin, is_last: bool, say: &mut Vec<u8>) -> Result<Opening, Failure> {
        let is_required = self.offer == Offer::Required;
        let wants_tls = match prelogin.encryption() {
            Some(Encryption::On | Encryption::Required) => true,
            Some(Encryption::Off) => is_required,
            Some(Encryption::NotSupported) | None => false,
        };
        let mut answer = prelogin.answered();
        answer.without_mars();
        match wants_tls {
            true if !is_last => {
                return Err(bad(
                    "the client sent plaintext behind its PRELOGIN, where only TLS may follow: it, or somebody on the way, tries to slip it in",
                ));
            }
            true => answer.set(Encryption::On),
            // A client that cannot says so to its user.
            false if is_required => answer.set(Encryption::Required),
            false => return Ok(Opening::default()),
        }
        answer.put(TABULAR, say);
        match wants_tls {
            true => Ok(Opening { wants_tls, ..Opening::default() }),
            false => Err(plaintext()),
        }
    }
}

fn plaintext() -> Failure {
    let detail = "the client speaks plaintext, and this listener serves nobody without TLS";
    Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Client, detail).mend(
        "set Encrypt=yes or mandatory in the client (encrypt=true in JDBC, encryption = require in freetds.conf), or write tls = \"optional\" in its listener",
    )
}

fn odd(heard: &[u8], why: &str) -> Failure {
    match heard.first() {
        Some(0x16) => bad("the client itself starts TLS with its first byte (Encrypt=strict?)")
            .mend("set Encrypt=no or optional in the client: nuncio speaks TLS to the server"),
        Some(&LOGIN) => bad("the client speaks TDS 4.2 or 5.0, as Sybase and SQL Server 6.5 do")
            .mend("let it speak TDS 7 (tds version = 7.4 in freetds.conf, TDSVER=7.4)"),
        _ => bad(format!("this is not TDS: the client sent {why}")),
    }
}

pub(super) fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
