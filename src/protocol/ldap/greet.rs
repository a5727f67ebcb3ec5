//! Reads along until the server has served the client once. Nothing is changed: what is read is which requests are not
//! answered yet, for a refusal that comes late (TLS 1.3 tells a refused certificate only after the handshake), and why a
//! client may leave.
//!
//! A login may take several messages, and end with a layer of its own (SASL) behind which there are no LDAP messages any
//! more: with the response that lets the client in, nobody reads along.

use super::message::{
    BIND_RESPONSE, EXTENDED_RESPONSE, LdapResult, Message, Reader, UNBIND_REQUEST, answered_by, stub,
};
use super::upgrade::{BeforeTls, not_now};
use crate::protocol::upgrade::{Beginning, upgradable};
use crate::protocol::{Meeting, Offer};
use crate::relay::{Greeter, Greeting, Objection, Onward, Party, Remark};

/// Requests whose answers are awaited. Who asks for more at once is told about these.
const MAX_AWAITED: usize = 64;

const SUCCESS: u32 = 0;
const SWITCH_OFF: &str = "switch TLS and StartTLS off in the client (ldapsearch: without -Z; SSSD: ldap_id_use_start_tls = \
                          false; nslcd: ssl off): nuncio speaks TLS to the server";

/// The client's first words go up, if they were read; and somebody reads along.
pub(in crate::protocol) fn greet(meeting: Meeting) -> Greeting {
    let Meeting { opening, secured, offer, .. } = meeting;
    let mut reading = Reading { secured, offer, ..Reading::default() };
    reading.hear_client(&opening.bytes);
    let inside =
        Box::new(move |_, _: &mut Onward| Reading { secured, offer: Offer::Taken, ..Reading::default() });
    let greeter = upgradable(BeforeTls, offer, b"", reading, inside);
    Greeting { onward: Onward { up: opening.bytes, down: Vec::new() }, greeter: Some(greeter) }
}

/// The time up to the first answer that serves the client.
#[derive(Default)]
struct Reading {
    secured: bool,
    /// The client's own TLS. As long as it may ask for that, it is read along for.
    offer: Offer,
    client: Reader,
    server: Reader,
    /// Number and kind of each request without an answer.
    awaited: Vec<(u32, u8)>,
    /// The client has said a byte.
    has_begun: bool,
    /// The server has.
    has_spoken: bool,
    /// The client has taken its leave.
    is_leaving: bool,
    /// The server has.
    has_ended: Option<LdapResult>,
    /// The number of the client's own StartTLS, until that is answered.
    start_tls: Option<u32>,
    /// What it was told last, where that may make it leave.
    refused: Option<Why>,
    done: bool,
}

/// What may make a client leave.
#[derive(Clone, Copy)]
enum Why {
    /// It wanted TLS of its own.
    StartTls,
    /// Its login was to be bound to the server's TLS.
    Unbound,
    /// It wanted to sign or seal inside TLS.
    Sealed,
}

