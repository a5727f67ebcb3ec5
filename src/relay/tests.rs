//! What a relayed connection does when its ends do what ends do: whole relays, over real rustls servers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::{AlertDescription, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::testkit::{Pki, Seen, TLS12, TLS13, Ware, Wire, server_name, tcp_pair};
use super::*;
use crate::tls::handshake::{Progress, handshake};
use crate::tls::unbuffered::Unbuffered;

/// A relay at work, and what the test looks at.
struct Relay {
    task: JoinHandle<Ended>,
    flow: Arc<Flow>,
    client: Arc<Seen>,
    upstream: Arc<Seen>,
    stop: oneshot::Sender<()>,
}

impl Relay {
    fn start<A, B>(
        mut client: Wire<A>,
        mut upstream: Wire<B>,
        engine: Option<Carried<Unbuffered>>,
        settings: Settings,
    ) -> Relay
    where
        A: Ware + 'static,
        B: Ware + 'static,
    {
        let flow = Arc::new(Flow::default());
        let (stop, stopped) = oneshot::channel();
        let (client_seen, upstream_seen) = (client.seen.clone(), upstream.seen.clone());
        let counted = flow.clone();
        let task = tokio::spawn(async move {
            let stop = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await; // nobody can stop it any more
                }
            };
            run(&mut client, &mut upstream, engine, None, &settings, &counted, stop).await
        });
        Relay { task, flow, client: client_seen, upstream: upstream_seen, stop }
    }

    async fn ended(self) -> Ended {
        within(self.task).await.unwrap()
    }
}

/// Nothing here takes long; if it hangs, say so.
async fn within<F: Future>(what: F) -> F::Output {
    timeout(Duration::from_secs(120), what).await.expect("it hangs")
}

/// A relay between a client and a TLS server, over wires of the caller's.
async fn tls<A, B, S>(
    versions: &[&'static SupportedProtocolVersion],
    settings: Settings,
    client: Wire<A>,
    mut upstream: Wire<B>,
    server: S,
) -> (Relay, TlsStream<S>)
where
    A: Ware + 'static,
    B: Ware + 'static,
    S: Ware + 'static,
{
    let pki = Pki::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(versions)));
    let server = tokio::spawn(async move { acceptor.accept(server).await.unwrap() });
    let mut progress = Progress::default();
    let secured = within(handshake(&mut upstream, pki.client(), server_name(), &mut progress)).await.unwrap();
    let relay = Relay::start(client, upstream, Some(secured.carried), settings);
    (relay, within(server).await.unwrap())
}

async fn tls_in_memory(settings: Settings) -> (Relay, DuplexStream, TlsStream<DuplexStream>) {
    let (app, client) = duplex(64 * 1024);
    let (upstream, server) = duplex(64 * 1024);
    let (relay, server) = tls(TLS13, settings, Wire::new(client), Wire::new(upstream), server).await;
    (relay, app, server)
}

async fn tls_over_tcp(settings: Settings) -> (Relay, TcpStream, TlsStream<TcpStream>) {
    let ((app, client), (upstream, server)) = (tcp_pair().await, tcp_pair().await);
    let (relay, server) = tls(TLS13, settings, Wire::new(client), Wire::new(upstream), server).await;
    (relay, app, server)
}

async fn plain_over_tcp(settings: Settings) -> (Relay, TcpStream, TcpStream) {
    let ((app, client), (upstream, server)) = (tcp_pair().await, tcp_pair().await);
    (Relay::start(Wire::new(client), Wire::new(upstream), None, settings), app, server)
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| rng.u8(..)).collect()
}

async fn expect<S: AsyncRead + Unpin>(stream: &mut S, what: &[u8]) {
    let mut got = vec![0; what.len()];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert!(got == what, "other bytes than were sent");
}

async fn expect_end<S: AsyncRead + Unpin>(stream: &mut S) {
    assert_eq!(within(stream.read(&mut [0])).await.unwrap(), 0);
}

