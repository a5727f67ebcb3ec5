//! Situations of one circuit. Time is told in milliseconds from a start.

use super::*;
use BreakerClass::{EarlyClose, Overloaded, Refused, Slow, Timeout};
use std::time::Duration;

struct Story {
    breaker: Breaker,
    start: Instant,
    rng: fastrand::Rng,
}

impl Story {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let start = Instant::now();
        let breaker = Breaker::new(Arc::new(settings), start);
        Story { breaker, start, rng: fastrand::Rng::with_seed(5) }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn admit(&mut self, ms: u64) -> Pass {
        let now = self.at(ms);
        self.breaker.advance(now);
        self.breaker.admit(now)
    }

    fn establish(&mut self, ms: u64) -> Pass {
        let mut pass = self.admit(ms);
        self.breaker.established(&mut pass, self.at(ms));
        pass
    }

    fn fail(&mut self, pass: Pass, ms: u64, class: BreakerClass) -> Option<State> {
        let now = self.at(ms);
        self.breaker.advance(now);
        self.breaker.failed(pass, now, class, &mut self.rng).map(|transition| transition.to)
    }

    fn refuse(&mut self, times: u32, ms: u64) {
        for _ in 0..times {
            let pass = self.admit(ms);
            self.fail(pass, ms, Refused);
        }
    }

    fn check(&mut self, passed: bool, ms: u64) -> Option<Transition> {
        self.breaker.advance(self.at(ms));
        self.breaker.checked(passed, self.at(ms))
    }

    fn state(&self, ms: u64) -> State {
        self.breaker.state(self.at(ms))
    }

    /// Milliseconds that it stays open, seen from `ms`.
    fn stays_open(&self, ms: u64) -> u64 {
        let again = self.breaker.opens_again(self.at(ms)).expect("it is open");
        again.duration_since(self.at(ms)).as_millis() as u64
    }
}

#[test]
fn five_refusals_in_a_row_open_it_for_the_time_set_less_jitter() {
    let mut story = Story::new(|_| {});
    story.refuse(4, 0);
    assert_eq!(story.state(0), State::Closed);
    story.refuse(1, 0);
    assert_eq!(story.state(0), State::Open);
    assert!((3750..=5000).contains(&story.stays_open(0)), "{}", story.stays_open(0));
    assert_eq!(story.breaker.why(), Some("5 × connection refused"));
    assert!(!story.breaker.admits(story.at(0)));
    assert_eq!(story.state(5000), State::HalfOpen);
}

#[test]
fn a_connection_that_ended_well_starts_the_count_anew() {
    let mut story = Story::new(|_| {});
    story.refuse(4, 0);
    let pass = story.establish(1);
    story.breaker.ended_well(pass);
    story.refuse(4, 2);
    assert_eq!(story.state(2), State::Closed);
}

#[test]
fn an_endpoint_that_takes_every_handshake_and_hangs_up_is_opened() {
    let mut story = Story::new(|_| {});
    for n in 0..5 {
        assert_eq!(story.state(n * 10), State::Closed, "before connection {n}");
        let pass = story.establish(n * 10);
        story.fail(pass, n * 10 + 5, EarlyClose);
    }
    assert_eq!(story.state(50), State::Open);
}

#[test]
fn a_connection_that_lives_on_proves_the_endpoint_without_ending() {
    let mut story = Story::new(|_| {});
    story.refuse(4, 0);
    let _lives = story.establish(10);
    story.refuse(1, 1009);
    assert_eq!(story.state(1009), State::Open, "it had not yet lived for early_close");

    let mut story = Story::new(|_| {});
    story.refuse(4, 0);
    let _lives = story.establish(10);
    story.refuse(4, 1010);
    assert_eq!(story.state(1010), State::Closed);
}

#[test]
fn a_connection_that_was_closed_early_proves_nothing_later() {
    let mut story = Story::new(|_| {});
    story.refuse(3, 0);
    let slammed = story.establish(10);
    story.fail(slammed, 15, EarlyClose);
    story.refuse(1, 5_000);
    assert_eq!(story.state(5_000), State::Open);
}

#[test]
fn circuits_that_open_together_do_not_try_again_together() {
    let stays: Vec<_> = (0..50)
        .map(|seed| {
            let mut story = Story::new(|_| {});
            story.rng = fastrand::Rng::with_seed(seed);
            story.refuse(5, 0);
            story.stays_open(0)
        })
        .collect();
    assert!(stays.iter().all(|ms| (3750..=5000).contains(ms)), "{stays:?}");
    assert!(stays.iter().max().unwrap() - stays.iter().min().unwrap() > 1000, "{stays:?}");
}

