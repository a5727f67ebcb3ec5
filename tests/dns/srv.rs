//! SRV records to endpoints against a DNS server that answers, lies, truncates or says nothing.

use std::sync::Arc;
use std::time::Duration;

use nuncio::discovery::{DnsSettings, Resolver, Source, follow};
use nuncio::upstream::Upstream;
use tokio::task::JoinHandle;

use super::server::{Says, Server};
use super::{ips, patient, restless, until, upstream};

const NAME: &str = "_postgres._tcp.db.test.example";

/// Follows [`NAME`] for as long as the test runs.
fn followed(settings: &DnsSettings) -> (Arc<Upstream>, JoinHandle<()>, Resolver) {
    let (upstream, resolver) = (upstream(), Resolver::new(settings).unwrap());
    let source = Source::Srv(NAME.parse().unwrap());
    (upstream.clone(), tokio::spawn(follow(source, resolver.clone(), upstream, None)), resolver)
}

/// Each endpoint with its tier, its weight and the name that its certificate has to carry, sorted.
fn members(upstream: &Upstream) -> Vec<String> {
    let text = |(_, spec): (_, Arc<nuncio::upstream::EndpointSpec>)| {
        let name = spec.server_name.as_deref().unwrap_or("-");
        format!("{} tier {} weight {} as {name}", spec.address, spec.tier, spec.weight)
    };
    let mut members: Vec<_> = upstream.endpoints().into_iter().map(text).collect();
    members.sort();
    members
}

fn trouble(upstream: &Upstream) -> Option<String> {
    upstream.view(std::time::Instant::now()).source.and_then(|source| source.last_error)
}

/// Priorities become tiers, weights shares, and the certificates have to carry the name that was written: were it the target's,
/// whoever can forge an answer could choose it. The addresses of the targets are asked for, whatever came beside the records.
#[tokio::test]
async fn a_set_follows_the_records_and_is_checked_by_the_name_that_was_written() {
    let server = Server::start().await;
    server.says(
        NAME,
        Says::Services(vec![(20, 0, 5433, "c.test.example"), (10, 3, 5432, "a.test.example")], 0),
    );
    server.says("a.test.example", Says::Addresses(ips(&["127.0.0.2"]), 60));
    let (upstream, follower, resolver) = followed(&restless(&[&server]));
    let first = [
        "a.test.example:5432 tier 0 weight 3 as db.test.example",
        "c.test.example:5433 tier 1 weight 1 as db.test.example",
    ];
    until(async || members(&upstream), |members| *members == first).await;
    let of_target = async || {
        resolver.snapshot().into_iter().find(|name| name.name == "a.test.example").map(|it| it.addresses)
    };
    until(of_target, |seen| seen.as_deref() == Some(&ips(&["127.0.0.2"])[..])).await;
    server
        .says(NAME, Says::Services(vec![(5, 0, 5432, "b.test.example"), (5, 9, 5432, "a.test.example")], 0));
    let second = [
        "a.test.example:5432 tier 0 weight 1000 as db.test.example",
        "b.test.example:5432 tier 0 weight 1 as db.test.example",
    ];
    until(async || members(&upstream), |members| *members == second).await;
    follower.abort();
}

#[tokio::test]
async fn records_hold_for_their_ttl_within_its_floor_and_ceiling() {
    let server = Server::start().await;
    let one = |ttl| Says::Services(vec![(1, 1, 1, "a.test.example")], ttl);
    server.says(NAME, one(86_400));
    let settings = DnsSettings {
        ttl_floor: Duration::from_millis(600),
        ttl_ceiling: Duration::from_millis(600),
        ..patient(&[&server])
    };
    let begun = std::time::Instant::now();
    let (_upstream, follower, _) = followed(&settings);
    until(async || server.asked_for_services(NAME), |asked| *asked >= 4).await;
    assert!(begun.elapsed() >= Duration::from_millis(3 * 600), "{:?}", begun.elapsed());
    follower.abort();
}

/// Whatever the DNS does next, the last good set stays, and the API says what is wrong. (Of a record
/// that is not the one it wanted, hickory asks for the target: what is told of such a server is what comes of that.)
#[tokio::test]
async fn the_last_good_set_stays_whatever_the_dns_does_next() {
    let server = Server::start().await;
    let good = || Says::Services(vec![(1, 1, 1, "a.test.example")], 0);
    let settings = DnsSettings { timeout: Duration::from_millis(400), ..restless(&[&server]) };
    server.says(NAME, good());
    let (upstream, follower, _) = followed(&settings);
    let is_good = |members: &Vec<String>| *members == ["a.test.example:1 tier 0 weight 1 as db.test.example"];
    until(async || members(&upstream), is_good).await;
    let ways = [
        (Says::NoSuchName, "NXDOMAIN"),
        (Says::NothingOfTheKind, "has no SRV records"),
        (Says::Services(vec![(0, 0, 0, "")], 0), "there is no such service here"),
        (Says::Services(vec![(0, 0, 0, "b.test.example")], 0), "none of its 1 SRV records"),
        (Says::ServicesOfAnother("_evil._tcp.test.example", (0, 0, 1, "evil.test.example")), "no such name"),
        (Says::ServicesOfAnotherClass((0, 0, 1, "evil.test.example")), "foreign class"),
        (Says::Addresses(ips(&["10.0.0.1"]), 0), "has no SRV records"),
        (Says::ServFail, "Server Failure"),
        (Says::Nonsense, &server.address.to_string()),
        (Says::Silence, "did not answer in time"),
    ];
    for (says, told) in ways {
        server.says(NAME, says.clone());
        let seen = until(
            async || trouble(&upstream),
            |trouble| trouble.as_ref().is_some_and(|it| it.contains(told)),
        )
        .await;
        assert!(is_good(&members(&upstream)), "{says:?}: {seen:?}");
        server.says(NAME, good());
        until(async || trouble(&upstream), Option::is_none).await;
    }
    follower.abort();
}

#[tokio::test]
async fn records_too_long_for_udp_are_fetched_over_tcp() {
    let server = Server::start().await;
    let hosts: Vec<&'static str> = (0..200).map(|n| &*format!("h{n}.test.example").leak()).collect();
    server.says(NAME, Says::ServicesOverTcp(hosts.iter().map(|host| (1, 1, 5432, *host)).collect()));
    let (upstream, follower, _) = followed(&patient(&[&server]));
    until(async || members(&upstream).len(), |members| *members == 200).await;
    follower.abort();
}

#[tokio::test]
async fn the_records_of_another_name_are_found_behind_a_cname() {
    let server = Server::start().await;
    server.says(NAME, Says::AnotherName("_pg._tcp.test.example", 0, Vec::new(), 0));
    server.says("_pg._tcp.test.example", Says::Services(vec![(1, 1, 5432, "a.test.example")], 60));
    let (upstream, follower, _) = followed(&restless(&[&server]));
    // By the name that was written, all the same.
    let wanted = ["a.test.example:5432 tier 0 weight 1 as db.test.example"];
    until(async || members(&upstream), |members| *members == wanted).await;
    follower.abort();
}
