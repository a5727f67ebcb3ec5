//! The endpoint set under thousands of random schedules: updates, picks, settlements, checks, jumps of time.
//!
//! A shadow that knows only what was done to the set, and its events, says after each step what must hold ([`world`]); here
//! is what each schedule may use. Nothing sleeps and nothing listens: time and chance are arguments. A schedule that fails
//! prints its test and its seed; `NUNCIO_SEED=N cargo test --test sim TEST` plays that one again.

mod world;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use nuncio::backoff::Budget;
use nuncio::failure::BreakerClass;
use nuncio::upstream::balancer::Balance;
use nuncio::upstream::set::{Attempt, EndpointSet};
use nuncio::upstream::{EndpointSpec, Settings};
use world::{Uses, World};

const BALANCES: [Balance; 6] = [
    Balance::LeastConnections,
    Balance::RoundRobin,
    Balance::Random,
    Balance::SourceHash,
    Balance::PeakEwma,
    Balance::Maglev,
];

fn play(uses: Uses, schedules: u64, steps: u32) {
    for seed in seeds(schedules) {
        let _told = TellSeed(seed);
        let mut world = World::new(seed, uses);
        for _ in 0..steps {
            world.step();
            world.must_hold();
        }
        world.heal();
        world.end();
    }
}

#[test]
fn whatever_happens_the_rules_of_the_set_hold() {
    play(Uses::default(), 2_000, 200);
}

#[test]
fn the_rules_hold_with_many_tiers_that_spill_over() {
    play(Uses { tiers: true, ..Uses::default() }, 2_000, 120);
}

#[test]
fn the_rules_hold_with_zones() {
    play(Uses { zones: true, ..Uses::default() }, 2_000, 120);
}

#[test]
fn the_rules_hold_with_a_limit_at_each_endpoint() {
    play(Uses { limits: true, ..Uses::default() }, 2_000, 120);
}

#[test]
fn the_rules_hold_with_slow_starts() {
    play(Uses { slow_start: true, ..Uses::default() }, 1_000, 120);
}

#[test]
fn the_rules_hold_with_all_of_it() {
    play(Uses { tiers: true, zones: true, limits: true, slow_start: true }, 3_000, 120);
}

#[test]
fn every_balance_gives_each_its_share_while_connections_come_and_go() {
    for seed in seeds(36) {
        let _told = TellSeed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let balance = BALANCES[seed as usize % BALANCES.len()];
        let weights: Vec<u32> = (0..rng.usize(2..6)).map(|_| rng.u32(1..8)).collect();
        let mut set = EndpointSet::new(Settings { balance, ..Settings::default() });
        let now = Instant::now();
        let specs = weights.iter().enumerate().map(|(n, weight)| spec(n, *weight)).collect();
        set.update(specs, now, &mut rng);

        const PICKS: u32 = 6_000;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut live: Vec<Attempt> = Vec::new();
        for _ in 0..PICKS {
            let mut picked = set.pick(now, Some(rng.u64(..)), &[], &mut rng).unwrap();
            *counts.entry(picked.label.to_string()).or_default() += 1;
            set.established(&mut picked.attempt, now, Duration::from_millis(5));
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
            assert!((got - wanted).abs() < slack(balance), "{balance:?} {weights:?}: {counts:?}");
        }
    }
}

