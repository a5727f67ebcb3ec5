//! A client that turns to TLS of its own in the middle of a relay: what is plaintext stays outside, what is inside stays inside.

use tokio_rustls::TlsConnector;

use super::*;
use crate::protocol::{Meeting, Negotiated, Offer, Opening, Protocol};
use crate::socket::{TlsConfigs, Upgradable};

/// The smallest greeter with everything to it: at `TLS` it answers `go`, once the server has said `settled`; inside, it is done
/// with the server's first word. What it is told goes on.
#[derive(Default)]
struct Asks {
    asked: bool,
    settled: bool,
    answered: bool,
    inside: bool,
    done: bool,
}

impl Asks {
    fn answer(&mut self, onward: &mut Onward) {
        if self.asked && self.settled && !self.answered {
            self.answered = true;
            onward.down.extend_from_slice(b"go");
        }
    }
}

impl Greeter for Asks {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        match heard {
            b"TLS" if !self.inside => self.asked = true,
            _ => onward.up.extend_from_slice(heard),
        }
        self.answer(onward);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        onward.down.extend_from_slice(heard);
        self.settled |= heard.ends_with(b"settled");
        self.done = self.inside;
        self.answer(onward);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn may_refuse(&self) -> bool {
        false
    }

    fn upgrade(&self) -> Upgrade {
        match (self.asked && !self.inside, self.answered) {
            (false, _) => Upgrade::None,
            (true, false) => Upgrade::Asked,
            (true, true) => Upgrade::Answered,
        }
    }

    fn upgraded(&mut self, _: &mut Onward) {
        self.inside = true;
    }
}

type Client = Upgradable<Wire<DuplexStream>>;

fn client(pki: &Pki, wire: Wire<DuplexStream>) -> Client {
    let config = Arc::new(pki.open_server(TLS13));
    Upgradable::new(wire, Arc::new(TlsConfigs { usual: config.clone(), in_packets: config }))
}

/// A relay between that client and a server in plaintext.
fn relayed<C: Leg + 'static>(client: C, upstream: Wire<DuplexStream>) -> JoinHandle<Ended> {
    let greeter = Some(Box::new(Asks::default()) as Box<dyn Greeter>);
    greeted(client, upstream, Greeting { onward: Onward::default(), greeter })
}

fn greeted<C: Leg + 'static>(
    mut client: C,
    mut upstream: Wire<DuplexStream>,
    greeting: Greeting,
) -> JoinHandle<Ended> {
    tokio::spawn(async move {
        let (settings, flow) = (Settings::default(), Flow::default());
        let engine = None::<Carried<Unbuffered>>;
        let never = Box::pin(std::future::pending());
        run(&mut client, &mut upstream, engine, Some(Box::new(greeting)), &settings, &flow, never).await
    })
}

/// The server has much to say before it has answered all, to a client that reads slowly: TLS begins behind the last byte of
/// that. Then both talk on inside, and end in order.
#[tokio::test]
async fn tls_begins_behind_all_that_is_plaintext() {
    let pki = Pki::new();
    for seed in 1..4 {
        let ((mut app, near), (upstream, mut server)) = (duplex(500), duplex(5_000));
        let task = relayed(client(&pki, Wire::hostile(near, seed, 300)), Wire::hostile(upstream, seed, 900));
        app.write_all(b"TLS").await.unwrap();
        let before = pattern(seed, 100_000);
        let saying = async {
            server.write_all(&before).await.unwrap();
            server.write_all(b"settled").await.unwrap();
        };
        let mut plain = vec![0; before.len() + "settledgo".len()];
        let ((), read) = within(async { tokio::join!(saying, app.read_exact(&mut plain)) }).await;
        read.unwrap();
        assert!(plain.starts_with(&before) && plain.ends_with(b"settledgo"), "seed {seed}");

        let mut app =
            within(TlsConnector::from(pki.client_without_certificate()).connect(server_name(), app))
                .await
                .unwrap();
        let (up, down) = (pattern(seed + 1, 70_000), pattern(seed + 2, 90_000));
        app.write_all(b"hello").await.unwrap();
        app.flush().await.unwrap();
        let mut heard = [0; 5];
        within(server.read_exact(&mut heard)).await.unwrap();
        server.write_all(b"hi").await.unwrap();
        let mut heard = [0; 2];
        within(app.read_exact(&mut heard)).await.unwrap();
        let (mut from_app, mut from_server) = (vec![0; up.len()], vec![0; down.len()]);
        let (mut app_reads, mut app_writes) = tokio::io::split(app);
        let (mut server_reads, mut server_writes) = tokio::io::split(server);
        let all = async {
            tokio::join!(
                async { (app_writes.write_all(&up).await, app_writes.flush().await) },
                server_writes.write_all(&down),
                server_reads.read_exact(&mut from_app),
                app_reads.read_exact(&mut from_server),
            )
        };
        let (wrote, answered, read, got) = within(all).await;
        wrote.0.and(wrote.1).unwrap();
        answered.unwrap();
        read.and(got).unwrap();
        assert!(from_app == up && from_server == down, "seed {seed}");

        app_writes.shutdown().await.unwrap();
        assert_eq!(within(server_reads.read(&mut [0; 1])).await.unwrap(), 0);
        drop((server_reads, server_writes));
        assert_eq!(within(app_reads.read(&mut [0; 1])).await.expect("an end with close_notify"), 0);
        let ended = within(task).await.unwrap();
        assert_eq!((ended.how, ended.closed_by), (How::Closed, Some(Party::Client)), "seed {seed}");
    }
}

