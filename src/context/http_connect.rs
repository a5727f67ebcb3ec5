//! http_connect: a client that asks as of an HTTP proxy: `CONNECT host:port` (RFC 9110, section 9.3.6), with its options as
//! headers, and the answers with `Proxy-Status` (RFC 9209).
//!
//! Its head has no length of its own, and what comes behind it is not ours: it is read in sips that cannot reach beyond its end,
//! some twenty of them for a usual one. In this a line ends with CR LF and nothing else.

use std::fmt::Write;

use super::reply::codes;
use super::{Context, Grant, Refusal, odd, quoted, seems_to_be};
use crate::failure::Failure;
use crate::protocol::Talk;

/// Of a head, in bytes.
const LONGEST: usize = 8 * 1024;
/// Headers in it.
const MOST_HEADERS: usize = 64;
/// The shortest head that could ask for something is longer.
const SHORTEST: usize = 20;
/// Of `details`, in characters.
const LONGEST_DETAILS: usize = 512;

/// A request, as far as it has come.
#[derive(Debug, Default)]
pub struct Request {
    head: Vec<u8>,
    /// The status that says what was wrong with the request itself.
    status: Option<u16>,
}

impl Talk for Request {
    type Outcome = Context;

    fn hear(&mut self, heard: &mut Vec<u8>, _say: &mut Vec<u8>) -> Result<Option<Context>, Failure> {
        // By the byte, so that it fails at the same one however they are cut. What stands behind the end of one that is shorter
        // than the shortest is refused with it.
        for byte in heard.drain(..) {
            self.take(byte)?;
            if self.head.ends_with(b"\r\n\r\n") {
                let head = std::mem::take(&mut self.head);
                return self.read(&head).map(Some);
            }
        }
        Ok(None)
    }

    fn may_read(&self, _heard: &[u8]) -> Option<usize> {
        let missing = [&b"\r\n\r"[..], b"\r\n", b"\r"].iter().position(|end| self.head.ends_with(end));
        Some(missing.map_or(4, |place| place + 1).max(SHORTEST.saturating_sub(self.head.len())))
    }

    fn awaits(&self) -> &'static str {
        "the client's CONNECT request"
    }
}

impl Request {
    fn take(&mut self, byte: u8) -> Result<(), Failure> {
        let before = self.head.last().copied();
        if before.is_none() && !byte.is_ascii_uppercase() {
            let detail = format!(
                "a CONNECT request was expected, and its first byte is {byte:#04x}{}",
                seems_to_be(byte)
            );
            return Err(odd(detail).mend("let the client use an HTTP proxy without TLS to it"));
        }
        if self.head.len() == LONGEST {
            self.status = Some(431);
            return Err(odd(format!("the head of the client's request is longer than {LONGEST} bytes"))
                .mend("have the client send fewer headers to its proxy"));
        }
        let is_broken = (before == Some(b'\r')) != (byte == b'\n');
        if is_broken || (byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t')) {
            return Err(odd(format!("the head of the client's request has a stray {byte:#04x} in it")));
        }
        self.head.push(byte);
        Ok(())
    }

    fn read(&mut self, head: &[u8]) -> Result<Context, Failure> {
        let head = String::from_utf8_lossy(head);
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let request = lines.next().unwrap_or_default();
        let shown = |line: &str| quoted(line.as_bytes());
        let mut words = request.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
        else {
            return Err(odd(format!("{} is no HTTP request line", shown(request))));
        };
        if !["HTTP/1.1", "HTTP/1.0"].contains(&version) {
            self.status = Some(505);
            return Err(odd(format!("{} is no version of HTTP that CONNECT is answered in", shown(version))));
        }
        if method != "CONNECT" {
            self.status = Some(405);
            return Err(odd(format!("the client asks for {}, and CONNECT is all that is answered here", shown(method)))
                .mend("let the client tunnel through its proxy: curl --proxytunnel; nuncio does not forward HTTP requests"));
        }
        let destination = target
            .parse()
            .map_err(|_| odd(format!("the client asks for {}, which is no HOST:PORT", shown(target))))?;
        let mut context = Context { destination: Some(destination), ..Context::default() };
        let mut count = 0;
        for line in lines {
            count += 1;
            if count > MOST_HEADERS {
                self.status = Some(431);
                return Err(odd(format!("the client's request has more than {MOST_HEADERS} headers")));
            }
            header(line, &mut context)?;
        }
        Ok(context)
    }

