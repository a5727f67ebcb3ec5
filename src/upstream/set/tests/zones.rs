//! The own zone first, for as much as it can bear.

use super::*;

fn in_zone(specs: &[&str], zone: &str) -> Story {
    Story::with(specs, |settings| settings.zone = Some(zone.into()))
}

#[test]
fn the_own_zone_serves_while_it_has_its_fair_share() {
    let specs = ["a@1", "b@1", "c@2", "d@2", "e@3", "f@3"];
    assert_eq!(in_zone(&specs, "1").reachable(300), ["a", "b"]);
    assert_eq!(in_zone(&specs, "3").reachable(300), ["e", "f"]);
    assert_eq!(in_zone(&specs, "elsewhere").reachable(300).len(), 6, "nobody is near");
    assert_eq!(Story::new(&specs).reachable(300).len(), 6, "we don't know where we are");
}

/// Of three zones with two each, one of ours is down: it has 1 of 5, its fair share is a third, so it keeps 3 of 5.
#[test]
fn with_less_than_its_fair_share_the_rest_goes_to_the_others() {
    let mut story = in_zone(&["a@1", "b@1", "c@2", "d@2", "e@3", "f@3"], "1");
    story.down("a");
    let counts = story.counts(5000);
    assert!(counts["b"].abs_diff(3000) < 150, "{counts:?}");
    for name in ["c", "d", "e", "f"] {
        assert!(counts[name].abs_diff(500) < 100, "{counts:?}");
    }
    // The same is down everywhere: nobody would be better off elsewhere.
    story.down("c");
    story.down("e");
    assert_eq!(story.reachable(300), ["b"]);
    story.down("b");
    assert_eq!(story.reachable(300), ["d", "f"]);
}

/// Where a source says for which zones an endpoint is, all of those are near, and where it stands is not.
#[test]
fn an_endpoint_is_near_in_each_zone_that_it_is_for() {
    let near = |zone: &str| {
        let mut story = in_zone(&[], zone);
        let mut specs = [spec("a@1"), spec("b@2")];
        specs[0].for_zones = ["2", "3"].map(Arc::from).into();
        story.set.update(specs.to_vec(), story.now, &mut story.rng);
        story.reachable(300)
    };
    assert_eq!(near("1"), ["a", "b"], "nobody is for those");
    assert_eq!(near("2"), ["a", "b"], "one stands there, the other is for there");
    assert_eq!(near("3"), ["a"]);
}

/// A zone with one endpoint of ten is no place for half of all clients.
#[test]
fn a_small_zone_is_not_given_all_of_its_clients() {
    let specs = ["a@1", "b@2", "c@2", "d@2", "e@2", "f@2", "g@2", "h@2", "i@2", "j@2"];
    let counts = in_zone(&specs, "1").counts(5000);
    assert!(counts["a"].abs_diff(1000) < 120, "a tenth where half would be fair: {counts:?}");
}

/// A tier comes before a zone: a far primary serves rather than a near backup. And within the backups' tier the near one.
#[test]
fn a_zone_is_preferred_within_a_tier_only() {
    let mut story = in_zone(&["a@2", "!b@1", "!c@2"], "1");
    assert_eq!(story.reachable(100), ["a"]);
    let a = story.id("a");
    assert_eq!(story.pick_after(&[a]).unwrap().attempt.endpoint(), story.id("b"));
    story.down("a");
    assert_eq!(story.reachable(100), ["b"]);
    let b = story.id("b");
    assert_eq!(story.pick_after(&[b]).unwrap().attempt.endpoint(), story.id("c"), "a retry goes further");
}

/// The sources that go elsewhere are always the same, whichever balance keeps them where they are.
#[test]
fn a_source_keeps_its_zone() {
    for balance in [Balance::SourceHash, Balance::Maglev] {
        let mut story = Story::with(&["a@1", "b@1", "c@2", "d@2"], |settings| {
            settings.zone = Some("1".into());
            settings.balance = balance;
        });
        story.down("a");
        let homes: Vec<_> = (0..600).map(|source| story.home(source)).collect();
        assert_eq!(homes, (0..600).map(|source| story.home(source)).collect::<Vec<_>>());
        // 1 of 3, where half would be fair.
        let kept = homes.iter().filter(|home| *home == "b").count();
        assert!(kept.abs_diff(400) < 50, "{balance:?}: {kept}");
    }
}
