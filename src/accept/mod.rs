//! accept: a descriptor permit first, then a connection from the kernel; an error costs one short pause, never a core.
//!
//! Owns the listening sockets from [`Acceptor::bind`] until the drain: `bind` opens them, `unix` keeps the socket files,
//! `systemd` the inherited ones. Who may come in is `admit`'s to say, which reactor serves a connection the service's.

mod bind;
#[cfg(target_os = "linux")]
mod systemd;
#[cfg(unix)]
mod unix;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::addr::{ClientAddr, ListenAddr};
use crate::drain;
use crate::socket::{Stream, TcpSettings};

pub use bind::{Bound, Socket, systemd_sockets, unused_systemd_sockets};
#[cfg(unix)]
pub use unix::{SocketFile, bind_alone as bind_unix};

/// How a listener's addresses are bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where to listen; at least one.
    pub addresses: Vec<ListenAddr>,
    /// Mode of Unix sockets, as in chmod(1).
    pub mode: u32,
    /// Owner of Unix sockets: a user's name or number.
    pub owner: Option<String>,
    /// Group of Unix sockets: a group's name or number.
    pub group: Option<String>,
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: u32,
    /// Keep-alive and user timeout of the client's leg.
    pub tcp: TcpSettings,
}

/// A connection as the kernel gave it.
#[derive(Debug)]
pub struct Accepted {
    /// The client's socket, not yet registered with the reactor that will serve it.
    pub stream: Stream,
    /// Who it is. An IPv4 client of a dual-stack socket has its IPv4 address.
    pub client: ClientAddr,
    /// The very address it connected to: never a wildcard, and for systemd's sockets what they are bound to.
    pub local: ListenAddr,
    /// Where its client had connected to, if the kernel redirected it here. Asked for only where that matters.
    pub redirected_from: Option<SocketAddr>,
    /// When it was accepted.
    pub at: Instant,
}

/// A listener's addresses, about to be bound: the owner and the group of its sockets are looked up, which may take as long
/// as a directory on the network does. Nothing is open yet, and to bind takes no time.
#[derive(Debug)]
pub struct Unbound {
    settings: Settings,
    #[cfg(unix)]
    access: unix::Access,
}

impl Unbound {
    /// Looks up whom the sockets will belong to.
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn new(settings: &Settings) -> Result<Unbound, String> {
        Ok(Unbound {
            settings: settings.clone(),
            #[cfg(unix)]
            access: unix::Access::new(settings)?,
        })
    }

    /// Binds every address, or none and says why and what would mend it. For a reload: an address that is bound already keeps
    /// its socket, and with it the connections that wait in the kernel's queue. Its mode, owner, group, backlog and TCP
    /// options become the new ones.
    pub fn bind(self, earlier: &[Bound]) -> Result<Acceptor, String> {
        Ok(Acceptor { bounds: bind::bind_all(&self, earlier)?, unbound: Arc::new(self) })
    }
}

/// What it takes to bind the sockets of a listener again, once they are closed: at the very same addresses, also where the
/// system chose the port.
#[derive(Clone, Debug)]
pub struct Closed {
    unbound: Arc<Unbound>,
    /// As written, and where that was.
    addresses: Vec<(ListenAddr, ListenAddr)>,
}

impl Closed {
    /// Binds every address, or none and says why and what would mend it.
    ///
    /// # Errors
    /// Somebody else has one by now, for example.
    pub fn bind(&self) -> Result<Acceptor, String> {
        Ok(Acceptor {
            bounds: bind::bind_again(&self.unbound, &self.addresses)?,
            unbound: self.unbound.clone(),
        })
    }

    /// Where it was listening, ports filled in.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddr> {
        self.addresses.iter().map(|(_, local)| local)
    }
}

/// The bound sockets of one listener.
#[derive(Debug)]
pub struct Acceptor {
    bounds: Vec<Bound>,
    unbound: Arc<Unbound>,
}

impl Acceptor {
    /// Looks up and binds in one.
    pub fn bind(settings: &Settings) -> Result<Acceptor, String> {
        Unbound::new(settings)?.bind(&[])
    }

    /// The sockets, for a later [`Unbound::bind`]. A socket closes, and the file of a Unix socket goes, with the
    /// last clone of its `Bound`: who keeps these keeps the address.
    pub fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// How to bind them again, when they are closed by then.
    pub fn when_closed(&self) -> Closed {
        let addresses = self.bounds.iter().map(|bound| (bound.written().clone(), bound.local().clone()));
        Closed { unbound: self.unbound.clone(), addresses: addresses.collect() }
    }