#[test]
fn an_old_connection_that_ends_well_does_not_excuse_new_failures() {
    let mut story = Story::new(|_| {});
    let old = story.establish(0);
    story.refuse(4, 60_000);
    story.breaker.ended_well(old);
    story.refuse(1, 60_000);
    assert_eq!(story.state(60_000), State::Open);
}

#[test]
fn one_trial_at_a_time_and_its_failure_doubles_up_to_the_longest() {
    let mut story = Story::new(|settings| settings.max_open = Duration::from_secs(30));
    story.refuse(5, 0);
    let mut now = 5_000;
    for longest in [10_000, 20_000, 30_000, 30_000] {
        let trial = story.admit(now);
        assert!(trial.is_trial());
        assert!(!story.breaker.admits(story.at(now)), "the only trial is taken");
        assert_eq!(story.fail(trial, now, Timeout), Some(State::Open));
        let stays = story.stays_open(now);
        assert!((longest * 3 / 4..=longest).contains(&stays), "{stays} of {longest}");
        now += stays + 1;
    }
}

#[test]
fn a_trial_that_is_established_and_then_closed_early_opens_it_for_longer() {
    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    let trial = story.establish(5_000);
    assert_eq!(story.state(5_500), State::HalfOpen, "established is not enough");
    assert!(!story.breaker.admits(story.at(5_500)), "and the trial is still held");
    assert_eq!(story.fail(trial, 5_900, EarlyClose), Some(State::Open));
    assert!(story.stays_open(5_900) >= 7_500);
}

#[test]
fn a_trial_that_lasts_closes_it_and_so_does_one_that_ends_well() {
    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    let _trial = story.establish(5_000);
    assert_eq!(story.state(6_000), State::Closed);
    assert!(story.breaker.admits(story.at(6_000)));
    let closed = story.breaker.advance(story.at(6_000)).unwrap();
    assert_eq!(closed.to, State::Closed);

    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    let trial = story.establish(5_000);
    assert_eq!(story.breaker.ended_well(trial).map(|transition| transition.to), Some(State::Closed));
    story.refuse(5, 5_002);
    assert!(story.stays_open(5_002) <= 5_000, "closing forgets the doubling");
}

#[test]
fn a_trial_whose_client_leaves_says_nothing_and_frees_its_place() {
    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    let trial = story.establish(5_000);
    story.breaker.released(trial);
    assert_eq!(story.state(9_000), State::HalfOpen);
    assert!(story.breaker.admits(story.at(9_000)));
}

#[test]
fn verdicts_from_before_the_opening_neither_double_it_nor_close_it() {
    let mut story = Story::new(|_| {});
    let long_lived = story.establish(0);
    let slow: Vec<_> = (0..9).map(|_| story.admit(0)).collect();
    story.refuse(5, 100);
    let again = story.breaker.opens_again(story.at(100));
    for pass in slow {
        assert_eq!(story.fail(pass, 3_000, Timeout), None);
    }
    assert_eq!(story.breaker.opens_again(story.at(3_000)), again);
    assert_eq!(story.breaker.ended_well(long_lived), None);
    assert_eq!(story.state(3_000), State::Open);
    let late = story.admit(3_000);
    let trial = story.establish(5_100);
    assert!(trial.is_trial());
    assert_eq!(story.fail(late, 5_200, Timeout), None, "it was no trial");
    assert_eq!(story.state(5_200), State::HalfOpen);
}

#[test]
fn a_connection_let_through_may_close_it() {
    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    let through = story.establish(10);
    assert!(!through.is_trial());
    assert_eq!(story.state(1_000), State::Open);
    assert_eq!(story.state(1_010), State::Closed, "it has lasted");
    assert_eq!(story.breaker.ended_well(through).map(|transition| transition.to), Some(State::Closed));
}

#[test]
fn a_check_that_saw_the_fault_and_passes_again_makes_it_half_open_early() {
    let mut story = Story::new(|_| {});
    story.refuse(5, 0);
    assert_eq!(story.check(true, 0), None, "it never failed: it cannot see the fault");
    assert_eq!(story.check(false, 0), None);
    assert_eq!(story.check(true, 0).map(|transition| transition.to), Some(State::HalfOpen));
    let trial = story.admit(100);
    assert_eq!(story.fail(trial, 100, Refused), Some(State::Open));
    assert!(story.stays_open(100) >= 7_500, "the failed trial counts as any");
    assert_eq!(story.check(true, 200), None, "and the next pass needs a failure before it");
}

