//! down: from the upstream to the client. Reads, opens in place, writes; closes after the upstream did, and tells an end from
//! a truncation.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::{Pump, State, poll_read, refused};
use crate::relay::engine::HEADROOM;
use crate::relay::pool::{self, Buffer, SMALL};
use crate::relay::{Engine, How, Leg, OnTruncation, Party};

impl<C: Leg, U: Leg, E: Engine> Pump<'_, C, U, E> {
    pub(super) fn turn_down(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.deliver(cx, now) {
            return false;
        }
        if self.start_tls(now) {
            return true;
        }
        match self.down.state {
            State::Open => self.fill_down(cx, now) && self.deliver(cx, now),
            // It hung up on a client that awaits an answer: that client is told why, by whoever knows.
            State::Closing if self.may_refuse() => {
                self.reset_after_delivery(How::Closed, Party::Upstream, now);
                true
            }
            State::Closing => {
                self.down.buffer = None;
                if self.up.state == State::Done && !self.client.has_farewell() {
                    self.down.state = State::Done; // nothing is left to do: it closes with its socket
                    return true;
                }
                match Pin::new(&mut *self.client).poll_shutdown(cx) {
                    Poll::Pending => false,
                    // An error: the client is gone. If that matters, reading from it says so.
                    Poll::Ready(Ok(()) | Err(_)) => {
                        self.down.state = State::Done;
                        true
                    }
                }
            }
            State::Done | State::Unwritable => false,
        }
    }

    /// Delivers what is held; false if the client does not take all of it now, or never will.
    fn deliver(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        self.drain_down(cx, now).unwrap_or_else(|error| {
            self.client_failed(&error, now);
            false
        })
    }

    /// Writes what is held; false if the client does not take all of it now.
    pub(super) fn drain_down(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        while let Some(greeting) = self.greeting.as_mut().filter(|greeting| !greeting.onward.down.is_empty())
        {
            match Pin::new(&mut *self.client).poll_write(cx, &greeting.onward.down) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.limits.touch(now);
                    self.flow.add_received(written);
                    greeting.onward.down.drain(..written);
                    self.greeting_moved();
                }
                Poll::Ready(written) => return Err(refused(written)),
            }
        }
        while let (false, Some(buffer)) = (self.down.delivered(), &self.down.buffer) {
            let (from, to) = self.down.out;
            match Pin::new(&mut *self.client).poll_write(cx, &buffer[from..to]) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.limits.touch(now);
                    self.flow.add_received(written);
                    self.down.out.0 += written;
                }
                Poll::Ready(written) => return Err(refused(written)),
            }
        }
        Ok(true)
    }

    /// Reads from the upstream and opens; false if there is nothing to read.
    fn fill_down(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let front = if self.engine.is_some() { HEADROOM } else { 0 };
        if std::mem::take(&mut self.down.carried) {
            let mut bytes = std::mem::take(&mut self.down.partial);
            let to = front + bytes.len();
            bytes.splice(..0, std::iter::repeat_n(0, front));
            bytes.resize(to + SMALL, 0);
            self.open(cx, Buffer::exact(bytes), to, now);
            return true;
        }

        let mut buffer = self.down.buffer.take().unwrap_or_else(pool::take);
        let (from, to) = std::mem::take(&mut self.down.tail);
        let kept = if to > from {
            buffer.copy_within(from..to, front);
            to - from
        } else {
            self.down.partial.len()
        };
        match poll_read(self.upstream, cx, &mut buffer[front + kept..]) {
            Poll::Pending => {
                if to > from {
                    self.down.partial.reserve_exact(kept);
                    self.down.partial.extend_from_slice(&buffer[front..front + kept]);
                } else if kept == 0 {
                    self.down.partial = Vec::new();
                }
                false
            }
            Poll::Ready(Ok(0)) => {
                self.upstream_closed(kept > 0, now);
                true
            }
            Poll::Ready(Ok(read)) => {
                if to == from {
                    buffer[front..front + kept].copy_from_slice(&self.down.partial);
                    self.down.partial.clear();
                }
                self.limits.touch(now);
                self.open(cx, buffer, front + kept + read, now);
                true
            }
            Poll::Ready(Err(_)) if self.is_usual_end() => {
                self.down.state = State::Closing;
                true
            }
            Poll::Ready(Err(error)) => {
                let how = How::of_io(Party::Upstream, &error);
                self.unwritable.get_or_insert_with(|| Box::new(how));
                let ended = self.upstream_ended();
                self.reset_after_delivery(ended.how, Party::Upstream, now);
                true
            }
        }
    }

    /// Opens the ciphertext in front of `to`; without an engine it is plaintext already.
    fn open(&mut self, cx: &mut Context<'_>, mut buffer: Buffer, to: usize, now: Instant) {
        let Some(engine) = &mut self.engine else {
            self.down.out = (0, to);
            self.down.buffer = Some(buffer);
            self.heard(now);
            return self.read_along(now);
        };
        let opened = engine.open(&mut buffer, HEADROOM, to);
        self.down.out = (0, opened.plain);
        self.down.tail = (HEADROOM + opened.consumed, to);
        self.down.buffer = Some(buffer);
        if opened.plain > 0 {
            self.heard(now);
            self.read_along(now);
        }
        if let Some(fault) = opened.fault {
            self.broken(cx, fault, now);
        } else if opened.closed {
            self.down.state = State::Closing;
            self.closes(Party::Upstream, now);
        }
    }

    /// Who reads along says what the client gets instead.
    fn read_along(&mut self, now: Instant) {
        let Some(greeting) = &mut self.greeting else { return };
        let (Some(greeter), Some(buffer)) = (&mut greeting.greeter, &self.down.buffer) else { return };
        let (from, to) = std::mem::take(&mut self.down.out);
        if let Err(objection) = greeter.upstream_said(&buffer[from..to], &mut greeting.onward) {
            self.objected(objection, now);
        }
        self.greeting_moved();
    }

    /// Plaintext came from the upstream.
    fn heard(&mut self, now: Instant) {
        self.spoke_since = self.up.state == State::Done;
        if !self.spoke {
            self.spoke = true;
            self.flow.first_byte_after(now - self.start);
        }
        if let Some(asked) = self.asked.take() {
            self.flow.answered_after(now - asked);
        }
    }

    /// The upstream's stream ended, without close_notify if it is TLS; `inside`: in the middle of a record.
    ///
    /// Many servers (nginx and Redis among them) answer our close_notify with a bare FIN. Where the client's last words were
    /// answered before, and nothing has come since, there was nothing to cut off: else every connection that a client of
    /// theirs closes would be a failure. An answer that came after it may be cut, though, or be missing, and without their
    /// close_notify nobody can tell.
    fn upstream_closed(&mut self, inside: bool, now: Instant) {
        if self.unwritable.is_some() && !self.is_usual_end() {
            let ended = self.upstream_ended();
            return self.reset_after_delivery(ended.how, Party::Upstream, now);
        }
        self.closes(Party::Upstream, now);
        let answered = self.asked.is_none() && !self.spoke_since && !inside;
        let answers_goodbye = self.up.state == State::Done && answered;
        let is_usual = self.on_truncation == OnTruncation::Usual && !inside;
        self.truncated = self.engine.is_some() && !answers_goodbye && !is_usual;
        if self.truncated && self.on_truncation != OnTruncation::Close {
            self.reset_after_delivery(How::Truncated, self.closed_first().unwrap_or(Party::Upstream), now);
        } else {
            self.down.state = State::Closing;
        }
    }

    /// The client is gone, and servers of this protocol slam the door behind it: our close_notify meets a closed socket.
    fn is_usual_end(&self) -> bool {
        self.on_truncation == OnTruncation::Usual
            && self.closed_first() == Some(Party::Client)
            && self.up.state != State::Open
            && !self.lost
    }
}
