//! Names to endpoints against a DNS server that answers, lies, fails or says nothing, as each test tells it.

#![expect(clippy::unwrap_used, reason = "in a test, what is not as it should be ends it")]

#[path = "dns/server.rs"]
mod server;
#[path = "dns/srv.rs"]
mod srv;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nuncio::addr::Host;
use nuncio::backoff;
use nuncio::discovery::{DnsSettings, NameView, Resolver, Source, follow};
use nuncio::failure::Reason;
use nuncio::upstream::breaker::State;
use nuncio::upstream::{self, EndpointSpec, Observer, Upstream};
use server::{Says, Server};

fn ips(of: &[&str]) -> Vec<IpAddr> {
    of.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn host(name: &str) -> Host {
    Host::Name(name.into())
}

/// Answers are kept for a tenth of a second whatever their TTL, so that a test sees the next one soon.
fn restless(servers: &[&Server]) -> DnsSettings {
    DnsSettings {
        ttl_floor: Duration::from_millis(100),
        ttl_ceiling: Duration::from_millis(100),
        ..patient(servers)
    }
}

fn patient(servers: &[&Server]) -> DnsSettings {
    DnsSettings {
        servers: servers.iter().map(|server| server.address).collect(),
        timeout: Duration::from_secs(2),
        ..DnsSettings::default()
    }
}

/// Waits for a fact; says what was seen instead.
async fn until<T: std::fmt::Debug>(mut look: impl AsyncFnMut() -> T, fact: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let seen = look().await;
        if fact(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never came; last seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn view(resolver: &Resolver, name: &str) -> NameView {
    resolver.snapshot().into_iter().find(|view| view.name == name).expect("a name that was asked for")
}

#[tokio::test]
async fn an_answer_has_both_families_sorted_and_once_each() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.2", "::5", "10.0.0.1", "10.0.0.2"]), 60));
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    assert_eq!(
        resolver.addresses(&host("db.test.example")).await.unwrap(),
        ips(&["10.0.0.1", "10.0.0.2", "::5"])
    );
    assert_eq!(resolver.addresses(&Host::Ip([10, 9, 9, 9].into())).await.unwrap(), ips(&["10.9.9.9"]));
}

#[tokio::test]
async fn within_its_ttl_an_answer_is_not_asked_for_again() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.1"]), 0));
    server.says("long.test.example", Says::Addresses(ips(&["10.0.0.1"]), 86_400));
    // TTL 0 with a floor, and a day with a ceiling.
    let settings = DnsSettings {
        ttl_floor: Duration::from_millis(800),
        ttl_ceiling: Duration::from_millis(1600),
        ..patient(&[&server])
    };
    let resolver = Resolver::new(&settings).unwrap();
    for name in ["db.test.example", "long.test.example"] {
        for _ in 0..100 {
            assert_eq!(resolver.addresses(&host(name)).await.unwrap(), ips(&["10.0.0.1"]));
        }
        assert_eq!(server.asked(name), (1, 1), "{name}");
        assert!(view(&resolver, name).refresh_in_ms.unwrap() <= 1600, "{name}");
        server.says(name, Says::Addresses(ips(&["10.0.0.2"]), 86_400));
        let now = async || resolver.addresses(&host(name)).await.unwrap();
        until(now, |addresses| *addresses == ips(&["10.0.0.2"])).await;
    }
}

#[tokio::test]
async fn a_name_that_nobody_uses_is_not_asked_for_until_somebody_does() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.1"]), 0));
    let resolver = Resolver::new(&restless(&[&server])).unwrap();
    resolver.addresses(&host("db.test.example")).await.unwrap();
    until(async || view(&resolver, "db.test.example"), |view| view.refresh_in_ms.is_none()).await;
    let before = server.asked("db.test.example").0;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.2"]), 0));
    let now = async || resolver.addresses(&host("db.test.example")).await.unwrap();
    until(now, |addresses| *addresses == ips(&["10.0.0.2"])).await;
    assert!(server.asked("db.test.example").0 > before);
}

