//! From a plan to running parts: what a configuration set in motion, and how the next one takes its place.
//!
//! What did not change is kept, with its state, so that a reload touches no connection, no breaker and no count that it
//! need not touch. Leaves to `plan` what that is, and everything that can be refused.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::listening::{Sockets, keep};
use super::plan::{Ready, ReadyDoor};
use super::{Foundation, load};
use crate::accept::{Acceptor, Bound};
use crate::addr::{ListenAddr, ListenerName, UpstreamName};
use crate::admin::Token;
use crate::admit::Gate;
use crate::config;
use crate::connection::{self, Listener, Targets};
use crate::discovery::Source;
use crate::establish::{Target, warm};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::protocol::Protocol;
use crate::rollout::Split;
use crate::tls::{Identity, ServerTls};
use crate::upstream::{EndpointSpec, Upstream, WhenUnready};
use crate::{discovery, health, route};

/// Everything that a configuration set in motion.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) identities: BTreeMap<String, Arc<Identity>>,
    pub(super) upstreams: BTreeMap<UpstreamName, Running>,
    pub(super) doors: BTreeMap<ListenerName, Door>,
    pub(super) token: Option<Arc<Token>>,
}

/// An upstream and the tasks that keep it up to date.
pub(super) struct Running {
    pub(super) written: config::Upstream,
    pub(super) target: Arc<Target>,
    tasks: Vec<JoinHandle<()>>,
}

/// A listener with its sockets. Dropped, it accepts no more; its sockets close unless another door goes on with them. Where
/// all upstreams behind it want that, its sockets are closed while none of them can be used, and the door stays.
pub(super) struct Door {
    pub(super) written: config::Listener,
    pub(super) gate: Arc<Gate>,
    pub(super) tls: Option<Arc<ServerTls>>,
    /// What new connections are served by; a reload puts another one here.
    current: Arc<RwLock<Arc<Listener>>>,
    sockets: Arc<Sockets>,
    /// Who closes and opens them, where somebody has to.
    keeper: Option<JoinHandle<()>>,
}

