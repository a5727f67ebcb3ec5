//! POP3 with STLS (RFC 1939, 2449, 2595, 5034).
//!
//! The machine is [`dotted`](super::dotted)'s; here stands what POP3's lines mean, and what a refusal is called.

use super::dotted::{Answer, FAREWELL, Kin, Negotiation, Status, greet, refusal, refused};
use super::reply::quoted;
use super::upgrade::Words;
use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::failure::{Failure, Reason};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "pop3",
    title: "POP3",
    first: First::Server,
    asks_with: Some("STLS"),
    alpn: Some("pop3"),
    ports: Ports { plain: Some(110), direct: Some(995) },
    refuses_with: "-ERR [SYS/TEMP] or [SYS/PERM] with the reason in words",
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STLS are taken out of what the server offers; \
             where a listener has TLS, STLS before the login ends there",
};

pub(super) const POP3: Kin = Kin {
    title: "POP3",
    asks_with: "STLS",
    answer_to_it: "the server's answer to STLS",
    if_late: "if this port speaks TLS from its first byte (995), set tls = \"direct\"; if the server looks its clients \
              up in a slow DNS, raise timeouts.negotiate",
    if_gone: "look in the server's log: it may not allow this host's address, or have too many connections; or, if \
              this port speaks TLS from its first byte (995), set tls = \"direct\"",
    began_with_tls: "the client began with TLS where plaintext POP3 is expected",
    may_begin,
    judge_greeting,
    judge_answer,
    hands_over: |_| None,
    beginnings: &[
        ("CAPA", Answer::Capabilities, Answer::Capabilities),
        // Without a mechanism it asks for their list, as before RFC 2449.
        ("AUTH", Answer::Login, Answer::Mechanisms),
        ("USER", Answer::Line, Answer::Line),
        ("PASS", Answer::Login, Answer::Login),
        ("APOP", Answer::Login, Answer::Login),
        ("LANG", Answer::Line, Answer::List),
        ("UTF8", Answer::Line, Answer::Line),
        ("NOOP", Answer::Line, Answer::Line),
        ("STLS", Answer::Line, Answer::Line),
        ("XCLIENT", Answer::Line, Answer::Line),
        ("QUIT", Answer::Line, Answer::Line),
    ],
    upgrade: Words {
        request: "STLS",
        goes_on: &["CAPA", "NOOP", "QUIT"],
        goes_on_bare: &["AUTH"],
        is_tagged: false,
        ready: "+OK Begin TLS negotiation\r\n",
        not_bare: "-ERR STLS takes no parameters\r\n",
        first: "-ERR [SYS/PERM] STLS is required first\r\n",
        began_with_tls: "the client began with TLS where it has to ask for it, in POP3",
    },
    status,
};

pub(super) struct Pop3;

