//! Servers that misbehave, each in one way. `tests/stories/peers.rs` holds each to its word.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::version::TLS12;
use rustls::{AlertDescription, ServerConnection};
use socket2::{Domain, SockRef, Socket, Type};

use super::peer::Peer;
use super::pki::{By, Pki, SERVER_NAME, Valid};
use super::records::{self, Records, content};
use super::upstream::{Close, echo, handshake};

/// What is wrong with a server.
#[derive(Clone, Debug)]
pub enum Hostile {
    /// Accepts, and ends the connection in order.
    ClosesAtOnce,
    /// Accepts, and resets.
    ResetsAtOnce,
    /// Accepts, reads, and never says a word.
    NeverAnswers,
    /// Answers with bytes that are no TLS.
    Garbage,
    /// Speaks first, in plaintext, and then waits: MySQL, SMTP, SSH, ...
    PlaintextGreeting(Vec<u8>),
    /// A fatal alert.
    AlertAt(Point, AlertDescription),
    /// Reads the ClientHello, waits, and is a good server from then on.
    SlowHandshake(Duration),
    /// A good server that sends each byte in a segment of its own.
    OneByteAtATime,
    /// Its certificate is signed by a CA of the right name with another key.
    ForeignCa,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate carries another name.
    WrongName,
    /// Trusts another CA than ours: with TLS 1.3 it says so after the handshake, as seen from the client.
    LateClientCertAlert,
    /// The same, and resets the connection right behind its alert.
    LateClientCertReset,
    /// Hangs up without a word once it has seen our certificate.
    LateClientCertClose,
    /// Refuses our certificate within the handshake, as TLS 1.2 has it.
    ClientCertAlert12,
    /// Resets the connection once the handshake is over.
    ResetsAfterHandshake,
    /// Sends so many bytes after the handshake, and resets.
    ResetsAfter(usize),
    /// Waits for the first byte after the handshake, and resets.
    ResetsAtFirstByte,
    /// Ends the connection in order once the handshake is over.
    ClosesAfterHandshake,
    /// Sends so many bytes after the handshake and vanishes without close_notify.
    TruncatesAfter(usize),
    /// Asks for new keys after the handshake, while nobody sends anything, and echoes what then comes.
    AsksForKeyUpdate,
}

/// When an alert comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before the ClientHello.
    BeforeHello,
    /// Instead of the ServerHello.
    InsteadOfServerHello,
    /// As the first record after the handshake.
    AfterHandshake,
}

impl Hostile {
    /// Starts a server of this kind.
    pub fn start(self, pki: &Pki) -> Peer {
        let leaf = match self {
            Hostile::ForeignCa => {
                Some(pki.issue("foreign", &[SERVER_NAME, "127.0.0.1"], By::Foreign, Valid::Now))
            }
            Hostile::Expired => {
                Some(pki.issue("expired", &[SERVER_NAME, "127.0.0.1"], By::Ca, Valid::Expired))
            }
            Hostile::NotYetValid => {
                Some(pki.issue("not-yet", &[SERVER_NAME, "127.0.0.1"], By::Ca, Valid::NotYet))
            }
            Hostile::WrongName => Some(pki.issue("other", &["other.test"], By::Ca, Valid::Now)),
            _ => None,
        };
        let refuses_us = matches!(
            self,
            Hostile::LateClientCertAlert
                | Hostile::LateClientCertReset
                | Hostile::LateClientCertClose
                | Hostile::ClientCertAlert12
        );
        let versions = match self {
            Hostile::ClientCertAlert12 => &[&TLS12][..],
            _ => rustls::DEFAULT_VERSIONS,
        };
        let clients_by = if refuses_us { By::Foreign } else { By::Ca };
        let mut config = pki.server_config_of(leaf.as_ref().unwrap_or(&pki.server), clients_by, versions);
        records::allow(&mut config);
        let config = Arc::new(config);
        // The ends of connections are the point here: an error only says that the client was faster.
        Peer::start(move |stream| drop(self.serve(&config, stream)))
    }

