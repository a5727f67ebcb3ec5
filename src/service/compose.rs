//! From a configuration to running parts. Everything that can be refused is built first; only then anything changes.
//!
//! Owns the comparison of an old with a new configuration: what did not change is kept, with its state, so that a reload
//! touches no connection, no breaker and no count that it need not touch. Leaves what a single piece needs to `load`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::{Foundation, load};
use crate::accept::{Acceptor, Bound};
use crate::addr::{ListenAddr, ListenerName, UpstreamName};
use crate::admit::Gate;
use crate::config::{self, Config};
use crate::connection::{Listener, Targets};
use crate::drain::Drain;
use crate::establish::Target;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::protocol::Protocol;
use crate::tls::Identity;
use crate::upstream::{EndpointSpec, Upstream};
use crate::{discovery, health};

/// Everything that a configuration set in motion.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) identities: BTreeMap<String, Arc<Identity>>,
    pub(super) upstreams: BTreeMap<UpstreamName, Running>,
    pub(super) doors: BTreeMap<ListenerName, Door>,
}

/// An upstream and the tasks that keep it up to date.
pub(super) struct Running {
    written: config::Upstream,
    pub(super) target: Arc<Target>,
    tasks: Vec<JoinHandle<()>>,
}

/// A listener with its sockets. Dropped, it accepts no more; its sockets close unless another door goes on with them.
pub(super) struct Door {
    written: config::Listener,
    gate: Arc<Gate>,
    /// What new connections are served by; a reload puts another one here.
    current: Arc<RwLock<Arc<Listener>>>,
    /// They stay open for as long as one of these lives, here or in the acceptor.
    sockets: Vec<Bound>,
    stop: Drain,
    /// Taken when it closes.
    acceptor: Option<JoinHandle<()>>,
}

/// What a new configuration needs, built and not yet in effect.
pub(super) struct Plan {
    identities: BTreeMap<String, Arc<Identity>>,
    targets: Vec<(UpstreamName, config::Upstream, Arc<Target>, bool)>,
    /// Without an acceptor: the sockets stay as they are.
    doors: Vec<(ListenerName, config::Listener, Arc<Gate>, Option<Acceptor>)>,
}

impl Plan {
    /// Builds all that can be refused: identities, TLS, users and groups, sockets.
    ///
    /// # Errors
    /// Every problem, not only the first; nothing has changed then.
    pub(super) fn build(config: &Config, old: &Parts, foundation: &Foundation) -> Result<Plan, Vec<String>> {
        let mut problems = Vec::new();
        let identities = load_identities(config, old, &mut problems);
        let mut targets = Vec::new();
        for (name, written) in &config.upstreams {
            match build_target(name, written, &identities, old, foundation) {
                Ok((target, kept)) => targets.push((name.clone(), written.clone(), target, kept)),
                Err(found) => {
                    problems.extend(found.into_iter().map(|problem| format!("upstream.{name}: {problem}")))
                }
            }
        }
        let mut doors = Vec::new();
        for (name, written) in &config.listeners {
            let known = old.doors.get(name);
            let gate = match known {
                Some(door) if door.written.admit == written.admit => Ok(door.gate.clone()),
                Some(door) => door.gate.renewed(&written.admit).map(Arc::new),
                None => Gate::new(&written.admit).map(Arc::new),
            };
            let acceptor = match known {
                Some(door) if door.written.accept == written.accept && door.is_reachable() => Ok(None),
                _ => Acceptor::bind_reusing(&written.accept, &old.sockets_for(name)).map(Some),
            };
            match (gate, acceptor) {
                (Ok(gate), Ok(acceptor)) => doors.push((name.clone(), written.clone(), gate, acceptor)),
                (gate, acceptor) => {
                    let found = gate.err().into_iter().chain(acceptor.err());
                    problems.extend(found.map(|problem| format!("listener.{name}: {problem}")));
                }
            }
        }
        match problems.is_empty() {
            true => Ok(Plan { identities, targets, doors }),
            false => Err(problems),
        }
    }

