//! The harness around the real binary: what every other story rests on.

use std::time::Duration;

use super::harness::ambassador::Ambassador;
use super::harness::{PATIENCE, Pki, Upstream, clients, eventually};

/// A file with one upstream of these endpoints, and one listener.
fn config(pki: &Pki, endpoints: &[String]) -> String {
    format!(
        "[identity.test]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
         [upstream.echo]\nendpoints = {endpoints:?}\ntls = \"direct\"\nserver_name = \"upstream.test\"\nidentity = \"test\"\n\
         [listener.echo]\naddress = \"127.0.0.1:0\"\nupstream = \"echo\"\n",
        pki.ca(),
        pki.client.certificate,
        pki.client.key
    )
}

#[test]
fn a_connection_is_relayed_counted_and_recorded_and_the_ambassador_stops_when_told() {
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki);
    let mut ambassador = Ambassador::start(&config(&pki, &[upstream.address().to_string()]));
    let before = ambassador.process().descriptors();
    assert_eq!(clients::ask(ambassador.listener("echo"), b"through").unwrap(), b"through");
    let records = ambassador.wait_records(1);
    assert_eq!(records[0]["outcome"], "success", "{}", records[0]);
    ambassador.wait_metric(
        "nuncio_connections_total",
        &[("listener", "echo"), ("outcome", "success")],
        |n| n == 1.0,
    );
    ambassador.wait_state("/api/v1/status", "the listener is named", |status| {
        status["listeners"].as_array()?.iter().find(|it| it["name"] == "echo").map(drop)
    });
    eventually("its descriptors are back", PATIENCE, || {
        (ambassador.process().descriptors() <= before).then_some(())
    });
    assert!(ambassador.stop(Duration::from_secs(10)).success());
}
