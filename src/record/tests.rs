//! Records by the situation that they tell of.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::metrics::{Metrics, held};
use rustls_pki_types::CertificateDer;

/// What was printed.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        held(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Desk {
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    paper: Paper,
}

impl Desk {
    fn new(format: Format) -> Desk {
        Desk::at(format, |_| true)
    }

    fn at(format: Format, wanted: fn(tracing::Level) -> bool) -> Desk {
        let (metrics, paper) = (Metrics::new(), Paper::default());
        let journal = Journal::printing_to(Box::new(paper.clone()), format, metrics.clone(), wanted);
        Desk { metrics, journal, paper }
    }

    fn open(&self) -> Record {
        let client = ClientAddr::Tcp("127.0.0.1:50000".parse().unwrap());
        Record::open(&self.journal, &"orders".into(), &client, Instant::now())
    }

    fn printed(&self) -> String {
        assert!(self.journal.flush(Duration::from_secs(20)));
        String::from_utf8(held(&self.paper.0).clone()).unwrap()
    }

    /// The samples of a metric, with their labels.
    fn samples(&self, name: &str) -> HashMap<String, u64> {
        let text = self.metrics.encode(&[], &[]);
        let sample = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{'))
                .then(|| (labels.to_owned(), value.parse().unwrap()))
        };
        text.lines().filter_map(sample).collect()
    }
}

fn success() -> Ending {
    Ending { outcome: Outcome::Success, failure: None, closed_by: Some(Side::Client), quiet: false }
}

fn failed() -> Ending {
    let detail = "the certificate of db1 is for \"db2\"\r\nlevel=INFO id=0 \u{1b}[2J\u{202e}";
    let failure = Failure::upstream(Stage::Handshake, Reason::TlsCertificateError, detail)
        .mend("set server_name = \"db2\"");
    Ending {
        outcome: Outcome::Failed,
        failure: Some(failure),
        closed_by: Some(Side::Ambassador),
        quiet: false,
    }
}

/// Every field that there is, filled in.
fn fill(record: &mut Record) {
    let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
    let draft = record.draft();
    draft.user = Some(1000);
    draft.upstream = Some("orders".into());
    draft.endpoint = Some("db2.example:5432".into());
    draft.attempts = vec![
        Attempt {
            endpoint: "db1.example:5432".into(),
            stage: Some(Stage::Connect),
            reason: Some(Reason::ConnectionRefused),
            took: Duration::from_micros(512),
        },
        Attempt {
            endpoint: "db2.example:5432".into(),
            stage: None,
            reason: None,
            took: Duration::from_millis(9),
        },
    ];
    draft.times = Times {
        warm: None,
        queue: ms(1),
        resolve: ms(2),
        connect: ms(3),
        proxy: ms(4),
        negotiate: ms(5),
        handshake: ms(6),
    };
    draft.tls = Some(tls::Summary {
        version: "TLSv1.3",
        suite: "TLS13_AES_128_GCM_SHA256",
        group: Some("X25519MLKEM768"),
        resumed: false,
        alpn: Some("postgresql".into()),
        peer: Some(certificate()),
    });
    record.at_end().tcp = Some(TcpFacts { rtt: Duration::from_micros(250), retransmits: 2 });
    record.flow().add_sent(1000);
    record.flow().add_received(5000);
    record.flow().first_byte_after(Duration::from_millis(7));
    record.flow().answered_after(Duration::from_millis(8));
}

fn certificate() -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["db2.example".to_owned()]).unwrap();
    made.cert.der().clone()
}

#[test]
fn a_dropped_record_is_written_as_cancelled() {
    let desk = Desk::new(Format::Text);
    let record = desk.open();
    let id = record.id();
    assert_eq!(desk.journal.find(id).unwrap().state, State::Establishing);
    drop(record);
    let printed = desk.printed();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.contains(" INFO connection id=") && printed.contains("outcome=cancelled"), "{printed}");
    let view = desk.journal.find(id).unwrap();
    assert_eq!((view.state, view.outcome), (State::Ended, Some(Outcome::Cancelled)));
    assert!(desk.journal.live().is_empty());
}

