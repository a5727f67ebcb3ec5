//! http: a question over HTTP, for what a connection cannot show: which server is the primary, what an agent's script says.
//!
//! Owns the URL with its places to fill in, and the one request. Leaves the connection and its TLS to `establish`, and
//! HTTP itself to hyper.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::http::uri::{Parts, Scheme};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::addr::{EndpointAddr, Host};
use crate::failure::{Failure, Reason, Side, Stage};

/// The status line and all headers fit into this, or there is no answer. hyper takes a hundred of them.
const HEAD: usize = 16 * 1024;
/// So much of the answer's body is read, and for so long: a server should not find its connection reset. What it says is
/// not looked at.
const BODY: (usize, Duration) = (64 * 1024, Duration::from_millis(200));

/// What is asked of each endpoint: a URL in which `{host}` and `{port}` stand for the endpoint's. A query may hold a token,
/// and who writes a user into it a password: neither is shown anywhere, nor in what is said of a URL that is none.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: Box<str>,
}

impl Url {
    /// Reads it as it is written in the file.
    ///
    /// # Errors
    /// What is wrong with it and, behind a colon, what to write.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (Some(scheme), rest) = parts(text) else {
            let text = shown(text);
            return Err(format!("'{text}' has no scheme: write https://{text} or http://{text}"));
        };
        if !["http", "https"].contains(&scheme) {
            let rest = shown(rest);
            return Err(format!("'{scheme}' cannot be asked: write https://{rest} or http://{rest}"));
        }
        if let Some(unknown) = unknown_place(rest) {
            return Err(format!("{unknown} is not known here: write {{host}} or {{port}}"));
        }
        let url = Url { text: text.into() };
        // With a name and with an address, so that no endpoint can make it a bad one later.
        for endpoint in ["host:1", "[::1]:1"] {
            url.of(&endpoint.parse()?)?;
        }
        Ok(url)
    }

    /// Is it asked over TLS?
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// The question for an endpoint.
    ///
    /// # Errors
    /// What keeps it from being one; nothing, where [`Url::parse`] took it.
    pub fn of(&self, endpoint: &EndpointAddr) -> Result<Question, String> {
        let (front, rest) = self.text.split_at(authority_end(&self.text));
        let host = endpoint.host.to_string();
        let in_authority = match endpoint.host {
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
            Host::Ip(IpAddr::V4(_)) | Host::Name(_) => host.clone(),
        };
        let text = front.replace("{host}", &in_authority) + &rest.replace("{host}", &host);
        Question::new(&text.replace("{port}", &endpoint.port.to_string()))
    }
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Url").field(&shown(&self.text)).finish()
    }
}

/// A URL's scheme, where it has one, and what stands behind it.
fn parts(text: &str) -> (Option<&str>, &str) {
    match text.split_once("://") {
        // Another address may stand in the query of one without a scheme.
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => (Some(scheme), rest),
        _ => (None, text),
    }
}

/// What may be told of a text that may be no URL: nothing of its query, and with an @ only its scheme, since there is no
/// telling where a password that has no place in a URL begins and ends.
fn shown(text: &str) -> String {
    let (scheme, rest) = parts(text);
    let scheme = scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default();
    match rest.split_once('?') {
        _ if rest.contains('@') => scheme + "…",
        Some((front, _)) => scheme + front + "?…",
        None => scheme + rest,
    }
}

/// Where the path begins.
fn authority_end(text: &str) -> usize {
    text.match_indices(['/', '?']).nth(2).map_or(text.len(), |(at, _)| at)
}

/// The first `{…}` that stands for nothing, or a brace without its other half; of a query only that one is there.
fn unknown_place(text: &str) -> Option<String> {
    let bare = text.replace("{host}", "").replace("{port}", "");
    let from = bare.find(['{', '}'])?;
    let to = bare[from..].find('}').map_or(bare.len(), |length| from + length + 1);
    match bare[..to].contains('?') || bare.contains('@') {
        true => Some("a brace that stands for something else".to_owned()),
        false => Some(format!("'{}'", &bare[from..to])),
    }
}

/// One URL, whole.
#[derive(Clone)]
pub struct Question {
    uri: Uri,
    server: EndpointAddr,
}

