//! The endpoint set under thousands of random schedules: updates, picks, settlements, checks, jumps of time.
//!
//! A shadow that knows only what was done to the set, and its events, says after each step what must hold. Nothing sleeps
//! and nothing listens: time and chance are arguments. A schedule that fails prints its seed; `NUNCIO_SEED=N cargo test
//! --test sim` plays that one again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nuncio::failure::{BreakerClass, Reason};
use nuncio::upstream::balancer::Balance;
use nuncio::upstream::endpoint::{Endpoint, Health, Ready};
use nuncio::upstream::set::{Attempt, EndpointSet, Event};
use nuncio::upstream::{EndpointId, EndpointSpec, Settings, State, breaker};

const BALANCES: [Balance; 4] =
    [Balance::LeastConnections, Balance::RoundRobin, Balance::Random, Balance::SourceHash];

#[test]
fn whatever_happens_the_rules_of_the_set_hold() {
    for seed in seeds(2_000) {
        let _told = TellSeed(seed);
        let mut world = World::new(seed);
        for _ in 0..250 {
            world.step();
            world.must_hold();
        }
        world.heal();
        world.end();
    }
}

#[test]
fn every_balance_gives_each_its_share_while_connections_come_and_go() {
    for seed in seeds(24) {
        let _told = TellSeed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let balance = BALANCES[seed as usize % BALANCES.len()];
        let weights: Vec<u32> = (0..rng.usize(2..6)).map(|_| rng.u32(1..8)).collect();
        let mut set = EndpointSet::new(Settings { balance, ..Settings::default() });
        let now = Instant::now();
        let specs = weights.iter().enumerate().map(|(n, weight)| spec(n, *weight, false)).collect();
        set.update(specs, now, &mut rng);

        const PICKS: u32 = 6_000;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut live: Vec<Attempt> = Vec::new();
        for _ in 0..PICKS {
            let picked = set.pick(now, Some(rng.u64(..)), &[], &mut rng).unwrap();
            *counts.entry(picked.label.to_string()).or_default() += 1;
            live.push(picked.attempt);
            // Half the time busy, half the time nearly idle.
            while live.len() > rng.usize(0..40) {
                set.released(live.swap_remove(rng.usize(0..live.len())));
            }
        }
        let total: u32 = weights.iter().sum();
        for (n, weight) in weights.iter().enumerate() {
            let wanted = f64::from(*weight) / f64::from(total);
            let got = f64::from(counts[&label(n)]) / f64::from(PICKS);
            // Least connections trades exactness for balance: what it levels are the open ones.
            let slack = if balance == Balance::LeastConnections { 0.08 } else { 0.03 };
            assert!((got - wanted).abs() < slack, "{balance:?} {weights:?}: {counts:?}");
        }
    }
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

struct World {
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
    fn new(seed: u64) -> Self {
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
            ..Settings::default()
        };
        let mut world = World {
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

    fn step(&mut self) {
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
        let specs = (0..some)
            .map(|_| spec(self.rng.usize(0..8), self.rng.u32(0..4), self.rng.u32(0..4) == 0))
            .collect();
        self.set.update(specs, self.now, &mut self.rng);
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

    fn ready(&self, wanted: impl Fn(&Endpoint) -> bool) -> Vec<&Endpoint> {
        self.set.members().filter(|member| member.ready(self.now) == Ready::Yes && wanted(member)).collect()
    }

    fn pick(&mut self) {
        let ids: Vec<_> = self.set.members().map(Endpoint::id).collect();
        let tried: Vec<_> =
            (0..self.rng.usize(0..3)).filter_map(|_| self.rng.choice(ids.iter().copied())).collect();
        let untried_primaries = self.ready(|m| !m.spec().is_backup() && !tried.contains(&m.id())).len();
        let untried = self.ready(|m| !tried.contains(&m.id())).len();
        let ready = self.ready(|_| true).len();
        let rivals: Vec<_> = self
            .ready(|m| !m.spec().is_backup())
            .iter()
            .map(|m| (m.id(), m.open(), m.spec().weight))
            .collect();
        let out = self.set.members().any(|member| member.ready(self.now) == Ready::CircuitOpen);

        let picked = self.set.pick(self.now, Some(self.rng.u64(0..9)), &tried, &mut self.rng);
        self.hear();
        let picked = match picked {
            Ok(picked) => picked,
            Err(failure) => {
                assert_eq!(ready, 0, "{failure}");
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
        let was_ready = picked.attempt.is_trial() || member.breaker().state(self.now) == State::Closed;
        assert!(was_ready || self.set.panicking(), "only a panic lets through a circuit that is not closed");
        if ready > 0 && !tried.is_empty() {
            assert!(was_ready, "a retry takes no chances while somebody is ready");
        }
        if was_ready {
            assert!(!tried.contains(&id) || untried == 0, "tried again although another is left");
            assert!(
                !picked.spec.is_backup() || untried_primaries == 0,
                "a backup although a primary is ready"
            );
        }
        if let ([a, b], Balance::LeastConnections, true) =
            (&rivals[..], self.settings.balance, tried.is_empty())
            && was_ready
        {
            let (chosen, other) = if a.0 == id { (a, b) } else { (b, a) };
            let per_weight = |of: &(EndpointId, u32, u32)| f64::from(of.1) / f64::from(of.2);
            assert!(per_weight(chosen) <= per_weight(other), "{chosen:?} rather than {other:?}");
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

    /// Some connection goes on: is established, fails, ends, or is dropped.
    fn carry_on(&mut self) {
        if self.live.is_empty() {
            return;
        }
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
                self.set.established(&mut connection.attempt, self.now, Duration::ZERO);
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
        self.time_proves();
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
                Event::Health { .. } => {}
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

    fn must_hold(&mut self) {
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
        let mut tiers = [(0usize, 0usize, 0usize); 2];
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
                let (members, ready, out) = &mut tiers[usize::from(member.spec().is_backup())];
                *members += 1;
                *ready += usize::from(member.ready(self.now) == Ready::Yes);
                *out += usize::from(member.ready(self.now) == Ready::CircuitOpen);
            }
        }
        // What is out stays within the cap, or there is a panic in the tier that serves: asked as `pick` would see it.
        let excess = |tier: usize| {
            let (members, _, out) = tiers[tier];
            out > ((members as f64 * max_ejected).ceil() as usize).max(1)
        };
        let panics = match (tiers[0].1, tiers[1].1) {
            (0, 0) => excess(0) || excess(1),
            (0, _) => excess(1),
            _ => excess(0),
        };
        if let Ok(picked) = self.set.pick(self.now, None, &[], &mut self.rng) {
            self.set.released(picked.attempt);
        }
        assert_eq!(self.set.panicking(), panics, "{tiers:?}");
        self.hear();
    }

    /// Everybody serves again: those that carry traffic must come back, whatever was done to them.
    fn heal(&mut self) {
        self.manners.clear();
        while !self.live.is_empty() {
            self.drop_connection(0);
        }
        let tier_in_use =
            self.set.members().all(|member| member.spec().is_backup() || member.spec().weight == 0);
        for _ in 0..60 {
            self.now += self.settings.breaker.max_open / 20;
            let ids: Vec<_> = self.set.members().map(Endpoint::id).collect();
            for id in ids {
                self.check_as(id, true);
            }
            for source in 0..8 {
                if let Ok(picked) = self.set.pick(self.now, Some(source * 7919), &[], &mut self.rng) {
                    let mut attempt = picked.attempt;
                    self.set.established(&mut attempt, self.now, Duration::ZERO);
                    self.set.ended_well(attempt, self.now);
                }
            }
        }
        self.hear();
        for member in self.set.members() {
            assert_ne!(member.health(), Health::Down);
            let carries = member.spec().is_backup() == tier_in_use && member.spec().weight > 0;
            let hashed_past = self.settings.balance == Balance::SourceHash;
            if carries && !hashed_past {
                assert_eq!(member.breaker().state(self.now), State::Closed, "{:?}", member.breaker());
            }
            assert!(member.ready(self.now) != Ready::CircuitOpen, "open for ever");
        }
    }

    fn end(&mut self) {
        assert_eq!(self.set.open(), 0);
        self.set.update(Vec::new(), self.now, &mut self.rng);
        assert_eq!(self.set.members().count(), 0);
        let failure = self.set.pick(self.now, None, &[], &mut self.rng).expect_err("nobody is left");
        assert_eq!(failure.reason, Reason::DestinationUnavailable);
    }
}

fn label(n: usize) -> String {
    format!("e{n}:1")
}

fn spec(n: usize, weight: u32, backup: bool) -> EndpointSpec {
    EndpointSpec { weight, tier: backup.into(), ..EndpointSpec::new(label(n).parse().expect("an address")) }
}

/// The first `count` seeds, or the one that the environment names.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NUNCIO_SEED") {
        Ok(seed) => vec![seed.parse().expect("NUNCIO_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// Prints the seed when its schedule panics.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was seed {0}: NUNCIO_SEED={0} cargo test --test sim plays it again", self.0);
        }
    }
}