#[tokio::test]
async fn a_panic_in_the_task_writes_the_record_as_a_fault_of_ours() {
    let desk = Desk::new(Format::Text);
    let mut record = desk.open();
    record.draft().upstream = Some("orders".into());
    record.relaying();
    let task = tokio::spawn(async move {
        tokio::task::yield_now().await;
        if record.stage == Stage::Relay {
            panic!("as the test wants");
        }
        record.close(success());
    });
    assert!(task.await.unwrap_err().is_panic());
    let printed = desk.printed();
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.contains(" WARN connection"), "{printed}");
    assert!(
        printed.contains("outcome=failed stage=relay reason=proxy_internal_error side=ambassador"),
        "{printed}"
    );
    assert_eq!(desk.samples("nuncio_connections_open").values().sum::<u64>(), 0);
}

#[test]
fn a_closed_record_is_written_once() {
    let desk = Desk::new(Format::Json);
    desk.open().close(success());
    assert_eq!(desk.printed().lines().count(), 1);
    assert_eq!(desk.samples("nuncio_connections_total").values().sum::<u64>(), 1);
}

#[test]
fn a_liveness_probe_is_counted_and_neither_printed_nor_remembered() {
    let desk = Desk::at(Format::Text, |level| level <= tracing::Level::INFO);
    let record = desk.open();
    let id = record.id();
    record.close(Ending { outcome: Outcome::Cancelled, quiet: true, ..success() });
    assert_eq!(desk.printed(), "");
    assert!(desk.journal.find(id).is_none());
    assert_eq!(desk.samples("nuncio_connections_total").values().sum::<u64>(), 1);
}

