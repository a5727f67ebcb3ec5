//! handshake: from a connected socket to an engine, for the client's side of TLS.
//!
//! Owns the conversation: it shows rustls one record at a time, so that whatever the server says behind its last handshake
//! message stays ciphertext, for whichever engine takes over. The last flight stays unsent, to travel with the first data.
//! Leaves time limits and the diagnosis of failures to its caller, who finds in [`Progress`] what was seen until then.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unbuffered::{Unbuffered, collect_alert, encode};
use crate::relay::{Carried, Engine, record_length};

/// What the server said first is kept up to here, for the diagnosis.
const KEPT: usize = 256;
/// Most flights of a server fit into one read of this size.
const READ: usize = 8 * 1024;
/// rustls takes handshake messages of up to 64 KiB; with their records' overhead they stay below this.
const MAX_FLIGHT: usize = 128 * 1024;

/// A connection that may carry data.
#[derive(Debug)]
pub struct Secured {
    /// The engine and what it holds; hand it to the relay, or flush or close it.
    pub carried: Carried<Unbuffered>,
    /// What was agreed.
    pub summary: Summary,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub suite: &'static str,
    /// The key exchange group's registered name; a resumed TLS 1.2 session has none.
    pub group: Option<&'static str>,
    /// A session was resumed: no certificates were exchanged.
    pub resumed: bool,
    /// The ALPN protocol that was chosen.
    pub alpn: Option<String>,
    /// The peer's own certificate, where it showed one. A copy: take it out where the summary is kept for long.
    pub peer: Option<CertificateDer<'static>>,
}

impl Summary {
    /// Of either side's connection, once its handshake is over.
    pub fn of(conn: &CommonState) -> Summary {
        Summary {
            version: match conn.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            suite: conn
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            group: conn.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            resumed: conn.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            peer: conn.peer_certificates().and_then(|chain| chain.first()).cloned(),
        }
    }
}

/// What a handshake has seen so far; it survives one that is cut off.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The first bytes that the server sent.
    pub received: Vec<u8>,
    /// Size of our first flight; zero: not sent.
    pub hello_bytes: usize,
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeCause {
    /// The socket failed.
    Io(io::Error),
    /// The server ended the connection.
    Eof,
    /// TLS failed; [`rustls::Error::AlertReceived`] if the server said so.
    Tls(rustls::Error),
    /// What the server said first was not TLS.
    NotTls,
}

/// Shakes hands. The caller bounds the time.
pub async fn handshake<S>(
    stream: &mut S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    progress: &mut Progress,
) -> Result<Secured, HandshakeCause>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let conn = UnbufferedClientConnection::new(config, name).map_err(HandshakeCause::Tls)?;
    let mut talk = Talk { conn: Box::new(conn), incoming: Vec::new(), shown: 0, flight: Vec::new() };
    // A server that refuses us says why and hangs up: our next write fails, but its reason can still be read.
    let mut unwritable = None;
    loop {
        match talk.advance() {
            Ok(Need::Nothing) => return Ok(talk.finish()),
            Ok(Need::Record) => {
                if talk.show_next_record() {
                    continue;
                }
                if progress.hello_bytes == 0 {
                    progress.hello_bytes = talk.flight.len();
                }
                let old = talk.incoming.len();
                match talk.trade(stream, &mut unwritable).await {
                    Ok(0) => return Err(unwritable.map_or(HandshakeCause::Eof, HandshakeCause::Io)),
                    Ok(_) => {}
                    Err(error) => return Err(HandshakeCause::Io(unwritable.unwrap_or(error))),
                }
                let room = KEPT - progress.received.len();
                progress.received.extend(talk.incoming[old..].iter().take(room));
                if !starts_like_tls(&progress.received) {
                    return Err(HandshakeCause::NotTls);
                }
            }
            Err(error) => {
                say_once(stream, &talk.flight).await;
                return Err(HandshakeCause::Tls(error));
            }
        }
    }
}

/// rustls and the bytes around it.
struct Talk {
    conn: Box<UnbufferedClientConnection>,
    incoming: Vec<u8>,
    /// So much of `incoming` rustls has been shown.
    shown: usize,
    flight: Vec<u8>,
}

enum Need {
    /// Something from the server.
    Record,
    /// Data may be sent.
    Nothing,
}

