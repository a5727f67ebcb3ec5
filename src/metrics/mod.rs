//! metrics: what is counted, under the names that dashboards hold on to.
//!
//! Owns the counters, histograms and percentiles, and their exposition. Leaves it to `record` to say what a connection
//! came to, to the upstreams' views how endpoints are now, and to `admin` to answer the scraper. A client's address is
//! never a label. What is added to on the way of a connection is looked up once and is an atomic after that.

mod histogram;
mod labels;
mod percentiles;
mod process;
mod series;
#[cfg(test)]
mod tests;
mod text;
mod upstream;
mod users;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text as encoding;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use self::histogram::{CONNECTION_BOUNDS, Histogram, STAGE_BOUNDS};
use self::labels::{
    OfAttempt, OfBuild, OfCertificate, OfCheck, OfConnection, OfEndpoint, OfListener, OfPool, OfReload,
    OfSplit, OfStage, OfTransition, OfUpstream,
};
use self::process::Process;
use crate::addr::{ListenerName, UpstreamName};
use crate::rollout::{Phase, RolloutView, Share};
use crate::socket::users::name_of;
use crate::upstream::UpstreamView;

pub use self::percentiles::Quantiles;
pub use self::series::{End, Open, Series};
pub use self::text::{OPENMETRICS, PLAIN, plain, wants_openmetrics};
pub use self::upstream::{Percentiles, Timed, UpstreamSeries};
pub use self::users::{UserSeries, UserView};

/// Everything that is counted in this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    series: Arc<series::Table>,
    users: Arc<users::Table>,
    upstreams: Mutex<HashMap<UpstreamName, Arc<UpstreamSeries>>>,
    durations: Family<OfConnection, Histogram, fn() -> Histogram>,
    stages: Family<OfStage, Histogram, fn() -> Histogram>,
    exchanges: Family<OfUpstream, Histogram, fn() -> Histogram>,
    transitions: Family<OfTransition, Counter>,
    attempts: Family<OfAttempt, Counter>,
    exhausted: Family<OfUpstream, Counter>,
    checks: Family<OfCheck, Counter>,
    listeners: Family<OfListener, Gauge>,
    certificates: Family<OfCertificate, Gauge>,
    reloads: Family<OfReload, Counter>,
    last_reload: Gauge<f64, std::sync::atomic::AtomicU64>,
    lost_records: Counter,
    live: OnceLock<Weak<dyn Live>>,
    settled: Mutex<Option<Instant>>,
}

