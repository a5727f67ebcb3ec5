//! ending: ends that a side must not take for orderly ones. What is in hand for it is delivered, then it sees a reset.
//!
//! Owns the choice between an orderly end and a reset where we end a connection ourselves ([`Pump::cut`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::{Delivery, Ending, Pump, State, say};
use crate::relay::engine::Fault;
use crate::relay::limits::Limits;
use crate::relay::{Ended, Engine, How, Leg, Party};

/// How often the kernel's send queue is looked at, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// Where the platform does not tell its send queue: time for it to drain on its own.
const BLIND_PAUSE: Duration = Duration::from_millis(250);
/// A connection that owes no answer and was silent for so long is between two exchanges: an end there cuts nothing.
const SETTLED: Duration = Duration::from_secs(1);
/// How long delivery may take once the process is to end.
const FAREWELL: Duration = Duration::from_secs(1);

impl<C: Leg, U: Leg, E: Engine> Pump<'_, C, U, E> {
    /// Ends it now, in the middle of whatever goes on. A side that nothing says it has heard the whole sees a reset: in a
    /// protocol whose answers end with the connection, an orderly end there would be a silent cut.
    pub(in crate::relay) fn cut(&mut self, cx: &mut Context<'_>, how: How, now: Instant) -> Poll<Ended> {
        if let Some(ending) = &mut self.ending {
            // It was over already; only the delivery is cut short.
            ending.until.get_or_insert(now + FAREWELL);
            return self.poll_ending(cx, now);
        }
        let settled = matches!(how, How::IdleTimeout | How::TlsNotAskedFor)
            || (self.asked.is_none() && now.saturating_duration_since(self.limits.last_move()) >= SETTLED);
        let whole = self.delivered() && !self.down.has_partial();
        // A client that asked, closed and waits must not take it for an answer that is empty.
        let waits = matches!(how, How::HalfCloseTimeout | How::UpstreamReset);
        let orderly = self.down.state != State::Open || (settled && !waits);
        let client = whole && orderly;
        let upstream = self.up.out.is_none()
            && self.greeting.as_ref().is_none_or(|greeting| greeting.onward.up.is_empty())
            && (self.up.state != State::Open || settled || how == How::HalfCloseTimeout);
        if upstream
            && self.up.state == State::Open
            && let Some(engine) = &mut self.engine
        {
            engine.close();
            say(self.upstream, cx, &engine.take_pending());
        }
        if client && self.down.state != State::Done && self.client.has_farewell() {
            // Without waiting: who does not take it sees a cut.
            match Pin::new(&mut *self.client).poll_shutdown(cx) {
                Poll::Ready(Ok(()) | Err(_)) | Poll::Pending => {}
            }
        }
        let stopped = how == How::Stopped;
        let ended = match how {
            How::UpstreamReset => self.upstream_ended(),
            How::HalfCloseTimeout if self.truncated => self.ended(How::Truncated, self.closed_first()),
            How::HalfCloseTimeout => self.ended(how, self.closed_first()),
            how => self.ended(how, Some(Party::Ambassador)),
        };
        if client && upstream {
            return Poll::Ready(ended);
        }
        // Who is to be told why does not wait for the other side.
        let until = (stopped || ended.refusable).then(|| now + FAREWELL);
        let delivery = |orderly: bool| (!orderly).then(Delivery::default);
        self.ending =
            Some(Box::new(Ending { ended, until, client: delivery(client), upstream: delivery(upstream) }));
        self.poll_ending(cx, now)
    }

    /// The client is gone; what it had said by then still goes to the upstream.
    pub(super) fn client_failed(&mut self, error: &io::Error, now: Instant) {
        self.limits.touch(now);
        let ended = self.ended(How::of_io(Party::Client, error), Some(Party::Client));
        let upstream = Some(Delivery::default());
        self.ending.get_or_insert_with(|| Box::new(Ending { ended, until: None, client: None, upstream }));
    }

    /// The TLS stream cannot go on; the upstream is told why, if that does not take waiting.
    pub(super) fn broken(&mut self, cx: &mut Context<'_>, fault: Fault, now: Instant) {
        if let Some(engine) = &mut self.engine
            && self.up.out.is_none()
        {
            say(self.upstream, cx, &engine.take_pending());
        }
        let by = if matches!(fault, Fault::Alert(_)) { Party::Upstream } else { Party::Ambassador };
        self.reset_after_delivery(fault.into(), by, now);
    }

    /// The upstream is done with; the client gets what is held for it, and a reset, unless it is going to be told why.
    pub(super) fn reset_after_delivery(&mut self, how: How, by: Party, now: Instant) {
        self.up.out = None;
        self.limits.touch(now);
        let ended = self.ended(how, Some(by));
        let client = Some(Delivery::default());
        self.ending.get_or_insert_with(|| Box::new(Ending { ended, until: None, client, upstream: None }));
    }

    /// Delivers what is held, waits until the peer's host has it (a reset throws away what is still unsent), and resets.
    /// It is given up when nothing moves for as long as a half-closed connection may be silent.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Ended> {
        let Some(mut ending) = self.ending.take() else {
            return Poll::Pending; // not reached: without an ending nobody asks
        };
        let told = ending.ended.refusable;
        loop {
            let looks = [
                ending.client.as_mut().and_then(|delivery| self.deliver_down(cx, delivery, told, now)),
                ending.upstream.as_mut().and_then(|delivery| self.deliver_up(cx, delivery, now)),
            ];
            let patience = self.limits.patience();
            let give_up = ending.until.map_or(patience, |until| until.min(patience));
            match looks.into_iter().flatten().min() {
                Some(look) if now < give_up => {
                    if self.limits.poll_pause(cx, look.min(give_up)).is_pending() {
                        self.ending = Some(ending);
                        return Poll::Pending;
                    }
                }
                _ => break,
            }
            now = Instant::now();
        }
        ending.ended.refusable = told && self.delivered();
        if ending.client.is_some() && !ending.ended.refusable {
            self.client.reset_on_close();
        }
        if ending.upstream.is_some() {
            self.upstream.reset_on_close();
        }
        Poll::Ready(ending.ended)
    }

    /// When to look again whether the client has everything; `None`: it has, or never will.
    /// `told`: more is going to be said behind it, so that the kernel may take its time.
    fn deliver_down(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Delivery,
        told: bool,
        now: Instant,
    ) -> Option<Instant> {
        match self.drain_down(cx, now) {
            Ok(true) if told => None,
            Ok(true) => to.next_look(self.client.unsent(), &mut self.limits, now),
            Ok(false) => Some(self.limits.patience()),
            Err(_) => None,
        }
    }

    /// The same for the upstream.
    fn deliver_up(&mut self, cx: &mut Context<'_>, to: &mut Delivery, now: Instant) -> Option<Instant> {
        loop {
            if !self.drain_up(cx, now) {
                return Some(self.limits.patience());
            }
            if self.up.state != State::Open || !self.fill_from_greeting(cx, now) {
                break;
            }
        }
        match self.up.state {
            State::Unwritable => None,
            _ => to.next_look(self.upstream.unsent(), &mut self.limits, now),
        }
    }
}

impl Delivery {
    /// When to look at the kernel's send queue again; `None`: it is empty, as far as can be told.
    fn next_look(&mut self, unsent: Option<usize>, limits: &mut Limits, now: Instant) -> Option<Instant> {
        let (unsent, pause, at) = match (unsent, self.0) {
            (Some(0), _) => return None,
            (_, Some((_, _, at))) if now < at => return Some(at),
            (None, Some(_)) => return None,
            (None, None) => (0, BLIND_PAUSE, now + BLIND_PAUSE),
            (Some(unsent), None) => (unsent, PAUSE, now + PAUSE),
            (Some(unsent), Some((before, pause, _))) => {
                if unsent < before {
                    limits.touch(now);
                }
                let pause = MAX_PAUSE.min(pause * 2);
                (unsent, pause, now + pause)
            }
        };
        self.0 = Some((unsent, pause, at));
        Some(at)
    }
}