#[tokio::test]
async fn the_last_good_answer_stays_whatever_the_dns_does_next() {
    let server = Server::start().await;
    let settings = DnsSettings { timeout: Duration::from_millis(500), ..restless(&[&server]) };
    let resolver = Resolver::new(&settings).unwrap();
    let ways = [
        ("servfail.test.example", Says::ServFail, "dns_error"),
        ("refused.test.example", Says::Refused, "dns_error"),
        ("gone.test.example", Says::NoSuchName, "dns_error"),
        ("empty.test.example", Says::NothingOfTheKind, "dns_error"),
        ("blocked.test.example", Says::Addresses(ips(&["0.0.0.0", "::"]), 60), "dns_error"),
        ("nonsense.test.example", Says::Nonsense, "dns_"),
        ("cut.test.example", Says::CutShort, "dns_"),
        ("lie.test.example", Says::AddressesOfAnother("evil.test.example", ips(&["10.6.6.6"])), "dns_error"),
        ("silent.test.example", Says::Silence, "dns_timeout"),
    ];
    for (name, ..) in &ways {
        server.says(name, Says::Addresses(ips(&["10.0.0.1", "::5"]), 0));
        assert_eq!(resolver.addresses(&host(name)).await.unwrap(), ips(&["10.0.0.1", "::5"]), "{name}");
    }
    for (name, says, reason) in &ways {
        server.says(name, says.clone());
        // It is in use all the time, so that it is refreshed: no caller ever sees the failure.
        let used = async || {
            assert_eq!(resolver.addresses(&host(name)).await.unwrap(), ips(&["10.0.0.1", "::5"]), "{name}");
            view(&resolver, name)
        };
        let view = until(used, |view| view.last_error.is_some()).await;
        assert_eq!(view.addresses, ips(&["10.0.0.1", "::5"]), "{name}");
        assert!(view.last_error.as_ref().unwrap().contains(reason), "{view:?}");
        server.says(name, Says::Addresses(ips(&["10.0.0.2"]), 0));
    }
    for (name, ..) in &ways {
        let used = async || resolver.addresses(&host(name)).await.unwrap();
        until(used, |addresses| *addresses == ips(&["10.0.0.2"])).await;
        assert_eq!(view(&resolver, name).last_error, None);
    }
}

#[tokio::test]
async fn a_dns_that_is_down_at_the_start_is_a_quick_failure_and_a_set_that_fills_later() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Silence);
    let settings = DnsSettings { timeout: Duration::from_millis(500), ..restless(&[&server]) };
    let resolver = Resolver::new(&settings).unwrap();
    let upstream = upstream();
    let source = Source::Dns("db.test.example:5432".parse().unwrap());
    let follower = tokio::spawn(follow(source, resolver.clone(), upstream.clone(), None));

    let failure = resolver.addresses(&host("db.test.example")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DnsTimeout);
    assert!(failure.detail.contains(&server.address.to_string()), "{}", failure.detail);
    assert!(upstream.endpoints().is_empty());
    // And while it is known to be down, nobody waits for it.
    let begun = Instant::now();
    resolver.addresses(&host("db.test.example")).await.unwrap_err();
    assert!(begun.elapsed() < settings.timeout);

    server.says("db.test.example", Says::Addresses(ips(&["127.0.0.2", "127.0.0.1"]), 0));
    let labels = until(async || labels(&upstream), |labels| !labels.is_empty()).await;
    assert_eq!(labels, ["127.0.0.1:5432", "127.0.0.2:5432"]);
    follower.abort();
}

#[tokio::test]
async fn a_set_follows_the_name_and_each_endpoint_is_checked_by_the_name() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["127.0.0.1"]), 0));
    let resolver = Resolver::new(&restless(&[&server])).unwrap();
    let upstream = upstream();
    let source = Source::Dns("db.test.example:5432".parse().unwrap());
    let follower = tokio::spawn(follow(source.clone(), resolver.clone(), upstream.clone(), None));
    until(async || labels(&upstream), |labels| *labels == ["127.0.0.1:5432"]).await;
    server.says("db.test.example", Says::Addresses(ips(&["127.0.0.3", "127.0.0.2"]), 0));
    until(async || labels(&upstream), |labels| *labels == ["127.0.0.2:5432", "127.0.0.3:5432"]).await;
    let named = |spec: &EndpointSpec| spec.server_name.as_deref() == Some("db.test.example");
    assert!(upstream.endpoints().iter().all(|(_, spec)| named(spec)));
    let with_own_name = self::upstream();
    let own = Some("orders.example".into());
    let other = tokio::spawn(follow(source, resolver.clone(), with_own_name.clone(), own));
    until(async || labels(&with_own_name), |labels| labels.len() == 2).await;
    assert!(with_own_name.endpoints().iter().all(|(_, spec)| spec.server_name.is_none()));
    other.abort();
    // Gone from the DNS altogether is a fault of the DNS, not an order to stop.
    server.says("db.test.example", Says::NoSuchName);
    until(async || view(&resolver, "db.test.example"), |view| view.last_error.is_some()).await;
    assert_eq!(labels(&upstream), ["127.0.0.2:5432", "127.0.0.3:5432"]);
    follower.abort();
}

