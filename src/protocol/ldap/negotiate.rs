//! Asking the server for TLS: the StartTLS operation (RFC 4511, 4.14), and its one response.
//!
//! The response comes in plaintext, from whoever is on the way: nothing may stand behind a yes, since it would be taken for
//! the server's first words inside TLS (CVE-2011-1926 and its kin).

use super::FAREWELL;
use super::ber::{Header, Odd};
use super::message::{EXTENDED_RESPONSE, LdapResult, Message, Reader, SEQUENCE, start_tls};
use crate::failure::{Failure, Reason, Stage};
use crate::protocol::{Negotiated, Talk};

/// No response to StartTLS comes near.
const LONGEST: usize = 64 * 1024;
/// The number of our request; the client's own begin anew inside TLS.
const REQUEST: u32 = 1;

const SUCCESS: u32 = 0;
const OPERATIONS_ERROR: u32 = 1;
const PROTOCOL_ERROR: u32 = 2;
const REFERRAL: u32 = 10;
const UNAVAILABLE: u32 = 52;

/// We, as the server's client.
#[derive(Default)]
pub(in crate::protocol) struct Negotiation {
    asked: bool,
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        if !self.asked {
            self.asked = true;
            say.extend(start_tls(REQUEST));
        }
        let Some((message, behind)) = first(heard).map_err(|odd| no_ldap(odd, heard))? else {
            return Ok(None);
        };
        if let Err(failure) = judge(&message) {
            // Left with a word, the server does not log a lost connection. With a notice it leaves itself.
            if !message.is_notice() {
                say.extend_from_slice(FAREWELL);
            }
            return Err(failure);
        }
        if behind > 0 {
            return Err(error(
                "bytes in plaintext came behind the server's answer to StartTLS: somebody on the way may have injected them",
            )
            .mend("find out who stands between here and the server: no LDAP server sends them"));
        }
        heard.clear();
        Ok(Some(Negotiated::default()))
    }

    fn awaits(&self) -> &'static str {
        "the server's answer to StartTLS"
    }

    fn if_late(&self) -> Option<&'static str> {
        Some("if this port speaks TLS from its first byte (636), set tls = \"direct\"")
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        Some(match heard {
            [] => Failure::upstream(
                Stage::Negotiate,
                Reason::ConnectionTerminated,
                "the server hung up instead of answering StartTLS",
            )
            .mend(
                "look in the server's log for why it hung up; or, if this port speaks TLS from its first byte (636), set \
                 tls = \"direct\"",
            ),
            heard => error(format!(
                "the server hung up after {} bytes of its answer to StartTLS",
                heard.len()
            )),
        })
    }
}

/// The first message once it is whole, and how many bytes stand behind it.
fn first(heard: &[u8]) -> Result<Option<(Message, usize)>, Odd> {
    let mut rest = heard;
    if heard.first() == Some(&SEQUENCE)
        && let Some(around) = Header::read(heard)?
    {
        match around.whole() {
            whole if whole > LONGEST => return Err(Odd::Length),
            whole if whole > heard.len() => return Ok(None),
            whole => rest = &heard[..whole],
        }
    }
    let behind = heard.len() - rest.len();
    Ok(Reader::default().next(&mut rest)?.map(|message| (message, behind)))
}

fn judge(message: &Message) -> Result<(), Failure> {
    let result = message.result();
    let told = || result.as_ref().map_or_else(|| "no result".to_owned(), LdapResult::told);
    if message.is_notice() {
        return Err(refused(format!(
            "the server ended the connection instead of answering StartTLS: {}",
            told()
        ))
        .mend("look in the server's log for why it does not serve"));
    }
    let code = match &result {
        Some(result) if message.kind == EXTENDED_RESPONSE && message.id == REQUEST => result.code,
        _ => {
            return Err(error(format!(
                "the server answered StartTLS with message {} of kind 0x{:02x}, which is no answer to it",
                message.id, message.kind
            )));
        }
    };
    if code == SUCCESS {
        return Ok(());
    }
    Err(refused(format!("the server said no to StartTLS: {}", told())).mend(match code {
        PROTOCOL_ERROR => {
            "the server has no TLS: give it a certificate and key (OpenLDAP: olcTLSCertificateFile and \
             olcTLSCertificateKeyFile; 389 DS: nsslapd-security = on); or, if TLS is on a port of its own (636), use \
             that with tls = \"direct\""
        }
        UNAVAILABLE => {
            "the server knows StartTLS and cannot do it now: its certificate or key may be missing or not load (Active \
             Directory: a certificate for server authentication in the computer's own store)"
        }
        OPERATIONS_ERROR => "look in the server's log for why; its TLS may not be set up",
        REFERRAL => "name the server that it refers to in `endpoints`",
        _ => "look in the server's log for why",
    }))
}

/// What does not even look like LDAP.
fn no_ldap(odd: Odd, heard: &[u8]) -> Failure {
    let what = match (odd, heard) {
        (_, [0x15 | 0x16, ..]) => {
            return error("the server answered StartTLS with TLS: this port speaks TLS from its first byte")
                .mend("set tls = \"direct\"");
        }
        (Odd::Tag(_), [first, ..]) if *first != SEQUENCE => format!("it begins with byte 0x{first:02x}"),
        (Odd::Tag(tag), _) => format!("it has an element of kind 0x{tag:02x} where none may stand"),
        (Odd::Indefinite, _) => "it has an indefinite length".into(),
        (Odd::Length, _) => format!("it claims to be longer than {LONGEST} bytes"),
        (Odd::Outgrown, _) => "its elements do not fit into each other".into(),
        (Odd::Number, _) => "its number is none".into(),
    };
    error(format!("what the server answered to StartTLS is not LDAP: {what}"))
}

fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

fn error(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}
