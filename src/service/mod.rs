//! The service: puts the parts together, reloads them, tells how they are, and ends them in order.
//!
//! Owns the life of the process. Leaves building and comparing configurations to `plan` (and `load`), what comes of them to
//! `compose`, threads to `reactors`, signals and systemd to `signals`, and every connection to `connection`.

mod compose;
mod listening;
mod load;
mod plan;
mod reactors;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::Semaphore;

use self::compose::{Door, Parts};
use self::plan::{Known, Plan};
use self::reactors::Reactors;
use crate::addr::{ClientAddr, ListenerName};
use crate::admin::Undivided;
use crate::config::{self, Config};
use crate::discovery::Resolver;
use crate::drain::{Drain, Watch};
use crate::establish::OwnListeners;
use crate::metrics::{Metrics, UserView};
use crate::record::{ConnectionId, ConnectionView, Journal};
use crate::rollout::RolloutView;
use crate::upstream::breaker::Mode;
use crate::upstream::{EndpointView, Observer, Order, State, UpstreamView};
use crate::{accept, admin, relay, socket};

pub(crate) use self::load::{load_everything, lone_target, warnings};
pub use self::signals::{Signals, serve_until_stopped};

/// The running ambassador.
pub struct Service {
    file: Option<PathBuf>,
    foundation: Arc<Foundation>,
    /// Never held for long: a reload that hangs while it reads must not keep the service from being asked, or from ending.
    state: RwLock<Current>,
    drain: Drain,
    admin: OnceLock<admin::Admin>,
    since: (Instant, SystemTime),
}

/// What all configurations of a process share.
struct Foundation {
    reactors: Reactors,
    permits: Arc<Semaphore>,
    capacity: u32,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    resolver: Resolver,
    /// What no upstream's connections may lead to.
    own: Arc<OwnListeners>,
    watch: Watch,
    observer: Arc<dyn Observer>,
    self_made: Arc<load::SelfMadeOnes>,
}

/// What a reload replaces.
struct Current {
    config: Config,
    parts: Parts,
    reloads: u64,
    last_problem: Option<String>,
}

impl Service {
    /// Starts everything that the configuration names, on the current runtime and as many reactors as it says.
    ///
    /// # Errors
    /// Every problem that kept it from starting; nothing is left running then.
    pub async fn start(config: Config, file: Option<PathBuf>) -> Result<Arc<Service>, Vec<String>> {
        let capacity = capacity(&config);
        relay::pool::set_budget(config.runtime.memory);
        let metrics = Metrics::new();
        let journal = Journal::new(config.log.format, metrics.clone());
        let (drain, watch) = Drain::new();
        let foundation = Arc::new(Foundation {
            reactors: Reactors::start(threads(&config))
                .map_err(|error| vec![format!("reactors: {error}")])?,
            permits: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            journal,
            resolver: Resolver::new(&config.dns).map_err(|problem| vec![format!("dns: {problem}")])?,
            own: Arc::default(),
            watch: watch.clone(),
            observer: Arc::new(Events { metrics: metrics.clone() }),
            metrics,
            self_made: Arc::default(),
        });
        let nothing = Parts::default();
        let plan = Plan::build(&config, &Known::of(&nothing, &foundation)).bind(&nothing);
        let settings = config.admin.clone();
        let service = Arc::new(Service {
            file,
            foundation,
            state: RwLock::new(Current { config, parts: nothing, reloads: 0, last_problem: None }),
            drain,
            admin: OnceLock::new(),
            since: (Instant::now(), SystemTime::now()),
        });
        // Bound before anything is in effect, since it may be refused too; it answers once this function yields.
        let admin = admin::serve(&settings, service.clone(), watch);
        let (plan, admin) = match (plan, admin) {
            (Ok(plan), Ok(admin)) => (plan, admin),
            (plan, admin) => return Err(plan.err().into_iter().flatten().chain(admin.err()).collect()),
        };
        plan.install(&mut service.change().parts, &service.foundation);
        service.tell_certificates();
        for name in accept::unused_systemd_sockets() {
            tracing::warn!(
                "systemd passed a socket '{name}' that no listener uses: clients of it would wait forever; \
                 write address = \"systemd:{name}\" in a listener or in [admin], or remove the .socket unit"
            );
        }
        service.foundation.metrics.reload(true);
        for address in admin.addresses() {
            tracing::info!(%address, "admin");
        }
        service.admin.get_or_init(|| admin);
        Ok(service)
    }

