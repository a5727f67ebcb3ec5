//! pump: two halves, each of which fills a buffer from one leg and empties it into the other, in one task.
//!
//! A half does not read while it has output: that is the back-pressure. It holds a buffer only from a successful read to the
//! last byte written, so an idle connection holds none. A wake serves both halves by turns and gives way after [`TURNS`].
//!
//! Owns what each side's closing, failing and silence means for the other. An end that the client must not mistake for an
//! orderly one ([`Ending`]) delivers first what was received, then resets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::engine::{Fault, HEADROOM};
use super::limits::Limits;
use super::pool::{self, Buffer, SMALL};
use super::{Carried, Ended, Engine, Flow, How, Leg, OnTruncation, Party, Settings};

/// Buffers that each half may move before the other connections of the reactor have their turn.
const TURNS: usize = 4;
/// How often the kernel's send queue is looked at before a reset, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// Where the platform does not tell its send queue: time for it to drain on its own.
const BLIND_PAUSE: Duration = Duration::from_millis(250);

/// A relayed connection.
pub(super) struct Pump<'a, C, U, E> {
    client: &'a mut C,
    upstream: &'a mut U,
    engine: Option<E>,
    flow: &'a Flow,
    up: Up,
    down: Down,
    limits: Limits,
    start: Instant,
    /// When the client last said something that is not answered yet.
    asked: Option<Instant>,
    ending: Option<Box<Ending>>,
    /// How an upstream that takes no more data ended it, if it has no last words.
    unwritable: Option<Box<How>>,
    first_to_close: Option<Party>,
    on_truncation: OnTruncation,
    /// Data of the client was not taken.
    lost: bool,
    truncated: bool,
    spoke: bool,
}

/// From the client to the upstream.
struct Up {
    out: Option<Held>,
    state: State,
}

/// From the upstream to the client.
struct Down {
    buffer: Option<Buffer>,
    /// Where in `buffer` the plaintext is that is still to be delivered.
    out: (usize, usize),
    /// Where in `buffer` the beginning of a record is.
    tail: (usize, usize),
    /// The beginning of a record while there is no buffer. Keeps its capacity until a turn ends without one.
    partial: Vec<u8>,
    /// `partial` came with the handshake: it may hold whole records, and is opened before anything is read.
    carried: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Its source closed; so do we, after what is pending.
    Closing,
    Done,
    /// Its sink takes no more data.
    Unwritable,
}

/// A buffer and the part of it that is still to be written.
struct Held {
    buffer: Buffer,
    from: usize,
    to: usize,
}

/// The end of a connection that the client is to see as a reset, after all data.
struct Ending {
    how: How,
    by: Party,
    /// What the kernel had unsent when it was last asked, how long to wait then, and when to ask again.
    queue: Option<(usize, Duration, Instant)>,
}

