//! pump: two halves, each of which fills a buffer from one leg and empties it into the other, in one task.
//!
//! A half does not read while it has output: that is the back-pressure. It holds a buffer only from a successful read to the
//! last byte written, so an idle connection holds none. A wake serves both halves by turns and gives way after [`TURNS`].
//!
//! Owns what each side's closing, failing and silence means for the other. An end that a side must not mistake for an
//! orderly one ([`Ending`]) delivers first what was received, then resets.

mod down;
mod ending;
mod up;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::greet::{Greeting, Upgrade};
use super::limits::Limits;
use super::pool::Buffer;
use super::{Carried, Ended, Engine, Flow, How, Leg, Objection, OnTruncation, Party, Settings};

/// Buffers that each half may move before the other connections of the reactor have their turn.
const TURNS: usize = 4;

/// A relayed connection.
pub(super) struct Pump<'a, C, U, E> {
    client: &'a mut C,
    upstream: &'a mut U,
    engine: Option<E>,
    /// What is said first, and who reads along. Gone once that is over: nothing of it is left to the relay proper.
    greeting: Option<Box<Greeting>>,
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
    /// Who closed first, and when.
    first_to_close: Option<Box<(Party, Instant)>>,
    on_truncation: OnTruncation,
    /// Data of the client was not taken.
    lost: bool,
    truncated: bool,
    spoke: bool,
    /// Plaintext came from the upstream after it was told that the client had finished.
    spoke_since: bool,
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

/// The end of a connection that one side or both are to see as a reset, after all data.
struct Ending {
    ended: Ended,
    /// No delivery goes on beyond this.
    until: Option<Instant>,
    client: Option<Delivery>,
    upstream: Option<Delivery>,
}

/// Watches a leg's send queue: what the kernel had unsent when it was last asked, how long to wait then, and when to ask
/// again.
#[derive(Default)]
struct Delivery(Option<(usize, Duration, Instant)>);

