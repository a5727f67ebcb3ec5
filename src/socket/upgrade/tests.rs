//! Clients of every manner against the listener's end of TLS.

use std::time::Duration;

use rustls::{AlertDescription, ClientConfig, ProtocolVersion, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::relay::testkit::{Pki, TLS12, TLS13, Wire, server_name};

const SOON: Duration = Duration::from_secs(30);

type Ours = Upgradable<Wire<DuplexStream>>;

async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("in time")
}

fn configs(pki: &Pki, versions: &[&'static SupportedProtocolVersion]) -> Arc<TlsConfigs> {
    let usual = Arc::new(pki.server(versions));
    Arc::new(TlsConfigs { usual, in_packets: Arc::new(pki.server(TLS12)) })
}

/// Both ends, before anything was said.
fn ends(
    pki: &Pki,
    wire: impl FnOnce(DuplexStream) -> Wire<DuplexStream>,
    room: usize,
) -> (Ours, DuplexStream) {
    let (near, far) = duplex(room);
    (Upgradable::new(wire(near), configs(pki, TLS13)), far)
}

async fn connected(client: Arc<ClientConfig>, far: DuplexStream) -> TlsStream<DuplexStream> {
    TlsConnector::from(client).connect(server_name(), far).await.expect("a handshake")
}

/// Both ends, with TLS between them.
async fn secured(pki: &Pki, room: usize) -> (Ours, TlsStream<DuplexStream>) {
    let (mut ours, far) = ends(pki, Wire::new, room);
    ours.start_tls(None, Vec::new()).unwrap();
    let (flushed, client) = within(async { tokio::join!(ours.flush(), connected(pki.client(), far)) }).await;
    flushed.unwrap();
    (ours, client)
}

/// On a wire that takes and gives a few bytes at a time, or none: what each side says arrives whole, before TLS and in it.
#[tokio::test]
async fn however_slowly_a_wire_moves_all_of_it_arrives() {
    let pki = Pki::new();
    let said: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    for (seed, versions) in [(1, TLS12), (2, TLS13), (3, TLS13), (4, TLS12)] {
        let (near, mut far) = duplex(700);
        let mut ours = Upgradable::new(Wire::hostile(near, seed, 90), configs(&pki, versions));
        ours.write_all(b"220 plain\r\n").await.unwrap();
        let mut plain = [0; 11];
        far.read_exact(&mut plain).await.unwrap();
        far.write_all(b"STARTTLS").await.unwrap();
        ours.read_exact(&mut [0; 8]).await.unwrap();
        ours.start_tls(None, Vec::new()).unwrap();
        assert!(ours.start_tls(None, Vec::new()).is_err(), "once is enough");
        let (mut reading, mut writing) = tokio::io::split(ours);
        let (expected, to_say, client) = (said.clone(), said.clone(), pki.client());
        let theirs = async move {
            let client = connected(client, far).await;
            let (mut reading, mut writing) = tokio::io::split(client);
            let (mut heard, saying) = (vec![0; to_say.len()], async {
                writing.write_all(&to_say).await.unwrap();
                writing.flush().await.unwrap();
            });
            let (read, ()) = tokio::join!(reading.read_exact(&mut heard), saying);
            read.unwrap();
            heard
        };
        let mut heard = vec![0; said.len()];
        let (read, written, theirs) =
            within(async { tokio::join!(reading.read_exact(&mut heard), writing.write_all(&said), theirs) })
                .await;
        read.unwrap();
        written.unwrap();
        assert!(heard == expected && theirs == expected, "seed {seed}");
        let tls = reading.unsplit(writing);
        let version = tls.tls().unwrap().protocol_version();
        assert_eq!(version == Some(ProtocolVersion::TLSv1_2), versions == TLS12);
    }
}

/// Ten megabytes for a client that reads them slowly: never more is said to be written than the socket has got.
#[tokio::test]
async fn what_counts_as_written_is_with_the_socket() {
    const ALL: usize = 10_000_000;
    let pki = Pki::new();
    let (mut ours, mut client) = secured(&pki, 10_000).await;
    let seen = ours.plain().seen.clone();
    let already = seen.written.load(std::sync::atomic::Ordering::SeqCst);
    let bytes = vec![7; 256 * 1024];
    let writing = async {
        let (mut told, mut longest_ahead) = (0, 0);
        while told < ALL {
            let now = ours.write(&bytes[..bytes.len().min(ALL - told)]).await.unwrap();
            told += now;
            let with_socket = seen.written.load(std::sync::atomic::Ordering::SeqCst) - already;
            assert!(with_socket >= told, "{told} told, {with_socket} written");
            longest_ahead = longest_ahead.max(now);
        }
        ours.shutdown().await.unwrap();
        longest_ahead
    };
    let reading = async {
        let (mut heard, mut some) = (0, vec![0; 3_000]);
        loop {
            match client.read(&mut some).await.unwrap() {
                0 => break heard,
                read => heard += read,
            }
        }
    };
    let (longest, heard) = within(async { tokio::join!(writing, reading) }).await;
    assert_eq!(heard, ALL);
    assert!(longest <= WAITING, "{longest} at once");
}

/// A client that has said all it has to say still hears the answer, and then an end that it can tell from a cut.
#[tokio::test]
async fn either_side_closes_on_its_own() {
    let pki = Pki::new();
    let (mut ours, mut client) = secured(&pki, 64_000).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    within(ours.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"question");
    ours.write_all(b"answer").await.unwrap();
    ours.shutdown().await.unwrap();
    heard.clear();
    within(client.read_to_end(&mut heard)).await.expect("an end with close_notify");
    assert_eq!(heard, b"answer");
}

/// Old clients hang up without close_notify: what they had said is heard, and then it is their end, not a fault.
#[tokio::test]
async fn a_client_that_just_hangs_up_has_ended() {
    let pki = Pki::new();
    let (mut ours, mut client) = secured(&pki, 64_000).await;
    client.write_all(b"QUIT\r\n").await.unwrap();
    client.flush().await.unwrap();
    drop(client.into_inner());
    let mut heard = Vec::new();
    within(ours.read_to_end(&mut heard)).await.unwrap();
    assert_eq!((heard.as_slice(), ours.tls_failure()), (&b"QUIT\r\n"[..], None));
}

/// Plaintext where a handshake is due is told apart from a client that leaves, and gets an alert.
#[tokio::test]
async fn what_is_no_handshake_fails_it() {
    let pki = Pki::new();
    let (mut ours, mut far) = ends(&pki, Wire::new, 64_000);
    ours.start_tls(None, Vec::new()).unwrap();
    far.write_all(b"EHLO injected\r\n").await.unwrap();
    let error = within(ours.read(&mut [0; 100])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(matches!(ours.tls_failure(), Some(rustls::Error::InvalidMessage(_))), "{:?}", ours.tls_failure());
    assert!(within(ours.write(b"220")).await.is_err() && within(ours.read(&mut [0; 1])).await.is_err());
    let mut alert = [0; 7];
    within(far.read_exact(&mut alert)).await.unwrap();
    assert_eq!(alert[0], 21);

    let (mut ours, far) = ends(&pki, Wire::new, 64_000);
    ours.start_tls(None, Vec::new()).unwrap();
    drop(far);
    assert!(within(ours.flush()).await.is_err());
    assert_eq!((ours.tls_failure(), ours.tls().unwrap().is_handshaking()), (None, true));
}

/// A client that does not trust us says so before it leaves, also where our next flight can no longer be sent.
#[tokio::test]
async fn the_alert_of_a_client_that_refuses_us_is_kept() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (mut ours, far) = ends(&pki, Wire::new, 64_000);
    ours.start_tls(None, Vec::new()).unwrap();
    let refusing = async { TlsConnector::from(other.client()).connect(server_name(), far).await.map(drop) };
    let (flushed, refused) = within(async { tokio::join!(ours.flush(), refusing) }).await;
    assert!(flushed.is_err() && refused.is_err());
    // Both authorities have the same name, so that it is the signature which does not fit.
    let failure = ours.tls_failure().cloned();
    assert_eq!(failure, Some(rustls::Error::AlertReceived(AlertDescription::DecryptError)));
}

/// Who waits to be served may leave: inside TLS that is close_notify and an end, and neither is a word.
#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_noticed_and_one_that_speaks_is_not_gone() {
    let pki = Pki::new();
    let (mut ours, mut client) = secured(&pki, 64_000).await;
    let a_while = Duration::from_millis(50);
    assert!(timeout(a_while, std::future::poll_fn(|cx| ours.poll_gone(cx))).await.is_err());
    client.shutdown().await.unwrap();
    let gone = within(std::future::poll_fn(|cx| ours.poll_gone(cx))).await;
    assert_eq!(gone, Gone::Silently);

    let (mut ours, mut client) = secured(&pki, 64_000).await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    drop(client);
    assert!(timeout(a_while, std::future::poll_fn(|cx| ours.poll_gone(cx))).await.is_err());
    let mut heard = Vec::new();
    within(ours.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"hello");
}

