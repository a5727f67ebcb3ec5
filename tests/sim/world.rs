//! A set, those who use it, and a shadow that says what must hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nuncio::failure::{BreakerClass, Reason};
use nuncio::upstream::balancer::Balance;
use nuncio::upstream::endpoint::{Endpoint, Health, Ready};
use nuncio::upstream::set::{Attempt, EndpointSet, Event, Unpicked};
use nuncio::upstream::{EndpointId, EndpointSpec, Limits, Settings, Standing, State, WhenUnready, breaker};

use super::{BALANCES, label, spec};

/// What a schedule may use beside breakers, checks, and primaries with their backups.
#[derive(Clone, Copy, Default)]
pub(crate) struct Uses {
    pub(crate) tiers: bool,
    pub(crate) zones: bool,
    pub(crate) limits: bool,
    pub(crate) slow_start: bool,
}

/// What an endpoint does to those who connect.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Serves,
    Refuses,
    /// Takes the handshake and hangs up.
    Slams,
    /// Either, by chance.
    Flaky,
}

/// A member that was ready before a pick.
#[derive(Debug)]
struct Alive {
    id: EndpointId,
    tier: u16,
    weight: u32,
    open: u32,
    near: bool,
    /// It is at its limit.
    full: bool,
}

/// How long it takes to be established.
const TOOK: Duration = Duration::from_millis(1);

/// A connection under way.
struct Connection {
    attempt: Attempt,
    id: EndpointId,
    /// It began after the circuit last opened or closed: its verdict counts.
    counts: bool,
    /// It has proved its endpoint by lasting, which it does once.
    proved: bool,
    established: Option<Instant>,
    /// It holds a trial of the present half-open time.
    trial: bool,
}

/// What the shadow knows of an endpoint, from what it did to it.
struct Shadow {
    open: u32,
    /// `None`: it had left for a while, and its events with it.
    state: Option<State>,
    /// Failures that counted, since the circuit last opened or closed.
    failures: u32,
    /// The first of them.
    began: Option<Instant>,
    /// Failures with no proof at all in between: the breaker, which may miss a proof, counts no fewer.
    streak: u32,
    down: bool,
    passes: u32,
    fails: u32,
}

impl Default for Shadow {
    fn default() -> Self {
        let state = Some(State::Closed);
        Shadow { open: 0, state, failures: 0, began: None, streak: 0, down: false, passes: 0, fails: 0 }
    }
}

impl Shadow {
    fn turned(&mut self) {
        (self.failures, self.began, self.streak) = (0, None, 0);
    }

    fn proved_by(&mut self, established: Option<Instant>) {
        if established.zip(self.began).is_some_and(|(at, began)| at >= began) {
            self.streak = 0;
        }
    }
}

/// Longer than any circuit is open.
const HOURS: Duration = Duration::from_secs(3 * 3600);

pub(crate) struct World {
    uses: Uses,
    settings: Settings,
    set: EndpointSet,
    rng: fastrand::Rng,
    now: Instant,
    manners: BTreeMap<String, Manner>,
    live: Vec<Connection>,
    shadows: BTreeMap<EndpointId, Shadow>,
    panicking: bool,
}

