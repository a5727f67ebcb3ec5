//! One listener, several upstreams: shares by weight, and a canary whose share grows for as long as it serves as well.

use std::io::{Read, Write};
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::harness::ambassador::{Ambassador, refused};
use super::harness::clients;
#[cfg(unix)]
use super::harness::http;
use super::harness::peer::Peer;
use super::harness::upstream::{echo, handshake};
use super::harness::{PATIENCE, Pki, Upstream, eventually};

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

/// A server that breaks off one in five handshakes.
fn failing_one_in_five(pki: &Pki) -> Peer {
    let (server, number) = (pki.server_config(), AtomicU32::new(0));
    Peer::start(move |stream| {
        if number.fetch_add(1, Ordering::Relaxed) % 5 != 4
            && let Some(tls) = handshake(&server, stream)
        {
            echo(tls, Duration::ZERO);
        }
    })
}

/// What an order through the admin's Unix socket is answered.
#[cfg(unix)]
fn order(socket: &Path, method: &str, path: &str, body: &str) -> http::Response {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let stream = std::os::unix::net::UnixStream::connect(socket).expect("the admin listens there");
    http::request_on(stream, &request).expect("it answers")
}

/// One in five of the canary's connections breaks in its handshake. It is found out while it has a tenth of all, everything goes
/// back, nobody meets it any more, and log, API and metrics say why.
#[test]
fn a_canary_that_fails_one_in_five_is_rolled_back_by_itself() {
    let pki = Pki::generate();
    let stable = Upstream::start(&pki);
    let canary = failing_one_in_five(&pki);
    let keys = "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n\
                rollout = { canary = \"canary\", steps = [10, 50, 100], pause = \"1h\" }\n";
    let mut ambassador = Ambassador::start(&config(&pki, keys, stable.address(), canary.address()));
    assert_eq!(rollout(&ambassador)["state"], "running");
    let failed = (0..1_000).filter(|_| !asks(&ambassador)).count();
    let line = ambassador.wait_line("was rolled back");
    let told = rollout(&ambassador);
    println!("{line}\n{told}");
    let metrics = ambassador.get("/metrics").body;
    let of_it = |line: &&str| ["nuncio_rollout", "nuncio_split"].iter().any(|name| line.starts_with(name));
    metrics.lines().filter(of_it).for_each(|line| println!("{line}"));
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
    assert_eq!(counted(&ambassador, "stable", "success"), 1_000.0 - met as f64);
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
    let path = "/api/v1/listeners/in/split";
    for (path, body, status, said) in [
        (path, "[{\"upstream\": \"stable\"}]", 400, "missing field `weight`"),
        (path, "[{\"upstream\": \"other\", \"weight\": 1}]", 400, "there are stable, canary"),
        (path, "[]", 400, "nobody would get a connection"),
        (path, &"x".repeat(70_000), 413, "a split is shorter"),
        ("/api/v1/listeners/out/split", "[]", 404, "there are: in"),
    ] {
        let answer = order(&socket, "PUT", path, body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(said), "{answer:?}");
    }
    assert_eq!(rollout(&ambassador)["state"], "running", "nothing has changed");
    let answer = order(&socket, "PUT", path, "[{\"upstream\": \"canary\", \"weight\": 7}]");
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("by_hand")), "{answer:?}");
    assert!((0..20).all(|_| asks(&ambassador)));
    assert_eq!((stable.accepted(), canary.accepted()), (0, 20));
    assert_eq!(ambassador.metric("nuncio_rollout_state", &[("listener", "in")]), 3.0);
    // Over TCP nobody may.
    let over_tcp =
        format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]");
    assert_eq!(http::request(ambassador.admin(), &over_tcp).unwrap().status, 403);
}

