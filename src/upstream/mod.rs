//! The endpoint set of an upstream: who is in it, who is healthy, whose circuit is open, and whose turn it is.
//!
//! Here is the shell that connections, discovery, health checks and the admin share: one lock held for a pick or a
//! settlement, one seeded generator, the queue, and the observer, who is told outside of the lock. The rules are in the
//! pure parts: [`set`] (who may be picked), [`endpoint`] (ready or not), [`breaker`], `outlier` (who does worse than the others),
//! [`operator`] (who was ordered what), [`balancer`].

pub mod balancer;
pub mod breaker;
pub mod endpoint;
pub mod ends;
pub mod freshness;
pub mod latency;
pub mod maglev;
pub mod operator;
mod outlier;
pub mod pool;
pub mod queue;
pub mod sessions;
pub mod set;
mod settings;
mod source;
pub mod unready;
pub mod view;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use breaker::State;
pub use endpoint::EndpointId;
pub use freshness::SourceView;
pub use operator::Order;
pub use queue::Place;
pub use sessions::{Session, Sessions, Whereabouts};
pub use settings::{Limits, Settings};
pub use unready::{Standing, WhenUnready};
pub use view::{EndpointView, UpstreamView};

use crate::addr::{EndpointAddr, UpstreamName};
use crate::backoff;
use crate::drain::Watch;
use crate::failure::{BreakerClass, Failure, Reason, Side, Stage};
use breaker::{Mode, Transition};
use freshness::Freshness;
use queue::Ask as _;
use set::{Attempt, EndpointSet, Event, Picked, Unpicked};

/// One endpoint as a source of the set describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// Where it is.
    pub address: EndpointAddr,
    /// Its share, 1 to 1000 (0: takes no new connections).
    pub weight: u32,
    /// Used only when nobody of a lower tier is ready, or when a connection has tried all that are. 0: the first.
    pub tier: u16,
    /// Where it stands, as its source calls the place.
    pub zone: Option<Arc<str>>,
    /// The zones whose clients it is for, where its source says that; then it does not matter where it stands.
    pub for_zones: Arc<[Arc<str>]>,
    /// SNI and the name its certificate must carry, where it differs from the upstream's.
    pub server_name: Option<String>,
}

impl EndpointSpec {
    /// A primary of weight 1 with nothing of its own.
    pub fn new(address: EndpointAddr) -> Self {
        EndpointSpec { address, weight: 1, tier: 0, zone: None, for_zones: Arc::default(), server_name: None }
    }

    /// Is it one of those that are for clients in this zone?
    pub fn is_for(&self, zone: &str) -> bool {
        match &*self.for_zones {
            [] => self.zone.as_deref() == Some(zone),
            zones => zones.iter().any(|of| **of == *zone),
        }
    }

    /// Does it wait for others to fail?
    pub fn is_backup(&self) -> bool {
        self.tier > 0
    }
}

/// Who wants to be told when something flips. Called outside of the upstream's lock, by whoever made it flip.
pub trait Observer: Send + Sync {
    /// An endpoint's circuit changed.
    fn breaker(&self, upstream: &str, endpoint: &str, to: State, why: &str);
    /// Its rules came to that, and something else is in force: shadow mode, or an operator's word.
    fn breaker_shadow(&self, _upstream: &str, _endpoint: &str, _to: State, _why: &str) {}
    /// Active checks flipped an endpoint.
    fn health(&self, upstream: &str, endpoint: &str, up: bool, why: &str);
    /// Connections are let through open circuits from now on, or no longer.
    fn panic(&self, upstream: &str, on: bool);
    /// The source of the set fails from now on, and why; `None`: it answers again.
    fn source(&self, upstream: &str, failing: Option<&str>);
}

