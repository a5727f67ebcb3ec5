//! warm: connections that are ready before a client comes: dialled, negotiated, through the handshake. Each serves one client
//! and no second one.
//!
//! Owns keeping them: dialling ahead, handing out, closing those that are too old. Which endpoint a client goes to is decided
//! as ever, and only then is looked for one that is ready there; without one, the client waits for a new connection as if there
//! were no pool. How many are wanted is `upstream::pool`'s to say. What is kept ready counts nowhere as traffic, and says nothing
//! to a breaker: an endpoint that cannot be dialled ahead is left alone for a while, and judged by its clients and its checks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Manner, Reached, Target, reach};
use crate::dial;
use crate::failure::Failure;
use crate::tls::Secured;
use crate::trail::{Times, Trail};
use crate::upstream::pool::{Demand, PoolView, Settings};
use crate::upstream::{EndpointId, EndpointSpec};

/// What is kept ready for the clients of one upstream.
pub struct Pool {
    settings: Settings,
    kept: Mutex<Kept>,
    /// Somebody took one, or found none.
    asked: Notify,
}

#[derive(Default)]
struct Kept {
    shelves: HashMap<EndpointId, Shelf>,
    given: u64,
    missed: u64,
}

/// What there is of one endpoint.
#[derive(Default)]
struct Shelf {
    demand: Demand,
    /// The oldest first.
    ready: VecDeque<Ready>,
    dialling: u32,
    /// Not dialled before then, since it failed so many times in a row.
    failing: Option<(Instant, u32)>,
}

/// A connection that waits for its client.
struct Ready {
    reached: Reached,
    since: Instant,
    until: Instant,
    took: Duration,
}

/// A connection that was ready, on the reactor of who took it.
pub(super) struct Warm {
    pub(super) reached: Reached,
    /// How long it had been.
    pub(super) age: Duration,
    /// What it took to be established.
    pub(super) took: Duration,
}

impl Pool {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Pool {
        Pool { settings, kept: Mutex::default(), asked: Notify::new() }
    }

    /// How many there are.
    pub fn view(&self) -> PoolView {
        let kept = self.kept();
        PoolView {
            ready: kept.shelves.values().map(|shelf| shelf.ready.len()).sum(),
            dialling: kept.shelves.values().map(|shelf| shelf.dialling as usize).sum(),
            given_total: kept.given,
            missed_total: kept.missed,
        }
    }

