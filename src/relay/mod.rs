//! relay: bytes both ways, with or without a TLS engine on the upstream's leg, until both sides are done.
//!
//! Owns the life of an established connection: back-pressure, half-close, limits, and telling apart the ways in which it
//! can end. Imports nothing from the crate. Leaves sockets to its [`Leg`]s, records and keys to its [`Engine`], and what
//! an ending means (whose fault, what to log) to the caller.
//!
//! [`pump`] is the machine; [`engine`] the seam to TLS; [`pool`] the memory; [`limits`] the timers; [`flow`]
//! the counters; [`greet`] who reads along at the beginning.

mod engine;
mod flow;
mod greet;
mod limits;
pub mod pool;
mod pump;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

pub use engine::{Carried, Engine, Fault, HEADROOM, MAX_RECORD, Opened, record_length};
pub use flow::{Exchanges, Flow};
pub use greet::{Greeter, Greeting, Objection, Onward, Remark, Upgrade};

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
    /// An orderly end, and it is one: servers of this protocol never say close_notify, and its messages say how long they
    /// are. Nor does it half-close: when the client is gone, a reset cuts nothing off either.
    Usual,
}

/// One of the two sockets of a relayed connection.
pub trait Leg: AsyncRead + AsyncWrite + Unpin + Send {
    /// Bytes in the kernel's send queue that the peer has not acknowledged; `None`: the platform does not tell.
    fn unsent(&self) -> Option<usize>;
    /// From now on, dropping it resets the connection instead of closing it.
    fn reset_on_close(&self);
    /// Its peer has to be told of an end: the socket's own would look like a cut.
    fn has_farewell(&self) -> bool {
        false
    }
    /// From now on it speaks TLS, as a server does. Whoever reads, writes or flushes drives the handshake, which may travel
    /// in packets. `begun`: what of it has been read already.
    ///
    /// # Errors
    /// It has no TLS to give.
    fn start_tls(&mut self, _packets: Option<Box<dyn Packets>>, _begun: Vec<u8>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Packets that a TLS handshake travels in. Behind it TLS goes alone.
pub trait Packets: Send + Sync {
    /// Puts a flight of ours into packets.
    fn wrap(&mut self, flight: &[u8], to: &mut Vec<u8>);

    /// Takes one packet from the front of what was heard, and TLS out of it; `false`: there is no whole packet yet.
    ///
    /// # Errors
    /// It is none of those that carry TLS.
    fn unwrap(&mut self, heard: &mut Vec<u8>, to: &mut Vec<u8>) -> io::Result<bool>;
}

/// Somebody who can end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The program that connected to us.
    Client,
    /// The server.
    Upstream,
    /// We.
    Ambassador,
}

/// How a relayed connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Both sides closed in order.
    Closed,
    /// The client reset it.
    ClientReset,
    /// The upstream reset it.
    UpstreamReset,
    /// The upstream's stream ended without close_notify.
    Truncated,
    /// The upstream sent a fatal alert; in TLS 1.3 this is also how it refuses our certificate.
    TlsAlert(rustls::AlertDescription),
    /// What the upstream sent was not valid TLS, or our keys are spent.
    TlsError(String),
    /// TCP gave a party up: its host answered neither data nor keep-alive, or it took nothing for the user timeout.
    Vanished(Party),
    /// A socket failed in another way.
    Io {
        /// Whose socket.
        party: Party,
        /// The system's words.
        error: String,
    },
    /// Nothing moved for `idle`.
    IdleTimeout,
    /// One side had closed, and nothing moved for `half_close`.
    HalfCloseTimeout,
    /// It reached its `lifetime`.
    LifetimeReached,
    /// It had to ask for TLS, and did not in the time it was given.
    TlsNotAskedFor,
    /// `stop` resolved.
    Stopped,
    /// The [`Greeter`] could not let it go on.
    Objected(Objection),
}

/// The end of a relayed connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub how: How,
    /// Who closed first.
    pub closed_by: Option<Party>,
    /// After what time the first of them closed, or broke it. The other may have gone on for long.
    pub closed_after: Duration,
    /// At least one byte of plaintext came from the upstream.
    pub upstream_spoke: bool,
    /// It ended while a [`Greeter`] read along.
    pub greeting: bool,
    /// The client awaits an answer and would understand a refusal: its leg was left as it is, for whoever says so.
    pub refusable: bool,
    /// With that: what it awaits an answer to, as the greeter says it.
    pub unanswered: Vec<u8>,
    /// Why it may have ended, where the greeter can tell.
    pub remark: Option<Remark>,
    /// The server said that it can take nobody now.
    pub overloaded: bool,
}

/// Relays until it ended, one way or another, `greeting` first. The caller drops both legs afterwards: where a reset is due, it has been arranged.
///
/// `stop` is asked at every wake of the connection: with no news it must answer without a lock.
///
/// Not an `async fn`, whose future would hold each argument twice; with many idle connections its size matters.
pub fn run<'a, C, U, E, S>(
    client: &'a mut C,
    upstream: &'a mut U,
    engine: Option<Carried<E>>,
    greeting: Option<Box<Greeting>>,
    settings: &Settings,
    flow: &'a Flow,
    stop: S,
) -> impl Future<Output = Ended> + Send + use<'a, C, U, E, S>
where
    C: Leg,
    U: Leg,
    E: Engine,
    S: Future<Output = ()> + Send + Unpin,
{
    let mut pump = pump::Pump::new(client, upstream, engine, greeting, settings, flow);
    let mut stop = Some(stop);
    poll_fn(move |cx| {
        if let Some(asked) = &mut stop
            && Pin::new(asked).poll(cx).is_ready()
        {
            stop = None;
            return pump.cut(cx, How::Stopped, Instant::now());
        }
        pump.poll(cx)
    })
}
