//! limits: the times after which a connection ends. They cost a stamp per wake, nothing per byte, and no timer at all
//! while nothing limits the connection.
//!
//! The one timer is armed for the earliest limit as it was when the timer was made; activity only moves a stamp. When it
//! fires too early, it is armed again for what is left.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{How, Settings};

/// How long the upstream may stay silent after it stopped taking our data: what it had to say is in the receive queue by then.
const LAST_WORDS: Duration = Duration::from_secs(1);

const A_DAY: Duration = Duration::from_secs(86_400);

/// The limits of one connection.
pub(super) struct Limits {
    last: Instant,
    idle: Option<Duration>,
    lifetime_ends: Option<Instant>,
    half_close: Duration,
    half_closed: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limits {
    pub(super) fn new(settings: &Settings, start: Instant) -> Self {
        let drawn = |limit: Duration| limit.mul_f64(1.0 - settings.jitter.clamp(0.0, 1.0) * fastrand::f64());
        Limits {
            last: start,
            idle: settings.idle.map(drawn),
            // A lifetime beyond what the clock can tell is none.
            lifetime_ends: settings.lifetime.and_then(|limit| start.checked_add(drawn(limit))),
            half_close: settings.half_close,
            half_closed: false,
            timer: None,
        }
    }

    /// Something moved.
    pub(super) fn touch(&mut self, now: Instant) {
        self.last = now;
    }

    /// When something last did.
    pub(super) fn last_move(&self) -> Instant {
        self.last
    }

    /// One side closed.
    pub(super) fn half_closed(&mut self, now: Instant) {
        self.half_closed = true;
        self.last = now;
    }

    /// The limit that was reached. `last_words`: all that is waited for is what an upstream says that takes no more data.
    /// `tls_due`: by when the client has to ask for TLS.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        last_words: bool,
        tls_due: Option<Instant>,
    ) -> Poll<How> {
        loop {
            let Some((at, how)) = self.earliest(last_words, tls_due) else {
                return Poll::Pending;
            };
            // Later than it was is dealt with when the timer fires; earlier happens once or twice in a connection's life.
            if self.timer.as_ref().is_none_or(|timer| timer.deadline() > at) {
                self.arm(at);
            }
            match self.poll_timer(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= at => return Poll::Ready(how),
                Poll::Ready(()) => self.arm(at),
            }
        }
    }

    /// Ready once it is `at`. For the end of a connection, when the limits no longer count.
    pub(super) fn poll_pause(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.timer.as_ref().is_none_or(|timer| timer.deadline() != at) {
            self.arm(at);
        }
        self.poll_timer(cx)
    }

    /// When an ending that makes no progress is given up.
    pub(super) fn patience(&self) -> Instant {
        self.last + self.half_close.min(A_DAY)
    }

    #[cfg(test)]
    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    fn earliest(&self, last_words: bool, tls_due: Option<Instant>) -> Option<(Instant, How)> {
        let after = |silence: Option<Duration>| silence.and_then(|silence| self.last.checked_add(silence));
        [
            (after(last_words.then_some(LAST_WORDS)), How::UpstreamReset),
            (after(self.half_closed.then_some(self.half_close)), How::HalfCloseTimeout),
            (after(self.idle), How::IdleTimeout),
            (self.lifetime_ends, How::LifetimeReached),
            (tls_due, How::TlsNotAskedFor),
        ]
        .into_iter()
        .filter_map(|(at, how)| Some((at?, how)))
        .min_by_key(|(at, _)| *at)
    }

    fn arm(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