/// Something that holds connections still open, and can bring the counters up to date before a scrape.
pub trait Live: Send + Sync + std::fmt::Debug {
    /// Adds what open connections have moved since last time.
    fn settle(&self);
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Metrics> {
        let series = Arc::new(series::Table::default());
        let of_stages: fn() -> Histogram = || Histogram::new(STAGE_BOUNDS);
        let of_connections: fn() -> Histogram = || Histogram::new(CONNECTION_BOUNDS);
        let mut metrics = Metrics {
            registry: Registry::default(),
            series,
            users: Arc::new(users::Table::new(name_of)),
            upstreams: Mutex::default(),
            durations: Family::new_with_constructor(of_connections),
            stages: Family::new_with_constructor(of_stages),
            exchanges: Family::new_with_constructor(of_stages),
            transitions: Family::default(),
            attempts: Family::default(),
            exhausted: Family::default(),
            checks: Family::default(),
            listeners: Family::default(),
            certificates: Family::default(),
            reloads: Family::default(),
            last_reload: Gauge::default(),
            lost_records: Counter::default(),
            live: OnceLock::new(),
            settled: Mutex::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        to.register_collector(Box::new(series::Collected(self.series.clone())));
        to.register_collector(Box::new(users::Collected(self.users.clone())));
        to.register(
            "nuncio_connection_duration_seconds",
            "From accept to the end of the connection",
            self.durations.clone(),
        );
        to.register(
            "nuncio_stage_duration_seconds",
            "How long each step of a connection took",
            self.stages.clone(),
        );
        to.register(
            "nuncio_exchange_duration_seconds",
            "From the last client byte of a turn to the first answering byte",
            self.exchanges.clone(),
        );
        to.register(
            "nuncio_breaker_transitions",
            "Circuits that opened, closed or went half-open; shadow: detected, and not enforced",
            self.transitions.clone(),
        );
        to.register(
            "nuncio_attempts",
            "Attempts to establish a connection, by result",
            self.attempts.clone(),
        );
        to.register(
            "nuncio_retry_budget_exhausted",
            "Connections that were not tried at another endpoint because the retry budget was spent",
            self.exhausted.clone(),
        );
        to.register("nuncio_health_checks", "Active health checks, by result", self.checks.clone());
        to.register(
            "nuncio_listener_up",
            "Whether the listener's sockets are open: with when_unready = \"unlisten\" they come and go",
            self.listeners.clone(),
        );
        to.register(
            "nuncio_certificate_expiry_timestamp_seconds",
            "When a certificate of an identity expires",
            self.certificates.clone(),
        );
        to.register("nuncio_config_reloads", "Loads of the configuration, by result", self.reloads.clone());
        to.register(
            "nuncio_config_last_success_timestamp_seconds",
            "When the configuration was last loaded",
            self.last_reload.clone(),
        );
        to.register(
            "nuncio_records_lost",
            "Records that were not printed because nobody read the output",
            self.lost_records.clone(),
        );
        let version = Family::<OfBuild, ConstGauge>::new_with_constructor(|| ConstGauge::new(1));
        drop(version.get_or_create(&OfBuild { version: env!("CARGO_PKG_VERSION") }));
        to.register("nuncio_build_info", "The version of nuncio", version);
    }

    /// The counters of a (listener, upstream, endpoint). To be looked up once a connection, and held.
    pub fn series(
        &self,
        listener: &ListenerName,
        upstream: Option<&UpstreamName>,
        endpoint: Option<&Arc<str>>,
    ) -> Arc<Series> {
        let key = (
            listener.clone(),
            upstream.cloned().unwrap_or_else(nothing),
            endpoint.cloned().unwrap_or_else(nothing),
        );
        self.series.get(key, |(listener, named, _)| {
            let labels = OfConnection { listener: listener.clone(), upstream: named.clone() };
            (self.durations.get_or_create_owned(&labels), upstream.map(|name| self.upstream(name)))
        })
    }

    /// The counters of a local user at an upstream; the user is none that could not be told. To be looked up once a connection,
    /// and held.
    pub fn user(&self, uid: Option<u32>, upstream: Option<&UpstreamName>) -> Arc<UserSeries> {
        self.users.get(uid, upstream.cloned().unwrap_or_else(nothing))
    }

    /// What each local user did, where users are metered; open connections included.
    pub fn users(&self) -> Vec<UserView> {
        self.settle();
        self.users.views()
    }

    /// The counters of an upstream.
    pub fn upstream(&self, name: &UpstreamName) -> Arc<UpstreamSeries> {
        let make = || {
            let stage =
                |(_, stage)| self.stages.get_or_create_owned(&OfStage { upstream: name.clone(), stage });
            let of_upstream = OfUpstream { upstream: name.clone() };
            // Shown as zero from the start: a counter that appears with its first event hides that event from rate().
            drop(self.exhausted.get_or_create(&of_upstream));
            let exchanges = self.exchanges.get_or_create_owned(&of_upstream);
            Arc::new(UpstreamSeries::new(Timed::ALL.map(stage), exchanges))
        };
        held(&self.upstreams).entry(name.clone()).or_insert_with(make).clone()
    }

    /// How long things took at an upstream in the last minute or two, open connections included.
    pub fn percentiles(&self, upstream: &UpstreamName) -> Percentiles {
        let now = Instant::now();
        // Asked for each of many upstreams in a row, as the API does, one look at all connections is enough.
        let fresh = |at: Instant| now.saturating_duration_since(at) < Duration::from_millis(100);
        if !held(&self.settled).is_some_and(fresh) {
            self.settle();
        }
        let series = held(&self.upstreams).get(upstream).cloned();
        series.map(|series| series.percentiles(now)).unwrap_or_default()
    }

    /// One attempt to establish a connection.
    pub fn attempt(&self, upstream: &UpstreamName, result: &'static str) {
        self.attempts.get_or_create(&OfAttempt { upstream: upstream.clone(), result }).inc();
    }

    /// Whether a listener's sockets are open.
    pub fn listening(&self, listener: &ListenerName, is_open: bool) {
        self.listeners.get_or_create(&OfListener { listener: listener.clone() }).set(i64::from(is_open));
    }

    /// There is no such listener any more.
    pub fn no_listener(&self, listener: &ListenerName) {
        self.listeners.remove(&OfListener { listener: listener.clone() });
    }

    /// Another endpoint was not tried, because the budget was spent.
    pub fn budget_exhausted(&self, upstream: &UpstreamName) {
        self.exhausted.get_or_create(&OfUpstream { upstream: upstream.clone() }).inc();
    }

    /// One active health check.
    pub fn health_check(&self, upstream: &str, endpoint: &str, passed: bool) {
        let result = CHECK_RESULTS[usize::from(passed)];
        let labels = OfCheck { upstream: upstream.into(), endpoint: endpoint.into(), result };
        self.checks.get_or_create(&labels).inc();
    }

    /// A circuit changed: `to` is `closed`, `half-open` or `open`; `mode` whether it came into force.
    pub fn breaker_transition(&self, upstream: &str, endpoint: &str, to: &str, mode: &'static str) {
        // Out of the closed set of names, so that the label needs no copy.
        let Some(to) = BREAKER_STATES.into_iter().find(|state| *state == to) else { return };
        let labels = OfTransition { upstream: upstream.into(), endpoint: endpoint.into(), to, mode };
        self.transitions.get_or_create(&labels).inc();
    }

    /// The configuration was loaded, or could not be.
    pub fn reload(&self, ok: bool) {
        let result = if ok { "success" } else { "failure" };
        self.reloads.get_or_create(&OfReload { result }).inc();
        if ok {
            self.last_reload.set(unix_seconds(SystemTime::now()));
        }
    }

    /// The certificates in use: (identity, subject, not after). Replaces those of before.
    pub fn certificates<'a>(&self, all: impl IntoIterator<Item = (&'a str, &'a str, SystemTime)>) {
        self.certificates.clear();
        for (identity, subject, expires) in all {
            let labels = OfCertificate { identity: identity.into(), subject: subject.into() };
            self.certificates.get_or_create(&labels).set(unix_seconds(expires) as i64);
        }
    }

