//! What slices come to, by what the API's reference says of EndpointSlice v1, watches and bookmarks.

use super::*;

fn slice(name: &str, version: u32, family: &str, endpoints: &str, ports: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"prod","resourceVersion":"{version}"}},
            "addressType":"{family}","endpoints":{endpoints},"ports":{ports}}}"#
    )
}

const PG: &str = r#"[{"name":"postgres","port":5432,"protocol":"TCP"}]"#;

fn listed(slices: &[String]) -> Slices {
    let mut known = Slices::default();
    let body = format!(
        r#"{{"kind":"EndpointSliceList","metadata":{{"resourceVersion":"9"}},"items":[{}]}}"#,
        slices.join(",")
    );
    let page = known.page(body.as_bytes()).unwrap();
    assert_eq!(page, Page { version: "9".into(), next: None });
    known
}

fn made(slices: &Slices, port: Option<&str>) -> Vec<String> {
    let specs = slices.endpoints(port, <[IpAddr]>::to_vec).unwrap();
    let text = |spec: &EndpointSpec| {
        let mut zones = vec![spec.zone.as_deref().unwrap_or("-")];
        zones.extend(spec.for_zones.iter().map(|zone| &**zone));
        format!("{} {}", spec.address, zones.join(" "))
    };
    specs.iter().map(text).collect()
}

fn endpoints(of: &str) -> Vec<String> {
    made(&listed(&[slice("a", 1, "IPv4", of, PG)]), None)
}