/// A newcomer among others: what it gets grows with the time that has passed, whatever the balance and the weights.
#[test]
fn a_newcomer_gets_a_share_that_grows() {
    for seed in seeds(120) {
        let _told = TellSeed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let balance = BALANCES[seed as usize % BALANCES.len()];
        let slow_start = Duration::from_secs(rng.u64(1..300));
        let weights: Vec<u32> = (0..rng.usize(2..5)).map(|_| rng.u32(1..5)).collect();
        let mut set =
            EndpointSet::new(Settings { balance, slow_start: Some(slow_start), ..Settings::default() });
        let start = Instant::now();
        let specs: Vec<_> = weights.iter().enumerate().map(|(n, weight)| spec(n, *weight)).collect();
        set.update(specs[1..].to_vec(), start, &mut rng);
        set.update(specs.clone(), start, &mut rng);

        let grown = rng.f64() * 1.2;
        let now = start + slow_start.mul_f64(grown);
        const PICKS: u32 = 3_000;
        let mut got = 0;
        let mut live: Vec<Attempt> = Vec::new();
        for _ in 0..PICKS {
            let mut picked = set.pick(now, Some(rng.u64(..)), &[], &mut rng).unwrap();
            got += u32::from(*picked.label == *label(0));
            set.established(&mut picked.attempt, now, Duration::from_millis(5));
            live.push(picked.attempt);
            while live.len() > rng.usize(0..40) {
                set.released(live.swap_remove(rng.usize(0..live.len())));
            }
        }
        let own = f64::from(weights[0]) * grown.clamp(0.1, 1.0);
        let wanted = own / (own + f64::from(weights[1..].iter().sum::<u32>()));
        let got = f64::from(got) / f64::from(PICKS);
        assert!(
            (got - wanted).abs() < slack(balance),
            "{balance:?} {weights:?} at {grown}: {got}, not {wanted}"
        );
    }
}

/// Endpoints that mostly refuse, and connections in bursts and in silence, each tried up to five times: over ten seconds
/// there are never more retries than the reserve and the share of the first attempts.
#[test]
fn retries_never_exceed_their_budget() {
    for seed in seeds(200) {
        let _told = TellSeed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut set = EndpointSet::new(Settings::default());
        set.update((0..rng.usize(1..6)).map(|n| spec(n, 1)).collect(), now, &mut rng);
        let share = rng.f64();
        let mut budget = Budget::new(share, now);
        let (mut firsts, mut retries) = (VecDeque::new(), VecDeque::new());
        for _ in 0..800 {
            let mut tried = Vec::new();
            budget.deposit(now);
            firsts.push_back(now);
            while tried.len() < 5 {
                let Ok(picked) = set.pick(now, None, &tried, &mut rng) else { break };
                tried.push(picked.attempt.endpoint());
                if rng.u32(0..10) == 0 {
                    set.ended_well(picked.attempt, now);
                    break;
                }
                set.failed(picked.attempt, now, BreakerClass::Refused, "refused", &mut rng);
                if !budget.withdraw(now) {
                    break;
                }
                retries.push_back(now);
                // What is counted is forgotten between nine and ten seconds later.
                while retries.front().is_some_and(|at| now - *at > Duration::from_secs(9)) {
                    retries.pop_front();
                }
                while firsts.front().is_some_and(|at| now - *at > Duration::from_secs(10)) {
                    firsts.pop_front();
                }
                let most = f64::from(Budget::RESERVE) + share * firsts.len() as f64;
                assert!(retries.len() as f64 <= most, "{} retries, {most} allowed", retries.len());
            }
            let pause = [2, 20, 2_000][rng.usize(0..3)];
            now += Duration::from_millis(rng.u64(0..pause));
        }
        assert!(!retries.is_empty() || share < 0.05, "nothing was tried");
    }
}

/// Least connections and peak EWMA trade exactness for balance: what they level are the open ones.
fn slack(balance: Balance) -> f64 {
    match balance {
        Balance::LeastConnections | Balance::PeakEwma => 0.08,
        Balance::RoundRobin | Balance::Random | Balance::SourceHash | Balance::Maglev => 0.03,
    }
}

fn label(n: usize) -> String {
    format!("e{n}:1")
}

fn spec(n: usize, weight: u32) -> EndpointSpec {
    EndpointSpec { weight, ..EndpointSpec::new(label(n).parse().expect("an address")) }
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
            let thread = std::thread::current();
            let test = thread.name().unwrap_or_default();
            eprintln!(
                "this was seed {0}: NUNCIO_SEED={0} cargo test --test sim {test} plays it again",
                self.0
            );
        }
    }
}