impl<'a, C: Leg, U: Leg, E: Engine> Pump<'a, C, U, E> {
    pub(super) fn new(
        client: &'a mut C,
        upstream: &'a mut U,
        carried: Option<Carried<E>>,
        greeting: Option<Box<Greeting>>,
        settings: &Settings,
        flow: &'a Flow,
    ) -> Self {
        let start = Instant::now();
        let opening = greeting.as_ref().map_or(0, |greeting| greeting.onward.up.len());
        let (engine, partial) = match carried {
            Some(carried) => (Some(carried.engine), carried.ciphertext),
            None => (None, Vec::new()),
        };
        Pump {
            client,
            upstream,
            engine,
            greeting,
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
            asked: (opening > 0).then_some(start),
            ending: None,
            unwritable: None,
            first_to_close: None,
            on_truncation: settings.on_truncation,
            lost: false,
            truncated: false,
            spoke: false,
            spoke_since: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = Instant::now();
        let mut turns = TURNS;
        while self.ending.is_none() {
            let moved = self.turn(cx, now);
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
            self.up.state == State::Unwritable && self.down.state == State::Open && self.delivered();
        let tls_due = self.greeting.as_ref().and_then(|greeting| greeting.tls_due());
        let how = ready!(self.limits.poll(cx, last_words, tls_due));
        self.cut(cx, how, now)
    }

    /// One buffer each way. True: another turn may find more.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let up = self.turn_up(cx, now);
        let down = self.ending.is_none() && self.turn_down(cx, now);
        up || down
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
        through.then(|| self.ended(how, self.closed_first()))
    }

    fn closed_first(&self) -> Option<Party> {
        self.first_to_close.as_ref().map(|first| first.0)
    }

    fn ended(&self, how: How, closed_by: Option<Party>) -> Ended {
        let closed_at = self.first_to_close.as_ref().map_or_else(Instant::now, |first| first.1);
        let closed_after = closed_at.saturating_duration_since(self.start);
        let greeter = self.greeting.as_ref().and_then(|greeting| greeting.greeter.as_ref());
        // Who broke it off reads no more. Who is between two exchanges, as whoever has to ask for TLS, may be told unasked.
        let may_refuse = if how == How::TlsNotAskedFor { self.may_talk() } else { self.may_refuse() };
        let refusable = closed_by != Some(Party::Client) && may_refuse;
        Ended {
            how,
            closed_by,
            closed_after,
            upstream_spoke: self.spoke,
            greeting: greeter.is_some(),
            refusable,
            unanswered: greeter.filter(|_| refusable).map_or_else(Vec::new, |greeter| greeter.unanswered()),
            remark: greeter
                .and_then(|greeter| greeter.why_ended())
                .filter(|remark| remark.of != Party::Client || closed_by == Some(Party::Client)),
            overloaded: greeter.is_some_and(|greeter| greeter.is_overloaded()),
        }
    }

    /// The client awaits an answer that it would understand a refusal for. Only while a greeter reads along.
    fn may_refuse(&self) -> bool {
        self.may_talk() && self.greeting.as_ref().is_some_and(|greeting| greeting.may_refuse())
    }

    /// The client has closed neither direction.
    fn may_talk(&self) -> bool {
        let speaks = self.up.state != State::Closing && self.up.state != State::Done;
        let listens = matches!(self.down.state, State::Open | State::Closing);
        speaks && listens
    }

    /// The greeting ends once all of it is said.
    fn greeting_moved(&mut self) {
        self.greeting = self.greeting.take().filter(|greeting| !greeting.is_over());
    }

    /// Nothing is read from a client that awaits our answer to its request for TLS, until that has begun.
    fn is_held(&self) -> bool {
        self.greeting.as_ref().is_some_and(|greeting| greeting.upgrade() != Upgrade::None)
    }

    /// The client's TLS begins where that is due: it has been given all that it gets in plaintext. True: it did.
    fn start_tls(&mut self, now: Instant) -> bool {
        let Some(greeting) = &mut self.greeting else { return false };
        if greeting.upgrade() != Upgrade::Answered || !greeting.onward.down.is_empty() {
            return false;
        }
        self.asked = None;
        match (self.client.start_tls(None, Vec::new()), &mut greeting.greeter) {
            (Ok(()), Some(greeter)) => greeter.upgraded(&mut greeting.onward),
            _ => self.objected(
                Objection {
                    to: Party::Ambassador,
                    detail: "a client was promised TLS that its listener has not got",
                    mend: "this is a defect of nuncio: please report it with the log line",
                },
                now,
            ),
        }
        true
    }

    /// The greeter does not let it go on.
    fn objected(&mut self, objection: Objection, now: Instant) {
        self.reset_after_delivery(How::Objected(objection), Party::Ambassador, now);
    }

    /// The client was given all that there is for it.
    fn delivered(&self) -> bool {
        self.down.delivered() && self.greeting.as_ref().is_none_or(|greeting| greeting.onward.down.is_empty())
    }

    /// The end by an upstream that took no more data.
    fn upstream_ended(&mut self) -> Ended {
        let how = self.unwritable.take().map_or(How::UpstreamReset, |how| *how);
        self.ended(how, Some(Party::Upstream))
    }

    fn closes(&mut self, party: Party, now: Instant) {
        self.first_to_close.get_or_insert_with(|| Box::new((party, now)));
        self.limits.half_closed(now);
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::relay::testkit::Wire;
    use crate::tls::unbuffered::Unbuffered;

    #[tokio::test]
    async fn between_messages_a_connection_holds_no_buffer_and_no_timer() {
        let ((mut app, client), (upstream, mut server)) = (duplex(1_000), duplex(1_000));
        let (mut client, mut upstream) = (Wire::new(client), Wire::new(upstream));
        let (settings, flow) = (Settings::default(), Flow::default());
        let mut pump =
            Pump::new(&mut client, &mut upstream, None::<Carried<Unbuffered>>, None, &settings, &flow);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            app.write_all(b"question").await.unwrap();
            assert!(pump.poll(&mut cx).is_pending());
            server.write_all(b"answer").await.unwrap();
            assert!(pump.poll(&mut cx).is_pending());
            assert!(pump.up.out.is_none() && pump.down.buffer.is_none());
            assert_eq!(pump.down.partial.capacity(), 0);
            assert!(!pump.limits.has_timer());
        }
        assert_eq!((flow.sent(), flow.received(), flow.exchanges().count), (24, 18, 3));
    }

    #[tokio::test]
    async fn while_its_output_is_stuck_a_half_reads_nothing_and_holds_one_buffer() {
        let ((mut app, client), (upstream, _server)) = (duplex(4_000_000), duplex(10));
        let (mut client, mut upstream) = (Wire::new(client), Wire::new(upstream));
        let (settings, flow) = (Settings::default(), Flow::default());
        let mut pump =
            Pump::new(&mut client, &mut upstream, None::<Carried<Unbuffered>>, None, &settings, &flow);
        let mut cx = Context::from_waker(Waker::noop());
        app.write_all(&vec![0; 3_000_000]).await.unwrap();
        for _ in 0..5 {
            assert!(pump.poll(&mut cx).is_pending());
        }
        assert!(pump.up.out.is_some());
        assert!(flow.sent() <= crate::relay::pool::LARGE as u64);
    }
}
