//! Questions to a registry over HTTP: one connection each, what it says bounded in size and in time.
//!
//! Owns the way there (name, TCP, TLS by an identity of its own) and what every registry can get wrong. Leaves HTTP to hyper, and
//! what is asked and what an answer means to `consul` and `kubernetes`.

use std::fmt;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::reading::{Reading, ours};
use super::{Origin, Resolver};
use crate::dial;
use crate::failure::{Failure, Reason, Stage};
use crate::tls::{self, ClientTls, Identity, IdentitySettings};
use crate::upstream::EndpointSpec;

/// The largest answer that is taken, or the largest line of one that does not end.
pub(super) const LARGEST: usize = 16 << 20;
/// The status line and all headers.
const HEAD: usize = 64 * 1024;
/// To a connection, and through TLS: each.
const CONNECT: Duration = Duration::from_secs(3);
/// So much of what a registry says is repeated.
const WORDS: usize = 200;

/// What is asked.
pub(super) struct Question<'a> {
    /// From the first slash on.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// How long the answer may take: all of it, or until it begins, if it is read by lines.
    pub(super) limit: Duration,
    /// How a good answer is read, if not as a whole.
    pub(super) lines: Option<Lines<'a>>,
}

/// A good answer that is read line by line, as it comes.
pub(super) struct Lines<'a> {
    /// It may go on for so long. That is its end then, and a failure if nothing of it has come.
    pub(super) at_most: Duration,
    /// Is given each line; `None`: that was all for now, and at first, the answer begins. May say that it was enough.
    pub(super) each: EachLine<'a>,
}

type EachLine<'a> = &'a mut (dyn FnMut(Option<&[u8]>) -> Result<ControlFlow<()>, Failure> + Send);

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Of an answer that is read by lines, nothing.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// What it says, in a few printable words; of a page, such as a proxy's in between, its text.
    pub(super) fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(4 * WORDS)]);
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { ' ' };
        let is_page = text.trim_start().starts_with('<');
        let mut in_tag = false;
        let words = text.chars().map(|c| {
            in_tag = is_page && c != '>' && (in_tag || c == '<');
            if in_tag || (is_page && c == '>') { ' ' } else { printable(c) }
        });
        let words: String = words.collect();
        let words: Vec<_> = words.split_whitespace().collect();
        words.join(" ").chars().take(WORDS).collect()
    }
}

/// A registry.
pub(super) struct Registry {
    /// As it is called in what is told of it: "Consul".
    name: &'static str,
    origin: Origin,
    /// With https: whom we trust there, and who we are.
    identity: IdentitySettings,
    resolver: Resolver,
    reading: Reading,
    /// Made of the identity's files as they were last read.
    tls: Option<(u64, Arc<ClientTls>)>,
}

impl Registry {
    pub(super) fn new(
        name: &'static str,
        origin: Origin,
        identity: IdentitySettings,
        resolver: &Resolver,
    ) -> Self {
        resolver.prepare(&origin.server.host);
        Registry { name, origin, identity, resolver: resolver.clone(), reading: Reading::new(), tls: None }
    }

    /// What files of this host say that it is asked with, as they are now. `what` is told of them if they cannot be read.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &(dyn fmt::Display + Sync),
        read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.reading.of(what, read).await
    }

    /// Asks, over a connection of its own.
    pub(super) async fn ask(&mut self, question: Question<'_>) -> Result<Answer, Failure> {
        let (name, origin) = (self.name, self.origin.clone());
        let answer = self.reach_and_ask(question).await;
        answer.map_err(|failure| Failure {
            detail: format!("{name} at {origin}: {}", failure.detail).into(),
            ..failure
        })
    }

    async fn reach_and_ask(&mut self, question: Question<'_>) -> Result<Answer, Failure> {
        let server = &self.origin.server;
        let addresses: Vec<_> = (self.resolver.addresses(&server.host).await?.into_iter())
            .map(|ip| (ip, server.port).into())
            .collect();
        let connected = dial::dial_within(&addresses, &dial::Settings::default(), CONNECT).await;
        let (mut stream, at) = connected.map_err(|failure| {
            self.resolver.suspect(&server.host);
            failure.mend("is it running, and does it listen at that address?")
        })?;
        if !self.origin.https {
            return exchange(stream, &self.origin, question).await;
        }
        let tls = self.tls().await?;
        tls.ready(SystemTime::now())?;
        let name = tls.name_for(&EndpointSpec::new(self.origin.server.clone()))?;
        let secured = tls.handshake(&mut stream, at, name, CONNECT).await.map_err(|failure| {
            failure.mend("compare its certificate with `ca`, and with the host that is written; does the port speak TLS?")
        })?;
        let origin = &self.origin;
        let (answer, refusal) =
            secured.carry(&mut stream, &tls, |stream| exchange(stream, origin, question)).await;
        match refusal {
            Some(refusal) if answer.is_err() => Err(refusal),
            Some(_) | None => answer,
        }
    }

    /// The files are read each time: those of Kubernetes are replaced while it runs, and so are certificates.
    async fn tls(&mut self) -> Result<Arc<ClientTls>, Failure> {
        let (settings, known) = (self.identity.clone(), self.tls.clone());
        let read = move || {
            let refuse = |problems: Vec<String>| {
                let problems: Vec<_> = problems.iter().map(|it| it.trim_start_matches(OF_NO_NAME)).collect();
                ours(problems.join("; ")).mend("mend the files that `ca`, `certificate` and `key` name")
            };
            let identity = Identity::load_at("", &settings, SystemTime::now()).map_err(refuse)?;
            match known {
                Some(known) if known.0 == identity.generation => Ok(known),
                Some(_) | None => {
                    let tls = ClientTls::new(&tls::Settings::default(), Some(&identity)).map_err(refuse)?;
                    Ok((identity.generation, Arc::new(tls)))
                }
            }
        };
        let (_, tls) = self.tls.insert(self.reading.of(&"`ca`, `certificate` or `key`", read).await?);
        Ok(tls.clone())
    }
}