#[tokio::test]
async fn a_suspected_name_is_asked_for_again_long_before_its_ttl_and_at_most_once_a_second() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.1"]), 3600));
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    let name = host("db.test.example");
    resolver.addresses(&name).await.unwrap();
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.2"]), 3600));
    let begun = Instant::now();
    let suspected = async || {
        for _ in 0..100 {
            resolver.suspect(&name);
        }
        resolver.addresses(&name).await.unwrap()
    };
    until(suspected, |addresses| *addresses == ips(&["10.0.0.2"])).await;
    let seconds = begun.elapsed().as_secs() as usize;
    assert!(server.asked("db.test.example").0 <= 2 + seconds, "{:?}", server.asked("db.test.example"));
}

#[tokio::test]
async fn fifty_callers_on_other_reactors_share_one_look_up() {
    let server = Server::start().await;
    server.says("db.test.example", Says::Addresses(ips(&["10.0.0.1"]), 3600));
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    let reactor = {
        let resolver = resolver.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut callers = tokio::task::JoinSet::new();
                for _ in 0..50 {
                    let resolver = resolver.clone();
                    callers.spawn(async move { resolver.addresses(&host("db.test.example")).await });
                }
                callers.join_all().await
            })
        })
    };
    let answers = tokio::task::spawn_blocking(move || reactor.join().unwrap()).await.unwrap();
    assert_eq!(answers.len(), 50);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == ips(&["10.0.0.1"])));
    assert_eq!(server.asked("db.test.example"), (1, 1));
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_fetched_over_tcp() {
    let server = Server::start().await;
    let many: Vec<IpAddr> = (1..=200).map(|last| [10, 0, 0, last].into()).collect();
    server.says("db.test.example", Says::OnlyOverTcp(many.clone()));
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    assert_eq!(resolver.addresses(&host("db.test.example")).await.unwrap(), many);
}

#[tokio::test]
async fn another_name_is_followed_and_the_shortest_ttl_on_the_way_counts() {
    let server = Server::start().await;
    server.says("db.test.example", Says::AnotherName("real.test.example", 7, ips(&["10.0.0.1"]), 3600));
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    assert_eq!(resolver.addresses(&host("db.test.example")).await.unwrap(), ips(&["10.0.0.1"]));
    assert!(view(&resolver, "db.test.example").refresh_in_ms.unwrap() <= 7000);
}

#[tokio::test]
async fn a_first_server_that_is_silent_or_broken_hides_no_second_one() {
    let (first, second) = (Server::start().await, Server::start().await);
    second.says("db.test.example", Says::Addresses(ips(&["10.0.0.1"]), 3600));
    for says in [Says::Silence, Says::ServFail, Says::Refused] {
        first.says("db.test.example", says.clone());
        let settings = patient(&[&first, &second]);
        let resolver = Resolver::new(&settings).unwrap();
        let begun = Instant::now();
        let answer = resolver.addresses(&host("db.test.example")).await;
        assert_eq!(answer.unwrap(), ips(&["10.0.0.1"]), "{says:?}");
        assert!(begun.elapsed() < settings.timeout, "{says:?}");
    }
    // What the first server knows, the second is not asked.
    first.says("db.test.example", Says::Addresses(ips(&["10.0.0.9"]), 3600));
    let before = second.asked("db.test.example");
    let resolver = Resolver::new(&patient(&[&first, &second])).unwrap();
    assert_eq!(resolver.addresses(&host("db.test.example")).await.unwrap(), ips(&["10.0.0.9"]));
    assert_eq!(second.asked("db.test.example"), before);
}

#[tokio::test]
async fn a_server_that_never_answers_aaaa_delays_an_answer_but_does_not_prevent_it() {
    let server = Server::start().await;
    server.says("db.test.example", Says::NoAnswerToAaaa(ips(&["10.0.0.1"])));
    let settings = DnsSettings { timeout: Duration::from_secs(10), ..patient(&[&server]) };
    let resolver = Resolver::new(&settings).unwrap();
    let begun = Instant::now();
    assert_eq!(resolver.addresses(&host("db.test.example")).await.unwrap(), ips(&["10.0.0.1"]));
    assert!(begun.elapsed() < settings.timeout / 2);
}