    fn tcp(&self) -> &TcpSettings {
        &self.unbound.settings.tcp
    }

    /// Where clients can connect, ports filled in.
    pub fn local_addrs(&self) -> Vec<ListenAddr> {
        self.bounds.iter().map(|bound| bound.local().clone()).collect()
    }

    /// Accepts until the drain starts, or until the future is dropped (a reload): no connection is lost by that, since
    /// each is handed to `on` in the same breath in which it was accepted.
    ///
    /// At the drain the queues of sockets that close with it are emptied first: these clients were told that they are
    /// connected, and a close would reset them without a word in any record. A queue that another acceptor goes on with
    /// is left to it.
    ///
    /// The permit comes first, so that where none is left connections wait in the kernel's queue and cost us nothing.
    pub async fn run(
        self,
        permits: Arc<Semaphore>,
        drain: drain::Watch,
        on: impl Fn(Accepted, OwnedSemaphorePermit),
    ) {
        tokio::select! {
            biased;
            () = drain.started() => {}
            never = self.accept_forever(&permits, &on) => match never {},
        }
        self.empty_queues(&permits, &on);
    }

    /// Hands on who waits, as far as there are permits. Bounded: whoever connects now could go on for ever.
    fn empty_queues(&self, permits: &Arc<Semaphore>, on: &impl Fn(Accepted, OwnedSemaphorePermit)) {
        let until = Instant::now() + Acceptor::LAST_MOMENT;
        for bound in self.bounds.iter().filter(|bound| bound.is_last()) {
            while Instant::now() < until {
                let Ok(permit) = permits.clone().try_acquire_owned() else { return };
                // Past the reactor, which has yet to hear of what waits.
                match bound.socket().accept().and_then(|accepted| self.registered(accepted, bound.local())) {
                    Ok(accepted) => on(accepted, permit),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(_) => break, // nobody is left, or there are no descriptors
                }
            }
        }
    }

    fn registered(&self, accepted: bind::Accepted, local: &ListenAddr) -> io::Result<Accepted> {
        match accepted {
            bind::Accepted::Tcp(stream, peer) => {
                stream.set_nonblocking(true)?;
                Ok(of_tcp(TcpStream::from_std(stream)?, peer, local, self.tcp()))
            }
            #[cfg(unix)]
            bind::Accepted::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Ok(of_unix(UnixStream::from_std(stream)?, local))
            }
        }
    }

    /// Enough for any queue that the kernel keeps.
    const LAST_MOMENT: Duration = Duration::from_millis(500);

    async fn accept_forever(
        &self,
        permits: &Arc<Semaphore>,
        on: &impl Fn(Accepted, OwnedSemaphorePermit),
    ) -> Infallible {
        let mut trouble = Trouble::default();
        let ports = loop {
            match self.bounds.iter().map(|bound| self.port(bound)).collect::<io::Result<Vec<_>>>() {
                Ok(ports) => break ports,
                Err(error) => trouble.pause(&error).await,
            }
        };
        let mut turn = 0;
        let mut places = Places { permits: permits.clone(), waiting: None };
        loop {
            // A permit that finds nothing to accept goes back at once: an idle listener that kept one would take it from
            // those that have clients waiting.
            let (accepted, permit) = poll_fn(|cx| {
                let permit = std::task::ready!(places.poll(cx));
                // In turn, so that one busy address does not starve the others.
                for _ in 0..ports.len() {
                    turn = (turn + 1) % ports.len();
                    if let Poll::Ready(accepted) = ports[turn].poll_accept(cx) {
                        return Poll::Ready((accepted, permit));
                    }
                }
                Poll::Pending
            })
            .await;
            match accepted {
                Ok(accepted) => {
                    trouble.is_over();
                    on(accepted, permit);
                }
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    drop(permit);
                    trouble.pause(&error).await;
                }
            }
        }
    }

    /// Registers a socket with this runtime. It is a duplicate, so that a reload can carry the original on.
    fn port(&self, bound: &Bound) -> io::Result<Port<'_>> {
        let listening = match bound.socket().try_clone()? {
            bind::Socket::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket)?),
            #[cfg(unix)]
            bind::Socket::Unix(socket) => Listening::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Port { listening, local: bound.local().clone(), tcp: self.tcp() })
    }
}

