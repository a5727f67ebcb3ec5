//! protocol: what is said in plaintext before TLS starts, what a client has to be told afterwards, and "no" in its own words.
//!
//! One file each, all after one skeleton ([`Dialect`]): what the client says first ([`Dialect::preface`]), how the server is
//! asked for TLS ([`Dialect::negotiation`], and [`Dialect::interview`] where the client has to say something before that can
//! be done), what has to be changed until both sides are through with what TLS in the middle changes ([`Dialect::greet`]),
//! how a client is refused ([`Dialect::refusal`]), and how a check takes its leave ([`Dialect::farewell`]).
//!
//! All of it is sans-IO: bytes in, bytes out, done or an error. No socket, no clock. Leaves reading, writing and time limits
//! to `preface`, `establish`, `relay` and `refuse`, and never looks further into a stream than it must.

mod amqp;
mod beyond;
mod command;
mod dotted;
mod first_words;
mod imap;
mod ldap;
mod literal;
mod lmtp;
mod mechanisms;
mod mqtt;
mod mysql;
mod nntp;
mod pop3;
mod postgres;
mod redis;
#[cfg(test)]
mod refused;
mod reply;
mod sentence;
mod sieve;
mod smtp;
mod sqlserver;
mod upgrade;
mod xmpp;

use std::fmt;
use std::io;

use zeroize::Zeroizing;

pub use beyond::{BEYOND, Beyond};

use crate::failure::Failure;
use crate::relay::{Greeting, Packets};

/// What is spoken on a connection, as far as that concerns its TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anything: bytes go as they are.
    #[default]
    Tcp,
    /// PostgreSQL's frontend/backend protocol, version 3.
    Postgres,
    /// MySQL's and MariaDB's client/server protocol.
    Mysql,
    /// Microsoft SQL Server's TDS, versions 7 and 8.
    Sqlserver,
    /// SMTP with STARTTLS (RFC 5321, RFC 3207).
    Smtp,
    /// LMTP (RFC 2033) with STARTTLS.
    Lmtp,
    /// IMAP4 (RFC 3501, RFC 9051).
    Imap,
    /// POP3 with STLS (RFC 1939, RFC 2595).
    Pop3,
    /// ManageSieve (RFC 5804).
    Sieve,
    /// NNTP with STARTTLS (RFC 3977, RFC 4642).
    Nntp,
    /// LDAP version 3 (RFC 4511).
    Ldap,
    /// XMPP between client and server (RFC 6120).
    Xmpp,
    /// Redis' RESP.
    Redis,
    /// AMQP 0-9-1 and 1.0.
    Amqp,
    /// MQTT 3.1.1 and 5.
    Mqtt,
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
    /// Where servers listen.
    pub ports: Ports,
    /// How a client that cannot be served is told.
    pub refuses_with: &'static str,
    /// What does not pass, or not as without nuncio.
    pub limits: &'static str,
}

/// The ports that are registered or customary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Where a connection begins in plaintext.
    pub plain: Option<u16>,
    /// Where TLS begins with the first byte.
    pub direct: Option<u16>,
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

    /// So many bytes may be read next and no more, as what comes behind them is for somebody else; `None`: as many as there are.
    fn may_read(&self, _heard: &[u8]) -> Option<usize> {
        None
    }

    /// What it waits for, as in "the server's answer to SSLRequest".
    fn awaits(&self) -> &'static str;

    /// What the peer is about to say, as a refusal has to know it that comes in the place of an answer: a packet's number, say.
    fn unanswered(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What may be amiss should that not come in time; `None`: nothing in particular.
    fn if_late(&self) -> Option<&'static str> {
        None
    }

    /// The peer ended the conversation; `Some` where that means something in particular.
    fn ended(&self, _heard: &[u8]) -> Option<Failure> {
        None
    }
}

/// A TLS handshake that travels inside a protocol's own packets. Behind it TLS goes alone.
pub trait Wrapping: Send + Sync {
    /// Puts a flight of ours into packets.
    fn wrap(&mut self, flight: &[u8], to: &mut Vec<u8>);

    /// Takes one packet from the front of what was heard, and TLS out of it; `false`: there is no whole packet yet.
    ///
    /// # Errors
    /// It is none of those that carry TLS.
    fn unwrap(&mut self, heard: &mut Vec<u8>, to: &mut Vec<u8>) -> Result<bool, Failure>;
}

impl Packets for Box<dyn Wrapping> {
    fn wrap(&mut self, flight: &[u8], to: &mut Vec<u8>) {
        (**self).wrap(flight, to);
    }

    fn unwrap(&mut self, heard: &mut Vec<u8>, to: &mut Vec<u8>) -> io::Result<bool> {
        let odd = |failure: Failure| io::Error::new(io::ErrorKind::InvalidData, String::from(failure.detail));
        (**self).unwrap(heard, to).map_err(odd)
    }
}