/// The client's first words come in one piece with the end of its handshake, which a write has driven: whoever waits to
/// read is woken, though no more comes from the socket.
#[tokio::test]
async fn words_that_come_with_the_handshake_wake_their_reader() {
    let pki = Pki::new();
    let (mut ours, far) = ends(&pki, Wire::new, 64_000);
    ours.start_tls(None, Vec::new()).unwrap();
    let client = async {
        let mut client = connected(pki.client(), far).await;
        client.write_all(b"first words").await.unwrap();
        client.flush().await.unwrap();
        client
    };
    // One task, as in the relay: reading waits, and only then writing drives the handshake.
    let mut heard = [0; 11];
    let mut read = 0;
    let mut written = false;
    let relay = std::future::poll_fn(|cx| {
        let mut into = ReadBuf::new(&mut heard[read..]);
        let polled = Pin::new(&mut ours).poll_read(cx, &mut into);
        read += into.filled().len();
        if read == 11 {
            return Poll::Ready(());
        }
        assert!(polled.is_pending() || read > 0);
        written |= Pin::new(&mut ours).poll_write(cx, b"220").is_ready();
        Poll::Pending
    });
    let (client, ()) = within(async { tokio::join!(client, relay) }).await;
    drop(client);
    assert_eq!(&heard, b"first words");
}

