//! The bounded queue of connections that wait, for a place at the upstream, for an endpoint below its own limit, or for one
//! that can be used at all: first come, first served.
//!
//! Owns `limits.connections`, `limits.pending` and `limits.queue_timeout`. Leaves to `set` which endpoint it will be, and
//! which are at their limit.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::Limits;
use super::set::Unpicked;
use crate::failure::{Failure, Reason, Side, Stage};

/// A place at the upstream, held until the connection ends. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// The queue of one upstream.
#[derive(Debug)]
pub(super) struct Queue {
    places: Arc<Places>,
    /// Of both kinds.
    waiting: AtomicUsize,
    line: Line,
}

/// Those who wait for an endpoint. Only the first of them looks, so that nobody overtakes.
#[derive(Debug)]
struct Line {
    waiting: AtomicUsize,
    first: Semaphore,
    /// Something changed at the endpoints.
    news: Notify,
}

/// The places, of which a reload may make more or fewer while they are held. Without a limit they are counted all the
/// same: there may be one later.
#[derive(Debug)]
struct Places {
    free: Semaphore,
    terms: Mutex<Terms>,
}

#[derive(Debug)]
struct Terms {
    limits: Limits,
    /// Places held beyond the limit, since it was lowered: so many are not given back.
    over: usize,
}

/// What who waits wants to know of the endpoints.
pub(super) trait Ask {
    /// An endpoint, held.
    type Picked;
    /// One, for the first in line.
    fn pick(&self) -> Result<Self::Picked, Unpicked>;
    /// How many are at their limit, and what that is.
    fn full(&self) -> (usize, u32);
    /// Why nobody is served, where that is to be waited out.
    fn awaited(&self) -> Option<Failure>;
    /// When time alone may make another pick of it.
    fn changes_in(&self) -> Option<Duration>;
}

impl Places {
    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) {
        let mut terms = self.terms();
        match terms.over {
            0 => self.free.add_permits(1),
            _ => terms.over -= 1,
        }
    }

    fn set(&self, limits: Limits) {
        let mut terms = self.terms();
        let (before, now) = (count(&terms.limits), count(&limits));
        terms.limits = limits;
        match now.checked_sub(before) {
            Some(more) => {
                let settled = more.min(terms.over);
                terms.over -= settled;
                self.free.add_permits(more - settled);
            }
            None => {
                let fewer = before - now;
                terms.over += fewer - self.free.forget_permits(fewer);
            }
        }
    }
}

