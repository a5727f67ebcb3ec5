//! One listener, several upstreams: shares by weight, and a canary whose share grows for as long as it serves as well.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::harness::ambassador::{Ambassador, refused};
use super::harness::clients;
#[cfg(unix)]
use super::harness::http;
use super::harness::peer::Peer;
use super::harness::upstream::{echo, handshake};
use super::harness::{Pki, Upstream};

/// A listener `in` with these keys, in front of two upstreams.
fn config(pki: &Pki, keys: &str, stable: SocketAddr, canary: SocketAddr) -> String {
    let path = |file: &std::path::Path| file.display().to_string();
    let upstream = |name: &str, address: SocketAddr| {
        format!(
            "[upstream.{name}]\nendpoints = [\"{address}\"]\nserver_name = \"upstream.test\"\nidentity = \"test\"\n\
             health.kind = \"off\"\nbreaker.consecutive = \"off\"\nretry.attempts = 1\n"
        )
    };
    format!(
        "[identity.test]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n{}{}\
         [listener.in]\naddress = \"127.0.0.1:0\"\n{keys}",
        path(&pki.ca()),
        path(&pki.client.certificate),
        path(&pki.client.key),
        upstream("stable", stable),
        upstream("canary", canary)
    )
}

/// Asks once; whether there was an answer.
fn asks(ambassador: &Ambassador) -> bool {
    clients::ask(ambassador.listener("in"), b"ping").is_ok_and(|answer| answer == b"ping")
}

fn counted(ambassador: &Ambassador, upstream: &str, outcome: &str) -> f64 {
    ambassador.metric("nuncio_connections_total", &[("upstream", upstream), ("outcome", outcome)])
}

fn rollout(ambassador: &Ambassador) -> serde_json::Value {
    ambassador.get("/api/v1/listeners").json()[0]["rollout"].clone()
}

/// Five in a hundred, more or less.
#[test]
fn connections_are_divided_by_weight() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let split = "split = [{ upstream = \"stable\", weight = 80 }, { upstream = \"canary\", weight = 20 }]\n";
    let ambassador = Ambassador::start(&config(&pki, split, stable.address(), canary.address()));
    assert!((0..400).all(|_| asks(&ambassador)));
    let met = canary.accepted();
    // Of 400 with a chance of 0.2: five standard deviations.
    assert!((40..=120).contains(&met), "{met} of 400");
    assert_eq!(rollout(&ambassador)["state"], "fixed");
    assert_eq!(ambassador.metric("nuncio_split_weight", &[("upstream", "canary")]), 20.0);
}

/// All of one user's clients go one way; a reload that moves the weights moves them.
#[test]
fn one_source_stays_with_one_upstream_until_the_weights_change() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let file = |weights: [u32; 2]| {
        let [of_stable, of_canary] = weights;
        let split = format!(
            "sticky = true\nsplit = [{{ upstream = \"stable\", weight = {of_stable} }}, {{ upstream = \"canary\", weight = {of_canary} }}]\n"
        );
        config(&pki, &split, stable.address(), canary.address())
    };
    let mut ambassador = Ambassador::start(&file([1, 1]));
    assert!((0..20).all(|_| asks(&ambassador)));
    let met = [stable.accepted(), canary.accepted()];
    assert!(met == [20, 0] || met == [0, 20], "{met:?}");
    let weights = if met == [20, 0] { [0, 1] } else { [1, 0] };
    ambassador.reloaded(&file(weights));
    assert!((0..20).all(|_| asks(&ambassador)));
    assert_eq!([stable.accepted(), canary.accepted()], [20, 20]);
}

/// One in five of the canary's connections breaks in its handshake. It is found out while it has half of all, everything goes
/// back, nobody meets it any more, and log, API and metrics say why.
#[test]
fn a_canary_that_fails_one_in_five_is_rolled_back_by_itself() {
    let pki = Pki::generate();
    let stable = Upstream::start(&pki);
    let (config_of_server, number) = (pki.server_config(), AtomicU32::new(0));
    let canary = Peer::start(move |stream| {
        if number.fetch_add(1, Ordering::Relaxed) % 5 != 4
            && let Some(tls) = handshake(&config_of_server, stream)
        {
            echo(tls, std::time::Duration::ZERO);
        }
    });
    let keys = "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n\
                rollout = { canary = \"canary\", steps = [50, 100], pause = \"1h\" }\n";
    let mut ambassador = Ambassador::start(&config(&pki, keys, stable.address(), canary.address()));
    assert_eq!(rollout(&ambassador)["state"], "running");
    let failed = (0..400).filter(|_| !asks(&ambassador)).count();
    let line = ambassador.wait_line("was rolled back");
    let told = rollout(&ambassador);
    println!("{line}\n{told}");
    assert_eq!(told["state"], "rolled_back");
    let why = told["why"].as_str().unwrap();
    assert!(why.contains("connections failed") && line.contains(why), "{why} in {line}");
    assert_eq!(told["split"][0]["weight"], 100);
    assert_eq!(ambassador.metric("nuncio_rollout_state", &[("listener", "in")]), 2.0);
    assert_eq!(ambassador.metric("nuncio_split_weight", &[("upstream", "canary")]), 0.0);

    let met = told["canary_connections"].as_u64().unwrap();
    assert_eq!(counted(&ambassador, "canary", "failed"), failed as f64);
    assert!(met < 100 && failed < 20, "{met} met it, {failed} failed");
    // What is under way when it is decided, is under way.
    assert_eq!(
        counted(&ambassador, "canary", "failed") + counted(&ambassador, "canary", "success"),
        met as f64
    );
    assert_eq!(counted(&ambassador, "stable", "success"), 400.0 - met as f64);
    // A reload that says nothing else of it is no reason to try again.
    let file = std::fs::read_to_string(ambassador.config_file()).unwrap();
    ambassador.reloaded(&file);
    assert_eq!(rollout(&ambassador)["state"], "rolled_back");
}

