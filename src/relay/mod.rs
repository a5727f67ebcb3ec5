//! relay: bytes both ways, with or without a TLS engine on the upstream's leg.
mod flow;
pub use self::flow::{Exchanges, Flow};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// One side of a relayed connection.
pub trait Leg: AsyncRead + AsyncWrite + Unpin + Send {
    /// Bytes in the kernel's send queue, where the platform tells.
    fn unsent(&self) -> Option<usize>;
    /// Makes the drop of the stream send a reset instead of an orderly end.
    fn reset_on_close(&self);
}
/// Limits and manners of a relayed connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Silence in both directions that ends it; `None`: never.
    pub idle: Option<Duration>,
    /// Silence after one side closed; restarts with every byte.
    pub half_close: Duration,
    /// Age that ends it; `None`: never.
    pub lifetime: Option<Duration>,
    /// Share of `idle` and `lifetime` by which they are drawn shorter, so that connections opened together do not end together.
    pub jitter: f64,
    /// What the client sees when the server's stream ended without close_notify.
    pub on_truncation: OnTruncation,
}
impl Default for Settings {
    fn default() -> Self {
        Settings {
            idle: None,
            half_close: Duration::from_secs(60),
            lifetime: None,
            jitter: 0.1,
            on_truncation: OnTruncation::Reset,
        }
    }
}
/// What the client sees after a truncated stream, once all data was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTruncation {
    /// A reset: it cannot mistake it for an orderly end.
    #[default]
    Reset,
    /// An orderly end.
    Close,
}
/// How a relayed connection ended.
#[derive(Debug)]
pub enum How {
    /// Both sides closed in order.
    Closed,
    /// The client reset.
    ClientReset,
    /// The server reset.
    UpstreamReset,
    /// No close_notify.
    Truncated,
    /// The server sent an alert.
    TlsAlert(rustls::AlertDescription),
    /// TLS broke.
    TlsError(String),
    /// A socket broke.
    Io {
        /// Whose.
        party: Party,
        /// How.
        error: String,
    },
    /// Silence.
    IdleTimeout,
    /// Silence after one side closed.
    HalfCloseTimeout,
    /// Old age.
    LifetimeReached,
    /// We stopped.
    Stopped,
}
/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The client.
    Client,
    /// The server.
    Upstream,
    /// We.
    Ambassador,
}