/// How many places there are. Without a limit, more than any host has connections.
fn count(limits: &Limits) -> usize {
    limits.connections.map_or(Semaphore::MAX_PERMITS, |count| count as usize).min(Semaphore::MAX_PERMITS)
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        let free = Semaphore::new(count(&limits));
        let places = Arc::new(Places { free, terms: Mutex::new(Terms { limits, over: 0 }) });
        let line = Line { waiting: AtomicUsize::new(0), first: Semaphore::new(1), news: Notify::new() };
        Queue { places, waiting: AtomicUsize::new(0), line }
    }

    /// Other limits from now on. Who waits already goes on waiting as it was told to.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.places.set(limits);
    }

    /// Connections that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place, at once or when one comes free within `queue_timeout` and `limit`: what is left of the time in which the
    /// connection has to be established. `awaited`: see [`Ask`]; for that all of the `limit` is waited.
    pub(super) async fn place(
        &self,
        limit: Duration,
        awaited: impl Fn() -> Option<Failure>,
    ) -> Result<Place, Failure> {
        let taken = |permit: tokio::sync::SemaphorePermit<'_>| {
            // From here on the place counts it, which gives it back by other rules than the permit would.
            permit.forget();
            Ok(Place(self.places.clone()))
        };
        // tokio's semaphore hands a free permit to who waits longest before it counts as free, so this cannot overtake.
        if let Ok(permit) = self.places.free.try_acquire() {
            return taken(permit);
        }
        let limits = self.places.terms().limits;
        let Some(_waiting) = Waiting::enter(&self.waiting, limits.pending) else {
            return Err(awaited().map_or_else(|| full(&limits), |failure| crowded(failure, &limits)));
        };
        let permit = patient(limits.queue_timeout, limit, &awaited, self.places.free.acquire());
        match permit.await {
            Some(Ok(permit)) => taken(permit),
            // Nobody closes it; if somebody did, there would be no place.
            Some(Err(_closed)) => Err(full(&limits)),
            None => Err(awaited().unwrap_or_else(|| too_late(&limits, limit))),
        }
    }

    /// Waits for something that all wait for, as long as there is room to wait and time is left of `queue_timeout` after
    /// `queued`, and of `limit`.
    pub(super) async fn meanwhile(
        &self,
        queued: Duration,
        limit: Duration,
        something: impl Future<Output = ()>,
    ) {
        let limits = self.places.terms().limits;
        if let Some(_waiting) = Waiting::enter(&self.waiting, limits.pending) {
            let left = limits.queue_timeout.saturating_sub(queued).min(limit);
            tokio::time::timeout(left, something).await.ok();
        }
    }

    /// Does nobody wait for an endpoint? Otherwise whoever comes goes behind.
    pub(super) fn nobody_before(&self) -> bool {
        self.line.waiting.load(Ordering::SeqCst) == 0
    }

    /// Something changed at the endpoints: the first in line, if there is one, looks again. Whoever enters the line looks
    /// after it has, under the lock of the endpoints: a change comes before that look or finds it in line.
    pub(super) fn look_again(&self) {
        if !self.nobody_before() {
            self.line.news.notify_one();
        }
    }

    /// Waits for its turn and until somebody can be picked, within what `queue_timeout` leaves after `queued`, and `limit`;
    /// within `limit` alone while nobody is there and that is to be waited out.
    pub(super) async fn room<A: Ask>(
        &self,
        queued: Duration,
        limit: Duration,
        endpoints: &A,
    ) -> Result<A::Picked, Failure> {
        let limits = self.places.terms().limits;
        let turned_away = || match endpoints.awaited() {
            Some(failure) => crowded(failure, &limits),
            None => self.none_may_wait(endpoints.full()),
        };
        let Some(_waiting) = Waiting::enter(&self.waiting, limits.pending) else {
            return Err(turned_away());
        };
        let Some(_in_line) = Waiting::enter(&self.line.waiting, u32::MAX) else {
            return Err(turned_away());
        };
        let turn = async {
            let first = self.line.first.acquire().await;
            loop {
                match endpoints.pick() {
                    Ok(picked) => return Ok(picked),
                    Err(Unpicked::Nobody(failure)) => return Err(failure),
                    Err(Unpicked::Full | Unpicked::NotYet(_)) => {}
                }
                let news = self.line.news.notified();
                match endpoints.changes_in() {
                    None => news.await,
                    Some(then) => match tokio::time::timeout(then, news).await {
                        Ok(()) | Err(_) => {}
                    },
                }
                debug_assert!(first.is_ok(), "nobody closes it");
            }
        };
        let in_queue = limits.queue_timeout.saturating_sub(queued);
        match patient(in_queue, limit, || endpoints.awaited(), turn).await {
            Some(picked) => picked,
            None => {
                let no_room = || no_room(&limits, queued, limit, endpoints.full());
                Err(endpoints.awaited().unwrap_or_else(no_room))
            }
        }
    }

    /// Endpoints are at their limit, and so is the queue.
    pub(super) fn none_may_wait(&self, (endpoints, most): (usize, u32)) -> Failure {
        let detail = match self.places.terms().limits.pending {
            0 => format!(
                "{} (limits.connections_per_endpoint), and limits.pending is 0",
                at_their_limit(endpoints, most)
            ),
            pending => format!(
                "{} (limits.connections_per_endpoint) and {pending} connections wait (limits.pending)",
                at_their_limit(endpoints, most)
            ),
        };
        Failure::new(Stage::Queue, Reason::ConnectionLimitReached, Side::Ambassador, detail).mend(
            "raise limits.connections_per_endpoint or limits.pending, add endpoints, or find out who holds the connections",
        )
    }
}

/// Waits for `in_queue` and `limit` at most; all of `limit`, if what it waits for then is that somebody is there at all.
/// `None`: it came to nothing.
async fn patient<F: Future>(
    in_queue: Duration,
    limit: Duration,
    awaited: impl Fn() -> Option<Failure>,
    turn: F,
) -> Option<F::Output> {
    let mut turn = pin!(turn);
    let begun = Instant::now();
    match tokio::time::timeout(in_queue.min(limit), &mut turn).await {
        Ok(came) => Some(came),
        Err(_elapsed) if awaited().is_some() => {
            // It keeps its place in line.
            tokio::time::timeout(limit.saturating_sub(begun.elapsed()), turn).await.ok()
        }
        Err(_elapsed) => None,
    }
}

/// Nobody is there, and enough wait for that already.
fn crowded(failure: Failure, limits: &Limits) -> Failure {
    let waiting = match limits.pending {
        0 => "and nobody may wait (limits.pending)".to_owned(),
        pending => format!("and {pending} connections wait for that to end (limits.pending)"),
    };
    Failure { detail: format!("{}; {waiting}", failure.detail).into(), ..failure }
}

