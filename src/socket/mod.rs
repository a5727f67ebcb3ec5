//! Sockets of both legs: one type for TCP and Unix clients, and the options that std and tokio do not have.
//!
//! `owner` finds the user behind a loopback TCP client, `users` knows names and numbers, `upgrade` lets a client's stream
//! turn to TLS, `sys` is the only file of the crate with unsafe code. Who may connect is `admit`'s business, opening sockets is `accept`'s and `dial`'s.

#[cfg(target_os = "linux")]
mod owner;
#[cfg(unix)]
pub(crate) mod sys;
#[cfg(not(unix))]
#[path = "sys_plain.rs"]
pub(crate) mod sys;
mod upgrade;
pub mod users;

use std::future::{self, poll_fn};
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConnection;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::relay::{Leg, Packets};

#[cfg(target_os = "linux")]
pub use owner::owner_of_peer;
pub use sys::{forbid_core_dumps, raise_descriptor_limit};
pub use upgrade::{TlsConfigs, Upgradable};

/// Options of a TCP leg. TCP_NODELAY is always set.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpSettings {
    /// Silence after which the kernel asks whether the peer is there; `None`: never.
    pub keepalive: Option<Duration>,
    /// Time between such questions.
    pub keepalive_interval: Duration,
    /// Unanswered questions after which the connection is dead.
    pub keepalive_count: u32,
    /// Time that sent data may stay unacknowledged (Linux); `None`: the system's. Linux counts the time that a living peer
    /// takes nothing as well (a pager, a cursor), and cannot tell it from one that is gone.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpSettings {
    fn default() -> Self {
        TcpSettings {
            keepalive: Some(Duration::from_secs(60)),
            keepalive_interval: Duration::from_secs(15),
            keepalive_count: 4,
            user_timeout: None,
        }
    }
}

impl TcpSettings {
    /// Sets the options on any TCP socket of std, tokio or socket2.
    pub fn apply<'s, S>(&self, socket: &'s S) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        self.apply_to_new(socket)?;
        let socket = SockRef::from(socket);
        if self.keepalive.is_none() {
            socket.set_keepalive(false)?;
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_none() {
            socket.set_tcp_user_timeout(None)?;
        }
        Ok(())
    }

    /// The same for a socket that was just made: what is off is off already.
    pub fn apply_to_new<'s, S>(&self, socket: &'s S) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if let Some(time) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(time).with_interval(self.keepalive_interval);
            match socket.set_tcp_keepalive(&keepalive.clone().with_retries(self.keepalive_count)) {
                // Windows knows the count since Windows 10 (1703) and Server 2019; before that it asks ten times.
                Err(error) if cfg!(windows) && error.raw_os_error() == Some(NO_SUCH_OPTION) => {
                    socket.set_tcp_keepalive(&keepalive)?;
                }
                set => set?,
            }
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

/// WSAENOPROTOOPT
const NO_SUCH_OPTION: i32 = 10042;

/// What the kernel measured of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Segments sent again, over the connection's life.
    pub retransmits: u32,
}

/// What the kernel measured (TCP_INFO); `None` where the platform does not tell.
pub fn tcp_facts(stream: &TcpStream) -> Option<TcpFacts> {
    sys::tcp_facts(stream)
}

/// The process at the other end of a Unix socket, and what it calls itself.
pub type Process = (u32, Option<Box<str>>);

/// Has neither side ended the connection, as far as is known here? Nothing is read, and what waits to be read does not hide
/// an end that came behind it, where the platform tells (Linux).
pub fn is_open(stream: &TcpStream) -> bool {
    sys::is_established(stream).unwrap_or_else(|| {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(stream).peek(&mut byte) {
            Ok(waiting) => waiting > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    })
}

/// How many descriptors this process holds; `None` where the platform does not tell.
pub fn open_descriptors() -> Option<u64> {
    let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let listed = std::fs::read_dir(folder).ok()?.count() as u64;
    // One of them was the listing's own.
    Some(listed.saturating_sub(1))
}

/// What this host calls itself; `None`: nothing that could be a name.
pub fn host_name() -> Option<String> {
    sys::host_name().filter(|name| !name.is_empty())
}

/// The user that owns the peer's socket. `local` and `peer` as our own socket has them.
#[cfg(not(target_os = "linux"))]
pub fn owner_of_peer(_: SocketAddr, peer: SocketAddr) -> Result<u32, String> {
    Err(format!("this platform does not tell who owns the socket of {peer}; use a Unix socket"))
}

/// A client's stream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    #[cfg(unix)]
    Unix(UnixStream),
    /// Either of them, where its listener has TLS to give.
    Upgradable(Box<Upgradable<Stream>>),
}

