//! LDAPMessage (RFC 4511, 4.1.1): its number and its kind; of a response also what came of the request.
//!
//! Only beginnings are kept, whatever a message's length. What a request is about, nobody looks at.

use zeroize::Zeroizing;

use super::ber::{self, Header, Odd};
use crate::protocol::reply::quoted;

/// Of a message, what is kept of it.
pub(super) const KEPT: usize = 1024;

/// The tags of requests and responses that matter by name.
pub(super) const BIND_REQUEST: u8 = 0x60;
pub(super) const BIND_RESPONSE: u8 = 0x61;
pub(super) const UNBIND_REQUEST: u8 = 0x42;
pub(super) const ABANDON_REQUEST: u8 = 0x50;
pub(super) const EXTENDED_REQUEST: u8 = 0x77;
pub(super) const EXTENDED_RESPONSE: u8 = 0x78;

/// What stands in front of every message.
pub(super) const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
const OCTET_STRING: u8 = 0x04;
/// Of an extended request: its name.
const REQUEST_NAME: u8 = 0x80;
/// Of an extended response: its name.
const RESPONSE_NAME: u8 = 0x8a;
/// Of a result: where else to ask.
const REFERRAL: u8 = 0xa3;

/// RFC 4511, 4.14.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";
/// RFC 4511, 4.4.1.
const NOTICE_OF_DISCONNECTION: &[u8] = b"1.3.6.1.4.1.1466.20036";

/// A message, as far as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: u32,
    pub(super) kind: u8,
    /// Of a bind request the password is in there.
    contents: Zeroizing<Vec<u8>>,
}

impl Message {
    /// From its first byte on, as far as it is there; `None`: too little of it to tell.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Message>, Odd> {
        let Some((id, kind, at)) = Message::begin(bytes)? else { return Ok(None) };
        let contents = bytes[at..bytes.len().min(at.saturating_add(kind.length))].to_vec().into();
        Ok(Some(Message { id, kind: kind.tag, contents }))
    }

    /// Its number, its kind, and where its contents begin.
    fn begin(bytes: &[u8]) -> Result<Option<(u32, Header, usize)>, Odd> {
        if let Some(tag) = bytes.first()
            && *tag != SEQUENCE
        {
            return Err(Odd::Tag(*tag));
        }
        let Some(around) = Header::read(bytes)? else { return Ok(None) };
        let (inside, room) = (&bytes[around.size..], around.length);
        if let Some(tag) = inside.first()
            && *tag != INTEGER
        {
            return Err(Odd::Tag(*tag));
        }
        let Some(id) = Header::read(inside)? else { return Ok(None) };
        if id.length > 4 {
            return Err(Odd::Number);
        }
        let Some(digits) = inside.get(id.size..id.whole()) else { return Ok(None) };
        let number = ber::number(digits).ok_or(Odd::Number)?;
        let inside = &inside[id.whole()..];
        let Some(kind) = Header::read(inside)? else { return Ok(None) };
        if id.whole().saturating_add(kind.whole()) > room {
            return Err(Odd::Outgrown);
        }
        Ok(Some((number, kind, around.size + id.whole() + kind.size)))
    }

    /// A request that a client awaits an answer to; `None`: any other message.
    pub(super) fn answered_by(&self) -> Option<u8> {
        answered_by(self.kind)
    }

    pub(super) fn is_start_tls(&self) -> bool {
        let name = ber::take(&mut &self.contents[..]);
        self.kind == EXTENDED_REQUEST && name == Some((REQUEST_NAME, START_TLS))
    }

    /// The number of the request that is not wanted any more.
    pub(super) fn abandons(&self) -> Option<u32> {
        ber::number(&self.contents).filter(|_| self.kind == ABANDON_REQUEST)
    }

    /// The server takes its leave.
    pub(super) fn is_notice(&self) -> bool {
        self.id == 0 && self.kind == EXTENDED_RESPONSE
    }

    /// What came of the request; `None`: it does not say so where a response does.
    pub(super) fn result(&self) -> Option<LdapResult> {
        let mut rest = &self.contents[..];
        let Some((ENUMERATED, code)) = ber::take(&mut rest) else { return None };
        let mut result = LdapResult { code: ber::number(code)?, diagnostic: String::new(), referral: None };
        let Some((OCTET_STRING, _)) = ber::take(&mut rest) else { return Some(result) };
        let Some((OCTET_STRING, words)) = ber::take(&mut rest) else { return Some(result) };
        // Active Directory ends its words with a zero byte.
        result.diagnostic = quoted(words.strip_suffix(b"\0").unwrap_or(words).trim_ascii());
        if let Some((REFERRAL, mut elsewhere)) = ber::take(&mut rest)
            && let Some((OCTET_STRING, first)) = ber::take(&mut elsewhere)
        {
            result.referral = Some(quoted(first));
        }
        Some(result)
    }
}