    /// No.
    pub(super) fn refused(&self, refusal: &Refusal<'_>) -> Vec<u8> {
        let Refusal { failure, id, endpoint, attempts } = *refusal;
        let status = self.status.unwrap_or_else(|| codes(failure.reason).0);
        let body = format!(
            "{}\n{}\n({} at {}, connection {id})\n",
            failure.detail,
            failure.next_step(),
            failure.reason,
            failure.stage.label()
        );
        let details = format!("{}: {}; {}", failure.reason, failure.detail, failure.next_step());
        let mut answer = format!(
            "HTTP/1.1 {status} {}\r\nProxy-Status: nuncio; error={}; details={}",
            phrase(status),
            failure.reason.registered(),
            sentence(&details),
        );
        if let Some(endpoint) = endpoint {
            add(&mut answer, format_args!("; next-hop={}", sentence(endpoint)));
        }
        told(&mut answer, id, endpoint, attempts);
        if status == 405 {
            add(&mut answer, format_args!("\r\nAllow: CONNECT"));
        }
        add(
            &mut answer,
            format_args!(
                "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ),
        );
        answer.into_bytes()
    }
}

/// One header's line.
fn header(line: &str, context: &mut Context) -> Result<(), Failure> {
    let is_token = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name)) else {
        return Err(odd(format!("{} is no header", quoted(line.as_bytes()))));
    };
    let (name, value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']));
    // Bytes that a client means for the proxy would be taken for the tunnel's own.
    if name == "transfer-encoding" || (name == "content-length" && value != "0") {
        return Err(odd("the client's CONNECT request has a body, which means nothing there"));
    }
    let key = if name == "traceparent" { Some(&*name) } else { name.strip_prefix("nuncio-") };
    let Some(key) = key else { return Ok(()) };
    context.options.set(key, value).map_err(|wrong| {
        let mend = "the headers are Nuncio-Max-Attempts, Nuncio-Deadline, Nuncio-Upstream, Nuncio-Endpoint, \
                    Nuncio-Correlation and traceparent";
        odd(format!("{name}: {wrong}")).mend(mend)
    })
}

/// Yes.
pub(super) fn granted(grant: &Grant<'_>) -> Vec<u8> {
    let Grant { id, endpoint, attempts } = *grant;
    let mut answer = "HTTP/1.1 200 Connection established\r\nProxy-Status: nuncio".to_owned();
    if let Some(endpoint) = endpoint {
        add(&mut answer, format_args!("; next-hop={}", sentence(endpoint)));
    }
    told(&mut answer, id, endpoint, attempts);
    (answer + "\r\n\r\n").into_bytes()
}

/// What both answers tell.
fn told(answer: &mut String, id: &str, endpoint: Option<&str>, attempts: usize) {
    add(answer, format_args!("\r\nNuncio-Connection: {id}"));
    if let Some(endpoint) = endpoint {
        add(answer, format_args!("\r\nNuncio-Endpoint: {endpoint}"));
        add(answer, format_args!("\r\nNuncio-Attempts: {attempts}"));
    }
}

fn add(answer: &mut String, text: std::fmt::Arguments<'_>) {
    let written = answer.write_fmt(text);
    debug_assert!(written.is_ok(), "memory takes everything");
}