/// How a client left before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It closed, and had not sent a byte.
    Silently,
    /// It reset the connection.
    Reset,
}

impl Stream {
    /// Moves the stream from the reactor that accepted it to the one of the current runtime. Where both are the same,
    /// leave it out: it costs two system calls.
    pub fn into_reactor(self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Stream::Tcp),
            #[cfg(unix)]
            Stream::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Stream::Unix),
            Stream::Upgradable(stream) => {
                stream.try_map(Stream::into_reactor).map(|stream| Stream::Upgradable(Box::new(stream)))
            }
        }
    }

    /// It may turn to TLS from here on.
    pub fn upgradable(self, configs: Arc<TlsConfigs>) -> Stream {
        Stream::Upgradable(Box::new(Upgradable::new(self, configs)))
    }

    /// The client's TLS; `None`: it speaks plaintext.
    pub fn tls(&self) -> Option<&ServerConnection> {
        match self {
            Stream::Upgradable(stream) => stream.tls(),
            _ => None,
        }
    }

    /// Why the client's TLS could not go on.
    pub fn tls_failure(&self) -> Option<&rustls::Error> {
        match self {
            Stream::Upgradable(stream) => stream.tls_failure(),
            _ => None,
        }
    }

    /// The socket beneath a client's TLS that could not go on; `None`: there is no such thing.
    pub fn beneath_failed_tls(&mut self) -> Option<&mut Stream> {
        match self {
            Stream::Upgradable(stream) => stream.tls_failure().is_some().then(|| stream.plain_mut()),
            _ => None,
        }
    }

    /// Where the peer is, and where it connected to; `None` for a Unix socket, or where the peer has gone.
    pub fn tcp_addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().ok().zip(stream.local_addr().ok()),
            #[cfg(unix)]
            Stream::Unix(_) => None,
            Stream::Upgradable(stream) => stream.plain().tcp_addresses(),
        }
    }

    /// What the kernel measured; `None` for a Unix socket.
    pub fn tcp_facts(&self) -> Option<TcpFacts> {
        match self {
            Stream::Tcp(stream) => tcp_facts(stream),
            #[cfg(unix)]
            Stream::Unix(_) => None,
            Stream::Upgradable(stream) => stream.plain().tcp_facts(),
        }
    }

    /// Where a TCP connection was going before the kernel redirected it here; `None`: it was not, or the platform does not tell.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        match self {
            #[cfg(target_os = "linux")]
            Stream::Tcp(stream) => {
                let local = stream.local_addr().ok()?;
                let plain =
                    |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
                // A dual-stack socket carries IPv4 too, which is redirected by rules of its own.
                let asked = match plain(local) {
                    SocketAddr::V4(_) => SockRef::from(stream).original_dst_v4(),
                    SocketAddr::V6(_) => SockRef::from(stream).original_dst_v6(),
                };
                // Who was not redirected wanted to come here, if there is an answer at all.
                asked.ok()?.as_socket().map(plain).filter(|to| *to != plain(local))
            }
            #[cfg(not(target_os = "linux"))]
            Stream::Tcp(_) => None,
            #[cfg(unix)]
            Stream::Unix(_) => None,
            Stream::Upgradable(stream) => stream.plain().original_destination(),
        }
    }

    /// The process at the other end; `None`: the platform does not tell, or it is no Unix socket.
    pub fn peer_process(&self) -> Option<Process> {
        match self {
            Stream::Tcp(_) => None,
            #[cfg(unix)]
            Stream::Unix(stream) => {
                let pid = u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid != 0)?;
                // From the kernel's memory: it takes microseconds.
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
                Some((pid, name.map(|name| name.trim_end().into())))
            }
            Stream::Upgradable(stream) => stream.plain().peer_process(),
        }
    }

    /// Resolves when the client closed or reset the connection without having sent a byte: a bare liveness probe, or a
    /// client that gave up. Once data waits it resolves only if the client resets (where the reactor tells so).
    ///
    /// Nothing is read. A client that only closed its sending side looks the same; it never asked for anything either.
    pub async fn gone(&mut self) -> Gone {
        if let Stream::Upgradable(stream) = self
            && stream.tls().is_some()
        {
            return poll_fn(|cx| stream.poll_gone(cx)).await;
        }
        loop {
            if self.ready(Interest::READABLE).await.is_err() {
                return Gone::Reset;
            }
            match self.peek() {
                Ok(0) => return Gone::Silently,
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Gone::Reset,
            }
        }
        // An error of the socket (EPOLLERR) is a reset here. A plain close behind waiting data is none: that client has
        // said something, and may well be reading on.
        if self.ready(Interest::ERROR).await.is_ok() {
            return Gone::Reset;
        }
        future::pending().await
    }

    /// The first byte that waits, once one does; `None`: the client closed. It stays where it is.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        match self {
            Stream::Tcp(stream) => {
                let mut byte = [0];
                let waiting = stream.peek(&mut byte).await?;
                Ok((waiting > 0).then_some(byte[0]))
            }
            #[cfg(unix)]
            Stream::Unix(stream) => loop {
                stream.ready(Interest::READABLE).await?;
                match stream.try_io(Interest::READABLE, || sys::peek_byte(stream)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    peeked => return peeked,
                }
            },
            Stream::Upgradable(stream) => Box::pin(stream.plain().first_byte()).await,
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.ready(interest).await.map(drop),
            #[cfg(unix)]
            Stream::Unix(stream) => stream.ready(interest).await.map(drop),
            Stream::Upgradable(stream) => Box::pin(stream.plain().ready(interest)).await,
        }
    }

    /// How many bytes wait, of at most one; clears the reactor's readiness when none does.
    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        match self {
            Stream::Tcp(stream) => {
                stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte))
            }
            #[cfg(unix)]
            Stream::Unix(stream) => {
                stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte))
            }
            Stream::Upgradable(stream) => stream.plain().peek(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            #[cfg(unix)]
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Upgradable(stream) => Pin::new(&mut **stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, from),
            #[cfg(unix)]
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, from),
            Stream::Upgradable(stream) => Pin::new(&mut **stream).poll_write(cx, from),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            #[cfg(unix)]
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, from),
            Stream::Upgradable(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Upgradable(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Upgradable(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

impl Leg for TcpStream {
    fn unsent(&self) -> Option<usize> {
        sys::unsent(self)
    }

    fn reset_on_close(&self) {
        // Refused only for a socket that is no connection any more, and then there is nothing left to reset.
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "SO_LINGER was refused: the connection ends without a reset");
        }
    }
}

impl Leg for Stream {
    fn unsent(&self) -> Option<usize> {
        match self {
            Stream::Tcp(stream) => stream.unsent(),
            #[cfg(unix)]
            Stream::Unix(stream) => sys::unsent(stream),
            Stream::Upgradable(stream) => stream.unsent(),
        }
    }

    fn reset_on_close(&self) {
        match self {
            Stream::Tcp(stream) => stream.reset_on_close(),
            // A Unix socket has no reset: its peer sees an end of file, and EPIPE where it writes on.
            #[cfg(unix)]
            Stream::Unix(_) => {}
            Stream::Upgradable(stream) => stream.reset_on_close(),
        }
    }

    fn has_farewell(&self) -> bool {
        matches!(self, Stream::Upgradable(stream) if stream.has_farewell())
    }

    fn start_tls(&mut self, packets: Option<Box<dyn Packets>>, begun: Vec<u8>) -> io::Result<()> {
        match self {
            Stream::Upgradable(stream) => stream.start_tls(packets, begun),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Stream::Tcp(listener.accept().await.unwrap().0))
    }

    const SOON: Duration = Duration::from_secs(5);
    /// Long enough for a wrong answer to show on loopback; a test that waits for it proves an absence.
    const A_WHILE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_client_that_closes_or_resets_without_a_byte_is_gone() {
        let (client, mut stream) = pair().await;
        assert!(timeout(A_WHILE, stream.gone()).await.is_err());
        drop(client);
        timeout(SOON, stream.gone()).await.unwrap();

        let (client, mut stream) = pair().await;
        client.reset_on_close();
        drop(client);
        timeout(SOON, stream.gone()).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_sent_something_and_closed_is_not_gone_and_its_bytes_stay() {
        let (mut client, mut stream) = pair().await;
        client.write_all(b"hello").await.unwrap();
        drop(client);
        assert!(timeout(A_WHILE, stream.gone()).await.is_err());
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_client_that_sent_something_and_reset_is_gone() {
        let (mut client, mut stream) = pair().await;
        client.write_all(b"hello").await.unwrap();
        assert!(timeout(A_WHILE, stream.gone()).await.is_err());
        client.reset_on_close();
        drop(client);
        timeout(SOON, stream.gone()).await.unwrap();
    }

    #[test]
    fn a_stream_moves_to_the_reactor_of_another_runtime() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (accepting, serving) = (runtime(), runtime());
        let (mut client, stream) = accepting.block_on(pair());
        let stream = serving.spawn(async move {
            let mut stream = stream.into_reactor().unwrap();
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.unwrap();
            said
        });
        accepting.block_on(client.write_all(b"hello")).unwrap();
        assert_eq!(serving.block_on(stream).unwrap(), *b"hello");
    }

    #[tokio::test]
    async fn reset_on_close_resets() {
        let (mut client, stream) = pair().await;
        stream.reset_on_close();
        drop(stream);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn bytes_that_the_peer_has_not_taken_are_counted_until_it_does() {
        let (mut client, mut stream) = pair().await;
        assert_eq!(stream.unsent(), Some(0));
        let Stream::Tcp(tcp) = &stream else { panic!("TCP was asked for") };
        // The first write that does not fit leaves something behind.
        while tcp.try_write(&[7; 65536]).is_ok() {}
        let waiting = stream.unsent().unwrap();
        assert!(waiting > 0);
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all.len() >= waiting);
        assert!(tcp_facts(&client).is_some_and(|facts| facts.rtt > Duration::ZERO));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_unix_stream_does_all_that_a_tcp_stream_does() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut stream = Stream::Unix(server).into_reactor().unwrap();
        assert!(timeout(A_WHILE, stream.gone()).await.is_err());
        stream.write_all(b"hello").await.unwrap();
        assert!(stream.unsent().unwrap() > 0);
        let mut said = [0; 5];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!((stream.unsent(), stream.tcp_facts()), (Some(0), None));
        drop(client);
        timeout(SOON, stream.gone()).await.unwrap();
    }

    #[tokio::test]
    async fn settings_are_set_and_can_be_switched_off() {
        let (client, _stream) = pair().await;
        let (keepalive, user_timeout) = (Some(Duration::from_secs(77)), Some(Duration::from_secs(99)));
        TcpSettings { keepalive, user_timeout, ..TcpSettings::default() }.apply(&client).unwrap();
        let socket = SockRef::from(&client);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
            assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
        }
        TcpSettings { keepalive: None, ..TcpSettings::default() }.apply(&client).unwrap();
        assert!(!SockRef::from(&client).keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(SockRef::from(&client).tcp_user_timeout().unwrap(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn descriptors_are_counted_and_their_limit_is_raised_to_the_hard_one() {
        let limits = || std::fs::read_to_string("/proc/self/limits").unwrap();
        let limit = raise_descriptor_limit();
        let line = limits().lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers, [limit, limit]);
        assert!((3..limit).contains(&open_descriptors().unwrap()));
    }
}
