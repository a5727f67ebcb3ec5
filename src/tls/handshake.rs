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
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
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
#[derive(Clone, Debug)]
pub struct Summary {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub suite: &'static str,
    /// The key exchange group's registered name; a resumed TLS 1.2 session has none.
    pub group: Option<&'static str>,
    /// A session was resumed: no certificates were exchanged.
    pub resumed: bool,
    /// The ALPN protocol that the server chose.
    pub alpn: Option<String>,
    /// The server's own certificate. A copy: take it out where the summary is kept for long.
    pub peer: Option<CertificateDer<'static>>,
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
                    return Err(rustls::Error::General(format!("unexpected state in a handshake: {other:?}")));
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
        let conn = &self.conn;
        let summary = Summary {
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
        };
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