    /// Records that could not be printed.
    pub fn records_lost(&self, count: u64) {
        self.lost_records.inc_by(count);
    }

    /// Who brings the counters up to date before each scrape. Only the first is taken.
    pub fn before_scrape(&self, live: Weak<dyn Live>) {
        // Set once, by the journal that was made with these metrics.
        drop(self.live.set(live));
    }

    fn settle(&self) {
        *held(&self.settled) = Some(Instant::now());
        if let Some(live) = self.live.get().and_then(Weak::upgrade) {
            live.settle();
        }
    }

    /// The exposition in OpenMetrics text. [`plain`] turns it to the older format.
    pub fn encode(&self, upstreams: &[UpstreamView], splits: &[(ListenerName, RolloutView)]) -> String {
        self.settle();
        self.forget(upstreams, Instant::now());
        let momentary = momentary(upstreams, splits, &Process::look());
        let mut out = String::with_capacity(16 * 1024);
        let written = encoding::encode_registry(&mut out, &self.registry)
            .and_then(|()| encoding::encode_registry(&mut out, &momentary))
            .and_then(|()| encoding::encode_eof(&mut out));
        // Writing to a String fails only if an encoder of ours says so, and none does.
        debug_assert!(written.is_ok());
        out
    }

    fn forget(&self, upstreams: &[UpstreamView], now: Instant) {
        for (upstream, endpoint) in self.series.forget(upstreams, now) {
            for result in CHECK_RESULTS {
                let labels = OfCheck { upstream: upstream.clone(), endpoint: endpoint.clone(), result };
                self.checks.remove(&labels);
            }
            for (to, mode) in BREAKER_STATES.into_iter().flat_map(|to| BREAKER_MODES.map(|mode| (to, mode))) {
                let (upstream, endpoint) = (upstream.clone(), endpoint.clone());
                self.transitions.remove(&OfTransition { upstream, endpoint, to, mode });
            }
        }
    }
}

/// The name of what a connection has not got.
fn nothing() -> Arc<str> {
    static NOTHING: OnceLock<Arc<str>> = OnceLock::new();
    NOTHING.get_or_init(|| "".into()).clone()
}

/// In the order of the gauge's values.
const BREAKER_STATES: [&str; 3] = ["closed", "half-open", "open"];
const BREAKER_MODES: [&str; 2] = ["enforced", "shadow"];
const CHECK_RESULTS: [&str; 2] = ["failure", "success"];

