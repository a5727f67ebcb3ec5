//! Situations of a set.

mod limits;
mod slow_start;
mod tiers;
mod unready;
mod zones;

use std::collections::BTreeMap;

use super::*;
use crate::upstream::balancer::Balance;

struct Story {
    set: EndpointSet,
    now: Instant,
    rng: fastrand::Rng,
}

/// `NAME`, `NAME*WEIGHT`, either with a `!` in front for each tier that comes before, and `@ZONE` behind.
fn spec(text: &str) -> EndpointSpec {
    let (text, zone) = text.split_once('@').map_or((text, None), |(text, zone)| (text, Some(zone)));
    let (name, weight) = text.split_once('*').unwrap_or((text, "1"));
    let address = format!("{}:1", name.trim_start_matches('!')).parse().unwrap();
    EndpointSpec {
        weight: weight.parse().unwrap(),
        tier: text.chars().take_while(|c| *c == '!').count() as u16,
        zone: zone.map(Arc::from),
        ..EndpointSpec::new(address)
    }
}

impl Story {
    fn new(specs: &[&str]) -> Self {
        Self::with(specs, |_| {})
    }

    fn with(specs: &[&str], change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { balance: Balance::Random, ..Settings::default() };
        change(&mut settings);
        let mut story =
            Story { set: EndpointSet::new(settings), now: Instant::now(), rng: fastrand::Rng::with_seed(11) };
        story.update(specs);
        story
    }

    fn update(&mut self, specs: &[&str]) {
        self.set.update(specs.iter().map(|text| spec(text)).collect(), self.now, &mut self.rng);
    }

    fn pick_after(&mut self, tried: &[EndpointId]) -> Result<Picked, Failure> {
        self.set.pick(self.now, None, tried, &mut self.rng).map_err(|unpicked| match unpicked {
            Unpicked::Nobody(failure) | Unpicked::NotYet(failure) => failure,
            Unpicked::Full => panic!("there is no limit"),
        })
    }

    fn pick(&mut self) -> Result<Picked, Failure> {
        self.pick_after(&[])
    }

