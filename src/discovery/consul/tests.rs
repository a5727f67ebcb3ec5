//! What answers mean, by what Consul's API documentation and a running agent say.

use hyper::HeaderMap;

use super::*;

fn settings() -> Settings {
    Settings {
        service: "orders-db".into(),
        address: "http://127.0.0.1:8500".parse().unwrap(),
        tag: None,
        datacenter: None,
        token_file: None,
        near: None,
        ca: None,
        certificate: None,
        key: None,
    }
}

fn answer(status: u16, body: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: HeaderMap::new(), body: body.into() }
}

fn made(body: &str) -> Vec<String> {
    let specs = read(&answer(200, body), &settings()).unwrap();
    specs.iter().map(|spec| format!("{} {} {:?}", spec.address, spec.weight, spec.zone)).collect()
}

/// One instance, as an agent writes it.
fn instance(node: &str, address: &str, port: u16, weight: u32) -> String {
    format!(
        r#"{{"Node":{{"ID":"1","Node":"n","Address":"{node}","Datacenter":"dc1","TaggedAddresses":null,"Meta":{{}}}},
            "Service":{{"ID":"db1","Service":"orders-db","Tags":["primary"],"Address":"{address}","Port":{port},
            "Weights":{{"Passing":{weight},"Warning":1}},"EnableTagOverride":false}},"Checks":[]}}"#
    )
}

#[test]
fn an_instance_is_at_its_own_address_or_at_its_nodes() {
    let body = [instance("10.0.0.1", "", 5432, 1), instance("10.0.0.2", "db2.example.com", 5433, 1)];
    assert_eq!(
        made(&format!("[{}]", body.join(","))),
        ["10.0.0.1:5432 1 None", "db2.example.com:5433 1 None"]
    );
    assert_eq!(made(&format!("[{}]", instance("fd00::1", "", 5432, 1))), ["[fd00::1]:5432 1 None"]);
    assert_eq!(made("[]"), Vec::<String>::new());
}

