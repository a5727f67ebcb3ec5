//! What a client says before anything is dialled: the header of its stream, which names the domain that it is for.

use std::mem;

use super::stream::{CLIENT, Header, Part, Reader};
use super::xml::Odd;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::{Opening, Talk};

const SWITCH_OFF: &str = "switch TLS off in the client: nuncio speaks TLS to the server";

/// RFC 7622, 3.2.
const LONGEST_DOMAIN: usize = 1023;

/// The client's header.
#[derive(Default)]
pub(in crate::protocol) struct Preface {
    reader: Reader,
    /// So much of what was heard is read.
    read: usize,
}

impl Talk for Preface {
    type Outcome = Opening;

    fn hear(&mut self, heard: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<Option<Opening>, Failure> {
        loop {
            let part = self.reader.next(&heard[self.read..]).map_err(no_stream)?;
            match part {
                None => return Ok(None),
                Some((length, Part::Header(header))) => {
                    self.read += length;
                    judge(&header)?;
                    // With what stands behind it, which is for the server to judge.
                    return Ok(Some(Opening { bytes: mem::take(heard), ..Opening::default() }));
                }
                Some((length, _)) => self.read += length,
            }
        }
    }

    fn awaits(&self) -> &'static str {
        "the client's stream header"
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        // Nothing said at all is a port check, and nobody's failure.
        (!heard.is_empty())
            .then(|| bad(format!("the client left after {} bytes of its stream header", heard.len())))
    }
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
            Err(bad("the client is a component, whose protocol has no way to ask for TLS")
                .mend("use protocol = \"tcp\", with tls = \"direct\" if the server's port speaks TLS from its first byte"))
        }
        _ => Err(bad("the client's stream is in no namespace of a client's (jabber:client)")),
    }
}

fn no_stream(odd: Odd) -> Failure {
    match odd {
        Odd::Text(0x16) => bad("the client itself starts TLS with its first byte").mend(SWITCH_OFF),
        odd => bad(format!("what the client said first is no stream header: {}", odd.told())),
    }
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}
