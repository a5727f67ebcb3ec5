//! Asking the server for TLS: a stream of our own to the domain that the client named, starttls, proceed (RFC 6120, 5).
//!
//! What comes before TLS is believed only as far as it must be: nothing of it reaches the client, whose own stream is
//! opened inside TLS; bytes behind the answer are refused (CVE-2011-1926 and its kin).

use super::stream::{END, Part, Reader, STREAMS, TLS, error as stream_error, header, opened};
use super::xml::{Element, Odd};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::reply::quoted;
use crate::protocol::{Asking, Negotiated, Talk};

const SWITCH_ON: &str = "switch TLS on at the server, with a certificate for this domain (Prosody: the `tls` module and \
                         `prosodyctl cert import`; ejabberd: starttls in the listener, and `certfiles`); or, if TLS is on a \
                         port of its own (5223), use that with tls = \"direct\"";
const IF_DIRECT: &str = "if this port speaks TLS from its first byte (5223), set tls = \"direct\"";

/// We, as the server's client.
pub(in crate::protocol) struct Negotiation {
    /// The domain.
    to: String,
    /// It was named by a client.
    is_clients: bool,
    awaited: Awaited,
    reader: Reader,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Nothing: we begin.
    Turn,
    Header,
    Features,
    Answer,
}

impl Negotiation {
    pub(in crate::protocol) fn new(asking: &Asking<'_>) -> Negotiation {
        let named = header(asking.opening).and_then(|header| header.to);
        let is_clients = named.is_some();
        let to = named.unwrap_or_else(|| asking.server_name.to_owned());
        Negotiation { to, is_clients, awaited: Awaited::Turn, reader: Reader::default() }
    }

    /// Takes a step; `true`: TLS may begin.
    fn take(&mut self, part: Part, say: &mut Vec<u8>) -> Result<bool, Failure> {
        match (part, self.awaited) {
            (Part::Nothing, _) => {}
            (Part::Header(header), _) => {
                self.awaited = Awaited::Features;
                if !header.has_version {
                    return Err(refused(
                        "the server speaks XMPP of before 1.0, which has no starttls".into(),
                    )
                    .mend("use a newer server; or tls = \"direct\", if it has a port for that (5223)"));
                }
            }
            (Part::End, _) => {
                return Err(refused(format!(
                    "the server ended the stream instead of sending {}",
                    self.awaits()
                ))
                .mend("look in the server's log for why"));
            }
            (Part::Element(element), awaited) => match stream_error(&element) {
                Some(told) => return Err(self.stream_error(&told)),
                None if awaited == Awaited::Answer => return judge(&element).map(|()| true),
                None => {
                    offers_tls(&element)?;
                    self.awaited = Awaited::Answer;
                    say.extend_from_slice(format!("<starttls xmlns='{TLS}'/>").as_bytes());
                }
            },
        }
        Ok(false)
    }

    fn stream_error(&self, told: &str) -> Failure {
        let to = quoted(self.to.as_bytes());
        let detail = format!("the server ended the stream to {to}: {told}");
        match told.split(':').next() {
            // A client's slip is no reason to think ill of the server, nor to ask another.
            Some("host-unknown" | "host-gone" | "improper-addressing") if self.is_clients => {
                Failure::new(Stage::Negotiate, Reason::DestinationNotFound, Side::Client, detail).mend(format!(
                    "let the client log in to a domain that the server serves, or the server serve the domain {to}"
                ))
            }
            Some("host-unknown" | "host-gone" | "improper-addressing") => refused(detail).mend(
                "a check asks for the domain that is named by server_name: set that to one that the server serves, or \
                 health.kind = \"tcp\"",
            ),
            Some("see-other-host") => refused(detail).mend("name the server that it refers to in `endpoints`"),
            _ => refused(detail).mend("look in the server's log for why"),
        }
    }
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        if self.awaited == Awaited::Turn {
            self.awaited = Awaited::Header;
            say.extend_from_slice(opened(&[("to", &self.to)]).as_bytes());
        }
        while let Some((length, part)) = self.reader.next(heard).map_err(|odd| self.no_xmpp(odd))? {
            heard.drain(..length);
            let is_end = part == Part::End;
            match self.take(part, say) {
                Ok(false) => {}
                Ok(true) if heard.is_empty() => return Ok(Some(Negotiated::default())),
                Ok(true) => {
                    return Err(error(
                        "bytes in plaintext came behind the server's answer to starttls: somebody on the way may have \
                         injected them"
                            .into(),
                    )
                    .mend("find out who stands between here and the server: no XMPP server sends them"));
                }
                Err(failure) => {
                    if !is_end {
                        say.extend_from_slice(END.as_bytes());
                    }
                    return Err(failure);
                }
            }
        }
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.awaited {
            Awaited::Turn | Awaited::Header => "the server's stream header",
            Awaited::Features => "the server's stream features",
            Awaited::Answer => "the server's answer to starttls",
        }
    }

    fn if_late(&self) -> Option<&'static str> {
        (self.awaited == Awaited::Header).then_some(IF_DIRECT)
    }

    fn ended(&self, _: &[u8]) -> Option<Failure> {
        let mend = match self.awaited {
            Awaited::Turn | Awaited::Header => {
                "look in the server's log for why it hung up; or, if this port speaks TLS from its first byte (5223), \
                 set tls = \"direct\""
            }
            Awaited::Features => "look in the server's log for why it hung up",
            Awaited::Answer => "look in the server's log for why: its certificate or key may not load",
        };
        let detail = format!("the server hung up instead of sending {}", self.awaits());
        Some(Failure::upstream(Stage::Negotiate, Reason::ConnectionTerminated, detail).mend(mend))
    }
}

impl Negotiation {
    fn no_xmpp(&self, odd: Odd) -> Failure {
        match odd {
            Odd::Text(0x15 | 0x16) => {
                error("the server answered with TLS: this port speaks TLS from its first byte".into())
                    .mend("set tls = \"direct\"")
            }
            odd => error(format!("what came for {} is not XMPP: {}", self.awaits(), odd.told())),
        }
    }
}

/// Are these features, with starttls among them?
fn offers_tls(element: &Element) -> Result<(), Failure> {
    let name = |element: &Element| quoted(element.name.local.as_bytes());
    if !element.name.is(STREAMS, "features") {
        return Err(error(format!("the server sent <{}> instead of its stream features", name(element))));
    }
    if element.child(TLS, "starttls").is_some() {
        return Ok(());
    }
    let offers: Vec<String> = element.children.iter().map(name).collect();
    let offers = match offers.is_empty() {
        true => "nothing".to_owned(),
        false => quoted(offers.join(" ").as_bytes()),
    };
    Err(refused(format!("the server offers no starttls, only: {offers}")).mend(SWITCH_ON))
}

fn judge(element: &Element) -> Result<(), Failure> {
    if element.name.is(TLS, "proceed") {
        return Ok(());
    }
    if element.name.is(TLS, "failure") {
        return Err(refused("the server offers starttls and then said no to it (failure)".into())
            .mend("look in the server's log for why: its certificate or key may not load"));
    }
    Err(error(format!("the server answered starttls with <{}>", quoted(element.name.local.as_bytes()))))
}

fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

fn error(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}