impl World {
    pub(crate) fn new(seed: u64, uses: Uses) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ms = Duration::from_millis;
        let settings = Settings {
            balance: BALANCES[rng.usize(0..BALANCES.len())],
            breaker: breaker::Settings {
                consecutive: rng.bool().then(|| rng.u32(1..6)),
                failure_rate: rng.bool().then(|| 0.2 + 0.6 * rng.f64()),
                minimum: rng.u32(1..20),
                open_for: ms(rng.u64(100..5_000)),
                max_open: ms(rng.u64(5_000..60_000)),
                half_open_trials: rng.u32(1..4),
                max_ejected: [0.0, 0.3, 0.5, 1.0][rng.usize(0..4)],
                early_close: ms(rng.u64(0..1_500)),
                ..breaker::Settings::default()
            },
            rise: rng.u32(1..4),
            fall: rng.u32(1..4),
            limits: Limits {
                connections_per_endpoint: uses.limits.then(|| rng.u32(1..6)),
                ..Limits::default()
            },
            slow_start: uses.slow_start.then(|| ms(rng.u64(1..60_000))),
            spill_over: (uses.tiers && rng.bool()).then(|| 0.05 + 0.95 * rng.f64()),
            leave_timeout: rng.bool().then_some(Duration::from_secs(1)),
            close_when_down: rng.bool(),
            when_unready: if rng.bool() { WhenUnready::Wait } else { WhenUnready::Refuse },
            zone: uses.zones.then(|| "z0".into()),
        };
        let mut world = World {
            uses,
            set: EndpointSet::new(settings.clone()),
            settings,
            rng,
            now: Instant::now(),
            manners: BTreeMap::new(),
            live: Vec::new(),
            shadows: BTreeMap::new(),
            panicking: false,
        };
        world.update();
        world
    }

    pub(crate) fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..35 => self.pick(),
            35..75 => self.carry_on(),
            75..85 => self.check(),
            85..88 => self.update(),
            88..90 => self.change_manner(),
            90..98 => self.now += Duration::from_millis(self.rng.u64(0..400)),
            _ => self.now += Duration::from_millis(self.rng.u64(0..20_000)),
        }
        self.hear();
    }

    fn update(&mut self) {
        let some = self.rng.usize(0..7);
        let specs = (0..some).map(|_| self.spec()).collect();
        self.set.update(specs, self.now, &mut self.rng);
    }

    fn spec(&mut self) -> EndpointSpec {
        let Uses { tiers, zones, .. } = self.uses;
        let tier = if tiers {
            [0, 0, 1, 2, 7, 65535][self.rng.usize(0..6)]
        } else {
            u16::from(self.rng.u32(0..4) == 0)
        };
        let zone = match self.rng.u32(0..4) {
            1.. if zones => Some(format!("z{}", self.rng.u32(0..3)).into()),
            _ => None,
        };
        EndpointSpec { tier, zone, ..spec(self.rng.usize(0..8), self.rng.u32(0..4)) }
    }

    fn change_manner(&mut self) {
        let manners = [Manner::Serves, Manner::Refuses, Manner::Slams, Manner::Flaky];
        let manner = manners[self.rng.usize(0..4)];
        self.manners.insert(label(self.rng.usize(0..8)), manner);
    }

    fn manner(&mut self, id: EndpointId) -> Manner {
        let Some(member) = self.set.members().find(|member| member.id() == id) else { return Manner::Serves };
        match self.manners.get(&member.spec().address.to_string()) {
            Some(Manner::Flaky) if self.rng.bool() => Manner::Refuses,
            Some(Manner::Flaky) | None => Manner::Serves,
            Some(manner) => *manner,
        }
    }

    /// Members that are ready, at their limit or not, in the order of their tiers.
    fn alive(&self) -> Vec<Alive> {
        let zone = &self.settings.zone;
        let alive = self.set.members().filter_map(|member| {
            let full = match member.ready(self.now) {
                Ready::Yes => false,
                Ready::Full => true,
                Ready::Leaving | Ready::NoWeight | Ready::KeptOut | Ready::Down | Ready::CircuitOpen => {
                    return None;
                }
            };
            let EndpointSpec { weight, tier, zone: of, .. } = member.spec();
            let near = zone.is_some() && zone == of;
            Some(Alive { id: member.id(), tier: *tier, weight: *weight, open: member.open(), near, full })
        });
        let mut alive: Vec<_> = alive.collect();
        alive.sort_by_key(|alive| alive.tier);
        alive
    }

    /// Does a tier have less than the share of its weight ready that lets it keep all connections?
    fn spills(&self, tier: u16, alive: &[Alive]) -> bool {
        let weight: u32 = self.set.members().filter(|m| m.spec().tier == tier).map(|m| m.spec().weight).sum();
        let ready: u32 = alive.iter().filter(|alive| alive.tier == tier).map(|alive| alive.weight).sum();
        self.settings.spill_over.is_some_and(|share| f64::from(ready) < share * f64::from(weight))
    }

    /// Has the own zone less than its fair share of what is ready in a tier?
    fn near_is_short(&self, tier: u16, alive: &[Alive]) -> bool {
        let members = self.set.members().filter(|m| m.spec().tier == tier && m.spec().weight > 0);
        let mut zones: Vec<_> = members.map(|member| member.spec().zone.clone()).collect();
        zones.sort();
        zones.dedup();
        let weight = |near_only: bool| -> u32 {
            let of_tier = alive.iter().filter(|alive| alive.tier == tier && (alive.near || !near_only));
            of_tier.map(|alive| alive.weight).sum()
        };
        weight(true) * (zones.len() as u32) < weight(false)
    }

    fn pick(&mut self) {
        let ids: Vec<_> = self.set.members().map(Endpoint::id).collect();
        let tried: Vec<_> =
            (0..self.rng.usize(0..3)).filter_map(|_| self.rng.choice(ids.iter().copied())).collect();
        let alive = self.alive();
        let out = self.set.members().any(|member| member.ready(self.now) == Ready::CircuitOpen);
        let most = self.settings.limits.connections_per_endpoint.unwrap_or(u32::MAX);
        self.standing_must_be_true(&alive);

        let picked = self.set.pick(self.now, Some(self.rng.u64(0..9)), &tried, &mut self.rng);
        self.hear();
        let picked = match picked {
            Ok(picked) => picked,
            Err(Unpicked::Full) => return self.must_be_full(&alive),
            Err(Unpicked::Nobody(failure) | Unpicked::NotYet(failure)) => {
                assert!(alive.is_empty(), "{failure}");
                assert!(!self.set.panicking(), "a panic lets through: {failure}");
                let reason = if out { Reason::CircuitOpen } else { Reason::DestinationUnavailable };
                assert_eq!(failure.reason, reason, "{failure}");
                return;
            }
        };
        let id = picked.attempt.endpoint();
        let member =
            self.set.members().find(|member| member.id() == id).expect("a member, not one that left");
        assert!(picked.spec.weight > 0 && *picked.spec == *member.spec());
        assert_ne!(member.health(), Health::Down);
        assert!(member.open() <= most, "{} of {most}", member.open());
        match alive.iter().find(|alive| alive.id == id) {
            Some(was) => self.must_be_its_turn(was, &alive, &tried),
            None => {
                assert!(self.set.panicking(), "only a panic lets through a circuit that is not closed");
                assert!(
                    alive.is_empty() || tried.is_empty(),
                    "a retry takes no chances while somebody is ready"
                );
            }
        }

        let shadow = self.shadows.entry(id).or_default();
        shadow.open += 1;
        let trial = picked.attempt.is_trial();
        self.live.push(Connection {
            attempt: picked.attempt,
            id,
            counts: true,
            proved: false,
            established: None,
            trial,
        });
    }

    /// Whether anybody can be used is told, and for how long that holds if nothing happens.
    fn standing_must_be_true(&self, alive: &[Alive]) {
        let standing = self.set.standing(self.now);
        assert_eq!(standing.is_usable(), !alive.is_empty(), "{standing:?}");
        if let Standing::Unready { until } = standing {
            let before = until.map_or(self.now + HOURS, |until| until - Duration::from_nanos(1));
            assert!(!self.set.standing(before).is_usable(), "{standing:?}");
        }
    }

    /// Only who serves may be busy, and all of them; in a panic, those let through.
    fn must_be_full(&self, alive: &[Alive]) {
        let Some(lowest) = alive.first().map(|alive| alive.tier) else {
            let most = self.settings.limits.connections_per_endpoint.expect("there is a limit");
            let is_full = |m: &Endpoint| m.ready(self.now) == Ready::CircuitOpen && m.open() >= most;
            assert!(self.set.panicking() && self.set.members().any(is_full));
            return;
        };
        assert!(alive.iter().filter(|alive| alive.tier == lowest).all(|alive| alive.full), "{alive:?}");
    }

    /// One that was ready was picked: rightly?
    fn must_be_its_turn(&self, was: &Alive, alive: &[Alive], tried: &[EndpointId]) {
        assert!(!was.full, "it was at its limit");
        let untried = || alive.iter().filter(|alive| !tried.contains(&alive.id));
        if tried.contains(&was.id) {
            let none_with_room = untried().next().is_none() || untried().any(|other| other.full);
            assert!(none_with_room, "tried again although another is left");
        } else {
            let before = untried().find(|other| other.tier < was.tier);
            assert!(
                before.is_none_or(|before| self.spills(before.tier, alive)),
                "a tier was passed over: {was:?} rather than {before:?}"
            );
        }
        let is_rival = |other: &&Alive| other.tier == was.tier && !other.full && other.near == was.near;
        let nearer = || alive.iter().find(|other| other.tier == was.tier && other.near && !other.full);
        if tried.is_empty() && self.settings.zone.is_some() && !was.near {
            assert!(
                nearer().is_none() || self.near_is_short(was.tier, alive),
                "the own zone was passed over: {alive:?}"
            );
        }
        let rivals: Vec<_> = alive.iter().filter(is_rival).collect();
        if let ([a, b], Balance::LeastConnections, true, None) =
            (&rivals[..], self.settings.balance, tried.is_empty(), self.settings.slow_start)
        {
            let (chosen, other) = if a.id == was.id { (a, b) } else { (b, a) };
            let per_weight = |of: &Alive| f64::from(of.open) / f64::from(of.weight);
            assert!(per_weight(chosen) <= per_weight(other), "{chosen:?} rather than {other:?}");
        }
    }

    /// Some connection goes on: is established, fails, ends, or is dropped.
    fn carry_on(&mut self) {
        if self.live.is_empty() {
            return;
        }
        self.time_proves();
        let place = self.rng.usize(0..self.live.len());
        let manner = self.manner(self.live[place].id);
        if self.rng.u32(0..12) == 0 {
            return self.drop_connection(place);
        }
        match (self.live[place].established, manner) {
            (None, Manner::Refuses) => self.fail(place, BreakerClass::Refused),
            (None, _) => {
                let connection = &mut self.live[place];
                connection.established = Some(self.now);
                self.set.established(&mut connection.attempt, self.now, TOOK);
            }
            (Some(_), Manner::Slams) => self.fail(place, BreakerClass::EarlyClose),
            (Some(_), _) => {
                let connection = self.live.swap_remove(place);
                let shadow = self.settled(connection.id);
                if connection.counts {
                    shadow.proved_by(connection.established);
                }
                self.set.ended_well(connection.attempt, self.now);
            }
        }
    }

    fn fail(&mut self, place: usize, class: BreakerClass) {
        let connection = self.live.swap_remove(place);
        let now = self.now;
        let shadow = self.settled(connection.id);
        if connection.counts {
            shadow.failures += 1;
            shadow.streak += 1;
            shadow.began.get_or_insert(now);
        }
        let was = self.state(connection.id);
        self.set.failed(connection.attempt, self.now, class, "as told", &mut self.rng);
        if was == Some(State::HalfOpen) && connection.trial {
            assert_eq!(self.state(connection.id), Some(State::Open), "a failed trial opens it again");
        }
    }

    fn drop_connection(&mut self, place: usize) {
        let connection = self.live.swap_remove(place);
        self.settled(connection.id);
        let was = self.state(connection.id);
        self.set.released(connection.attempt);
        assert_eq!(self.state(connection.id), was.filter(|_| self.state(connection.id).is_some()));
    }

    fn settled(&mut self, id: EndpointId) -> &mut Shadow {
        let shadow = self.shadows.entry(id).or_default();
        shadow.open -= 1;
        shadow
    }

    /// Connections that have lived for `early_close` prove their endpoints.
    fn time_proves(&mut self) {
        let early_close = self.settings.breaker.early_close;
        for connection in self.live.iter_mut().filter(|connection| connection.counts && !connection.proved) {
            if let Some(at) = connection.established.filter(|at| self.now >= *at + early_close) {
                connection.proved = true;
                self.shadows.entry(connection.id).or_default().proved_by(Some(at));
            }
        }
    }

    fn state(&self, id: EndpointId) -> Option<State> {
        let member = self.set.members().find(|member| member.id() == id)?;
        Some(member.breaker().state(self.now))
    }

    fn check(&mut self) {
        let ids: Vec<_> = self.set.members().map(Endpoint::id).collect();
        let Some(id) = self.rng.choice(ids.iter().copied()) else { return };
        let passed = match self.manner(id) {
            Manner::Serves | Manner::Slams => self.rng.u32(0..20) > 0,
            Manner::Refuses | Manner::Flaky => self.rng.u32(0..20) == 0,
        };
        self.check_as(id, passed);
    }

    fn check_as(&mut self, id: EndpointId, passed: bool) {
        let Settings { rise, fall, .. } = self.settings;
        let shadow = self.shadows.entry(id).or_default();
        (shadow.passes, shadow.fails) = if passed { (shadow.passes + 1, 0) } else { (0, shadow.fails + 1) };
        match shadow.down {
            true if shadow.passes >= rise => shadow.down = false,
            false if shadow.fails >= fall => shadow.down = true,
            _ => {}
        }
        let result = if passed { Ok(()) } else { Err((BreakerClass::Timeout, "no answer".to_owned())) };
        self.set.check_result(id, self.now, result);
    }

    /// Follows the set's events.
    fn hear(&mut self) {
        for event in self.set.take_events() {
            match event {
                Event::Panic(on) => {
                    assert_ne!(self.panicking, on, "told only at the flip");
                    self.panicking = on;
                }
                Event::Health { .. } | Event::Ends(..) => {}
                Event::Breaker(label, transition) => {
                    let Some(member) =
                        self.set.members().find(|member| member.spec().address.to_string() == *label)
                    else {
                        continue;
                    };
                    let id = member.id();
                    let shadow = self.shadows.entry(id).or_default();
                    // An endpoint that leaves is not followed: its state may have moved on when it comes back.
                    if let Some(from) = shadow.state {
                        assert_ne!(from, transition.to, "told only at the flip");
                    }
                    if (shadow.state, transition.to) == (Some(State::Closed), State::Open)
                        && let breaker::Settings { consecutive: Some(limit), failure_rate: None, .. } =
                            self.settings.breaker
                    {
                        assert!(shadow.failures >= limit, "opened after {} failures", shadow.failures);
                    }
                    shadow.state = Some(transition.to);
                    if transition.to != State::HalfOpen {
                        shadow.turned();
                        for connection in self.live.iter_mut().filter(|connection| connection.id == id) {
                            (connection.trial, connection.counts) = (false, false);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn must_hold(&mut self) {
        let breaker::Settings { half_open_trials, early_close, max_ejected, consecutive, .. } =
            self.settings.breaker;
        assert_eq!(self.set.open(), self.live.len());
        let gone: Vec<_> =
            self.shadows.keys().filter(|id| self.set.members().all(|m| m.id() != **id)).copied().collect();
        for id in gone {
            // It may come back as the same one while its connections last; what it was then is not followed.
            let shadow = self.shadows.entry(id).or_default();
            match shadow.open {
                0 => drop(self.shadows.remove(&id)),
                _ => shadow.state = None,
            }
        }
        let mut tiers: BTreeMap<u16, (usize, usize, usize)> = BTreeMap::new();
        for member in self.set.members() {
            let shadow = self.shadows.entry(member.id()).or_default();
            assert_eq!(member.open(), shadow.open);
            assert_eq!(member.health() == Health::Down, shadow.down);
            let trials = self.live.iter().filter(|connection| {
                let settled = connection.established.is_some_and(|at| self.now >= at + early_close);
                connection.id == member.id() && connection.trial && !settled
            });
            assert!(trials.count() <= half_open_trials as usize);
            assert!(member.breaker().trials() <= half_open_trials as usize);
            if let (Some(limit), Some(State::Closed)) = (consecutive, shadow.state) {
                assert!(shadow.streak < limit, "closed after {} failures in a row", shadow.streak);
            }
            if member.spec().weight > 0 {
                let (members, alive, out) = tiers.entry(member.spec().tier).or_default();
                *members += 1;
                *alive += usize::from(matches!(member.ready(self.now), Ready::Yes | Ready::Full));
                *out += usize::from(member.ready(self.now) == Ready::CircuitOpen);
            }
        }
        // What is out stays within the cap, or there is a panic in the tier that serves: asked as `pick` would see it.
        let excess = |(members, _, out): &(usize, usize, usize)| {
            *out > ((*members as f64 * max_ejected).ceil() as usize).max(1)
        };
        let panics = match tiers.values().find(|(_, alive, _)| *alive > 0) {
            Some(serving) => excess(serving),
            // Who may wait takes no chances.
            None => self.settings.when_unready != WhenUnready::Wait && tiers.values().any(excess),
        };
        if let Ok(picked) = self.set.pick(self.now, None, &[], &mut self.rng) {
            self.set.released(picked.attempt);
        }
        assert_eq!(self.set.panicking(), panics, "{tiers:?}");
        self.hear();
    }

    /// Everybody serves again: those that carry traffic must come back, whatever was done to them.
    pub(crate) fn heal(&mut self) {
        self.manners.clear();
        while !self.live.is_empty() {
            self.drop_connection(0);
        }
        let weighty = |member: &&Endpoint| member.spec().weight > 0;
        let in_use = self.set.members().filter(weighty).map(|member| member.spec().tier).min();
        // Long enough for a circuit, and for a peak to fade.
        let step = (self.settings.breaker.max_open / 20).max(Duration::from_secs(4));
        for _ in 0..60 {
            self.now += step;
            let ids: Vec<_> = self.set.members().map(Endpoint::id).collect();
            for id in ids {
                self.check_as(id, true);
            }
            for source in 0..8 {
                if let Ok(picked) = self.set.pick(self.now, Some(source * 7919), &[], &mut self.rng) {
                    let mut attempt = picked.attempt;
                    self.set.established(&mut attempt, self.now, TOOK);
                    self.set.ended_well(attempt, self.now);
                }
            }
        }
        self.hear();
        let alive = self.alive();
        for member in self.set.members() {
            assert_ne!(member.health(), Health::Down);
            let EndpointSpec { tier, weight, zone, .. } = member.spec();
            // Of its tier, those of the own zone alone, if they are as many as is fair.
            let near = |zone: &Option<_>| self.settings.zone.is_some() && *zone == self.settings.zone;
            let any_near = alive.iter().any(|other| other.tier == *tier && other.near);
            let is_near_enough = near(zone) || !any_near || self.near_is_short(*tier, &alive);
            let carries = Some(*tier) == in_use && *weight > 0 && is_near_enough;
            let hashed_past = self.settings.balance.goes_by_source();
            if carries && !hashed_past {
                assert_eq!(member.breaker().state(self.now), State::Closed, "{:?}", member.breaker());
            }
            assert!(member.ready(self.now) != Ready::CircuitOpen, "open for ever");
        }
    }

    pub(crate) fn end(&mut self) {
        assert_eq!(self.set.open(), 0);
        self.set.update(Vec::new(), self.now, &mut self.rng);
        assert_eq!(self.set.members().count(), 0);
        let (Err(Unpicked::Nobody(failure)) | Err(Unpicked::NotYet(failure))) =
            self.set.pick(self.now, None, &[], &mut self.rng)
        else {
            panic!("nobody is left");
        };
        assert_eq!(failure.reason, Reason::DestinationUnavailable);
    }
}
