//! The reactors: one current_thread runtime a thread; the first is the caller's own.
//!
//! Owns the threads and the choice of the least loaded. A multi-thread scheduler was measured and costs 10 % on the relay;
//! several SO_REUSEPORT sockets, the other common way, lose their queue when one closes and spread long connections badly.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long the end of the process waits for the reactors.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Where connections are served.
pub(super) struct Reactors {
    all: Vec<Reactor>,
}

struct Reactor {
    handle: Handle,
    open: Arc<AtomicUsize>,
    /// `None` for the caller's own.
    thread: Option<Thread>,
}

struct Thread {
    /// Dropping it ends the runtime, and with it what still runs there.
    _alive: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

impl Reactors {
    /// The current runtime as the first, and `threads - 1` more.
    ///
    /// # Errors
    /// Where a thread or its runtime cannot be made.
    pub(super) fn start(threads: usize) -> io::Result<Reactors> {
        let own = Reactor { handle: Handle::current(), open: Arc::default(), thread: None };
        let mut all = vec![own];
        for number in 1..threads.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (alive, end) = oneshot::channel::<()>();
            let thread = thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
                // The sender is only ever dropped, which is the end either way. The runtime goes with this closure.
                runtime.block_on(async { end.await.ok() });
            })?;
            all.push(Reactor {
                handle,
                open: Arc::default(),
                thread: Some(Thread { _alive: alive, handle: thread }),
            });
        }
        Ok(Reactors { all })
    }

    /// Runs a connection on the least loaded reactor. `connection` is told whether its socket has to move there, and holds
    /// what counts it as open. It is spawned as it is: a future around it would hold it twice.
    pub(super) fn serve<F>(&self, connection: impl FnOnce(bool, Open) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let least =
            self.all.iter().enumerate().min_by_key(|(_, reactor)| reactor.open.load(Ordering::Relaxed));
        let Some((number, reactor)) = least else { return };
        reactor.handle.spawn(connection(number != 0, Open::new(&reactor.open)));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }
}

impl Drop for Reactors {
    /// Waits for what still runs there to be dropped: each connection leaves its record by that. Not forever: a thread may
    /// hang in a look-up of users that never returns.
    fn drop(&mut self) {
        let threads: Vec<_> = self.all.drain(..).filter_map(|reactor| reactor.thread).collect();
        let handles: Vec<_> = threads.into_iter().map(|thread| thread.handle).collect();
        let deadline = Instant::now() + LAST_WAIT;
        while !handles.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline {
                tracing::warn!("a reactor did not end: the records of its connections are lost");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Counts a connection of a reactor, also when it panics.
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
