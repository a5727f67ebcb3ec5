//! What can be asked, and the answers. No I/O: a request in, a response out.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::Face;
use super::guard::{self, Denied, MayWrite, Reached};
use super::orders;
use super::token::Wrong;
use crate::addr::ClientAddr;
use crate::drain::Watch;
use crate::metrics;
use crate::record::ConnectionView;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Connections in one answer, unless the query says otherwise.
const LIMIT: usize = 1000;

/// Every path, and what it is for: the index page, and what a wrong path is told.
const PATHS: &str = "\
/healthz                      the process lives
/readyz                       it can serve connections, or every reason why not
/metrics                      for Prometheus
/api/v1/status                what is running
/api/v1/listeners             listeners, whether they are open, and how their connections are divided
/api/v1/upstreams             upstreams, endpoints, health and circuits
/api/v1/users                 what each local user did, where listeners meter them
/api/v1/connections           open connections; ?upstream= ?listener= ?limit=
/api/v1/connections/{id}      one connection, open or lately ended
/api/v1/connections/by-client/{ip}:{port}  what became of the connection from there

Orders, through the Unix socket, or over TCP with the token (Authorization: Bearer TOKEN):
POST /api/v1/upstreams/{name}/endpoints/{address}/{order}
      drain (no new connections), undrain; open, close (its circuit is held so), auto (by its rules again)
PUT /api/v1/listeners/{name}/split
      [{\"upstream\": \"stable\", \"weight\": 90}, {\"upstream\": \"canary\", \"weight\": 10}]
DELETE /api/v1/listeners/{name}/split
      as the file says again: what was set by hand or rolled back begins once more
";

/// The site.
pub(super) struct Site {
    face: Arc<dyn Face>,
    drain: Watch,
    wrong: Mutex<Wrong>,
}

type Answer = Response<Full<Bytes>>;
pub(super) type Refusal = (StatusCode, String);

/// A page of connections.
#[derive(Serialize)]
struct Connections<'a> {
    /// How many fit the query.
    total: usize,
    /// The newest of them.
    connections: Vec<&'a ConnectionView>,
}

impl Site {
    pub(super) fn new(face: Arc<dyn Face>, drain: Watch) -> Site {
        Site { face, drain, wrong: Mutex::default() }
    }

    /// Answers any request.
    pub(super) fn answer(&self, request: &Request<Option<Bytes>>, reached: Reached) -> Answer {
        let answer = guard::check(request.uri(), request.headers(), reached)
            .and_then(|()| self.page(request, reached));
        answer.unwrap_or_else(|(status, words)| respond(status, TEXT, format!("{words}\n")))
    }

    fn page(&self, request: &Request<Option<Bytes>>, reached: Reached) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        if let Some(ordered) = orders::read(path) {
            if *request.method() != Method::POST {
                return Ok(wrong_method("POST", "this is an order: POST\n"));
            }
            let may = match self.may_write(request.headers(), reached) {
                Ok(may) => may,
                Err(denied) => return Ok(*denied),
            };
            let now_are = orders::carry_out(&ordered?, &may, &*self.face)?;
            return Ok(json(&now_are, false));
        }
        if let Some(listener) = orders::split_of(path) {
            if !matches!(*request.method(), Method::PUT | Method::DELETE) {
                let words =
                    "a split is set by PUT, and the file's again by DELETE; GET /api/v1/listeners shows it\n";
                return Ok(wrong_method("PUT, DELETE", words));
            }
            let may = match self.may_write(request.headers(), reached) {
                Ok(may) => may,
                Err(denied) => return Ok(*denied),
            };
            if *request.method() == Method::DELETE {
                return Ok(json(&orders::divide(&listener?, None, &may, &*self.face)?, false));
            }
            let too_much =
                || (StatusCode::PAYLOAD_TOO_LARGE, "a split is shorter, and comes at once".to_owned());
            let body = request.body().as_ref().ok_or_else(too_much)?;
            return Ok(json(&orders::divide(&listener?, Some(body), &may, &*self.face)?, false));
        }
        let id = path.strip_prefix("/api/v1/connections/").filter(|id| !id.is_empty());
        let known = matches!(
            path,
            "/" | "/healthz"
                | "/readyz"
                | "/metrics"
                | "/api/v1/status"
                | "/api/v1/listeners"
                | "/api/v1/upstreams"
                | "/api/v1/users"
                | "/api/v1/connections"
        );
        if !known && id.is_none() {
            return Err((StatusCode::NOT_FOUND, format!("there is no such page. There are:\n{PATHS}")));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(wrong_method("GET, HEAD", "this page is for reading: GET or HEAD\n"));
        }
        let query = Query::read(request.uri().query().unwrap_or_default())
            .map_err(|words| (StatusCode::BAD_REQUEST, words))?;
        if let Some(client) = id.and_then(|id| id.strip_prefix("by-client/")) {
            let found = self.by_client(client)?;
            return Ok(json(&found, query.pretty));
        }
        if let Some(id) = id {
            let id = id.parse().map_err(|error| (StatusCode::BAD_REQUEST, error))?;
            let found = self.face.connection(id).ok_or_else(|| {
                let words = format!("no connection {id} is open or among the last that ended");
                (StatusCode::NOT_FOUND, words)
            })?;
            return Ok(json(&found, query.pretty));
        }
        Ok(match path {
            "/healthz" => respond(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let all = self.face.metrics();
                match metrics::wants_openmetrics(accept.unwrap_or_default()) {
                    true => respond(StatusCode::OK, metrics::OPENMETRICS, all),
                    false => respond(StatusCode::OK, metrics::PLAIN, metrics::plain(&all)),
                }
            }
            "/api/v1/status" => json(&self.face.status(), query.pretty),
            "/api/v1/listeners" => json(&self.face.listeners(), query.pretty),
            "/api/v1/upstreams" => json(&self.face.upstreams(), query.pretty),
            "/api/v1/users" => json(&self.face.users(), query.pretty),
            "/api/v1/connections" => {
                let all = self.face.connections();
                let mut fitting: Vec<_> = all.iter().filter(|view| query.fits(view)).collect();
                let total = fitting.len();
                fitting.truncate(query.limit);
                json(&Connections { total, connections: fitting }, query.pretty)
            }
            _ => respond(StatusCode::OK, TEXT, format!("nuncio {}\n\n{PATHS}", env!("CARGO_PKG_VERSION"))),
        })
    }

    /// May it be changed? Else what the client is told.
    fn may_write(&self, headers: &HeaderMap, reached: Reached) -> Result<MayWrite, Box<Answer>> {
        let denied = match guard::may_write(headers, reached, self.face.token().as_deref()) {
            Ok(may) => return Ok(may),
            Err(denied) => denied,
        };
        if denied == Denied::WrongToken {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(times) = wrong.count(Instant::now()) {
                tracing::warn!(times, "an order over TCP came with a wrong token, and was not carried out");
            }
        }
        let (words, mend) = denied.told();
        let Some(challenge) = denied.challenge() else {
            return Err(Box::new(respond(StatusCode::FORBIDDEN, TEXT, format!("{words}: {mend}\n"))));
        };
        let mut answer = json(&serde_json::json!({ "error": words, "mend": mend }), false);
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Err(Box::new(answer))
    }

    /// The newest connection of a client's address, as its own socket has it.
    fn by_client(&self, text: &str) -> Result<ConnectionView, Refusal> {
        let text = decoded(text).map_err(|words| (StatusCode::BAD_REQUEST, words))?;
        let address: SocketAddr = text.parse().map_err(|_| {
            let words =
                format!("'{}' is no IP:PORT, as in 127.0.0.1:40000 or [::1]:40000", text.escape_debug());
            (StatusCode::BAD_REQUEST, words)
        })?;
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.face.connection_of(&ClientAddr::Tcp(address)).ok_or_else(|| {
            let words = format!("no connection of {address} is open or among the last that ended");
            (StatusCode::NOT_FOUND, words)
        })
    }

    fn ready(&self) -> Answer {
        let mut reasons = self.face.ready().err().unwrap_or_default();
        if self.drain.is_draining() {
            reasons.insert(0, "draining: no new connections are taken".into());
        }
        match reasons.is_empty() {
            true => respond(StatusCode::OK, TEXT, "ready\n"),
            false => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n"),
        }
    }
}

