//! drain: how the end of the process, or of a listener, reaches everything that runs.
//!
//! One [`Drain`] says when, any number of [`Watch`]es hear it. It begins (accept no more, say "draining" to who asks),
//! and then it ends: each connection at its own moment before the deadline, so that the clients of a whole fleet do not
//! all come back in the same instant. What a connection does at its end is its own business.
//!
//! Thousands of idle connections wait for it, and busy ones ask at every wake: one that waits costs its waker's place in
//! a list that all share, and one that asks takes no lock while there is no news.

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The side that begins and ends it. Dropped, it leaves things as they stand.
#[derive(Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// The side that hears of it: cheap to clone, cheap to wait on.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
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

#[derive(Debug)]
struct Shared {
    /// How often the phase changed; it is told without the lock whether there is news.
    changes: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    waiting: Vec<Option<Waker>>,
    /// Places in `waiting` that nobody has.
    free: Vec<u32>,
    /// Those that go with it.
    children: Vec<Weak<Shared>>,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> (Drain, Watch) {
        let shared = Shared::new();
        (Drain { shared: shared.clone() }, Watch { shared })
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
        self.shared.change(|_| Some(Phase::Ended));
    }

    /// Another way to hear of it.
    pub fn watch(&self) -> Watch {
        Watch { shared: self.shared.clone() }
    }

    /// A second beginning changes nothing: connections already go by the first one's deadline.
    fn begin(&self, deadline: Option<Deadline>) {
        self.shared.change(|phase| matches!(phase, Phase::Serving).then_some(Phase::Draining(deadline)));
    }
}

impl Watch {
    /// A drain beneath this one: it begins and ends when it is told to, or with this one, whichever comes first.
    pub fn child(&self) -> Drain {
        let shared = Shared::new();
        let phase = {
            let mut state = self.shared.state();
            state.children.retain(|child| child.strong_count() > 0);
            state.children.push(Arc::downgrade(&shared));
            state.phase
        };
        shared.follow(phase);
        Drain { shared }
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.changes() > 0
    }

    /// Resolves when it begins.
    pub fn started(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut news = News::of(&self.shared);
        future::poll_fn(move |cx| match news.look(cx) {
            Some(Phase::Draining(_) | Phase::Ended) => Poll::Ready(()),
            Some(Phase::Serving) | None => Poll::Pending,
        })
    }

    /// Resolves when this connection must end. `share` (0 to 1, drawn once a connection) is its place in the spread:
    /// 0 ends at the deadline, 1 is the first to go.
    pub fn ended(&self, share: f64) -> End {
        End { news: News::of(&self.shared), share: share_of(share), its_turn: None }
    }
}

/// See [`Watch::ended`].
#[derive(Debug)]
pub struct End {
    news: News,
    share: f64,
    /// Made only once the drain has begun.
    its_turn: Option<Pin<Box<Sleep>>>,
}