/// What a client said before anything was dialled.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// For the upstream, once it is reached.
    pub bytes: Vec<u8>,
    /// It wants another session's work cancelled: only the endpoint that issued the key can do it.
    pub cancels: Option<SessionKey>,
    /// It asked for TLS, and was told yes: its handshake comes next, which `bytes` are the beginning of, and then its words
    /// once more.
    pub wants_tls: bool,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the bytes: they may hold a session's key.
        let Opening { bytes, cancels, wants_tls } = self;
        f.debug_struct("Opening")
            .field("bytes", &bytes.len())
            .field("cancels", &cancels.is_some())
            .field("wants_tls", wants_tls)
            .finish()
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

/// TLS on the client's own leg, as its listener has it to give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offer {
    /// None.
    #[default]
    No,
    /// Whoever asks for it gets it.
    Optional,
    /// Nobody is served without.
    Required,
    /// The client speaks through it already.
    Taken,
}

impl Offer {
    /// The client may still ask for it.
    pub fn is_open(self) -> bool {
        matches!(self, Offer::Optional | Offer::Required)
    }
}

/// On whose behalf a server is asked for TLS.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// How we call ourselves, where that is asked.
    pub as_host: &'a str,
    /// The name that the server's certificate has to carry.
    pub server_name: &'a str,
    /// What the client opened with; empty where it has not spoken.
    pub opening: &'a [u8],
    /// There is no client: it is a check, or a person who looks.
    pub alone: bool,
}

/// What a client said in an interview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interviewed {
    /// Asks the server for TLS, in plaintext.
    pub request: Vec<u8>,
    /// For the server, inside TLS; or the client's own wish for TLS.
    pub opening: Opening,
}

/// Whom a health check logs in as.
pub struct Credentials {
    /// The account.
    pub user: String,
    /// Empty where it has none.
    pub password: Zeroizing<Vec<u8>>,
}

/// Who is brought together, once the upstream is established.
pub struct Meeting {
    /// What the client opened with.
    pub opening: Opening,
    /// What the server said before TLS.
    pub negotiated: Negotiated,
    /// The server is reached through TLS.
    pub secured: bool,
    /// What the client may be offered.
    pub offer: Offer,
    /// Keeps the session's key, where the protocol has one.
    pub keep_key: KeepKey,
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
    /// What it opened with; once it is greeted, what its greeter says of what it awaits an answer to.
    pub said: &'a [u8],
}

/// What one protocol does around TLS. What it leaves out, it has not got.
trait Dialect: Sync {
    /// What it is like.
    fn facts(&self) -> &'static Facts;

    /// Reads what the client says before anything is dialled; `None`: nothing is read.
    fn preface(&self, _offer: Offer) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        None
    }

    /// Asks the server for TLS; `None`: there is no way to.
    fn negotiation(&self, _asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        None
    }

    /// How the handshake travels that was asked for, on either side; `None`: as it is. TLS 1.2 is the most for one that is wrapped: where TLS
    /// 1.3 goes on behind its handshake (tickets, a late alert), nobody could tell what is still inside a packet.
    fn wrapping(&self) -> Option<Box<dyn Wrapping>> {
        None
    }

    /// What the client has to say before the server can be asked for TLS; `None`: nothing. The negotiation has ended before
    /// the request then, unless it was alone.
    fn interview(
        &self,
        _negotiated: &Negotiated,
        _offer: Offer,
    ) -> Option<Box<dyn Talk<Outcome = Interviewed>>> {
        None
    }

    /// Brings both sides together.
    fn greet(&self, meeting: Meeting) -> Greeting;

    /// No, in the client's own protocol; `None`: it has no way to say so here, and gets a reset.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>>;

    /// Does a refused client leave by itself, and may one miss the refusal that the connection's end comes right behind?
    fn leaves_when_refused(&self) -> bool {
        false
    }

    /// What a check says inside TLS before it leaves, so that the server's log holds no complaint.
    fn farewell(&self) -> &'static [u8] {
        b""
    }

    /// Logs in on a health check's behalf, inside TLS, and takes its leave; `None`: its checks need no login.
    fn login(
        &self,
        _negotiated: &Negotiated,
        _credentials: Credentials,
    ) -> Option<Box<dyn Talk<Outcome = ()>>> {
        None
    }

    /// Takes leave of a server that has greeted and is not asked for TLS after all; `None`: it is just left.
    fn parting(&self, _negotiated: &Negotiated) -> Option<Box<dyn Talk<Outcome = ()>>> {
        None
    }

    /// Does a server hold it against a host that its connections end before their login?
    fn blocks_hosts(&self) -> bool {
        false
    }

    /// Do its servers end connections without TLS' close_notify?
    fn hangs_up(&self) -> bool {
        false
    }

    /// Why no connection can be kept ready before its client comes; `None`: it can.
    fn never_warm(&self) -> Option<&'static str> {
        None
    }

    /// Computes what would take too long once a client waits.
    fn prepare(&self) {}
}

/// A refusal that waits for nothing.
struct Say(Vec<u8>);

impl Talk for Say {
    type Outcome = ();

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<()>, Failure> {
        heard.clear();
        say.append(&mut self.0);
        Ok(Some(()))
    }