impl Dialect for Pop3 {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(&POP3)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(&POP3, meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(status_of(refused.failure.reason), refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

fn may_begin(line: &[u8]) -> bool {
    ["+OK", "-ERR"].iter().any(|status| {
        let length = line.len().min(status.len());
        status.as_bytes()[..length] == line[..length]
    })
}

fn judge_greeting(line: &[u8]) -> Result<(), Failure> {
    if line.starts_with(b"+OK") {
        return Ok(());
    }
    Err(refused(format!("the server does not serve now: {}", quoted(line.trim_ascii_end()))).mend(
        "look in the server's log for why: it may not allow this host's address, or have too many connections",
    ))
}

fn judge_answer(line: &[u8]) -> Result<(), Failure> {
    if line.starts_with(b"+OK") {
        return Ok(());
    }
    Err(refused(format!("the server said no to STLS: {}", quoted(line.trim_ascii_end()))).mend(
        "switch STLS on at the server (Dovecot: ssl = yes with ssl_cert and ssl_key; Courier: POP3_STARTTLS and \
         TLS_CERTFILE; Cyrus: tls_server_cert and tls_server_key); or, if this port speaks TLS from its first byte \
         (995), set tls = \"direct\"",
    ))
}

fn status(answer: Answer, line: &[u8]) -> Option<Status> {
    use Answer::{Capabilities, Greeting, List, Login, Mechanisms, Unasked};
    Some(match (line, answer) {
        // Who greets so, or speaks unasked, leaves.
        ([b'-', b'E', b'R', b'R', ..], Greeting | Unasked) => Status::Bye,
        ([b'-', b'E', b'R', b'R', ..], _) => Status::Line,
        ([b'+', b'O', b'K', ..], Capabilities | Mechanisms | List) => Status::List,
        ([b'+', b'O', b'K', ..], Login) => Status::LoggedIn,
        ([b'+', b'O', b'K', ..], _) => Status::Line,
        ([b'+', b' ' | b'\r' | b'\n', ..], Login) => Status::Challenge,
        _ => return None,
    })
}

/// What may mend itself (RFC 3206). fetchmail takes anything else for a wrong password, of which it stops trying; told of a
/// service that is unavailable it comes again, and told to wait it shows the line as well.
const TEMPORARY: &str = "-ERR [SYS/TEMP] service unavailable, please wait;";
/// What a person has to mend.
const PERMANENT: &str = "-ERR [SYS/PERM] service unavailable;";

/// How a refusal begins. Never with [AUTH] or [IN-USE]: no password was looked at, and no mailbox.
fn status_of(reason: Reason) -> &'static str {
    match reason {
        Reason::DestinationNotFound
        | Reason::DestinationIpProhibited
        | Reason::TlsProtocolError
        | Reason::TlsCertificateError
        | Reason::TlsAlertReceived
        | Reason::ProxyLoopDetected
        | Reason::ProxyConfigurationError
        | Reason::ProxyInternalError
        | Reason::NegotiationRefused
        | Reason::NegotiationError
        | Reason::ClientCertificateRefused
        | Reason::AdmissionDenied
        | Reason::BadPreface => PERMANENT,
        Reason::DnsTimeout
        | Reason::DnsError
        | Reason::DestinationUnavailable
        | Reason::DestinationIpUnroutable
        | Reason::ConnectionRefused
        | Reason::ConnectionTerminated
        | Reason::ConnectionTimeout
        | Reason::ConnectionLimitReached
        | Reason::CircuitOpen
        | Reason::NegotiationTimeout
        | Reason::HandshakeTimeout
        | Reason::EarlyClose
        | Reason::Truncated
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::PeerVanished
        | Reason::IdleTimeout
        | Reason::HalfCloseTimeout
        | Reason::LifetimeReached
        | Reason::QueueTimeout
        | Reason::EstablishTimeout
        | Reason::PrefaceTimeout
        | Reason::Draining => TEMPORARY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_what_the_command_makes_of_it() {
        use Answer::{Capabilities, Greeting, Line, List, Login, Mechanisms, Unasked};
        for (answer, line, means) in [
            (Greeting, &b"+OK <1@x>"[..], Some(Status::Line)),
            (Greeting, b"-ERR x", Some(Status::Bye)),
            (Unasked, b"-ERR x", Some(Status::Bye)),
            (Line, b"+OK x", Some(Status::Line)),
            (Line, b"-ERR x", Some(Status::Line)),
            (Capabilities, b"+OK\r\n", Some(Status::List)),
            (Capabilities, b"-ERR\r\n", Some(Status::Line)),
            (Mechanisms, b"+OK\n", Some(Status::List)),
            (List, b"+OK\n", Some(Status::List)),
            (Login, b"+OK\n", Some(Status::LoggedIn)),
            (Login, b"-ERR ", Some(Status::Line)),
            (Login, b"+ x\r\n", Some(Status::Challenge)),
            (Login, b"+\r\n", Some(Status::Challenge)),
            (Line, b"+ x\r\n", None),
            (Capabilities, b"+O\r\n", None),
            (Line, b"OK\r\n", None),
        ] {
            assert_eq!(status(answer, line), means, "{answer:?} {}", line.escape_ascii());
        }
    }
}
