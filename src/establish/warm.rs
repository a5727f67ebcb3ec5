//! warm: connections that are ready before a client comes: dialled, negotiated, through the handshake. Each serves one client
//! and no second one.
//!
//! Owns keeping them: dialling ahead, handing out, closing those that are too old. Which endpoint a client goes to is decided
//! as ever, and only then is looked for one that is ready there; without one, the client waits for a new connection as if there
//! were no pool. How many are wanted is `upstream::pool`'s to say, and who is dialled next its `stock`'s. What is kept ready
//! counts nowhere as traffic, and says nothing to a breaker: an endpoint that cannot be dialled ahead is left alone for a
//! while, and judged by its clients and its checks. But servers count it, and so do `limits`, after all clients.
//!
//! Each holds a permit of its descriptor, as clients do for theirs. A pool keeps no more permits than it leaves free, and where
//! clients take more, it gives its own back.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{self, JoinSet};
use tokio::time::MissedTickBehavior;

use super::{Manner, Reached, Target, reach};
use crate::dial;
use crate::failure::Failure;
use crate::tls::Secured;
use crate::trail::{Times, Trail};
use crate::upstream::pool::stock::{Dial, Life, Stock};
use crate::upstream::pool::{PoolView, Settings};
use crate::upstream::{EndpointId, EndpointSpec, Upstream};

/// What is kept ready for the clients of one upstream.
pub struct Pool {
    settings: Settings,
    /// Held while the upstream is asked what room there is, and never by who holds the upstream: so nothing comes between the
    /// question and what is done about it.
    stock: Mutex<Stock<Ready, Kept>>,
    /// Somebody took one, or found none.
    asked: Notify,
}

/// Dropped, the dial that has the other end is given up.
type Kept = oneshot::Sender<Infallible>;

/// A connection that waits for its client.
struct Ready {
    reached: Reached,
    since: Instant,
    until: Instant,
    took: Duration,
    _permit: OwnedSemaphorePermit,
}

/// A connection that was ready, on the reactor of who took it.
pub(super) struct Warm {
    pub(super) reached: Reached,
    /// How long it had been.
    pub(super) age: Duration,
    /// What it took to be established.
    pub(super) took: Duration,
}

/// What has to be dialled.
struct Begun {
    dial: Dial,
    spec: Arc<EndpointSpec>,
    permit: OwnedSemaphorePermit,
    given_up: oneshot::Receiver<Infallible>,
}

impl Pool {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Pool {
        Pool { settings, stock: Mutex::new(Stock::new(settings)), asked: Notify::new() }
    }

    /// How many there are.
    pub fn view(&self) -> PoolView {
        self.stock().view()
    }

    /// One that is ready at this endpoint, and still alive, for a client that counts there already. What no longer fits beside
    /// that client is closed.
    pub(super) fn take(&self, upstream: &Upstream, endpoint: EndpointId) -> Option<Warm> {
        let now = Instant::now();
        let (found, over) = {
            let mut stock = self.stock();
            let there = (endpoint, upstream.room_at(endpoint));
            stock.take(there, upstream.room(), now, |ready| ready.life(now))
        };
        // Not with the last words of its protocol: they would be said beside the client's own connection.
        drop(over);
        self.asked.notify_one();
        let Ready { mut reached, since, took, .. } = found?;
        // From the reactor that dialled it to the client's.
        reached.stream = TcpStream::from_std(reached.stream.into_std().ok()?).ok()?;
        Some(Warm { reached, age: now.saturating_duration_since(since), took })
    }

    fn stock(&self) -> MutexGuard<'_, Stock<Ready, Kept>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after all; gives what has to be closed.
    fn survey(&self, upstream: &Upstream, permits: &Semaphore) -> Vec<Ready> {
        let mut stock = self.stock();
        let now = Instant::now();
        let most = most(stock.count(), upstream, permits);
        stock.survey(&upstream.usable(now), most, now, |ready| ready.life(now))
    }

    /// The next to be dialled, if any may be.
    fn next(&self, upstream: &Upstream, permits: &Arc<Semaphore>) -> Option<Begun> {
        let mut stock = self.stock();
        let now = Instant::now();
        let most = most(stock.count(), upstream, permits);
        let permit = permits.clone().try_acquire_owned().ok()?;
        let (kept, given_up) = oneshot::channel();
        let mut there = None;
        let room = |id| {
            let (spec, room) = upstream.usable_at(id, now)?;
            there = Some(spec);
            Some(room)
        };
        let dial = stock.next(most, now, room, kept)?;
        Some(Begun { dial, spec: there?, permit, given_up })
    }

