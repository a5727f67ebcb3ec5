//! The bounded queue of connections that wait for a place at the upstream: first come, first served.
//!
//! Owns `limits.connections`, `limits.pending` and `limits.queue_timeout`. Leaves to `set` which endpoint it will be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::failure::{Failure, Reason, Side, Stage};

/// A place at the upstream, held until the connection ends. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its Drop")] Option<OwnedSemaphorePermit>);

/// The queue of one upstream.
#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    /// Free places; `None`: no limit.
    places: Option<Arc<Semaphore>>,
    waiting: AtomicUsize,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        let places = limits.connections.map(|count| Arc::new(Semaphore::new(count as usize)));
        Queue { limits, places, waiting: AtomicUsize::new(0) }
    }

    /// Connections that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place, at once or when one comes free within `queue_timeout` and `limit`: what is left of the time in which the
    /// connection has to be established.
    pub(super) async fn place(&self, limit: Duration) -> Result<Place, Failure> {
        let Some(places) = &self.places else { return Ok(Place(None)) };
        // tokio's semaphore hands a free permit to who waits longest before it counts as free, so this cannot overtake.
        if let Ok(permit) = places.clone().try_acquire_owned() {
            return Ok(Place(Some(permit)));
        }
        let Some(_waiting) = Waiting::enter(&self.waiting, self.limits.pending) else {
            return Err(self.full());
        };
        let timeout = self.limits.queue_timeout.min(limit);
        match tokio::time::timeout(timeout, places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(Some(permit))),
            // Nobody closes it; if somebody did, there would be no place.
            Ok(Err(_closed)) => Err(self.full()),
            Err(_elapsed) => Err(self.too_late(limit)),
        }
    }

    fn full(&self) -> Failure {
        let Limits { pending, .. } = self.limits;
        let detail = match pending {
            0 => format!(
                "all {} places (limits.connections) are taken, and limits.pending is 0",
                self.connections()
            ),
            _ => format!(
                "all {} places (limits.connections) are taken and {pending} connections wait (limits.pending)",
                self.connections()
            ),
        };
        Failure::new(Stage::Queue, Reason::ConnectionLimitReached, Side::Ambassador, detail)
            .mend("raise limits.connections or limits.pending, or find out who holds the connections")
    }

    fn too_late(&self, limit: Duration) -> Failure {
        let (reason, key, time) = match limit < self.limits.queue_timeout {
            true => (Reason::EstablishTimeout, "timeouts.establish", limit),
            false => (Reason::QueueTimeout, "limits.queue_timeout", self.limits.queue_timeout),
        };
        let detail = format!(
            "none of the {} places (limits.connections) came free within {:.1} s ({key})",
            self.connections(),
            time.as_secs_f64()
        );
        Failure::new(Stage::Queue, reason, Side::Ambassador, detail)
            .mend("raise limits.connections, or find out why connections are held so long")
    }

    fn connections(&self) -> u32 {
        self.limits.connections.unwrap_or(u32::MAX)
    }
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
    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(600);

    fn queue(connections: u32, pending: u32, queue_timeout: Duration) -> Queue {
        Queue::new(Limits { connections: Some(connections), pending, queue_timeout })
    }

    /// Polls once; the future then stands in the queue.
    async fn poll_once<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn places_go_to_who_waited_longest() {
        let queue = queue(1, 10, LONG);
        let held = queue.place(LONG).await.unwrap();
        let (mut first, mut second) = (Box::pin(queue.place(LONG)), Box::pin(queue.place(LONG)));
        assert!(poll_once(&mut first).await.is_pending());
        assert!(poll_once(&mut second).await.is_pending());
        assert_eq!(queue.waiting(), 2);
        drop(held);
        let mut newcomer = Box::pin(queue.place(LONG));
        assert!(poll_once(&mut newcomer).await.is_pending(), "a newcomer does not overtake");
        assert!(poll_once(&mut second).await.is_pending());
        assert!(poll_once(&mut first).await.is_ready());
        assert!(poll_once(&mut second).await.is_ready(), "the first place was given back at once");
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_refused_at_once_with_the_names_of_the_limits() {
        let queue = queue(1, 1, LONG);
        let _held = queue.place(LONG).await.unwrap();
        let mut waiting = Box::pin(queue.place(LONG));
        assert!(poll_once(&mut waiting).await.is_pending());
        let failure = queue.place(LONG).await.unwrap_err();
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
        let _held = held_queue.place(LONG).await.unwrap();
        let failure = held_queue.place(LONG).await.unwrap_err();
        assert_eq!(failure.reason, Reason::QueueTimeout);
        assert!(failure.detail.contains("limits.queue_timeout"), "{failure}");

        let held_queue = queue(1, 10, LONG);
        let _held = held_queue.place(LONG).await.unwrap();
        let failure = held_queue.place(SOON).await.unwrap_err();
        assert_eq!(failure.reason, Reason::EstablishTimeout);
        assert!(failure.detail.contains("timeouts.establish"), "{failure}");
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let queue = Queue::new(Limits::default());
        let mut places = Vec::new();
        for _ in 0..5000 {
            places.push(queue.place(Duration::ZERO).await.unwrap());
        }
        assert_eq!(queue.waiting(), 0);
    }
}