#[test]
fn half_of_twenty_connections_failing_opens_it_by_rate_and_a_late_failure_counts_once() {
    let mut story = Story::new(|settings| {
        settings.consecutive = None;
        settings.failure_rate = Some(0.5);
    });
    for n in 0..20 {
        let pass = story.establish(n * 100);
        match n % 2 {
            0 => story.breaker.ended_well(pass).map(|transition| transition.to),
            _ => story.fail(pass, n * 100 + 50, EarlyClose),
        };
        assert_eq!(story.state(n * 100 + 50) == State::Open, n == 19, "after connection {n}");
    }
    assert!(story.breaker.why().is_some_and(|why| why.starts_with("10 of 20 connections failed")));
}

#[test]
fn failures_older_than_the_window_do_not_count_for_the_rate() {
    let mut story = Story::new(|settings| {
        settings.consecutive = None;
        settings.failure_rate = Some(0.5);
    });
    story.refuse(19, 0);
    story.refuse(1, 31_000);
    assert_eq!(story.state(31_000), State::Closed);
}

#[test]
fn what_opened_it_by_rate_is_forgotten_when_it_closes() {
    let mut story = Story::new(|settings| {
        settings.consecutive = None;
        settings.failure_rate = Some(0.5);
    });
    story.refuse(20, 0);
    let trial = story.establish(5_000);
    story.breaker.ended_well(trial);
    story.refuse(1, 5_000);
    assert_eq!(story.state(5_000), State::Closed);
}

#[test]
fn a_class_that_weighs_more_opens_it_sooner_and_one_that_weighs_nothing_never() {
    let mut story = Story::new(|settings| {
        settings.weights.set(Overloaded, 3);
        settings.weights.set(Timeout, 0);
    });
    for ms in 0..100 {
        let pass = story.admit(ms);
        assert_eq!(story.fail(pass, ms, Timeout), None);
    }
    let pass = story.admit(100);
    assert_eq!(story.fail(pass, 100, Overloaded), None);
    let pass = story.admit(101);
    assert_eq!(story.fail(pass, 101, Overloaded), Some(State::Open));
    let why = story.breaker.why().unwrap();
    assert!(why.starts_with("2 × ") && why.ends_with("(weighing 6)"), "{why}");
    let trial = story.admit(5_200);
    assert!(trial.is_trial());
    assert_eq!(story.fail(trial, 5_200, Timeout), None, "it says nothing of a trial either");
    assert_eq!((story.state(5_200), story.breaker.trials()), (State::HalfOpen, 0));
}

#[test]
fn weights_count_towards_the_rate_too() {
    let rated = |weight| {
        let mut story = Story::new(|settings| {
            settings.consecutive = None;
            settings.failure_rate = Some(0.5);
            settings.weights.set(Refused, weight);
        });
        for ms in 0..30 {
            let pass = story.establish(ms);
            story.breaker.ended_well(pass);
        }
        story.refuse(10, 100);
        story.state(100)
    };
    assert_eq!([0, 1, 2, 3].map(rated), [State::Closed, State::Closed, State::Closed, State::Open]);
}

/// Without this, a server that takes every connection and answers none would be proved by each of them.
#[test]
fn a_connection_whose_client_awaits_its_first_answer_proves_nothing_until_it_comes() {
    let mut story = Story::new(|settings| settings.slow_first_byte = Some(Duration::from_secs(3)));
    for n in 0..5 {
        let mut pass = story.establish(n * 4_000);
        story.breaker.asks(&pass);
        let late = story.fail(pass.spend(), n * 4_000 + 3_000, Slow);
        assert_eq!(late.is_some(), n == 4, "after {n}");
        let now = story.at(n * 4_000 + 3_500);
        story.breaker.advance(now);
        assert_eq!(story.breaker.ended_well(pass), None, "its end says nothing more");
    }
    // The same for a trial.
    let pass = story.establish(30_000);
    assert!(pass.is_trial());
    story.breaker.asks(&pass);
    assert_eq!(story.state(32_500), State::HalfOpen, "it has lasted, and not answered");
    story.breaker.answers(&pass, story.at(32_500));
    assert_eq!(story.state(33_400), State::HalfOpen, "the answer may be its last word");
    assert_eq!(story.state(33_500), State::Closed);
}

#[test]
fn an_answer_that_says_no_place_proves_nothing() {
    let mut story = Story::new(|settings| settings.slow_first_byte = Some(Duration::from_secs(3)));
    for n in 0..5 {
        let pass = story.establish(n * 100);
        story.breaker.asks(&pass);
        story.breaker.answers(&pass, story.at(n * 100 + 5));
        assert_eq!(story.fail(pass, n * 100 + 6, Overloaded).is_some(), n == 4);
    }
}

