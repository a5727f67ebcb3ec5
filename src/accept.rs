//! accept: a descriptor permit first, then a connection from the kernel; an error costs one short pause, never a core.
use crate::addr::{ClientAddr, ListenAddr};
use crate::socket::Stream;

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
    pub tcp: crate::socket::TcpSettings,
}

/// A connection as the kernel gave it.
#[derive(Debug)]
pub struct Accepted {
    /// The client's socket, not yet registered with the reactor that will serve it.
    pub stream: Stream,
    /// Who it is.
    pub client: ClientAddr,
    /// The address it connected to.
    pub local: ListenAddr,
    /// When it was accepted.
    pub at: std::time::Instant,
}
