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
    /// When time alone may make another pick of it than one that was made at `since` or later.
    fn changes_in(&self, since: std::time::Instant) -> Option<Duration>;
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

    /// Places that nobody has.
    pub(super) fn room_left(&self) -> usize {
        self.places.free.available_permits()
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
            Ok(Ok(permit)) => taken(permit),
            // Nobody closes it; if somebody did, there would be no place.
            Ok(Err(_closed)) => Err(full(&limits)),
            Err(waited) => Err(awaited().unwrap_or_else(|| too_late(&limits, limit, waited))),
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
                // Before it: what is due in between is not to be missed.
                let asked = std::time::Instant::now();
                match endpoints.pick() {
                    Ok(picked) => return Ok(picked),
                    Err(Unpicked::Nobody(failure)) => return Err(failure),
                    Err(Unpicked::Full | Unpicked::NotYet(_)) => {}
                }
                let news = self.line.news.notified();
                match endpoints.changes_in(asked) {
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
            Ok(picked) => picked,
            Err(waited) => {
                let no_room = || no_room(&limits, queued, limit, waited, endpoints.full());
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

/// What who waits in vain has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// Its turn.
    ForItsTurn,
    /// That somebody is there at all, beyond the time that a turn may take.
    ForAnybody,
}

/// Waits for `in_queue` and `limit` at most; all of `limit`, if what it waits for then is that somebody is there at all.
async fn patient<F: Future>(
    in_queue: Duration,
    limit: Duration,
    awaited: impl Fn() -> Option<Failure>,
    turn: F,
) -> Result<F::Output, Waited> {
    let mut turn = pin!(turn);
    let begun = Instant::now();
    match tokio::time::timeout(in_queue.min(limit), &mut turn).await {
        Ok(came) => Ok(came),
        Err(_elapsed) if awaited().is_some() => {
            // It keeps its place in line.
            let left = limit.saturating_sub(begun.elapsed());
            tokio::time::timeout(left, turn).await.map_err(|_elapsed| Waited::ForAnybody)
        }
        Err(_elapsed) => Err(Waited::ForItsTurn),
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

fn no_room(
    limits: &Limits,
    queued: Duration,
    limit: Duration,
    waited: Waited,
    (endpoints, most): (usize, u32),
) -> Failure {
    let (reason, key, time) = match waited == Waited::ForAnybody || queued + limit < limits.queue_timeout {
        true => (Reason::EstablishTimeout, "timeouts.establish", limit),
        false => (Reason::QueueTimeout, "limits.queue_timeout", limits.queue_timeout),
    };
    let time = time.as_secs_f64();
    let detail = match endpoints {
        // Somebody came back just now.
        0 => format!("those who came before were not served yet within {time:.1} s ({key})"),
        _ => format!(
            "{} (limits.connections_per_endpoint), and none came below it within {time:.1} s ({key})",
            at_their_limit(endpoints, most)
        ),
    };
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

fn too_late(limits: &Limits, limit: Duration, waited: Waited) -> Failure {
    let (reason, key, time) = match waited == Waited::ForAnybody || limit < limits.queue_timeout {
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
mod tests;