/// What is true at the moment of the scrape only: made anew each time, so that nothing of an endpoint stays that left.
fn momentary(
    upstreams: &[UpstreamView],
    splits: &[(ListenerName, RolloutView)],
    process: &Process,
) -> Registry {
    let mut registry = Registry::default();
    let up = Family::<OfEndpoint, Gauge>::default();
    let breaker = Family::<OfEndpoint, Gauge>::default();
    let warm = Family::<OfPool, Gauge>::default();
    let asked = Family::<OfAttempt, Counter>::default();
    let (age, failing) = (Family::<OfUpstream, Gauge>::default(), Family::<OfUpstream, Gauge>::default());
    for view in upstreams {
        if let Some(source) = &view.source {
            let labels = OfUpstream { upstream: view.name.clone() };
            if let Some(ms) = source.age_ms {
                age.get_or_create(&labels).set((ms / 1000) as i64);
            }
            failing.get_or_create(&labels).set(source.last_error.is_some().into());
        }
        if let Some(pool) = view.pool {
            let upstream = || view.name.clone();
            for (state, count) in [("ready", pool.ready), ("dialling", pool.dialling)] {
                warm.get_or_create(&OfPool { upstream: upstream(), state }).set(count as i64);
            }
            for (result, count) in [("warm", pool.given_total), ("missed", pool.missed_total)] {
                asked.get_or_create(&OfAttempt { upstream: upstream(), result }).inc_by(count);
            }
        }
        for endpoint in &view.endpoints {
            let labels = OfEndpoint { upstream: view.name.clone(), endpoint: endpoint.address.clone() };
            // Not checked yet, or never: it is used, so it counts as up.
            up.get_or_create(&labels).set(i64::from(endpoint.health != "down"));
            let state = BREAKER_STATES.iter().position(|state| *state == endpoint.breaker);
            breaker.get_or_create(&labels).set(state.map_or(0, |state| state as i64));
        }
    }
    registry.register("nuncio_endpoint_up", "Whether the health checks leave the endpoint in use", up);
    registry.register(
        "nuncio_breaker_state",
        "The endpoint's circuit: 0 closed, 1 half-open, 2 open",
        breaker,
    );
    registry.register(
        "nuncio_discovery_age_seconds",
        "How long ago the source of the upstream's endpoints named them",
        age,
    );
    registry.register("nuncio_discovery_failing", "Whether it says something else, or nothing", failing);
    registry.register("nuncio_pool_connections", "Connections kept ready, or on the way there", warm);
    registry.register(
        "nuncio_pool_requests",
        "Clients that were given a ready connection, or found none",
        asked,
    );
    let (weights, states) = (Family::<OfSplit, Gauge>::default(), Family::<OfListener, Gauge>::default());
    for (listener, view) in splits {
        for Share { upstream, weight } in &view.split {
            let labels = OfSplit { listener: listener.clone(), upstream: upstream.clone() };
            weights.get_or_create(&labels).set(i64::from(*weight));
        }
        let state = match view.phase {
            Phase::Fixed => continue,
            Phase::Running { .. } => 0,
            Phase::Done => 1,
            Phase::RolledBack { .. } => 2,
            Phase::ByHand => 3,
        };
        states.get_or_create(&OfListener { listener: listener.clone() }).set(state);
    }
    registry.register("nuncio_split_weight", "The upstream's share of the listener's connections", weights);
    registry.register(
        "nuncio_rollout_state",
        "The listener's rollout: 0 running, 1 done, 2 rolled back, 3 set by hand",
        states,
    );
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            registry.register(name, help, ConstGauge::new(value));
        }
    };
    gauge("process_resident_memory_bytes", "Memory of the process that is in RAM", process.resident_bytes);
    gauge("process_virtual_memory_bytes", "Memory that the process has mapped", process.virtual_bytes);
    gauge("process_open_fds", "Open file descriptors", process.open_fds);
    gauge("process_max_fds", "Limit of open file descriptors", process.max_fds);
    gauge("process_threads", "Threads of the process", process.threads);
    if let Some(seconds) = process.start_seconds {
        let help = "When the process started, in seconds since 1970";
        registry.register("process_start_time_seconds", help, ConstGauge::new(seconds));
    }
    if let Some(seconds) = process.cpu_seconds {
        registry.register("process_cpu_seconds", "User and system CPU time", ConstCounter::new(seconds));
    }
    registry
}

fn unix_seconds(at: SystemTime) -> f64 {
    // Before 1970 there is nothing to say.
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The lock, also after a panic elsewhere: counters are valid at any point.
pub(crate) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
