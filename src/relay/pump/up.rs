//! up: from the client to the upstream. Reads, seals, writes; closes after the client did.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;
use zeroize::Zeroize;

use super::{Held, Pump, State, Up, poll_read, refused};
use crate::relay::pool::{self, Buffer};
use crate::relay::{Engine, How, Leg, Party};

impl<C: Leg, U: Leg, E: Engine> Pump<'_, C, U, E> {
    pub(super) fn turn_up(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.drain_up(cx, now) {
            return false;
        }
        match self.up.state {
            State::Open => self.fill_up(cx, now) && self.drain_up(cx, now),
            State::Closing => match self.take_pending() {
                Some(out) => {
                    self.up.out = Some(out);
                    self.drain_up(cx, now)
                }
                // Nothing is left to do: it closes with its socket.
                None if self.down.state == State::Done => {
                    self.up.state = State::Done;
                    true
                }
                None => self.shut_upstream(cx, now),
            },
            State::Done | State::Unwritable => false,
        }
    }

    /// Writes what is held; false if the upstream does not take all of it now.
    pub(super) fn drain_up(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        while let Some(out) = &mut self.up.out {
            match Pin::new(&mut *self.upstream).poll_write(cx, &out.buffer[out.from..out.to]) {
                Poll::Pending => return false,
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.limits.touch(now);
                    out.from += written;
                    if out.from == out.to {
                        self.up.out = None;
                    }
                }
                Poll::Ready(written) => self.upstream_takes_no_more(now, &refused(written)),
            }
        }
        true
    }

    /// Reads from the client and seals; false if there is nothing to send.
    fn fill_up(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.fill_from_greeting(cx, now) {
            return true;
        }
        if self.is_held() {
            self.up.out = self.take_pending();
            return self.up.out.is_some();
        }
        let (mut plain, sealed, room) = self.buffers();
        if room == 0 {
            // The last flight alone is longer than a small buffer.
            self.up.out = self.take_pending();
            return true;
        }
        let read = match poll_read(self.client, cx, &mut plain[..room]) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => {
                self.client_failed(&error, now);
                return false;
            }
            Poll::Pending => {
                // The client has nothing to say: what only waited for company goes out alone.
                self.up.out = self.take_pending();
                return self.up.out.is_some();
            }
        };
        if read == 0 {
            self.up.state = State::Closing;
            self.closes(Party::Client, now);
            if let Some(engine) = &mut self.engine {
                engine.close();
            }
            return true;
        }
        self.limits.touch(now);
        self.flow.add_sent(read);
        self.asked = Some(now);
        if let Some(greeting) = &mut self.greeting
            && let Some(greeter) = &mut greeting.greeter
        {
            if let Err(objection) = greeter.client_said(&plain[..read], &mut greeting.onward) {
                self.objected(objection, now);
            }
            plain[..read].zeroize(); // a password may be among it
            self.greeting_moved();
            return true; // what goes on from here does so in the next turn
        }
        match sealed {
            Some(sealed) => self.seal_up(cx, &plain[..read], sealed, now),
            None => self.up.out = Some(Held { buffer: plain, from: 0, to: read }),
        }
        true
    }

    /// Only with an engine.
    fn seal_up(&mut self, cx: &mut Context<'_>, plain: &[u8], mut sealed: Buffer, now: Instant) {
        match self.engine.as_mut().map(|engine| engine.seal(plain, &mut sealed)) {
            Some(Ok(to)) => self.up.out = Some(Held { buffer: sealed, from: 0, to }),
            Some(Err(fault)) => self.broken(cx, fault, now),
            None => {}
        }
    }

    /// Seals what the greeting has for the upstream, as far as it fits; false if that is nothing.
    pub(super) fn fill_from_greeting(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.greeting.as_ref().is_none_or(|greeting| greeting.onward.up.is_empty()) {
            return false;
        }
        let (mut plain, sealed, room) = self.buffers();
        if room == 0 {
            self.up.out = self.take_pending();
            return true;
        }
        if let Some(greeting) = &mut self.greeting {
            let onward = &mut greeting.onward.up;
            let said = onward.len().min(room);
            plain[..said].copy_from_slice(&onward[..said]);
            forget_front(onward, said);
            onward.truncate(onward.len() - said);
            self.greeting_moved();
            match sealed {
                Some(sealed) => {
                    self.seal_up(cx, &plain[..said], sealed, now);
                    plain[..said].zeroize();
                }
                None => self.up.out = Some(Held { buffer: plain, from: 0, to: said }),
            }
        }
        true
    }

    /// A buffer to read into, one to seal into where that is needed, and how much of the first fits into the second.
    fn buffers(&self) -> (Buffer, Option<Buffer>, usize) {
        let plain = pool::take();
        let sealed = self.engine.as_ref().map(|_| pool::take());
        let room = match (&self.engine, &sealed) {
            (Some(engine), Some(sealed)) => engine.fits(sealed.len()).min(plain.len()),
            _ => plain.len(),
        };
        (plain, sealed, room)
    }

    fn take_pending(&mut self) -> Option<Held> {
        let pending = self.engine.as_mut().filter(|engine| engine.has_pending())?.take_pending();
        let to = pending.len();
        Some(Held { buffer: Buffer::exact(pending), from: 0, to })
    }

    fn shut_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        match Pin::new(&mut *self.upstream).poll_shutdown(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) => self.up.state = State::Done,
            Poll::Ready(Err(error)) => self.upstream_takes_no_more(now, &error),
        }
        true
    }

    /// The upstream is still listened to, for a moment: in TLS 1.3 a server refuses our certificate after the handshake, and
    /// hangs up. By the time that a write fails, its alert is in the receive queue, and says more than the failure does.
    fn upstream_takes_no_more(&mut self, now: Instant, error: &io::Error) {
        self.lost = self.up.state == State::Open;
        self.unwritable = Some(Box::new(How::of_io(Party::Upstream, error)));
        self.up = Up { out: None, state: State::Unwritable };
        self.limits.touch(now);
    }
}

/// Moves what stands behind the first bytes to the front, and leaves nothing where it stood: it may be a password.
fn forget_front(bytes: &mut [u8], count: usize) {
    bytes.copy_within(count.., 0);
    let left = bytes.len() - count;
    bytes[left..].zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_on_leaves_no_copy_behind() {
        for (count, left) in [(0, &b"secret"[..]), (1, b"ecret\0"), (4, b"et\0\0\0\0"), (6, &[0; 6])] {
            let mut bytes = *b"secret";
            forget_front(&mut bytes, count);
            assert_eq!(bytes, left, "{count}");
        }
    }
}