#[test]
fn a_json_line_parses_and_has_every_field() {
    let desk = Desk::new(Format::Json);
    let mut record = desk.open();
    fill(&mut record);
    record.relaying();
    record.close(failed());
    let printed = desk.printed();
    let line: serde_json::Value = serde_json::from_str(printed.strip_suffix('\n').unwrap()).unwrap();
    for (path, expected) in [
        ("/level", r#""warn""#),
        ("/event", r#""connection""#),
        ("/listener", r#""orders""#),
        ("/client", r#""127.0.0.1:50000""#),
        ("/uid", "1000"),
        ("/upstream", r#""orders""#),
        ("/endpoint", r#""db2.example:5432""#),
        ("/attempts/0/endpoint", r#""db1.example:5432""#),
        ("/attempts/0/stage", r#""connect""#),
        ("/attempts/0/reason", r#""connection_refused""#),
        ("/attempts/0/ms", "0.512"),
        ("/attempts/1/ms", "9.0"),
        ("/queue_ms", "1.0"),
        ("/resolve_ms", "2.0"),
        ("/connect_ms", "3.0"),
        ("/proxy_ms", "4.0"),
        ("/negotiate_ms", "5.0"),
        ("/handshake_ms", "6.0"),
        ("/first_byte_ms", "7.0"),
        ("/bytes_sent", "1000"),
        ("/bytes_received", "5000"),
        ("/exchanges", "1"),
        ("/tls/version", r#""TLSv1.3""#),
        ("/tls/suite", r#""TLS13_AES_128_GCM_SHA256""#),
        ("/tls/group", r#""X25519MLKEM768""#),
        ("/tls/resumed", "false"),
        ("/tls/alpn", r#""postgresql""#),
        ("/tls/peer/san/0", r#""db2.example""#),
        ("/rtt_ms", "0.25"),
        ("/retransmits", "2"),
        ("/outcome", r#""failed""#),
        ("/stage", r#""handshake""#),
        ("/reason", r#""tls_certificate_error""#),
        ("/side", r#""upstream""#),
        ("/closed_by", r#""ambassador""#),
        ("/next_step", r#""set server_name = \"db2\"""#),
        ("/state", r#""ended""#),
    ] {
        let found = line.pointer(path).unwrap_or_else(|| panic!("{path} is missing: {printed}"));
        assert_eq!(found.to_string(), expected, "{path}");
    }
    for path in [
        "/id",
        "/time",
        "/opened",
        "/duration_ms",
        "/throughput",
        "/exchange_p50_ms",
        "/exchange_p99_ms",
        "/detail",
        "/tls/peer/subject",
        "/tls/peer/san",
    ] {
        assert!(line.pointer(path).is_some(), "{path} is missing: {printed}");
    }
}

#[test]
fn text_that_a_peer_chose_stays_one_value_on_one_line() {
    let desk = Desk::new(Format::Text);
    let mut record = desk.open();
    record.draft().upstream = Some("orders".into());
    record.close(failed());
    let printed = desk.printed();
    assert_eq!(printed.lines().count(), 1, "{printed:?}");
    let (_, sentences) = printed.split_once(" detail=").unwrap();
    insta::assert_snapshot!(sentences.trim_end(), @r#""the certificate of db1 is for \"db2\"\r\nlevel=INFO id=0 \u{1b}[2J\u{202e}" next_step="set server_name = \"db2\"""#);
}

#[test]
fn a_text_line_reads_from_left_to_right() {
    let desk = Desk::new(Format::Text);
    let mut record = desk.open();
    fill(&mut record);
    record.draft().tls = record.draft().tls.take().map(|tls| tls::Summary { peer: None, ..tls });
    record.relaying();
    let id = record.id().to_string();
    record.close(failed());
    // What differs from run to run.
    let line: Vec<_> = desk
        .printed()
        .split_whitespace()
        .map(|word| match word.split_once('=') {
            Some((key @ ("duration_ms" | "throughput" | "exchange_p50_ms" | "exchange_p99_ms"), _)) => {
                format!("{key}=…")
            }
            _ => word.replace(&id, "ID"),
        })
        .skip(1)
        .take_while(|word| !word.starts_with("detail="))
        .collect();
    insta::assert_snapshot!(line.join(" "), @"WARN connection id=ID listener=orders client=127.0.0.1:50000 uid=1000 upstream=orders endpoint=db2.example:5432 outcome=failed stage=handshake reason=tls_certificate_error side=upstream closed_by=ambassador duration_ms=… bytes_sent=1000 bytes_received=5000 throughput=… queue_ms=1.000 resolve_ms=2.000 connect_ms=3.000 proxy_ms=4.000 negotiate_ms=5.000 handshake_ms=6.000 first_byte_ms=7.000 exchanges=1 exchange_p50_ms=… exchange_p99_ms=… tls=TLSv1.3 suite=TLS13_AES_128_GCM_SHA256 group=X25519MLKEM768 resumed=false alpn=postgresql rtt_ms=0.250 retransmits=2 attempts=db1.example:5432/connect/connection_refused/0.512ms,db2.example:5432/9.000ms");
}

#[test]
fn the_bytes_of_an_open_connection_are_counted_at_each_scrape_and_once() {
    let desk = Desk::new(Format::Json);
    let mut record = desk.open();
    fill(&mut record);
    record.relaying();
    let sent = r#"{listener="orders",upstream="orders",endpoint="db2.example:5432",direction="sent"}"#;
    assert_eq!(desk.samples("nuncio_bytes_total")[sent], 1000);
    record.flow().add_sent(1);
    assert_eq!(desk.samples("nuncio_bytes_total")[sent], 1001);
    let exchanges = || desk.samples("nuncio_exchange_duration_seconds_count").values().sum::<u64>();
    assert_eq!(exchanges(), 1);
    record.flow().answered_after(Duration::from_millis(8));
    record.flow().answered_after(Duration::from_secs(1));
    assert_eq!(exchanges(), 3);
    assert_eq!(desk.metrics.percentiles(&"orders".into()).exchange.count, 3);
    assert_eq!(desk.samples("nuncio_connections_open").values().sum::<u64>(), 1);
    assert_eq!(desk.journal.live()[0].state, State::Relaying);
    record.flow().add_sent(1);
    record.close(success());
    assert_eq!(desk.samples("nuncio_bytes_total")[sent], 1002);
    assert_eq!(exchanges(), 3);
    let stages = desk.samples("nuncio_stage_duration_seconds_count");
    assert_eq!(stages.values().sum::<u64>(), 7, "{stages:?}");
    assert!(stages.values().all(|count| *count == 1), "{stages:?}");
}

#[test]
fn counters_add_up_and_never_fall_whatever_way_thousands_end() {
    let desk = Desk::new(Format::Json);
    let (threads, each) = (4, 2500);
    let done = AtomicBool::new(false);
    let expected: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Relaxed) {
                let now = desk.samples("nuncio_bytes_total").values().sum();
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|seed| {
                let desk = &desk;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let (mut bytes, mut warned) = (0, 0);
                    let mut held_open = Vec::new();
                    for _ in 0..each {
                        let mut record = desk.open();
                        if rng.bool() {
                            record.draft().upstream = Some("orders".into());
                            record.draft().endpoint = Some(["a:1", "b:1", "c:1"][rng.usize(..3)].into());
                        }
                        if rng.bool() {
                            record.relaying();
                            let moved = rng.usize(..10_000);
                            record.flow().add_sent(moved);
                            bytes += moved as u64;
                        }
                        match rng.u8(..4) {
                            0 => record.close(success()),
                            1 => {
                                warned += 1;
                                record.close(failed());
                            }
                            2 => drop(record),
                            _ => held_open.push(record),
                        }
                    }
                    (bytes, warned)
                })
            })
            .collect();
        let expected = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        done.store(true, Relaxed);
        watcher.join().unwrap();
        expected
    });
    let total = threads * each;
    let bytes: u64 = expected.iter().map(|(bytes, _)| bytes).sum();
    let warned: u64 = expected.iter().map(|(_, warned)| warned).sum();
    assert_eq!(desk.samples("nuncio_bytes_total").values().sum::<u64>(), bytes);
    let ended = desk.samples("nuncio_connections_total");
    assert_eq!(ended.values().sum::<u64>(), total);
    let failures = ended.iter().filter(|(labels, _)| labels.contains("tls_certificate_error"));
    assert_eq!(failures.map(|(_, count)| count).sum::<u64>(), warned);
    assert_eq!(desk.samples("nuncio_connections_open").values().sum::<u64>(), 0);
    assert_eq!(desk.samples("nuncio_connection_duration_seconds_count").values().sum::<u64>(), total);
    assert_eq!(desk.journal.open_count(), 0);
    assert_eq!(desk.journal.ended().len(), 1024);
    let printed = desk.printed();
    let ids: std::collections::HashSet<String> = printed
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len() as u64, total);
}

#[test]
fn connections_to_one_server_share_what_was_agreed_and_what_its_certificate_says() {
    let desk = Desk::new(Format::Json);
    let der = certificate();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut record = desk.open();
        fill(&mut record);
        if let Some(tls) = &mut record.draft().tls {
            tls.peer = Some(der.clone());
        }
        record.relaying();
        open.push(record);
    }
    let views = desk.journal.live();
    let tls = |place: usize| views[place].tls.as_ref().unwrap();
    assert!(Arc::ptr_eq(tls(0), tls(1)));
}

#[test]
fn an_idle_connection_costs_a_third_of_a_kibibyte() {
    let table = size_of::<(ConnectionId, Arc<Entry>)>() * 2;
    let (record, entry) = (size_of::<Record>(), size_of::<Entry>());
    assert!(record + entry + table <= 368, "record {record}, entry {entry}, table {table} bytes");
}

/// What was told before the first byte stands behind who the client is: whatever it holds, it stays one value on one line.
#[test]
fn what_was_told_before_the_first_byte_stands_in_the_line() {
    let desk = Desk::new(Format::Text);
    let mut record = desk.open();
    let (options, user) = crate::context::Options::read(
        "correlation=job-7;max-attempts=1;deadline=2s;upstream=orders;endpoint=db1:5432;erp\n id",
    )
    .unwrap();
    let context = Context {
        source: Some("192.0.2.7:40000".parse().unwrap()),
        hides_source: false,
        destination: Some("db.example.com:5432".parse().unwrap()),
        authority: Some("a \"b\"".into()),
        unique_id: Some("dead".into()),
        user,
        options,
    };
    record.tell(Kind::ProxyProtocol, Some(&context), Some((7, Some("psql".into()))));
    let client = |text: &str| ClientAddr::Tcp(text.parse().unwrap());
    let open = desk.journal.find_by_client(&client("192.0.2.7:40000")).unwrap();
    assert_eq!(open.id, record.id());
    record.close(failed());
    assert_eq!(desk.journal.find_by_client(&client("127.0.0.1:50000")).unwrap().state, State::Ended);
    assert!(desk.journal.find_by_client(&client("192.0.2.7:40001")).is_none());
    let printed = desk.printed();
    let told = printed.split_once("listener=orders ").unwrap().1.split_once(" outcome=").unwrap().0;
    insta::assert_snapshot!(told, @r#"client=192.0.2.7:40000 pid=7 process=psql context=proxy_protocol via=127.0.0.1:50000 destination=db.example.com:5432 authority="a \"b\"" unique_id=dead user="erp\n id" correlation=job-7 max_attempts=1 deadline_ms=2000.000 asked_upstream=orders asked_endpoint=db1:5432"#);
}