/// MySQL's clients do not await an answer to their request: the beginning of their handshake is read together with it.
#[tokio::test]
async fn a_handshake_whose_beginning_was_read_before_goes_on() {
    let pki = Pki::new();
    for read_before in [1, 100, 10_000] {
        let (mut ours, far) = ends(&pki, Wire::new, 64_000);
        let serving = async {
            let mut begun = vec![0; read_before];
            let read = ours.read(&mut begun).await.unwrap();
            begun.truncate(read);
            ours.start_tls(None, begun).unwrap();
            let mut heard = [0; 5];
            ours.read_exact(&mut heard).await.unwrap();
            heard
        };
        let client = async {
            let mut client = connected(pki.client(), far).await;
            client.write_all(b"hello").await.unwrap();
            client.flush().await.unwrap();
            client
        };
        let (heard, _client) = within(async { tokio::join!(serving, client) }).await;
        assert_eq!(&heard, b"hello");
    }
}

/// The end of the line that asked for TLS may come in a segment of its own, behind our answer. In front of anything else but TLS
/// it helps nobody, and inside TLS blanks are data.
#[tokio::test]
async fn blanks_before_a_handshake_say_nothing() {
    let pki = Pki::new();
    for (seed, blanks) in [(1, &b"\n"[..]), (2, b"\r\n"), (3, b" \t\r\n\r\n"), (4, &[b' '; 9_000])] {
        let (near, mut far) = duplex(100);
        let mut ours = Upgradable::new(Wire::hostile(near, seed, 60), configs(&pki, TLS13));
        ours.start_tls(None, Vec::new()).unwrap();
        let client = async {
            far.write_all(blanks).await.unwrap();
            let mut client = connected(pki.client(), far).await;
            client.write_all(b"\r\n hello").await.unwrap();
            client.flush().await.unwrap();
            client
        };
        let mut heard = [0; 8];
        let (read, _client) = within(async { tokio::join!(ours.read_exact(&mut heard), client) }).await;
        assert_eq!((read.unwrap(), &heard), (8, b"\r\n hello"), "seed {seed}");
    }
    for words in ["\r\n<auth/>", "\r\n\0", "\r\n"] {
        let (mut ours, mut far) = ends(&pki, Wire::new, 1000);
        ours.start_tls(None, Vec::new()).unwrap();
        far.write_all(words.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        assert!(within(ours.read(&mut [0; 100])).await.is_err(), "{words:?}");
    }
}

/// A handshake that travels in packets of a length and a mark: on a wire that moves slowly, and with data right behind it that
/// is in no packet.
#[tokio::test]
async fn a_handshake_in_packets_is_one_up_to_its_end() {
    let pki = Pki::new();
    for seed in 1..6 {
        let (near, far) = duplex(900);
        let mut ours = Upgradable::new(Wire::hostile(near, seed, 60), configs(&pki, TLS13));
        ours.start_tls(Some(Box::new(Marked)), Vec::new()).unwrap();
        let serving = async {
            let mut heard = [0; 5];
            ours.read_exact(&mut heard).await.unwrap();
            ours.write_all(&[7; 5_000]).await.unwrap();
            ours.shutdown().await.unwrap();
            heard
        };
        let (heard, answer) = within(async { tokio::join!(serving, client_in_packets(&pki, far)) }).await;
        assert_eq!((&heard, answer), (b"hello", vec![7; 5_000]), "seed {seed}");
        assert_eq!(ours.tls().unwrap().protocol_version(), Some(ProtocolVersion::TLSv1_2));
    }
}

/// A mark, two bytes of length, and TLS.
struct Marked;

impl Packets for Marked {
    fn wrap(&mut self, flight: &[u8], to: &mut Vec<u8>) {
        to.push(b'#');
        to.extend(u16::try_from(flight.len()).unwrap().to_be_bytes());
        to.extend_from_slice(flight);
    }

    fn unwrap(&mut self, heard: &mut Vec<u8>, to: &mut Vec<u8>) -> io::Result<bool> {
        let Some([mark, high, low]) = heard.first_chunk::<3>().copied() else { return Ok(false) };
        assert_eq!(mark, b'#');
        let end = 3 + usize::from(u16::from_be_bytes([high, low]));
        if heard.len() < end {
            return Ok(false);
        }
        to.extend_from_slice(&heard[3..end]);
        heard.drain(..end);
        Ok(true)
    }
}

/// Shakes hands in packets, and says hello as soon as it may.
async fn client_in_packets(pki: &Pki, mut far: DuplexStream) -> Vec<u8> {
    let mut conn = rustls::ClientConnection::new(pki.client(), server_name()).unwrap();
    let (mut raw, mut tls) = (Vec::new(), Vec::new());
    while conn.is_handshaking() {
        let (mut flight, mut packet) = (Vec::new(), Vec::new());
        while conn.wants_write() {
            conn.write_tls(&mut flight).unwrap();
        }
        if !flight.is_empty() {
            Marked.wrap(&flight, &mut packet);
            far.write_all(&packet).await.unwrap();
        }
        while !Marked.unwrap(&mut raw, &mut tls).unwrap() {
            assert!(far.read_buf(&mut raw).await.unwrap() > 0);
        }
        while !tls.is_empty() {
            let read = conn.read_tls(&mut &tls[..]).unwrap();
            tls.drain(..read);
            conn.process_new_packets().unwrap();
        }
    }
    let (mut last, mut packet) = (Vec::new(), Vec::new());
    while conn.wants_write() {
        conn.write_tls(&mut last).unwrap();
    }
    if !last.is_empty() {
        Marked.wrap(&last, &mut packet);
    }
    conn.writer().write_all(b"hello").unwrap();
    while conn.wants_write() {
        conn.write_tls(&mut packet).unwrap();
    }
    far.write_all(&packet).await.unwrap();
    let mut answer = Vec::new();
    loop {
        while !raw.is_empty() {
            let read = conn.read_tls(&mut &raw[..]).unwrap();
            raw.drain(..read);
            let state = conn.process_new_packets().unwrap();
            let start = answer.len();
            answer.resize(start + state.plaintext_bytes_to_read(), 0);
            conn.reader().read_exact(&mut answer[start..]).unwrap();
            if state.peer_has_closed() {
                return answer;
            }
        }
        assert!(far.read_buf(&mut raw).await.unwrap() > 0, "an end with close_notify");
    }
}