/// Rolled back, and so it stays: over a reload with other parameters, and over a restart where there is a file that keeps it. An
/// operator begins it again. A file that is damaged is told, and the rollout begins.
#[cfg(unix)]
#[test]
fn what_was_rolled_back_meets_nobody_after_a_restart_until_an_operator_begins_it_again() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), failing_one_in_five(&pki));
    let directory = tempfile::tempdir().unwrap();
    let (socket, state_file) = (directory.path().join("admin.sock"), directory.path().join("in.rollout"));
    let file = |parameters: &str| {
        let keys = format!(
            "split = [{{ upstream = \"stable\" }}, {{ upstream = \"canary\" }}]\n\
             rollout = {{ canary = \"canary\", steps = [20, 100], state_file = '{}', {parameters} }}\n\
             [admin]\naddress = [\"unix:{}\", \"127.0.0.1:0\"]\n",
            state_file.display(),
            socket.display()
        );
        config(&pki, &keys, stable.address(), canary.address())
    };
    let mut first = Ambassador::start(&file("pause = \"1h\""));
    let line = first.wait_line("the rollout begins");
    assert!(line.contains("\"step\":1,\"of\":2") && line.contains("canary 20"), "{line}");
    eventually("it is rolled back", PATIENCE, || {
        asks(&first);
        (rollout(&first)["state"] == "rolled_back").then_some(())
    });
    let met = canary.accepted();
    let was = rollout(&first);
    first.reloaded(&file("pause = \"2h\", minimum = 7"));
    assert_eq!(rollout(&first), was, "other parameters are no reason to try again");
    eventually("it is written down", PATIENCE, || {
        std::fs::read_to_string(&state_file).unwrap().contains("rolled_back").then_some(())
    });
    // As in a crash.
    drop(first);

    let mut second = Ambassador::start(&file("pause = \"1h\""));
    let line = second.wait_line("the rollout was rolled back before");
    assert!(line.contains(was["why"].as_str().unwrap()), "{line}");
    assert_eq!(rollout(&second), was);
    assert!((0..100).all(|_| asks(&second)));
    assert_eq!(canary.accepted(), met);
    let answer = order(&socket, "DELETE", "/api/v1/listeners/in/split", "");
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("running")), "{answer:?}");
    assert_eq!(answer.json()["canary_connections"], 0);
    eventually("somebody meets it again", PATIENCE, || {
        asks(&second);
        (canary.accepted() > met).then_some(())
    });
    drop(second);

    std::fs::write(&state_file, "{\"state\":").unwrap();
    let mut third = Ambassador::start(&file("pause = \"1h\""));
    let line = third.wait_line("cannot go on from its state_file");
    assert!(line.contains("\"level\":\"warn\"") && line.contains(state_file.to_str().unwrap()), "{line}");
    assert_eq!(rollout(&third)["state"], "running");
    assert!(asks(&third));
}