/// What stands before the problems of an identity that has no table of its own.
pub(super) const OF_NO_NAME: &str = "identity.: ";

/// For a part of a path or a query: all but letters, digits and `-._~` in percent signs (RFC 3986, 2.3).
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The registry does not do as it should.
pub(super) fn theirs(reason: Reason, detail: impl Into<String>) -> Failure {
    Failure::upstream(Stage::Resolve, reason, detail.into())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    origin: &Origin,
    question: Question<'_>,
) -> Result<Answer, Failure> {
    let Question { path, headers, limit, lines } = question;
    let request = request(origin, &path, headers)?;
    let mut http = http1::Builder::new();
    let handshake = http.max_buf_size(HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    let answered = async {
        let deadline = Instant::now() + limit;
        let response = match tokio::time::timeout_at(deadline, sender.send_request(request)).await {
            Ok(response) => response.map_err(broken)?,
            Err(_) => return Err(late("no answer", limit)),
        };
        let (head, body) = response.into_parts();
        let body = match lines.filter(|_| head.status == StatusCode::OK) {
            Some(lines) => by_line(body, lines).await.map(|()| Vec::new()),
            None => whole(Response::new(body), deadline, limit).await,
        }?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    let (mut answered, connection) = (pin!(answered), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // The connection has ended; whether with an answer or without, the other one knows.
        _ = connection => answered.await,
    }
}

fn request(
    origin: &Origin,
    path: &str,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = HeaderValue::from_str(&origin.server.to_string());
    let (Ok(uri), Ok(host)) = (path.parse(), host) else {
        return Err(ours("what is asked for cannot be written as a URL".to_owned()));
    };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let fixed = HeaderValue::from_static;
    let into = request.headers_mut();
    into.insert(HOST, host);
    into.insert(CONNECTION, fixed("close"));
    into.insert(ACCEPT, fixed("application/json"));
    into.insert(USER_AGENT, fixed(concat!("nuncio/", env!("CARGO_PKG_VERSION"))));
    into.extend(headers);
    Ok(request)
}

async fn whole(response: Response<Incoming>, deadline: Instant, limit: Duration) -> Result<Vec<u8>, Failure> {
    let mut body = response.into_body();
    let mut read = Vec::new();
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(None) => return Ok(read),
            Ok(Some(frame)) => frame.map_err(broken)?,
            Err(_) => return Err(late("the answer did not end", limit)),
        };
        let Some(data) = frame.data_ref() else { continue };
        if read.len() + data.len() > LARGEST {
            return Err(too_large());
        }
        read.extend_from_slice(data);
    }
}

/// Until the answer ends, or has gone on for long enough.
async fn by_line(mut body: Incoming, Lines { at_most, each }: Lines<'_>) -> Result<(), Failure> {
    let end = Instant::now() + at_most;
    if each(None)?.is_break() {
        return Ok(());
    }
    let mut begun: Vec<u8> = Vec::new();
    let mut spoke = false;
    loop {
        let frame = match tokio::time::timeout_at(end, body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame.map_err(broken)?,
            Err(_) if spoke => return Ok(()),
            Err(_) => return Err(late("nothing more of the answer came", at_most)),
        };
        spoke = true;
        let Some(mut data) = frame.data_ref().map(Bytes::as_ref) else { continue };
        let whole_lines = data.contains(&b'\n');
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            if begun.len() + end > LARGEST {
                return Err(too_large());
            }
            begun.extend_from_slice(&data[..end]);
            if each(Some(&begun))?.is_break() {
                return Ok(());
            }
            begun.clear();
            data = &data[end + 1..];
        }
        if whole_lines && each(None)?.is_break() {
            return Ok(());
        }
        if begun.len() + data.len() > LARGEST {
            return Err(too_large());
        }
        begun.extend_from_slice(data);
    }
}

fn broken(error: hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() {
        return theirs(
            Reason::DestinationUnavailable,
            format!("what answers there is not HTTP/1.1 ({error})"),
        )
        .mend("is it the right port? If it speaks TLS, write https://");
    }
    theirs(Reason::ConnectionTerminated, format!("it hung up ({error})"))
}

fn late(what: &str, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    theirs(Reason::ConnectionTimeout, format!("{what} within {limit}"))
        .mend("see in its log what it waits for")
}

fn too_large() -> Failure {
    let largest = LARGEST >> 20;
    theirs(Reason::DestinationUnavailable, format!("its answer is larger than {largest} MiB"))
        .mend("is that the service that was meant? One of so many instances is better split")
}

#[cfg(test)]
mod tests;
