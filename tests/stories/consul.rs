//! An upstream that is a service in Consul: the set follows a real agent within a second, and outlives it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::ambassador::{Ambassador, run};
use super::harness::consul::Consul;
use super::harness::pki::{By, Leaf, Valid};
use super::harness::{Pki, Upstream, clients, config};

fn follows(pki: &Pki, settings: &str) -> Ambassador {
    let health = "[upstream.up.health]\nkind = \"off\"\n";
    Ambassador::start(&config::mtls(pki, &format!("{settings}\n{health}")))
}

/// Waits until the set is these servers, and no other; how long that took.
#[track_caller]
fn set_is(ambassador: &Ambassador, servers: &[&Upstream]) -> Duration {
    let begun = Instant::now();
    let mut wanted: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    wanted.sort();
    ambassador.wait_state("/api/v1/upstreams", &format!("the set is {wanted:?}"), |upstreams| {
        let endpoints = upstreams[0]["endpoints"].as_array()?;
        let members = endpoints.iter().filter(|it| it["leaving"] != true);
        let mut now: Vec<_> = members.filter_map(|it| Some(it["address"].as_str()?.to_owned())).collect();
        now.sort();
        (now == wanted).then_some(())
    });
    begun.elapsed()
}

#[track_caller]
fn source_says(ambassador: &Ambassador, words: &str) -> Value {
    ambassador.wait_state("/api/v1/upstreams", &format!("its source says {words:?}"), |upstreams| {
        let source = &upstreams[0]["source"];
        source["last_error"].as_str().is_some_and(|error| error.contains(words)).then(|| source.clone())
    })
}

/// Opens connections one after the other until it is told to stop; gives how many, and how each one failed that did.
fn clients_all_the_while(listener: SocketAddr, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut count, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        match clients::ask(listener, b"ping") {
            Ok(answer) if answer == b"ping" => {}
            other => failed.push(format!("{other:?}")),
        }
    }
    (count, failed)
}

/// Instances come, fail their checks and go, the agent is killed, and is back without a memory: the set follows each within a
/// second, the last instances stay while nobody knows better, and no connection is lost, be it open all the while or new.
#[test]
#[ignore = "needs Consul: tests/run unpacks it"]
fn the_set_follows_consul_within_a_second_and_no_connection_is_lost_to_it() {
    let pki = Pki::generate();
    let mut consul = Consul::start();
    let servers: Vec<_> = (0..3).map(|_| Upstream::start(&pki)).collect();
    let [one, two, three] = &servers[..] else { panic!("three") };
    consul.register("orders-db", one.address(), &["primary"]);
    consul.register("orders-db", two.address(), &["primary"]);
    consul.register("orders-db", three.address(), &["replica"]);
    consul.register("another", three.address(), &["primary"]);
    let address = consul.address();
    let mut ambassador = follows(
        &pki,
        &format!("consul = {{ service = \"orders-db\", address = \"http://{address}\", tag = \"primary\" }}"),
    );
    set_is(&ambassador, &[one, two]);
    let listener = ambassador.listener("in");
    let mut held: Vec<_> = (0..4).map(|_| clients::connect(listener)).collect();
    for stream in &mut held {
        clients::echoes(stream, b"before").unwrap();
    }

    let stop = AtomicBool::new(false);
    let (count, failed) = thread::scope(|scope| {
        let busy = scope.spawn(|| clients_all_the_while(listener, &stop));
        let within_a_second = |what: &str, took: Duration| {
            println!("{what}: the set had changed after {took:.1?}");
            assert!(took < Duration::from_secs(1), "{what}: {took:?}");
        };
        consul.register("orders-db", three.address(), &["primary"]);
        within_a_second("registered", set_is(&ambassador, &[one, two, three]));
        consul.fail(two.address());
        within_a_second("failing", set_is(&ambassador, &[one, three]));
        consul.deregister(three.address());
        within_a_second("deregistered", set_is(&ambassador, &[one]));

        consul.kill();
        source_says(&ambassador, "refused");
        set_is(&ambassador, &[one]);
        consul.restart();
        // It has forgotten everything: that is no order to stop.
        source_says(&ambassador, "names no endpoint");
        set_is(&ambassador, &[one]);
        consul.register("orders-db", two.address(), &["primary"]);
        within_a_second("registered with the new agent", set_is(&ambassador, &[two]));
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap()
    });
    println!("{count} connections were opened meanwhile");
    assert!(failed.is_empty(), "{} of {count} failed: {failed:?}", failed.len());
    for stream in &mut held {
        clients::echoes(stream, b"after").unwrap();
    }
    ambassador.wait_records(count);
    let source = ambassador.get("/api/v1/upstreams").json()[0]["source"].clone();
    assert!(source["last_error"].is_null() && source["age_ms"].as_u64().unwrap() < 40_000, "{source}");
}

