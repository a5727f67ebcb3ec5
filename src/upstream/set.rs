//! The endpoint set: membership updates, picking, settling. Pure: time and chance are passed in.
//!
//! Who may be picked, in this order:
//! 1. Ready ones of the lowest tier that has any, first those that this connection has not tried, in whatever tier, then those
//!    that it has. So a retry goes to a backup before it goes back, and a single endpoint may be tried again.
//! 2. With nobody ready: endpoints let through their open circuits in a panic, see below; without any, a failure at once.
//!    Endpoints that health checks hold down are never picked: everything down is `destination_unavailable`, not a gamble.
//!    Where connections wait for somebody to be ready (`when_unready = "wait"`), that takes the panic's place.
//!
//! Limit: an endpoint that has `limits.connections_per_endpoint` of them counts as ready, in all that follows, and is not
//! picked: who is busy is not gone, so backups don't come in for him. When all that serve are at it, the connection waits;
//! so it does in a panic, when all that it is let through to are.
//!
//! Spill-over: with `spill_over = s`, a tier of whose weight the share r is ready keeps min(1, r / s) of the connections, and
//! the others go on to the next tier. Without, it keeps all of them while anyone is ready. The last one keeps what comes.
//!
//! Zones: within a tier, endpoints of the ambassador's own zone come first. Their fair share is 1 / z of what is ready, in a
//! tier that has members in z zones (clients are taken to be spread evenly over them). With less, they keep as much of the
//! connections as they have of that share; the others go to the tier's other zones.
//!
//! Where a source stays with its endpoint, the source and not chance decides who goes on to another tier or zone.
//!
//! The ejection cap: of a tier's `n` members (weight above 0), at most `max(1, ceil(n × max_ejected))` may be out by their
//! circuits. The excess, least bad first (fewest failed trials, then the first to be tried again), is let through: that is
//! a panic, and it is told. With one endpoint there is none, it fails at once. While others of the tier are ready, those let
//! through get one first attempt in ten: enough to undo a wrong ejection with the first connection that works, too little
//! for dead endpoints to eat the retry budget. (Not `floor`: with three endpoints of which two are dead, it would send
//! connections to one of the dead.)
//!
//! Slow start: an endpoint that comes to a set which had others, or comes back by its checks or its circuit, begins with a
//! tenth of its weight and has all of it after `slow_start`.
//!
//! Leaves who it will be among those to [`choice`] and `balancer`, and locking, queueing and telling to the shell in `mod`.

mod choice;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::balancer::Candidate;
use super::breaker::{self, Pass, Transition};
use super::endpoint::{Endpoint, EndpointId, Ready};
use super::ends::Ending;
use super::{EndpointSpec, Settings, Standing, WhenUnready};
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

/// Why nobody was picked.
#[derive(Debug)]
pub enum Unpicked {
    /// All that serve are at their limit: it may wait.
    Full,
    /// Nobody is there, and it may wait until somebody is. Else, this is why it is refused.
    NotYet(Failure),
    /// Nobody is there to wait for.
    Nobody(Failure),
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
    /// The connections that are open to this endpoint have to end.
    Ends(EndpointId, Ending),
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub struct EndpointSet {
    settings: Settings,
    pub(super) breaker: Arc<breaker::Settings>,
    pub(super) endpoints: Vec<Endpoint>,
    ids: u64,
    /// Has there been an update at all, since there is a source?
    known: bool,
    /// Who was a member before the source became another one, and is not until that one has answered.
    forgotten: Vec<EndpointId>,
    panicking: bool,
    pub(super) events: Vec<Event>,
    /// Those of the members, lowest first.
    tiers: Vec<choice::Tier>,
    tables: choice::Tables,
    scratch: Vec<Candidate>,
}

impl EndpointSet {
    /// An empty set, whose endpoints are not known yet.
    pub fn new(settings: Settings) -> Self {
        EndpointSet {
            breaker: Arc::new(settings.breaker.clone()),
            settings,
            endpoints: Vec::new(),
            ids: 0,
            known: false,
            forgotten: Vec::new(),
            panicking: false,
            events: Vec::new(),
            tiers: Vec::new(),
            tables: choice::Tables::default(),
            scratch: Vec::new(),
        }
    }

    /// The members are these from now on. Those that stay (by address and server name) keep their state; those that left
    /// take no new connections and are forgotten with their last one. Of two that are the same, the first counts.
    pub fn update(&mut self, specs: Vec<EndpointSpec>, now: Instant, rng: &mut fastrand::Rng) {
        self.known = true;
        let had_others = self.members().next().is_some();
        let mut places: HashMap<_, _> = self.endpoints.iter().map(Endpoint::identity).zip(0..).collect();
        let mut before = std::mem::take(&mut self.forgotten);
        before.extend(self.members().map(Endpoint::id));
        for endpoint in &mut self.endpoints {
            endpoint.leaving = true;
        }
        for spec in specs {
            match places.get(&(spec.address.clone(), spec.server_name.clone())) {
                Some(place) => {
                    let member = &mut self.endpoints[*place];
                    if member.leaving && *member.spec != spec {
                        member.spec = Arc::new(spec);
                    }
                    member.leaving = false;
                }
                None => {
                    self.ids += 1;
                    let id = EndpointId(self.ids);
                    let mut member = Endpoint::new(id, spec, self.breaker.clone(), now, rng);
                    member.warming_since = had_others.then_some(now);
                    places.insert(member.identity(), self.endpoints.len());
                    self.endpoints.push(member);
                }
            }
        }
        if let Some(limit) = self.settings.leave_timeout {
            let left =
                self.endpoints.iter().filter(|endpoint| endpoint.leaving && before.contains(&endpoint.id));
            let left: Vec<_> = left.map(|endpoint| Event::Ends(endpoint.id, Ending::After(limit))).collect();
            self.events.extend(left);
        }
        self.endpoints.retain(|endpoint| !endpoint.leaving || endpoint.open > 0);
        self.members_changed();
    }

