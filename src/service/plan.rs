//! plan: what a new configuration needs, read and looked up beside what runs. All that can be refused is refused here;
//! only then anything changes.
//!
//! Owns the comparison of an old with a new configuration. To build a plan may take as long as a file on the network or a
//! directory of users does, or for ever: so it holds nothing of what runs that anybody waits for, no lock and no socket.
//! Leaves what a single piece needs to `load`, and what becomes of the plan to `compose`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::compose::Parts;
use super::{Foundation, load};
use crate::accept::{Acceptor, Unbound};
use crate::addr::{ListenerName, UpstreamName};
use crate::admin::Token;
use crate::admit::Gate;
use crate::config::{self, Config};
use crate::discovery::{self, Resolver};
use crate::establish::{OwnListeners, Target};
use crate::protocol::Protocol;
use crate::rollout::{self, Kept, Split};
use crate::tls::{Identity, ServerTls};
use crate::upstream::{Observer, Upstream};

/// What a plan is compared with, and may go on with.
pub(super) struct Known {
    identities: BTreeMap<String, Arc<Identity>>,
    upstreams: BTreeMap<UpstreamName, KnownUpstream>,
    doors: BTreeMap<ListenerName, KnownDoor>,
    resolver: Resolver,
    own: Arc<OwnListeners>,
    observer: Arc<dyn Observer>,
    self_made: Arc<load::SelfMadeOnes>,
}

struct KnownUpstream {
    written: config::Upstream,
    target: Arc<Target>,
}

struct KnownDoor {
    written: config::Listener,
    gate: Arc<Gate>,
    tls: Option<Arc<ServerTls>>,
    protocol: Protocol,
    is_reachable: bool,
    split: Option<Arc<Split>>,
}

/// What a new configuration needs, as far as that takes its time. Nothing is bound.
pub(super) struct Plan {
    identities: BTreeMap<String, Arc<Identity>>,
    targets: Vec<PlannedTarget>,
    doors: Vec<PlannedDoor>,
    token: Option<Arc<Token>>,
    problems: Vec<String>,
}

/// The target, and whether it is the one that runs.
type PlannedTarget = (UpstreamName, config::Upstream, Arc<Target>, bool);

struct PlannedDoor {
    name: ListenerName,
    written: config::Listener,
    /// `None`: its problem has been said.
    gate: Option<Arc<Gate>>,
    /// For its clients, where it has some to give.
    tls: Option<Arc<ServerTls>>,
    /// `None`: the sockets stay as they are.
    unbound: Option<Unbound>,
    kept: KeptRollout,
}

/// How far its rollout was when the process before this one ended, or why that cannot be told.
type KeptRollout = Result<Option<Kept>, String>;

/// A plan that nothing speaks against, not yet in effect.
pub(super) struct Ready {
    pub(super) identities: BTreeMap<String, Arc<Identity>>,
    pub(super) targets: Vec<PlannedTarget>,
    /// Without an acceptor: the sockets stay as they are.
    pub(super) doors: Vec<ReadyDoor>,
    pub(super) token: Option<Arc<Token>>,
}

pub(super) struct ReadyDoor {
    pub(super) name: ListenerName,
    pub(super) written: config::Listener,
    pub(super) gate: Arc<Gate>,
    pub(super) tls: Option<Arc<ServerTls>>,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) kept: KeptRollout,
}

impl Known {
    /// What runs now.
    pub(super) fn of(parts: &Parts, foundation: &Foundation) -> Known {
        let upstreams = parts.upstreams.iter().map(|(name, running)| {
            let (written, target) = (running.written.clone(), running.target.clone());
            (name.clone(), KnownUpstream { written, target })
        });
        let doors = parts.doors.iter().map(|(name, door)| {
            let (written, gate, tls) = (door.written.clone(), door.gate.clone(), door.tls.clone());
            let (protocol, is_reachable) = (door.protocol(), door.is_reachable());
            let split = door.split();
            (name.clone(), KnownDoor { written, gate, tls, protocol, is_reachable, split })
        });
        Known {
            identities: parts.identities.clone(),
            upstreams: upstreams.collect(),
            doors: doors.collect(),
            resolver: foundation.resolver.clone(),
            own: foundation.own.clone(),
            observer: foundation.observer.clone(),
            self_made: foundation.self_made.clone(),
        }
    }
}

