//! The part of a Kubernetes API server that serves EndpointSlices. NOT a real one: no registry has a kube-apiserver to install.
//! (One built from Debian's sources of 1.20, which has the slices as v1beta1, so that a proxy renamed the path, was followed by hand:
//! refused rights, watch, resume after a restart, a new list after a compaction, 250 slices in pages.)
//!
//! Written from the API's documentation (API concepts: lists in pages, watch, bookmarks, 410 Gone; EndpointSlice v1; bearer
//! tokens), over TLS.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::peer::Peer;
use super::pki::Pki;
use super::upstream::handshake;

/// The API server.
pub struct Kubernetes {
    peer: Option<Peer>,
    address: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    state: Arc<Mutex<State>>,
}

/// A slice's name, and what it is.
type Slices = BTreeMap<String, Value>;

struct State {
    token: String,
    version: u64,
    slices: Slices,
    /// What has happened, by version. What is older than the first is forgotten.
    events: Vec<(u64, Value)>,
    watches: Vec<Sender<Value>>,
    requests: Vec<String>,
    broken: bool,
}

impl Kubernetes {
    /// Starts it without a slice; whoever asks needs the token.
    pub fn start(pki: &Pki, token: &str) -> Kubernetes {
        let state = State {
            token: token.to_owned(),
            version: 100,
            slices: Slices::new(),
            events: Vec::new(),
            watches: Vec::new(),
            requests: Vec::new(),
            broken: false,
        };
        let config = pki.server_config_for_anyone();
        let state = Arc::new(Mutex::new(state));
        let mut server =
            Kubernetes { peer: None, address: (std::net::Ipv4Addr::LOCALHOST, 0).into(), config, state };
        server.restart();
        server
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Starts it again where it was; it remembers everything.
    pub fn restart(&mut self) {
        let (config, state) = (self.config.clone(), self.state.clone());
        let peer = Peer::start_at(self.address, move |stream| {
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out can be set");
            if let Some(tls) = handshake(&config, stream) {
                // An error: whoever asked has left.
                serve(tls, &state).ok();
            }
        });
        self.address = peer.address();
        self.peer = Some(peer);
    }

    /// As `kill -9` would.
    pub fn kill(&mut self) {
        self.peer = None;
        self.state().watches.clear();
    }

    /// A slice of the Service `db` in the namespace `prod`, with one port `postgres`, is these pods from now on.
    pub fn put(&self, name: &str, port: u16, endpoints: Value) {
        let mut state = self.state();
        state.version += 1;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "prod", "resourceVersion": state.version.to_string(),
                "labels": { "kubernetes.io/service-name": "db" },
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "postgres", "port": port, "protocol": "TCP" }],
        });
        let kind =
            if state.slices.insert(name.to_owned(), slice.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(json!({ "type": kind, "object": slice }));
    }

    /// It is gone.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let Some(mut slice) = state.slices.remove(name) else { panic!("there is no slice {name}") };
        slice["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.tell(json!({ "type": "DELETED", "object": slice }));
    }

    /// What has happened so far is forgotten, as after a compaction: whoever resumes has to list anew.
    pub fn forget(&self) {
        let mut state = self.state();
        state.version += 1;
        state.events.clear();
    }

    /// Ends all watches, as it does by itself after a while.
    pub fn end_watches(&self) {
        self.state().watches.clear();
    }

    /// From now on it takes this token only.
    pub fn takes_only(&self, token: &str) {
        self.state().token = token.to_owned();
    }

    /// Whether it answers everything with 500.
    pub fn breaks(&self, broken: bool) {
        self.state().broken = broken;
    }

    /// The paths that were asked for so far, with their queries.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no connection panicked here")
    }
}

impl State {
    fn tell(&mut self, event: Value) {
        self.events.push((self.version, event.clone()));
        self.watches.retain(|watch| watch.send(event.clone()).is_ok());
    }
}

/// What an answer is made of: whole, or first some events and then those to come.
enum Reply {
    Whole(&'static str, Value),
    Watch(Vec<Value>, Receiver<Value>),
}

fn serve(mut stream: impl Read + Write, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let authorized = |token: &str| {
        head.lines().any(|line| line.eq_ignore_ascii_case(&format!("authorization: Bearer {token}")))
    };
    let reply = {
        let mut state = state.lock().expect("no connection panicked here");
        let authorized = authorized(&state.token);
        state.requests.push(path.clone());
        reply(&mut state, &path, authorized)
    };
    match reply {
        Reply::Whole(status, body) => {
            let body = body.to_string();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )?;
            stream.flush()
        }
        Reply::Watch(first, then) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )?;
            stream.flush()?;
            for event in first.into_iter().chain(then) {
                let line = format!("{event}\n");
                // In two pieces: a line is not a chunk.
                let (front, back) = line.split_at(line.len() / 2);
                for piece in [front, back] {
                    write!(stream, "{:x}\r\n{piece}\r\n", piece.len())?;
                    stream.flush()?;
                }
            }
            write!(stream, "0\r\n\r\n")?;
            stream.flush()
        }
    }
}

fn reply(state: &mut State, path: &str, authorized: bool) -> Reply {
    let status = |code: u16, message: &str| json!({ "kind": "Status", "status": "Failure", "code": code, "message": message });
    if state.broken {
        return Reply::Whole("500 Internal Server Error", status(500, "etcdserver: no leader"));
    }
    if !authorized {
        return Reply::Whole("401 Unauthorized", status(401, "Unauthorized"));
    }
    let (place, query) = path.split_once('?').unwrap_or((path, ""));
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    if place != "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
        || value("labelSelector") != Some("kubernetes.io%2Fservice-name%3Ddb")
    {
        return Reply::Whole(
            "404 Not Found",
            status(404, "the server could not find the requested resource"),
        );
    }
    if value("watch").is_none() {
        return list(state, value("continue"));
    }
    let since: u64 = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
    let oldest = state.events.first().map_or(state.version, |(version, _)| version - 1);
    if since < oldest {
        let gone = json!({ "type": "ERROR", "object": status(410, "too old resource version") });
        return Reply::Watch(vec![gone], channel().1);
    }
    let mut first: Vec<_> =
        state.events.iter().filter(|(version, _)| *version > since).map(|(_, event)| event.clone()).collect();
    let bookmark =
        json!({ "kind": "EndpointSlice", "metadata": { "resourceVersion": state.version.to_string() } });
    first.push(json!({ "type": "BOOKMARK", "object": bookmark }));
    let (tell, then) = channel();
    state.watches.push(tell);
    Reply::Watch(first, then)
}

/// One slice a page, so that there are several.
fn list(state: &State, next: Option<&str>) -> Reply {
    let at: usize = next.and_then(|next| next.parse().ok()).unwrap_or_default();
    let items: Vec<_> = state.slices.values().skip(at).take(1).collect();
    let more = if at + 1 < state.slices.len() { (at + 1).to_string() } else { String::new() };
    Reply::Whole(
        "200 OK",
        json!({
            "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
            "metadata": { "resourceVersion": state.version.to_string(), "continue": more }, "items": items,
        }),
    )
}