impl Ready {
    /// Puts it into effect. Cannot fail.
    pub(super) fn install(self, parts: &mut Parts, foundation: &Arc<Foundation>) {
        let Ready { identities, targets, doors, token } = self;
        parts.identities = identities;
        parts.token = token;

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
        for ReadyDoor { name, written, gate, tls, acceptor, kept } in doors {
            let known_split = before.get(&name).and_then(Door::split);
            let split = match written.split.clone() {
                // Where it stands, and what was set by hand, outlives a reload that says nothing else of it.
                Some(settings) => Some(Split::next(known_split, &name, settings, kept, Instant::now())),
                None => {
                    known_split.iter().for_each(|split| split.retire());
                    None
                }
            };
            let for_clients = tls.clone().zip(written.tls.as_ref());
            let listener = Arc::new(Listener {
                name: name.clone(),
                gate: gate.clone(),
                route: written.route.clone(),
                protocol: common_protocol(&written.route, &targets),
                context: written.context,
                preface_timeout: written.preface_timeout,
                tls: for_clients.map(|(server, settings)| connection::ClientTls {
                    server,
                    required: settings.required,
                    direct: settings.direct,
                }),
                split,
                targets: targets.clone(),
                journal: foundation.journal.clone(),
                metrics: foundation.metrics.clone(),
                drain: foundation.watch.clone(),
            });
            let known = before.remove(&name);
            let door = match (acceptor, known) {
                (Some(acceptor), known) => {
                    let kept = known.as_ref().map_or_else(Vec::new, |door| door.open_addresses());
                    let door = Door::open(written, gate, tls, acceptor, listener, foundation, &kept);
                    drop(known);
                    door
                }
                (None, Some(door)) => door.now_serves(written, gate, tls, listener),
                (None, None) => continue, // only a listener that is known is planned without an acceptor
            };
            parts.doors.insert(name, door);
        }
        let listening = parts.doors.values().flat_map(Door::addresses);
        foundation.own.set(listening.filter_map(|address| load::tcp(&address)));
        for (name, door) in before {
            tracing::info!(listener = &*name, "not listening any more: its open connections go on");
            door.split().iter().for_each(|split| split.retire());
            drop(door);
            // After it: until then it may still say that it listens.
            foundation.metrics.no_listener(&name);
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
    pub(super) fn sockets_for(&self, name: &ListenerName) -> Vec<Bound> {
        let can_move = |socket: &Bound| !matches!(socket.written(), ListenAddr::Tcp(tcp) if tcp.port() == 0);
        self.doors
            .iter()
            .flat_map(|(owner, door)| door.sockets.bounds().into_iter().map(move |socket| (owner, socket)))
            .filter(|(owner, socket)| *owner == name || can_move(socket))
            .map(|(_, socket)| socket)
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
            let asks_the_same = replaced.written.health.url == written.health.url
                && replaced.written.health.login == written.health.login;
            if replaced.checked_by() != written.checked_by() || !asks_the_same {
                target.upstream.forget_health();
            }
            let (before, now) = (&replaced.written, &written);
            // Some sources' endpoints carry the name that their certificates have to have.
            let same_name = before.tls.server_name == now.tls.server_name;
            match &now.source {
                // Known already: no connection has to wait for them.
                Source::Fixed(specs) => {
                    target.upstream.forget_source(true);
                    target.upstream.update(specs.clone(), Instant::now());
                }
                source if source.names_the_same(&before.source) && same_name => {
                    if *source != before.source {
                        target.upstream.forget_source(true);
                    }
                }
                _ => target.upstream.forget_source(false),
            }
        }
        let protocol = target.protocol;
        tokio::task::spawn_blocking(move || protocol.prepare());
        let follow = discovery::follow(
            written.source.clone(),
            target.resolver.clone(),
            target.upstream.clone(),
            written.tls.server_name.clone(),
        );
        let mut tasks = vec![tokio::spawn(follow)];
        let kind = written.checked_by();
        if kind != health::Kind::Off {
            let settings = health::Settings { kind: Some(kind), ..written.health.clone() };
            let probe = Arc::new(Counted { target: target.clone(), metrics: foundation.metrics.clone() });
            tasks.push(tokio::spawn(health::run(settings, target.upstream.clone(), probe)));
        }
        if target.pool.is_some() {
            let keep = warm::keep(target.clone(), foundation.permits.clone());
            let drains = foundation.watch.started();
            tasks.push(tokio::spawn(async move {
                // Nobody comes any more, and the end waits for all permits.
                tokio::select! { () = keep => {}, () = drains => {} }
            }));
        }
        Running { written, target, tasks }
    }

    fn checked_by(&self) -> health::Kind {
        self.written.checked_by()
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
    /// `kept`: addresses that were open before, and are nothing to tell of.
    fn open(
        written: config::Listener,
        gate: Arc<Gate>,
        tls: Option<Arc<ServerTls>>,
        acceptor: Acceptor,
        listener: Arc<Listener>,
        foundation: &Arc<Foundation>,
        kept: &[ListenAddr],
    ) -> Door {
        let name = listener.name.clone();
        let current = Arc::new(RwLock::new(listener));
        let (shared, serving) = (foundation.clone(), current.clone());
        let accept = move |acceptor: Acceptor, watch| {
            let (shared, serving) = (shared.clone(), serving.clone());
            tokio::spawn(acceptor.run(shared.permits.clone(), watch, move |accepted, permit| {
                let listener = serving.read().unwrap_or_else(PoisonError::into_inner).clone();
                let accepted = Box::new(accepted);
                shared
                    .reactors
                    .serve(|moved, open| crate::connection::serve(accepted, listener, moved, (permit, open)));
            }))
        };
        let sockets = Sockets::open(name, foundation.metrics.clone(), acceptor, Box::new(accept), kept);
        let mut door = Door { written, gate, tls, current, sockets: Arc::new(sockets), keeper: None };
        door.keep();
        door
    }

    /// Closes and opens its sockets from now on as the upstreams behind it want that.
    fn keep(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
        let behind = self.closes_with();
        // Where nobody wants it closed any more, it opens at once, or is to as soon as that is possible.
        if !behind.is_empty() || self.sockets.relisten().is_err() {
            self.keeper = Some(tokio::spawn(keep(self.sockets.clone(), behind)));
        }
    }

    /// The upstreams behind it, if it is to be closed while none of them can be used.
    fn closes_with(&self) -> Vec<Arc<Upstream>> {
        let listener = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let config::Listener { split, route, .. } = &self.written;
        let shares = split.iter().flat_map(|split| &split.shares).map(|share| &share.upstream);
        let mut names: Vec<_> =
            shares.chain(route.reachable.iter().map(|reachable| &reachable.upstream)).collect();
        if names.is_empty() {
            names.push(&route.upstream);
        }
        let behind: Vec<_> =
            names.iter().filter_map(|name| Some(listener.targets.get(*name)?.upstream.clone())).collect();
        match behind.iter().all(|upstream| upstream.when_unready() == WhenUnready::Unlisten) {
            true => behind,
            false => Vec::new(),
        }
    }

    fn now_serves(
        mut self,
        written: config::Listener,
        gate: Arc<Gate>,
        tls: Option<Arc<ServerTls>>,
        listener: Arc<Listener>,
    ) -> Door {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = listener;
        self.written = written;
        self.gate = gate;
        self.tls = tls;
        self.keep();
        self
    }

    /// How its connections are divided, where they are.
    pub(super) fn split(&self) -> Option<Arc<Split>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).split.clone()
    }

    /// What its clients speak now.
    pub(super) fn protocol(&self) -> Protocol {
        self.current.read().unwrap_or_else(PoisonError::into_inner).protocol
    }

    /// Accepts no more; what is returned ends with the acceptor.
    fn close(self) -> Option<JoinHandle<()>> {
        self.sockets.end()
    }

    pub(super) fn is_reachable(&self) -> bool {
        self.sockets.bounds().iter().all(Bound::is_reachable)
    }

    /// Where clients can connect, or can again when it opens; ports filled in.
    pub(super) fn addresses(&self) -> Vec<ListenAddr> {
        self.sockets.addresses()
    }

    fn open_addresses(&self) -> Vec<ListenAddr> {
        self.sockets.bounds().iter().map(|bound| bound.local().clone()).collect()
    }

    /// Its sockets, which may be closed for a while.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        // What still lets in who had connected ends by itself.
        drop(self.sockets.end());
    }
}

/// What the clients of a listener speak, as far as that is known before one asks for its destination.
fn common_protocol(route: &route::Settings, targets: &Targets) -> Protocol {
    let of = |name| targets.get(name).map_or(Protocol::Tcp, |target| target.protocol);
    let first = of(&route.upstream);
    match route.reachable.iter().all(|reachable| of(&reachable.upstream) == first) {
        true => first,
        false => Protocol::Tcp,
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
        self.target.check(spec, kind)
    }

    fn told(&self, spec: &EndpointSpec, passed: bool) {
        self.metrics.health_check(self.target.upstream.name(), &spec.address.to_string(), passed);
    }
}