#[tokio::test]
async fn what_the_dns_said_is_in_the_failure() {
    let server = Server::start().await;
    server.says("servfail.test.example", Says::ServFail);
    server.says("empty.test.example", Says::NothingOfTheKind);
    let resolver = Resolver::new(&patient(&[&server])).unwrap();
    for (name, says) in [
        ("servfail.test.example", "Server Failure"),
        ("empty.test.example", "neither A nor AAAA"),
        ("no.test.example", "NXDOMAIN"),
    ] {
        let failure = resolver.addresses(&host(name)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DnsError, "{name}");
        assert!(failure.detail.starts_with(&format!("{name}: ")), "{}", failure.detail);
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn localhost_needs_no_dns() {
    let resolver = Resolver::new(&DnsSettings { servers: Vec::new(), ..DnsSettings::default() }).unwrap();
    let addresses = resolver.addresses(&host("localhost")).await.unwrap();
    assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{addresses:?}");
}

/// Wants to know nothing.
struct Deaf;

impl Observer for Deaf {
    fn breaker(&self, _upstream: &str, _endpoint: &str, _to: State, _why: &str) {}
    fn health(&self, _upstream: &str, _endpoint: &str, _up: bool, _why: &str) {}
    fn panic(&self, _upstream: &str, _on: bool) {}
    fn source(&self, _upstream: &str, _failing: Option<&str>) {}
}

fn upstream() -> Arc<Upstream> {
    Upstream::new("db", upstream::Settings::default(), &backoff::Settings::default(), 1, Arc::new(Deaf))
}

fn labels(upstream: &Upstream) -> Vec<String> {
    upstream.endpoints().iter().map(|(_, spec)| spec.address.to_string()).collect()
}

/// The real thing: a zone of knot's, changed by nsupdate while the set follows.
#[tokio::test]
#[ignore = "needs knot"]
async fn a_set_follows_a_zone_that_nsupdate_changes() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["zones", "run", "db"] {
        std::fs::create_dir(dir.path().join(part)).unwrap();
    }
    let port = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    let at = dir.path().display();
    let config = format!(
        "server:\n  rundir: {at}/run\n  listen: 127.0.0.1@{port}\n\
         database:\n  storage: {at}/db\n\
         acl:\n  - id: upd\n    address: 127.0.0.1\n    action: update\n\
         template:\n  - id: default\n    storage: {at}/zones\n\
         zone:\n  - domain: upstream.test\n    acl: upd\n"
    );
    let zone = "$TTL 1\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\ndb A 127.0.0.1\nalias CNAME db\n";
    std::fs::write(dir.path().join("knot.conf"), config).unwrap();
    std::fs::write(dir.path().join("zones/upstream.test.zone"), zone).unwrap();
    let _knot = Process(
        std::process::Command::new("knotd")
            .arg("-c")
            .arg(dir.path().join("knot.conf"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("knotd (apt install knot)"),
    );

    // It is not up yet: the set is empty, and fills when it is.
    let settings = DnsSettings {
        servers: vec![([127, 0, 0, 1], port).into()],
        ttl_floor: Duration::from_millis(200),
        timeout: Duration::from_millis(500),
        ..DnsSettings::default()
    };
    let resolver = Resolver::new(&settings).unwrap();
    let upstream = upstream();
    let source = Source::Dns("alias.upstream.test:5432".parse().unwrap());
    let follower = tokio::spawn(follow(source, resolver, upstream.clone(), None));
    until(async || labels(&upstream), |labels| *labels == ["127.0.0.1:5432"]).await;

    let update = format!(
        "server 127.0.0.1 {port}\nzone upstream.test\nupdate delete db.upstream.test A\n\
         update add db.upstream.test 1 A 127.0.0.3\nupdate add db.upstream.test 1 A 127.0.0.2\nsend\n"
    );
    let script = dir.path().join("update");
    std::fs::write(&script, update).unwrap();
    let done = std::process::Command::new("nsupdate")
        .arg(&script)
        .output()
        .expect("nsupdate (apt install bind9-dnsutils)");
    assert!(done.status.success(), "{done:?}");
    until(async || labels(&upstream), |labels| *labels == ["127.0.0.2:5432", "127.0.0.3:5432"]).await;
    follower.abort();
}

/// Ends with the test, however that ends.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // A test that is over has nobody left to tell.
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}
