//! What becomes of connections that are open to an endpoint that goes down, or leaves the set.

use std::io::Read;

use super::harness::ambassador::Ambassador;
use super::harness::{Pki, Upstream, clients, config};

/// The record of the connection that was cut.
fn cut(ambassador: &mut Ambassador) -> serde_json::Value {
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(
        (&record["stage"], &record["reason"], &record["side"], &record["closed_by"]),
        (&"relay".into(), &"destination_unavailable".into(), &"upstream".into(), &"ambassador".into()),
        "{record}"
    );
    record
}

/// A server whose checks fail while it still holds its sessions: with `close_when_down` their clients go elsewhere, without it
/// they stay.
#[test]
fn connections_to_an_endpoint_that_goes_down_end_where_that_is_wanted() {
    let pki = Pki::generate();
    for closes in [true, false] {
        let server = Upstream::start(&pki);
        let checked = Upstream::start(&pki);
        let url = format!("http://{}/", checked.address());
        let keys = format!(
            "{}health = {{ kind = \"http\", url = \"{url}\", interval = \"50ms\", timeout = \"500ms\", fall = 3, close_when_down = {closes} }}\n",
            config::endpoints(&[server.address()])
        );
        let mut ambassador = Ambassador::start(&config::mtls(&pki, &keys));
        let mut client = clients::connect(ambassador.listener("in"));
        clients::echoes(&mut client, b"ping").unwrap();
        // What answers there is no HTTP.
        ambassador.wait_metric("nuncio_endpoint_up", &[], |up| up == 0.0);
        match closes {
            true => {
                assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
                cut(&mut ambassador);
            }
            false => clients::echoes(&mut client, b"ping").unwrap(),
        }
    }
}

/// A reload takes an endpoint out of the set: who is there has a while left, and those at the others have nothing to do with it.
#[test]
fn connections_to_an_endpoint_that_left_the_set_end_after_a_while() {
    let pki = Pki::generate();
    let (stays, leaves) = (Upstream::start(&pki), Upstream::start(&pki));
    let keys = |endpoints: &[_]| {
        let keys = config::endpoints(endpoints)
            + "balance = \"round_robin\"\nleave_timeout = \"300ms\"\nhealth.kind = \"off\"\n";
        config::mtls(&pki, &keys)
    };
    let mut ambassador = Ambassador::start(&keys(&[stays.address(), leaves.address()]));
    let mut all: Vec<_> = (0..2).map(|_| clients::connect(ambassador.listener("in"))).collect();
    all.iter_mut().for_each(|client| clients::echoes(client, b"ping").unwrap());
    assert_eq!((stays.open(), leaves.open()), (1, 1));
    ambassador.reloaded(&keys(&[stays.address()]));
    let record = cut(&mut ambassador);
    assert_eq!(record["endpoint"], leaves.address().to_string(), "{record}");
    let alive = all.iter_mut().filter_map(|client| clients::echoes(client, b"ping").ok()).count();
    assert_eq!(alive, 1);
}