impl Question {
    fn new(text: &str) -> Result<Question, String> {
        // A path may be filled from a variable too, and what is wrong may be in it.
        let told = shown(text);
        let told = &told[..authority_end(&told)];
        let uri: Uri = text.parse().map_err(|error| format!("'{told}' is not a URL ({error})"))?;
        let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else {
            return Err(format!("'{told}' names no host"));
        };
        if authority.as_str().contains('@') {
            return Err("a user or a password in it is not sent: write the URL without".to_owned());
        }
        // Whatever stands behind the host counts: hyper's own reading takes a port of 99999 for none.
        let server = match authority.as_str() == host {
            true => format!("{host}:{}", if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 }),
            false => authority.to_string(),
        };
        // A password with a slash in it looks like a port.
        let server = server.parse().map_err(|error| match text.contains('@') {
            true => format!("'{told}' names no host and port: write the URL without a user and a password"),
            false => error,
        })?;
        Ok(Question { server, uri })
    }

    /// Who is asked.
    pub fn server(&self) -> &EndpointAddr {
        &self.server
    }

    /// Asks over a connection to its server. Any 2xx is a yes; a redirect is none, and is not followed. The caller bounds
    /// the time.
    ///
    /// # Errors
    /// Another answer, or none.
    pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<(), Failure> {
        let status = self.exchange(stream).await.map_err(|error| self.unanswered(&error))?;
        if status.is_success() {
            return Ok(());
        }
        let (said, mend) = match status.is_redirection() {
            true => (", and a redirect is not followed", "write the address that it leads to as health.url"),
            false => {
                ("", "nothing, if that is its way to say no, as a replica's; else ask it by hand, with curl")
            }
        };
        Err(no(Reason::DestinationUnavailable, format!("{self} answered {status}{said}")).mend(mend))
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> hyper::Result<StatusCode> {
        let mut http = http1::Builder::new();
        let (mut sender, connection) = http.max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
        let answered = async {
            let response = sender.send_request(self.request()).await?;
            let status = response.status();
            read_away(response.into_body()).await;
            Ok(status)
        };
        let (mut answered, connection) = (pin!(answered), pin!(connection));
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            // The connection has ended; whether with an answer or without, the other one knows.
            _ = connection => answered.await,
        }
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        // The path alone goes into the request line, as servers expect it.
        let mut parts = Parts::default();
        parts.path_and_query = self.uri.path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        let fixed = |text| hyper::header::HeaderValue::from_static(text);
        let headers = request.headers_mut();
        if let Some(Ok(host)) = self.uri.authority().map(|host| host.as_str().try_into()) {
            headers.insert(HOST, host);
        }
        headers.insert(CONNECTION, fixed("close"));
        headers.insert(USER_AGENT, fixed(concat!("nuncio/", env!("CARGO_PKG_VERSION"))));
        request
    }

    fn unanswered(&self, error: &hyper::Error) -> Failure {
        if error.is_parse_too_large() {
            let failed =
                format!("{self}: the answer's headers are more than 100 or larger than {} KiB", HEAD / 1024);
            return no(Reason::DestinationUnavailable, failed).mend("is that the URL that was meant?");
        }
        if error.is_parse() {
            let failed = format!("{self}: the answer is not HTTP/1.1 ({error})");
            let mend = "does the port in health.url speak HTTP? If it speaks TLS, write https://";
            return no(Reason::DestinationUnavailable, failed).mend(mend);
        }
        no(Reason::EarlyClose, format!("{self}: the server hung up without an answer ({error})"))
    }

    /// For a failure of the way there: it says what was asked.
    pub fn explain(&self, failure: Failure) -> Failure {
        let detail = format!("{self}: {}", failure.detail).into();
        let mend = match (failure.stage, failure.reason) {
            // What is said about connections would send the reader to keys that do not count here.
            (Stage::Handshake, Reason::TlsCertificateError) => Some(
                "compare the certificate of the server in health.url with `ca` of the upstream's identity, and with \
                 the host that the URL names"
                    .into(),
            ),
            (Stage::Handshake, Reason::TlsProtocolError) => {
                Some("does the port in health.url speak TLS? If not, write http://".into())
            }
            _ => failure.mend,
        };
        Failure { detail, mend, ..failure }
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Question({self})")
    }
}