#[test]
fn weights_are_those_of_passing_instances_and_a_zone_is_the_instances_own() {
    let body = [instance("10.0.0.1", "", 1, 10), instance("10.0.0.2", "", 1, 60_000)];
    assert_eq!(made(&format!("[{}]", body.join(","))), ["10.0.0.1:1 1 None", "10.0.0.2:1 1000 None"]);
    let body =
        r#"[{"Node":{"Address":"10.0.0.1","Locality":{"Region":"eu","Zone":"eu-1a"}},"Service":{"Port":1}}]"#;
    assert_eq!(made(body), [r#"10.0.0.1:1 1 Some("eu-1a")"#]);
}

#[test]
fn with_near_the_nearest_is_used_first() {
    let body = [instance("10.0.0.1", "", 1, 1), instance("10.0.0.2", "", 1, 1)];
    let settings = Settings { near: Some("_agent".into()), ..settings() };
    let specs = read(&answer(200, &format!("[{}]", body.join(","))), &settings).unwrap();
    assert_eq!(specs.iter().map(|spec| spec.tier).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn an_instance_without_a_port_is_left_out_and_if_all_are_it_is_told() {
    let good = instance("10.0.0.1", "", 1, 1);
    let bad = instance("10.0.0.2", "", 0, 1);
    assert_eq!(made(&format!("[{good},{bad}]")).len(), 1);
    let failure = read(&answer(200, &format!("[{bad}]")), &settings()).unwrap_err();
    assert!(failure.detail.contains("'10.0.0.2:0'"), "{failure}");
}

#[test]
fn what_is_no_answer_is_told_with_its_mend() {
    for (status, body, told, mend) in [
        (403, "Permission denied", "403 Forbidden: Permission denied", "service:read"),
        (500, "No cluster leader", "500 Internal Server Error: No cluster leader", "the agent's log"),
        (404, "<html>nginx</html>", "404 Not Found: nginx", "a Consul agent?"),
        (200, "<html>", "line 1 column 1", "a Consul agent?"),
        (200, r#"[{"Node":{}}]"#, "missing field `Address`", "a Consul agent?"),
        (200, r#"[{"Node":{"Address":"a"},"Service":{"Port":70000}}]"#, "line 1 column", "a Consul agent?"),
    ] {
        let failure = read(&answer(status, body), &settings()).unwrap_err();
        assert!(failure.detail.contains(told), "{failure}");
        assert!(failure.next_step().contains(mend), "{failure}: {}", failure.next_step());
    }
}

#[test]
fn the_index_goes_forward_and_is_given_up_when_it_goes_back_or_is_none() {
    let mut index = Index::default();
    for (said, kept) in [
        (Some(7), Some(7)),
        (Some(7), Some(7)),
        (Some(9), Some(9)),
        (Some(3), None),
        (Some(3), Some(3)),
        (Some(0), None),
        (Some(5), Some(5)),
        (None, None),
    ] {
        index.advance(said);
        assert_eq!(index.0, kept, "after {said:?}");
    }
}

#[test]
fn the_first_query_does_not_wait_and_nothing_that_is_written_leaves_its_place() {
    let asked = path(&settings(), Index(None));
    assert_eq!(asked, "/v1/health/service/orders-db?passing=true");
    let settings = Settings {
        service: "a/../b?x".into(),
        tag: Some("v 1".into()),
        datacenter: Some("dc1".into()),
        near: Some("_agent".into()),
        ..settings()
    };
    let asked = path(&settings, Index(Some(7)));
    assert_eq!(
        asked,
        "/v1/health/service/a%2F..%2Fb%3Fx?passing=true&tag=v%201&dc=dc1&near=_agent&index=7&wait=30s"
    );
}

#[test]
fn an_agent_that_is_away_is_asked_within_a_second_and_one_that_only_fails_less_and_less() {
    let mut rng = Rng::with_seed(3);
    for times in 1..10_000 {
        assert!(pause(times, true, &mut rng) < Duration::from_secs(1));
        let answered = pause(times, false, &mut rng);
        assert!(answered <= if times < RESTART { SOON } else { LATER }, "{times}: {answered:?}");
    }
    assert!(pause(10_000, false, &mut rng) >= LATER.mul_f64(0.4));
    // An answer without an index must not be followed by the next question at once.
    assert!(Index(None).rest(true, &mut rng) >= SOON.mul_f64(0.5));
    // Nor one that says at once that nothing is new.
    assert!(Index(Some(7)).rest(false, &mut rng) >= SOON.mul_f64(0.5));
    assert!(Index(Some(7)).rest(true, &mut rng) <= BREATH);
}

/// One answer after the other, to a source that follows: each way to fail is told and followed by another question soon, without
/// an index that may no longer hold.
#[tokio::test]
async fn after_each_failure_it_asks_again_from_the_beginning() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Origin::new(false, listener.local_addr().unwrap().into());
    let good = format!("[{}]", instance("10.0.0.1", "", 5432, 1));
    let with = |status: &str, index: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nX-Consul-Index: {index}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answers = [
        (with("200 OK", "7", &good), "passing=true", Ok(1)),
        (with("200 OK", "8", "[]"), "passing=true&index=7&wait=30s", Ok(0)),
        (
            with("500 Internal Server Error", "9", "rpc error"),
            "passing=true&index=8&wait=30s",
            Err("rpc error"),
        ),
        (with("200 OK", "3", &good), "passing=true", Ok(1)),
        (String::new(), "passing=true&index=3&wait=30s", Err("hung up")),
        (with("200 OK", "many", &good), "passing=true", Ok(1)),
        (with("200 OK", "5", "["), "passing=true", Err("EOF while parsing")),
    ];
    let resolver = Resolver::new(&super::super::DnsSettings::default()).unwrap();
    let mut source = discover(&Settings { address, ..settings() }, &resolver);
    for (answer, asked, comes_to) in answers {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap()
        };
        let begun = Instant::now();
        let (head, told) = tokio::join!(serve, source.next());
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let path = head.split(' ').nth(1).unwrap();
        assert!(path.ends_with(asked), "{path} instead of {asked}");
        match (told, comes_to) {
            (Ok(specs), Ok(count)) => assert_eq!(specs.len(), count),
            (Err(failure), Err(words)) => assert!(failure.detail.contains(words), "{failure}"),
            (told, _) => panic!("{told:?} for {answer}"),
        }
    }
}