impl Greeter for Reading {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        let begins = !self.has_begun && self.offer == Offer::No;
        if self.secured && begins && heard.first() == Some(&0x16) {
            // For a refusal, which need not wait for a request then.
            drop(self.client.next(&mut &heard[..1]));
            return Err(Objection {
                to: Party::Client,
                detail: "the client began with TLS where plaintext LDAP is expected",
                mend: SWITCH_OFF,
            });
        }
        onward.up.extend_from_slice(heard);
        self.hear_client(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        onward.down.extend_from_slice(heard);
        self.has_spoken |= !heard.is_empty();
        let mut rest = heard;
        while !self.done {
            match self.server.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(message)) => self.take_response(&message),
                Err(_) => self.done = true,
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn may_refuse(&self) -> bool {
        // A server that hangs up on a client which awaits nothing may do so. But before its first word it may be about our
        // certificate, and the client about to ask.
        let awaits = !self.has_spoken || !self.awaited.is_empty() || self.client.is_inside();
        awaits && !self.is_leaving && self.has_ended.is_none() && !self.server.is_inside()
    }

    fn unanswered(&self) -> Vec<u8> {
        let mut unanswered: Vec<u8> = self.awaited.iter().flat_map(|(id, kind)| stub(*id, *kind)).collect();
        unanswered.extend(self.client.begun());
        unanswered
    }

    fn why_ended(&self) -> Option<Remark> {
        if !self.secured {
            return None;
        }
        if let Some(result) = &self.has_ended {
            return Some(Remark {
                of: Party::Upstream,
                detail: format!(
                    "the server took the handshake and then ended the connection: {}",
                    result.told()
                )
                .into(),
                mend: "look in the server's log for why; it may not trust our certificate, or miss one",
            });
        }
        let (detail, mend) = match self.refused? {
            Why::StartTls => (
                "the client insists on StartTLS of its own, which the server has not got inside TLS",
                SWITCH_OFF,
            ),
            Why::Unbound => (
                "the server wants logins that are bound to its own TLS channel, of which the client has none (Active \
                 Directory: LdapEnforceChannelBinding)",
                "let the client use a simple bind, or set LdapEnforceChannelBinding to 1 (when supported) at the server",
            ),
            Why::Sealed => (
                "the client wanted to sign or seal its login's session, which the server does not do inside TLS",
                "switch that off in the client (OpenLDAP: SASL_SECPROPS maxssf=0; .NET: no Signing and Sealing)",
            ),
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend })
    }
}

impl Beginning for Reading {
    /// Answers need not come in the order of the requests, only whole.
    fn is_settled(&self) -> bool {
        !self.server.is_inside() && !self.client.is_inside()
    }

    fn not_now(&self, request: &[u8]) -> Option<Vec<u8>> {
        if self.awaited.is_empty() { None } else { not_now(request) }
    }

    fn goes_without(&mut self) {
        self.offer = Offer::No;
    }
}

impl Reading {
    fn hear_client(&mut self, mut heard: &[u8]) {
        self.has_begun |= !heard.is_empty();
        while !self.done {
            match self.client.next(&mut heard) {
                Ok(None) => break,
                Ok(Some(message)) => self.take_request(&message),
                // The server knows best what to make of that.
                Err(_) => self.done = true,
            }
        }
    }

    fn take_request(&mut self, message: &Message) {
        if message.kind == UNBIND_REQUEST {
            self.is_leaving = true;
            return;
        }
        if let Some(id) = message.abandons() {
            self.awaited.retain(|(awaited, _)| *awaited != id);
            return;
        }
        self.refused = None;
        if message.is_start_tls() {
            self.start_tls = Some(message.id);
        }
        if message.answered_by().is_some() {
            match self.awaited.len() < MAX_AWAITED {
                true => self.awaited.push((message.id, message.kind)),
                false => self.done |= self.offer.is_open(),
            }
        }
    }

    fn take_response(&mut self, message: &Message) {
        let result = message.result();
        if message.is_notice() {
            self.has_ended = result;
            self.done = self.has_ended.is_none();
            return;
        }
        // A search is answered by many, of which only the last one ends it: as long as that matters.
        let ends = |kind| !self.offer.is_open() || answered_by(kind) == Some(message.kind);
        self.awaited.retain(|(awaited, kind)| *awaited != message.id || !ends(*kind));
        let is_start_tls =
            message.kind == EXTENDED_RESPONSE && self.start_tls.take_if(|id| *id == message.id).is_some();
        match result {
            Some(result) if is_start_tls && result.code != SUCCESS => self.refused = Some(Why::StartTls),
            Some(result) if message.kind == BIND_RESPONSE && result.code != SUCCESS => {
                self.refused = why_not_bound(&result);
            }
            _ => self.done = !self.offer.is_open(),
        }
    }
}

/// What a server's words about a login mean here.
fn why_not_bound(result: &LdapResult) -> Option<Why> {
    let says = |words: &str| result.diagnostic.to_ascii_lowercase().contains(words);
    match () {
        // SEC_E_BAD_BINDINGS, as Active Directory tells it; and others in words.
        () if says("80090346") || says("channel binding") => Some(Why::Unbound),
        () if says("sign/seal") || says("signing/sealing") => Some(Why::Sealed),
        () => None,
    }
}
