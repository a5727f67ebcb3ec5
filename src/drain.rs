//! drain: how the end of the process, or of a listener, reaches everything that runs.
//!
//! One [`Drain`] says when, any number of [`Watch`]es hear it. It begins (accept no more, say "draining" to who asks),
//! and then it ends: each connection at its own moment before the deadline, so that the clients of a whole fleet do not
//! all come back in the same instant. What a connection does at its end is its own business.

use std::future::{self, Future};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The side that begins and ends it. Dropped, it leaves things as they stand.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// The side that hears of it: cheap to clone, cheap to wait on.
#[derive(Clone, Debug)]
pub struct Watch {
    phase: watch::Receiver<Phase>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    /// Connections may finish until the deadline, less their share of `spread`. `None`: until [`Drain::end_now`].
    Draining(Option<Deadline>),
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    spread: Duration,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> (Drain, Watch) {
        let (sender, receiver) = watch::channel(Phase::Serving);
        (Drain { phase: sender }, Watch { phase: receiver })
    }

    /// Begins: nothing new is accepted, what is open may finish, until [`Drain::end_now`].
    pub fn start(&self) {
        self.begin(None);
    }

    /// Begins, and ends after `limit`. Connections end one by one in the last part of it, `jitter` (0 to 1) of the whole.
    pub fn start_for(&self, limit: Duration, jitter: f64) {
        // A limit beyond what the clock can count is none.
        let deadline = Instant::now().checked_add(limit);
        self.begin(deadline.map(|at| Deadline { at, spread: limit.mul_f64(share_of(jitter)) }));
    }

    /// Every connection ends now.
    pub fn end_now(&self) {
        self.phase.send_replace(Phase::Ended);
    }

    /// Another way to hear of it.
    pub fn watch(&self) -> Watch {
        Watch { phase: self.phase.subscribe() }
    }

    /// A second beginning changes nothing: connections already go by the first one's deadline.
    fn begin(&self, deadline: Option<Deadline>) {
        self.phase.send_if_modified(|phase| {
            let begins = matches!(phase, Phase::Serving);
            if begins {
                *phase = Phase::Draining(deadline);
            }
            begins
        });
    }
}

impl Watch {
    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Serving)
    }

    /// Resolves when it begins.
    pub fn started(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.clone();
        async move {
            if phase.wait_for(|phase| !matches!(phase, Phase::Serving)).await.is_err() {
                future::pending().await
            }
        }
    }

    /// Resolves when this connection must end. `share` (0 to 1, drawn once a connection) is its place in the spread:
    /// 0 ends at the deadline, 1 is the first to go.
    ///
    /// Thousands of idle connections each hold this future, so that the timer is made only once the drain has begun.
    pub fn ended(&self, share: f64) -> impl Future<Output = ()> + Send + use<> {
        let share = share_of(share);
        let mut phase = self.phase.clone();
        async move {
            loop {
                let end = match *phase.borrow_and_update() {
                    Phase::Ended => return,
                    Phase::Serving | Phase::Draining(None) => None,
                    Phase::Draining(Some(Deadline { at, spread })) => Some(at - spread.mul_f64(share)),
                };
                let its_turn = async {
                    match end {
                        Some(end) => Box::pin(tokio::time::sleep_until(end)).await,
                        None => future::pending().await,
                    }
                };
                let news = async {
                    if phase.changed().await.is_err() {
                        future::pending().await // nobody is left who could change it
                    }
                };
                tokio::select! {
                    () = its_turn => return,
                    () = news => {}
                }
            }
        }
    }
}

/// A number between 0 and 1, whatever came.
fn share_of(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// When `watch.ended(share)` resolves, counted from now, on a paused clock.
    async fn ends_after(watch: &Watch, share: f64) -> Duration {
        let from = Instant::now();
        timeout(LIMIT * 10, watch.ended(share)).await.unwrap();
        from.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_ends_before_it_is_told_to() {
        let (drain, watch) = Drain::new();
        assert!(!watch.is_draining());
        assert!(timeout(LIMIT, watch.started()).await.is_err());
        drain.start();
        watch.started().await;
        assert!(watch.is_draining());
        assert!(timeout(LIMIT, watch.ended(1.0)).await.is_err());
        drain.end_now();
        assert_eq!(ends_after(&watch, 0.0).await, Duration::ZERO);
        assert!(watch.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_end_one_by_one_before_the_deadline() {
        let (drain, watch) = Drain::new();
        let (first, middle, last) = (watch.ended(1.0), watch.ended(0.5), watch.ended(0.0));
        drain.start_for(LIMIT, 0.2);
        drain.start_for(LIMIT * 2, 0.0); // too late to change anything
        let from = Instant::now();
        let seconds = |at: Duration| at.as_millis().div_ceil(10) / 100;
        first.await;
        assert_eq!(seconds(from.elapsed()), 24);
        middle.await;
        assert_eq!(seconds(from.elapsed()), 27);
        last.await;
        assert_eq!(seconds(from.elapsed()), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_may_be_brought_forward() {
        let (drain, watch) = Drain::new();
        drain.start_for(LIMIT, 0.0);
        let waiting = tokio::spawn(watch.ended(0.0));
        tokio::task::yield_now().await;
        drain.end_now();
        timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_its_drain_only_a_deadline_that_was_set_holds() {
        let (drain, watch) = Drain::new();
        drop(drain);
        assert!(timeout(LIMIT, watch.ended(0.0)).await.is_err());
        let (drain, watch) = Drain::new();
        drain.start_for(LIMIT, 0.0);
        drop(drain);
        assert!(ends_after(&watch, 0.0).await >= LIMIT);
    }

    #[test]
    fn an_idle_connection_pays_little_for_watching() {
        let (_drain, watch) = Drain::new();
        let future = watch.ended(0.5);
        assert!(size_of_val(&future) <= 256, "{} bytes", size_of_val(&future));
    }
}