/// A canary as good as the other gets everything.
#[test]
fn a_good_canary_gets_everything_step_by_step() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let keys = "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n\
                rollout = { canary = \"canary\", steps = [20, 60, 100], pause = \"100ms\", minimum = 10, slower = 1.0 }\n";
    let mut ambassador = Ambassador::start(&config(&pki, keys, stable.address(), canary.address()));
    while rollout(&ambassador)["state"] == "running" {
        assert!(asks(&ambassador), "nobody notices");
    }
    assert_eq!(rollout(&ambassador)["state"], "done");
    let line = ambassador.wait_line("the rollout is done");
    assert!(line.contains("canary 100"), "{line}");
    let before = stable.accepted();
    assert!((0..20).all(|_| asks(&ambassador)));
    assert_eq!(stable.accepted(), before);
}

/// An operator sets the weights through the admin's socket: they hold at once, and what moved by itself does so no more.
#[cfg(unix)]
#[test]
fn an_operator_sets_the_weights_and_stops_the_rollout() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let keys = format!(
        "split = [{{ upstream = \"stable\" }}, {{ upstream = \"canary\" }}]\nrollout = {{ canary = \"canary\", steps = [50] }}\n\
         [admin]\naddress = [\"unix:{}\", \"127.0.0.1:0\"]\n",
        socket.display()
    );
    let ambassador = Ambassador::start(&config(&pki, &keys, stable.address(), canary.address()));
    let put = |path: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        http::request_on(stream, &request).unwrap()
    };
    let path = "/api/v1/listeners/in/split";
    for (path, body, status, said) in [
        (path, "[{\"upstream\": \"stable\"}]", 400, "missing field `weight`"),
        (path, "[{\"upstream\": \"other\", \"weight\": 1}]", 400, "there are stable, canary"),
        (path, "[]", 400, "nobody would get a connection"),
        (path, &"x".repeat(70_000), 413, "a split is shorter"),
        ("/api/v1/listeners/out/split", "[]", 404, "there are: in"),
    ] {
        let answer = put(path, body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(said), "{answer:?}");
    }
    assert_eq!(rollout(&ambassador)["state"], "running", "nothing has changed");
    let answer = put(path, "[{\"upstream\": \"canary\", \"weight\": 7}]");
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("by_hand")), "{answer:?}");
    assert!((0..20).all(|_| asks(&ambassador)));
    assert_eq!((stable.accepted(), canary.accepted()), (0, 20));
    assert_eq!(ambassador.metric("nuncio_rollout_state", &[("listener", "in")]), 3.0);
    // Over TCP nobody may.
    let over_tcp =
        format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]");
    assert_eq!(http::request(ambassador.admin(), &over_tcp).unwrap().status, 403);
}

/// What cannot be meant is refused, with the place and the mend.
#[test]
fn splits_that_make_no_sense_are_refused() {
    let pki = Pki::generate();
    let nobody: SocketAddr = ([127, 0, 0, 1], 9).into();
    for (keys, said) in [
        ("split = []\n", "is empty"),
        ("split = [{ upstream = \"stable\", weight = 0 }]\n", "all weights are 0"),
        ("split = [{ upstream = \"stable\" }, { upstream = \"stable\" }]\n", "there twice"),
        ("split = [{ upstream = \"stabel\" }]\n", "did you mean \"stable\"?"),
        ("upstream = \"stable\"\nsplit = [{ upstream = \"stable\" }]\n", "stands beside `split`"),
        ("upstream = \"stable\"\nsticky = true\n", "there is none"),
        ("upstream = \"stable\"\nrollout.canary = \"canary\"\n", "no `split`"),
        ("split = [{ upstream = \"stable\" }]\nrollout.canary = \"canary\"\n", "split of two"),
        (
            "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\nrollout.pause = \"1s\"\n",
            "has no `canary`",
        ),
        (
            "split = [{ upstream = \"stable\", weight = 1 }, { upstream = \"canary\" }]\nrollout.canary = \"canary\"\n",
            "move by themselves",
        ),
        (
            "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\nrollout = { canary = \"canary\", steps = [5, 5] }\n",
            "does not rise",
        ),
    ] {
        let (status, told) = refused(&config(&pki, keys, nobody, nobody), |_| {});
        assert_eq!(status, Some(3), "{told}");
        assert!(told.contains(said) && told.contains("mend:"), "{keys}: {told}");
    }
}
