//! What a client says before anything is dialled: PRELOGIN, or its login where it speaks TDS 7.0. What it says of encryption
//! is left for the answer to deal with: where nuncio has no TLS to the server, the client's own passes.

use std::mem;

use super::super::{Opening, Talk};
use super::packet::{LOGIN7, Message, PRELOGIN, message};
use super::prelogin::Prelogin;
use crate::failure::{Failure, Reason, Side, Stage};

/// The login of TDS 4.2 and 5.0.
const LOGIN: u8 = 0x02;

/// The client's PRELOGIN, and what came with it. Or as much as has come of a login: all of that is the server's to judge.
pub(super) struct Preface;

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        if heard.first() == Some(&LOGIN7) {
            return Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() }));
        }
        match message(heard, PRELOGIN) {
            Message::Part => Ok(None),
            Message::Odd(why) => Err(odd(heard, why)),
            Message::Whole { payload, .. } => match Prelogin::read(&payload) {
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