impl Future for End {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.news.look(cx) {
            Some(Phase::Ended) => return Poll::Ready(()),
            Some(Phase::Draining(Some(Deadline { at, spread }))) => {
                let at = at - spread.mul_f64(self.share);
                self.its_turn = Some(Box::pin(sleep_until(at)));
            }
            Some(Phase::Serving | Phase::Draining(None)) | None => {}
        }
        match &mut self.its_turn {
            Some(its_turn) => its_turn.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// One who waits for the phase to change, with a place in the list from its first look until it is dropped.
#[derive(Debug)]
struct News {
    shared: Arc<Shared>,
    /// How many changes it has seen.
    seen: u32,
    /// Its place in the list, while it has one.
    place: u32,
    /// The waker that is there.
    waker: Option<Waker>,
}

impl News {
    fn of(shared: &Arc<Shared>) -> News {
        News { shared: shared.clone(), seen: 0, place: 0, waker: None }
    }

    /// The phase, if it may be another than at the last look. Else, and after it, a change will wake.
    fn look(&mut self, cx: &Context<'_>) -> Option<Phase> {
        let will_wake = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if will_wake && self.shared.changes() == self.seen {
            return None;
        }
        if !will_wake {
            self.leave();
        }
        let mut state = self.shared.state();
        if !will_wake {
            self.place = state.enter(cx.waker().clone());
            self.waker = Some(cx.waker().clone());
        }
        self.seen = self.shared.changes();
        Some(state.phase)
    }

    fn leave(&mut self) {
        if self.waker.take().is_some() {
            // In two steps: what a waker does when it is dropped must not happen under the lock.
            let waker = self.shared.state().leave(self.place);
            drop(waker);
        }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn new() -> Arc<Shared> {
        let state =
            State { phase: Phase::Serving, waiting: Vec::new(), free: Vec::new(), children: Vec::new() };
        Arc::new(Shared { changes: AtomicU32::new(0), state: Mutex::new(state) })
    }

    /// The one above has come to this.
    fn follow(&self, above: Phase) {
        self.change(|own| match (own, above) {
            (Phase::Ended, _) | (_, Phase::Serving) => None,
            // It ends by its own deadline, or when the one above does.
            (Phase::Draining(_), Phase::Draining(_)) => None,
            (_, above) => Some(above),
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// Puts the next phase in, if there is one, and wakes everybody.
    fn change(&self, next: impl FnOnce(Phase) -> Option<Phase>) {
        let mut state = self.state();
        let Some(phase) = next(state.phase) else { return };
        state.phase = phase;
        self.changes.fetch_add(1, Ordering::Release);
        let wakers: Vec<Waker> = state.waiting.iter().flatten().cloned().collect();
        let children: Vec<_> = state.children.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        children.iter().for_each(|child| child.follow(phase));
    }
}

impl State {
    /// Gives the place that it took.
    fn enter(&mut self, waker: Waker) -> u32 {
        let place = self.free.pop().unwrap_or(self.waiting.len() as u32);
        match self.waiting.get_mut(place as usize) {
            Some(free) => *free = Some(waker),
            None => self.waiting.push(Some(waker)),
        }
        place
    }

    /// Gives the waker back that was there.
    fn leave(&mut self, place: u32) -> Option<Waker> {
        self.free.push(place);
        self.waiting[place as usize].take()
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

    /// Connections come and go, and with them their wakers: what is left behind is as long as the most that ever waited.
    #[tokio::test(start_paused = true)]
    async fn who_is_no_longer_there_leaves_its_place_to_the_next() {
        let (drain, watch) = Drain::new();
        for _ in 0..3 {
            let waits = || timeout(LIMIT, watch.ended(0.0));
            let (first, second) = tokio::join!(waits(), waits());
            assert!(first.is_err() && second.is_err());
        }
        let state = watch.shared.state();
        assert_eq!((state.waiting.len(), state.free.len()), (2, 2));
        assert!(state.waiting.iter().all(Option::is_none));
        drop((state, drain));
    }

    /// One beneath another hears of its own end and of the other's; the other hears nothing of it.
    #[tokio::test(start_paused = true)]
    async fn a_child_ends_by_itself_or_with_the_one_above() {
        let (above, watch) = Drain::new();
        let (first, second) = (watch.child(), watch.child());
        let (of_first, of_second) = (first.watch(), second.watch());
        drop((first.watch(), second));
        first.end_now();
        assert_eq!(ends_after(&of_first, 0.0).await, Duration::ZERO);
        assert!(!watch.is_draining() && !of_second.is_draining());
        above.start_for(LIMIT, 0.0);
        assert!(ends_after(&of_second, 0.0).await >= LIMIT);
        // One that comes late is where the one above is.
        above.end_now();
        assert_eq!(ends_after(&watch.child().watch(), 0.0).await, Duration::ZERO);
        drop((first, of_first, of_second));
        watch.child();
        assert_eq!(watch.shared.state().children.len(), 1, "who is gone is forgotten");
    }

    /// A future may be polled by one task first and by another later; the other is the one to wake.
    #[tokio::test(start_paused = true)]
    async fn it_is_heard_in_another_task_than_where_the_waiting_began() {
        let (drain, watch) = Drain::new();
        let mut end = watch.ended(0.0);
        assert!(timeout(LIMIT, &mut end).await.is_err());
        let elsewhere = tokio::spawn(end);
        tokio::task::yield_now().await;
        drain.end_now();
        timeout(Duration::from_secs(1), elsewhere).await.unwrap().unwrap();
    }

    #[test]
    fn an_idle_connection_pays_little_for_watching() {
        let in_the_list = size_of::<Option<Waker>>() + size_of::<u32>();
        assert!(size_of::<End>() + in_the_list <= 68, "{} + {in_the_list} bytes", size_of::<End>());
    }
}