/// The way to a permit.
struct Places {
    permits: Arc<Semaphore>,
    /// Boxed only while there is none: the common case costs one atomic operation.
    waiting: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>,
}

impl Places {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<OwnedSemaphorePermit> {
        if self.waiting.is_none()
            && let Ok(permit) = self.permits.clone().try_acquire_owned()
        {
            return Poll::Ready(permit);
        }
        let permits = &self.permits;
        let waiting = self.waiting.get_or_insert_with(|| {
            let permits = permits.clone();
            Box::pin(async move { permits.acquire_owned().await.ok() })
        });
        let permit = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        // Somebody closed the semaphore: there will be no permit.
        permit.map_or(Poll::Pending, Poll::Ready)
    }
}

/// A listening socket on its reactor.
struct Port<'a> {
    listening: Listening,
    local: ListenAddr,
    tcp: &'a TcpSettings,
}

enum Listening {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Port<'_> {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(Ok(match &self.listening {
            Listening::Tcp(listener) => {
                let (stream, peer) = std::task::ready!(listener.poll_accept(cx))?;
                of_tcp(stream, peer, &self.local, self.tcp)
            }
            #[cfg(unix)]
            Listening::Unix(listener) => {
                let (stream, _) = std::task::ready!(listener.poll_accept(cx))?;
                of_unix(stream, &self.local)
            }
        }))
    }
}

fn of_tcp(stream: TcpStream, peer: SocketAddr, listening: &ListenAddr, tcp: &TcpSettings) -> Accepted {
    // Linux lets a connection inherit the options of its listening socket, where `bind` has set them: six system calls
    // less a connection.
    if cfg!(not(target_os = "linux"))
        && let Err(error) = tcp.apply(&stream)
    {
        tracing::debug!(%error, "options were refused: the connection is gone already");
    }
    let local = match listening {
        // Asked for only where a wildcard is bound: a system call less a connection.
        ListenAddr::Tcp(bound) if !bound.ip().is_unspecified() => ListenAddr::Tcp(plain(*bound)),
        _ => {
            stream.local_addr().map_or_else(|_| listening.clone(), |address| ListenAddr::Tcp(plain(address)))
        }
    };
    let client = ClientAddr::Tcp(plain(peer));
    Accepted { stream: Stream::Tcp(stream), client, local, redirected_from: None, at: Instant::now() }
}

#[cfg(unix)]
fn of_unix(stream: UnixStream, listening: &ListenAddr) -> Accepted {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let client = ClientAddr::Unix { uid };
    let local = listening.clone();
    Accepted { stream: Stream::Unix(stream), client, local, redirected_from: None, at: Instant::now() }
}

/// An IPv4 address where it came mapped into IPv6.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Whether the error belongs to the connection that was to be accepted, which is off the queue with it. Linux hands out
/// pending network errors of that connection here as well: accept(2). All others would come back at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
        TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

/// A streak of errors that are not about one connection: no descriptors, no memory.
#[derive(Default)]
struct Trouble {
    /// Errors since the last connection.
    errors: u32,
    /// Its last error. The streak that is worth a new line begins only after a while without: at the brink of the limit
    /// errors and connections alternate.
    last: Option<Instant>,
}

impl Trouble {
    const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

    async fn pause(&mut self, error: &io::Error) {
        let pause = Trouble::length(self.errors);
        self.errors = self.errors.saturating_add(1);
        let now = Instant::now();
        if self.last.replace(now).is_none_or(|last| now.duration_since(last) > Trouble::FORGOTTEN_AFTER) {
            tracing::warn!(
                %error,
                "connections cannot be accepted and wait in the kernel's queue{}",
                next_step(error)
            );
        }
        tokio::time::sleep(pause).await;
    }

    fn is_over(&mut self) {
        self.errors = 0;
    }

    /// 5 ms, doubling up to 1 s.
    fn length(errors: u32) -> Duration {
        Duration::from_millis((5u64 << errors.min(8)).min(1000))
    }
}

/// What to do about an error that keeps us from accepting.
#[cfg(unix)]
fn next_step(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => ": raise the limit of open files (LimitNOFILE= in the unit, or ulimit -Hn)",
        Some(libc::ENFILE) => ": the whole host is out of open files (sysctl fs.file-max)",
        Some(libc::ENOBUFS | libc::ENOMEM) => ": the kernel is out of memory for sockets",
        _ => "",
    }
}

#[cfg(not(unix))]
fn next_step(_: &io::Error) -> &'static str {
    ""
}

#[cfg(test)]
mod tests;