    /// Reads the file again and puts it into effect whole, or changes nothing. One at a time. Dropped, it is given up, also
    /// where a file that hangs is read for ever.
    ///
    /// # Errors
    /// Every problem of the new file.
    pub async fn reload(&self) -> Result<(), Vec<String>> {
        let Some(file) = self.file.clone() else {
            return Err(vec!["started without a file: nothing to reload".into()]);
        };
        // Files on a network, users in a directory: neither may hold up the connections of this reactor. Nor may that thread
        // hold what has to be dropped at the end.
        let known = Known::of(&self.current().parts, &self.foundation);
        let built = tokio::task::spawn_blocking(move || build(&file, &known)).await;
        let built = built.unwrap_or_else(|panicked| Err(vec![format!("reading it failed: {panicked}")]));
        let result = built.and_then(|(config, plan)| {
            let mut current = self.change();
            for key in needs_restart(&current.config, &config) {
                tracing::warn!("{key} changed: it takes effect at the next start");
            }
            plan.bind(&current.parts)?.install(&mut current.parts, &self.foundation);
            current.config = config;
            Ok(())
        });
        self.foundation.metrics.reload(result.is_ok());
        let mut current = self.change();
        match &result {
            Ok(()) => {
                current.reloads += 1;
                current.last_problem = None;
                drop(current);
                self.tell_certificates();
            }
            Err(problems) => current.last_problem = Some(problems.join("\n")),
        }
        result
    }

    /// Stops accepting, lets connections finish up to `drain_timeout` (or until `now` resolves), then ends them.
    /// Returns how many had to be ended.
    pub async fn drain(&self, now: impl Future<Output = ()>) -> usize {
        let (closed, timeout, jitter) = {
            let mut current = self.change();
            let closed = current.parts.close_doors();
            (closed, current.config.drain_timeout, current.config.drain_jitter)
        };
        self.drain.start_for(timeout, jitter.as_secs_f64() / timeout.as_secs_f64().max(0.001));
        // Before anybody waits for all permits, which would leave none for them.
        closed.await;
        tokio::select! {
            () = self.all_ended() => {}
            () = tokio::time::sleep(timeout) => {}
            () = now => {}
        }
        let left = self.foundation.journal.open_count();
        self.drain.end_now();
        // Time to deliver what is in hand and to write the records; a peer that takes nothing gets no more than this.
        tokio::time::timeout(Duration::from_secs(2), self.all_ended()).await.ok();
        left
    }

    /// Where the listeners and the admin answer: what port 0 became.
    pub fn listening(&self) -> Vec<(String, Vec<crate::addr::ListenAddr>)> {
        let current = self.current();
        let doors = current.parts.doors.iter();
        doors.map(|(name, door)| (name.to_string(), door.addresses())).collect()
    }

    /// Where the admin answers.
    pub fn admin_addresses(&self) -> &[crate::addr::ListenAddr] {
        self.admin.get().map(admin::Admin::addresses).unwrap_or_default()
    }

    /// All records: to look into, and to wait for at the end.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.foundation.journal
    }

    async fn all_ended(&self) {
        // All permits are back when no connection holds one. The semaphore is never closed.
        self.foundation.permits.acquire_many(self.foundation.capacity).await.ok();
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Current> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_certificates(&self) {
        let current = self.current();
        let facts = current.parts.identities.iter().flat_map(|(name, identity)| {
            identity.facts().iter().map(|fact| (name.as_str(), fact.subject.as_str(), fact.not_after.into()))
        });
        self.foundation.metrics.certificates(facts);
    }
}