    fn awaits(&self) -> &'static str {
        "nothing"
    }
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 15] = [
        Protocol::Tcp,
        Protocol::Postgres,
        Protocol::Mysql,
        Protocol::Sqlserver,
        Protocol::Smtp,
        Protocol::Lmtp,
        Protocol::Imap,
        Protocol::Pop3,
        Protocol::Sieve,
        Protocol::Nntp,
        Protocol::Ldap,
        Protocol::Xmpp,
        Protocol::Redis,
        Protocol::Amqp,
        Protocol::Mqtt,
    ];

    fn dialect(self) -> &'static dyn Dialect {
        match self {
            Protocol::Tcp => &Tcp,
            Protocol::Postgres => &postgres::Postgres,
            Protocol::Mysql => &mysql::Mysql,
            Protocol::Sqlserver => &sqlserver::Sqlserver,
            Protocol::Smtp => &smtp::Smtp,
            Protocol::Lmtp => &lmtp::Lmtp,
            Protocol::Imap => &imap::Imap,
            Protocol::Pop3 => &pop3::Pop3,
            Protocol::Sieve => &sieve::Sieve,
            Protocol::Nntp => &nntp::Nntp,
            Protocol::Ldap => &ldap::Ldap,
            Protocol::Xmpp => &xmpp::Xmpp,
            Protocol::Redis => &redis::Redis,
            Protocol::Amqp => &amqp::Amqp,
            Protocol::Mqtt => &mqtt::Mqtt,
        }
    }

    /// What it is like.
    pub fn facts(self) -> &'static Facts {
        self.dialect().facts()
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
    pub fn preface(self, offer: Offer) -> Option<Box<dyn Talk<Outcome = Opening>>> {
        self.dialect().preface(offer)
    }

    /// Asks the server for TLS; `None`: there is no way to.
    pub fn negotiation(self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        self.dialect().negotiation(asking)
    }

    /// How the handshake travels that was asked for, on either side; `None`: as it is.
    pub fn wrapping(self) -> Option<Box<dyn Wrapping>> {
        self.dialect().wrapping()
    }

    /// Does the client have to say something before the server can be asked for TLS?
    pub fn interviews(self) -> bool {
        self.dialect().interview(&Negotiated::default(), Offer::No).is_some()
    }

    /// What the client has to say before the server can be asked for TLS; `None`: nothing.
    pub fn interview(
        self,
        negotiated: &Negotiated,
        offer: Offer,
    ) -> Option<Box<dyn Talk<Outcome = Interviewed>>> {
        self.dialect().interview(negotiated, offer)
    }

    /// Brings both sides together once the upstream is established.
    pub fn greet(self, meeting: Meeting) -> Greeting {
        self.dialect().greet(meeting)
    }

    /// No, in the client's own protocol; `None`: it has no way to say so here, and gets a reset.
    pub fn refusal(self, refusal: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        self.dialect().refusal(refusal)
    }

    /// Does a refused client leave by itself, and may one miss the refusal that the connection's end comes right behind?
    pub fn leaves_when_refused(self) -> bool {
        self.dialect().leaves_when_refused()
    }

    /// What a check says inside TLS before it leaves, so that the server's log holds no complaint.
    pub fn farewell(self) -> &'static [u8] {
        self.dialect().farewell()
    }

    /// Logs in on a health check's behalf, inside TLS, and takes its leave; `None`: its checks need no login.
    pub fn login(
        self,
        negotiated: &Negotiated,
        credentials: Credentials,
    ) -> Option<Box<dyn Talk<Outcome = ()>>> {
        self.dialect().login(negotiated, credentials)
    }

    /// Takes leave of a server that has greeted and is not asked for TLS after all; `None`: it is just left.
    pub fn parting(self, negotiated: &Negotiated) -> Option<Box<dyn Talk<Outcome = ()>>> {
        self.dialect().parting(negotiated)
    }

    /// Does a server hold it against a host that its connections end before their login? Then checks log in, or there are
    /// none.
    pub fn blocks_hosts(self) -> bool {
        self.dialect().blocks_hosts()
    }

    /// Do its servers end connections without TLS' close_notify, and say in each message how long it is?
    pub fn hangs_up(self) -> bool {
        self.dialect().hangs_up()
    }

    /// Why no connection can be kept ready before its client comes, to be read behind "with PROTOCOL"; `None`: it can.
    pub fn never_warm(self) -> Option<&'static str> {
        self.dialect().never_warm()
    }

    /// Computes what would take too long once a client waits. Takes its time itself.
    pub fn prepare(self) {
        self.dialect().prepare();
    }
}

/// Anything.
struct Tcp;

impl Dialect for Tcp {
    fn facts(&self) -> &'static Facts {
        &TCP
    }

    fn greet(&self, _: Meeting) -> Greeting {
        Greeting::default()
    }

    fn refusal(&self, _: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        None
    }
}

const TCP: Facts = Facts {
    name: "tcp",
    title: "anything over TCP",
    first: First::Either,
    asks_with: None,
    alpn: None,
    ports: Ports { plain: None, direct: None },
    refuses_with: "a reset",
    limits: "servers that send their clients to other addresses lead them past nuncio",
};

#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
