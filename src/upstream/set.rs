//! The endpoint set: membership updates, picking, settling. Pure: time and chance are passed in.
//!
//! Who may be picked, in this order:
//! 1. ready primaries, 2. ready backups, each first those that this connection has not tried, then those that it has.
//!    So a retry goes to a backup before it goes back to a primary, and a single endpoint may be tried again.
//! 2. With nobody ready: endpoints let through their open circuits in a panic, see below; without any, a failure at once.
//!    Endpoints that health checks hold down are never picked: everything down is `destination_unavailable`, not a gamble.
//!
//! The ejection cap: of a tier's `n` members (weight above 0), at most `max(1, ceil(n × max_ejected))` may be out by their
//! circuits. The excess, least bad first (fewest failed trials, then the first to be tried again), is let through: that is
//! a panic, and it is told. With one endpoint there is none, it fails at once. While others of the tier are ready, those let
//! through get one first attempt in ten: enough to undo a wrong ejection with the first connection that works, too little
//! for dead endpoints to eat the retry budget. (Not `floor`: with three endpoints of which two are dead, it would send
//! connections to one of the dead.)
//!
//! Leaves the choice among those who may to `balancer`, and locking, queueing and telling to the shell in `mod`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balancer::{self, Candidate};
use super::breaker::{self, Pass, Transition};
use super::endpoint::{Endpoint, EndpointId, Ready};
use super::{EndpointSpec, Settings};
use crate::failure::{BreakerClass, Failure, Reason, Stage};

/// A connection's hold on an endpoint, used up by settling it.
#[derive(Debug)]
pub struct Attempt {
    endpoint: EndpointId,
    pass: Pass,
}

impl Attempt {
    /// The endpoint that was picked.
    pub fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    /// Does it try a half-open circuit?
    pub fn is_trial(&self) -> bool {
        self.pass.is_trial()
    }
}

/// What was picked.
#[derive(Debug)]
pub struct Picked {
    /// To be settled.
    pub attempt: Attempt,
    /// Where to go.
    pub spec: Arc<EndpointSpec>,
    /// The endpoint's name in records and metrics.
    pub label: Arc<str>,
}

/// Something that somebody outside wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A circuit changed.
    Breaker(Arc<str>, Transition),
    /// Active checks flipped an endpoint.
    Health {
        /// The endpoint's name.
        endpoint: Arc<str>,
        /// Or down.
        up: bool,
        /// For a person.
        why: String,
    },
    /// More circuits are open than `max_ejected` allows: some connections are let through them. `false`: over.
    Panic(bool),
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct EndpointSet {
    settings: Settings,
    breaker: Arc<breaker::Settings>,
    pub(super) endpoints: Vec<Endpoint>,
    ids: u64,
    /// Has there been an update at all?
    known: bool,
    panicking: bool,
    events: Vec<Event>,
    scratch: Vec<Candidate>,
}

/// Who is in, who is out, at a time.
#[derive(Default)]
pub(super) struct Census {
    primaries: Tier,
    backups: Tier,
    /// Places of those let through their open circuits.
    pub(super) through: Vec<usize>,
}

#[derive(Default)]
struct Tier {
    members: usize,
    ready: usize,
    out: usize,
}

impl Tier {
    /// How many are out beyond the cap.
    fn excess(&self, max_ejected: f64) -> usize {
        let cap = (self.members as f64 * max_ejected).ceil() as usize;
        self.out.saturating_sub(cap.max(1))
    }
}

impl EndpointSet {
    /// One in so many first attempts goes to an endpoint let through, while others are ready.
    const PANIC_SHARE: u32 = 10;

