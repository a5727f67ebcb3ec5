//! What a client says before anything is dialled: the header of its stream, which names the domain that it is for.
//!
//! Where its listener serves nobody without TLS, the client is answered here: with a stream of ours that has nothing to offer
//! but starttls. Where TLS is optional it is not offered: what else there is to offer only the server knows.

use std::mem;

use super::stream::{CLIENT, END, ERRORS, Header, Part, Reader, TLS, opened};
use super::xml::Odd;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::{Offer, Opening, Talk};

const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";
const ASK: &str = "let the client use starttls, or direct TLS where the listener has that";
/// RFC 7622, 3.2.
const LONGEST_DOMAIN: usize = 1023;

/// The client's header.
pub(in crate::protocol) struct Preface {
    awaited: Awaited,
    /// It has to ask for TLS.
    is_required: bool,
    reader: Reader,
    /// So much of what was heard is read.
    read: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Header,
    StartTls,
    /// It was told no.
    Leave,
}

impl Preface {
    pub(in crate::protocol) fn new(offer: Offer) -> Preface {
        let is_required = offer == Offer::Required;
        Preface { awaited: Awaited::Header, is_required, reader: Reader::default(), read: 0 }
    }
}

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        while self.awaited != Awaited::Leave {
            let Some((length, part)) = self.reader.next(&heard[self.read..]).map_err(no_stream)? else {
                return Ok(None);
            };
            self.read += length;
            match part {
                Part::Nothing => {}
                Part::Header(header) => {
                    judge(&header)?;
                    if !self.is_required {
                        // With what stands behind it, which is for the server to judge.
                        return Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() }));
                    }
                    say.extend_from_slice(offer(&header).as_bytes());
                    self.awaited = Awaited::StartTls;
                }
                Part::Element(element) => {
                    if element.name.is(TLS, "starttls") {
                        if self.read < heard.len() {
                            return Err(bad(
                                "the client sent plaintext behind its starttls, where only TLS may follow: it, or \
                                 somebody on the way, tries to slip it in",
                            ));
                        }
                        heard.clear();
                        say.extend_from_slice(format!("<proceed xmlns='{TLS}'/>").as_bytes());
                        return Ok(Some(Opening { wants_tls: true, ..Opening::default() }));
                    }
                    say.extend_from_slice(without_tls().as_bytes());
                    self.awaited = Awaited::Leave;
                }
                Part::End => {
                    say.extend_from_slice(END.as_bytes());
                    self.awaited = Awaited::Leave;
                }
            }
            if self.is_required {
                heard.drain(..mem::take(&mut self.read));
            }
        }
        heard.clear();
        Ok(None)
    }

    fn awaits(&self) -> &'static str {
        match self.awaited {
            Awaited::Header => "the client's stream header",
            Awaited::StartTls => "the client's starttls",
            Awaited::Leave => "the client's end, after no to what it said without TLS",
        }
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        match (self.awaited, heard) {
            // Nothing said at all is a port check, and nobody's failure.
            (Awaited::Header, []) => None,
            (Awaited::Header, heard) => {
                Some(bad(format!("the client left after {} bytes of its stream header", heard.len())))
            }
            (Awaited::StartTls | Awaited::Leave, _) => {
                let detail = "the client does not start TLS, and this listener serves nobody without";
                Some(Failure::new(Stage::Admit, Reason::AdmissionDenied, Side::Client, detail).mend(ASK))
            }
        }
    }
}

/// Our own stream, with nothing but starttls.
fn offer(to: &Header) -> String {
    let from = to.to.as_deref().map(|from| ("from", from));
    let attributes: Vec<_> = from.into_iter().chain([("id", "nuncio")]).collect();
    let features =
        format!("<stream:features><starttls xmlns='{TLS}'><required/></starttls></stream:features>");
    opened(&attributes) + &features
}

/// No to whatever else is said.
fn without_tls() -> String {
    format!(
        "<stream:error><policy-violation xmlns='{ERRORS}'/><text xml:lang='en' xmlns='{ERRORS}'>nuncio: this listener \
         serves nobody without TLS; {ASK}</text></stream:error>{END}"
    )
}

fn judge(header: &Header) -> Result<(), Failure> {
    if header.to.as_ref().is_some_and(|to| to.len() > LONGEST_DOMAIN) {
        return Err(bad(format!("the client's stream is for a domain of over {LONGEST_DOMAIN} bytes")));
    }
    match header.content.as_str() {
        CLIENT => Ok(()),
        "jabber:server" => Err(bad("the client opens a stream between servers, which has its own way to TLS")
            .mend("let the servers reach each other without nuncio")),
        component if component.starts_with("jabber:component:") => {
            Err(bad("the client is a component, whose protocol has no way to ask for TLS").mend(
                "use protocol = \"tcp\", with tls = \"direct\" if the server's port speaks TLS from its first byte",
            ))
        }
        _ => Err(bad("the client's stream is in no namespace of a client's (jabber:client)")),
    }
}

fn no_stream(odd: Odd) -> Failure {
    match odd {
        Odd::Text(0x16) => bad("the client itself starts TLS with its first byte").mend(SWITCH_OFF),
        odd => bad(format!("what the client said is no stream of XMPP's: {}", odd.told())),
    }
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
