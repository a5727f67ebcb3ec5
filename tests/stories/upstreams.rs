//! Bad input from servers: each ends in one record that says where, why and on whose side, and leaves nothing behind.

use std::time::Duration;

use rustls::AlertDescription;

use super::harness::hostile::Point;
use super::harness::scene::{Route, Scene, story};
use super::harness::{Hostile, Pki, Upstream, clients};

#[test]
fn every_hostile_server_ends_in_one_record_with_its_stage_reason_and_side() {
    let pki = Pki::generate();
    let cases: Vec<(&str, Hostile, &str)> = vec![
        ("closes", Hostile::ClosesAtOnce, ""),
        ("resets", Hostile::ResetsAtOnce, ""),
        ("silent", Hostile::NeverAnswers, ""),
        ("garbage", Hostile::Garbage, ""),
        ("alert-first", Hostile::AlertAt(Point::BeforeHello, AlertDescription::HandshakeFailure), ""),
        ("alert-hello", Hostile::AlertAt(Point::InsteadOfServerHello, AlertDescription::ProtocolVersion), ""),
        ("alert-after", Hostile::AlertAt(Point::AfterHandshake, AlertDescription::InternalError), ""),
        ("expired", Hostile::Expired, ""),
        ("not-yet", Hostile::NotYetValid, ""),
        ("wrong-name", Hostile::WrongName, ""),
        ("foreign-ca", Hostile::ForeignCa, ""),
        ("refuses-us", Hostile::LateClientCertAlert, ""),
        ("resets-after", Hostile::ResetsAfterHandshake, ""),
        ("closes-after", Hostile::ClosesAfterHandshake, ""),
        ("truncates-at-once", Hostile::TruncatesAfter(0), ""),
        ("truncates", Hostile::TruncatesAfter(100_000), ""),
    ];
    let peers: Vec<_> = cases.iter().map(|(_, hostile, _)| hostile.clone().start(&pki)).collect();
    let addresses: Vec<_> = peers.iter().map(|peer| [peer.address()]).collect();
    let routes: Vec<_> = cases.iter().zip(&addresses).map(|((name, ..), endpoints)| Route {
        name, endpoints, keys: "retry.attempts = 1\ntimeouts.handshake = \"300ms\"",
    }).collect();
    let mut scene = Scene::with(&pki, &routes);
    for (name, ..) in &cases {
        let got = clients::ask(scene.ambassador.listener(name), b"hello");
        println!("{name}: {:?}", got.map(|bytes| bytes.len()));
    }
    for record in scene.all_records(cases.len()) {
        println!("{}: {} | {} | {}", record["listener"], story(&record), record["detail"], record["duration_ms"]);
    }
    let _ = (Upstream::start, Duration::ZERO);
}