impl<'a, C: Leg, U: Leg, E: Engine> Pump<'a, C, U, E> {
    pub(super) fn new(
        client: &'a mut C,
        upstream: &'a mut U,
        carried: Option<Carried<E>>,
        settings: &Settings,
        flow: &'a Flow,
    ) -> Self {
        let start = Instant::now();
        let (engine, partial) = match carried {
            Some(carried) => (Some(carried.engine), carried.ciphertext),
            None => (None, Vec::new()),
        };
        Pump {
            client,
            upstream,
            engine,
            flow,
            up: Up { out: None, state: State::Open },
            down: Down {
                buffer: None,
                out: (0, 0),
                tail: (0, 0),
                carried: !partial.is_empty(),
                partial,
                state: State::Open,
            },
            limits: Limits::new(settings, start),
            start,
            asked: None,
            ending: None,
            unwritable: None,
            first_to_close: None,
            on_truncation: settings.on_truncation,
            lost: false,
            truncated: false,
            spoke: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = Instant::now();
        let mut turns = TURNS;
        while self.ending.is_none() {
            let moved = match self.turn(cx, now) {
                Ok(moved) => moved,
                Err(ended) => return Poll::Ready(ended),
            };
            if let Some(ended) = self.finished(now) {
                return Poll::Ready(ended);
            }
            if !moved {
                break;
            }
            turns -= 1;
            if turns == 0 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if self.ending.is_some() {
            return self.poll_ending(cx, now);
        }
        let last_words =
            self.up.state == State::Unwritable && self.down.state == State::Open && self.down.delivered();
        let how = ready!(self.limits.poll(cx, last_words));
        Poll::Ready(self.cut(cx, how))
    }

    /// Ends it now, in the middle of whatever goes on.
    pub(super) fn cut(&mut self, cx: &mut Context<'_>, how: How) -> Ended {
        if let Some(ending) = self.ending.take() {
            // It was over already; only the delivery is cut short.
            self.client.reset_on_close();
            return self.ended(ending.how, Some(ending.by));
        }
        if self.up.out.is_none()
            && self.up.state == State::Open
            && let Some(engine) = &mut self.engine
        {
            engine.close();
            say(self.upstream, cx, &engine.take_pending());
        }
        // An idle client sees an orderly end; one in the middle of an answer must not take it for the whole.
        if !self.down.delivered() || self.down.has_partial() || how == How::UpstreamReset {
            self.client.reset_on_close();
        }
        match how {
            How::UpstreamReset => self.upstream_ended(),
            How::HalfCloseTimeout if self.truncated => self.ended(How::Truncated, Some(Party::Upstream)),
            how => self.ended(how, Some(Party::Ambassador)),
        }
    }

    /// One buffer each way. True: another turn may find more.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        let up = self.turn_up(cx, now)?;
        let down = self.ending.is_none() && self.turn_down(cx, now)?;
        Ok(up || down)
    }

    /// Both halves are through, or what is left of them is an ending.
    fn finished(&mut self, now: Instant) -> Option<Ended> {
        if self.lost && self.down.state != State::Open {
            let ended = self.upstream_ended();
            self.reset_after_delivery(ended.how, Party::Upstream, now);
            return None;
        }
        let through =
            matches!(self.up.state, State::Done | State::Unwritable) && self.down.state == State::Done;
        let how = if self.truncated { How::Truncated } else { How::Closed };
        through.then(|| self.ended(how, self.first_to_close))
    }

    fn ended(&self, how: How, closed_by: Option<Party>) -> Ended {
        Ended { how, closed_by, upstream_spoke: self.spoke }
    }

    /// The end by an upstream that took no more data.
    fn upstream_ended(&mut self) -> Ended {
        let how = self.unwritable.take().map_or(How::UpstreamReset, |how| *how);
        self.ended(how, Some(Party::Upstream))
    }

    fn closes(&mut self, party: Party, now: Instant) {
        self.first_to_close.get_or_insert(party);
        self.limits.half_closed(now);
    }

    // From the client to the upstream.

    fn turn_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        if !self.drain_up(cx, now) {
            return Ok(false);
        }
        match self.up.state {
            State::Open => Ok(self.fill_up(cx, now)? && self.drain_up(cx, now)),
            State::Closing => match self.take_pending() {
                Some(out) => {
                    self.up.out = Some(out);
                    Ok(self.drain_up(cx, now))
                }
                None => Ok(self.shut_upstream(cx, now)),
            },
            State::Done | State::Unwritable => Ok(false),
        }
    }

    /// Writes what is held; false if the upstream does not take all of it now.
    fn drain_up(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
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
    fn fill_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        let mut plain = pool::take();
        let mut sealed = self.engine.as_ref().map(|_| pool::take());
        let room = match (&self.engine, &sealed) {
            (Some(engine), Some(sealed)) => engine.fits(sealed.len()).min(plain.len()),
            _ => plain.len(),
        };
        if room == 0 {
            // The last flight alone is longer than a small buffer.
            self.up.out = self.take_pending();
            return Ok(true);
        }
        let read = match poll_read(self.client, cx, &mut plain[..room]) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Err(self.client_failed(&error)),
            Poll::Pending => {
                // The client has nothing to say: what only waited for company goes out alone.
                self.up.out = self.take_pending();
                return Ok(self.up.out.is_some());
            }
        };
        if read == 0 {
            self.up.state = State::Closing;
            self.closes(Party::Client, now);
            if let Some(engine) = &mut self.engine {
                engine.close();
            }
            return Ok(true);
        }
        self.limits.touch(now);
        self.flow.add_sent(read);
        self.asked = Some(now);
        let out = match (&mut self.engine, sealed.take()) {
            (Some(engine), Some(mut sealed)) => match engine.seal(&plain[..read], &mut sealed) {
                Ok(to) => Held { buffer: sealed, from: 0, to },
                Err(fault) => {
                    self.broken(cx, fault, now);
                    return Ok(false);
                }
            },
            _ => Held { buffer: plain, from: 0, to: read },
        };
        self.up.out = Some(out);
        Ok(true)
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

    // From the upstream to the client.