/// A state file that cannot be written is told at once, with the way out, and keeps nobody from being served.
#[test]
fn a_state_file_without_a_directory_is_told_at_the_start() {
    let pki = Pki::generate();
    let (stable, canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let directory = tempfile::tempdir().unwrap();
    let keys = format!(
        "split = [{{ upstream = \"stable\" }}, {{ upstream = \"canary\" }}]\n\
         rollout = {{ canary = \"canary\", state_file = '{}' }}\n",
        directory.path().join("nowhere").join("in.rollout").display()
    );
    let mut ambassador = Ambassador::start(&config(&pki, &keys, stable.address(), canary.address()));
    let line = ambassador.wait_line("there is no such directory");
    assert!(line.contains("listener.in.rollout") && line.contains("StateDirectory="), "{line}");
    ambassador.wait_line("cannot be kept");
    assert!(asks(&ambassador));
}

/// Connections that outlive their rollout: what becomes of them is no news of the next one, and none of the old one either.
#[cfg(unix)]
#[test]
fn what_becomes_of_an_outdated_rollouts_connections_is_nobodys_news() {
    let pki = Pki::generate();
    let (mut stable, mut canary) = (Upstream::start(&pki), Upstream::start(&pki));
    let (at_stable, at_canary) = (stable.address(), canary.address());
    let file = |on_trial: &str| {
        let split = "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n";
        let keys = format!("{split}rollout = {{ canary = \"{on_trial}\", steps = [50], pause = \"1h\" }}\n");
        config(&pki, &keys, at_stable, at_canary)
    };
    let mut ambassador = Ambassador::start(&file("canary"));
    let mut held = Vec::new();
    while canary.accepted() < 30 || stable.accepted() < 30 {
        let mut client = clients::connect(ambassador.listener("in"));
        clients::echoes(&mut client, b"ping").unwrap();
        held.push(client);
    }
    // The other way round: that is another rollout.
    ambassador.reloaded(&file("stable"));
    canary.kill();
    stable.kill();
    ambassador.wait_records(held.len());
    let told = rollout(&ambassador);
    assert_eq!((&told["state"], &told["canary"]), (&"running".into(), &"stable".into()), "{told}");
    assert_eq!((&told["canary_connections"], &told["canary_failed"]), (&0.into(), &0.into()));
    let lines = ambassador.process().lines();
    assert!(!lines.iter().any(|line| line.contains("was rolled back")), "{lines:#?}");
}

/// A canary that takes connections and does nothing more. Its clients are gone before anything could fail: that is held against it.
#[test]
fn a_canary_that_hangs_for_longer_than_its_clients_wait_is_rolled_back() {
    let pki = Pki::generate();
    let server = pki.server_config();
    let greets = Peer::start(move |stream| {
        if let Some(mut tls) = handshake(&server, stream) {
            tls.write_all(b"hi").and_then(|()| tls.read_to_end(&mut Vec::new())).ok();
        }
    });
    let hangs = Peer::start(|mut stream| {
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let keys = "split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n\
                rollout = { canary = \"canary\", steps = [5], pause = \"1h\" }\n";
    let mut ambassador = Ambassador::start(&config(&pki, keys, greets.address(), hangs.address()));
    let listener = ambassador.listener("in");
    let waits_for_a_greeting = |patience: Duration| {
        let mut client = clients::connect(listener);
        client.set_read_timeout(Some(patience)).unwrap();
        client.read_exact(&mut [0; 2]).is_ok()
    };
    eventually("it is rolled back", Duration::from_secs(25), || {
        waits_for_a_greeting(Duration::from_millis(400));
        (rollout(&ambassador)["state"] == "rolled_back").then_some(())
    });
    let line = ambassador.wait_line("was rolled back");
    assert!(line.contains("were given up by clients that had waited longer than"), "{line}");
    let met = hangs.accepted();
    assert!((0..50).all(|_| waits_for_a_greeting(PATIENCE)), "nobody meets it any more");
    assert_eq!(hangs.accepted(), met);
}

/// A request to cancel is carried to its server, which answers none of them: that is no failure of the canary's.
#[test]
fn requests_to_cancel_are_not_held_against_the_canary() {
    let servers: Vec<Peer> = (0..2)
        .map(|_| {
            Peer::start(|mut stream| {
                stream.read_exact(&mut [0; 16]).ok();
            })
        })
        .collect();
    let upstream = |name: &str, address: SocketAddr| {
        format!(
            "[upstream.{name}]\nendpoints = [\"{address}\"]\nprotocol = \"postgres\"\ntls = \"off\"\nhealth.kind = \"off\"\n"
        )
    };
    let listener = "[listener.in]\naddress = \"127.0.0.1:0\"\n\
                    split = [{ upstream = \"stable\" }, { upstream = \"canary\" }]\n\
                    rollout = { canary = \"canary\", steps = [50], pause = \"1h\" }\n";
    let [stable, canary] =
        [("stable", 0), ("canary", 1)].map(|(name, at)| upstream(name, servers[at].address()));
    let mut ambassador = Ambassador::start(&format!("{stable}{canary}{listener}"));
    // Nobody here knows the session: it goes to the only server of whoever's turn it is.
    let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
    let mut sent = 0;
    while servers[1].accepted() < 20 && sent < 500 {
        let mut client = clients::connect(ambassador.listener("in"));
        client.write_all(&cancel).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0, "there is no answer to that");
        sent += 1;
    }
    ambassador.wait_records(sent);
    let told = rollout(&ambassador);
    assert_eq!((&told["canary_connections"], &told["canary_failed"]), (&0.into(), &0.into()), "{told}");
}

/// What a listener asks of its upstream it asks of each one that it divides its connections among, whichever comes first.
#[test]
fn every_upstream_of_a_split_has_to_fit_its_listener() {
    let nobody = "127.0.0.1:9";
    for (of_listener, good, bad, said) in [
        ("", "", "protocol = \"smtp\"", "a client of this listener can speak one only"),
        (
            "tls = \"required\"",
            "protocol = \"mysql\"",
            "protocol = \"mysql\"\ntls = \"off\"",
            "write tls = \"negotiate\"",
        ),
        (
            "tls = \"required\"",
            "protocol = \"mysql\"",
            "protocol = \"mysql\"\ntls = \"direct\"",
            "write tls = \"negotiate\"",
        ),
        ("", "", "endpoints = [\"127.0.0.1:7799\"]", "is our own"),
        ("", "", "identity = \"nobody\"", "there is no [identity.nobody]"),
    ] {
        let upstream = |name: &str, keys: &str| {
            let endpoints = if keys.contains("endpoints") {
                String::new()
            } else {
                format!("endpoints = [\"{nobody}\"]\n")
            };
            format!("[upstream.{name}]\n{endpoints}{keys}\n")
        };
        for (one, other) in [(bad, good), (good, bad)] {
            let file = format!(
                "{}{}[listener.in]\naddress = \"127.0.0.1:7799\"\n{of_listener}\n\
                 split = [{{ upstream = \"one\" }}, {{ upstream = \"other\" }}]\n",
                upstream("one", one),
                upstream("other", other)
            );
            let (status, told) = refused(&file, |_| {});
            assert_eq!(status, Some(3), "{file}: {told}");
            assert!(told.contains(said), "{file}: {told}");
        }
    }
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
