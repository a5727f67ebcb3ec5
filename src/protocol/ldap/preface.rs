//! A client's first request, where its listener has TLS to give: StartTLS is told yes, and the handshake follows. Where
//! nobody is served without, all else is told no until then; where some are, it is for the server.

use std::mem;

use super::message::{EXTENDED_RESPONSE, Message, Reader, UNBIND_REQUEST, response};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::{Offer, Opening, Talk};

const SUCCESS: u32 = 0;
const CONFIDENTIALITY_REQUIRED: u32 = 13;
/// Requests that are told no. Who asks for more does not listen.
const MAX_TOLD_NO: usize = 16;
const ASK: &str = "let the client use StartTLS, or ldaps where the listener's tls_mode is \"direct\"; or set tls = \
                   \"optional\" on its listener";

/// A client that may ask for TLS.
pub(in crate::protocol) struct Preface {
    is_required: bool,
    reader: Reader,
    /// So much of what was heard is read.
    read: usize,
    told_no: usize,
}

impl Preface {
    /// `None`: there is nothing to be offered, and nothing to be read.
    pub(in crate::protocol) fn new(offer: Offer) -> Option<Preface> {
        let is_required = match offer {
            Offer::Optional => false,
            Offer::Required => true,
            _ => return None,
        };
        Some(Preface { is_required, reader: Reader::default(), read: 0, told_no: 0 })
    }

    fn without_tls(&self) -> Failure {
        let detail = "the client speaks plaintext, and this listener serves nobody without TLS";
        Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Client, detail).mend(ASK)
    }

    /// Says no to one request.
    fn refuse(&mut self, message: &Message, say: &mut Vec<u8>) -> Result<(), Failure> {
        self.told_no += 1;
        if message.kind == UNBIND_REQUEST || self.told_no > MAX_TOLD_NO {
            return Err(self.without_tls());
        }
        if let Some(kind) = message.answered_by() {
            let words = format!("nuncio: this listener serves nobody without TLS; {ASK}");
            say.extend(response(Some((message.id, kind)), CONFIDENTIALITY_REQUIRED, &words));
        }
        Ok(())
    }
}

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        loop {
            let mut rest = &heard[self.read..];
            let message =
                self.reader.next(&mut rest).map_err(|_| bad("what the client said first is no LDAP"))?;
            self.read = heard.len() - rest.len();
            let Some(message) = message else {
                if self.is_required {
                    // Nobody but us has to know it.
                    heard.clear();
                    self.read = 0;
                }
                return Ok(None);
            };
            if message.is_start_tls() {
                if self.read < heard.len() {
                    return Err(bad(
                        "the client sent plaintext behind its StartTLS, where only TLS may follow: it, or somebody on \
                         the way, tries to slip it in",
                    ));
                }
                heard.clear();
                say.extend(response(Some((message.id, EXTENDED_RESPONSE)), SUCCESS, ""));
                return Ok(Some(Opening { wants_tls: true, ..Opening::default() }));
            }
            if !self.is_required {
                return Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() }));
            }
            self.refuse(&message, say)?;
        }
    }

    fn awaits(&self) -> &'static str {
        match self.is_required {
            true => "the client's StartTLS",
            false => "the client's first request",
        }
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        match (self.told_no, heard) {
            (0, []) => None,
            (0, heard) => {
                Some(bad(format!("the client left after {} bytes of its first request", heard.len())))
            }
            _ => Some(self.without_tls()),
        }
    }
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
