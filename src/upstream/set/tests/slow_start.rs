//! Who comes, or comes back, is given its share by and by.

use super::*;

const RAMP: Duration = Duration::from_secs(30);

fn starting_slowly(specs: &[&str], balance: Balance) -> Story {
    Story::with(specs, |settings| {
        settings.slow_start = Some(RAMP);
        settings.balance = balance;
    })
}

/// The share of `name` in two thousand connections, each of another source.
fn share(story: &mut Story, name: &str) -> f64 {
    let home = |source| story.home(source);
    (0..2000).map(home).filter(|home| home == name).count() as f64 / 2000.0
}

/// c comes to a and b: a tenth of a share at first (1 in 21), half of one after half of the time (1 in 5), then all of it.
#[test]
fn a_new_endpoint_of_a_known_set_is_given_its_share_by_and_by() {
    for balance in [Balance::Random, Balance::RoundRobin, Balance::SourceHash, Balance::Maglev] {
        let mut story = starting_slowly(&["a", "b"], balance);
        assert!((share(&mut story, "a") - 0.5).abs() < 0.05, "who is there at first is not new");
        story.update(&["a", "b", "c"]);
        for (passed, wanted) in [(0.0, 0.1 / 2.1), (0.5, 0.2), (1.0, 1.0 / 3.0), (2.0, 1.0 / 3.0)] {
            let began = story.now;
            story.now += RAMP.mul_f64(passed);
            let share = share(&mut story, "c");
            assert!((share - wanted).abs() < 0.035, "{balance:?} after {passed}: {share}, not {wanted}");
            story.now = began;
        }
    }
}

/// Whose circuit was open, or whom its checks held down, begins anew. A first passed check is no return.
#[test]
fn who_comes_back_is_as_one_who_is_new() {
    let mut story = starting_slowly(&["a", "b"], Balance::Random);
    story.up("a");
    assert!((share(&mut story, "a") - 0.5).abs() < 0.05, "it was never away");
    story.down("a");
    story.up("a");
    assert!((share(&mut story, "a") - 0.09).abs() < 0.03);
    story.now += RAMP;
    assert!((share(&mut story, "a") - 0.5).abs() < 0.05);
    story.open("a");
    story.now += Duration::from_secs(5);
    story.prove("a");
    assert!((share(&mut story, "a") - 0.09).abs() < 0.03);
    story.now += RAMP;
    assert!((share(&mut story, "a") - 0.5).abs() < 0.05);
}

/// Switched off, and with nobody else there, a new one has everything at once.
#[test]
fn without_it_who_is_new_has_its_share_at_once() {
    let mut story = Story::new(&["a"]);
    story.update(&["a", "b"]);
    assert!((share(&mut story, "b") - 0.5).abs() < 0.05);
    let mut story = starting_slowly(&["a"], Balance::Random);
    story.update(&["b"]);
    assert_eq!(story.reachable(20), ["b"]);
}
