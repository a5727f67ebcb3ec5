//! What the admin tells while the ambassador works, and to whom.

use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::process::Process;
use super::super::harness::{PATIENCE, clients, eventually, free_address, http};
use super::{World, echoes, listener};

/// One connection, seen from all sides while it lives, and found by its id after its end.
#[test]
fn a_connection_is_seen_while_it_lives_and_found_when_it_is_over() {
    let world = World::new();
    let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "")));
    let mut client = clients::connect(nuncio.listener("in"));
    echoes(&mut client).unwrap();

    assert_eq!(nuncio.get("/healthz").body, "ok\n");
    assert_eq!(nuncio.get("/readyz").status, 200);
    let status = nuncio.get("/api/v1/status").json();
    assert_eq!(status["connections_open"], 1, "{status}");
    assert_eq!(status["pid"], nuncio.process().pid());
    assert_eq!(status["listeners"][0]["addresses"][0], nuncio.listener("in").to_string());
    let endpoint = nuncio.get("/api/v1/upstreams").json()[0]["endpoints"][0].clone();
    assert_eq!(
        (&endpoint["open"], &endpoint["breaker"], &endpoint["ready"]),
        (&1.into(), &"closed".into(), &true.into())
    );
    let labels = [("listener", "in"), ("upstream", "up")];
    assert_eq!(nuncio.metric("nuncio_connections_open", &labels), 1.0);

    let all = nuncio.get("/api/v1/connections").json();
    assert_eq!(all["total"], 1, "{all}");
    let seen = &all["connections"][0];
    assert_eq!(seen["client"], client.local_addr().unwrap().to_string());
    assert_eq!(
        (&seen["state"], &seen["bytes_sent"], &seen["listener"]),
        (&"relaying".into(), &4.into(), &"in".into())
    );
    assert_eq!(seen["tls"]["version"], "TLSv1.3");
    assert_eq!(nuncio.get("/api/v1/connections?upstream=other").json()["total"], 0);
    let page = format!("/api/v1/connections/{}", seen["id"].as_str().unwrap());
    assert_eq!(nuncio.get(&page).json()["id"], seen["id"]);

    drop(client);
    let ended =
        nuncio.wait_state(&page, "it has ended", |view| (view["state"] == "ended").then(|| view.clone()));
    assert_eq!((&ended["outcome"], &ended["closed_by"]), (&"success".into(), &"client".into()), "{ended}");
    let record = nuncio.wait_records(1).remove(0);
    for key in ["id", "outcome", "bytes_sent", "bytes_received", "endpoint", "client"] {
        assert_eq!(record[key], ended[key], "{key}");
    }
    assert_eq!(nuncio.get("/api/v1/connections").json()["total"], 0);
    assert_eq!(nuncio.metric("nuncio_connections_open", &labels), 0.0);
    assert_eq!(nuncio.metric("nuncio_connections_total", &[("outcome", "success")]), 1.0);
    assert_eq!(nuncio.metric("nuncio_bytes_total", &[("direction", "sent")]), 4.0);
    assert_eq!(nuncio.get("/api/v1/connections/nonsense").status, 400);
}

/// Load balancers and kubelets connect and leave: counted, and not a line at info; at debug they are there.
#[test]
fn bare_liveness_probes_are_counted_and_kept_quiet() {
    let world = World::new();
    for (level, lines) in [("info", 0), ("debug", 5)] {
        let config =
            world.up() + &listener("in", "") + &format!("[log]\nformat = \"json\"\nlevel = \"{level}\"\n");
        let mut nuncio = Ambassador::start(&config);
        (0..5).for_each(|_| clients::leaves(nuncio.listener("in")));
        nuncio.wait_metric("nuncio_connections_total", &[("listener", "in")], |count| count == 5.0);
        echoes(&mut clients::connect(nuncio.listener("in"))).unwrap();
        let records = nuncio.wait_records(lines + 1);
        assert_eq!(records.len(), lines + 1, "{level}: {records:?}");
        assert_eq!(nuncio.get("/readyz").status, 200);
    }
}