impl Talk {
    fn advance(&mut self) -> Result<Need, rustls::Error> {
        loop {
            let UnbufferedStatus { discard, state } =
                self.conn.process_tls_records(&mut self.incoming[..self.shown]);
            let need = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.flight);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done(); // it will be, before the next read or with the first data
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Need::Record),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Need::Nothing),
                Ok(other) => {
                    return Err(rustls::Error::General(format!(
                        "unexpected state in a handshake: {other:?}"
                    )));
                }
                Err(error) => {
                    collect_alert(&mut self.conn, &mut self.flight);
                    return Err(error);
                }
            };
            self.incoming.drain(..discard);
            self.shown -= discard;
            if let Some(need) = need {
                if self.incoming.len() > MAX_FLIGHT {
                    return Err(rustls::Error::General("the server's handshake is too long".to_owned()));
                }
                return Ok(need);
            }
        }
    }

    fn show_next_record(&mut self) -> bool {
        match record_length(&self.incoming[self.shown..]) {
            Some(length) if self.shown + length <= self.incoming.len() => {
                self.shown += length;
                true
            }
            _ => false,
        }
    }

    /// Sends the flight, which is as long as it gets now that rustls can do nothing more with what came in, and receives.
    /// Both at once: the server may be sending too, and then takes nothing before it is rid of that.
    async fn trade<S>(&mut self, stream: &mut S, unwritable: &mut Option<io::Error>) -> io::Result<usize>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let old = self.incoming.len();
        self.incoming.resize(old + READ, 0);
        let read = poll_fn(|cx| {
            while !self.flight.is_empty() && unwritable.is_none() {
                match Pin::new(&mut *stream).poll_write(cx, &self.flight) {
                    Poll::Ready(Ok(0)) => *unwritable = Some(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(written)) => drop(self.flight.drain(..written)),
                    Poll::Ready(Err(error)) => *unwritable = Some(error),
                    Poll::Pending => break,
                }
            }
            let mut into = ReadBuf::new(&mut self.incoming[old..]);
            Pin::new(&mut *stream).poll_read(cx, &mut into).map_ok(|()| into.filled().len())
        })
        .await;
        self.incoming.truncate(old + read.as_ref().map_or(0, |read| *read));
        read
    }

    fn finish(mut self) -> Secured {
        let summary = Summary::of(&self.conn);
        // Usually there is nothing behind the handshake, and then this is no allocation at all.
        self.incoming.shrink_to_fit();
        self.flight.shrink_to_fit();
        let engine = Unbuffered::new(self.conn, self.flight);
        Secured { carried: Carried { engine, ciphertext: self.incoming }, summary }
    }
}

impl Secured {
    /// Is the handshake's last flight still to be sent?
    pub fn has_pending(&self) -> bool {
        self.carried.engine.has_pending()
    }
}

/// A server's first record is a handshake message or an alert, of version 3.something.
fn starts_like_tls(received: &[u8]) -> bool {
    received.first().is_none_or(|kind| matches!(kind, 21 | 22))
        && received.get(1).is_none_or(|major| *major == 3)
}

