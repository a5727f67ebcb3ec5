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

mod breaking;
mod closing;
mod greeting;
mod limits;
mod upgrading;

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
        client: Wire<A>,
        upstream: Wire<B>,
        engine: Option<Carried<Unbuffered>>,
        settings: Settings,
    ) -> Relay
    where
        A: Ware + 'static,
        B: Ware + 'static,
    {
        Relay::greeting(client, upstream, engine, None, settings)
    }

    fn greeting<A, B>(
        mut client: Wire<A>,
        mut upstream: Wire<B>,
        engine: Option<Carried<Unbuffered>>,
        greeting: Option<Box<Greeting>>,
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
            run(&mut client, &mut upstream, engine, greeting, &settings, &counted, Box::pin(stop)).await
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
    let (carried, server) = secured(versions, &mut upstream, server).await;
    (Relay::start(client, upstream, Some(carried), settings), within(server).await.unwrap())
}

/// Our end of a TLS connection, and the server's, which may need our next words before it is there.
async fn secured<B, S>(
    versions: &[&'static SupportedProtocolVersion],
    upstream: &mut Wire<B>,
    server: S,
) -> (Carried<Unbuffered>, JoinHandle<TlsStream<S>>)
where
    B: Ware + 'static,
    S: Ware + 'static,
{
    let pki = Pki::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(versions)));
    let server = tokio::spawn(async move { acceptor.accept(server).await.unwrap() });
    let mut progress = Progress::default();
    let secured = within(handshake(upstream, pki.client(), server_name(), &mut progress)).await.unwrap();
    (secured.carried, server)
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
async fn a_relays_future_is_small() {
    let ((mut client, _app), (mut upstream, _server)) = (duplex(1), duplex(1));
    let (mut client, mut upstream) = (Wire::new(&mut client), Wire::new(&mut upstream));
    let (settings, flow) = (Settings::default(), Flow::default());
    let stop = std::future::pending();
    let future = run(&mut client, &mut upstream, None::<Carried<Unbuffered>>, None, &settings, &flow, stop);
    assert!(size_of_val(&future) <= 512, "{} bytes", size_of_val(&future));
}