/// Sends both ways at once in odd sizes, closes both in order, and checks every byte.
async fn exchange<A, S>(app: A, server: S, length: usize)
where
    A: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn send<W: AsyncWrite + Unpin>(mut to: W, seed: u64, length: usize) {
        let data = pattern(seed, length);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.usize(1..=40_000).min(rest.len()));
            to.write_all(now).await.unwrap();
            to.flush().await.unwrap();
            rest = later;
        }
        to.shutdown().await.unwrap();
    }
    async fn receive<R: AsyncRead + Unpin>(mut from: R, seed: u64, length: usize) {
        let mut got = Vec::new();
        from.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(seed, length), "got {} bytes, and not the {length} that were sent", got.len());
    }
    let (app_in, app_out) = tokio::io::split(app);
    let (server_in, server_out) = tokio::io::split(server);
    within(async {
        tokio::join!(
            send(app_out, 1, length),
            receive(server_in, 1, length),
            send(server_out, 2, length + 777),
            receive(app_in, 2, length + 777),
        )
    })
    .await;
}

fn closed_in_order(ended: &Ended) {
    assert_eq!(ended.how, How::Closed);
    assert!(ended.upstream_spoke);
}

#[tokio::test]
async fn megabytes_both_ways_over_hostile_wires_arrive_whole() {
    for (seed, versions) in [(1, TLS13), (2, TLS12), (3, TLS13), (4, TLS12)] {
        let (app, client) = duplex(30_000);
        let (upstream, server) = duplex(50_000);
        let client = Wire::hostile(client, seed, 100_000);
        let upstream = Wire::hostile(upstream, seed + 100, 70_000);
        let (relay, server) = tls(versions, Settings::default(), client, upstream, server).await;
        exchange(app, server, 1_500_000).await;
        assert_eq!((relay.flow.sent(), relay.flow.received()), (1_500_000, 1_500_777));
        assert!(relay.flow.first_byte().is_some());
        closed_in_order(&relay.ended().await);
    }
}

#[tokio::test]
async fn megabytes_over_tcp_arrive_whole() {
    let (relay, app, server) = tls_over_tcp(Settings::default()).await;
    exchange(app, server, 5_000_000).await;
    closed_in_order(&relay.ended().await);
}

#[tokio::test]
async fn without_tls_megabytes_arrive_whole() {
    let (relay, app, server) = plain_over_tcp(Settings::default()).await;
    exchange(app, server, 5_000_000).await;
    closed_in_order(&relay.ended().await);

    let ((app, client), (upstream, server)) = (duplex(3_000), duplex(5_000));
    let (client, upstream) = (Wire::hostile(client, 5, 9_000), Wire::hostile(upstream, 6, 9_000));
    let relay = Relay::start(client, upstream, None, Settings::default());
    exchange(app, server, 300_000).await;
    closed_in_order(&relay.ended().await);
}

#[tokio::test]
async fn wires_that_carry_one_byte_at_a_time_carry_all_of_them() {
    for versions in [TLS13, TLS12] {
        let ((app, client), (upstream, server)) = (duplex(1), duplex(1));
        let (client, upstream) = (Wire::hostile(client, 7, 1), Wire::hostile(upstream, 8, 1));
        let (relay, server) = tls(versions, Settings::default(), client, upstream, server).await;
        exchange(app, server, 5_000).await;
        closed_in_order(&relay.ended().await);
    }
}

#[tokio::test]
async fn when_memory_is_spent_small_buffers_still_carry_everything() {
    pool::set_budget(0);
    let ((app, client), (upstream, server)) = (duplex(9_000), duplex(70_000));
    let (client, upstream) = (Wire::hostile(client, 9, 50_000), Wire::hostile(upstream, 10, 50_000));
    let (relay, server) = tls(TLS13, Settings::default(), client, upstream, server).await;
    exchange(app, server, 400_000).await;
    closed_in_order(&relay.ended().await);
    pool::set_budget(128 * 1024 * 1024);
}

#[tokio::test]
async fn the_last_flight_goes_out_with_the_clients_first_data_in_one_write() {
    let ((mut app, client), (upstream, server)) = (duplex(64_000), duplex(64_000));
    app.write_all(b"query").await.unwrap();
    let (client, upstream) = (Wire::new(client), Wire::new(upstream));
    let before = upstream.seen.clone();
    let (relay, mut server) = tls(TLS13, Settings::default(), client, upstream, server).await;
    expect(&mut server, b"query").await;
    assert_eq!(before.writes.load(Ordering::SeqCst), 2, "the hello, then everything else");
    drop(app);
    expect_end(&mut server).await;
    server.shutdown().await.unwrap();
    assert_eq!(relay.ended().await.closed_by, Some(Party::Client));
}

