//! An upstream that is a Service of Kubernetes. The API server is not a real one: see harness/kubernetes.rs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::ambassador::Ambassador;
use super::harness::kubernetes::Kubernetes;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// An API server, its token's file, and two servers for one port: a slice has but one.
struct Cluster {
    pki: Pki,
    api: Kubernetes,
    token: PathBuf,
    servers: Vec<Upstream>,
    _directory: TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let pki = Pki::generate();
        let api = Kubernetes::start(&pki, "first");
        let directory = TempDir::new().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "first\n").unwrap();
        let servers = (0..3).map(|_| Upstream::start(&pki)).collect();
        Cluster { pki, api, token, servers, _directory: directory }
    }

    /// One slice a server, each with its own port.
    fn put(&self, server: usize, conditions: Value) {
        let address = self.servers[server].address();
        let pod = json!([{ "addresses": [address.ip()], "conditions": conditions, "zone": "a",
            "targetRef": { "kind": "Pod", "uid": format!("pod-{server}") } }]);
        self.api.put(&format!("db-{server}"), address.port(), pod);
    }

    fn follows(&self) -> Ambassador {
        let (url, ca, token) = (self.api.url(), self.pki.ca(), &self.token);
        Ambassador::start(&config::mtls(
            &self.pki,
            &format!(
                "kubernetes = {{ service = \"db\", namespace = \"prod\", port = \"postgres\", api = \"{url}\", \
                 ca = {ca:?}, token_file = {token:?} }}\n[upstream.up.health]\nkind = \"off\"\n"
            ),
        ))
    }

    /// Waits until the set is these servers, and no other; how long that took.
    #[track_caller]
    fn set_is(&self, ambassador: &Ambassador, servers: &[usize]) -> Duration {
        let begun = Instant::now();
        let mut wanted: Vec<_> = servers.iter().map(|at| self.servers[*at].address().to_string()).collect();
        wanted.sort();
        ambassador.wait_state("/api/v1/upstreams", &format!("the set is {wanted:?}"), |upstreams| {
            let endpoints = upstreams[0]["endpoints"].as_array()?;
            let mut now: Vec<_> =
                endpoints.iter().filter_map(|it| Some(it["address"].as_str()?.to_owned())).collect();
            now.sort();
            (now == wanted).then_some(())
        });
        begun.elapsed()
    }

    /// Waits until its source fails with these words; `None`: until it answers.
    #[track_caller]
    fn source_says(&self, ambassador: &Ambassador, words: Option<&str>) {
        ambassador.wait_state("/api/v1/upstreams", &format!("its source says {words:?}"), |upstreams| {
            let error = upstreams[0]["source"]["last_error"].as_str();
            match words {
                Some(words) => error?.contains(words).then_some(()),
                None => error.is_none().then_some(()),
            }
        });
    }

    fn asked(&self, part: &str) -> usize {
        self.api.requests().iter().filter(|path| path.contains(part)).count()
    }
}

fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

/// Pods come, get ready, end and go: the set follows by one watch, without listing again.
#[test]
fn the_set_follows_the_slices_by_a_watch_and_open_connections_stay() {
    let cluster = Cluster::start();
    cluster.put(0, ready());
    cluster.put(1, ready());
    cluster.put(2, json!({ "ready": false }));
    let ambassador = cluster.follows();
    cluster.set_is(&ambassador, &[0, 1]);
    let mut held = clients::connect(ambassador.listener("in"));
    clients::echoes(&mut held, b"before").unwrap();
    let within_a_second = |what: &str, took: Duration| {
        println!("{what}: the set had changed after {took:.1?}");
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    };
    // Its first watch has begun by the time that the first connection was made, or will tell what was missed.
    cluster.put(2, ready());
    cluster.set_is(&ambassador, &[0, 1, 2]);
    cluster.put(0, json!({ "ready": false, "serving": true, "terminating": true }));
    within_a_second("ending", cluster.set_is(&ambassador, &[1, 2]));
    cluster.api.delete("db-0");
    cluster.api.delete("db-1");
    within_a_second("gone", cluster.set_is(&ambassador, &[2]));
    clients::echoes(&mut held, b"after").unwrap();
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    // Three pages of one slice each, once.
    assert_eq!((cluster.asked("limit="), cluster.asked("watch=true")), (3, 1));
}

/// A watch that ends is taken up where it ended; one that is too old begins with a new list. Neither loses a change.
#[test]
fn a_watch_is_resumed_and_where_that_is_too_late_the_slices_are_listed_again() {
    let cluster = Cluster::start();
    cluster.put(0, ready());
    let mut cluster = cluster;
    let ambassador = cluster.follows();
    cluster.set_is(&ambassador, &[0]);
    eventually("it watches", PATIENCE, || (cluster.asked("watch=true") == 1).then_some(()));
    cluster.api.end_watches();
    eventually("it watches again", PATIENCE, || (cluster.asked("watch=true") == 2).then_some(()));
    cluster.put(1, ready());
    cluster.set_is(&ambassador, &[0, 1]);
    assert_eq!(cluster.asked("limit="), 1);

    // Down while something changes, and as if it had been down for long.
    cluster.api.kill();
    cluster.put(2, ready());
    cluster.source_says(&ambassador, Some("Kubernetes at https://127.0.0.1"));
    cluster.set_is(&ambassador, &[0, 1]);
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    cluster.api.delete("db-0");
    cluster.api.forget();
    cluster.api.restart();
    cluster.set_is(&ambassador, &[1, 2]);
    cluster.source_says(&ambassador, None);
    assert!(cluster.asked("limit=") > 1);
}

/// The token is replaced on disk, as kubelet does; errors are told with what would mend them, and the set stays.
#[test]
fn a_new_token_is_taken_from_its_file_and_refusals_are_told() {
    let cluster = Cluster::start();
    cluster.put(0, ready());
    let ambassador = cluster.follows();
    cluster.set_is(&ambassador, &[0]);
    eventually("it watches", PATIENCE, || (cluster.asked("watch=true") == 1).then_some(()));
    cluster.api.takes_only("second");
    cluster.api.end_watches();
    cluster.source_says(&ambassador, Some("401 Unauthorized: Unauthorized"));
    fs::write(&cluster.token, "second\n").unwrap();
    cluster.source_says(&ambassador, None);
    cluster.api.breaks(true);
    cluster.api.end_watches();
    cluster.source_says(&ambassador, Some("500 Internal Server Error: etcdserver: no leader"));
    cluster.set_is(&ambassador, &[0]);
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    cluster.api.breaks(false);
    cluster.put(1, ready());
    cluster.set_is(&ambassador, &[0, 1]);
    assert!(!ambassador.get("/api/v1/upstreams").body.contains("second"), "no token is shown");
}
