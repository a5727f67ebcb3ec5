//! Opens listening sockets: TCP, Unix, systemd's. Each error names the address and what would mend it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Type};

#[cfg(unix)]
use super::unix::SocketFile;
use super::{Settings, Unbound};
use crate::addr::ListenAddr;

#[cfg(target_os = "linux")]
pub use super::systemd::{sockets as systemd_sockets, unused_systemd_sockets};

/// No system but Linux passes sockets.
#[cfg(not(target_os = "linux"))]
pub fn systemd_sockets(name: &str) -> Result<Vec<(ListenAddr, Socket)>, String> {
    Err(format!("systemd:{name}: only systemd passes sockets, and it is not on this system"))
}

/// No system but Linux passes sockets.
#[cfg(not(target_os = "linux"))]
pub fn unused_systemd_sockets() -> Vec<String> {
    Vec::new()
}

/// One listening socket. Clones share it; it closes with the last of them, and then the file of a Unix socket goes too.
#[derive(Clone, Debug)]
pub struct Bound(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    written: ListenAddr,
    local: ListenAddr,
    // Before the file: fields are dropped in this order, and what still finds the file should be refused, not wait.
    socket: Socket,
    #[cfg(unix)]
    file: Option<SocketFile>,
}

/// Not registered with any reactor, so that it can move from one to another.
#[derive(Debug)]
pub enum Socket {
    /// Of a TCP address.
    Tcp(TcpListener),
    /// Of a path, or an abstract name.
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A connection that no reactor has heard of.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Never waits: `WouldBlock` where nobody does.
    pub(super) fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                Accepted::Tcp(stream, peer)
            }
            #[cfg(unix)]
            Socket::Unix(socket) => Accepted::Unix(socket.accept()?.0),
        })
    }

    pub(super) fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
            #[cfg(unix)]
            Socket::Unix(socket) => Socket::Unix(socket.try_clone()?),
        })
    }

    /// Queue and options that may change over a socket's life. `listen` on a listening socket only sets its queue.
    fn set(&self, settings: &Settings) -> io::Result<()> {
        let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
        match self {
            Socket::Tcp(socket) => {
                // Accepted connections inherit these on Linux; elsewhere they are set on each.
                if cfg!(target_os = "linux") {
                    settings.tcp.apply(socket)?;
                }
                SockRef::from(socket).listen(backlog)
            }
            #[cfg(unix)]
            Socket::Unix(socket) => SockRef::from(socket).listen(backlog),
        }
    }
}

impl Bound {
    /// The address as it is written in the file.
    pub fn written(&self) -> &ListenAddr {
        &self.0.written
    }

    /// The address that it has come to: port 0 filled in, systemd's name followed.
    pub fn local(&self) -> &ListenAddr {
        &self.0.local
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.0.socket
    }

    /// Whether the socket closes with this value: nobody else keeps it.
    pub(super) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether clients still find it: nobody has removed or replaced a Unix socket's file.
    pub fn is_reachable(&self) -> bool {
        #[cfg(unix)]
        if let Some(file) = &self.0.file {
            return file.is_ours();
        }
        true
    }

    fn new(written: &ListenAddr, local: ListenAddr, socket: Socket) -> Bound {
        Bound(Arc::new(Inner {
            written: written.clone(),
            local,
            socket,
            #[cfg(unix)]
            file: None,
        }))
    }
}

/// All addresses of a listener, or the first problem. What was bound for nothing closes again.
pub(super) fn bind_all(unbound: &Unbound, earlier: &[Bound]) -> Result<Vec<Bound>, String> {
    let settings = &unbound.settings;
    let mut bounds = Vec::new();
    let mut kept = Vec::new();
    for address in &settings.addresses {
        let known = bounds.len();
        bounds.extend(
            earlier.iter().filter(|bound| bound.written() == address && bound.is_reachable()).cloned(),
        );
        if bounds.len() > known {
            kept.extend_from_slice(&bounds[known..]);
            continue;
        }
        bounds.extend(bind(address, address, unbound)?);
    }
    // Last, so that a reload that fails has changed nothing.
    for bound in kept {
        let refused = |error| format!("cannot set the options of {}: {error}", bound.written());
        bound.socket().set(settings).map_err(refused)?;
        #[cfg(unix)]
        if let Some(file) = &bound.0.file {
            unbound.access.give_to(file.path())?;
        }
    }
    Ok(bounds)
}

