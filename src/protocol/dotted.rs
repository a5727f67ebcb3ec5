//! What POP3 and NNTP share: a command is answered by one line, and where that announces a list, by what follows up to a
//! dot alone.
//!
//! `negotiate`: greeting, the command that asks for TLS. `greet`: the greeting replayed, and the server's capabilities
//! without what TLS in the middle cannot keep, until the client is past the beginning. `refuse`: no, in one line. What
//! the lines of each mean is in [`Kin`].

mod greet;
mod negotiate;
mod reader;
mod refuse;

pub(super) use greet::greet;
pub(super) use negotiate::Negotiation;
pub(super) use refuse::refusal;

use super::upgrade::Words;
use crate::failure::{Failure, Reason, Stage};

/// What POP3 and NNTP have each in their own way.
#[derive(Debug)]
pub(super) struct Kin {
    /// For a person.
    pub(super) title: &'static str,
    /// The command that asks for TLS, and the capability that offers it.
    pub(super) asks_with: &'static str,
    /// What is awaited then.
    pub(super) answer_to_it: &'static str,
    /// What may be amiss where no greeting comes.
    pub(super) if_late: &'static str,
    /// What may be amiss where the server hangs up instead.
    pub(super) if_gone: &'static str,
    /// A client that begins with TLS.
    pub(super) began_with_tls: &'static str,
    /// May an answer begin so?
    pub(super) may_begin: fn(&[u8]) -> bool,
    /// Does the server greet?
    pub(super) judge_greeting: fn(&[u8]) -> Result<(), Failure>,
    /// Does it start TLS?
    pub(super) judge_answer: fn(&[u8]) -> Result<(), Failure>,
    /// Where the answer says so: what has to be said before, so that another program takes over, which greets anew.
    pub(super) hands_over: fn(&[u8]) -> Option<&'static str>,
    /// What a client may say before anything that counts, and how that is answered: with arguments, and without.
    pub(super) beginnings: &'static [(&'static str, Answer, Answer)],
    /// How a client asks for TLS of its own.
    pub(super) upgrade: Words,
    /// What an answer's first line means, of which at least four bytes are given; `None`: it is none.
    pub(super) status: fn(Answer, &[u8]) -> Option<Status>,
}

/// How something is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server's own beginning.
    Greeting,
    /// With one line, whatever it says.
    Line,
    /// With a list that goes on as it is.
    List,
    /// With what the server can do.
    Capabilities,
    /// With SASL mechanisms, a line each.
    Mechanisms,
    /// With a yes, a no, or a question to the client.
    Login,
    /// The client asked for nothing.
    Unasked,
    /// Not known.
    Unknown,
}

/// What the first line of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It is all.
    Line,
    /// A list follows.
    List,
    /// The client's next line is its response.
    Challenge,
    /// The client is logged in.
    LoggedIn,
    /// The server leaves.
    Bye,
}

/// A server that is left without it logs a lost connection.
pub(super) const FAREWELL: &[u8] = b"QUIT\r\n";

/// The server said no.
pub(super) fn refused(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}

/// The server said what the protocol does not allow.
pub(super) fn error(detail: String) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}