    fn turn_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        if !self.drain_down(cx, now)? {
            return Ok(false);
        }
        match self.down.state {
            State::Open => Ok(self.fill_down(cx, now) && self.drain_down(cx, now)?),
            State::Closing => {
                self.down.buffer = None;
                match Pin::new(&mut *self.client).poll_shutdown(cx) {
                    Poll::Pending => Ok(false),
                    // An error: the client is gone. If that matters, reading from it says so.
                    Poll::Ready(Ok(()) | Err(_)) => {
                        self.down.state = State::Done;
                        Ok(true)
                    }
                }
            }
            State::Done | State::Unwritable => Ok(false),
        }
    }

    /// Delivers what is held; false if the client does not take all of it now.
    fn drain_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        while let (false, Some(buffer)) = (self.down.delivered(), &self.down.buffer) {
            let (from, to) = self.down.out;
            match Pin::new(&mut *self.client).poll_write(cx, &buffer[from..to]) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.limits.touch(now);
                    self.flow.add_received(written);
                    self.down.out.0 += written;
                }
                Poll::Ready(written) => return Err(self.client_failed(&refused(written))),
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
                self.upstream_closed(now);
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
            return;
        };
        let opened = engine.open(&mut buffer, HEADROOM, to);
        self.down.out = (0, opened.plain);
        self.down.tail = (HEADROOM + opened.consumed, to);
        self.down.buffer = Some(buffer);
        if opened.plain > 0 {
            self.heard(now);
        }
        if let Some(fault) = opened.fault {
            self.broken(cx, fault, now);
        } else if opened.closed {
            self.down.state = State::Closing;
            self.closes(Party::Upstream, now);
        }
    }

    /// Plaintext came from the upstream.
    fn heard(&mut self, now: Instant) {
        if !self.spoke {
            self.spoke = true;
            self.flow.first_byte_after(now - self.start);
        }
        if let Some(asked) = self.asked.take() {
            self.flow.answered_after(now - asked);
        }
    }

    /// The upstream's stream ended, without close_notify if it is TLS.
    fn upstream_closed(&mut self, now: Instant) {
        if self.unwritable.is_some() {
            let ended = self.upstream_ended();
            return self.reset_after_delivery(ended.how, Party::Upstream, now);
        }
        self.closes(Party::Upstream, now);
        self.truncated = self.engine.is_some();
        if self.truncated && self.on_truncation == OnTruncation::Reset {
            self.reset_after_delivery(How::Truncated, Party::Upstream, now);
        } else {
            self.down.state = State::Closing;
        }
    }

    // Ends that are not orderly.

    fn client_failed(&mut self, error: &io::Error) -> Ended {
        self.upstream.reset_on_close();
        self.ended(How::of_io(Party::Client, error), Some(Party::Client))
    }

    /// The TLS stream cannot go on; the upstream is told why, if that does not take waiting.
    fn broken(&mut self, cx: &mut Context<'_>, fault: Fault, now: Instant) {
        if let Some(engine) = &mut self.engine
            && self.up.out.is_none()
        {
            say(self.upstream, cx, &engine.take_pending());
        }
        let by = if matches!(fault, Fault::Alert(_)) { Party::Upstream } else { Party::Ambassador };
        self.reset_after_delivery(fault.into(), by, now);
    }

    fn reset_after_delivery(&mut self, how: How, by: Party, now: Instant) {
        self.up.out = None;
        self.limits.touch(now);
        self.ending.get_or_insert_with(|| Box::new(Ending { how, by, queue: None }));
    }

    /// Delivers what is held, waits until the client's host has it (a reset throws away what is still unsent), and resets.
    /// It is given up when nothing moves for as long as a half-closed connection may be silent.
    fn poll_ending(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Ended> {
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

impl Down {
    fn delivered(&self) -> bool {
        self.out.0 == self.out.1
    }

    fn has_partial(&self) -> bool {
        self.tail.0 < self.tail.1 || !self.partial.is_empty()
    }
}

fn poll_read<L: Leg>(leg: &mut L, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut into = ReadBuf::new(into);
    Pin::new(leg).poll_read(cx, &mut into).map_ok(|()| into.filled().len())
}

/// Writes without waiting: last words, on a leg that is about to be dropped. Who does not take them sees it close.
fn say<L: Leg>(leg: &mut L, cx: &mut Context<'_>, words: &[u8]) {
    if !words.is_empty() {
        match Pin::new(leg).poll_write(cx, words) {
            Poll::Ready(_) | Poll::Pending => {}
        }
    }
}

/// What a write that took nothing comes to.
fn refused(written: io::Result<usize>) -> io::Error {
    written.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into())
}