#[test]
fn endpoints_that_are_ready_are_those_of_all_slices() {
    let known = listed(&[
        slice("a", 1, "IPv4", r#"[{"addresses":["10.0.0.1"],"conditions":{"ready":true},"zone":"a"}]"#, PG),
        slice(
            "b",
            2,
            "IPv4",
            r#"[{"addresses":["10.0.0.2"]},{"addresses":["10.0.0.3"],"conditions":{"ready":false}}]"#,
            PG,
        ),
        slice("c", 3, "FQDN", r#"[{"addresses":["db.example.com"]}]"#, PG),
        slice("d", 4, "IPv4", "null", "null"),
    ]);
    assert_eq!(made(&known, None), ["10.0.0.1:5432 a", "10.0.0.2:5432 -"]);
}

#[test]
fn with_none_ready_those_that_still_serve_while_they_end_are_used() {
    let ending =
        r#"{"addresses":["10.0.0.1"],"conditions":{"ready":false,"serving":true,"terminating":true}}"#;
    let broken =
        r#"{"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":false,"terminating":true}}"#;
    let starting =
        r#"{"addresses":["10.0.0.4"],"conditions":{"ready":false,"serving":false,"terminating":false}}"#;
    let ready =
        r#"{"addresses":["10.0.0.3"],"conditions":{"ready":true,"serving":true,"terminating":false}}"#;
    assert_eq!(endpoints(&format!("[{ending},{broken},{starting}]")), ["10.0.0.1:5432 -"]);
    assert_eq!(endpoints(&format!("[{ending},{broken},{ready}]")), ["10.0.0.3:5432 -"]);
    assert_eq!(endpoints(&format!("[{broken},{starting}]")), Vec::<String>::new());
}

#[test]
fn hints_say_from_which_zones_an_endpoint_is_to_be_used() {
    let of =
        |hints: &str| endpoints(&format!(r#"[{{"addresses":["10.0.0.1"],"zone":"a","hints":{hints}}}]"#));
    assert_eq!(of("null"), ["10.0.0.1:5432 a"]);
    assert_eq!(of(r#"{"forZones":[{"name":"b"}]}"#), ["10.0.0.1:5432 a b"]);
    assert_eq!(of(r#"{"forZones":[{"name":"b"},{"name":"c"}]}"#), ["10.0.0.1:5432 a b c"]);
    assert_eq!(of("{}"), ["10.0.0.1:5432 a"]);
}

#[test]
fn a_pod_with_an_address_of_each_family_is_one_endpoint() {
    let pod = |address: &str, uid: &str| {
        format!(r#"[{{"addresses":["{address}"],"targetRef":{{"kind":"Pod","uid":"{uid}"}}}}]"#)
    };
    let known = listed(&[
        slice("a", 1, "IPv6", &pod("fd00::1", "1"), PG),
        slice("b", 2, "IPv4", &pod("10.0.0.1", "1"), PG),
        slice("c", 3, "IPv6", &pod("fd00::2", "2"), PG),
        slice("d", 4, "IPv6", &pod("fd00::2", "2"), PG),
    ]);
    assert_eq!(made(&known, None), ["10.0.0.1:5432 -", "[fd00::2]:5432 -"]);
    let only_v6 = known.endpoints(None, |ips| ips.iter().filter(|ip| ip.is_ipv6()).copied().collect());
    assert_eq!(only_v6.unwrap().len(), 2, "on a host without IPv4");
}

#[test]
fn the_port_is_chosen_by_its_name_or_number_and_must_be_named_if_there_are_several() {
    let both = r#"[{"name":"postgres","port":5432,"protocol":"TCP"},{"name":"metrics","port":9187},{"name":"dns","port":53,"protocol":"UDP"}]"#;
    let known = listed(&[slice("a", 1, "IPv4", r#"[{"addresses":["10.0.0.1"]}]"#, both)]);
    assert_eq!(made(&known, Some("postgres")), ["10.0.0.1:5432 -"]);
    assert_eq!(made(&known, Some("9187")), ["10.0.0.1:9187 -"]);
    let told = |port| known.endpoints(port, <[IpAddr]>::to_vec).unwrap_err();
    assert_eq!(told(None), "the Service has several ports: postgres (5432), metrics (9187)");
    assert_eq!(
        told(Some("dns")),
        "the Service has no port dns over TCP; it has metrics (9187), postgres (5432)"
    );
}

#[test]
fn a_list_comes_in_pages() {
    let mut known = Slices::default();
    let body = format!(
        r#"{{"metadata":{{"resourceVersion":"7","continue":"next=="}},"items":[{}]}}"#,
        slice("a", 1, "IPv4", r#"[{"addresses":["10.0.0.1"]}]"#, PG)
    );
    assert_eq!(known.page(body.as_bytes()), Ok(Page { version: "7".into(), next: Some("next==".into()) }));
    let last = r#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#;
    assert_eq!(known.page(last.as_bytes()), Ok(Page { version: "7".into(), next: None }));
    assert_eq!(made(&known, None).len(), 1);
    for odd in ["", "<html>", "[]", r#"{"metadata":{}}"#, r#"{"kind":"Status","code":500}"#] {
        assert!(known.page(odd.as_bytes()).unwrap_err().contains("something else than a list"), "{odd}");
    }
}

#[test]
fn events_change_the_slices_and_move_the_version_on() {
    let mut known = listed(&[slice("a", 1, "IPv4", r#"[{"addresses":["10.0.0.1"]}]"#, PG)]);
    let mut told = |kind: &str, object: &str| {
        known.event(format!(r#"{{"type":"{kind}","object":{object}}}"#).as_bytes())
    };
    let at = |version: &str| Ok(Event::At(version.to_owned()));
    assert_eq!(told("ADDED", &slice("b", 10, "IPv4", r#"[{"addresses":["10.0.0.2"]}]"#, PG)), at("10"));
    assert_eq!(told("MODIFIED", &slice("a", 11, "IPv4", r#"[{"addresses":["10.0.0.3"]}]"#, PG)), at("11"));
    assert_eq!(told("DELETED", &slice("b", 12, "IPv4", "[]", PG)), at("12"));
    assert_eq!(told("BOOKMARK", r#"{"kind":"EndpointSlice","metadata":{"resourceVersion":"20"}}"#), at("20"));
    assert_eq!(told("OF_A_LATER_API", r#"{"metadata":{"resourceVersion":"21"}}"#), at("21"));
    assert_eq!(told("ERROR", r#"{"kind":"Status","code":410,"message":"too old"}"#), Ok(Event::Expired));
    assert_eq!(
        told("ERROR", r#"{"kind":"Status","code":500,"message":"etcd\u001b gone"}"#),
        Ok(Event::Failed("etcd gone".into()))
    );
    assert!(told("ADDED", "{}").unwrap_err().contains("something else than an event"));
    assert_eq!(made(&known, None), ["10.0.0.3:5432 -"]);
    assert!(known.event(b"half an ev").is_err());
}

/// An API that names other slices all the time, or one without end, is no reason to fill this host's memory; those that go make room.
#[test]
fn slices_are_taken_as_long_as_they_fit_into_memory() {
    let mut known = Slices::default();
    let event = |kind: &str, name: &str, uid: usize| {
        let endpoint =
            format!(r#"[{{"addresses":["10.0.0.1"],"targetRef":{{"uid":"{}"}}}}]"#, "u".repeat(uid));
        format!(r#"{{"type":"{kind}","object":{}}}"#, slice(name, 1, "IPv4", &endpoint, PG))
    };
    let mib = 1 << 20;
    for n in 0..100 {
        known.event(event("ADDED", &format!("s{n}"), mib).as_bytes()).unwrap();
        known.event(event("DELETED", &format!("s{n}"), mib).as_bytes()).unwrap();
        known.event(event("MODIFIED", "s", mib).as_bytes()).unwrap();
    }
    let mut taken = 0;
    let told = loop {
        match known.event(event("ADDED", &format!("t{taken}"), mib).as_bytes()) {
            Ok(_) => taken += 1,
            Err(told) => break told,
        }
    };
    assert!((28..32).contains(&taken), "{taken}");
    assert!(told.contains("more than 32 MiB"), "{told}");
    assert!(Slices::default().event(event("ADDED", "huge", 40 * mib).as_bytes()).is_err());
}