/// A string as structured fields have it (RFC 8941, section 3.3.3): printable ASCII, in quotes.
fn sentence(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars().take(LONGEST_DETAILS) {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Failed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Heard, hear_in_all_ways};
    use super::*;
    use crate::failure::{Reason, Stage};

    fn ask(head: &str) -> (Request, Heard) {
        hear_in_all_ways(Request::default, head.as_bytes())
    }

    fn refusal(request: &Request, failure: &Failure) -> String {
        let refusal = Refusal { failure, id: "ID", endpoint: Some("db1:5432"), attempts: 1 };
        String::from_utf8(request.refused(&refusal)).unwrap()
    }

    #[test]
    fn a_destination_is_asked_for_and_what_follows_is_left() {
        let head = "CONNECT DB.example.com:5432 HTTP/1.1\r\nHost: db.example.com:5432\r\nUser-Agent: x\r\n\r\n\r\n\r\nhello";
        let (_, (said, heard, rest)) = ask(head);
        let context = heard.unwrap().unwrap();
        assert_eq!(context.destination.unwrap().to_string(), "db.example.com:5432");
        assert_eq!((context.options, said, rest), (Default::default(), vec![], b"\r\n\r\nhello".to_vec()));
        let (_, (_, heard, rest)) = ask("CONNECT [::1]:1 HTTP/1.0\r\n\r\nx");
        assert_eq!(heard.unwrap().unwrap().destination.unwrap().to_string(), "[::1]:1");
        assert_eq!(rest, b"x");
    }

    #[test]
    fn options_are_headers() {
        let (_, heard) = ask(
            "CONNECT db:1 HTTP/1.1\r\nnuncio-max-attempts: 1\r\nNuncio-Deadline:500ms\r\nNuncio-Upstream: orders\r\n\
             Nuncio-Endpoint: db1:5432\r\nNuncio-Correlation: job-7\t\r\nTraceparent: broken\r\nProxy-Authorization: Basic x\r\n\r\n",
        );
        let options = heard.1.unwrap().unwrap().options;
        assert_eq!((options.attempts, options.deadline.unwrap().as_millis()), (Some(1), 500));
        assert_eq!(
            (options.upstream.as_deref(), options.correlation.as_deref()),
            (Some("orders"), Some("job-7"))
        );
        assert_eq!((options.endpoint.unwrap().to_string().as_str(), options.traceparent), ("db1:5432", None));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_status() {
        let many = format!("CONNECT db:1 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        let long = format!("CONNECT db:1 HTTP/1.1\r\na: {}", "b".repeat(LONGEST));
        for (head, status, says) in [
            ("GET / HTTP/1.0\r\n\r\nmore", 405, "the client asks for 'GET'"),
            ("GET / HTTP/1.1\r\n\r\n", 405, "the client asks for 'GET'"),
            ("POST http://db:1/ HTTP/1.1\r\n\r\n", 405, "'POST'"),
            ("CONNECT db:1 HTTP/2.0\r\n\r\n", 505, "'HTTP/2.0'"),
            ("CONNECT  db:1 HTTP/1.1\r\n\r\n", 400, "no HTTP request line"),
            ("CONNECT db HTTP/1.1\r\n\r\n", 400, "'db', which is no HOST:PORT"),
            ("CONNECT u@db:1 HTTP/1.1\r\n\r\n", 400, "no HOST:PORT"),
            ("CONNECT db:1 HTTP/1.1\nHost: x\n\n", 400, "a stray 0x0a"),
            ("CONNECT db:1 HTTP/1.1\rx", 400, "a stray"),
            ("CONNECT db:1 HTTP/1.1\r\n folded\r\n\r\n", 400, "' folded' is no header"),
            ("CONNECT db:1 HTTP/1.1\r\na b: c\r\n\r\n", 400, "is no header"),
            ("CONNECT db:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400, "has a body"),
            ("CONNECT db:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "has a body"),
            ("CONNECT db:1 HTTP/1.1\r\nNuncio-Max-Attempt: 1\r\n\r\n", 400, "no option 'max-attempt'"),
            ("CONNECT db:1 HTTP/1.1\r\nNuncio-Deadline: soon\r\n\r\n", 400, "a duration"),
            ("\x05\x01\0", 400, "it begins as SOCKS5 does"),
            ("\x16\x03\x01", 400, "it begins with TLS"),
            (&many, 431, "more than 64 headers"),
            (&long, 431, "longer than 8192 bytes"),
        ] {
            let (request, heard) = ask(head);
            let failure = heard.1.unwrap_err();
            assert!(
                failure.detail.contains(says) && failure.reason == Reason::BadPreface,
                "{head:?}: {failure}"
            );
            let answer = refusal(&request, &failure);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[test]
    fn the_answers_say_where_it_leads_or_why_not() {
        let granted = granted(&Grant { id: "ID", endpoint: Some("db1:5432"), attempts: 2 });
        insta::assert_snapshot!(String::from_utf8(granted).unwrap().replace('\r', ""), @r#"
        HTTP/1.1 200 Connection established
        Proxy-Status: nuncio; next-hop="db1:5432"
        Nuncio-Connection: ID
        Nuncio-Endpoint: db1:5432
        Nuncio-Attempts: 2
        "#);
        let failure =
            Failure::upstream(Stage::Connect, Reason::ConnectionRefused, "db1:5432 said \"n\u{f6}\"\r\nX: y");
        insta::assert_snapshot!(refusal(&Request::default(), &failure).replace('\r', ""), @r#"
        HTTP/1.1 502 Bad Gateway
        Proxy-Status: nuncio; error=connection_refused; details="connection_refused: db1:5432 said \"n?\"??X: y; is the server running, and does it listen on this address and port?"; next-hop="db1:5432"
        Nuncio-Connection: ID
        Nuncio-Endpoint: db1:5432
        Nuncio-Attempts: 1
        Content-Type: text/plain; charset=utf-8
        Content-Length: 141
        Connection: close

        db1:5432 said "nö"
        X: y
        is the server running, and does it listen on this address and port?
        (connection_refused at connect, connection ID)
        "#);
    }

    /// Nothing that a server or a client chose the words of can add a header, or end the head.
    #[test]
    fn every_reason_has_an_answer_of_one_head_and_one_body() {
        for reason in Reason::ALL {
            let failure = Failure::upstream(Stage::Connect, *reason, "\r\n\r\nHTTP/1.1 200 OK\r\n");
            let answer = refusal(&Request::default(), &failure);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("error={};", reason.registered())), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert_eq!(head.lines().count(), 8, "{head}");
        }
    }
}
