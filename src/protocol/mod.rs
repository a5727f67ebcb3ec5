//! protocol: what is said in plaintext before TLS starts, what a client has to be told afterwards, and "no" in its own words.
//!
//! One file each, all after one skeleton: what the client says first ([`Protocol::preface`]), how TLS is asked for
//! ([`Protocol::negotiation`]), what has to be changed until both sides are through with what TLS in the middle changes
//! ([`Protocol::greet`]), how a client is refused ([`Protocol::refusal`]), and how a check takes its leave
//! ([`Protocol::farewell`]).
//!
//! All of it is sans-IO: bytes in, bytes out, done or an error. No socket, no clock. Leaves reading, writing and time limits
//! to `preface`, `establish`, `relay` and `refuse`, and never looks further into a stream than it must.

mod postgres;
mod reply;
mod smtp;

use std::fmt;

use crate::failure::Failure;
use crate::relay::Greeting;

/// What is spoken on a connection, as far as that concerns its TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anything: bytes go as they are.
    #[default]
    Tcp,
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
    /// SMTP with STARTTLS (RFC 5321, RFC 3207).
    Smtp,
}

/// What a protocol is like, for tables and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// In the configuration.
    pub name: &'static str,
    /// For a person.
    pub title: &'static str,
    /// Who speaks first, in plaintext.
    pub first: First,
    /// How TLS is asked for; `None`: it has no way to, so that TLS begins with the first byte or not at all.
    pub asks_with: Option<&'static str>,
    /// Offered where TLS begins with the first byte.
    pub alpn: Option<&'static str>,
    /// How a client that cannot be served is told.
    pub refuses_with: &'static str,
    /// What does not pass, or not as without nuncio.
    pub limits: &'static str,
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The client.
    Client,
    /// The server.
    Server,
    /// Not known.
    Either,
}

/// One side of a conversation with one peer.
///
/// However the peer's bytes are split, what is said and what comes of it is the same.
pub trait Talk: Send {
    /// What the conversation was for.
    type Outcome;

    /// Takes what is complete from the front of `heard`, and appends to `say`. Called first with nothing heard, for those
    /// who begin. With its outcome it has taken all of `heard`: nothing is left to be mistaken for what follows.
    ///
    /// # Errors
    /// The peer said no, or what the protocol does not allow, or more than it may. What is in `say` by then is still told.
    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Self::Outcome>, Failure>;

    /// What it waits for, as in "the server's answer to SSLRequest".
    fn awaits(&self) -> &'static str;

    /// What may be amiss should that not come in time; `None`: nothing in particular.
    fn if_late(&self) -> Option<&'static str> {
        None
    }

    /// The peer ended the conversation; `Some` where that means something in particular.
    fn ended(&self, _heard: &[u8]) -> Option<Failure> {
        None
    }
}

/// What a client said before anything was dialled.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// For the upstream, once it is reached.
    pub bytes: Vec<u8>,
    /// It wants another session's work cancelled: only the endpoint that issued the key can do it.
    pub cancels: Option<SessionKey>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: they may hold a session's key.
        let Opening { bytes, cancels } = self;
        f.debug_struct("Opening").field("bytes", &bytes.len()).field("cancels", &cancels.is_some()).finish()
    }
}

/// By what a server knows one of its sessions. Whoever has it can cancel the session's work, so it is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey(Box<[u8]>);

impl SessionKey {
    pub(crate) fn new(bytes: &[u8]) -> SessionKey {
        SessionKey(bytes.into())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Keeps the key of a session.
pub type KeepKey = Box<dyn FnOnce(SessionKey) + Send>;

/// What the negotiation with a server left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// What the server said that the client has missed.
    pub greeting: Vec<u8>,
}

/// A refusal, and to whom it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why.
    pub failure: &'a Failure,
    /// The connection's id, for the log.
    pub id: &'a str,
    /// The client was already given a greeting, and awaits an answer.
    pub greeted: bool,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Postgres, Protocol::Smtp];

    /// What it is like.
    pub fn facts(self) -> &'static Facts {
        match self {
            Protocol::Tcp => &TCP,
            Protocol::Postgres => &postgres::FACTS,
            Protocol::Smtp => &smtp::FACTS,
        }
    }

    /// In the configuration.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Can it ask for TLS on a connection that began in plaintext?
    pub fn negotiates(self) -> bool {
        self.facts().asks_with.is_some()
    }

    /// Reads what the client says before anything is dialled; `None`: nothing is read.
    pub fn preface(self) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        match self {
            Protocol::Tcp | Protocol::Smtp => None,
            Protocol::Postgres => Some(Box::new(postgres::Preface::default())),
        }
    }

    /// Asks the server for TLS; `None`: there is no way to. `as_host`: how we call ourselves, where that is asked.
    pub fn negotiation(self, as_host: &str) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        match self {
            Protocol::Tcp => None,
            Protocol::Postgres => Some(Box::new(postgres::Negotiation::default())),
            Protocol::Smtp => Some(Box::new(smtp::Negotiation::new(as_host))),
        }
    }

    /// Brings both sides together once the upstream is established; `secured`: through TLS.
    pub fn greet(
        self,
        opening: Opening,
        negotiated: Negotiated,
        secured: bool,
        keep_key: KeepKey,
    ) -> Greeting {
        match self {
            Protocol::Tcp => Greeting::default(),
            Protocol::Postgres => postgres::greet(opening, keep_key),
            Protocol::Smtp => smtp::greet(negotiated, secured),
        }
    }

    /// No, in the client's own protocol; `None`: it has no way to say so here, and gets a reset.
    pub fn refusal(self, refusal: Refusal<'_>) -> Option<Vec<u8>> {
        match self {
            Protocol::Tcp => None,
            Protocol::Postgres => Some(postgres::refusal(refusal)),
            Protocol::Smtp => Some(smtp::refusal(refusal)),
        }
    }

    /// What a check says inside TLS before it leaves, so that the server's log holds no complaint.
    pub fn farewell(self) -> &'static [u8] {
        match self {
            Protocol::Tcp | Protocol::Postgres => b"",
            Protocol::Smtp => smtp::FAREWELL,
        }
    }
}

const TCP: Facts = Facts {
    name: "tcp",
    title: "anything over TCP",
    first: First::Either,
    asks_with: None,
    alpn: None,
    refuses_with: "a reset",
    limits: "servers that send their clients to other addresses lead them past nuncio",
};

#[cfg(test)]
mod tests;
