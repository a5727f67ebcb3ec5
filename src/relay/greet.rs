//! greet: the seam to whoever reads along at a connection's beginning, until what follows is plain relay.

mod due;

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::Instant;

use due::Due;

/// Between a client that speaks plaintext and a server that speaks TLS some first messages have to be changed: a list of
/// mechanisms that need TLS end to end, a packet's number. A greeter sees all that both sides say until it is done.
///
/// However the bytes are split, what goes onward is the same. It keeps back only what it cannot judge yet.
pub trait Greeter: Send {
    /// The client said this.
    ///
    /// # Errors
    /// The conversation cannot go on: whose fault it is, and why.
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection>;

    /// The upstream said this.
    ///
    /// # Errors
    /// As above.
    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection>;

    /// Nothing is left to change, and nothing is kept back: the bytes go as they are from here on.
    fn is_done(&self) -> bool;

    /// Would the client understand a refusal, once it has what was passed on to it? It awaits an answer, and has seen no part
    /// of it.
    fn may_refuse(&self) -> bool;

    /// What the client awaits an answer to, as a refusal has to know it: a request's number, say.
    fn unanswered(&self) -> Vec<u8> {
        Vec::new()
    }

    /// How far the client is on its way to TLS of its own.
    fn upgrade(&self) -> Upgrade {
        Upgrade::None
    }

    /// The client's TLS has begun: what it says from here on came through it, and so will what it is told.
    fn upgraded(&mut self, _onward: &mut Onward) {}

    /// It is the client's turn, and nothing that it can say but its request for TLS leads any further.
    fn awaits_tls(&self) -> bool {
        false
    }

    /// By when it has to say that.
    fn tls_due(&self) -> Option<Instant> {
        None
    }

    /// It ends now: what may be the reason, where that can be told.
    fn why_ended(&self) -> Option<Remark> {
        None
    }

    /// The server said that it can take nobody now: no place, or not yet, or no longer.
    fn is_overloaded(&self) -> bool {
        false
    }
}

/// How far a client is on its way to TLS of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// Nothing is asked for.
    #[default]
    None,
    /// It awaits an answer of ours that is not due yet. Nothing more is read from it until then: what it sends in plaintext
    /// behind a request for TLS must never be taken for something that came through TLS.
    Asked,
    /// It was answered yes: TLS begins once the answer has gone on to it.
    Answered,
}

/// Both sides' first words, and who reads along from then on.
#[derive(Default)]
pub struct Greeting {
    /// What is to be said first, before anything else in its direction.
    pub onward: Onward,
    /// `None`: the bytes go as they are.
    pub greeter: Option<Box<dyn Greeter>>,
}

impl Greeting {
    /// A client that has to ask for TLS is waited for so long, each time that it is its turn.
    pub fn asks_within(&mut self, limit: Duration) {
        self.greeter = self.greeter.take().map(|greeter| match greeter.is_done() {
            true => greeter,
            false => Box::new(Due::new(greeter, limit)) as Box<dyn Greeter>,
        });
    }

    /// When a client that has to ask for TLS has had its time.
    pub(super) fn tls_due(&self) -> Option<Instant> {
        self.greeter.as_ref().and_then(|greeter| greeter.tls_due())
    }

    /// Would the client understand a refusal, once it has what goes on to it?
    pub(super) fn may_refuse(&self) -> bool {
        self.greeter.as_ref().is_some_and(|greeter| !greeter.is_done() && greeter.may_refuse())
    }

    /// How far the client is on its way to TLS of its own.
    pub(super) fn upgrade(&self) -> Upgrade {
        self.greeter.as_ref().map_or(Upgrade::None, |greeter| greeter.upgrade())
    }

    /// Everything is said, and nobody reads along any more.
    pub(super) fn is_over(&self) -> bool {
        let done = self.greeter.as_ref().is_none_or(|greeter| greeter.is_done());
        done && self.onward.up.is_empty() && self.onward.down.is_empty()
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never what is said: it may be a password.
        f.debug_struct("Greeting").field("read_along", &self.greeter.is_some()).finish_non_exhaustive()
    }
}

/// What goes on from here, each in its own direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onward {
    /// To the upstream.
    pub up: Vec<u8>,
    /// To the client.
    pub down: Vec<u8>,
}

/// Why a greeter cannot let a conversation go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Whose words it objects to.
    pub to: super::Party,
    /// What was wrong with them.
    pub detail: &'static str,
    /// What to do.
    pub mend: &'static str,
}

/// What can be said of an end that looks like an orderly one, and what would mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Whose doing it was. A client's reason to leave is one only where it was the first to.
    pub of: super::Party,
    /// What was seen.
    pub detail: Cow<'static, str>,
    /// What to do.
    pub mend: &'static str,
}
