//! context: what is said of a connection before its first byte (who is behind it, where it wants to go, what it wants done on
//! the way), and how whoever said so is answered.
//!
//! One file a way: [`proxy_protocol`], [`socks5`], [`http_connect`]; a redirected connection's destination is the kernel's to
//! tell. All of it is sans-IO, as `protocol` is: each is a [`Talk`] that reads no byte of what follows it. [`options`] are what
//! a client may ask for, in all of them alike; they narrow what the file allows and never widen it. Leaves to `route` where a
//! destination leads, and to `connection` what becomes of the options.

pub mod http_connect;
pub mod options;
pub mod proxy_protocol;
mod reply;
pub mod socks5;
#[cfg(test)]
mod testkit;

use std::net::SocketAddr;

pub use options::Options;

use crate::addr::EndpointAddr;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::Talk;

/// How a listener hears of the context of its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Not at all.
    #[default]
    None,
    /// A proxy before us says who connected to it.
    ProxyProtocol,
    /// The client asks as of a SOCKS5 proxy.
    Socks5,
    /// The client asks as of an HTTP proxy.
    HttpConnect,
    /// The kernel redirected the connection, and knows from where.
    OriginalDestination,
}

impl Kind {
    /// In the file and in records.
    pub fn label(self) -> &'static str {
        match self {
            Kind::None => "none",
            Kind::ProxyProtocol => "proxy_protocol",
            Kind::Socks5 => "socks5",
            Kind::HttpConnect => "http_connect",
            Kind::OriginalDestination => "original_destination",
        }
    }

    /// Does a destination say where its connections go?
    pub fn names_destination(self) -> bool {
        match self {
            Kind::None | Kind::ProxyProtocol => false,
            Kind::Socks5 | Kind::HttpConnect | Kind::OriginalDestination => true,
        }
    }

    /// Reads what is said; `None`: nothing is.
    pub fn hearing(self) -> Option<Hearing> {
        match self {
            Kind::None | Kind::OriginalDestination => None,
            Kind::ProxyProtocol => Some(Hearing::ProxyProtocol(proxy_protocol::Header::default())),
            Kind::Socks5 => Some(Hearing::Socks5(socks5::Request::default())),
            Kind::HttpConnect => Some(Hearing::HttpConnect(http_connect::Request::default())),
        }
    }
}

/// What was said of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Who is behind the proxy that connected.
    pub source: Option<SocketAddr>,
    /// Somebody is behind it of whom it names no address: it speaks for itself in nothing but that.
    pub hides_source: bool,
    /// Where the connection wants to go.
    pub destination: Option<EndpointAddr>,
    /// The name that the client asked the proxy before us for.
    pub authority: Option<Box<str>>,
    /// How the proxy before us calls the connection.
    pub unique_id: Option<Box<str>>,
    /// Who the client says it is. Nobody checks it: it is good for stickiness, and for no right.
    pub user: Option<Box<str>>,
    /// What it wants done.
    pub options: Options,
}

/// One client's words about its connection, heard as they come, and the answers to them.
#[derive(Debug)]
pub enum Hearing {
    /// See [`Kind::ProxyProtocol`].
    ProxyProtocol(proxy_protocol::Header),
    /// See [`Kind::Socks5`].
    Socks5(socks5::Request),
    /// See [`Kind::HttpConnect`].
    HttpConnect(http_connect::Request),
}

/// A connection that is established, or as good as.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// The record's id.
    pub id: &'a str,
    /// Where it leads; `None`: the client has to speak before that can be known.
    pub endpoint: Option<&'a str>,
    /// Endpoints tried, the one that worked among them.
    pub attempts: usize,
}

/// A connection that came to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why.
    pub failure: &'a Failure,
    /// The record's id.
    pub id: &'a str,
    /// The endpoint that was tried last.
    pub endpoint: Option<&'a str>,
    /// Endpoints tried.
    pub attempts: usize,
}

impl Hearing {
    fn talk(&mut self) -> &mut dyn Talk<Outcome = Context> {
        match self {
            Hearing::ProxyProtocol(header) => header,
            Hearing::Socks5(request) => request,
            Hearing::HttpConnect(request) => request,
        }
    }

    fn talk_ref(&self) -> &dyn Talk<Outcome = Context> {
        match self {
            Hearing::ProxyProtocol(header) => header,
            Hearing::Socks5(request) => request,
            Hearing::HttpConnect(request) => request,
        }
    }

    /// Does whoever speaks so await an answer?
    pub fn is_answered(&self) -> bool {
        match self {
            Hearing::ProxyProtocol(_) => false,
            Hearing::Socks5(_) | Hearing::HttpConnect(_) => true,
        }
    }

    /// Yes.
    pub fn granted(&self, grant: &Grant<'_>) -> Vec<u8> {
        match self {
            Hearing::ProxyProtocol(_) => Vec::new(),
            Hearing::Socks5(_) => socks5::granted(),
            Hearing::HttpConnect(_) => http_connect::granted(grant),
        }
    }

    /// No, as far as the conversation has come; `None`: it has not come so far that there were words for it.
    pub fn refused(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        match self {
            Hearing::ProxyProtocol(_) => None,
            Hearing::Socks5(request) => request.refused(refusal),
            Hearing::HttpConnect(request) => Some(request.refused(refusal)),
        }
    }
}

impl Talk for Hearing {
    type Outcome = Context;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Context>, Failure> {
        self.talk().hear(heard, say)
    }

    fn may_read(&self, heard: &[u8]) -> Option<usize> {
        self.talk_ref().may_read(heard)
    }

    fn awaits(&self) -> &'static str {
        self.talk_ref().awaits()
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        self.talk_ref().ended(heard)
    }
}

/// What was said is not what may be said there.
fn odd(detail: impl Into<String>) -> Failure {
    Failure::new(Stage::Admit, Reason::BadPreface, Side::Client, detail)
}

/// Somebody else's words in a message of ours: printable, and not longer than a line.
fn quoted(text: &[u8]) -> String {
    let shown: String = text.iter().take(60).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    let more = if text.len() > 60 { "..." } else { "" };
    format!("'{shown}{more}'")
}

/// What a client must have meant that began with this byte, where that can be told.
fn seems_to_be(first: u8) -> &'static str {
    match first {
        0x16 => ": it begins with TLS",
        4 => ": it begins as SOCKS4 does",
        5 => ": it begins as SOCKS5 does",
        b'P' => ": it may begin with a PROXY header",
        b'A'..=b'Z' => ": it begins as HTTP does",
        b'\r' => ": it may begin with a PROXY header",
        _ => "",
    }
}