fn at_their_limit(endpoints: usize, most: u32) -> String {
    match endpoints {
        1 => format!("the endpoint that serves is at its limit of {most} connections"),
        _ => format!("all {endpoints} endpoints that serve are at their limit of {most} connections"),
    }
}

fn no_room(limits: &Limits, queued: Duration, limit: Duration, (endpoints, most): (usize, u32)) -> Failure {
    let (reason, key, time) = match queued + limit < limits.queue_timeout {
        true => (Reason::EstablishTimeout, "timeouts.establish", limit),
        false => (Reason::QueueTimeout, "limits.queue_timeout", limits.queue_timeout),
    };
    let detail = format!(
        "{} (limits.connections_per_endpoint), and none came below it within {:.1} s ({key})",
        at_their_limit(endpoints, most),
        time.as_secs_f64()
    );
    Failure::new(Stage::Queue, reason, Side::Ambassador, detail).mend(
        "raise limits.connections_per_endpoint, add endpoints, or find out why connections are held so long",
    )
}

fn full(limits: &Limits) -> Failure {
    let connections = connections(limits);
    let detail = match limits.pending {
        0 => format!("all {connections} places (limits.connections) are taken, and limits.pending is 0"),
        pending => format!(
            "all {connections} places (limits.connections) are taken and {pending} connections wait (limits.pending)"
        ),
    };
    Failure::new(Stage::Queue, Reason::ConnectionLimitReached, Side::Ambassador, detail)
        .mend("raise limits.connections or limits.pending, or find out who holds the connections")
}

fn too_late(limits: &Limits, limit: Duration) -> Failure {
    let (reason, key, time) = match limit < limits.queue_timeout {
        true => (Reason::EstablishTimeout, "timeouts.establish", limit),
        false => (Reason::QueueTimeout, "limits.queue_timeout", limits.queue_timeout),
    };
    let detail = format!(
        "none of the {} places (limits.connections) came free within {:.1} s ({key})",
        connections(limits),
        time.as_secs_f64()
    );
    Failure::new(Stage::Queue, reason, Side::Ambassador, detail)
        .mend("raise limits.connections, or find out why connections are held so long")
}

fn connections(limits: &Limits) -> u32 {
    limits.connections.unwrap_or(u32::MAX)
}