/// By what kind of message a kind of request is answered; `None`: it is not, or is no request.
pub(super) fn answered_by(kind: u8) -> Option<u8> {
    Some(match kind {
        BIND_REQUEST => BIND_RESPONSE,
        // Search, modify, add, delete, modify DN, compare.
        0x63 => 0x65,
        0x66 => 0x67,
        0x68 => 0x69,
        0x4a => 0x6b,
        0x6c => 0x6d,
        0x6e => 0x6f,
        EXTENDED_REQUEST => EXTENDED_RESPONSE,
        _ => return None,
    })
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LdapResult {
    pub(super) code: u32,
    /// The server's words, printable.
    pub(super) diagnostic: String,
    /// Where it would have the client go.
    referral: Option<String>,
}

impl LdapResult {
    /// For a person.
    pub(super) fn told(&self) -> String {
        let LdapResult { code, diagnostic, referral } = self;
        let mut told = format!("{} ({code})", name(*code));
        if !diagnostic.is_empty() {
            told += &format!(": {diagnostic}");
        }
        if let Some(referral) = referral {
            told += &format!(", to {referral}");
        }
        told
    }
}

/// A result's name (RFC 4511, 4.1.9).
fn name(code: u32) -> &'static str {
    match code {
        0 => "success",
        1 => "operationsError",
        2 => "protocolError",
        3 => "timeLimitExceeded",
        4 => "sizeLimitExceeded",
        7 => "authMethodNotSupported",
        8 => "strongerAuthRequired",
        10 => "referral",
        11 => "adminLimitExceeded",
        12 => "unavailableCriticalExtension",
        13 => "confidentialityRequired",
        14 => "saslBindInProgress",
        32 => "noSuchObject",
        48 => "inappropriateAuthentication",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        54 => "loopDetect",
        80 => "other",
        _ => "a result",
    }
}

/// Follows one side's messages, and keeps no more than the beginning of one.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// As above.
    kept: Zeroizing<Vec<u8>>,
    /// So many bytes of a message that has been read are still to come.
    passing: usize,
}

impl Reader {
    /// Takes bytes from the front, until a message can be read: its whole, or as much as is kept of one. `None`: all were
    /// taken.
    pub(super) fn next(&mut self, heard: &mut &[u8]) -> Result<Option<Message>, Odd> {
        loop {
            let now = self.passing.min(heard.len());
            *heard = &heard[now..];
            self.passing -= now;
            let around = match self.kept.first() {
                Some(tag) if *tag != SEQUENCE => return Err(Odd::Tag(*tag)),
                _ => Header::read(&self.kept)?,
            };
            let wanted = around.map_or(self.kept.len() + 1, |around| around.whole().min(KEPT));
            if let Some(around) = around
                && self.kept.len() == wanted
            {
                // Whole or long: there is enough of it to tell, or it does not fit into itself.
                let message = Message::read(&self.kept)?.ok_or(Odd::Outgrown)?;
                self.passing = around.whole() - wanted;
                self.kept.clear();
                return Ok(Some(message));
            }
            let room = wanted - self.kept.len();
            // At once: what moves as it grows leaves a copy behind.
            self.kept.reserve(room);
            let now = room.min(heard.len());
            if now == 0 {
                return Ok(None);
            }
            self.kept.extend_from_slice(&heard[..now]);
            *heard = &heard[now..];
        }
    }

    /// A message has begun and is not over.
    pub(super) fn is_inside(&self) -> bool {
        self.passing > 0 || !self.kept.is_empty()
    }

    /// The beginning of a message that is not whole yet, with nothing of what it is about.
    pub(super) fn begun(&self) -> Vec<u8> {
        let mut begun = self.kept.to_vec();
        if let Ok(Some((_, _, at))) = Message::begin(&self.kept) {
            begun[at..].fill(0);
        }
        begun
    }
}

/// Our request for TLS.
pub(super) fn start_tls(id: u32) -> Vec<u8> {
    let mut name = Vec::new();
    ber::put(REQUEST_NAME, START_TLS, &mut name);
    message(id, EXTENDED_REQUEST, &name)
}

/// A request of which only its number and kind are told.
pub(super) fn stub(id: u32, kind: u8) -> Vec<u8> {
    message(id, kind, b"")
}

/// An answer. Where there is no request to be answered: the notice of disconnection.
pub(super) fn response(to: Option<(u32, u8)>, code: u32, diagnostic: &str) -> Vec<u8> {
    let mut contents = Vec::new();
    ber::put_number(ENUMERATED, code, &mut contents);
    ber::put(OCTET_STRING, b"", &mut contents);
    ber::put(OCTET_STRING, diagnostic.as_bytes(), &mut contents);
    let (id, kind) = to.unwrap_or_else(|| {
        ber::put(RESPONSE_NAME, NOTICE_OF_DISCONNECTION, &mut contents);
        (0, EXTENDED_RESPONSE)
    });
    message(id, kind, &contents)
}

fn message(id: u32, kind: u8, contents: &[u8]) -> Vec<u8> {
    let (mut inside, mut whole) = (Vec::new(), Vec::new());
    ber::put_number(INTEGER, id, &mut inside);
    ber::put(kind, contents, &mut inside);
    ber::put(SEQUENCE, &inside, &mut whole);
    whole
}