    /// The names that `picks` fresh connections get, each once, sorted; they end without a word.
    fn reachable(&mut self, picks: u32) -> Vec<String> {
        let mut names: Vec<_> = (0..picks)
            .map(|_| {
                let picked = self.pick().unwrap();
                self.set.released(picked.attempt);
                picked.label.trim_end_matches(":1").to_owned()
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// How many of `picks` fresh connections, which end without a word, each name gets.
    fn counts(&mut self, picks: u32) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            let picked = self.pick().unwrap();
            *counts.entry(picked.label.trim_end_matches(":1").to_owned()).or_default() += 1;
            self.set.released(picked.attempt);
        }
        counts
    }

    /// The name that a connection of this source gets.
    fn home(&mut self, source: u64) -> String {
        let picked = self.set.pick(self.now, Some(source), &[], &mut self.rng).unwrap();
        self.set.released(picked.attempt);
        picked.label.trim_end_matches(":1").to_owned()
    }

    fn id(&self, name: &str) -> EndpointId {
        self.set.members().find(|endpoint| *endpoint.label == *format!("{name}:1")).unwrap().id
    }

    /// Opens a circuit by five failures of the endpoint.
    fn open(&mut self, name: &str) {
        let id = self.id(name);
        for _ in 0..5 {
            let place = self.set.endpoints.iter().position(|endpoint| endpoint.id == id).unwrap();
            let pass = self.set.endpoints[place].admit(self.now);
            let attempt = Attempt { endpoint: id, pass };
            self.set.failed(attempt, self.now, BreakerClass::Refused, "refused", &mut self.rng);
        }
    }

    /// A connection that is picked here, established at once and ends well.
    fn prove(&mut self, name: &str) {
        let place = self.set.endpoints.iter().position(|endpoint| endpoint.id == self.id(name)).unwrap();
        let mut attempt =
            Attempt { endpoint: self.id(name), pass: self.set.endpoints[place].admit(self.now) };
        self.set.established(&mut attempt, self.now, Duration::ZERO);
        self.set.ended_well(attempt, self.now);
    }

    fn up(&mut self, name: &str) {
        for _ in 0..2 {
            self.set.check_result(self.id(name), self.now, Ok(()));
        }
    }

    fn down(&mut self, name: &str) {
        for _ in 0..3 {
            let failure = Err((BreakerClass::Timeout, "no answer".to_owned()));
            self.set.check_result(self.id(name), self.now, failure);
        }
    }
}

#[test]
fn an_endpoint_that_checks_held_down_is_usable_once_they_are_forgotten() {
    let mut story = Story::new(&["a"]);
    story.down("a");
    assert!(story.pick().is_err());
    story.set.forget_health();
    assert_eq!(story.reachable(10), ["a"]);
    // The streak begins anew as well.
    story.set.check_result(story.id("a"), story.now, Err((BreakerClass::Timeout, "no answer".into())));
    assert_eq!(story.reachable(10), ["a"]);
}

#[test]
fn a_check_of_a_new_kind_does_not_close_the_circuit_that_one_of_the_old_kind_saw_open() {
    let mut story = Story::new(&["a"]);
    story.open("a");
    let id = story.id("a");
    let failed = || Err((BreakerClass::Timeout, "no answer".to_owned()));
    story.set.check_result(id, story.now, failed());
    story.set.forget_health();
    story.set.check_result(id, story.now, Ok(()));
    assert!(story.pick().is_err(), "it never failed by the new kind");
    story.set.check_result(id, story.now, failed());
    story.set.check_result(id, story.now, Ok(()));
    assert!(story.pick().unwrap().attempt.is_trial());
}

#[test]
fn backups_wait_until_no_primary_is_ready() {
    let mut story = Story::new(&["a", "b", "!c"]);
    assert_eq!(story.reachable(100), ["a", "b"]);
    story.open("a");
    assert_eq!(story.reachable(100), ["b"]);
    story.down("b");
    assert_eq!(story.reachable(100), ["c"]);
}

#[test]
fn primaries_whose_circuits_are_all_open_do_not_panic_while_a_backup_is_ready() {
    let mut story = Story::new(&["a", "b", "!c"]);
    story.open("a");
    story.open("b");
    assert_eq!(story.reachable(100), ["c"]);
    assert!(!story.set.panicking());
}

#[test]
fn a_retry_goes_to_the_untried_then_to_a_backup_then_back() {
    let mut story = Story::new(&["a", "b", "!c"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| story.id(name));
    assert_eq!(story.pick_after(&[a]).unwrap().attempt.endpoint(), b);
    assert_eq!(story.pick_after(&[a, b]).unwrap().attempt.endpoint(), c);
    assert_ne!(story.pick_after(&[a, b, c]).unwrap().attempt.endpoint(), c);
    let mut story = Story::new(&["a"]);
    let a = story.id("a");
    assert_eq!(story.pick_after(&[a, a]).unwrap().attempt.endpoint(), a);
}

#[test]
fn weight_nought_takes_nothing() {
    let mut story = Story::new(&["a*0", "b"]);
    assert_eq!(story.reachable(100), ["b"]);
    story.update(&["a*0"]);
    let failure = story.pick().unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationUnavailable);
    assert_eq!(&*failure.detail, "a:1: its weight is 0");
}

#[test]
fn with_two_of_three_circuits_open_only_the_third_is_picked_without_panic() {
    let mut story = Story::new(&["a", "b", "c"]);
    story.open("a");
    story.open("b");
    assert_eq!(story.reachable(300), ["c"]);
    assert!(!story.set.panicking());
}

#[test]
fn beyond_the_cap_one_is_let_through_for_a_tenth_of_the_connections_and_it_is_told() {
    let mut story = Story::new(&["a", "b", "c", "d"]);
    for name in ["a", "b", "c"] {
        story.open(name);
    }
    story.set.take_events();
    let mut through = 0;
    for _ in 0..2000 {
        let picked = story.pick().unwrap();
        through += u32::from(*picked.label != *"d:1");
        story.set.released(picked.attempt);
    }
    assert!((150..250).contains(&through), "{through}");
    assert_eq!(story.reachable(500).len(), 2, "only the least bad of the three");
    assert_eq!(story.set.take_events(), [Event::Panic(true)]);

    let d = story.id("d");
    for _ in 0..200 {
        assert_eq!(story.pick_after(&[d]).unwrap().attempt.endpoint(), d, "a retry takes no chances");
    }
}

#[test]
fn the_one_let_through_is_the_one_with_the_fewest_failed_trials() {
    let mut story = Story::new(&["a", "b"]);
    story.open("a");
    story.now += Duration::from_secs(5);
    let trial = story.pick_after(&[story.id("b")]).unwrap().attempt;
    assert!(trial.is_trial());
    story.set.failed(trial, story.now, BreakerClass::Refused, "refused", &mut story.rng);
    story.open("b");
    assert_eq!(story.reachable(100), ["b"], "a has failed a trial");
}

#[test]
fn with_all_circuits_open_the_excess_is_let_through_and_one_that_works_ends_the_panic() {
    let mut story = Story::new(&["a", "b"]);
    story.open("a");
    story.open("b");
    story.set.take_events();
    let picked = story.pick().unwrap();
    let mut attempt = picked.attempt;
    assert!(!attempt.is_trial());
    story.set.established(&mut attempt, story.now, Duration::ZERO);
    story.set.ended_well(attempt, story.now);
    assert!(story.pick().is_ok());
    let events = story.set.take_events();
    assert!(
        matches!(events[..], [Event::Panic(true), Event::Breaker(..), Event::Panic(false)]),
        "{events:?}"
    );
}

#[test]
fn everything_down_by_health_fails_at_once_and_says_why() {
    let mut story = Story::new(&["a", "b"]);
    story.down("a");
    story.down("b");
    let failure = story.pick().unwrap_err();
    assert_eq!((failure.stage, failure.reason), (Stage::Route, Reason::DestinationUnavailable));
    assert_eq!(&*failure.detail, "a:1: health check failed: no answer; b:1: health check failed: no answer");
}

#[test]
fn a_circuit_among_what_is_out_is_the_reason() {
    let mut story = Story::new(&["a", "b"]);
    story.open("a");
    story.down("b");
    assert_eq!(story.pick().unwrap_err().reason, Reason::CircuitOpen);
}

#[test]
fn a_set_that_is_not_known_yet_says_so_and_a_long_one_is_cut_short() {
    let mut set = EndpointSet::new(Settings::default());
    let mut rng = fastrand::Rng::with_seed(0);
    let Err(Unpicked::Nobody(failure)) = set.pick(Instant::now(), None, &[], &mut rng) else { panic!() };
    assert_eq!(failure.reason, Reason::DestinationUnavailable);
    assert!(failure.detail.contains("not known yet"), "{failure}");

    let mut story = Story::new(&["a*0", "b*0", "c*0", "d*0", "e*0", "f*0"]);
    let failure = story.pick().unwrap_err();
    assert!(failure.detail.ends_with("d:1: its weight is 0; and 2 more"), "{failure}");
}

/// The source is another one: until it answers nobody is picked, and who it names as well has kept what was known of them.
#[test]
fn whom_another_source_has_not_named_yet_is_not_picked_and_keeps_its_state_until_then() {
    let mut story = Story::with(&["a", "b"], |settings| settings.leave_timeout = Some(Duration::ZERO));
    story.down("a");
    let (a, b) = (story.id("a"), story.id("b"));
    let open = story.pick().unwrap();
    story.set.forget_members();
    assert!(story.pick().unwrap_err().detail.contains("not known yet"));
    assert_eq!(story.set.members().count(), 0);
    story.set.released(open.attempt);
    story.set.take_events();
    story.update(&["a", "c"]);
    assert_eq!(story.id("a"), a);
    assert_eq!(story.reachable(100), ["c"], "a is down as before");
    assert_eq!(story.set.take_events(), [Event::Ends(b, Ending::After(Duration::ZERO))]);
}

#[test]
fn who_stays_keeps_its_state_and_who_leaves_finishes() {
    let mut story = Story::new(&["a", "b", "c"]);
    story.open("a");
    story.down("b");
    let (a, b) = (story.id("a"), story.id("b"));
    let open = story.pick().unwrap();
    assert_eq!(&*open.label, "c:1");
    story.update(&["a*5", "b"]);
    assert_eq!((story.id("a"), story.id("b")), (a, b));
    assert!(story.pick().is_err(), "c left, a and b are as out as before");
    assert_eq!(story.set.open(), 1);
    story.set.released(open.attempt);
    assert_eq!(
        (story.set.open(), story.set.endpoints.len()),
        (0, 2),
        "c is forgotten with its last connection"
    );
}

#[test]
fn who_comes_back_before_its_last_connection_ended_is_the_same() {
    let mut story = Story::new(&["a"]);
    let a = story.id("a");
    let open = story.pick().unwrap();
    story.update(&["b"]);
    story.update(&["a", "a", "b"]);
    assert_eq!(story.id("a"), a);
    assert_eq!(story.set.members().count(), 2, "named twice, it is there once");
    story.set.released(open.attempt);
    assert_eq!(story.set.members().count(), 2);
}

#[test]
fn a_check_of_an_endpoint_that_left_changes_nothing() {
    let mut story = Story::new(&["a", "b"]);
    let a = story.id("a");
    story.update(&["b"]);
    story.set.check_result(a, story.now, Err((BreakerClass::Timeout, "no answer".into())));
    assert_eq!(story.set.take_events(), []);
}