/// `GET https://db1:8008/primary`; of a query only that there is one, since it may hold a token.
impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, path) = (self.uri.scheme_str().unwrap_or_default(), self.uri.path());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let query = if self.uri.query().is_some() { "?…" } else { "" };
        write!(f, "GET {scheme}://{authority}{path}{query}")
    }
}

fn no(reason: Reason, detail: String) -> Failure {
    Failure::new(Stage::Relay, reason, Side::Upstream, detail)
}

async fn read_away(body: Incoming) {
    let (limit, time) = BODY;
    // Too long, too slow or broken: the status has been said.
    tokio::time::timeout(time, Limited::new(body, limit).collect()).await.ok();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn question(url: &str) -> Question {
        Url::parse(url).unwrap().of(&"db1:5432".parse().unwrap()).unwrap()
    }

    /// Asks a server that answers so, and then does as `end` says; gives what it was sent as well.
    async fn asked<F: Future>(
        answer: &str,
        end: impl FnOnce(DuplexStream) -> F,
    ) -> (String, Result<(), Failure>) {
        let (near, mut far) = duplex(1 << 20);
        let question = question("http://{host}:8008/primary?lag=1MB");
        let serve = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(far.read_u8().await.unwrap());
            }
            far.write_all(answer.as_bytes()).await.unwrap();
            end(far).await;
            String::from_utf8(request).unwrap()
        };
        let (request, result) = tokio::join!(serve, question.ask(near));
        (request, result)
    }

    /// What is said of an answer, after which the server hangs up.
    async fn says(answer: &str) -> Result<(), String> {
        let (_, result) = asked(answer, async |far| drop(far)).await;
        result.map_err(|failure| {
            assert_eq!((failure.stage, failure.side), (Stage::Relay, Side::Upstream));
            assert!(failure.mend.is_some() || failure.reason == Reason::EarlyClose);
            failure.detail.into()
        })
    }

    #[tokio::test]
    async fn any_2xx_is_a_yes_and_any_other_status_a_no_that_names_it() {
        for yes in ["HTTP/1.1 200 OK", "HTTP/1.0 200 Fine", "HTTP/1.1 204 No Content"] {
            assert_eq!(says(&format!("{yes}\r\n\r\n")).await, Ok(()), "{yes}");
        }
        for (no, status) in [
            ("HTTP/1.0 503 nobody knows what is said here", "503 Service Unavailable"),
            ("HTTP/1.1 404 Not Found", "404 Not Found"),
            ("HTTP/1.1 401 Unauthorized", "401 Unauthorized"),
        ] {
            let told = says(&format!("{no}\r\nContent-Length: 2\r\n\r\n{{}}")).await.unwrap_err();
            assert_eq!(told, format!("GET http://db1:8008/primary?… answered {status}"));
        }
    }

    /// The agent may have moved, or somebody may want to be asked in its place: neither says that the endpoint is well.
    #[tokio::test]
    async fn a_redirect_is_told_and_not_followed() {
        let told = says("HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n").await.unwrap_err();
        assert_eq!(told, "GET http://db1:8008/primary?… answered 302 Found, and a redirect is not followed");
    }

    #[tokio::test]
    async fn the_request_is_plain_http_1_1_for_one_answer() {
        let (request, result) = asked("HTTP/1.1 200 OK\r\n\r\n", async |far| drop(far)).await;
        assert_eq!(result, Ok(()));
        let request = request.to_ascii_lowercase();
        assert!(request.starts_with("get /primary?lag=1mb http/1.1\r\n"), "{request}");
        for header in ["host: db1:8008\r\n", "connection: close\r\n", "user-agent: nuncio/"] {
            assert!(request.contains(header), "{request}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_is_told_so() {
        for garbage in
            ["220 mail.example ESMTP\r\n\r\n", "\u{16}\u{3}\u{3}\0\u{2}\u{2}F", "HTTP/1.1 OK\r\n\r\n"]
        {
            let told = says(garbage).await.unwrap_err();
            assert!(told.contains("the answer is not HTTP/1.1 ("), "{told}");
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_has_not_answered() {
        for part in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let told = says(part).await.unwrap_err();
            assert!(told.contains("the server hung up without an answer"), "{told}");
        }
    }

    /// One that sends headers for ever is cut off by their size, not by the time it takes.
    #[tokio::test]
    async fn headers_without_an_end_are_no_answer() {
        let endless = async |mut far: DuplexStream| {
            while far.write_all(b"X: xxxxxxxxxxxxxxxxxxxxx\r\n").await.is_ok() {}
        };
        let (_, result) = asked("HTTP/1.1 200 OK\r\n", endless).await;
        let failure = result.unwrap_err();
        assert!(failure.detail.contains("headers are more than 100 or larger"), "{failure}");
    }

    /// The status has been said: neither a body that goes on for ever nor one that stops halfway changes it.
    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_only_so_far_and_only_so_long() {
        let endless = async |mut far: DuplexStream| while far.write_all(&[b'x'; 4096]).await.is_ok() {};
        let (_, result) = asked("HTTP/1.1 200 OK\r\n\r\n", endless).await;
        assert_eq!(result, Ok(()));
        let stops = async |mut far: DuplexStream| far.read_to_end(&mut Vec::new()).await.unwrap();
        let (_, result) = asked("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", stops).await;
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn places_are_filled_in_where_they_stand() {
        for (url, endpoint, asked, server) in [
            ("https://{host}:8008/primary", "db1:5432", "https://db1:8008/primary", "db1:8008"),
            ("https://{host}/", "db1:5432", "https://db1/", "db1:443"),
            ("http://{host}", "10.0.0.5:1", "http://10.0.0.5/", "10.0.0.5:80"),
            ("http://{host}:{port}/x", "[fd00::5]:81", "http://[fd00::5]:81/x", "[fd00::5]:81"),
            (
                "http://127.0.0.1:9/{host}/{port}",
                "[fd00::5]:81",
                "http://127.0.0.1:9/fd00::5/81",
                "127.0.0.1:9",
            ),
            ("http://agent:9?of={host}", "db1:5432", "http://agent:9/?…", "agent:9"),
        ] {
            let question = Url::parse(url).unwrap().of(&endpoint.parse().unwrap()).unwrap();
            assert_eq!(question.to_string(), format!("GET {asked}"));
            assert_eq!(question.server().to_string(), server);
        }
    }

    /// A token or a password that a variable brought in must not be read back in a log, whatever it looks like.
    #[test]
    fn no_secret_is_told_of_a_url_that_is_none() {
        for url in [
            "https://{host}:8008/primary?token=se cret",
            "https://{host}:8008/primary?token=secret\n",
            "https://{host}:8008/primary?token={secret}",
            "https://{host}:8008/{?secret}",
            "https://{host}:99999/primary?secret",
            "https://?secret /",
            "{host}:8008/primary?token=secret",
            "{host}:8008/primary?token=secret&next=http://db1",
            "ftp://{host}:8008/primary?token=secret",
            "https://user:secret@{host}:x/",
            "https://user:secret@{host}",
            "https://user:se cret@{host}/",
            "https://user:secr/et@{host}/",
            "https://user:secr?et@{host}/ ",
            "https://user:{secret}@{host}/",
            "https://user@{host}/{}?secret",
            "user:secret@{host}:x",
            "secret@{host}?next=http://db1/",
            "ftp://user:secret@{host}/?a",
            "https://{host}/secret /",
        ] {
            let told = Url::parse(url).unwrap_err();
            let leaks = ["se c", "secr", "cret", "et "].iter().any(|part| told.contains(part));
            assert!(!leaks, "{url:?}: {told}");
        }
        let told = Url::parse("https://{host}:8008/primary?token=a b").unwrap_err();
        assert!(told.starts_with("'https://host:8008' is not a URL (invalid uri character"), "{told}");
        let url = Url::parse("https://{host}:8008/primary?token=secret").unwrap();
        assert_eq!(format!("{url:?}"), r#"Url("https://{host}:8008/primary?…")"#);
        let question = url.of(&"db1:1".parse().unwrap()).unwrap();
        assert_eq!(format!("{question:?}"), "Question(GET https://db1:8008/primary?…)");
    }
}