/// One upstream, shared by all reactors.
pub struct Upstream {
    name: UpstreamName,
    queue: queue::Queue,
    core: Mutex<Core>,
    sessions: Arc<Sessions>,
    ends: ends::Ends,
    /// Counts them.
    updates: AtomicU64,
    observer: Arc<dyn Observer>,
    /// Its source has said something, be it that it fails: there is no use in waiting for its first word.
    heard: tokio::sync::watch::Sender<bool>,
}

/// What the lock guards.
struct Core {
    set: EndpointSet,
    budget: backoff::Budget,
    rng: fastrand::Rng,
    /// `None`: its set is not from a source that can fail.
    freshness: Option<Freshness>,
    watchers: unready::Watchers,
}

impl Upstream {
    /// An upstream whose endpoints are not known yet. Everything it draws follows from `seed`.
    pub fn new(
        name: impl Into<UpstreamName>,
        settings: Settings,
        retry: &backoff::Settings,
        seed: u64,
        observer: Arc<dyn Observer>,
    ) -> Arc<Upstream> {
        let queue = queue::Queue::new(settings.limits);
        let budget = backoff::Budget::new(retry.budget, Instant::now());
        let rng = fastrand::Rng::with_seed(seed);
        let set = EndpointSet::new(settings);
        let core = Core { set, budget, rng, freshness: None, watchers: unready::Watchers::default() };
        let core = Mutex::new(core);
        Arc::new(Upstream {
            name: name.into(),
            queue,
            core,
            sessions: Arc::default(),
            ends: ends::Ends::default(),
            updates: AtomicU64::new(0),
            observer,
            heard: tokio::sync::watch::Sender::new(false),
        })
    }

    /// Its name.
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// The sessions that can be cancelled.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Is it one of its endpoints, usable or not?
    pub fn has(&self, address: &EndpointAddr) -> bool {
        self.lock().set.members().any(|member| member.spec.address == *address)
    }

    /// The endpoint, if there is one only.
    pub fn only_endpoint(&self) -> Option<Whereabouts> {
        let core = self.lock();
        let mut members = core.set.members();
        let only = members.next()?;
        members.next().is_none().then(|| Whereabouts {
            spec: only.spec.clone(),
            label: only.label.clone(),
            address: None,
        })
    }

    /// Other settings from now on. Circuits, health, open connections and the places they hold stay as they are: a reload
    /// that changes a number is no reason to try dead endpoints anew, nor to let in as many connections again.
    pub fn reconfigure(&self, settings: Settings, retry: &backoff::Settings, now: Instant) {
        self.queue.set_limits(settings.limits);
        self.change(|core| {
            core.budget.set_share(retry.budget);
            core.set.reconfigure(settings, now);
        });
    }

    /// The members are these from now on. Those that stay keep their state, those that left finish their connections.
    pub fn update(&self, specs: Vec<EndpointSpec>, now: Instant) {
        let known: HashSet<_> = self.change(|core| {
            core.set.update(specs, now, &mut core.rng);
            core.set.endpoints.iter().map(|endpoint| endpoint.id).collect()
        });
        self.ends.forget(|endpoint| known.contains(&endpoint));
        // After it: who sees the number sees the members.
        self.updates.fetch_add(1, Ordering::Release);
        self.heard.send_replace(true);
    }

    /// Waits in the queue for a place, `limit` at most, and with it for the first word of a source that has not said any yet: it
    /// may come in a moment. The place is held until the connection has ended.
    pub async fn place(&self, limit: Duration) -> Result<Place, Failure> {
        let asked = Instant::now();
        let place = self.queue.place(limit, || self.awaited(Instant::now())).await?;
        if !*self.heard.borrow() {
            // Few connections come so early, and all have this future.
            let queued = asked.elapsed();
            Box::pin(self.first_word(queued, limit.saturating_sub(queued))).await;
        }
        Ok(place)
    }

