//! What is counted per upstream: how long each step and each exchange took.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::held;
use super::histogram::Histogram;
use super::percentiles::{Quantiles, Window};

/// A duration that every connection may have once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timed {
    /// Waiting for a place.
    Queue,
    /// Name to addresses.
    Resolve,
    /// TCP.
    Connect,
    /// Through an outbound proxy.
    Proxy,
    /// The plaintext messages before TLS.
    Negotiate,
    /// TLS.
    Handshake,
    /// From the start of the relay to the upstream's first byte.
    FirstByte,
}

impl Timed {
    pub(super) const ALL: [(Timed, &'static str); 7] = [
        (Timed::Queue, "queue"),
        (Timed::Resolve, "resolve"),
        (Timed::Connect, "connect"),
        (Timed::Proxy, "proxy"),
        (Timed::Negotiate, "negotiate"),
        (Timed::Handshake, "handshake"),
        (Timed::FirstByte, "first_byte"),
    ];
}

/// What is counted per upstream.
#[derive(Debug)]
pub struct UpstreamSeries {
    stages: [Histogram; Timed::ALL.len()],
    exchanges: Histogram,
    windows: Mutex<Windows>,
}

#[derive(Debug)]
struct Windows {
    establish: Window,
    first_byte: Window,
    exchange: Window,
}

/// How long things took at one upstream in the last minute or two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// From accept to the start of the relay.
    pub establish: Quantiles,
    /// From the start of the relay to the first byte.
    pub first_byte: Quantiles,
    /// From the last byte of a client's turn to the first that answers it.
    pub exchange: Quantiles,
}

impl UpstreamSeries {
    /// All at zero.
    pub(super) fn new(stages: [Histogram; Timed::ALL.len()], exchanges: Histogram) -> UpstreamSeries {
        let now = Instant::now();
        let window = || Window::new(now);
        let windows = Windows { establish: window(), first_byte: window(), exchange: window() };
        UpstreamSeries { stages, exchanges, windows: Mutex::new(windows) }
    }

    /// A stage took so long.
    pub fn stage(&self, stage: Timed, took: Duration) {
        self.stages[stage as usize].observe(took);
        if stage == Timed::FirstByte {
            held(&self.windows).first_byte.add(Instant::now(), took, 1);
        }
    }

    /// A connection was established, and the client waited so long for it.
    pub fn established(&self, took: Duration) {
        held(&self.windows).establish.add(Instant::now(), took, 1);
    }

    /// So many exchanges took about so long.
    pub fn exchanges(&self, took: Duration, times: u64) {
        self.exchanges.add(took, times);
        held(&self.windows).exchange.add(Instant::now(), took, times);
    }

    /// What the windows hold.
    pub(super) fn percentiles(&self, now: Instant) -> Percentiles {
        let mut windows = held(&self.windows);
        Percentiles {
            establish: windows.establish.quantiles(now),
            first_byte: windows.first_byte.quantiles(now),
            exchange: windows.exchange.quantiles(now),
        }
    }
}
