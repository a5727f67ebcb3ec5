//! Circuits under thousands of random schedules: failures of every class, trials, checks, operators, reloads, jumps of time.
//!
//! Each schedule is played twice: as it is, and as a shadow, which enforces nothing. Nothing sleeps:
//! time and chance are arguments. A schedule that fails prints its seed; `NUNCIO_SEED=N cargo test --test sim_breaker` plays
//! that one again.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::time::{Duration, Instant};

use nuncio::failure::BreakerClass;
use nuncio::upstream::breaker::{self, Mode, Trials};
use nuncio::upstream::endpoint::{Endpoint, Ready};
use nuncio::upstream::operator::Order;
use nuncio::upstream::set::{Attempt, EndpointSet, Event, Unpicked};
use nuncio::upstream::{EndpointSpec, Settings, State};

const SCHEDULES: u64 = 4_000;
const STEPS: usize = 150;

/// Says which schedule it was.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("NUNCIO_SEED={} plays it again", self.0);
        }
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("NUNCIO_SEED") {
        Ok(seed) => vec![seed.parse().expect("NUNCIO_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn settings(rng: &mut fastrand::Rng) -> breaker::Settings {
    let ms = Duration::from_millis;
    let mut settings = breaker::Settings {
        consecutive: (rng.u8(0..4) > 0).then(|| rng.u32(1..8)),
        failure_rate: rng.bool().then(|| 0.2 + 0.6 * rng.f64()),
        outlier: rng.bool().then(|| 0.5 + 2.0 * rng.f64()),
        outlier_endpoints: rng.u32(2..4),
        minimum: rng.u32(1..10),
        open_for: ms(rng.u64(100..5_000)),
        max_open: ms(rng.u64(5_000..60_000)),
        half_open_trials: rng.u32(1..4),
        trials: *rng.choice(&[Trials::Clients, Trials::Checks]).unwrap(),
        max_ejected: *rng.choice(&[0.0, 0.5, 1.0]).unwrap(),
        early_close: ms(rng.u64(0..1_500)),
        zero_byte: rng.bool().then(|| ms(rng.u64(1_500..5_000))),
        ..breaker::Settings::default()
    };
    for class in BreakerClass::ALL {
        settings.weights.set(class, rng.u32(0..4));
    }
    settings
}

struct Connection {
    attempt: Attempt,
    established: bool,
    judged: bool,
}

struct World {
    set: EndpointSet,
    settings: Settings,
    rng: fastrand::Rng,
    now: Instant,
    live: Vec<Connection>,
    orders: [(bool, Option<Order>); 3],
    /// The last check that passed, for each, since its circuit was last told to be open.
    passed: [bool; 3],
    /// What the failures weigh that its circuit may have counted.
    weight: [u32; 3],
    told: Vec<(String, State, Mode)>,
    operated: bool,
}

fn label(place: usize) -> String {
    format!("db{place}:1")
}

impl World {
    fn new(seed: u64, shadow: bool) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let breaker = breaker::Settings { shadow, ..settings(&mut rng) };
        // Health itself takes nobody out here: it would hide what the circuits do.
        let settings = Settings { breaker, fall: u32::MAX, ..Settings::default() };
        let mut set = EndpointSet::new(settings.clone());
        let now = Instant::now();
        let specs = (0..3).map(|place| EndpointSpec::new(label(place).parse().unwrap())).collect();
        set.update(specs, now, &mut rng);
        World {
            set,
            settings,
            rng,
            now,
            live: Vec::new(),
            orders: [(false, None); 3],
            passed: [false; 3],
            weight: [0; 3],
            told: Vec::new(),
            operated: false,
        }
    }

    fn endpoint(&self, place: usize) -> &Endpoint {
        self.set.members().nth(place).unwrap()
    }

    fn place_of(&self, attempt: &Attempt) -> usize {
        self.set.members().position(|member| member.id() == attempt.endpoint()).unwrap()
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..35 => self.pick(),
            35..75 => self.carry_on(),
            75..84 => self.check(),
            84..88 => self.operate(),
            88..90 => {
                self.set.reconfigure(self.settings.clone(), self.now);
            }
            90..97 => self.now += Duration::from_millis(self.rng.u64(0..500)),
            _ => self.now += Duration::from_millis(self.rng.u64(0..90_000)),
        }
        self.hear();
    }

    fn pick(&mut self) {
        let before: Vec<_> = (0..3).map(|place| self.endpoint(place).ready(self.now)).collect();
        match self.set.pick(self.now, None, &[], &mut self.rng) {
            Ok(picked) => {
                let place = self.place_of(&picked.attempt);
                let (drained, held) = self.orders[place];
                assert!(!drained, "an operator drained it");
                assert_ne!(held, Some(Order::Open), "an operator holds it open, also in a panic");
                if before[place] != Ready::Yes {
                    assert!(self.set.panicking(), "{:?}", before[place]);
                }
                self.live.push(Connection { attempt: picked.attempt, established: false, judged: false });
            }
            Err(Unpicked::Full | Unpicked::NotYet(_)) => panic!("there is no limit, and nobody waits"),
            Err(Unpicked::Nobody(failure)) => {
                assert!(before.iter().all(|ready| *ready != Ready::Yes), "{failure}");
                let kept_out =
                    self.orders.iter().all(|(drained, held)| *drained || *held == Some(Order::Open));
                assert!(!self.settings.breaker.shadow || kept_out, "a shadow refuses nobody: {failure}");
            }
        }
    }

    fn carry_on(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let mut connection = self.live.swap_remove(self.rng.usize(0..self.live.len()));
        let place = self.place_of(&connection.attempt);
        let class = *self.rng.choice(&BreakerClass::ALL).unwrap();
        // One of them is worse than the others.
        let fails = self.rng.u32(0..10) < if place == 0 { 6 } else { 3 };
        match (connection.established, fails) {
            (_, true) if connection.established && !connection.judged && self.rng.bool() => {
                self.set.failed_meanwhile(&mut connection.attempt, self.now, class, &mut self.rng);
                self.weight[place] += self.settings.breaker.weights.of(class);
                connection.judged = true;
                self.live.push(connection);
            }
            (_, true) => {
                if !connection.judged {
                    self.weight[place] += self.settings.breaker.weights.of(class);
                }
                self.set.failed(connection.attempt, self.now, class, "seen", &mut self.rng);
            }
            (false, false) => {
                self.set.established(&mut connection.attempt, self.now, Duration::ZERO);
                connection.established = true;
                self.live.push(connection);
            }
            (true, false) => match self.rng.u8(0..4) {
                0 => {
                    self.set.asks(&connection.attempt, self.now);
                    self.live.push(connection);
                }
                1 => {
                    self.set.answers(&connection.attempt, self.now);
                    self.live.push(connection);
                }
                2 => self.set.ended_well(connection.attempt, self.now),
                _ => self.set.released(connection.attempt),
            },
        }
    }

    fn check(&mut self) {
        let place = self.rng.usize(0..3);
        let id = self.endpoint(place).id();
        let passes = self.rng.bool();
        let result = if passes { Ok(()) } else { Err((BreakerClass::Refused, "no".to_owned())) };
        self.passed[place] |= passes;
        self.set.check_result(id, self.now, result);
    }

    fn operate(&mut self) {
        let (place, order) = (self.rng.usize(0..3), *self.rng.choice(&Order::ALL).unwrap());
        assert_eq!(self.set.operate(&label(place), order, self.now), 1);
        let (drained, held) = &mut self.orders[place];
        match order {
            Order::Drain => *drained = true,
            Order::Undrain => *drained = false,
            Order::Open | Order::Close => *held = Some(order),
            Order::Auto => *held = None,
        }
        self.operated = true;
    }

    fn hear(&mut self) {
        for event in self.set.take_events() {
            let Event::Breaker(endpoint, transition) = event else { continue };
            let place = (0..3).find(|place| *label(*place) == *endpoint).unwrap();
            let by_operator = transition.why.contains("operator");
            match transition.to {
                State::Open if !by_operator => {
                    let weights = self.settings.breaker.weights;
                    assert!(
                        BreakerClass::ALL.iter().any(|class| weights.of(*class) > 0)
                            && self.weight[place] > 0,
                        "what weighs nothing opens nothing: {transition:?}"
                    );
                    self.passed[place] = false;
                }
                State::HalfOpen if !by_operator && self.settings.breaker.trials == Trials::Checks => {
                    let unheard = transition.why.starts_with("its time is over:");
                    assert!(self.passed[place] || unheard, "without a check: {transition:?}");
                }
                State::Open | State::HalfOpen | State::Closed => {}
            }
            if by_operator {
                assert_eq!(transition.mode, Mode::Enforced);
            } else if self.settings.breaker.shadow {
                assert_eq!(transition.mode, Mode::Shadow, "{transition:?}");
            }
            self.told.push((endpoint.to_string(), transition.to, transition.mode));
        }
    }

    fn must_hold(&self) {
        for place in 0..3 {
            let (endpoint, (drained, held)) = (self.endpoint(place), self.orders[place]);
            let breaker = endpoint.breaker();
            let in_force = breaker.state(self.now);
            match held {
                Some(Order::Open) => assert_eq!(in_force, State::Open),
                Some(_) => assert_eq!(in_force, State::Closed),
                None if self.settings.breaker.shadow => assert_eq!(in_force, State::Closed),
                None => assert_eq!(in_force, breaker.detected(self.now)),
            }
            if drained || held == Some(Order::Open) {
                assert_eq!(endpoint.ready(self.now), Ready::KeptOut);
            }
            let most = self.settings.breaker.half_open_trials as usize;
            assert!(breaker.trials() <= most, "{} trials of {most}", breaker.trials());
            let open = self.live.iter().filter(|it| it.attempt.endpoint() == endpoint.id()).count();
            assert_eq!(endpoint.open() as usize, open, "no connection is forgotten or counted twice");
        }
    }

    /// All that went on ends, nobody holds anything, and everything is well: every circuit closes, and stays so.
    fn heal(&mut self) {
        for connection in std::mem::take(&mut self.live) {
            self.set.released(connection.attempt);
        }
        for place in 0..3 {
            for order in [Order::Undrain, Order::Auto] {
                self.set.operate(&label(place), order, self.now);
            }
        }
        for _ in 0..60 {
            self.now += Duration::from_secs(30);
            for place in 0..3 {
                let id = self.endpoint(place).id();
                self.set.check_result(id, self.now, Ok(()));
            }
            for _ in 0..4 {
                if let Ok(mut picked) = self.set.pick(self.now, None, &[], &mut self.rng) {
                    self.set.established(&mut picked.attempt, self.now, Duration::ZERO);
                    self.set.ended_well(picked.attempt, self.now);
                }
            }
        }
        for place in 0..3 {
            assert_eq!(self.endpoint(place).breaker().detected(self.now), State::Closed, "{place}");
        }
    }
}