    /// The endpoint for the next attempt of a connection that has tried `tried` before. When all that are ready were tried
    /// before, one of them is tried again: the pause is the caller's. When all that serve are at their limit, it waits in the
    /// queue, `limit` at most, and not longer than `queue_timeout` with the `queued` that it has waited already. Where nobody
    /// is ready and it is to wait for that, the `limit` alone bounds it.
    ///
    /// # Errors
    /// Nobody can be had, or not in time.
    pub async fn lease(
        self: &Arc<Self>,
        source: Option<u64>,
        tried: &[EndpointId],
        queued: Duration,
        limit: Duration,
    ) -> Result<Lease, Failure> {
        let asking = Asking { upstream: self, source, tried };
        let mut waited = Duration::ZERO;
        if !*self.heard.borrow() {
            // Its source became another one since it got its place.
            let asked = Instant::now();
            Box::pin(self.first_word(queued, limit)).await;
            waited = asked.elapsed();
        }
        match self.queue.nobody_before().then(|| asking.pick()) {
            Some(Ok(lease)) => Ok(lease),
            Some(Err(Unpicked::Nobody(failure))) => Err(failure),
            // Few connections wait, and all have this future.
            Some(Err(Unpicked::Full | Unpicked::NotYet(_))) | None => {
                Box::pin(self.queue.room(queued + waited, limit.saturating_sub(waited), &asking)).await
            }
        }
    }

    /// As [`Upstream::lease`] for a connection that doesn't wait.
    ///
    /// # Errors
    /// Nobody can be had at `now`.
    pub fn pick(
        self: &Arc<Self>,
        now: Instant,
        source: Option<u64>,
        tried: &[EndpointId],
    ) -> Result<Lease, Failure> {
        self.try_pick(now, source, tried).map_err(|unpicked| match unpicked {
            Unpicked::Nobody(failure) | Unpicked::NotYet(failure) => failure,
            Unpicked::Full => self.queue.none_may_wait(self.full(now)),
        })
    }

    fn try_pick(
        self: &Arc<Self>,
        now: Instant,
        source: Option<u64>,
        tried: &[EndpointId],
    ) -> Result<Lease, Unpicked> {
        let picked = self.ask(|core| {
            let picked = core.set.pick(now, source, tried, &mut core.rng);
            // Who has to wait asks again.
            if tried.is_empty() && !matches!(picked, Err(Unpicked::Full | Unpicked::NotYet(_))) {
                core.budget.deposit(now);
            }
            picked.map_err(|unpicked| match unpicked {
                Unpicked::Nobody(failure) => Unpicked::Nobody(core.with_what_the_source_says(failure)),
                unpicked @ (Unpicked::Full | Unpicked::NotYet(_)) => unpicked,
            })
        })?;
        Ok(self.leased(picked))
    }

    /// This endpoint and no other, for a connection whose client named it. It doesn't wait: it would hold up those behind it
    /// whom others could serve, nor does it go before those who do.
    ///
    /// # Errors
    /// The endpoint can't be had at `now`, or there is none of that address.
    pub fn lease_only(
        self: &Arc<Self>,
        now: Instant,
        address: &EndpointAddr,
        is_first: bool,
    ) -> Result<Lease, Failure> {
        let picked = match self.queue.nobody_before() {
            false => Err(Unpicked::Full),
            true => self.ask(|core| {
                if is_first {
                    core.budget.deposit(now);
                }
                core.set.pick_only(address, now).map_err(|unpicked| match unpicked {
                    Unpicked::Nobody(failure) if failure.side == Side::Upstream => {
                        Unpicked::Nobody(core.with_what_the_source_says(failure))
                    }
                    unpicked => unpicked,
                })
            }),
        };
        match picked {
            Ok(picked) => Ok(self.leased(picked)),
            Err(Unpicked::Nobody(failure) | Unpicked::NotYet(failure)) => Err(failure),
            Err(Unpicked::Full) => {
                // Those before it may wait for anybody at all.
                if let Some(failure) = self.awaited(now) {
                    return Err(failure);
                }
                let detail = format!(
                    "the client asks for the endpoint {address}, which is at its limit (limits.connections_per_endpoint)"
                );
                Err(Failure::new(Stage::Queue, Reason::ConnectionLimitReached, Side::Ambassador, detail)
                    .mend("let the client ask for no endpoint, raise limits.connections_per_endpoint, or find out who holds the connections"))
            }
        }
    }