    /// One that is ready at this endpoint, and still alive. The oldest: it would be in vain soonest.
    pub(super) fn take(&self, endpoint: EndpointId) -> Option<Warm> {
        let now = Instant::now();
        let found = {
            let mut kept = self.kept();
            let shelf = kept.shelves.entry(endpoint).or_default();
            shelf.demand.asked(now.into_std());
            let found = loop {
                match shelf.ready.pop_front() {
                    Some(ready) if ready.is_alive(now) => break Some(ready),
                    Some(_) => {}
                    None => break None,
                }
            };
            match found {
                Some(_) => kept.given += 1,
                None => kept.missed += 1,
            }
            found
        };
        self.asked.notify_one();
        let Ready { mut reached, since, took, .. } = found?;
        // From the reactor that dialled it to the client's.
        reached.stream = TcpStream::from_std(reached.stream.into_std().ok()?).ok()?;
        Some(Warm { reached, age: now - since, took })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has to be dialled at `now`; those of `members` that may be, and no others, keep what they have. Also what has to
    /// be closed: too old, dead, more than is wanted for, or of an endpoint that may not be used.
    fn plan(&self, members: &[(EndpointId, EndpointSpec)], now: Instant) -> (Vec<Dial>, Vec<Ready>) {
        let mut kept = self.kept();
        let (mut dials, mut over) = (Vec::new(), Vec::new());
        kept.shelves.retain(|id, shelf| {
            let is_member = members.iter().any(|(member, _)| member == id);
            if !is_member {
                over.extend(shelf.ready.drain(..));
            }
            is_member || shelf.dialling > 0
        });
        for (id, spec) in members {
            let shelf = kept.shelves.entry(*id).or_default();
            let wanted = shelf.demand.wanted(&self.settings, now.into_std());
            let (alive, dead): (Vec<_>, Vec<_>) =
                shelf.ready.drain(..).partition(|ready| ready.is_alive(now));
            shelf.ready.extend(alive);
            if dead.iter().any(|ready| now < ready.until) {
                // Whoever hangs up on those that wait does not want to be dialled at once.
                shelf.failed(now);
            }
            over.extend(dead);
            while shelf.ready.len() > wanted as usize {
                over.extend(shelf.ready.pop_front());
            }
            if shelf.failing.is_some_and(|(until, _)| now < until) {
                continue;
            }
            let there = u32::try_from(shelf.ready.len()).unwrap_or(u32::MAX).saturating_add(shelf.dialling);
            for _ in there..wanted {
                shelf.dialling += 1;
                dials.push(Dial { endpoint: *id, spec: spec.clone() });
            }
        }
        (dials, over)
    }

    fn dialled(&self, endpoint: EndpointId, came_to: Result<Ready, Failure>) {
        let mut kept = self.kept();
        let Some(shelf) = kept.shelves.get_mut(&endpoint) else { return };
        shelf.dialling = shelf.dialling.saturating_sub(1);
        match came_to {
            Ok(ready) => {
                shelf.failing = None;
                shelf.ready.push_back(ready);
            }
            Err(failure) => {
                tracing::debug!("nothing can be kept ready: {failure}");
                shelf.failed(Instant::now());
            }
        }
    }
}

impl Shelf {
    fn failed(&mut self, now: Instant) {
        // Those that were dialled together fail together: that is once.
        if self.failing.is_some_and(|(until, _)| now < until) {
            return;
        }
        let times = self.failing.map_or(0, |(_, times)| times);
        let pause = PAUSE.saturating_mul(1 << times.min(6)).min(LONGEST_PAUSE);
        self.failing = Some((now + pause, times + 1));
    }
}

impl Ready {
    fn is_alive(&self, now: Instant) -> bool {
        now < self.until && dial::is_open(&self.reached.stream)
    }
}

/// What has to be dialled.
struct Dial {
    endpoint: EndpointId,
    spec: EndpointSpec,
}

/// It is looked after what is kept at least this often.
const TICK: Duration = Duration::from_millis(500);
/// An endpoint that could not be dialled is left alone so long; doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So many are dialled at a time: a burst of clients is no reason for a burst of handshakes beside theirs.
const AT_ONCE: usize = 8;
/// A share by which `max_age` is drawn shorter, so that what began together does not end together.
const JITTER: f64 = 0.2;

/// Keeps connections ready for as long as it is polled; dropped, it closes them.
pub async fn keep(target: Arc<Target>) {
    let Some(pool) = &target.pool else { return std::future::pending().await };
    let _emptied = Emptied(pool);
    let mut dialling: JoinSet<(EndpointId, Result<Ready, Failure>)> = JoinSet::new();
    let mut waiting: VecDeque<Dial> = VecDeque::new();
    loop {
        let now = Instant::now();
        let (dials, over) = pool.plan(&target.upstream.usable(now.into_std()), now);
        waiting.extend(dials);
        for ready in over {
            drop(tokio::spawn(part(target.clone(), ready)));
        }
        while dialling.len() < AT_ONCE
            && let Some(Dial { endpoint, spec }) = waiting.pop_front()
        {
            let (target, max_age) = (target.clone(), pool.settings.max_age);
            dialling.spawn(async move { (endpoint, ahead(&target, &spec, max_age).await) });
        }
        tokio::select! {
            Some(dialled) = dialling.join_next() => {
                // An error: it panicked. What it was for is forgotten with the endpoint, or never.
                if let Ok((endpoint, came_to)) = dialled {
                    pool.dialled(endpoint, came_to);
                }
            }
            () = pool.asked.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Closes what is kept: nobody looks after it any more.
struct Emptied<'a>(&'a Pool);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        self.0.kept().shelves.clear();
    }
}

/// Goes the way of a connection, without a client.
async fn ahead(target: &Target, spec: &EndpointSpec, max_age: Duration) -> Result<Ready, Failure> {
    let begun = Instant::now();
    let deadline = begun + target.timeouts.establish;
    let manner = Manner { alone: false, ..Manner::of(target) };
    let mut reached = reach(target, manner, spec, deadline, &mut Trail::default(), None).await?;
    if let Some(Secured { carried, .. }) = &mut reached.secured {
        // Else the server would wait for the end of the handshake until a client comes.
        carried.flush(&mut reached.stream).await.map_err(|error| super::broken_at_the_end(&error))?;
    }
    let since = Instant::now();
    let age = max_age.mul_f64(1.0 - JITTER * fastrand::f64());
    Ok(Ready { reached, since, until: since + age, took: since - begun })
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