/// A web page whose name resolves to loopback gets nothing, nor does one of another origin; a wrong method changes nothing.
#[test]
fn a_page_in_a_browser_gets_nothing() {
    let world = World::new();
    let nuncio = Ambassador::start(&(world.up() + &listener("in", "")));
    let ask = |line: &str, headers: &str| {
        http::request(nuncio.admin(), &format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
            .unwrap()
    };
    let rebound = ask("GET /api/v1/status", "Host: evil.example\r\n");
    assert_eq!(rebound.status, 421);
    assert!(!rebound.body.contains("pid"), "{}", rebound.body);
    let foreign = ask("GET /api/v1/status", "Host: localhost\r\nOrigin: http://evil.example\r\n");
    assert_eq!(foreign.status, 403);
    assert_eq!(ask("GET /api/v1/status", "Host: localhost\r\n").status, 200);
    assert_eq!(ask("POST /api/v1/status", "Host: localhost\r\n").status, 405);
    assert_eq!(ask("GET /nothing", "Host: localhost\r\n").status, 404);
}

/// On a Unix socket, whatever the Host; its file is for its owner and group, and goes at the end.
#[cfg(unix)]
#[test]
fn the_admin_answers_on_a_unix_socket() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;
    let world = World::new();
    let path = world.pki.directory().join("admin.sock");
    let both = format!("[admin]\naddress = [\"127.0.0.1:0\", \"unix:{}\"]\n", path.display());
    let mut nuncio = Ambassador::start(&(world.up() + &listener("in", "") + &both));
    nuncio.wait_line("admin.sock");
    let get = "GET /readyz HTTP/1.1\r\nHost: nuncio\r\nConnection: close\r\n\r\n";
    let answer = http::request_on(UnixStream::connect(&path).unwrap(), get).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660);
    assert_eq!(nuncio.get("/readyz").status, 200);
    assert!(nuncio.stop(PATIENCE).success());
    assert!(!path.exists());
}

/// A real Prometheus scrapes it and has what it counted; promtool finds nothing to complain of.
#[test]
#[ignore = "needs prometheus: tests/run installs it"]
fn prometheus_scrapes_it() {
    let world = World::new();
    let nuncio = Ambassador::start(&(world.up() + &listener("in", "")));
    let mut client = clients::connect(nuncio.listener("in"));
    echoes(&mut client).unwrap();

    let (directory, address) = (tempfile::tempdir().unwrap(), free_address());
    let file = directory.path().join("prometheus.yml");
    let scrape = format!(
        "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n- job_name: nuncio\n  \
         static_configs:\n  - targets: ['{}']\n",
        nuncio.admin()
    );
    std::fs::write(&file, scrape).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut prometheus = Process::start("prometheus", &mut command);
    prometheus.wait("it listens", PATIENCE, |_| TcpStream::connect(address).ok());
    let ask = |query: &str| -> Vec<Value> {
        let answer = http::get(address, &format!("/api/v1/query?query={query}"));
        let answer = answer.ok().filter(|answer| answer.status == 200).map(|answer| answer.json());
        answer.and_then(|answer| answer["data"]["result"].as_array().cloned()).unwrap_or_default()
    };
    let series = eventually("prometheus has the open connection", PATIENCE, || {
        ask("nuncio_connections_open==1").into_iter().next()
    });
    assert_eq!((&series["metric"]["listener"], &series["metric"]["upstream"]), (&"in".into(), &"up".into()));
    drop(client);
    eventually("prometheus has its end", PATIENCE, || {
        ask("nuncio_connections_total{outcome=\"success\"}==1").into_iter().next()
    });
    let samples = ask("nuncio_stage_duration_seconds_count{stage=\"handshake\"}");
    assert_eq!(samples[0]["value"][1], "1", "{samples:?}");
    assert_eq!(ask("up")[0]["value"][1], "1");

    let file = directory.path().join("metrics.txt");
    std::fs::write(&file, nuncio.get("/metrics").body).unwrap();
    let check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output();
    let check = check.expect("promtool comes with prometheus");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