/// What came in plaintext between the request and the answer is for TLS to judge, which takes it for no handshake: nothing of
/// it goes on, whenever it came.
#[tokio::test]
async fn plaintext_behind_the_request_never_counts_as_said_inside() {
    let pki = Pki::new();
    for early in [true, false] {
        let ((mut app, near), (upstream, mut server)) = (duplex(10_000), duplex(10_000));
        let task = relayed(client(&pki, Wire::new(near)), Wire::new(upstream));
        app.write_all(b"TLS").await.unwrap();
        if early {
            // Read together with the request it would be the greeter's to object to.
            eventually_read(&mut app, &mut server, b"ask", b"ask").await;
            app.write_all(b"EHLO evil").await.unwrap();
        }
        server.write_all(b"settled").await.unwrap();
        let mut told = [0; 9];
        within(app.read_exact(&mut told[..])).await.unwrap();
        if !early {
            app.write_all(b"EHLO evil").await.unwrap();
        }
        let ended = within(task).await.unwrap();
        assert!(matches!(ended.how, How::Io { party: Party::Client, .. }), "{:?}", ended.how);
        let mut heard = Vec::new();
        within(server.read_to_end(&mut heard)).await.ok(); // an end or a cut
        assert!(heard.is_empty(), "{heard:?}");
    }
}

/// The server says something to the client, which proves that the request was read.
async fn eventually_read(app: &mut DuplexStream, server: &mut DuplexStream, says: &[u8], hears: &[u8]) {
    server.write_all(says).await.unwrap();
    let mut heard = vec![0; hears.len()];
    within(app.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, hears);
}

/// A promise that cannot be kept is a fault of ours, and not one that is passed over.
#[tokio::test]
async fn a_leg_without_tls_cannot_be_promised_some() {
    let ((mut app, near), (upstream, mut server)) = (duplex(10_000), duplex(10_000));
    let task = relayed(Wire::new(near), Wire::new(upstream));
    app.write_all(b"TLS").await.unwrap();
    server.write_all(b"settled").await.unwrap();
    let ended = within(task).await.unwrap();
    assert!(matches!(ended.how, How::Objected(Objection { to: Party::Ambassador, .. })), "{:?}", ended.how);
}

/// A mail server behind a listener that demands TLS.
fn demanding() -> Greeting {
    Protocol::Smtp.greet(Meeting {
        opening: Opening::default(),
        negotiated: Negotiated { greeting: b"220 mx\r\n".to_vec() },
        secured: true,
        offer: Offer::Required,
        keep_key: Box::new(drop),
    })
}

async fn asks(app: &mut DuplexStream, asks: &[u8], hears: &[u8]) {
    within(app.write_all(asks)).await.unwrap();
    let mut heard = vec![0; hears.len()];
    within(app.read_exact(&mut heard)).await.expect("an answer");
    assert_eq!(heard.escape_ascii().to_string(), hears.escape_ascii().to_string());
}

/// A command that is refused for want of TLS comes a byte at a time: it is read to its end and answered, and TLS begins once it
/// is asked for, as slowly. The server hears what is said inside, and nothing else.
#[tokio::test]
async fn a_refused_command_in_pieces_is_answered_and_tls_can_follow() {
    let pki = Pki::new();
    let ((mut app, near), (upstream, mut server)) = (duplex(1), duplex(5_000));
    let task = greeted(client(&pki, Wire::new(near)), Wire::new(upstream), demanding());
    asks(&mut app, b"", b"220 mx\r\n").await;
    for command in [&b"MAIL FROM:<a@b>\r\n"[..], b"AUTH PLAIN AGEAYg==\r\n"] {
        asks(&mut app, command, b"530 5.7.0 Must issue a STARTTLS command first\r\n").await;
    }
    asks(&mut app, b"STARTTLS\r\n", b"220 2.0.0 Ready to start TLS\r\n").await;
    let connector = TlsConnector::from(pki.client_without_certificate());
    let mut app = within(connector.connect(server_name(), app)).await.unwrap();
    app.write_all(b"EHLO me\r\n").await.unwrap();
    app.flush().await.unwrap();
    let mut heard = [0; 9];
    within(server.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"EHLO me\r\n");
    drop((app, server));
    within(task).await.unwrap();
}

