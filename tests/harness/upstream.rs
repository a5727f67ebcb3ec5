//! A well-behaved mTLS server in this process: what it is sent comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::peer::Peer;
use super::pki::Pki;

/// One connection after its handshake.
pub type TlsStream<S = TcpStream> = StreamOwned<ServerConnection, S>;

/// An mTLS echo that can be killed and restarted at its address.
pub struct Upstream {
    peer: Option<Peer>,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    pause: Duration,
}

impl Upstream {
    /// Demands a client certificate of the CA, and echoes.
    pub fn start(pki: &Pki) -> Upstream {
        Upstream::with(pki.server_config(), Duration::ZERO)
    }

    /// The same at an address of the test's choice.
    pub fn start_at(pki: &Pki, address: SocketAddr) -> Upstream {
        Upstream::with_at(pki.server_config(), Duration::ZERO, address)
    }

    /// The same with a configuration of the test's own, pausing before each answer.
    pub fn with(config: Arc<ServerConfig>, pause: Duration) -> Upstream {
        Upstream::with_at(config, pause, (Ipv4Addr::LOCALHOST, 0).into())
    }

    fn with_at(config: Arc<ServerConfig>, pause: Duration, address: SocketAddr) -> Upstream {
        let peer = Peer::start_at(address, echoing(config.clone(), pause));
        Upstream { address: peer.address(), peer: Some(peer), config, pause }
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.peer.as_ref().map_or(0, Peer::open)
    }

    /// Connections accepted since it was started last.
    pub fn accepted(&self) -> u64 {
        self.peer.as_ref().map_or(0, Peer::accepted)
    }

    /// As `kill -9` would; its address refuses connections from now on.
    pub fn kill(&mut self) {
        self.peer = None;
    }

    /// Listens again where it did.
    pub fn restart(&mut self) {
        self.peer = None;
        self.peer = Some(Peer::start_at(self.address, echoing(self.config.clone(), self.pause)));
    }
}

fn echoing(config: Arc<ServerConfig>, pause: Duration) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |stream| {
        if let Some(tls) = handshake(&config, stream) {
            echo(tls, pause);
        }
    }
}

/// The server's side of a handshake to its very end (TLS 1.3: the client's certificate was seen); `None`: it failed,
/// and the client was sent the alert.
pub fn handshake<S: Read + Write>(config: &Arc<ServerConfig>, mut stream: S) -> Option<TlsStream<S>> {
    let mut tls = ServerConnection::new(config.clone()).expect("the configuration is complete");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).ok()?;
    }
    // The session tickets, which rustls has ready but not yet sent.
    while tls.wants_write() {
        tls.write_tls(&mut stream).ok()?;
    }
    Some(StreamOwned::new(tls, stream))
}

/// Sends back what comes until close_notify, and answers that with its own.
pub fn echo<S: Read + Write + Close>(mut tls: TlsStream<S>, pause: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tls.read(&mut buffer) {
            Ok(0) => {
                tls.conn.send_close_notify();
                // Errors: the client is gone, and there is nobody to tell.
                tls.flush().ok();
                tls.sock.close_write();
                return;
            }
            Ok(count) => {
                std::thread::sleep(pause);
                if tls.write_all(&buffer[..count]).and_then(|()| tls.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return, // truncated, reset or killed
        }
    }
}

/// A plaintext echo, for what stands behind a TLS terminator.
pub fn plain_echo() -> Peer {
    Peer::start(|stream| {
        // An error: the client is gone.
        std::io::copy(&mut &stream, &mut &stream).ok();
    })
}

/// A stream whose sending side can be ended.
pub trait Close {
    /// Sends FIN.
    fn close_write(&self);
}

impl Close for TcpStream {
    fn close_write(&self) {
        self.shutdown(Shutdown::Write).ok(); // an error: the client was faster
    }
}
