//! The exposition as a scraper and a dashboard see it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::failure::{Outcome, Reason, Side, Stage};
use crate::upstream::EndpointView;
use crate::upstream::pool::PoolView;

fn view(endpoints: &[(&str, &'static str, &'static str)]) -> UpstreamView {
    let endpoint = |(address, health, breaker): &(&str, &'static str, &'static str)| EndpointView {
        address: (*address).into(),
        weight: 1,
        backup: false,
        tier: 0,
        zone: None,
        for_zones: std::sync::Arc::default(),
        health,
        breaker_shadow: None,
        operator: None,
        breaker,
        reopens_in_ms: None,
        open: 0,
        ready: true,
        full_at: None,
        panicking: false,
        last_failure: None,
        established_total: 0,
        failed_total: 0,
        establish_ms: None,
    };
    UpstreamView {
        name: "orders".into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        waiting: 0,
        panicking: false,
        source: None,
        pool: Some(PoolView { ready: 3, dialling: 1, given_total: 7, missed_total: 2 }),
    }
}

/// Waits until the user databases have been asked.
fn wait_for_its_name(metrics: &Metrics) {
    while !metrics.encode(&[], &[]).contains("nuncio_user_connections_open{") {
        std::thread::yield_now();
    }
}

/// Every metric has had something to count.
fn busy() -> (Arc<Metrics>, Vec<UpstreamView>) {
    let metrics = Metrics::new();
    let (listener, upstream, endpoint) = ("orders".into(), "orders".into(), "db1:5432".into());
    let series = metrics.series(&listener, Some(&upstream), Some(&endpoint));
    series.moved(10, 20);
    let (stage, cause) = (Some(Stage::Handshake), Some((Reason::TlsAlertReceived, Side::Upstream)));
    series.ended(End { outcome: Outcome::Failed, stage, cause }, Duration::from_millis(30));
    series.ended(End { outcome: Outcome::Success, stage: None, cause: None }, Duration::from_secs(30));
    let of_upstream = metrics.upstream(&upstream);
    of_upstream.stage(Timed::Connect, Duration::from_millis(2));
    of_upstream.exchanges(Duration::from_millis(3), 5);
    metrics.attempt(&upstream, "success");
    metrics.attempt(&upstream, Reason::ConnectionRefused.label());
    metrics.budget_exhausted(&upstream);
    metrics.health_check("orders", "db1:5432", true);
    metrics.breaker_transition("orders", "db1:5432", "open", "enforced");
    metrics.certificates([("corp", "CN=\"a\", O=b\\c\nd", UNIX_EPOCH + Duration::from_secs(2_000_000_000))]);
    // Nobody has this number: it is called by it.
    let user = metrics.user(Some(3_999_999_999), Some(&upstream));
    user.moved(1, 2);
    user.ended(Outcome::Failed, Duration::from_millis(1500));
    wait_for_its_name(&metrics);
    metrics.reload(true);
    metrics.reload(false);
    (metrics, vec![view(&[("db1:5432", "up", "open"), ("db2:5432", "down", "half-open")])])
}

#[test]
fn the_names_are_those_that_dashboards_hold_on_to() {
    let (metrics, views) = busy();
    let text = metrics.encode(&views, &[]);
    for sample in [
        r#"nuncio_connections_total{listener="orders",upstream="orders",endpoint="db1:5432",outcome="failed",stage="handshake",reason="tls_alert_received",side="upstream"} 1"#,
        r#"nuncio_connections_total{listener="orders",upstream="orders",endpoint="db1:5432",outcome="success",stage="",reason="",side=""} 1"#,
        r#"nuncio_connections_open{listener="orders",upstream="orders",endpoint="db1:5432"} 0"#,
        r#"nuncio_bytes_total{listener="orders",upstream="orders",endpoint="db1:5432",direction="sent"} 10"#,
        r#"nuncio_bytes_total{listener="orders",upstream="orders",endpoint="db1:5432",direction="received"} 20"#,
        r#"nuncio_connection_duration_seconds_bucket{le="60.0",listener="orders",upstream="orders"} 2"#,
        r#"nuncio_connection_duration_seconds_sum{listener="orders",upstream="orders"} 30.03"#,
        r#"nuncio_stage_duration_seconds_bucket{le="0.0025",upstream="orders",stage="connect"} 1"#,
        r#"nuncio_exchange_duration_seconds_count{upstream="orders"} 5"#,
        r#"nuncio_endpoint_up{upstream="orders",endpoint="db2:5432"} 0"#,
        r#"nuncio_breaker_state{upstream="orders",endpoint="db1:5432"} 2"#,
        r#"nuncio_breaker_transitions_total{upstream="orders",endpoint="db1:5432",to="open",mode="enforced"} 1"#,
        r#"nuncio_attempts_total{upstream="orders",result="success"} 1"#,
        r#"nuncio_attempts_total{upstream="orders",result="connection_refused"} 1"#,
        r#"nuncio_retry_budget_exhausted_total{upstream="orders"} 1"#,
        r#"nuncio_health_checks_total{upstream="orders",endpoint="db1:5432",result="success"} 1"#,
        r#"nuncio_certificate_expiry_timestamp_seconds{identity="corp",subject="CN=\"a\", O=b\\c\nd"} 2000000000"#,
        r#"nuncio_config_reloads_total{result="success"} 1"#,
        r#"nuncio_user_connections_total{user="3999999999",upstream="orders",outcome="failed"} 1"#,
        r#"nuncio_user_connections_total{user="3999999999",upstream="orders",outcome="refused"} 0"#,
        r#"nuncio_user_connections_open{user="3999999999",upstream="orders"} 0"#,
        r#"nuncio_user_connection_seconds_total{user="3999999999",upstream="orders"} 1.5"#,
        r#"nuncio_user_bytes_total{user="3999999999",upstream="orders",direction="sent"} 1"#,
        r#"nuncio_user_bytes_total{user="3999999999",upstream="orders",direction="received"} 2"#,
        concat!(r#"nuncio_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} is not in\n{text}");
    }
    assert!(text.contains("\nnuncio_config_last_success_timestamp_seconds 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_shows_itself() {
    let text = Metrics::new().encode(&[], &[]);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
    }
}

#[test]
fn an_endpoint_that_left_is_forgotten_after_an_hour_and_not_while_it_is_used() {
    let (metrics, _) = busy();
    let start = Instant::now();
    let shown = |metrics: &Metrics| plain(&metrics.encode(&[], &[])).matches("db1:5432").count();
    metrics.forget(&[], start);
    metrics.forget(&[], start + Duration::from_secs(3599));
    assert!(shown(&metrics) > 0);
    let open = metrics.series(&"orders".into(), Some(&"orders".into()), Some(&"db1:5432".into())).opened();
    metrics.forget(&[], start);
    metrics.forget(&[], start + Duration::from_secs(7200));
    assert!(shown(&metrics) > 0);
    drop(open);
    metrics.forget(&[], start + Duration::from_secs(7200));
    assert_eq!(shown(&metrics), 0);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_nothing_to_complain_of() {
    let (metrics, views) = busy();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(plain(&metrics.encode(&views, &[])).as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
}
