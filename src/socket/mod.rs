//! Sockets of both legs: the options that std and tokio do not have, and one type for TCP and Unix streams.
use std::time::Duration;
/// Options of a TCP leg. TCP_NODELAY is always set.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpSettings {
    /// Silence after which the kernel asks whether the peer is there; `None`: never.
    pub keepalive: Option<Duration>,
    /// Time between such questions.
    pub keepalive_interval: Duration,
    /// Unanswered questions after which the connection is dead.
    pub keepalive_count: u32,
    /// Time that sent data may stay unacknowledged (Linux); `None`: the system's.
    pub user_timeout: Option<Duration>,
}
impl Default for TcpSettings {
    fn default() -> Self {
        TcpSettings {
            keepalive: Some(Duration::from_secs(60)),
            keepalive_interval: Duration::from_secs(15),
            keepalive_count: 4,
            user_timeout: Some(Duration::from_secs(120)),
        }
    }
}
/// A client's stream.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(tokio::net::TcpStream),
    /// Unix domain.
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFacts {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
}
