//! The places at an address of the admin: so many connections at a time, and when all are taken, who has been silent for
//! longest gives way. A client that connects and says nothing, or keeps its connection for later, locks nobody out.
//!
//! Owns who holds a place and who loses it. Leaves to the connections themselves that they end then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// All places at an address.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    /// Silence that everybody is granted.
    grace: Duration,
    /// In the order in which they were taken.
    taken: Mutex<BTreeMap<u64, Taken>>,
    /// One was left.
    left: Notify,
}

#[derive(Debug)]
struct Taken {
    /// When its client last had a request whole, or came.
    heard: Instant,
    /// `None`: it has been told.
    wanted: Option<Arc<Notify>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    wanted: Arc<Notify>,
}

impl Places {
    pub(super) fn new(limit: usize, grace: Duration) -> Arc<Places> {
        Arc::new(Places { limit, grace, taken: Mutex::default(), left: Notify::new() })
    }

    /// Takes a place. Only one task waits here at a time: the one that accepts.
    pub(super) async fn take(self: &Arc<Places>) -> Place {
        loop {
            let give_way = {
                let mut taken = self.taken();
                if taken.len() < self.limit {
                    return self.place(&mut taken);
                }
                give_way(&mut taken, self.grace, Instant::now())
            };
            match give_way {
                // Who is next may have said something by then.
                Some(next) => {
                    tokio::select! {
                        () = self.left.notified() => {}
                        () = sleep_until(next) => {}
                    }
                }
                None => self.left.notified().await,
            }
        }
    }

    fn place(self: &Arc<Places>, taken: &mut BTreeMap<u64, Taken>) -> Place {
        let number = taken.last_key_value().map_or(0, |(last, _)| last + 1);
        let wanted = Arc::new(Notify::new());
        taken.insert(number, Taken { heard: Instant::now(), wanted: Some(wanted.clone()) });
        Place { places: self.clone(), number, wanted }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells who has been silent for longest, if that is long enough, unless somebody is on the way out already. Returns when
/// to look again; `None`: when a place is left.
fn give_way(taken: &mut BTreeMap<u64, Taken>, grace: Duration, now: Instant) -> Option<Instant> {
    if taken.values().any(|place| place.wanted.is_none()) {
        return None;
    }
    let silent = taken.values_mut().min_by_key(|place| place.heard)?;
    let due = silent.heard + grace;
    if due > now {
        return Some(due);
    }
    if let Some(wanted) = silent.wanted.take() {
        wanted.notify_one();
    }
    None
}

impl Place {
    /// Its client has said something whole.
    pub(super) fn heard(&self) {
        if let Some(place) = self.places.taken().get_mut(&self.number) {
            place.heard = Instant::now();
        }
    }

    /// Until somebody else is to have it.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().remove(&self.number);
        self.places.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    /// Waits for whichever of these is told to go.
    async fn told(places: &[Place]) -> usize {
        let mut all: Vec<_> = places.iter().map(|place| Box::pin(place.wanted())).collect();
        std::future::poll_fn(|context| {
            let mut each = all.iter_mut().enumerate();
            let at = each.find_map(|(at, wanted)| wanted.as_mut().poll(context).is_ready().then_some(at));
            at.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    /// Whoever spoke last stays; one goes for each that comes, and not before its time of grace.
    #[tokio::test(start_paused = true)]
    async fn who_was_silent_for_longest_gives_way_to_who_comes() {
        let places = Places::new(3, GRACE);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(places.take().await);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        held[0].heard();
        let begun = Instant::now();
        let coming = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        assert_eq!(told(&held).await, 1, "the second one: the first has spoken since");
        assert_eq!(begun.elapsed().as_millis(), 80, "its silence was as long as everybody is granted");
        assert!(!coming.is_finished(), "it is on its way out, and nobody else is told meanwhile");
        drop(held.remove(1));
        let place = coming.await.unwrap();
        assert_eq!(places.taken().len(), 3);
        drop((held, place));
        assert!(places.taken().is_empty());
    }

    /// Nobody has to go where a place is free, or becomes free in time.
    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_taken_without_pushing_anybody_out() {
        let places = Places::new(2, GRACE);
        let (one, two) = (places.take().await, places.take().await);
        let coming = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        tokio::task::yield_now().await;
        drop(one);
        let three = coming.await.unwrap();
        tokio::time::advance(GRACE * 10).await;
        let silence = tokio::time::timeout(GRACE, two.wanted());
        assert!(silence.await.is_err(), "nobody wants its place");
        drop(three);
    }
}