    /// An empty set, whose endpoints are not known yet.
    pub fn new(settings: Settings) -> Self {
        EndpointSet {
            breaker: Arc::new(settings.breaker.clone()),
            settings,
            endpoints: Vec::new(),
            ids: 0,
            known: false,
            panicking: false,
            events: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The members are these from now on. Those that stay (by address and server name) keep their state; those that left
    /// take no new connections and are forgotten with their last one. Of two that are the same, the first counts.
    pub fn update(&mut self, specs: Vec<EndpointSpec>, now: Instant, rng: &mut fastrand::Rng) {
        self.known = true;
        for endpoint in &mut self.endpoints {
            endpoint.leaving = true;
        }
        // By hash: a registry may name thousands, and say so every few seconds.
        let who = |spec: &EndpointSpec| (spec.address.clone(), spec.server_name.clone());
        let mut places: HashMap<_, _> =
            self.endpoints.iter().enumerate().map(|(place, endpoint)| (who(&endpoint.spec), place)).collect();
        for spec in specs {
            match places.entry(who(&spec)) {
                Entry::Occupied(known) => {
                    let member = &mut self.endpoints[*known.get()];
                    let is_first = std::mem::replace(&mut member.leaving, false);
                    if is_first && *member.spec != spec {
                        member.spec = Arc::new(spec);
                    }
                }
                Entry::Vacant(new) => {
                    new.insert(self.endpoints.len());
                    self.ids += 1;
                    let id = EndpointId(self.ids);
                    self.endpoints.push(Endpoint::new(id, spec, self.breaker.clone(), now, rng));
                }
            }
        }
        self.endpoints.retain(|endpoint| !endpoint.leaving || endpoint.open > 0);
    }

    /// Other settings from now on. Everybody keeps their state.
    pub fn reconfigure(&mut self, settings: Settings, now: Instant) {
        self.breaker = Arc::new(settings.breaker.clone());
        self.settings = settings;
        for place in 0..self.endpoints.len() {
            // By the old settings up to now.
            self.advance(place, now);
            let transition = self.endpoints[place].breaker.reconfigure(self.breaker.clone(), now);
            self.tell(place, transition);
        }
    }

    /// The endpoint for a connection that has tried `tried` before; `source` for the balance that goes by it.
    pub fn pick(
        &mut self,
        now: Instant,
        source: Option<u64>,
        tried: &[EndpointId],
        rng: &mut fastrand::Rng,
    ) -> Result<Picked, Failure> {
        let census = self.census(now);
        let anyone_ready = census.primaries.ready + census.backups.ready > 0;
        let let_through = !census.through.is_empty()
            && (!anyone_ready || (tried.is_empty() && rng.u32(0..Self::PANIC_SHARE) == 0));

        self.scratch.clear();
        let mut best = (true, u16::MAX);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let eligible = match let_through {
                true => census.through.contains(&index),
                false => endpoint.ready(now) == Ready::Yes,
            };
            let rank = (tried.contains(&endpoint.id), endpoint.spec.tier);
            if !eligible || rank > best {
                continue;
            }
            if rank < best {
                self.scratch.clear();
                best = rank;
            }
            let Endpoint { open, key, turn, .. } = *endpoint;
            self.scratch.push(Candidate { index, weight: endpoint.spec.weight, open, key, turn });
        }
        let chosen = balancer::choose(self.settings.balance, &mut self.scratch, source, rng)
            .map(|place| self.scratch[place].index);
        for candidate in &self.scratch {
            self.endpoints[candidate.index].turn = candidate.turn;
        }
        let Some(chosen) = chosen else { return Err(self.nobody(now)) };
        let endpoint = &mut self.endpoints[chosen];
        Ok(Picked {
            attempt: Attempt { endpoint: endpoint.id, pass: endpoint.admit(now) },
            spec: endpoint.spec.clone(),
            label: endpoint.label.clone(),
        })
    }

    /// The first settling: it is connected.
    pub fn established(&mut self, attempt: &mut Attempt, now: Instant, took: Duration) {
        if let Some(place) = self.advanced(attempt.endpoint, now) {
            self.endpoints[place].established(&mut attempt.pass, now, took);
        }
    }

    /// It was not established, or ended badly; `detail` is kept for the one who asks why.
    pub fn failed(
        &mut self,
        attempt: Attempt,
        now: Instant,
        class: BreakerClass,
        detail: &str,
        rng: &mut fastrand::Rng,
    ) {
        self.settle(attempt, Some(now), |endpoint, pass| endpoint.failed(pass, now, class, detail, rng));
    }

    /// It was established and has ended, and the upstream did nothing wrong.
    pub fn ended_well(&mut self, attempt: Attempt, now: Instant) {
        self.settle(attempt, Some(now), Endpoint::ended_well);
    }

    /// It is over and says nothing about the endpoint.
    pub fn released(&mut self, attempt: Attempt) {
        self.settle(attempt, None, |endpoint, pass| {
            endpoint.released(pass);
            None
        });
    }

    /// An active check of an endpoint came back.
    pub fn check_result(&mut self, id: EndpointId, now: Instant, result: Result<(), (BreakerClass, String)>) {
        let Some(place) = self.advanced(id, now).filter(|place| !self.endpoints[*place].leaving) else {
            return;
        };
        let Settings { rise, fall, .. } = self.settings;
        let endpoint = &mut self.endpoints[place];
        let flip = match &result {
            Ok(()) => endpoint.checked(Ok(()), rise, fall),
            Err((class, detail)) => {
                endpoint.remember(now, *class, detail);
                endpoint.checked(Err(detail), rise, fall)
            }
        };
        let transition = endpoint.breaker.checked(result.is_ok());
        if let Some(up) = flip {
            let why = result.map_or_else(|(_, detail)| detail, |()| "it passes its checks".into());
            self.events.push(Event::Health { endpoint: endpoint.label.clone(), up, why });
        }
        self.tell(place, transition);
    }

    /// Checks of another kind begin, or there are none any more: nothing is known of anybody's health. Nobody is told, since
    /// no check says that they are well.
    pub fn forget_health(&mut self) {
        self.endpoints.iter_mut().for_each(Endpoint::forget_health);
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The members, without those that are leaving.
    pub fn members(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| !endpoint.leaving)
    }

    /// Connections open or being established, on leaving endpoints too.
    pub fn open(&self) -> usize {
        self.endpoints.iter().map(|endpoint| endpoint.open as usize).sum()
    }

    /// Are connections being let through open circuits?
    pub fn panicking(&self) -> bool {
        self.panicking
    }

    /// Counts the tiers at `now` and tells when a panic begins or ends.
    pub(super) fn census(&mut self, now: Instant) -> Census {
        let mut census = Census::default();
        for place in 0..self.endpoints.len() {
            self.advance(place, now);
            let endpoint = &self.endpoints[place];
            let tier = if endpoint.spec.is_backup() { &mut census.backups } else { &mut census.primaries };
            let ready = endpoint.ready(now);
            tier.members += usize::from(!matches!(ready, Ready::Leaving | Ready::NoWeight));
            tier.ready += usize::from(ready == Ready::Yes);
            tier.out += usize::from(ready == Ready::CircuitOpen);
        }
        let share = self.settings.breaker.max_ejected;
        let excess = |tier: &Tier| tier.excess(share);
        // Only the tier that would serve panics: backups that work are better than primaries that do not.
        let (primaries, backups) = match (census.primaries.ready, census.backups.ready) {
            (0, 0) => (excess(&census.primaries), excess(&census.backups)),
            (0, _) => (0, excess(&census.backups)),
            _ => (excess(&census.primaries), 0),
        };
        census.through = self.least_bad(false, primaries, now);
        census.through.extend(self.least_bad(true, backups, now));
        let panicking = !census.through.is_empty();
        if self.panicking != panicking {
            self.panicking = panicking;
            self.events.push(Event::Panic(panicking));
        }
        census
    }

    /// The places of the `count` least bad of a tier's endpoints whose circuit is open.
    fn least_bad(&self, backup: bool, count: usize, now: Instant) -> Vec<usize> {
        if count == 0 {
            return Vec::new();
        }
        let out = |place: &usize| {
            let endpoint = &self.endpoints[*place];
            (endpoint.spec.is_backup()) == backup && endpoint.ready(now) == Ready::CircuitOpen
        };
        let mut places: Vec<_> = (0..self.endpoints.len()).filter(out).collect();
        places.sort_by_key(|place| {
            let breaker = &self.endpoints[*place].breaker;
            (breaker.failed_trials(), breaker.opens_again(now))
        });
        places.truncate(count);
        places
    }

    /// An endpoint's place, after time has acted on its circuit.
    fn advanced(&mut self, id: EndpointId, now: Instant) -> Option<usize> {
        let place = self.endpoints.iter().position(|endpoint| endpoint.id == id)?;
        self.advance(place, now);
        Some(place)
    }

    fn advance(&mut self, place: usize, now: Instant) {
        let transition = self.endpoints[place].breaker.advance(now);
        self.tell(place, transition);
    }

    /// Nobody wants to hear of the circuit of an endpoint that left.
    fn tell(&mut self, place: usize, transition: Option<Transition>) {
        let Endpoint { leaving, label, .. } = &self.endpoints[place];
        if let Some(transition) = transition.filter(|_| !leaving) {
            self.events.push(Event::Breaker(label.clone(), transition));
        }
    }

    /// `now` is `None` where time has no say.
    fn settle(
        &mut self,
        attempt: Attempt,
        now: Option<Instant>,
        verdict: impl FnOnce(&mut Endpoint, Pass) -> Option<Transition>,
    ) {
        let Some(place) = self.endpoints.iter().position(|endpoint| endpoint.id == attempt.endpoint) else {
            return;
        };
        if let Some(now) = now {
            self.advance(place, now);
        }
        let endpoint = &mut self.endpoints[place];
        let transition = verdict(endpoint, attempt.pass);
        if endpoint.leaving && endpoint.open == 0 {
            self.endpoints.remove(place);
        } else {
            self.tell(place, transition);
        }
    }

    /// Why nobody can be picked.
    fn nobody(&self, now: Instant) -> Failure {
        let unavailable =
            |detail: &str| Failure::upstream(Stage::Route, Reason::DestinationUnavailable, detail);
        if self.members().next().is_none() {
            return match self.known {
                true => unavailable("the upstream has no endpoints"),
                false => {
                    unavailable("the upstream's endpoints are not known yet: its name has not been resolved")
                        .mend("look at the DNS: nuncio keeps asking, and serves as soon as it answers")
                }
            };
        }
        const NAMED: usize = 4;
        let mut detail =
            self.members().take(NAMED).map(|endpoint| endpoint.why_not(now)).collect::<Vec<_>>().join("; ");
        if let more @ 1.. = self.members().count().saturating_sub(NAMED) {
            detail += &format!("; and {more} more");
        }
        match self.members().any(|endpoint| endpoint.ready(now) == Ready::CircuitOpen) {
            true => Failure::upstream(Stage::Route, Reason::CircuitOpen, detail),
            false => unavailable(&detail),
        }
    }
}

#[cfg(test)]
mod tests;