impl admin::Face for Service {
    fn ready(&self) -> Result<(), Vec<String>> {
        let current = self.current();
        let mut reasons = Vec::new();
        let now = Instant::now();
        for (name, running) in &current.parts.upstreams {
            if running.required() && !running.target.upstream.standing(now).is_usable() {
                reasons.push(format!("upstream '{name}' has no usable endpoint"));
            }
        }
        for (name, door) in &current.parts.doors {
            if let Some(problem) = door.sockets().problem() {
                reasons.push(format!("listener '{name}': {problem}"));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn token(&self) -> Option<Arc<admin::Token>> {
        self.current().parts.token.clone()
    }

    fn listeners(&self) -> Vec<serde_json::Value> {
        let listener = |(name, door): (&ListenerName, &Door)| {
            let made = door.tls.as_ref().and_then(|tls| tls.self_made()).map(|made| made.fingerprint());
            let mut view = json!({
                "name": name, "addresses": door.addresses(), "tls": door.tls.is_some(), "self_made_sha256": made
            });
            door.sockets().tell(&mut view);
            if let Some(split) = door.split() {
                view["rollout"] = json!(split.view(Instant::now()));
            }
            view
        };
        self.current().parts.doors.iter().map(listener).collect()
    }

    fn status(&self) -> serde_json::Value {
        let listeners = self.listeners();
        let current = self.current();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.since.0.elapsed().as_secs(),
            "file": self.file,
            "reloads": current.reloads,
            "last_reload_problem": current.last_problem,
            "draining": self.foundation.watch.is_draining(),
            "reactors": self.foundation.reactors.count(),
            "connections_open": self.foundation.journal.open_count(),
            "connections_limit": self.foundation.capacity,
            "listeners": listeners,
            "admin": self.admin_addresses(),
        })
    }

    fn upstreams(&self) -> Vec<UpstreamView> {
        let now = Instant::now();
        self.current().parts.upstreams.values().map(|running| running.target.view(now)).collect()
    }

    fn operate(&self, upstream: &str, endpoint: &str, order: Order) -> Result<Vec<EndpointView>, String> {
        let current = self.current();
        let there_are = |names: Vec<&str>| format!("there are: {}", names.join(", "));
        let Some(running) = current.parts.upstreams.get(upstream) else {
            let names = current.parts.upstreams.keys().map(|name| &**name).collect();
            return Err(format!("no upstream has that name; {}", there_are(names)));
        };
        let now = Instant::now();
        let known = running.target.upstream.operate(endpoint, order, now);
        let mut endpoints = running.target.upstream.view(now).endpoints;
        if !known {
            let names = endpoints.iter().map(|endpoint| &*endpoint.address).collect();
            return Err(format!("that upstream has no such endpoint; {}", there_are(names)));
        }
        tracing::warn!(upstream, endpoint, order = order.label(), "an operator's order");
        endpoints.retain(|view| *view.address == *endpoint);
        Ok(endpoints)
    }

    fn divide(&self, listener: &str, wanted: Option<&[(String, u32)]>) -> Result<RolloutView, Undivided> {
        let current = self.current();
        let splits: Vec<_> = current.parts.doors.values().filter_map(Door::split).collect();
        let Some(split) = splits.iter().find(|split| **split.listener() == *listener) else {
            let names: Vec<_> = splits.iter().map(|split| &**split.listener()).collect();
            let words = format!("no listener of that name has a `split`; there are: {}", names.join(", "));
            return Err(Undivided::Unknown(words));
        };
        let now = Instant::now();
        split.set(wanted, now).map_err(Undivided::Impossible)?;
        Ok(split.view(now))
    }

    fn metrics(&self) -> String {
        let now = Instant::now();
        let splits: Vec<_> = self.current().parts.doors.values().filter_map(Door::split).collect();
        let splits =
            splits.iter().map(|split| (split.listener().clone(), split.view(now))).collect::<Vec<_>>();
        self.foundation.metrics.encode(&self.upstreams(), &splits)
    }

    fn users(&self) -> Vec<UserView> {
        self.foundation.metrics.users()
    }

    fn connections(&self) -> Vec<ConnectionView> {
        self.foundation.journal.live()
    }

    fn connection(&self, id: ConnectionId) -> Option<ConnectionView> {
        self.foundation.journal.find(id)
    }

    fn connection_of(&self, client: &ClientAddr) -> Option<ConnectionView> {
        self.foundation.journal.find_by_client(client)
    }
}

/// Tells log and metrics what happens to endpoints.
struct Events {
    metrics: Arc<Metrics>,
}

impl Observer for Events {
    fn breaker(&self, upstream: &str, endpoint: &str, to: State, why: &str) {
        self.metrics.breaker_transition(upstream, endpoint, to.label(), Mode::Enforced.label());
        match to {
            State::Open => tracing::warn!(upstream, endpoint, why, "circuit opened"),
            State::HalfOpen => tracing::info!(upstream, endpoint, why, "circuit half-open"),
            State::Closed => tracing::info!(upstream, endpoint, why, "circuit closed"),
        }
    }