    fn serve(&self, config: &Arc<rustls::ServerConfig>, mut stream: TcpStream) -> io::Result<()> {
        match self {
            Hostile::ClosesAtOnce => {
                stream.close_write();
                read_to_the_end(stream)
            }
            Hostile::ResetsAtOnce => reset_on_close(&stream),
            Hostile::NeverAnswers => read_to_the_end(stream),
            Hostile::Garbage => {
                stream.write_all(&[0xa5; 64])?;
                read_to_the_end(stream)
            }
            Hostile::PlaintextGreeting(greeting) => {
                stream.write_all(greeting)?;
                read_to_the_end(stream)
            }
            Hostile::AlertAt(Point::BeforeHello, alert) => {
                stream.write_all(&plaintext_alert(*alert))?;
                read_to_the_end(stream)
            }
            Hostile::AlertAt(Point::InsteadOfServerHello, alert) => {
                stream.read_exact(&mut [0; 5])?;
                stream.write_all(&plaintext_alert(*alert))?;
                read_to_the_end(stream)
            }
            Hostile::AlertAt(Point::AfterHandshake, alert) => {
                let Some(tls) = handshake(config, stream) else { return Ok(()) };
                let mut records = Records::take_over(tls);
                records.send(content::ALERT, &[2, u8::from(*alert)])?;
                read_to_the_end(records.stream())
            }
            Hostile::SlowHandshake(pause) => {
                stream.peek(&mut [0; 1])?;
                std::thread::sleep(*pause);
                serve_well(config, stream)
            }
            Hostile::OneByteAtATime => serve_well(config, Dribble(stream)),
            Hostile::ForeignCa
            | Hostile::Expired
            | Hostile::NotYetValid
            | Hostile::WrongName
            | Hostile::LateClientCertAlert
            | Hostile::ClientCertAlert12 => serve_well(config, stream),
            Hostile::LateClientCertReset => {
                // Where the handshake fails, the alert has been sent.
                drop(handshake(config, &mut stream));
                reset_on_close(&stream)
            }
            Hostile::LateClientCertClose => {
                let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                while tls.read_tls(&mut stream)? > 0 && tls.process_new_packets().is_ok() {
                    while tls.wants_write() {
                        tls.write_tls(&mut stream)?;
                    }
                }
                stream.close_write();
                read_to_the_end(stream)
            }
            Hostile::ResetsAfterHandshake => match handshake(config, stream) {
                Some(tls) => reset_on_close(&tls.sock),
                None => Ok(()),
            },
            Hostile::ResetsAfter(bytes) => {
                let Some(mut tls) = handshake(config, stream) else { return Ok(()) };
                tls.write_all(&vec![b'x'; *bytes])?;
                tls.flush()?;
                reset_on_close(&tls.sock)
            }
            Hostile::ResetsAtFirstByte => {
                let Some(mut tls) = handshake(config, stream) else { return Ok(()) };
                tls.read_exact(&mut [0])?;
                reset_on_close(&tls.sock)
            }
            Hostile::ClosesAfterHandshake => {
                let Some(mut tls) = handshake(config, stream) else { return Ok(()) };
                tls.conn.send_close_notify();
                tls.flush()?;
                tls.sock.close_write();
                read_to_the_end(&tls.sock)
            }
            Hostile::TruncatesAfter(bytes) => {
                let Some(mut tls) = handshake(config, stream) else { return Ok(()) };
                tls.write_all(&vec![b'x'; *bytes])?;
                tls.flush()?;
                tls.sock.close_write();
                read_to_the_end(&tls.sock)
            }
            Hostile::AsksForKeyUpdate => {
                let Some(mut tls) = handshake(config, stream) else { return Ok(()) };
                tls.conn.refresh_traffic_keys().map_err(io::Error::other)?;
                tls.flush()?;
                echo(tls, Duration::ZERO);
                Ok(())
            }
        }
    }
}

fn serve_well<S: Read + Write + Close>(config: &Arc<rustls::ServerConfig>, stream: S) -> io::Result<()> {
    if let Some(tls) = handshake(config, stream) {
        echo(tls, Duration::ZERO);
    }
    Ok(())
}

fn plaintext_alert(alert: AlertDescription) -> [u8; 7] {
    [content::ALERT, 3, 3, 0, 2, 2, u8::from(alert)]
}

/// An address whose queue of connections is full: a SYN is not answered.
pub struct Deaf {
    listener: Socket,
    /// Held, so that they stay in the queue.
    waiting: Vec<TcpStream>,
}

impl Deaf {
    /// Fills its own queue.
    pub fn start() -> Deaf {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback can be bound");
        listener.listen(0).expect("a bound socket can listen");
        let mut deaf = Deaf { listener, waiting: Vec::new() };
        while let Ok(stream) = TcpStream::connect_timeout(&deaf.address(), Duration::from_millis(200)) {
            deaf.waiting.push(stream);
        }
        deaf
    }

    /// Where nobody answers.
    pub fn address(&self) -> SocketAddr {
        let address = self.listener.local_addr().expect("a bound socket has an address");
        address.as_socket().expect("an IP address")
    }
}

/// Until the client goes: closing with unread bytes would be a reset.
fn read_to_the_end(mut stream: impl Read) -> io::Result<()> {
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Dropping the socket sends RST instead of FIN.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Writes one byte a call.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Close for Dribble {
    fn close_write(&self) {
        self.0.close_write();
    }
}