    /// Nobody is a member until the next update. Whoever is one then, and was one before, has kept their state.
    pub fn forget_members(&mut self) {
        self.known = false;
        let members: Vec<_> = self.members().map(Endpoint::id).collect();
        self.forgotten.extend(members);
        for endpoint in &mut self.endpoints {
            endpoint.leaving = true;
        }
        self.members_changed();
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
        self.members_changed();
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
        let id = attempt.endpoint;
        self.settle(attempt, Some(now), |endpoint, pass| endpoint.failed(pass, now, class, detail, rng));
        self.compare(id, now, rng);
    }

    /// It goes on, and has failed all the same; its end says nothing more.
    pub fn failed_meanwhile(
        &mut self,
        attempt: &mut Attempt,
        now: Instant,
        class: BreakerClass,
        rng: &mut fastrand::Rng,
    ) {
        if let Some(place) = self.advanced(attempt.endpoint, now) {
            let transition = self.endpoints[place].failed_meanwhile(&mut attempt.pass, now, class, rng);
            self.tell(place, transition);
            self.compare(attempt.endpoint, now, rng);
        }
    }

    /// Its client awaits its first answer.
    pub fn asks(&mut self, attempt: &Attempt, now: Instant) {
        if let Some(place) = self.advanced(attempt.endpoint, now) {
            self.endpoints[place].breaker.asks(&attempt.pass);
        }
    }

    /// The server said its first words, and in time.
    pub fn answers(&mut self, attempt: &Attempt, now: Instant) {
        if let Some(place) = self.advanced(attempt.endpoint, now) {
            self.endpoints[place].breaker.answers(&attempt.pass, now);
        }
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
        let transition = endpoint.breaker.checked(result.is_ok(), now);
        if let Some(up) = flip {
            let why = result.map_or_else(|(_, detail)| detail, |()| "it passes its checks".into());
            self.events.push(Event::Health { endpoint: endpoint.label.clone(), up, why });
            if !up && self.settings.close_when_down {
                self.events.push(Event::Ends(id, Ending::Now));
            }
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

    /// An endpoint's place, after time has acted on its circuit.
    fn advanced(&mut self, id: EndpointId, now: Instant) -> Option<usize> {
        let place = self.place_of(id)?;
        self.advance(place, now);
        Some(place)
    }

    /// Ids are given in order, and endpoints keep theirs.
    pub(super) fn place_of(&self, id: EndpointId) -> Option<usize> {
        self.endpoints.binary_search_by_key(&id, |endpoint| endpoint.id).ok()
    }

    fn advance(&mut self, place: usize, now: Instant) {
        let transition = self.endpoints[place].breaker.advance(now);
        self.tell(place, transition);
        if self.settings.slow_start.is_some() {
            self.endpoints[place].look_whether_back(now);
        }
    }

    /// Nobody wants to hear of the circuit of an endpoint that left.
    pub(super) fn tell(&mut self, place: usize, transition: Option<Transition>) {
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
        let Some(place) = self.place_of(attempt.endpoint) else { return };
        if let Some(now) = now {
            self.advance(place, now);
        }
        let endpoint = &mut self.endpoints[place];
        let transition = verdict(endpoint, attempt.pass);
        if endpoint.leaving && endpoint.open == 0 && !self.forgotten.contains(&endpoint.id) {
            self.endpoints.remove(place);
        } else {
            self.tell(place, transition);
        }
    }

    /// How many of those that may be picked are at their limit, and what that is: for whoever asks why he waits.
    pub(super) fn full(&mut self, now: Instant) -> (usize, u32) {
        let through = self.census(now, &[]);
        let through = through.iter().filter(|place| !self.endpoints[**place].has_room()).count();
        let full = self.members().filter(|member| member.ready(now) == Ready::Full).count();
        (full + through, self.settings.limits.connections_per_endpoint.unwrap_or(u32::MAX))
    }

    /// What connections meet while nobody is ready.
    pub(super) fn when_unready(&self) -> WhenUnready {
        self.settings.when_unready
    }

    /// Why nobody can be picked, where connections wait for somebody to be ready.
    pub(super) fn awaited(&self, now: Instant) -> Option<Failure> {
        let waits = self.settings.when_unready == WhenUnready::Wait;
        (waits && self.standing(now) != Standing::Usable).then(|| self.nobody(now))
    }

    /// Has there been an update at all, since there is a source?
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// Why nobody can be picked.
    fn nobody(&self, now: Instant) -> Failure {
        let unavailable =
            |detail: &str| Failure::upstream(Stage::Route, Reason::DestinationUnavailable, detail);
        if self.members().next().is_none() {
            return match self.known {
                true => unavailable("the upstream has no endpoints"),
                false => unavailable(
                    "the upstream's endpoints are not known yet: their source has not answered",
                )
                .mend(
                    "mend what keeps it from naming them: nuncio keeps asking, and serves as soon as it does",
                ),
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