/// Writes without waiting: an alert on a connection that is about to be dropped.
async fn say_once<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    poll_fn(|cx| match Pin::new(&mut *stream).poll_write(cx, bytes) {
        Poll::Ready(_) | Poll::Pending => Poll::Ready(()), // who does not take it will see the connection close
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustls::{AlertDescription, ServerConnection};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::relay::HEADROOM;
    use crate::relay::testkit::{Pki, TLS12, TLS13, Wire, server_name};

    #[tokio::test]
    async fn a_full_handshake_and_then_a_resumed_one_are_told_apart() {
        let pki = Pki::new();
        let config = pki.client();
        let server = Arc::new(pki.server(TLS13));
        for resumed in [false, true] {
            let (near, far) = duplex(64_000);
            let mut near = Wire::hostile(near, 1, 100);
            let acceptor = TlsAcceptor::from(server.clone());
            let accepted = tokio::spawn(async move {
                let mut stream = acceptor.accept(far).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let mut progress = Progress::default();
            let secured = handshake(&mut near, config.clone(), server_name(), &mut progress).await.unwrap();
            assert!(progress.hello_bytes > 100);
            assert_eq!(progress.received.len(), KEPT);
            let summary = &secured.summary;
            assert_eq!((summary.version, summary.resumed), ("TLSv1.3", resumed));
            assert!(summary.suite.starts_with("TLS13_") && summary.group.is_some() && summary.peer.is_some());
            secured.carried.close(&mut near).await; // takes the tickets
            accepted.await.unwrap();
        }
    }

    #[tokio::test]
    async fn tls_1_2_is_spoken_where_the_server_has_nothing_newer() {
        let pki = Pki::new();
        let (mut near, far) = duplex(64_000);
        let acceptor = TlsAcceptor::from(Arc::new(pki.server(TLS12)));
        let accepted = tokio::spawn(async move { acceptor.accept(far).await.map(drop).unwrap() });
        let secured =
            handshake(&mut near, pki.client(), server_name(), &mut Progress::default()).await.unwrap();
        assert_eq!(secured.summary.version, "TLSv1.2");
        assert!(!secured.has_pending(), "in TLS 1.2 the server has the last word");
        accepted.await.unwrap();
    }

    #[tokio::test]
    async fn what_the_server_says_behind_its_last_message_stays_ciphertext() {
        let pki = Pki::new();
        let (mut near, mut far) = duplex(64_000);
        let mut server = ServerConnection::new(Arc::new(pki.eager_server())).unwrap();
        let spoke = tokio::spawn(async move {
            while server.is_handshaking() && !server.wants_write() {
                let mut hello = [0; 4096];
                let read = far.read(&mut hello).await.unwrap();
                server.read_tls(&mut &hello[..read]).unwrap();
                server.process_new_packets().unwrap();
            }
            server.writer().write_all(b"220 ready").unwrap();
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            far.write_all(&flight).await.unwrap();
            far
        });
        let config = pki.client_without_certificate();
        let mut secured =
            handshake(&mut near, config, server_name(), &mut Progress::default()).await.unwrap();
        spoke.await.unwrap();
        let carried = &mut secured.carried;
        assert!(!carried.ciphertext.is_empty());
        let mut buffer = [vec![0; HEADROOM], carried.ciphertext.clone()].concat();
        let to = buffer.len();
        let opened = carried.engine.open(&mut buffer, HEADROOM, to);
        assert_eq!(&buffer[..opened.plain], b"220 ready");
    }

    /// A server that says `words` instead of a handshake, and hangs up.
    async fn failing(words: &[u8]) -> (HandshakeCause, Progress) {
        let (mut near, mut far) = duplex(64_000);
        far.write_all(words).await.unwrap();
        far.shutdown().await.unwrap();
        let mut progress = Progress::default();
        let config = Pki::new().client();
        let cause = handshake(&mut near, config, server_name(), &mut progress).await.unwrap_err();
        (cause, progress)
    }

    #[tokio::test]
    async fn a_server_that_does_not_speak_tls_is_quoted() {
        let (cause, progress) = failing(b"220 mail.example ESMTP ready\r\n").await;
        assert!(matches!(cause, HandshakeCause::NotTls), "{cause:?}");
        assert_eq!(progress.received, b"220 mail.example ESMTP ready\r\n");
        // MySQL's greeting: its first byte is a length, and may look like anything.
        let (cause, _) = failing(b"\x4a\x00\x00\x00\x0a8.0.36\x00").await;
        assert!(matches!(cause, HandshakeCause::NotTls), "{cause:?}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_not_a_tls_error() {
        let (cause, progress) = failing(b"").await;
        assert!(matches!(cause, HandshakeCause::Eof), "{cause:?}");
        assert!(progress.received.is_empty() && progress.hello_bytes > 100);
        let (cause, _) = failing(&[22, 3, 3, 1]).await;
        assert!(matches!(cause, HandshakeCause::Eof), "{cause:?}");
    }

    #[tokio::test]
    async fn an_alert_is_told_by_name_also_when_our_write_fails() {
        let (cause, _) = failing(&[21, 3, 3, 0, 2, 2, 70]).await;
        let HandshakeCause::Tls(rustls::Error::AlertReceived(alert)) = cause else {
            panic!("{cause:?}");
        };
        assert_eq!(alert, AlertDescription::ProtocolVersion);

        let (near, mut far) = duplex(64_000);
        far.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.unwrap();
        let mut near = Wire::new(near);
        near.writes_fail = true;
        let result = handshake(&mut near, Pki::new().client(), server_name(), &mut Progress::default()).await;
        assert!(matches!(
            result.unwrap_err(),
            HandshakeCause::Tls(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure))
        ));
    }

    #[tokio::test]
    async fn a_server_with_a_foreign_certificate_is_told_why_we_hang_up() {
        let (ours, theirs) = (Pki::new(), Pki::new());
        let (mut near, far) = duplex(64_000);
        let acceptor = TlsAcceptor::from(Arc::new(theirs.server(TLS13)));
        let accepted = tokio::spawn(async move { acceptor.accept(far).await.map(drop).unwrap_err() });
        let result = handshake(&mut near, ours.client(), server_name(), &mut Progress::default()).await;
        assert!(matches!(result.unwrap_err(), HandshakeCause::Tls(rustls::Error::InvalidCertificate(_))));
        drop(near);
        let told = accepted.await.unwrap().to_string();
        assert!(told.contains("received fatal alert"), "{told}");
    }
}