#[tokio::test]
async fn a_server_that_speaks_first_need_not_wait_for_the_client() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"220 ready").await.unwrap();
    expect(&mut app, b"220 ready").await;
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
}

#[tokio::test]
async fn a_client_that_closed_still_gets_its_answer() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    expect(&mut server, b"question").await;
    expect_end(&mut server).await; // close_notify: without it this would be an error
    server.write_all(&pattern(1, 100_000)).await.unwrap();
    server.shutdown().await.unwrap();
    expect(&mut app, &pattern(1, 100_000)).await;
    expect_end(&mut app).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Client));
}

#[tokio::test]
async fn a_server_that_closed_still_gets_the_clients_data() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    expect(&mut app, b"bye").await;
    expect_end(&mut app).await;
    app.write_all(b"one more thing").await.unwrap();
    app.shutdown().await.unwrap();
    expect(&mut server, b"one more thing").await;
    expect_end(&mut server).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Upstream));
}

#[tokio::test]
async fn a_truncated_stream_is_delivered_and_then_reset() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    relay.client.unsent.store(1, Ordering::SeqCst);
    server.write_all(&pattern(1, 300_000)).await.unwrap();
    server.flush().await.unwrap();
    let (mut socket, _) = server.into_inner();
    socket.shutdown().await.unwrap(); // FIN, and no close_notify
    expect(&mut app, &pattern(1, 300_000)).await;
    relay.client.unsent.store(0, Ordering::SeqCst);
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert_eq!(
        (ended.how, ended.closed_by, ended.upstream_spoke),
        (How::Truncated, Some(Party::Upstream), true)
    );
}

#[tokio::test]
async fn a_server_that_answers_the_clients_goodbye_with_a_bare_fin_truncates_nothing() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    app.write_all(b"PING").await.unwrap();
    expect(&mut server, b"PING").await;
    server.write_all(b"PONG").await.unwrap();
    expect(&mut app, b"PONG").await;
    app.shutdown().await.unwrap();
    expect_end(&mut server).await;
    server.into_inner().0.shutdown().await.unwrap(); // FIN, and no close_notify
    expect_end(&mut app).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Client));
}

#[tokio::test]
async fn an_answer_after_the_clients_goodbye_that_ends_in_a_bare_fin_may_be_cut_or_missing() {
    for answer in [&b"half an ans"[..], b""] {
        let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
        app.write_all(b"question").await.unwrap();
        app.shutdown().await.unwrap();
        expect(&mut server, b"question").await;
        expect_end(&mut server).await;
        server.write_all(answer).await.unwrap();
        server.flush().await.unwrap();
        server.into_inner().0.shutdown().await.unwrap();
        expect(&mut app, answer).await;
        let error = within(app.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(relay.ended().await.how, How::Truncated);
    }
}

#[tokio::test]
async fn a_liveness_probe_is_no_truncation_where_the_server_says_no_goodbye() {
    let (relay, app, mut server) = tls_over_tcp(Settings::default()).await;
    drop(app);
    expect_end(&mut server).await;
    server.into_inner().0.shutdown().await.unwrap();
    assert_eq!(relay.ended().await.how, How::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_reset_of_a_truncated_stream_waits_for_the_clients_host_to_have_it_all() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    relay.client.unsent.store(5_000, Ordering::SeqCst);
    server.write_all(b"half an ans").await.unwrap();
    server.flush().await.unwrap();
    drop(server.into_inner());
    expect(&mut app, b"half an ans").await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.client.was_reset());
    relay.client.unsent.store(3_000, Ordering::SeqCst); // that is progress, so patience starts again
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.client.was_reset());
    relay.client.unsent.store(0, Ordering::SeqCst);
    let client = relay.client.clone();
    assert_eq!(relay.ended().await.how, How::Truncated);
    assert!(client.was_reset());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_takes_the_rest_does_not_hold_an_ending_forever() {
    let (relay, _app, mut server) = tls_in_memory(Settings::default()).await;
    relay.client.unsent.store(5_000, Ordering::SeqCst);
    server.write_all(b"x").await.unwrap();
    drop(server.into_inner());
    let before = Instant::now();
    assert_eq!(relay.ended().await.how, How::Truncated);
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn a_truncated_stream_may_be_configured_to_look_orderly_but_is_recorded() {
    let settings = Settings { on_truncation: OnTruncation::Close, ..Settings::default() };
    let (relay, mut app, mut server) = tls_over_tcp(settings).await;
    server.write_all(b"answer").await.unwrap();
    server.flush().await.unwrap();
    server.into_inner().0.shutdown().await.unwrap();
    expect(&mut app, b"answer").await;
    expect_end(&mut app).await;
    drop(app);
    assert_eq!(relay.ended().await.how, How::Truncated);
}

#[tokio::test]
async fn a_server_that_only_takes_the_handshake_and_hangs_up_did_not_speak() {
    let (relay, _app, server) = tls_over_tcp(Settings::default()).await;
    drop(server.into_inner());
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.upstream_spoke), (How::Truncated, false));
}