/// Counts one who waits, for as long as it lives: also when the client leaves and the future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: u32) -> Option<Self> {
        let enter = |waiting| (waiting < most as usize).then_some(waiting + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok().map(|_| Waiting(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(600);

    fn queue(connections: u32, pending: u32, queue_timeout: Duration) -> Queue {
        Queue::new(Limits { connections: Some(connections), pending, queue_timeout, ..Limits::default() })
    }

    /// Polls once; the future then stands in the queue.
    async fn poll_once<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn places_go_to_who_waited_longest() {
        let queue = queue(1, 10, LONG);
        let held = queue.place(LONG, unawaited).await.unwrap();
        let (mut first, mut second) =
            (Box::pin(queue.place(LONG, unawaited)), Box::pin(queue.place(LONG, unawaited)));
        assert!(poll_once(&mut first).await.is_pending());
        assert!(poll_once(&mut second).await.is_pending());
        assert_eq!(queue.waiting(), 2);
        drop(held);
        let mut newcomer = Box::pin(queue.place(LONG, unawaited));
        assert!(poll_once(&mut newcomer).await.is_pending(), "a newcomer does not overtake");
        assert!(poll_once(&mut second).await.is_pending());
        assert!(poll_once(&mut first).await.is_ready());
        assert!(poll_once(&mut second).await.is_ready(), "the first place was given back at once");
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_refused_at_once_with_the_names_of_the_limits() {
        let queue = queue(1, 1, LONG);
        let _held = queue.place(LONG, unawaited).await.unwrap();
        let mut waiting = Box::pin(queue.place(LONG, unawaited));
        assert!(poll_once(&mut waiting).await.is_pending());
        let failure = queue.place(LONG, unawaited).await.unwrap_err();
        assert_eq!((failure.stage, failure.reason), (Stage::Queue, Reason::ConnectionLimitReached));
        assert_eq!(
            &*failure.detail,
            "all 1 places (limits.connections) are taken and 1 connections wait (limits.pending)"
        );
        drop(waiting);
        assert_eq!(queue.waiting(), 0, "a client that leaves no longer waits");
    }

    #[tokio::test]
    async fn whoever_waits_too_long_is_told_which_time_was_over() {
        let held_queue = queue(1, 10, SOON);
        let _held = held_queue.place(LONG, unawaited).await.unwrap();
        let failure = held_queue.place(LONG, unawaited).await.unwrap_err();
        assert_eq!(failure.reason, Reason::QueueTimeout);
        assert!(failure.detail.contains("limits.queue_timeout"), "{failure}");

        let held_queue = queue(1, 10, LONG);
        let _held = held_queue.place(LONG, unawaited).await.unwrap();
        let failure = held_queue.place(SOON, unawaited).await.unwrap_err();
        assert_eq!(failure.reason, Reason::EstablishTimeout);
        assert!(failure.detail.contains("timeouts.establish"), "{failure}");
    }

    fn at_most(connections: Option<u32>) -> Limits {
        Limits { connections, pending: 0, queue_timeout: LONG, ..Limits::default() }
    }

    #[tokio::test]
    async fn places_that_are_held_count_against_a_limit_that_comes_later() {
        let queue = Queue::new(at_most(None));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(queue.place(LONG, unawaited).await.unwrap());
        }
        queue.set_limits(at_most(Some(2)));
        assert!(queue.place(LONG, unawaited).await.is_err());
        held.pop();
        assert!(queue.place(LONG, unawaited).await.is_err(), "two are held, which is all there are");
        held.pop();
        held.push(queue.place(LONG, unawaited).await.unwrap());
        assert!(queue.place(LONG, unawaited).await.is_err());
        queue.set_limits(at_most(None));
        for _ in 0..1000 {
            held.push(queue.place(LONG, unawaited).await.unwrap());
        }
        queue.set_limits(at_most(Some(1)));
        held.clear();
        let _one = queue.place(LONG, unawaited).await.unwrap();
        assert!(queue.place(LONG, unawaited).await.is_err(), "none was counted twice");
    }

    #[tokio::test]
    async fn a_limit_that_is_raised_lets_in_who_waits() {
        let queue = queue(1, 10, LONG);
        let mut held = vec![queue.place(LONG, unawaited).await.unwrap()];
        let mut waiting = Box::pin(queue.place(LONG, unawaited));
        assert!(poll_once(&mut waiting).await.is_pending());
        queue.set_limits(Limits { pending: 10, ..at_most(Some(3)) });
        held.push(waiting.await.unwrap());
        held.push(queue.place(LONG, unawaited).await.unwrap());
        // Lowered below what is held, and raised again before any came back.
        queue.set_limits(at_most(Some(1)));
        queue.set_limits(at_most(Some(3)));
        assert!(queue.place(LONG, unawaited).await.is_err());
        held.pop();
        assert!(queue.place(LONG, unawaited).await.is_ok());
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let queue = Queue::new(Limits::default());
        let mut places = Vec::new();
        for _ in 0..5000 {
            places.push(queue.place(Duration::ZERO, unawaited).await.unwrap());
        }
        assert_eq!(queue.waiting(), 0);
    }

    /// What is to be seen of the endpoints: how many may be picked, at what they are otherwise, and whether anybody is there.
    struct Endpoints {
        free: Cell<u32>,
        full: (usize, u32),
        away: Cell<bool>,
    }

    fn endpoints(full: (usize, u32)) -> Endpoints {
        Endpoints { free: 0.into(), full, away: false.into() }
    }

    impl Ask for Endpoints {
        type Picked = u32;

        fn pick(&self) -> Result<u32, Unpicked> {
            if let Some(failure) = self.awaited() {
                return Err(Unpicked::NotYet(failure));
            }
            let left = self.free.get().checked_sub(1).ok_or(Unpicked::Full)?;
            self.free.set(left);
            Ok(left)
        }

        fn full(&self) -> (usize, u32) {
            self.full
        }

        fn awaited(&self) -> Option<Failure> {
            let failure = || Failure::upstream(Stage::Route, Reason::CircuitOpen, "its circuit is open");
            self.away.get().then(failure)
        }

        fn changes_in(&self) -> Option<Duration> {
            None
        }
    }

    fn unawaited() -> Option<Failure> {
        None
    }

    /// Who waits for an endpoint below its limit is served in turn, and who comes meanwhile goes behind.
    #[tokio::test]
    async fn room_goes_to_who_waited_longest() {
        let queue = queue(10, 10, LONG);
        let endpoints = endpoints((1, 1));
        let room = || Box::pin(queue.room(Duration::ZERO, LONG, &endpoints));
        assert!(queue.nobody_before());
        let (mut first, mut second) = (room(), room());
        assert!(poll_once(&mut first).await.is_pending() && poll_once(&mut second).await.is_pending());
        assert_eq!((queue.waiting(), queue.nobody_before()), (2, false));
        endpoints.free.set(1);
        queue.look_again();
        assert!(poll_once(&mut second).await.is_pending(), "it is not its turn");
        assert!(poll_once(&mut first).await.is_ready());
        drop(first);
        assert!(poll_once(&mut second).await.is_pending());
        endpoints.free.set(1);
        queue.look_again();
        assert!(poll_once(&mut second).await.is_ready());
        drop(second);
        assert!(queue.nobody_before());
    }

    /// The first in line leaves just as it is told of news: the next one looks all the same.
    #[tokio::test]
    async fn who_leaves_takes_no_news_with_it() {
        let queue = queue(10, 10, LONG);
        let endpoints = endpoints((1, 1));
        let room = || Box::pin(queue.room(Duration::ZERO, LONG, &endpoints));
        let (mut first, mut second) = (room(), room());
        assert!(poll_once(&mut first).await.is_pending() && poll_once(&mut second).await.is_pending());
        endpoints.free.set(1);
        queue.look_again();
        drop(first);
        assert!(poll_once(&mut second).await.is_ready());
    }

    #[tokio::test]
    async fn who_finds_no_room_is_told_which_limit_it_was_and_its_figures() {
        let endpoints = endpoints((3, 50));
        let told = async |queue: &Queue, queued, limit| {
            let room = queue.room(queued, limit, &endpoints);
            let failure = room.await.unwrap_err();
            format!("{}: {}", failure.reason.label(), failure.detail)
        };
        assert_eq!(
            told(&queue(10, 0, LONG), Duration::ZERO, LONG).await,
            "connection_limit_reached: all 3 endpoints that serve are at their limit of 50 connections \
             (limits.connections_per_endpoint), and limits.pending is 0"
        );
        assert_eq!(
            told(&queue(10, 9, LONG), LONG - SOON, LONG).await,
            "queue_timeout: all 3 endpoints that serve are at their limit of 50 connections \
             (limits.connections_per_endpoint), and none came below it within 600.0 s (limits.queue_timeout)"
        );
        assert_eq!(
            told(&queue(10, 9, LONG), Duration::ZERO, SOON).await,
            "establish_timeout: all 3 endpoints that serve are at their limit of 50 connections \
             (limits.connections_per_endpoint), and none came below it within 0.0 s (timeouts.establish)"
        );
    }

    /// While nobody is there at all, `queue_timeout` does not count: that is about who is busy.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_somebody_to_come_waits_as_long_as_it_may_and_in_turn() {
        let queue = queue(10, 2, SOON);
        let endpoints = endpoints((1, 1));
        endpoints.away.set(true);
        let room = || Box::pin(queue.room(Duration::ZERO, LONG, &endpoints));
        let (mut first, mut second) = (room(), room());
        assert!(poll_once(&mut first).await.is_pending() && poll_once(&mut second).await.is_pending());
        let third = queue.room(Duration::ZERO, LONG, &endpoints).await.unwrap_err();
        assert_eq!(third.reason, Reason::CircuitOpen);
        assert_eq!(
            &*third.detail,
            "its circuit is open; and 2 connections wait for that to end (limits.pending)"
        );
        tokio::time::sleep(LONG / 2).await;
        assert!(poll_once(&mut first).await.is_pending() && poll_once(&mut second).await.is_pending());
        endpoints.away.set(false);
        endpoints.free.set(2);
        queue.look_again();
        assert!(poll_once(&mut second).await.is_pending(), "it is not its turn");
        assert_eq!(first.await.unwrap(), 1);
        assert_eq!(second.await.unwrap(), 0);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_in_vain_is_refused_for_the_reason_that_was_there() {
        let queue = queue(1, 10, SOON);
        let endpoints = endpoints((1, 1));
        endpoints.away.set(true);
        let begun = Instant::now();
        let refused = queue.room(Duration::ZERO, LONG, &endpoints).await.unwrap_err();
        assert_eq!((refused.reason, begun.elapsed()), (Reason::CircuitOpen, LONG));
        // So is who got no place, since those who have one wait for the same.
        let _held = queue.place(LONG, unawaited).await.unwrap();
        let refused = queue.place(LONG, || endpoints.awaited()).await.unwrap_err();
        assert_eq!((refused.reason, begun.elapsed()), (Reason::CircuitOpen, LONG * 2));
        // Who finds endpoints that are only busy waits no longer than it should.
        endpoints.away.set(false);
        let refused = queue.room(Duration::ZERO, LONG, &endpoints).await.unwrap_err();
        assert_eq!((refused.reason, begun.elapsed()), (Reason::QueueTimeout, LONG * 2 + SOON));
    }
}