    /// Puts the plan into effect. Cannot fail.
    pub(super) fn install(self, parts: &mut Parts, foundation: &Arc<Foundation>) {
        let Plan { identities, targets, doors } = self;
        parts.identities = identities;

        let mut before = std::mem::take(&mut parts.upstreams);
        for (name, written, target, kept) in targets {
            let running = match before.remove(&name) {
                Some(running) if kept => running,
                replaced => Running::start(written, target, foundation, replaced),
            };
            parts.upstreams.insert(name, running);
        }
        before.values().for_each(Running::stop);

        let targets: Arc<Targets> = Arc::new(
            parts.upstreams.iter().map(|(name, running)| (name.clone(), running.target.clone())).collect(),
        );
        let mut before = std::mem::take(&mut parts.doors);
        for (name, written, gate, acceptor) in doors {
            let listener = Arc::new(Listener {
                name: name.clone(),
                gate: gate.clone(),
                route: written.route.clone(),
                protocol: targets
                    .get(&written.route.upstream)
                    .map_or(Protocol::Tcp, |target| target.protocol),
                preface_timeout: written.preface_timeout,
                targets: targets.clone(),
                journal: foundation.journal.clone(),
                metrics: foundation.metrics.clone(),
                drain: foundation.watch.clone(),
            });
            let known = before.remove(&name);
            let door = match (acceptor, known) {
                (Some(acceptor), known) => {
                    let kept = known.as_ref().map_or(&[][..], |door| &door.sockets);
                    let door = Door::open(written, gate, acceptor, listener, foundation, kept);
                    drop(known);
                    door
                }
                (None, Some(door)) => door.now_serves(written, gate, listener),
                (None, None) => continue, // only a listener that is known is planned without an acceptor
            };
            parts.doors.insert(name, door);
        }
        for (name, door) in before {
            tracing::info!(listener = &*name, "not listening any more: its open connections go on");
            drop(door);
        }
    }
}

impl Parts {
    /// Every listener closes; what is open goes on. What is returned resolves once all who had connected were let in, to be
    /// told that they come too late.
    pub(super) fn close_doors(&mut self) -> impl Future<Output = ()> + use<> {
        let doors = std::mem::take(&mut self.doors);
        let closing: Vec<_> = doors.into_values().filter_map(Door::close).collect();
        async move {
            for acceptor in closing {
                // An error: it panicked, and accepts no more either.
                acceptor.await.ok();
            }
        }
    }

    /// Sockets that a listener may go on with: its own, and those of addresses that it takes over from another one. Port 0
    /// is another port each time.
    fn sockets_for(&self, name: &ListenerName) -> Vec<Bound> {
        let can_move = |socket: &Bound| !matches!(socket.written(), ListenAddr::Tcp(tcp) if tcp.port() == 0);
        self.doors
            .iter()
            .flat_map(|(owner, door)| door.sockets.iter().map(move |socket| (owner, socket)))
            .filter(|(owner, socket)| *owner == name || can_move(socket))
            .map(|(_, socket)| socket.clone())
            .collect()
    }
}

impl Running {
    /// In place of `replaced`, whose tasks end here.
    fn start(
        written: config::Upstream,
        target: Arc<Target>,
        foundation: &Foundation,
        replaced: Option<Running>,
    ) -> Running {
        if let Some(replaced) = &replaced {
            replaced.stop();
            target.upstream.reconfigure(written.set.clone(), &written.retry, Instant::now());
            let asks_the_same = replaced.written.health.url == written.health.url;
            if replaced.checked_by() != checked_by(&written, &target) || !asks_the_same {
                target.upstream.forget_health();
            }
        }
        let follow = discovery::follow_as(
            written.source.clone(),
            target.resolver.clone(),
            target.upstream.clone(),
            written.tls.server_name.clone(),
        );
        let mut tasks = vec![tokio::spawn(follow)];
        let kind = checked_by(&written, &target);
        if kind != health::Kind::Off {
            let settings = health::Settings { kind: Some(kind), ..written.health.clone() };
            let probe = Arc::new(Counted { target: target.clone(), metrics: foundation.metrics.clone() });
            tasks.push(tokio::spawn(health::run(settings, target.upstream.clone(), probe)));
        }
        Running { written, target, tasks }
    }

    fn checked_by(&self) -> health::Kind {
        checked_by(&self.written, &self.target)
    }

    fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// `required`: counts for readiness.
    pub(super) fn required(&self) -> bool {
        self.written.required
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Door {
    /// `kept`: sockets that were open before, and are nothing to tell of.
    fn open(
        written: config::Listener,
        gate: Arc<Gate>,
        acceptor: Acceptor,
        listener: Arc<Listener>,
        foundation: &Arc<Foundation>,
        kept: &[Bound],
    ) -> Door {
        let sockets = acceptor.bounds().to_vec();
        for address in sockets.iter().map(Bound::local) {
            if !kept.iter().any(|kept| kept.local() == address) {
                tracing::info!(listener = &*listener.name, address = %address, "listening");
            }
        }
        let (stop, watch) = Drain::new();
        let current = Arc::new(RwLock::new(listener));
        let (shared, serving) = (foundation.clone(), current.clone());
        let acceptor =
            tokio::spawn(acceptor.run(foundation.permits.clone(), watch, move |accepted, permit| {
                let listener = serving.read().unwrap_or_else(PoisonError::into_inner).clone();
                let accepted = Box::new(accepted);
                shared
                    .reactors
                    .serve(|moved, open| crate::connection::serve(accepted, listener, moved, (permit, open)));
            }));
        Door { written, gate, current, sockets, stop, acceptor: Some(acceptor) }
    }

    fn now_serves(mut self, written: config::Listener, gate: Arc<Gate>, listener: Arc<Listener>) -> Door {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = listener;
        self.written = written;
        self.gate = gate;
        self
    }

    /// Accepts no more; what is returned ends with the acceptor.
    fn close(mut self) -> Option<JoinHandle<()>> {
        self.acceptor.take()
    }

    fn is_reachable(&self) -> bool {
        self.sockets.iter().all(Bound::is_reachable)
    }

    /// Where clients can connect, ports filled in.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &ListenAddr> {
        self.sockets.iter().map(Bound::local)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.start();
    }
}

/// Checks as [`Target`] does, and counts them.
struct Counted {
    target: Arc<Target>,
    metrics: Arc<Metrics>,
}

impl health::Probe for Counted {
    fn check<'a>(
        &'a self,
        spec: &'a EndpointSpec,
        kind: health::Kind,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async move {
            let result = self.target.check(spec, kind).await;
            let endpoint = spec.address.to_string();
            self.metrics.health_check(self.target.upstream.name(), &endpoint, result.is_ok());
            result
        })
    }
}

/// What the endpoints' active checks do.
fn checked_by(written: &config::Upstream, target: &Target) -> health::Kind {
    written
        .health
        .kind
        .unwrap_or_else(|| health::Kind::deepest(target.tls.is_some(), target.protocol != Protocol::Tcp))
}

fn load_identities(
    config: &Config,
    old: &Parts,
    problems: &mut Vec<String>,
) -> BTreeMap<String, Arc<Identity>> {
    let mut identities = BTreeMap::new();
    for (name, identity) in load::identities(config, problems) {
        for warning in &identity.warnings {
            tracing::warn!("{warning}");
        }
        // Unchanged files keep their generation, and with it the sessions that may be resumed.
        let known = old.identities.get(&name);
        let kept = known.filter(|known| known.generation == identity.generation);
        // At a start that is better than nothing; what works now is not given up for it.
        let works = known.is_some_and(|known| known.faults.is_empty());
        if works && kept.is_none() && !identity.faults.is_empty() {
            problems.extend(identity.faults);
            continue;
        }
        for fault in &identity.faults {
            tracing::error!("{fault}");
        }
        identities.insert(name, kept.cloned().unwrap_or_else(|| Arc::new(identity)));
    }
    identities
}

/// The target of an upstream, and whether the running one can be kept as it is.
fn build_target(
    name: &UpstreamName,
    written: &config::Upstream,
    identities: &BTreeMap<String, Arc<Identity>>,
    old: &Parts,
    foundation: &Foundation,
) -> Result<(Arc<Target>, bool), Vec<String>> {
    let identity = written.identity.as_ref().and_then(|identity| identities.get(identity));
    if written.identity.is_some() && identity.is_none() {
        // Its own problem has been said already.
        return Err(Vec::new());
    }
    let known = old.upstreams.get(name);
    let generation = identity.map(|identity| identity.generation);
    let same_identity = known.is_some_and(|running| {
        // Without TLS it is used for nothing.
        let check = running.target.http.as_ref().and_then(|http| http.tls.as_ref());
        running.target.tls.iter().chain(check).all(|tls| tls.generation() == generation)
    });
    if let Some(running) = known.filter(|running| running.written == *written && same_identity) {
        return Ok((running.target.clone(), true));
    }
    let identity = identity.map(Arc::as_ref);
    let tls = match known.filter(|running| running.written.tls == written.tls && same_identity) {
        Some(running) => running.target.tls.clone(),
        None => load::client_tls(written, identity)?,
    };
    let http = load::http_check(written, identity)?;
    let upstream = match known {
        // Its settings become the new ones when the plan is put into effect.
        Some(running) => running.target.upstream.clone(),
        None => {
            let observer = foundation.observer.clone();
            let upstream =
                Upstream::new(name.clone(), written.set.clone(), &written.retry, fastrand::u64(..), observer);
            // Now, and not when `follow` gets its turn: no connection should find the set empty.
            if let discovery::Source::Fixed(specs) = &written.source {
                upstream.update(specs.clone(), Instant::now());
            }
            upstream
        }
    };
    let target = load::target(written, upstream, tls, http, foundation.resolver.clone());
    Ok((Arc::new(target), false))
}