/// What the part behind the question mark asks for.
#[derive(Debug, PartialEq)]
struct Query {
    pretty: bool,
    upstream: Option<String>,
    listener: Option<String>,
    limit: usize,
}

impl Query {
    /// An unknown key is refused: a misspelt filter would answer with everything.
    fn read(text: &str) -> Result<Query, String> {
        let mut query = Query { pretty: false, upstream: None, listener: None, limit: LIMIT };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            match key {
                "pretty" => query.pretty = value != "false" && value != "0",
                "upstream" => query.upstream = Some(value),
                "listener" => query.listener = Some(value),
                "limit" => {
                    let number = value.parse();
                    query.limit =
                        number.map_err(|_| format!("limit={} is not a number", value.escape_debug()))?;
                }
                key => {
                    let known = "known are pretty, upstream, listener and limit";
                    return Err(format!("unknown query '{}': {known}", key.escape_debug()));
                }
            }
        }
        Ok(query)
    }

    fn fits(&self, view: &ConnectionView) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        same(&self.upstream, view.upstream.as_deref()) && same(&self.listener, Some(&view.listener))
    }
}

/// A value of a query with its `%XX` and `+` read.
pub(super) fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("'{}' is not a query's value: %XX stands for a byte", text.escape_debug());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
                let (high, low) = digit(0).zip(digit(1)).ok_or_else(wrong)?;
                rest = &behind[2..];
                // Two hexadecimal digits fit a byte.
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn json(value: &impl Serialize, pretty: bool) -> Answer {
    let text = match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    match text {
        Ok(text) => respond(StatusCode::OK, JSON, text + "\n"),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn wrong_method(allowed: &'static str, words: &'static str) -> Answer {
    let mut answer = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, words);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_a_misspelt_one_is_told() {
        let query = Query::read("upstream=a%20b%2Bc&limit=7&pretty&").unwrap();
        assert_eq!((query.upstream.as_deref(), query.limit, query.pretty), (Some("a b+c"), 7, true));
        for (text, says) in [
            ("upsteam=a", "unknown query 'upsteam'"),
            ("limit=many", "not a number"),
            ("listener=%f", "%XX"),
            ("listener=%+1", "%XX"),
            ("listener=%ff", "%XX"),
        ] {
            assert!(Query::read(text).unwrap_err().contains(says), "{text}");
        }
    }
}
