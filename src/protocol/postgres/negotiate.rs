//! Asking the server for TLS: SSLRequest, and one byte for an answer, or an error.
//!
//! The answer comes in plaintext, from whoever is on the way. So nothing may stand behind a yes, since it would be taken for
//! the server's first words inside TLS (CVE-2021-23222), and what an error says is quoted as what it is: unproven.

use super::super::{Negotiated, Talk};
use super::{SSL_REQUEST, length, one_line};
use crate::failure::{BreakerClass, Failure, Reason, Stage};

/// An error of more bytes is not waited for.
const LONGEST_ERROR: usize = 16 * 1024;
/// As much of an error's message is quoted.
const LONGEST_QUOTE: usize = 300;

/// The conversation with a server before TLS.
#[derive(Default)]
pub(in crate::protocol) struct Negotiation {
    asked: bool,
}

impl Talk for Negotiation {
    type Outcome = Negotiated;

    fn hear(&mut self, heard: &mut Vec<u8>, say: &mut Vec<u8>) -> Result<Option<Negotiated>, Failure> {
        if !self.asked {
            self.asked = true;
            say.extend(8_u32.to_be_bytes());
            say.extend(SSL_REQUEST.to_be_bytes());
        }
        match heard[..] {
            [] => Ok(None),
            [b'S'] => {
                heard.clear();
                Ok(Some(Negotiated::default()))
            }
            [b'S', ..] if heard.starts_with(b"SSH-") => Err(not_postgres("it is an SSH server")),
            [b'S', ..] => Err(error(format!(
                "{} bytes in plaintext behind the answer to SSLRequest: someone may be injecting them (CVE-2021-23222)",
                heard.len() - 1
            ))
            .mend("find out who is on the way to the server: no PostgreSQL server sends them")),
            [b'N', ..] => Err(refused("the server answered no to SSLRequest: it has no TLS").mend(
                "set ssl = on in its postgresql.conf, with ssl_cert_file and ssl_key_file; or, where the network is \
                 trusted, tls = \"off\" here",
            )),
            [b'E', ..] => match Answer::read(heard) {
                Answer::Part => Ok(None),
                Answer::Whole(said) => Err(said.failure()),
                Answer::Odd => Err(not_postgres("its error has no length that an error can have")),
            },
            [0x15, 0x03, ..] => Err(not_postgres("it answered with a TLS alert")
                .mend("set tls = \"direct\" if this port speaks TLS from its first byte")),
            [0x15] => Ok(None),
            [first, ..] => Err(not_postgres(&format!("it answered SSLRequest with byte 0x{first:02x}"))),
        }
    }

    fn awaits(&self) -> &'static str {
        "the server's answer to SSLRequest"
    }

    fn ended(&self, heard: &[u8]) -> Option<Failure> {
        match heard.first()? {
            b'E' => Some(match Answer::read(heard) {
                Answer::Odd => not_postgres("its error has no length that an error can have"),
                Answer::Whole(said) => said.failure(),
                Answer::Part => Said::fields_or_text(heard).failure(),
            }),
            first => {
                Some(not_postgres(&format!("it answered SSLRequest with byte 0x{first:02x} and hung up")))
            }
        }
    }
}

/// An ErrorResponse as far as it was heard.
pub(super) enum Answer {
    Part,
    Whole(Said),
    Odd,
}

impl Answer {
    /// `E`, then length and fields; or, from a server that cannot even fork (and those before 7.4), text and a zero byte.
    pub(super) fn read(heard: &[u8]) -> Answer {
        match heard.get(1) {
            None => Answer::Part,
            Some(0) => match length(heard, 1) {
                None => Answer::Part,
                Some(length) if !(5..LONGEST_ERROR).contains(&length) => Answer::Odd,
                Some(length) => {
                    heard.get(..1 + length).map_or(Answer::Part, |whole| Answer::Whole(Said::fields(whole)))
                }
            },
            Some(_) => {
                let heard = &heard[..heard.len().min(LONGEST_ERROR)];
                match heard.contains(&0) || heard.len() == LONGEST_ERROR {
                    true => Answer::Whole(Said::text(heard)),
                    false => Answer::Part,
                }
            }
        }
    }
}

/// What an error says.
#[derive(Default)]
pub(super) struct Said {
    message: String,
    sqlstate: Option<String>,
    hint: Option<String>,
    /// Where in the server's source it was said.
    routine: String,
}

impl Said {
    fn fields_or_text(heard: &[u8]) -> Said {
        if heard.get(1) == Some(&0) { Said::fields(heard) } else { Said::text(heard) }
    }

    /// Each field is a letter and text up to a zero byte; one more zero byte ends them.
    fn fields(heard: &[u8]) -> Said {
        let mut said = Said::default();
        for field in heard.get(5..).unwrap_or_default().split(|byte| *byte == 0) {
            let Some((letter, text)) = field.split_first() else { break };
            match letter {
                b'M' => said.message = quote(text),
                b'C' => said.sqlstate = Some(quote(text)).filter(|code| is_sqlstate(code)),
                b'H' => said.hint = Some(quote(text)),
                b'R' => said.routine = quote(text),
                _ => {}
            }
        }
        said
    }

    fn text(heard: &[u8]) -> Said {
        let text = heard[1..].split(|byte| *byte == 0).next().unwrap_or_default();
        Said { message: quote(text), ..Said::default() }
    }

    /// The server can take nobody now. What is full for one role or one database says nothing of the others.
    pub(super) fn is_overload(&self) -> bool {
        match self.sqlstate.as_deref() {
            Some("53300") => !["InitializeSessionUserId", "CheckMyDatabase"].contains(&&*self.routine),
            Some("57P03") => true,
            _ => false,
        }
    }

    /// What it is, for a person, and what to do.
    pub(super) fn words(&self) -> (String, &'static str) {
        let Said { message, sqlstate, hint, .. } = self;
        let mut detail = String::new();
        detail += if message.is_empty() { "(no text)" } else { message };
        if let Some(sqlstate) = sqlstate {
            detail += &format!(" (SQLSTATE {sqlstate})");
        }
        if let Some(hint) = hint {
            detail += &format!("; its hint: {hint}");
        }
        (detail, mend(sqlstate.as_deref().unwrap_or_default(), message))
    }

    fn failure(self) -> Failure {
        let (detail, mend) = self.words();
        let failure = refused(format!("the server answered SSLRequest with an error: {detail}")).mend(mend);
        match self.is_overload() {
            true => failure.counted_as(BreakerClass::Overloaded),
            false => failure,
        }
    }
}

/// What helps against what a server says so early.
fn mend(sqlstate: &str, message: &str) -> &'static str {
    match sqlstate {
        "53300" => {
            "raise the server's max_connections, or lower limits.connections here, so that clients wait here for a place"
        }
        "57P03" | "57P01" | "57P02" => {
            "the server is starting, stopping or recovering: wait for it, or look in its log"
        }
        code if code.starts_with("28") || message.contains("pg_hba") => {
            "the server's pg_hba.conf needs a hostssl line that fits this host, user and database"
        }
        _ => "look in the server's log: it said so before TLS began",
    }
}

fn quote(text: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(text), LONGEST_QUOTE)
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn not_postgres(why: &str) -> Failure {
    error(format!("this does not look like a PostgreSQL server: {why}"))
}

fn error(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationError, detail)
}

fn refused(detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Negotiate, Reason::NegotiationRefused, detail)
}
