//! Names and addresses, typed by the role they play, so that two of them cannot be swapped at a call.
//!
//! Owns the spelling of addresses (parse and print). Leaves resolving to `discovery` and opening to `dial` and `accept`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Who connected to us, as the kernel says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A Unix-socket peer: its user id, where the platform tells it.
    Unix {
        /// Effective user id of the peer at `connect(2)`.
        uid: Option<u32>,
    },
}

impl ClientAddr {
    /// The key that caps, hashing and stickiness use: the address without its port, or the user id.
    pub fn source_key(&self) -> SourceKey {
        match self {
            ClientAddr::Tcp(address) => SourceKey::Ip(address.ip().to_canonical()),
            ClientAddr::Unix { uid } => SourceKey::User(*uid),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddr::Tcp(address) => address.fmt(f),
            ClientAddr::Unix { uid: Some(uid) } => write!(f, "unix:uid={uid}"),
            ClientAddr::Unix { uid: None } => f.write_str("unix"),
        }
    }
}

/// What makes two connections come from the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceKey {
    /// A TCP peer's address.
    Ip(IpAddr),
    /// A Unix peer's user.
    User(Option<u32>),
}

/// Where we listen, as written: `127.0.0.1:5432`, `[::]:25`, `unix:/run/x.sock`, `systemd:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddr {
    /// A TCP address. `[::]` is dual stack.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
    /// A socket inherited from systemd, by its `FileDescriptorName=`.
    Systemd(String),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => address.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddr::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("'unix:' wants a path behind it, as in unix:/run/nuncio/orders.sock".into()),
                path => Ok(ListenAddr::Unix(PathBuf::from(path))),
            };
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return match name {
                "" => Err("'systemd:' wants the FileDescriptorName= of a .socket unit behind it".into()),
                name => Ok(ListenAddr::Systemd(name.into())),
            };
        }
        text.parse().map(ListenAddr::Tcp).map_err(|_| {
            let hint = match text.rsplit_once(':') {
                Some(("localhost", port)) => format!(" (write 127.0.0.1:{port} or [::1]:{port})"),
                Some(("" | "*", port)) => format!(" (write 127.0.0.1:{port}, or [::]:{port} with `allow`)"),
                None if text.parse::<u16>().is_ok() => format!(" (write 127.0.0.1:{text})"),
                _ => String::new(),
            };
            format!("'{text}' is not IP:PORT, unix:/PATH or systemd:NAME{hint}")
        })
    }
}

/// The host of an endpoint, as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name that has to be resolved.
    Name(Arc<str>),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(ip) => ip.fmt(f),
        }
    }
}

/// An endpoint of an upstream: `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointAddr {
    /// A name or an address.
    pub host: Host,
    /// The TCP port.
    pub port: u16,
}

impl EndpointAddr {
    /// An endpoint that needs no resolving.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for EndpointAddr {
    fn from(address: SocketAddr) -> Self {
        EndpointAddr { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl FromStr for EndpointAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(format!("'{text}': port 0 cannot be dialled")),
                _ => Ok(address.into()),
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!("'{text}' has no port: write {text}:PORT"));
        };
        if text.contains('/') {
            return Err(format!("'{text}': write HOST:PORT alone, as in db.example.com:5432"));
        }
        if host.contains(':') {
            return Err(format!("'{text}': write an IPv6 address in brackets, as in [::1]:5432"));
        }
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()); // u16's own parser takes "+5"
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| digits && *port != 0)
            .ok_or_else(|| format!("'{text}': '{port}' is not a port (1 to 65535)"))?;
        // A name of an endpoint is looked up and, unless told otherwise, checked against the certificate: LDH labels and
        // underscores only, so that a URL or a typo is caught here and not by a resolver (RFC 1123, section 2.1).
        let name = host.strip_suffix('.').unwrap_or(host);
        let label_fits = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // No top-level domain is a number (RFC 3696, section 2): 10.0.0.256 is a mistyped address, not a name.
        let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
        if name.len() > 253
            || !name.split('.').all(label_fits)
            || name.rsplit('.').next().is_some_and(numeric)
        {
            return Err(format!("'{text}': '{host}' is not a host name or an address"));
        }
        Ok(EndpointAddr { host: Host::Name(name.to_ascii_lowercase().into()), port })
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

as_text!(ClientAddr, ListenAddr, Host, EndpointAddr);

/// A listener's name in the file.
pub type ListenerName = Arc<str>;
/// An upstream's name in the file.
pub type UpstreamName = Arc<str>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_back_as_they_were_printed() {
        for text in ["db.example.com:5432", "10.0.0.1:1", "[::1]:65535", "_x.y-z:9"] {
            assert_eq!(text.parse::<EndpointAddr>().unwrap().to_string(), text);
        }
        assert_eq!("DB.Example.com.:1".parse::<EndpointAddr>().unwrap().to_string(), "db.example.com:1");
    }

    #[test]
    fn an_endpoint_that_is_not_one_is_told_what_to_write() {
        for (text, says) in [
            ("db", "write db:PORT"),
            ("::1:5432", "in brackets"),
            ("db:0", "not a port"),
            ("10.0.0.1:0", "port 0"),
            ("http://db:80", "HOST:PORT alone"),
            ("a b:80", "not a host name"),
            (":80", "not a host name"),
            ("127.0.0.1:+5", "'+5' is not a port"),
            ("127.0.0.1.:5", "not a host name"),
            ("10.0.0.256:5", "not a host name"),
        ] {
            let error = text.parse::<EndpointAddr>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_listen_address_that_is_not_one_is_told_what_to_write() {
        for (text, says) in [
            ("5432", "write 127.0.0.1:5432"),
            ("localhost:5432", "write 127.0.0.1:5432"),
            ("*:25", "[::]:25"),
            ("unix:", "wants a path"),
            ("systemd:", "FileDescriptorName"),
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!("unix:/run/x".parse::<ListenAddr>().unwrap().to_string(), "unix:/run/x");
    }
}