    fn leased(self: &Arc<Self>, Picked { attempt, spec, label }: Picked) -> Lease {
        let (id, trial) = (attempt.endpoint(), attempt.is_trial());
        Lease { upstream: self.clone(), spec, label, id, trial, attempt: Some(attempt) }
    }

    /// May a failed connection have another attempt? `true` spends one of the retry budget.
    pub fn retry_allowed(&self) -> bool {
        self.ask(|core| core.budget.withdraw(Instant::now()))
    }

    /// An active check of an endpoint came back: how long it took, or why it failed.
    pub fn check_result(
        &self,
        id: EndpointId,
        now: Instant,
        result: Result<Duration, (BreakerClass, String)>,
    ) {
        self.change(|core| core.set.check_result(id, now, result.map(|_took| ())));
    }

    /// Active checks end, or others begin: what the earlier ones said counts no more. Otherwise an endpoint that they held
    /// down would be so for ever.
    pub fn forget_health(&self) {
        self.change(|core| core.set.forget_health());
    }

    /// Carries an operator's order out; `false`: there is no endpoint of that name.
    pub fn operate(&self, endpoint: &str, order: Order, now: Instant) -> bool {
        self.change(|core| core.set.operate(endpoint, order, now)) > 0
    }

    /// The members, for health checks.
    pub fn endpoints(&self) -> Vec<(EndpointId, Arc<EndpointSpec>)> {
        let core = self.lock();
        core.set.members().map(|endpoint| (endpoint.id, endpoint.spec.clone())).collect()
    }

    /// Another number than before: the members may be others.
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Acquire)
    }

    /// What is known of it at `now`.
    pub fn view(&self, now: Instant) -> UpstreamView {
        let (endpoints, panicking, source) = self.ask(|core| {
            let source = core.freshness.as_ref().map(|freshness| freshness.view(now));
            (core.set.view(now), core.set.panicking(), source)
        });
        UpstreamView {
            name: self.name.clone(),
            endpoints,
            waiting: self.queue.waiting(),
            panicking,
            source,
            pool: None,
        }
    }

    /// Changes the core in a way that may make room for who waits.
    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let result = self.ask(change);
        self.queue.look_again();
        result
    }

    /// Uses the core under its lock, then tells the observer what came of it.
    fn ask<T>(&self, ask: impl FnOnce(&mut Core) -> T) -> T {
        let (result, events, watchers) = {
            let mut core = self.lock();
            (ask(&mut core), core.set.take_events(), core.standing_changed())
        };
        watchers.iter().for_each(|watcher| watcher.notify_one());
        for event in events {
            match event {
                Event::Breaker(endpoint, Transition { to, why, mode }) => match mode {
                    Mode::Enforced => self.observer.breaker(&self.name, &endpoint, to, &why),
                    Mode::Shadow => self.observer.breaker_shadow(&self.name, &endpoint, to, &why),
                },
                Event::Health { endpoint, up, why } => self.observer.health(&self.name, &endpoint, up, &why),
                Event::Panic(on) => self.observer.panic(&self.name, on),
                Event::Ends(endpoint, ending) => self.ends.end(endpoint, ending),
            }
        }
        result
    }

    /// See [`EndpointSet`]: it may be a panic that begins or ends with this look.
    fn full(&self, now: Instant) -> (usize, u32) {
        self.ask(|core| core.set.full(now))
    }

    /// A panic elsewhere while it was held costs that connection, not the upstream.
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the queue asks on behalf of a connection.
struct Asking<'a> {
    upstream: &'a Arc<Upstream>,
    source: Option<u64>,
    tried: &'a [EndpointId],
}

