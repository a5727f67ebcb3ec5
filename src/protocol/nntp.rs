//! NNTP with STARTTLS (RFC 3977, 4642, 4643).
//!
//! The machine is [`dotted`](super::dotted)'s; here stands what NNTP's codes mean.

use super::dotted::{Answer, FAREWELL, Kin, Negotiation, Status, error, greet, refusal, refused};
use super::reply::quoted;
use super::upgrade::Words;
use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::failure::{Failure, Reason};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "nntp",
    title: "NNTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: Some("nntp"),
    ports: Ports { plain: Some(119), direct: Some(563) },
    refuses_with: "400 with the reason in words (502 where the client may not come at all)",
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; \
             where a listener has TLS, STARTTLS before the login ends there; feeds into INN's innd, which knows no TLS: \
             whom it leaves to nnrpd is a reader",
};

pub(super) const NNTP: Kin = Kin {
    title: "NNTP",
    asks_with: "STARTTLS",
    answer_to_it: "the server's answer to STARTTLS",
    if_late: "if this port speaks TLS from its first byte (563), set tls = \"direct\"; if the server looks its clients \
              up in a slow DNS, raise timeouts.negotiate",
    if_gone: "look in the server's log: it may not allow this host's address, or have too many connections; or, if \
              this port speaks TLS from its first byte (563), set tls = \"direct\"",
    began_with_tls: "the client began with TLS where plaintext NNTP is expected",
    may_begin,
    judge_greeting,
    judge_answer,
    hands_over,
    beginnings: &[
        ("CAPABILITIES", Answer::Capabilities, Answer::Capabilities),
        ("MODE", Answer::Line, Answer::Line),
        ("AUTHINFO", Answer::Login, Answer::Login),
        ("DATE", Answer::Line, Answer::Line),
        ("HELP", Answer::List, Answer::List),
        ("STARTTLS", Answer::Line, Answer::Line),
        ("QUIT", Answer::Line, Answer::Line),
    ],
    upgrade: Words {
        request: "STARTTLS",
        goes_on: &["CAPABILITIES", "DATE", "HELP", "MODE", "QUIT"],
        goes_on_bare: &[],
        is_tagged: false,
        ready: "382 Continue with TLS negotiation\r\n",
        not_bare: "501 STARTTLS takes no parameters\r\n",
        first: "483 STARTTLS is required first\r\n",
        began_with_tls: "the client began with TLS where it has to ask for it, in NNTP",
    },
    status,
};

pub(super) struct Nntp;

impl Dialect for Nntp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, _: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(&NNTP)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(&NNTP, meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        // Service temporarily unavailable, or permanently.
        let status = match refused.failure.reason {
            Reason::AdmissionDenied => "502",
            _ => "400",
        };
        Some(Box::new(Say(refusal(status, refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

fn may_begin(line: &[u8]) -> bool {
    let (digits, rest) = line.split_at(line.len().min(3));
    digits.iter().all(u8::is_ascii_digit) && matches!(rest, [] | [b' ' | b'\t' | b'\r' | b'\n', ..])
}

/// A line's code.
fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3).filter(|_| may_begin(line))?;
    Some(digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
}

fn judge_greeting(line: &[u8]) -> Result<(), Failure> {
    let said = quoted(line.trim_ascii_end());
    Err(match code(line) {
        // Posting allowed, and not.
        Some(200 | 201) => return Ok(()),
        Some(400..=499) => refused(format!("the server does not serve now: {said}")).mend(
            "look in the server's log for why; it may have too many connections, from this host or in all",
        ),
        Some(500..=599) => refused(format!("the server does not serve this host: {said}"))
            .mend("look in the server's log for why; it may not allow this host's address"),
        _ => error(format!("what the server said first is no NNTP greeting: {said}")),
    })
}

fn judge_answer(line: &[u8]) -> Result<(), Failure> {
    let said = quoted(line.trim_ascii_end());
    Err(match code(line) {
        Some(382) => return Ok(()),
        Some(580) => refused(format!("the server has STARTTLS and then said no to it: {said}"))
            .mend("look in the server's log for why: its certificate or key may not load"),
        Some(400) => refused(format!("the server does not serve now: {said}"))
            .mend("look in the server's log for why; it may have too many connections, from this host or in all"),
        _ => refused(format!("the server said no to STARTTLS: {said}")).mend(
            "switch STARTTLS on at the server (INN: tlscertfile and tlskeyfile in inn.conf, and nnrpd at this port); or, \
             if this port speaks TLS from its first byte (563), set tls = \"direct\"",
        ),
    })
}

/// A server of feeds that leaves readers to another program (INN's innd to nnrpd, which has STARTTLS) wants to be told. Who
/// is left with innd is nobody's feed: it knows no TLS.
fn hands_over(line: &[u8]) -> Option<&'static str> {
    line.trim_ascii_end().eq_ignore_ascii_case(b"401 MODE-READER").then_some("MODE READER")
}

fn status(answer: Answer, line: &[u8]) -> Option<Status> {
    use Answer::{Capabilities, Greeting, List, Login, Unasked};
    Some(match (code(line)?, answer) {
        // Who speaks unasked leaves.
        (400, _) | (_, Unasked) | (401..=599, Greeting) => Status::Bye,
        (101, Capabilities) | (100, List) => Status::List,
        (281 | 283, Login) => Status::LoggedIn,
        (383, Login) => Status::Challenge,
        _ => Status::Line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code is three digits and a gap, or the beginning of that.
    #[test]
    fn a_code_is_told_from_what_is_none() {
        for (line, begins, is) in [
            (&b""[..], true, None),
            (b"20", true, None),
            (b"200", true, Some(200)),
            (b"200 x\r\n", true, Some(200)),
            (b"099\n", true, Some(99)),
            (b"200\tx", true, Some(200)),
            (b"2000", false, None),
            (b"200-x", false, None),
            (b"20 x", false, None),
            (b"+OK", false, None),
            (b"\r\n", false, None),
        ] {
            assert_eq!((may_begin(line), code(line)), (begins, is), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_code_means_what_the_command_makes_of_it() {
        use Answer::{Capabilities, Greeting, Line, List, Login, Unasked};
        for (answer, line, means) in [
            (Greeting, &b"200 x"[..], Some(Status::Line)),
            (Greeting, b"400 x", Some(Status::Bye)),
            (Greeting, b"502 x", Some(Status::Bye)),
            (Line, b"101 x", Some(Status::Line)),
            (Line, b"502 x", Some(Status::Line)),
            (Line, b"400 x", Some(Status::Bye)),
            (Capabilities, b"101 x", Some(Status::List)),
            (Capabilities, b"500 x", Some(Status::Line)),
            (List, b"100 x", Some(Status::List)),
            (List, b"101 x", Some(Status::Line)),
            (Login, b"281 x", Some(Status::LoggedIn)),
            (Login, b"283 x", Some(Status::LoggedIn)),
            (Login, b"381 x", Some(Status::Line)),
            (Login, b"383 x", Some(Status::Challenge)),
            (Login, b"481 x", Some(Status::Line)),
            (Unasked, b"200 x", Some(Status::Bye)),
            (Line, b"+OK x", None),
        ] {
            assert_eq!(status(answer, line), means, "{answer:?} {}", line.escape_ascii());
        }
    }
}