/// nuncio does not wait for the agent, and needs no start of its own once it is there.
#[test]
#[ignore = "needs Consul: tests/run unpacks it"]
fn nuncio_starts_before_its_agent_says_so_and_serves_when_the_agent_is_there() {
    let pki = Pki::generate();
    let mut consul = Consul::start();
    consul.kill();
    let server = Upstream::start(&pki);
    let address = consul.address();
    let mut ambassador =
        follows(&pki, &format!("consul = {{ service = \"orders-db\", address = \"http://{address}\" }}"));
    assert!(clients::ask(ambassador.listener("in"), b"ping").is_err());
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["reason"], "destination_unavailable", "{record}");
    source_says(&ambassador, &format!("Consul at http://{address}"));
    consul.restart();
    consul.register("orders-db", server.address(), &[]);
    set_is(&ambassador, &[&server]);
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
}

/// The agent answers over TLS only to clients that it knows. Without a certificate, or with that of another CA, it is told which of
/// the two is at fault, and how; with one, the set follows as ever; and a certificate that is replaced counts from the next question.
#[test]
#[ignore = "needs Consul: tests/run unpacks it"]
fn an_agent_that_wants_to_know_its_clients_is_shown_a_certificate() {
    let pki = Pki::generate();
    let consul = Consul::start_with_tls(&pki);
    let (one, two) = (Upstream::start(&pki), Upstream::start(&pki));
    consul.register("orders-db", one.address(), &[]);
    let (address, ca) = (consul.tls_address(), pki.ca());
    let source = |more: &str| {
        let keys = format!("service = \"orders-db\", address = \"https://{address}\", ca = {ca:?}");
        format!("consul = {{ {keys}{more} }}")
    };
    let nobody = follows(&pki, &source(""));
    let told = source_says(&nobody, &format!("Consul at https://{address}"));
    assert!(told["last_error"].as_str().unwrap().contains("demands a client certificate"), "{told}");
    drop(nobody);

    let directory = tempfile::TempDir::new().unwrap();
    let (certificate, key) = (directory.path().join("consul.pem"), directory.path().join("consul.key"));
    let show = |leaf: &Leaf| {
        std::fs::copy(&leaf.key, &key).unwrap();
        std::fs::copy(&leaf.certificate, &certificate).unwrap();
    };
    let foreign = pki.issue("foreign", &["client.test"], By::Foreign, Valid::Now);
    show(&foreign);
    let ambassador = follows(&pki, &source(&format!(", certificate = {certificate:?}, key = {key:?}")));
    let told = source_says(&ambassador, &format!("Consul at https://{address}"));
    assert!(told["last_error"].as_str().unwrap().contains("the server refused our certificate"), "{told}");
    show(&pki.client);
    set_is(&ambassador, &[&one]);
    assert_eq!(clients::ask(ambassador.listener("in"), b"ping").unwrap(), b"ping");
    consul.register("orders-db", two.address(), &[]);
    let took = set_is(&ambassador, &[&one, &two]);
    println!("registered: the set had changed after {took:.1?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Before it runs, a person is told that the files for the agent are not there, or fit for nothing. It starts all the same: they may
/// come.
#[test]
fn check_warns_of_certificates_for_the_agent_that_are_not_there() {
    let pki = Pki::generate();
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("nuncio.toml");
    let check = |keys: &str| {
        let source = format!("consul = {{ service = \"orders-db\", {keys} }}");
        std::fs::write(&file, config::mtls(&pki, &source)).unwrap();
        let (code, out, err) = run(&["check", "--config", file.to_str().unwrap()], directory.path());
        (code, out + &err)
    };
    let (ca, key) = (pki.ca(), &pki.client.key);
    let (code, told) = check(&format!(
        "address = \"https://127.0.0.1:8501\", ca = {ca:?}, certificate = \"none.pem\", key = {key:?}"
    ));
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("upstream.up: orders-db: certificate") && told.contains("there is no such file"),
        "{told}"
    );
    let (code, told) = check(&format!("certificate = \"none.pem\", key = {key:?}"));
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("says who we are in TLS, and the agent is asked without"), "{told}");
    let (code, told) = check(&format!("address = \"https://127.0.0.1:8501\", key = {key:?}"));
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("stands without a certificate"), "{told}");
}