impl queue::Ask for Asking<'_> {
    type Picked = Lease;

    fn pick(&self) -> Result<Lease, Unpicked> {
        self.upstream.try_pick(Instant::now(), self.source, self.tried)
    }

    fn full(&self) -> (usize, u32) {
        self.upstream.full(Instant::now())
    }

    fn awaited(&self) -> Option<Failure> {
        self.upstream.awaited(Instant::now())
    }

    fn changes_in(&self, since: Instant) -> Option<Duration> {
        let at = self.upstream.lock().set.changes_at(since)?;
        Some(at.saturating_duration_since(Instant::now()))
    }
}

/// A connection's hold on an endpoint. It settles twice: once established or failed, once ended. Dropped without, it says
/// nothing about the endpoint: so is a connection to be dropped whose client left before the server could show itself.
pub struct Lease {
    upstream: Arc<Upstream>,
    spec: Arc<EndpointSpec>,
    label: Arc<str>,
    id: EndpointId,
    trial: bool,
    /// `None` once it is settled.
    attempt: Option<Attempt>,
}

impl Lease {
    /// Where to go.
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// The endpoint's name in records and metrics.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The endpoint as a session of it is remembered, that is at this address.
    pub fn whereabouts(&self, address: Option<SocketAddr>) -> Whereabouts {
        Whereabouts { spec: self.spec.clone(), label: self.label.clone(), address }
    }

    /// When the connection has to end: with its endpoint, or with the process.
    pub fn ends(&self, process: &Watch) -> Watch {
        self.upstream.ends.watch(self.id, process)
    }

    /// The endpoint, for `tried`.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Does it try a half-open circuit?
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// It is connected, through TLS where there is TLS; `took` is what this attempt took.
    pub fn established(&mut self, now: Instant, took: Duration) {
        if let Some(attempt) = &mut self.attempt {
            self.upstream.change(|core| core.set.established(attempt, now, took));
        }
    }

    /// Its client awaits its first answer: until that comes, living on says nothing.
    pub fn asks(&mut self, now: Instant) {
        if let Some(attempt) = &self.attempt {
            self.upstream.change(|core| core.set.asks(attempt, now));
        }
    }

    /// The server said its first words, and in time.
    pub fn answers(&mut self, now: Instant) {
        if let Some(attempt) = &self.attempt {
            self.upstream.change(|core| core.set.answers(attempt, now));
        }
    }

    /// It goes on, and has failed all the same: its end says nothing more.
    pub fn failed_meanwhile(&mut self, now: Instant, class: BreakerClass) {
        if let Some(attempt) = &mut self.attempt {
            self.upstream.change(|core| core.set.failed_meanwhile(attempt, now, class, &mut core.rng));
        }
    }

    /// It could not be established.
    pub fn failed(self, now: Instant, class: BreakerClass) {
        self.failed_with(now, class, breaker::in_words(class));
    }

    /// It could not be established, and this was seen: the admin shows it.
    pub fn failed_with(mut self, now: Instant, class: BreakerClass, detail: &str) {
        self.settle_failed(now, class, detail);
    }

    /// It was established and has ended: well, or in a way that counts against the endpoint.
    pub fn ended(mut self, now: Instant, class: Option<BreakerClass>) {
        match class {
            Some(class) => self.settle_failed(now, class, breaker::in_words(class)),
            None => {
                if let Some(attempt) = self.attempt.take() {
                    self.upstream.change(|core| core.set.ended_well(attempt, now));
                }
            }
        }
    }

    fn settle_failed(&mut self, now: Instant, class: BreakerClass, detail: &str) {
        if let Some(attempt) = self.attempt.take() {
            self.upstream.change(|core| core.set.failed(attempt, now, class, detail, &mut core.rng));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.upstream.change(|core| core.set.released(attempt));
        }
    }
}

#[cfg(test)]
mod tests;