#[tokio::test]
async fn a_client_that_resets_resets_the_upstream() {
    let (relay, mut app, mut server) = plain_over_tcp(Settings::default()).await;
    app.write_all(b"x").await.unwrap();
    expect(&mut server, b"x").await;
    app.set_zero_linger().unwrap();
    drop(app);
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::ClientReset, Some(Party::Client)));
    let error = within(server.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_upstream_that_takes_nothing_for_the_user_timeout_vanished_and_did_not_reset() {
    let ((app, client), (upstream, _server)) = (tcp_pair().await, tcp_pair().await);
    socket2::SockRef::from(&upstream).set_tcp_user_timeout(Some(Duration::from_millis(300))).unwrap();
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    let mut app = app;
    tokio::spawn(async move { while app.write_all(&[0; 64 * 1024]).await.is_ok() {} });
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::Vanished(Party::Upstream), Some(Party::Upstream)));
}

#[tokio::test]
async fn what_a_client_said_before_it_reset_still_reaches_the_upstream() {
    let ((mut app, client), (upstream, mut server)) = (duplex(64_000), duplex(10));
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    app.write_all(&pattern(1, 5_000)).await.unwrap();
    while relay.flow.sent() < 5_000 {
        tokio::task::yield_now().await;
    }
    drop(app);
    server.write_all(b"answer").await.unwrap(); // nobody takes it
    expect(&mut server, &pattern(1, 5_000)).await;
    let upstream = relay.upstream.clone();
    assert_eq!(relay.ended().await.how, How::ClientReset);
    assert!(upstream.was_reset());
}

#[tokio::test(start_paused = true)]
async fn the_reset_of_an_upstream_waits_for_its_host_to_have_what_the_client_said() {
    let ((mut app, client), (upstream, mut server)) = (duplex(1_000), duplex(1_000));
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    app.write_all(b"the last order").await.unwrap();
    expect(&mut server, b"the last order").await;
    relay.upstream.unsent.store(5_000, Ordering::SeqCst);
    drop(app);
    server.write_all(b"answer").await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.upstream.was_reset());
    relay.upstream.unsent.store(0, Ordering::SeqCst);
    let upstream = relay.upstream.clone();
    assert_eq!(relay.ended().await.how, How::ClientReset);
    assert!(upstream.was_reset());
}

#[tokio::test]
async fn an_upstream_that_resets_resets_the_client_after_what_it_said() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"last words").await.unwrap();
    expect(&mut app, b"last words").await;
    let (socket, _) = server.into_inner();
    socket.set_zero_linger().unwrap();
    drop(socket);
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::UpstreamReset, Some(Party::Upstream)));
}

#[tokio::test]
async fn a_late_refusal_of_our_certificate_is_read_even_when_our_write_fails_first() {
    let pki = Pki::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(TLS13)));
    let (app, client) = duplex(1_000);
    let (upstream, server) = duplex(64_000);
    let mut upstream = Wire::new(upstream);
    let refused = tokio::spawn(async move { acceptor.accept(server).await.is_err() });
    let config = pki.client_without_certificate();
    let secured = handshake(&mut upstream, config, server_name(), &mut Progress::default()).await.unwrap();
    let mut carried = secured.carried;
    carried.flush(&mut upstream).await.unwrap();
    assert!(within(refused).await.unwrap());

    upstream.writes_fail = true;
    let relay = Relay::start(Wire::new(client), upstream, Some(carried), Settings::default());
    let mut app = app;
    app.write_all(b"query").await.unwrap();
    let client = relay.client.clone();
    let ended = relay.ended().await;
    assert_eq!(ended.how, How::TlsAlert(AlertDescription::CertificateRequired));
    assert_eq!((ended.closed_by, ended.upstream_spoke), (Some(Party::Upstream), false));
    assert!(client.was_reset());
}