/// The same addresses again, once they were closed: as they are written, and what that had come to. Or the first problem.
pub(super) fn bind_again(
    unbound: &Unbound,
    addresses: &[(ListenAddr, ListenAddr)],
) -> Result<Vec<Bound>, String> {
    let mut bounds = Vec::new();
    for (written, local) in addresses {
        bounds.extend(bind(written, local, unbound)?);
    }
    Ok(bounds)
}

/// What is `written`, where that is to come to `at`.
fn bind(written: &ListenAddr, at: &ListenAddr, unbound: &Unbound) -> Result<Vec<Bound>, String> {
    let settings = &unbound.settings;
    match (written, at) {
        (ListenAddr::Tcp(tcp), ListenAddr::Tcp(at)) => Ok(vec![bind_tcp(*tcp, *at, settings)?]),
        #[cfg(unix)]
        (ListenAddr::Unix(path), _) => {
            let (socket, file) = super::unix::bind(path, &unbound.access, settings.backlog)?;
            let (written, local, file) = (written.clone(), written.clone(), Some(file));
            Ok(vec![Bound(Arc::new(Inner { written, local, socket: Socket::Unix(socket), file }))])
        }
        #[cfg(not(unix))]
        (ListenAddr::Unix(_), _) => {
            Err(format!("{written}: this system has no Unix sockets; write 127.0.0.1:PORT"))
        }
        (ListenAddr::Systemd(name), _) => systemd_sockets(name)?
            .into_iter()
            .map(|(local, socket)| {
                let refused = |error| format!("cannot listen on {written}: {error}");
                socket.set(settings).map_err(refused)?;
                Ok(Bound::new(written, local, socket))
            })
            .collect(),
        (ListenAddr::Tcp(_), _) => Err(format!("{written} does not come to {at}")),
    }
}

fn bind_tcp(written: SocketAddr, address: SocketAddr, settings: &Settings) -> Result<Bound, String> {
    // [::] takes IPv4 along, unless 0.0.0.0 is written beside it.
    let v4_twin = ListenAddr::Tcp((Ipv4Addr::UNSPECIFIED, written.port()).into());
    let v6_only = settings.addresses.contains(&v4_twin);
    let open = || -> io::Result<(Socket, SocketAddr)> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(v6_only)?;
        }
        // A restart must not wait for connections in TIME_WAIT. On Windows the option means something else: that others
        // may take the port over.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let local = listener.local_addr()?;
        let socket = Socket::Tcp(listener);
        socket.set(settings)?;
        Ok((socket, local))
    };
    match open() {
        Ok((socket, local)) => Ok(Bound::new(&ListenAddr::Tcp(written), ListenAddr::Tcp(local), socket)),
        Err(error) => Err(format!("cannot listen on {address}: {error}{}", tcp_next_step(address, &error))),
    }
}

/// What would mend a refused TCP address.
pub(super) fn tcp_next_step(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse if cfg!(unix) => format!("; `ss -ltnp sport = :{port}` shows who has it"),
        io::ErrorKind::AddrInUse => {
            format!("; `netstat -ano -p tcp | findstr :{port}` shows the process that has it")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "; no interface of this host has {}: `ip address` shows those there are, and [::] with `allow` takes them all",
            address.ip()
        ),
        io::ErrorKind::PermissionDenied if cfg!(target_os = "linux") && port < 1024 => {
            "; ports below 1024 need AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or sysctl \
             net.ipv4.ip_unprivileged_port_start"
                .into()
        }
        io::ErrorKind::PermissionDenied if cfg!(windows) => {
            "; the port may be reserved: `netsh int ipv4 show excludedportrange tcp` lists such".into()
        }
        _ if has_no_family(error) => {
            "; this host has no IPv6: write the IPv4 address (0.0.0.0 in place of [::])".into()
        }
        _ => String::new(),
    }
}

#[cfg(unix)]
fn has_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(not(unix))]
fn has_no_family(_: &io::Error) -> bool {
    false
}
