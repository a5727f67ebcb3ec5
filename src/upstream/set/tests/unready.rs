//! Nobody can be used: when that is so, until when, and what becomes of who comes then.

use super::*;
use crate::upstream::WhenUnready;

fn waiting(specs: &[&str]) -> Story {
    Story::with(specs, |settings| settings.when_unready = WhenUnready::Wait)
}

/// Health, circuits and membership each take an endpoint out; a limit that is reached does not.
#[test]
fn somebody_is_usable_unless_all_are_out_for_whatever_reason() {
    let mut story = Story::with(&["a", "b"], |settings| settings.limits.connections_per_endpoint = Some(1));
    let usable = |story: &Story| story.set.standing(story.now).is_usable();
    let _busy = (story.pick().unwrap(), story.pick().unwrap());
    assert!(usable(&story), "busy is not gone");
    story.down("a");
    assert!(usable(&story));
    story.down("b");
    assert_eq!(
        story.set.standing(story.now),
        Standing::Unready { until: None },
        "time alone brings nobody back"
    );
    story.up("b");
    assert!(usable(&story));
    story.update(&["a"]);
    assert!(!usable(&story));
    story.update(&[]);
    assert!(!usable(&story));
}

/// An open circuit says when it may be tried. From then on the endpoint counts, until somebody tries it, and again when that
/// has come to something.
#[test]
fn a_circuit_that_may_be_tried_again_counts_until_it_is_tried() {
    let mut story = Story::new(&["a"]);
    story.open("a");
    let Standing::Unready { until: Some(until) } = story.set.standing(story.now) else {
        panic!("it is open")
    };
    assert!(until > story.now);
    story.now = until;
    assert!(story.set.standing(story.now).is_usable());
    let trial = story.pick().unwrap();
    assert_eq!(story.set.standing(story.now), Standing::Unready { until: None });
    story.set.released(trial.attempt);
    assert!(story.set.standing(story.now).is_usable());
    // One that was established, and lives, proves it by time alone: that is said as well.
    let mut trial = story.pick().unwrap();
    story.set.established(&mut trial.attempt, story.now, Duration::from_millis(1));
    let Standing::Unready { until: Some(until) } = story.set.standing(story.now) else { panic!("on trial") };
    assert!(story.set.standing(until).is_usable());
}

/// Where connections wait, nobody is let through open circuits while nobody is ready: waiting takes the panic's place.
#[test]
fn who_may_wait_takes_no_chances() {
    let mut story = Story::new(&["a", "b"]);
    story.open("a");
    story.open("b");
    assert!(story.pick().is_ok(), "a panic");
    let mut story = waiting(&["a", "b"]);
    story.open("a");
    story.open("b");
    let Err(Unpicked::NotYet(failure)) = story.set.pick(story.now, None, &[], &mut story.rng) else {
        panic!("nobody is ready")
    };
    assert_eq!(failure.reason, Reason::CircuitOpen);
    assert!(!story.set.panicking());
    assert_eq!(story.set.awaited(story.now).map(|failure| failure.reason), Some(Reason::CircuitOpen));
    story.now += Duration::from_secs(3600);
    assert!(story.set.awaited(story.now).is_none());
    assert!(story.pick().is_ok(), "a trial");
}
