//! More than primaries and backups, and what spills over.

use super::*;

/// Three tiers: each serves only once those before it are gone, and a retry goes down through them before it goes back.
#[test]
fn a_tier_serves_once_all_before_it_are_gone() {
    let mut story = Story::new(&["a", "b", "!c", "!!d"]);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| story.id(name));
    assert_eq!(story.pick_after(&[a, b]).unwrap().attempt.endpoint(), c);
    assert_eq!(story.pick_after(&[a, b, c]).unwrap().attempt.endpoint(), d);
    assert!([a, b].contains(&story.pick_after(&[a, b, c, d]).unwrap().attempt.endpoint()));
    story.down("a");
    story.open("b");
    assert_eq!(story.reachable(100), ["c"]);
    story.down("c");
    assert_eq!(story.reachable(100), ["d"]);
    assert!(!story.set.panicking(), "the tier that serves is well");
}

/// Of the last tier's four, three circuits are open: it panics by its own numbers, whoever is down before it.
#[test]
fn the_tier_that_serves_panics_by_its_own_numbers() {
    let mut story = Story::new(&["a", "!b", "!!c", "!!d", "!!e", "!!f"]);
    story.down("a");
    story.down("b");
    for name in ["c", "d"] {
        story.open(name);
    }
    assert_eq!(story.reachable(200), ["e", "f"]);
    story.open("e");
    assert_eq!(story.reachable(500).len(), 2, "f, and the least bad of three");
    assert!(story.set.panicking());
    story.up("a");
    assert_eq!(story.reachable(200), ["a"]);
    assert!(!story.set.panicking());
}

/// Half of the primaries' weight is enough for all connections; with a quarter, half of them go to the backups.
#[test]
fn with_spill_over_a_tier_keeps_what_its_ready_share_allows() {
    let mut story = Story::with(&["a*2", "b*2", "c*3", "d", "!e", "!f"], |settings| {
        settings.spill_over = Some(0.5);
    });
    story.down("a");
    story.down("b");
    assert_eq!(story.reachable(300), ["c", "d"]);
    story.down("c");
    story.up("b");
    // b and d: three of eight parts, of which half would be enough.
    let counts = story.counts(4000);
    let kept = counts["b"] + counts["d"];
    assert!((2850..3150).contains(&kept), "{counts:?}");
    assert!(counts["e"].abs_diff(counts["f"]) < 150, "{counts:?}");
    story.down("b");
    story.down("d");
    assert_eq!(story.reachable(300), ["e", "f"]);
    story.down("e");
    story.down("f");
    story.up("d");
    assert_eq!(story.reachable(300), ["d"], "there is nowhere to go on to");
}

/// Without it, one ready primary of four carries all, as it always did.
#[test]
fn without_spill_over_one_primary_keeps_all() {
    let mut story = Story::new(&["a", "b", "c", "d", "!e"]);
    for name in ["a", "b", "c"] {
        story.down(name);
    }
    assert_eq!(story.reachable(300), ["d"]);
}

/// Half of the sources spill over, always the same ones, and come home when the primaries do.
#[test]
fn a_source_that_spills_over_stays_where_it_went() {
    for balance in [Balance::SourceHash, Balance::Maglev] {
        let mut story = Story::with(&["a", "b", "c", "d", "!e", "!f"], |settings| {
            settings.balance = balance;
            settings.spill_over = Some(0.5);
        });
        let before: Vec<_> = (0..400).map(|source| story.home(source)).collect();
        for name in ["a", "b", "c"] {
            story.down(name);
        }
        let homes: Vec<_> = (0..400).map(|source| story.home(source)).collect();
        assert_eq!(homes, (0..400).map(|source| story.home(source)).collect::<Vec<_>>());
        let kept = homes.iter().filter(|home| *home == "d").count();
        assert!((150..250).contains(&kept), "{balance:?}: {kept}");
        for name in ["a", "b", "c"] {
            story.up(name);
        }
        assert_eq!(before, (0..400).map(|source| story.home(source)).collect::<Vec<_>>());
    }
}

/// One of five is ejected: with Maglev its sources find others, everybody else's stay, and when it is back all is as before.
#[test]
fn with_maglev_an_ejection_moves_only_the_sources_of_the_ejected() {
    let mut story = Story::with(&["a", "b", "c", "d", "e"], |settings| settings.balance = Balance::Maglev);
    let before: Vec<_> = (0..500).map(|source| story.home(source)).collect();
    story.open("c");
    for (source, home) in (0..).zip(&before) {
        let now = story.home(source);
        assert!(now != "c" && (home == "c" || *home == now), "{source}: from {home} to {now}");
    }
    story.now += Duration::from_secs(5);
    story.prove("c");
    assert_eq!(before, (0..500).map(|source| story.home(source)).collect::<Vec<_>>());
}
