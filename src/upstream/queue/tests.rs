//! The queue: who gets a place or an endpoint next, who is told no, and why.

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

    fn changes_in(&self, _: std::time::Instant) -> Option<Duration> {
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

/// A circuit that may be tried from a moment on that lies between the look at it and the question when that will be.
#[tokio::test]
async fn what_is_due_between_two_looks_is_not_missed() {
    struct Due(Cell<Option<std::time::Instant>>);
    impl Ask for Due {
        type Picked = ();
        fn pick(&self) -> Result<(), Unpicked> {
            match self.0.get() {
                Some(_) => Ok(()),
                None => {
                    let failure = Failure::upstream(Stage::Route, Reason::CircuitOpen, "its circuit is open");
                    std::thread::sleep(Duration::from_millis(1));
                    self.0.set(Some(std::time::Instant::now()));
                    Err(Unpicked::NotYet(failure))
                }
            }
        }
        fn full(&self) -> (usize, u32) {
            (0, 0)
        }
        fn awaited(&self) -> Option<Failure> {
            None
        }
        fn changes_in(&self, since: std::time::Instant) -> Option<Duration> {
            self.0.get().filter(|due| *due > since).map(|_| Duration::ZERO)
        }
    }
    let queue = queue(10, 10, LONG);
    let endpoints = Due(Cell::new(None));
    tokio::time::timeout(PATIENCE, queue.room(Duration::ZERO, LONG, &endpoints)).await.unwrap().unwrap();
}

const PATIENCE: Duration = Duration::from_secs(10);