#[tokio::test]
async fn closing_right_after_the_handshake_tells_whether_our_certificate_was_taken() {
    let pki = Pki::new();
    for (config, expected) in [
        (pki.client(), How::Closed),
        (pki.client_without_certificate(), How::TlsAlert(AlertDescription::CertificateRequired)),
    ] {
        let acceptor = TlsAcceptor::from(Arc::new(pki.server(TLS13)));
        let (mut upstream, server) = tcp_pair().await;
        let server = tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(server).await {
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                stream.shutdown().await.unwrap();
            }
        });
        let secured =
            handshake(&mut upstream, config, server_name(), &mut Progress::default()).await.unwrap();
        assert!(secured.has_pending());
        assert_eq!(within(secured.carried.close(&mut upstream)).await, expected);
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_no_more_and_says_nothing_is_not_listened_to_for_long() {
    let (app, client) = duplex(1_000);
    let (upstream, _server) = duplex(1_000);
    let mut upstream = Wire::new(upstream);
    upstream.writes_fail = true;
    let mut app = app;
    app.write_all(b"query").await.unwrap();
    let relay = Relay::start(Wire::new(client), upstream, None, Settings::default());
    let before = Instant::now();
    assert_eq!(relay.ended().await.how, How::UpstreamReset);
    assert_eq!(before.elapsed().as_secs(), 1);
}

#[tokio::test]
async fn a_key_update_is_answered_while_nobody_says_anything() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"ping").await.unwrap();
    expect(&mut server, b"ping").await;
    for round in 1..=5 {
        let before = relay.upstream.written.load(Ordering::SeqCst);
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.flush().await.unwrap();
        within(async {
            while relay.upstream.written.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(relay.upstream.written.load(Ordering::SeqCst) - before, 5 + 5 + 1 + 16, "one KeyUpdate");
        // And both directions go on under their new keys.
        let text = format!("round {round}");
        app.write_all(text.as_bytes()).await.unwrap();
        expect(&mut server, text.as_bytes()).await;
        server.write_all(text.as_bytes()).await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, text.as_bytes()).await;
    }
    assert_eq!(relay.flow.exchanges().count, 5);
}

