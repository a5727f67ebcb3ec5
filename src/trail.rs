//! trail: what happened on the way to an endpoint, as plain values.
//!
//! `establish` leaves it behind, also when it is not waited for to its end; `record` keeps it; `connection` carries it from
//! the one to the other, so that neither knows the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::failure::{Outcome, Reason, Stage};

/// What happened on the way, kept by the caller so that it is there too when the caller stops waiting.
#[derive(Debug)]
pub struct Trail {
    /// The step that is under way.
    pub stage: Stage,
    /// Every attempt that ended, in order.
    pub attempts: Vec<Attempt>,
    /// See [`Times`]. Where several endpoints were tried: those of the last one.
    pub times: Times,
    /// Another attempt was due, and the upstream's retry budget was spent.
    pub budget_exhausted: bool,
    /// The attempt that has not ended: its endpoint, and when it began.
    pub under_way: Option<(Arc<str>, Instant)>,
}

impl Default for Trail {
    fn default() -> Self {
        Trail {
            stage: Stage::Queue,
            attempts: Vec::new(),
            times: Times::default(),
            budget_exhausted: false,
            under_way: None,
        }
    }
}

impl Trail {
    /// Nobody waits any more: the attempt under way ends here, for no reason of its own.
    pub fn give_up(&mut self, now: Instant) {
        if let Some((endpoint, begun)) = self.under_way.take() {
            let (stage, took) = (Some(self.stage), now.saturating_duration_since(begun));
            self.attempts.push(Attempt { endpoint, stage, reason: None, took });
        }
    }
}

/// One endpoint that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub endpoint: Arc<str>,
    /// Where it failed or was given up; `None`: neither.
    pub stage: Option<Stage>,
    /// Why it failed; `None`: it did not. The client may have left, or nuncio was stopped.
    pub reason: Option<Reason>,
    /// How long it took.
    pub took: Duration,
}

impl Attempt {
    /// What came of it, in one word.
    pub fn result(&self) -> &'static str {
        match (self.stage, self.reason) {
            (None, _) => "success",
            (Some(_), Some(reason)) => reason.label(),
            (Some(_), None) => Outcome::Cancelled.label(),
        }
    }
}

/// How long each step took; `None`: the step was not taken, or not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times<T = Duration> {
    /// Waiting for a place.
    pub queue: Option<T>,
    /// Name to addresses.
    pub resolve: Option<T>,
    /// TCP.
    pub connect: Option<T>,
    /// Through an outbound proxy.
    pub proxy: Option<T>,
    /// The plaintext messages before TLS.
    pub negotiate: Option<T>,
    /// TLS.
    pub handshake: Option<T>,
    /// None of these: the connection was ready, and had been for so long.
    pub warm: Option<T>,
}

impl<T: Copy> Times<T> {
    /// What a stage took, where it is among these.
    pub fn of(&self, stage: Stage) -> Option<T> {
        match stage {
            Stage::Queue => self.queue,
            Stage::Resolve => self.resolve,
            Stage::Connect => self.connect,
            Stage::Proxy => self.proxy,
            Stage::Negotiate => self.negotiate,
            Stage::Handshake => self.handshake,
            Stage::Accept | Stage::Admit | Stage::Route | Stage::Greet | Stage::Relay => None,
        }
    }
}

impl<T> Times<T> {
    /// The same times, told otherwise.
    pub fn map<U>(self, told: impl Fn(T) -> U + Copy) -> Times<U> {
        let Times { queue, resolve, connect, proxy, negotiate, handshake, warm } = self;
        Times {
            queue: queue.map(told),
            resolve: resolve.map(told),
            connect: connect.map(told),
            proxy: proxy.map(told),
            negotiate: negotiate.map(told),
            handshake: handshake.map(told),
            warm: warm.map(told),
        }
    }
}
