//! A client's request for TLS of its own: StartTLS (RFC 4511, 4.14), answered here.

use super::ber::Header;
use super::message::{
    ABANDON_REQUEST, BIND_REQUEST, EXTENDED_RESPONSE, KEPT, Message, SEQUENCE, UNBIND_REQUEST, response,
};
use crate::protocol::upgrade::{Grammar, Length, Seen};

const SUCCESS: u32 = 0;
const OPERATIONS_ERROR: u32 = 1;
const CONFIDENTIALITY_REQUIRED: u32 = 13;
const FIRST: &str = "StartTLS is required first";
pub(super) const NOT_NOW: &str =
    "StartTLS has to wait until all requests before it are answered or abandoned";

/// To a request for TLS that comes while others await their answers (RFC 4511, 4.14.1). Some searches never end.
pub(super) fn not_now(request: &[u8]) -> Option<Vec<u8>> {
    let message = Message::read(&request[..request.len().min(KEPT)]).ok()??;
    Some(response(Some((message.id, EXTENDED_RESPONSE)), OPERATIONS_ERROR, NOT_NOW))
}

/// A client before its TLS. Without, it may look around; who logs in so wants no more.
pub(super) struct BeforeTls;

impl Grammar for BeforeTls {
    fn see(&mut self, heard: &[u8], is_required: bool) -> Seen {
        if heard.first().is_some_and(|tag| *tag != SEQUENCE) {
            return Seen::Unanswerable;
        }
        let whole = match Header::read(heard) {
            Ok(Some(around)) => around.whole(),
            Ok(None) => return Seen::Part,
            Err(_) => return Seen::Unanswerable,
        };
        let Some(kept) = heard.get(..whole.min(KEPT)) else { return Seen::Part };
        let Ok(Some(message)) = Message::read(kept) else { return Seen::Unanswerable };
        let by = Length::Bytes(whole);
        match (message.kind, message.answered_by()) {
            _ if message.is_start_tls() => {
                let words = response(Some((message.id, EXTENDED_RESPONSE)), SUCCESS, "");
                Seen::Answered { by, words, starts_tls: true }
            }
            (UNBIND_REQUEST | ABANDON_REQUEST, _) => Seen::GoesOn(whole),
            (kind, Some(_)) if !is_required && kind != BIND_REQUEST => Seen::GoesOn(whole),
            (_, Some(kind)) => {
                let words = response(Some((message.id, kind)), CONFIDENTIALITY_REQUIRED, FIRST);
                Seen::Other { by, words }
            }
            (_, None) => Seen::Unanswerable,
        }
    }

    fn began_with_tls(&self) -> &'static str {
        "the client began with TLS where it has to ask for it, in LDAP"
    }
}