    /// What a dial came to; given back, it is not wanted any more.
    fn came(&self, upstream: &Upstream, dial: Dial, came_to: Option<Ready>) -> Option<Ready> {
        let mut stock = self.stock();
        let now = Instant::now();
        let room = upstream.usable_at(dial.endpoint, now).map(|(_, room)| room);
        stock.came(dial, came_to, room, now)
    }
}

/// As many as a pool that has `count` may have: what `limits.connections` leaves, and half of the permits that are its own or free.
fn most(count: usize, upstream: &Upstream, permits: &Semaphore) -> usize {
    upstream.room().min((count + permits.available_permits()) / 2)
}

impl Ready {
    fn life(&self, now: Instant) -> Life {
        match self.until <= now {
            true => Life::Aged,
            false if dial::is_open(&self.reached.stream) => Life::Ready,
            false => Life::Dead,
        }
    }
}

/// It is looked after what is kept this often.
const TICK: Duration = Duration::from_millis(500);
/// A share by which `max_age` is drawn shorter, so that what began together does not end together.
const JITTER: f64 = 0.2;

/// Keeps connections ready for as long as it is polled; dropped, it closes them.
pub async fn keep(target: Arc<Target>, permits: Arc<Semaphore>) {
    let Some(pool) = &target.pool else { return std::future::pending().await };
    let upstream = &*target.upstream;
    let _emptied = Emptied(pool);
    let mut dialling: JoinSet<Option<Ready>> = JoinSet::new();
    let mut dials: HashMap<task::Id, Dial> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let over = tokio::select! {
            _ = tick.tick() => pool.survey(upstream, &permits),
            Some(ended) = dialling.join_next_with_id() => {
                let (task, came_to) = match ended {
                    Ok((task, came_to)) => (task, came_to),
                    Err(error) => (error.id(), None), // it panicked
                };
                let dial = dials.remove(&task);
                dial.and_then(|dial| pool.came(upstream, dial, came_to)).into_iter().collect()
            }
            () = pool.asked.notified() => Vec::new(),
        };
        for ready in over {
            drop(tokio::spawn(part(target.clone(), ready)));
        }
        while let Some(begun) = pool.next(upstream, &permits) {
            let dial = begun.dial;
            let task = dialling.spawn(ahead(target.clone(), begun, pool.settings.max_age));
            dials.insert(task.id(), dial);
        }
    }
}

/// Closes what is kept: nobody looks after it any more.
struct Emptied<'a>(&'a Pool);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        let kept = self.0.stock().clear();
        drop(kept);
    }
}

/// Goes the way of a connection, without a client, unless it is given up before. `None`: it came to nothing.
async fn ahead(target: Arc<Target>, begun: Begun, max_age: Duration) -> Option<Ready> {
    let Begun { spec, permit, given_up, .. } = begun;
    let begun = Instant::now();
    let reached = tokio::select! {
        reached = reach_ahead(&target, &spec) => reached,
        Err(_) = given_up => return None,
    };
    let reached = match reached {
        Ok(reached) => reached,
        Err(failure) => {
            tracing::debug!("nothing can be kept ready: {failure}");
            return None;
        }
    };
    let since = Instant::now();
    let age = max_age.mul_f64(1.0 - JITTER * fastrand::f64());
    // From its beginning: that is when its server began to wait.
    Some(Ready { reached, since, until: begun + age, took: since - begun, _permit: permit })
}

async fn reach_ahead(target: &Target, spec: &EndpointSpec) -> Result<Reached, Failure> {
    let deadline = tokio::time::Instant::now() + target.timeouts.establish;
    let manner = Manner { alone: false, ..Manner::of(target) };
    let mut reached = reach(target, manner, spec, deadline, &mut Trail::default(), None).await?;
    if let Some(Secured { carried, .. }) = &mut reached.secured {
        // Else the server would wait for the end of the handshake until a client comes.
        carried.flush(&mut reached.stream).await.map_err(|error| super::broken_at_the_end(&error))?;
    }
    Ok(reached)
}

/// Takes leave of a server in its own words.
async fn part(target: Arc<Target>, ready: Ready) {
    let Reached { mut stream, secured, .. } = ready.reached;
    if let (Some(secured), Some(tls)) = (secured, &target.tls) {
        // What it answers matters to nobody.
        secured.prove(&mut stream, Duration::ZERO, target.protocol.farewell(), tls).await.ok();
    }
}

/// How long the connection had waited goes where the steps stand that a client had not to wait for.
pub(super) fn times(queue: Option<Duration>, age: Duration) -> Times {
    Times { queue, warm: Some(age), ..Times::default() }
}