#[test]
fn whatever_happens_to_circuits_their_rules_hold() {
    let (mut opened, mut operated) = (0, 0);
    for seed in seeds(SCHEDULES) {
        let _told = TellSeed(seed);
        for shadow in [false, true] {
            let mut world = World::new(seed, shadow);
            for _ in 0..STEPS {
                world.step();
                world.must_hold();
            }
            opened += world.told.iter().filter(|(_, to, _)| *to == State::Open).count();
            operated += usize::from(world.operated);
            world.heal();
        }
    }
    let played = seeds(SCHEDULES).len();
    assert!(
        played == 1 || (opened > played && operated > played),
        "{opened} openings, {operated} with orders"
    );
}

/// One endpoint, so that who is picked is no matter: what a shadow detects is what would have been, up to the first time that
/// it would have been enforced.
#[test]
fn a_shadow_detects_what_would_have_been_enforced() {
    let mut opened = 0;
    for seed in seeds(SCHEDULES) {
        let _told = TellSeed(seed);
        let play = |shadow: bool| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let breaker = breaker::Settings { shadow, ..settings(&mut rng) };
            let mut set = EndpointSet::new(Settings { breaker, ..Settings::default() });
            let mut now = Instant::now();
            let begun = now;
            set.update(vec![EndpointSpec::new(label(0).parse().unwrap())], now, &mut rng);
            for _ in 0..STEPS {
                now += Duration::from_millis(rng.u64(0..300));
                let mut picked = set.pick(now, None, &[], &mut rng).unwrap();
                if rng.bool() {
                    set.established(&mut picked.attempt, now, Duration::ZERO);
                }
                match rng.u8(0..3) {
                    0 => set.ended_well(picked.attempt, now),
                    _ => {
                        let class = *rng.choice(&BreakerClass::ALL).unwrap();
                        set.failed(picked.attempt, now, class, "seen", &mut rng);
                    }
                }
                for event in set.take_events() {
                    if let Event::Breaker(_, transition) = event
                        && transition.to == State::Open
                    {
                        return Some((now - begun, transition.why));
                    }
                }
            }
            None
        };
        let enforced = play(false);
        assert_eq!(play(true), enforced);
        opened += usize::from(enforced.is_some());
    }
    assert!(seeds(SCHEDULES).len() == 1 || opened > 1_000, "{opened}");
}