/// What a client does that has to ask for TLS within ten seconds, and when and how it is ended then.
async fn ended_after(
    does: impl AsyncFnOnce(DuplexStream, DuplexStream) -> (DuplexStream, DuplexStream),
) -> (Ended, Duration) {
    let pki = Pki::new();
    let ((app, near), (upstream, server)) = (duplex(5_000), duplex(5_000));
    let mut greeting = demanding();
    greeting.asks_within(Duration::from_secs(10));
    let begun = Instant::now();
    let task = greeted(client(&pki, Wire::new(near)), Wire::new(upstream), greeting);
    let _held = does(app, server).await;
    let ended = timeout(Duration::from_secs(600), task).await.expect("an end").unwrap();
    (ended, begun.elapsed().round())
}

trait Round {
    fn round(self) -> Self;
}

impl Round for Duration {
    fn round(self) -> Duration {
        Duration::from_secs(self.as_secs_f64().round() as u64)
    }
}

/// Who has to ask for TLS and does not holds its upstream for no longer than it is given, whatever else it says, and may be told
/// so in words. A server that takes its time to answer is not held against it.
#[tokio::test(start_paused = true)]
async fn who_never_asks_for_tls_is_ended_in_time() {
    let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    let silent = ended_after(async |app, server| (app, server)).await;
    let refused = ended_after(async |mut app, server| {
        asks(&mut app, b"", b"220 mx\r\n").await;
        pause(6).await;
        asks(&mut app, b"RCPT TO:<a@b>\r\n", b"530 5.7.0 Must issue a STARTTLS command first\r\n").await;
        pause(1).await;
        app.write_all(b"STARTT").await.unwrap();
        (app, server)
    })
    .await;
    for (ended, after) in [silent, refused] {
        assert_eq!((ended.how, ended.closed_by), (How::TlsNotAskedFor, Some(Party::Ambassador)));
        assert!(ended.refusable && ended.greeting);
        assert_eq!(after, Duration::from_secs(10));
    }
    let (ended, after) = ended_after(async |mut app, mut server| {
        pause(6).await;
        app.write_all(b"EHLO me\r\n").await.unwrap();
        pause(20).await;
        server.write_all(b"250 mx\r\n").await.unwrap();
        (app, server)
    })
    .await;
    assert_eq!((ended.how, after), (How::TlsNotAskedFor, Duration::from_secs(36)));
}

/// Once it has its TLS, a client may take its time.
#[tokio::test(start_paused = true)]
async fn inside_its_tls_a_client_may_be_silent() {
    let pki = Pki::new();
    let ((mut app, near), (upstream, mut server)) = (duplex(5_000), duplex(5_000));
    let mut greeting = demanding();
    greeting.asks_within(Duration::from_secs(10));
    let task = greeted(client(&pki, Wire::new(near)), Wire::new(upstream), greeting);
    asks(&mut app, b"", b"220 mx\r\n").await;
    asks(&mut app, b"STARTTLS\r\n", b"220 2.0.0 Ready to start TLS\r\n").await;
    let connector = TlsConnector::from(pki.client_without_certificate());
    let mut app = connector.connect(server_name(), app).await.unwrap();
    app.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    app.write_all(b"EHLO me\r\n").await.unwrap();
    app.flush().await.unwrap();
    let mut heard = [0; 9];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"EHLO me\r\n");
    drop((app, server));
    task.await.unwrap();
}

/// A client's connection that is cut inside a TLS record was cut off in the middle of its words: what was whole goes on, and the
/// server sees a reset, not an end that it could take for the client's own.
#[tokio::test]
async fn a_client_that_is_cut_inside_a_record_is_no_orderly_end() {
    let pki = Pki::new();
    for cut in [true, false] {
        let ((mut app, near), (upstream, mut server)) = (duplex(5_000), duplex(5_000));
        let upstream = Wire::new(upstream);
        let seen = upstream.seen.clone();
        let task = greeted(client(&pki, Wire::new(near)), upstream, demanding());
        asks(&mut app, b"", b"220 mx\r\n").await;
        asks(&mut app, b"STARTTLS\r\n", b"220 2.0.0 Ready to start TLS\r\n").await;
        let connector = TlsConnector::from(pki.client_without_certificate());
        let mut app = within(connector.connect(server_name(), app)).await.unwrap();
        app.write_all(b"EHLO me\r\n").await.unwrap();
        app.flush().await.unwrap();
        let (mut app, _) = app.into_inner();
        let record = [23, 3, 3, 0, 40, 1, 2, 3];
        app.write_all(&record[..if cut { record.len() } else { 0 }]).await.unwrap();
        drop(app);
        let mut heard = [0; 9];
        within(server.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"EHLO me\r\n");
        if !cut {
            assert_eq!(within(server.read(&mut [0])).await.unwrap(), 0);
            drop(server);
        }
        let ended = within(task).await.unwrap();
        assert_eq!((seen.was_reset(), ended.closed_by), (cut, Some(Party::Client)));
        match ended.how {
            How::Io { party: Party::Client, error } => assert!(cut && error.contains("inside a TLS record")),
            how => assert_eq!((cut, how), (false, How::Closed)),
        }
    }
}