    fn breaker_shadow(&self, upstream: &str, endpoint: &str, to: State, why: &str) {
        self.metrics.breaker_transition(upstream, endpoint, to.label(), Mode::Shadow.label());
        match to {
            State::Open => tracing::warn!(upstream, endpoint, why, "circuit would open (not enforced)"),
            State::HalfOpen => {
                tracing::info!(upstream, endpoint, why, "circuit would be half-open (not enforced)")
            }
            State::Closed => tracing::info!(upstream, endpoint, why, "circuit would close (not enforced)"),
        }
    }

    fn health(&self, upstream: &str, endpoint: &str, up: bool, why: &str) {
        match up {
            true => tracing::info!(upstream, endpoint, "endpoint is up"),
            false => tracing::warn!(upstream, endpoint, why, "endpoint is down"),
        }
    }

    fn panic(&self, upstream: &str, on: bool) {
        match on {
            true => tracing::warn!(
                upstream,
                "too many circuits are open (breaker.max_ejected): open ones are let through until some close"
            ),
            false => tracing::info!(upstream, "circuits are respected again"),
        }
    }

    fn source(&self, upstream: &str, failing: Option<&str>) {
        match failing {
            Some(why) => {
                tracing::warn!(upstream, why, "the source of the endpoints fails; the last set is kept")
            }
            None => tracing::info!(upstream, "the source of the endpoints answers again"),
        }
    }
}

/// Connections that the descriptor limit allows: two descriptors each. 128 are kept for files, DNS, checks and the admin;
/// under a limit that is tighter than that, half: whom there is no descriptor for should wait, not be refused.
fn capacity(config: &Config) -> u32 {
    let limit = socket::raise_descriptor_limit();
    let kept = (limit / 2).min(128);
    let fits = u32::try_from((limit - kept) / 2).unwrap_or(u32::MAX).clamp(1, 1 << 28);
    match config.runtime.connections {
        Some(wanted) if wanted > fits => {
            tracing::warn!(
                "runtime.connections = {wanted}, but {limit} descriptors allow {fits}: raise LimitNOFILE= or ulimit -n"
            );
            fits
        }
        Some(wanted) => wanted,
        None => fits,
    }
}

/// Reactors: what the file says, else one a core, at most four: more only help an ambassador that is no sidecar.
fn threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.runtime.threads.unwrap_or(cores.min(4))
}

fn build(file: &Path, known: &Known) -> Result<(Config, Plan), Vec<String>> {
    let loaded = config::load(file).map_err(|problems| vec![problems.to_string()])?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let plan = Plan::build(&loaded.config, known);
    Ok((loaded.config, plan))
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.admin.addresses != new.admin.addresses {
        keys.push("admin.address");
    }
    if old.runtime != new.runtime {
        keys.push("[runtime]");
    }
    if old.log != new.log {
        keys.push("[log]");
    }
    if old.dns != new.dns {
        keys.push("[dns]");
    }
    keys
}
