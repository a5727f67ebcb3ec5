//! What a client says before anything is dialled: it may ask for encryption, is told no, and then says what it wants. Where
//! its listener has TLS to give, an SSLRequest is told yes, and all of this begins again inside.
//!
//! Reads the kind of each message and its length, and a CancelRequest's key; the rest is the server's to judge.
//!
//! A message right behind an SSLRequest, sent without awaiting the answer, is read all the same where the answer is no: all
//! that follows is plaintext, and how the bytes were cut into packets must not change what comes of them. Where it is yes,
//! somebody else could have put it there (CVE-2021-23214): that client is turned away.

use std::mem;

use super::super::{Offer, Opening, SessionKey, Talk};
use super::{CANCEL_REQUEST, GSSENC_REQUEST, PROCESS_ID, SECRET, SSL_REQUEST, length, number};
use crate::failure::{Failure, Reason, Side, Stage};

/// The server's own limit for a first message: 10,000 bytes behind its length.
const LONGEST: usize = 4 + 10_000;
/// Length and code; a request for encryption is no more than that.
const SHORTEST: usize = 8;

/// The client's first messages.
pub(in crate::protocol) struct Preface {
    offer: Offer,
    /// Each may be asked for once, in any order, as at the server: a flood ends here.
    refused: Vec<Encryption>,
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Tls,
    Gss,
}

/// A first message, by its kind, with its length.
enum Message {
    Wants(Encryption),
    Startup(usize),
    Cancel(usize),
}

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        loop {
            let (length, key) = match message(heard)? {
                None => return Ok(None),
                Some(Message::Wants(Encryption::Tls)) if self.offer.is_open() => {
                    if heard.len() > SHORTEST {
                        return Err(bad(
                            "the client sent plaintext behind its SSLRequest, where only TLS may follow: it, or somebody on the way, tries to slip it in",
                        ));
                    }
                    heard.clear();
                    say.push(b'S');
                    return Ok(Some(Opening { wants_tls: true, ..Opening::default() }));
                }
                Some(Message::Wants(encryption)) => {
                    self.refuse(encryption)?;
                    heard.drain(..SHORTEST);
                    say.push(b'N');
                    continue;
                }
                Some(Message::Startup(length)) => (length, None),
                Some(Message::Cancel(length)) => (length, heard.get(SHORTEST..length)),
            };
            if heard.len() < length {
                return Ok(None);
            }
            // Many a client sends its request to cancel in plaintext, whatever the session is in.
            if self.offer == Offer::Required && key.is_none() {
                let detail = "the client speaks plaintext, and this listener serves nobody without TLS";
                return Err(Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Client, detail).mend(
                    "set sslmode=require in the client, or verify-full where it knows the listener's CA; or tls = \"optional\" here",
                ));
            }
            let cancels = key.map(SessionKey::new);
            // With what stands behind it: the server will read it, or not, as it would have without us.
            return Ok(Some(Opening { bytes: mem::take(heard), cancels, wants_tls: false }));
        }
    }

    fn awaits(&self) -> &'static str {
        match self.refused.last() {
            None => "the client's startup message",
            Some(Encryption::Tls) => "the client's startup message, after no to its SSLRequest",
            Some(Encryption::Gss) => "the client's startup message, after no to its GSSENCRequest",
        }
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        if !heard.is_empty() {
            let detail = format!("the client left after {} bytes of its first message", heard.len());
            return Some(bad(detail));
        }
        // Nothing said at all is a port check, and nobody's failure.
        Some(match self.refused.last()? {
            Encryption::Tls => {
                bad("the client left when its SSLRequest was answered no: it insists on TLS of its own")
                    .mend("set sslmode=disable or prefer in the client: nuncio speaks TLS to the server")
            }
            Encryption::Gss => bad(
                "the client left when its GSSENCRequest was answered no: it insists on GSSAPI encryption of its own",
            )
            .mend("set gssencmode=disable or prefer in the client: nuncio speaks TLS to the server"),
        })
    }
}

impl Preface {
    pub(in crate::protocol) fn new(offer: Offer) -> Preface {
        Preface { offer, refused: Vec::new() }
    }

    fn refuse(&mut self, encryption: Encryption) -> Result<(), Failure> {
        if self.refused.contains(&encryption) {
            let request = match encryption {
                Encryption::Tls => "SSLRequest",
                Encryption::Gss => "GSSENCRequest",
            };
            return Err(bad(format!("the client sent {request} again after it was answered no")));
        }
        self.refused.push(encryption);
        Ok(())
    }
}

/// The message that begins here; `None`: too little of it to tell. It may not be whole yet.
fn message(heard: &[u8]) -> Result<Option<Message>, Failure> {
    // No message of this protocol begins so: its length would be over 300 MB.
    if heard.starts_with(&[0x16, 0x03]) {
        return Err(bad("the client itself starts TLS with its first byte (sslnegotiation=direct?)")
            .mend("set sslmode=disable in the client: nuncio speaks TLS to the server"));
    }
    let Some(length) = length(heard, 0) else { return Ok(None) };
    if !(SHORTEST..=LONGEST).contains(&length) {
        return Err(bad(no_length(heard, length)));
    }
    let Some(code) = number(heard, 4) else { return Ok(None) };
    let of_length = |right: bool, message| match right {
        true => Ok(Some(message)),
        false => Err(bad(format!("a {} of {length} bytes", name(code)))),
    };
    match code {
        SSL_REQUEST => of_length(length == SHORTEST, Message::Wants(Encryption::Tls)),
        GSSENC_REQUEST => of_length(length == SHORTEST, Message::Wants(Encryption::Gss)),
        CANCEL_REQUEST => {
            let secret = length.saturating_sub(SHORTEST + PROCESS_ID);
            of_length(SECRET.contains(&secret), Message::Cancel(length))
        }
        _ => match code >> 16 {
            3 => Ok(Some(Message::Startup(length))),
            1 | 2 => Err(bad(format!("the client speaks {}, of before PostgreSQL 7.4", name(code)))
                .mend("use a newer driver: no server since PostgreSQL 14 speaks it either")),
            _ => Err(bad(format!("the client speaks {}, which is unknown", name(code)))),
        },
    }
}

/// For a person.
fn name(code: u32) -> String {
    match code {
        SSL_REQUEST => "SSLRequest".into(),
        GSSENC_REQUEST => "GSSENCRequest".into(),
        CANCEL_REQUEST => "CancelRequest".into(),
        version => format!("protocol {}.{}", version >> 16, version & 0xffff),
    }
}

/// What the first four bytes rather are.
fn no_length(heard: &[u8], length: usize) -> String {
    let starts = |marks: &[&[u8]]| marks.iter().any(|mark| heard.starts_with(mark));
    match () {
        () if starts(&[b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"CONN", b"PRI "]) => {
            "the client speaks HTTP, not PostgreSQL".into()
        }
        () if starts(&[b"PROX", b"\r\n\r\n"]) => {
            "the client begins with a PROXY protocol header, not with PostgreSQL's startup message".into()
        }
        () => format!("the client's first message would have {length} bytes: this is not PostgreSQL"),
    }
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