impl Plan {
    /// Builds all that may take its time: identities, TLS, users and groups. What speaks against it [`Plan::bind`] says.
    pub(super) fn build(config: &Config, known: &Known) -> Plan {
        for warning in load::warnings(config) {
            tracing::warn!("{warning}");
        }
        let mut problems = Vec::new();
        let identities = load_identities(config, known, &mut problems);
        let token = load::token(config).unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let mut targets = Vec::new();
        for (name, written) in &config.upstreams {
            match build_target(name, written, &identities, known) {
                Ok((target, kept)) => targets.push((name.clone(), written.clone(), target, kept)),
                Err(found) => {
                    problems.extend(found.into_iter().map(|problem| format!("upstream.{name}: {problem}")))
                }
            }
        }
        let mut doors = Vec::new();
        for (name, written) in &config.listeners {
            let tls = build_server_tls(name, written, config, &identities, known).unwrap_or_else(|found| {
                problems.extend(found.into_iter().map(|problem| format!("listener.{name}: {problem}")));
                None
            });
            let known = known.doors.get(name);
            let gate = match known {
                Some(door) if door.written.admit == written.admit => Ok(door.gate.clone()),
                Some(door) => door.gate.renewed(&written.admit).map(Arc::new),
                None => Gate::new(&written.admit).map(Arc::new),
            };
            let unbound = match known {
                Some(door) if door.written.accept == written.accept && door.is_reachable => Ok(None),
                _ => Unbound::new(&written.accept).map(Some),
            };
            let mut tell = |problem: String| problems.push(format!("listener.{name}: {problem}"));
            doors.push(PlannedDoor {
                name: name.clone(),
                written: written.clone(),
                gate: gate.map_err(&mut tell).ok(),
                tls,
                unbound: unbound.map_err(&mut tell).ok().flatten(),
                kept: kept_rollout(written, known),
            });
        }
        Plan { identities, targets, doors, token, problems }
    }

    /// Opens the sockets, which takes no time.
    ///
    /// # Errors
    /// Every problem of the plan, not only the first; nothing has changed then.
    pub(super) fn bind(self, old: &Parts) -> Result<Ready, Vec<String>> {
        let Plan { identities, targets, doors: planned, token, mut problems } = self;
        let mut doors = Vec::new();
        for PlannedDoor { name, written, gate, tls, unbound, kept } in planned {
            match (gate, unbound.map(|unbound| unbound.bind(&old.sockets_for(&name))).transpose()) {
                (Some(gate), Ok(acceptor)) => {
                    doors.push(ReadyDoor { name, written, gate, tls, acceptor, kept })
                }
                (None, Ok(_)) => {}
                (_, Err(problem)) => problems.push(format!("listener.{name}: {problem}")),
            }
        }
        match problems.is_empty() {
            true => Ok(Ready { identities, targets, doors, token }),
            false => Err(problems),
        }
    }
}

/// What its file says, where nobody here knows better.
fn kept_rollout(written: &config::Listener, known: Option<&KnownDoor>) -> KeptRollout {
    let Some(settings) = &written.split else { return Ok(None) };
    let known = known.and_then(|door| door.split.as_ref());
    let file = settings.progressive.as_ref().and_then(|progressive| progressive.state_file.as_ref());
    match file {
        Some(file) if !known.is_some_and(|split| split.outlives(settings)) => rollout::read(file),
        _ => Ok(None),
    }
}

fn load_identities(
    config: &Config,
    old: &Known,
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
    old: &Known,
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
            let observer = old.observer.clone();
            let upstream =
                Upstream::new(name.clone(), written.set.clone(), &written.retry, fastrand::u64(..), observer);
            // Now, and not when `follow` gets its turn: no connection should find the set empty.
            if let discovery::Source::Fixed(specs) = &written.source {
                upstream.update(specs.clone(), Instant::now());
            }
            upstream
        }
    };
    let target = load::target(written, upstream, tls, http, old.resolver.clone(), old.own.clone());
    Ok((Arc::new(target), false))
}

/// What a listener has for its clients; what it has now, where that would be the same, with the sessions that may be resumed.
fn build_server_tls(
    name: &ListenerName,
    written: &config::Listener,
    config: &Config,
    identities: &BTreeMap<String, Arc<Identity>>,
    old: &Known,
) -> Result<Option<Arc<ServerTls>>, Vec<String>> {
    let identity = written.identity.as_ref().and_then(|identity| identities.get(identity));
    if written.identity.is_some() && identity.is_none() {
        // Its own problem has been said already.
        return Err(Vec::new());
    }
    let protocol = load::protocol_of(written, config);
    let generation = identity.map(|identity| identity.generation);
    let kept = old.doors.get(name).filter(|door| {
        let same_shown = door.tls.as_ref().is_some_and(|tls| tls.generation() == generation);
        door.written.tls == written.tls && door.protocol == protocol && same_shown
    });
    if let Some(door) = kept {
        return Ok(door.tls.clone());
    }
    let tls = load::server_tls(name, written, protocol, identity.map(Arc::as_ref), &old.self_made)?;
    if let Some(made) = tls.as_ref().and_then(ServerTls::self_made) {
        tracing::warn!(
            listener = &**name,
            sha256 = made.fingerprint(),
            "shows its clients a certificate of its own making, which none of them can verify; name an `identity` if they should"
        );
    }
    Ok(tls.map(Arc::new))
}
