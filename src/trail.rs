//! trail: what happened on the way to an endpoint, as plain values.
//!
//! `establish` leaves it behind, also when it is not waited for to its end; `record` keeps it; `connection` carries it from
//! the one to the other, so that neither knows the other.

use std::sync::Arc;
use std::time::Duration;

use crate::failure::{Reason, Stage};

/// What happened on the way, kept by the caller so that it is there too when the caller stops waiting.
#[derive(Debug, Default)]
pub struct Trail {
    /// Every attempt that ended, in order.
    pub attempts: Vec<Attempt>,
    /// See [`Times`].
    pub times: Times,
    /// Another attempt was due, and the upstream's retry budget was spent.
    pub budget_exhausted: bool,
}

/// One endpoint that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub endpoint: Arc<str>,
    /// Where it failed; `None`: it did not.
    pub stage: Option<Stage>,
    /// Why.
    pub reason: Option<Reason>,
    /// How long it took.
    pub took: Duration,
}

/// How long each step took; `None`: the step was not taken, or not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Waiting for a place.
    pub queue: Option<Duration>,
    /// Name to addresses.
    pub resolve: Option<Duration>,
    /// TCP.
    pub connect: Option<Duration>,
    /// Through an outbound proxy.
    pub proxy: Option<Duration>,
    /// The plaintext messages before TLS.
    pub negotiate: Option<Duration>,
    /// TLS.
    pub handshake: Option<Duration>,
}