#[tokio::test]
async fn garbage_instead_of_records_is_an_error_after_all_that_was_valid() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"valid").await.unwrap();
    server.flush().await.unwrap();
    let (mut socket, _) = server.into_inner();
    socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    expect(&mut app, b"valid").await;
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert!(matches!(ended.how, How::TlsError(_)), "{ended:?}");
    // The server is told why.
    let mut rest = Vec::new();
    within(socket.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() > 20, "no alert in {rest:?}");
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_an_error() {
    let (relay, _app, server) = tls_over_tcp(Settings::default()).await;
    let (mut socket, _) = server.into_inner();
    socket.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
    socket.write_all(&[7; 20]).await.unwrap();
    assert!(matches!(relay.ended().await.how, How::TlsError(_)));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_server_and_holds_bounded_memory() {
    let (relay, mut app, server) = tls_in_memory(Settings::default()).await;
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let sender = tokio::spawn(async move {
        let data = pattern(1, 4_000_000);
        server_out.write_all(&data).await.unwrap();
        server_out.shutdown().await.unwrap();
    });
    // The relay takes what fits, and no more: its read count stands still while the client does not read.
    let mut before = u64::MAX;
    while before != relay.flow.received() {
        before = relay.flow.received();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    assert!(before <= 64 * 1024, "the client's pipe holds no more");
    assert!(!sender.is_finished());
    // The other direction is not held up by it.
    app.write_all(b"stop").await.unwrap();
    expect(&mut server_in, b"stop").await;
    expect(&mut app, &pattern(1, 4_000_000)).await;
    within(sender).await.unwrap();
    drop(app);
    relay.ended().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_after_the_idle_time_and_every_byte_starts_it_again() {
    let settings = Settings { idle: Some(Duration::from_secs(100)), jitter: 0.0, ..Settings::default() };
    let (relay, mut app, mut server) = tls_in_memory(settings).await;
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(99)).await;
        app.write_all(b"a").await.unwrap();
        expect(&mut server, b"a").await;
    }
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::IdleTimeout, Some(Party::Ambassador)));
    assert_eq!(start.elapsed().as_secs(), 99 * 3 + 100);
    expect_end(&mut server).await; // told in order: close_notify
    expect_end(&mut app).await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_may_be_silent_for_its_own_time_only() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    tokio::time::sleep(Duration::from_secs(3_000)).await; // no limit while both are open
    app.shutdown().await.unwrap();
    expect_end(&mut server).await;
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(59)).await;
        server.write_all(b"a").await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, b"a").await;
    }
    assert_eq!(relay.ended().await.how, How::HalfCloseTimeout);
    assert_eq!(start.elapsed().as_secs(), 59 * 3 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_half_close_shortens_a_longer_idle_time() {
    let settings = Settings { idle: Some(Duration::from_secs(1_000)), ..Settings::default() };
    let (relay, mut app, _server) = tls_in_memory(settings).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    app.shutdown().await.unwrap();
    let start = Instant::now();
    assert_eq!(relay.ended().await.how, How::HalfCloseTimeout);
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_even_a_busy_connection_somewhat_early() {
    let lifetime = Duration::from_secs(100);
    let mut ages = Vec::new();
    for _ in 0..8 {
        let settings = Settings { lifetime: Some(lifetime), jitter: 0.5, ..Settings::default() };
        let (relay, mut app, mut server) = tls_in_memory(settings).await;
        let start = Instant::now();
        while !relay.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if app.write_all(b"a").await.is_ok() && server.read(&mut [0; 9]).await.is_err() {
                break;
            }
        }
        assert_eq!(relay.ended().await.how, How::LifetimeReached);
        ages.push(start.elapsed());
    }
    assert!(
        ages.iter()
            .all(|age| *age > lifetime / 2 - Duration::from_secs(1)
                && *age <= lifetime + Duration::from_secs(1))
    );
    assert!(
        ages.iter().any(|age| age.abs_diff(ages[0]) > Duration::from_millis(200)),
        "all at once: {ages:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_by_an_idle_connection_and_told_in_order() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"a").await.unwrap();
    expect(&mut server, b"a").await;
    server.write_all(b"b").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"b").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    let ended = within(relay.task).await.unwrap();
    assert_eq!((ended.how, ended.closed_by), (How::Stopped, Some(Party::Ambassador)));
    assert!(!client.was_reset() && !upstream.was_reset());
    expect_end(&mut server).await;
    expect_end(&mut app).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_two_records_of_a_download_does_not_look_like_its_end() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    server.write_all(b"one of many").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"one of many").await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(client.was_reset() && upstream.was_reset());
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_answer_does_not_look_like_an_empty_one_nor_an_upload_like_a_whole_one() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"question").await.unwrap();
    expect(&mut server, b"question").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(client.was_reset() && upstream.was_reset());
    assert!(within(server.read(&mut [0])).await.is_err(), "close_notify");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_at_a_stop_is_delivered_but_not_for_long() {
    for (takes_it, seconds) in [(true, 0), (false, 1)] {
        let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
        server.write_all(b"half an ans").await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, b"half an ans").await;
        relay.client.unsent.store(5_000, Ordering::SeqCst);
        let (client, before) = (relay.client.clone(), Instant::now());
        relay.stop.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!client.was_reset(), "5000 bytes are still on their way");
        if takes_it {
            client.unsent.store(0, Ordering::SeqCst);
        }
        assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
        assert!(client.was_reset());
        assert_eq!(before.elapsed().as_secs(), seconds);
    }
}

#[tokio::test]
async fn a_stop_is_heard_amid_a_transfer_and_does_not_look_like_the_answers_end() {
    let (relay, _app, mut server) = tls_in_memory(Settings::default()).await;
    let sender = tokio::spawn(async move { server.write_all(&pattern(1, 3_000_000)).await.is_err() });
    while relay.flow.received() == 0 {
        tokio::task::yield_now().await;
    }
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(relay.client.was_reset());
    assert!(within(sender).await.unwrap());
}

#[tokio::test]
async fn a_relays_future_is_small() {
    let ((mut client, _app), (mut upstream, _server)) = (duplex(1), duplex(1));
    let (mut client, mut upstream) = (Wire::new(&mut client), Wire::new(&mut upstream));
    let (settings, flow) = (Settings::default(), Flow::default());
    let stop = std::future::pending();
    let future = run(&mut client, &mut upstream, None::<Carried<Unbuffered>>, None, &settings, &flow, stop);
    assert!(size_of_val(&future) <= 512, "{} bytes", size_of_val(&future));
}
