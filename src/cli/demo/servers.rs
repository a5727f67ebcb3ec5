//! Three servers that demand a client certificate: they say their name, then send back what they get, each in its manner.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::pki::Pki;

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Answers at once.
    Steady,
    /// Answers after a while.
    Slow,
    /// For some seconds all is well; then it takes the handshake and hangs up.
    Failing,
}

/// One server of each.
pub(super) const MANNERS: [Manner; 3] = [Manner::Steady, Manner::Slow, Manner::Failing];

impl Manner {
    /// Its name on the screen and on the wire.
    pub(super) fn name(self) -> &'static str {
        match self {
            Manner::Steady => "steady",
            Manner::Slow => "slow",
            Manner::Failing => "failing",
        }
    }

    /// Is it in its bad time? The schedule: 7 seconds well, 5 seconds not.
    fn is_failing(self, since: Instant) -> bool {
        self == Manner::Failing && since.elapsed().as_secs() % 12 >= 7
    }
}

/// A running server.
pub(super) struct Server {
    pub(super) manner: Manner,
    pub(super) address: SocketAddr,
    moved: Arc<AtomicU64>,
}

impl Server {
    pub(super) async fn start(manner: Manner, pki: &Pki) -> io::Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let moved = Arc::new(AtomicU64::new(0));
        let (acceptor, counter, since) =
            (TlsAcceptor::from(pki.server.clone()), moved.clone(), Instant::now());
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(serve(stream, acceptor.clone(), manner, since, counter.clone()));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Ok(Server { manner, address, moved })
    }

    /// Bytes in and out since the start.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

/// A failed connection is part of the play: the ambassador tells what it saw of it.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    manner: Manner,
    since: Instant,
    moved: Arc<AtomicU64>,
) {
    echo(stream, acceptor, manner, since, &moved).await.ok();
}

async fn echo(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    manner: Manner,
    since: Instant,
    moved: &AtomicU64,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    if manner.is_failing(since) {
        return Ok(());
    }
    stream.write_all(format!("{}\n", manner.name()).as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        if manner == Manner::Slow {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if manner.is_failing(since) {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
        moved.fetch_add(2 * read as u64, Ordering::Relaxed);
    }
}
