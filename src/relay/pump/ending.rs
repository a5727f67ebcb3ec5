//! ending: ends that the client must not take for orderly ones. All that was received is delivered, then it sees a reset.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{Ending, Pump, say};
use crate::relay::engine::Fault;
use crate::relay::{Ended, Engine, How, Leg, Party};

/// How often the kernel's send queue is looked at, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// Where the platform does not tell its send queue: time for it to drain on its own.
const BLIND_PAUSE: Duration = Duration::from_millis(250);

impl<C: Leg, U: Leg, E: Engine> Pump<'_, C, U, E> {
    pub(super) fn client_failed(&mut self, error: &io::Error) -> Ended {
        self.upstream.reset_on_close();
        self.ended(How::of_io(Party::Client, error), Some(Party::Client))
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

    pub(super) fn reset_after_delivery(&mut self, how: How, by: Party, now: Instant) {
        self.up.out = None;
        self.limits.touch(now);
        self.ending.get_or_insert_with(|| Box::new(Ending { how, by, queue: None }));
    }

    /// Delivers what is held, waits until the client's host has it (a reset throws away what is still unsent), and resets.
    /// It is given up when nothing moves for as long as a half-closed connection may be silent.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Ended> {
        loop {
            let give_up = self.limits.patience();
            let look = match self.drain_down(cx, now) {
                Ok(true) => self.next_look(now),
                Ok(false) => Some(give_up),
                Err(_) => None, // the client is gone
            };
            match look {
                Some(look) if now < give_up => {
                    ready!(self.limits.poll_pause(cx, look.min(self.limits.patience())))
                }
                _ => break,
            }
            now = Instant::now();
        }
        self.client.reset_on_close();
        let (how, by) = match self.ending.take() {
            Some(ending) => (ending.how, ending.by),
            None => (How::Closed, Party::Ambassador), // not reached: without an ending nobody asks
        };
        Poll::Ready(self.ended(how, Some(by)))
    }

    /// When to look at the kernel's send queue again; `None`: it is empty, as far as can be told.
    fn next_look(&mut self, now: Instant) -> Option<Instant> {
        let ending = self.ending.as_mut()?;
        let (unsent, pause, at) = match (self.client.unsent(), ending.queue) {
            (Some(0), _) => return None,
            (_, Some((_, _, at))) if now < at => return Some(at),
            (None, Some(_)) => return None,
            (None, None) => (0, BLIND_PAUSE, now + BLIND_PAUSE),
            (Some(unsent), None) => (unsent, PAUSE, now + PAUSE),
            (Some(unsent), Some((before, pause, _))) => {
                if unsent < before {
                    self.limits.touch(now);
                }
                let pause = MAX_PAUSE.min(pause * 2);
                (unsent, pause, now + pause)
            }
        };
        ending.queue = Some((unsent, pause, at));
        Some(at)
    }
}