#[test]
fn where_a_silent_end_counts_later_silence_has_to_last_as_long() {
    let mut story = Story::new(|settings| settings.zero_byte = Some(Duration::from_secs(10)));
    story.refuse(5, 0);
    let trial = story.establish(5_000);
    assert_eq!(story.state(14_999), State::HalfOpen);
    assert_eq!(story.state(15_000), State::Closed);
    story.breaker.answers(&trial, story.at(6_000));
    assert_eq!(story.state(7_000), State::Closed, "a word is as good as ever");
}

#[test]
fn trials_by_checks_let_no_client_in_before_a_check_has_passed() {
    let mut story = Story::new(|settings| settings.trials = Trials::Checks);
    story.refuse(5, 0);
    assert_eq!(story.check(true, 100), None, "its time is not over");
    assert_eq!(story.state(60_000), State::Open);
    assert_eq!(story.breaker.opens_again(story.at(60_000)), None, "no time that could be told");
    assert!(!story.breaker.admits(story.at(60_000)));
    let to = story.check(true, 60_000).map(|transition| transition.to);
    assert_eq!(to, Some(State::HalfOpen));
    let trial = story.admit(60_001);
    assert_eq!(
        story.fail(trial, 60_001, EarlyClose),
        Some(State::Open),
        "what no check sees costs one client"
    );
    assert_eq!(story.check(true, 61_000), None, "and its time is longer then");
}

/// Nobody would ever close it.
#[test]
fn checks_that_say_nothing_at_all_are_not_waited_for() {
    let mut story = Story::new(|settings| settings.trials = Trials::Checks);
    story.refuse(5, 0);
    story.check(false, 100_000);
    assert_eq!(story.state(219_999), State::Open, "one that fails says enough");
    assert_eq!(story.state(220_000), State::HalfOpen);
}

#[test]
fn a_shadow_detects_all_and_enforces_nothing() {
    let mut story = Story::new(|settings| settings.shadow = true);
    story.refuse(5, 0);
    let now = story.at(0);
    assert_eq!((story.state(0), story.breaker.detected(now)), (State::Closed, State::Open));
    assert!(story.breaker.admits(now) && story.breaker.mode() == Mode::Shadow);
    let half_open = story.breaker.advance(story.at(5_000)).unwrap();
    assert_eq!((half_open.to, half_open.mode), (State::HalfOpen, Mode::Shadow));
    let (trial, other) = (story.establish(5_000), story.establish(5_000));
    assert_eq!((trial.is_trial(), other.is_trial()), (true, false), "trials are counted as they would be");
    let closed = story.breaker.ended_well(trial).unwrap();
    assert_eq!((closed.to, closed.mode), (State::Closed, Mode::Shadow));

    // It is put into force, and taken out again.
    story.refuse(5, 6_000);
    let mut told = |shadow| {
        let settings = Settings { shadow, ..Settings::default() };
        let told = story.breaker.reconfigure(Arc::new(settings), story.start + Duration::from_secs(6));
        told.map(|told| (told.to, told.mode))
    };
    assert_eq!(told(false), Some((State::Open, Mode::Enforced)));
    assert_eq!(told(true), Some((State::Closed, Mode::Enforced)));
}

#[test]
fn what_an_operator_holds_stays_whatever_the_rules_come_to() {
    let mut story = Story::new(|_| {});
    let held = |story: &mut Story, hold, ms| {
        let told = story.breaker.hold(hold, story.at(ms));
        told.map(|told| (told.to, told.mode))
    };
    assert_eq!(held(&mut story, Some(Hold::Open), 0), Some((State::Open, Mode::Enforced)));
    assert!(!story.breaker.admits(story.at(1_000_000)), "no time ends it");
    assert_eq!(held(&mut story, Some(Hold::Closed), 10), Some((State::Closed, Mode::Enforced)));
    for n in 0..5 {
        let pass = story.admit(20);
        let now = story.at(20);
        let told = story.breaker.failed(pass, now, Refused, &mut story.rng);
        assert_eq!(told.map(|told| (told.to, told.mode)), (n == 4).then_some((State::Open, Mode::Shadow)));
    }
    assert!(story.breaker.admits(story.at(30)));
    assert_eq!(
        held(&mut story, None, 40),
        Some((State::Open, Mode::Enforced)),
        "what the rules have come to"
    );
    assert_eq!(held(&mut story, None, 40), None);
}
