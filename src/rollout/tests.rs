//! Rollouts, told by hand what became of connections.

use super::*;

fn shares(of: &[(&str, u32)]) -> Vec<Share> {
    of.iter().map(|(upstream, weight)| Share { upstream: (*upstream).into(), weight: *weight }).collect()
}

fn progressive() -> Settings {
    Settings {
        shares: shares(&[("stable", 100), ("canary", 0)]),
        sticky: false,
        progressive: Some(Progressive {
            canary: "canary".into(),
            steps: vec![5, 25, 100],
            pause: Duration::from_secs(60),
            minimum: 50,
            failures: 0.01,
            slower: 0.5,
        }),
    }
}

/// A whole connection that took so long to be established, and as long to the first byte.
fn works(rollout: &mut Rollout, upstream: &str, establish: u64, first_byte: u64) -> Option<News> {
    rollout.established(upstream, Some(Duration::from_millis(establish)));
    let first_byte = Some(Duration::from_millis(first_byte));
    rollout.ended(upstream, End { established: true, failed: false, first_byte })
}

/// One that cannot be established.
fn fails(rollout: &mut Rollout, upstream: &str) -> Option<News> {
    rollout.ended(upstream, End { failed: true, ..End::default() })
}

/// Everybody by weight; whose weight grows takes from the others, and nobody else moves.
#[test]
fn shares_are_kept_and_a_growing_one_moves_nobody_else() {
    let before = shares(&[("a", 60), ("b", 30), ("c", 10)]);
    let after = shares(&[("a", 60), ("b", 30), ("c", 40)]);
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let key = rng.u64(..);
        let (was, is) = (choose(&before, key).unwrap(), choose(&after, key).unwrap());
        *counts.entry(was).or_default() += 1;
        assert!(was == is || **is == *"c", "{was} became {is}");
    }
    for (name, share) in [("a", 12_000), ("b", 6_000), ("c", 2_000)] {
        assert!(counts[name].abs_diff(share) < 400, "{counts:?}");
    }
    assert_eq!(choose(&shares(&[("a", 0), ("b", 1)]), 7).map(|name| &**name), Some("b"));
    assert_eq!(choose(&shares(&[("a", 0)]), 7), None);
}

#[test]
fn one_source_stays_with_its_upstream_only_where_that_is_wanted() {
    for sticky in [true, false] {
        let settings = Settings { shares: shares(&[("a", 1), ("b", 1)]), sticky, progressive: None };
        let rollout = Rollout::new(settings, Instant::now());
        let mut rng = fastrand::Rng::with_seed(1);
        let met: std::collections::BTreeSet<_> =
            (0..50).map(|_| rollout.choose(42, &mut rng).unwrap().to_string()).collect();
        assert_eq!(met.len(), if sticky { 1 } else { 2 });
    }
}

/// A canary as good as the stable one goes from step to step: not before its time, and not unseen.
#[test]
fn a_good_canary_gets_everything_step_by_step() {
    let start = Instant::now();
    let mut rollout = Rollout::new(progressive(), start);
    assert_eq!(rollout.view().split, shares(&[("stable", 95), ("canary", 5)]));
    let minute = |n: u32| start + Duration::from_secs(60) * n;
    assert_eq!(rollout.tick(minute(1)), None, "nobody has met it yet");
    for _ in 0..60 {
        works(&mut rollout, "stable", 3, 3);
        assert_eq!(works(&mut rollout, "canary", 3, 3), None, "its time is not over");
    }
    assert_eq!(rollout.tick(minute(1)), Some(News::Step(25)));
    assert_eq!(rollout.view().split, shares(&[("stable", 75), ("canary", 25)]));
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(minute(2)), Some(News::Step(100)));
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(minute(3)), Some(News::Done));
    let view = rollout.view();
    assert_eq!((view.phase, view.canary_connections, view.canary_failed), (Phase::Done, Some(180), Some(0)));
    assert_eq!(rollout.tick(minute(9)), None);
}

/// One in five fails: it is over long before the step is, and few have met it.
#[test]
fn a_canary_that_fails_is_rolled_back_at_once_and_says_why() {
    let mut worst = 0;
    for seed in 0..1_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let mut rollout = Rollout::new(progressive(), now);
        (0..200).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
        let mut met = 0;
        let why = loop {
            met += 1;
            let fails_now = rng.f64() < 0.2;
            match if fails_now { fails(&mut rollout, "canary") } else { works(&mut rollout, "canary", 3, 3) }
            {
                Some(News::RolledBack(why)) => break why,
                None => assert!(met < 500, "seed {seed}"),
                other => panic!("seed {seed}: {other:?}"),
            }
        };
        assert!(why.contains(&format!("{met} connections met it")), "{why}");
        assert_eq!(rollout.view().split, shares(&[("stable", 100), ("canary", 0)]));
        assert!(matches!(rollout.view().phase, Phase::RolledBack { step: 1, .. }));
        worst = worst.max(met);
    }
    assert!(worst < 150, "{worst}");
}

/// As many fail of either: that is nobody's fault, and chance alone rolls next to nothing back.
#[test]
fn a_canary_no_worse_than_the_stable_one_is_not_rolled_back_by_chance() {
    let rolled_back = (0..500).filter(|seed| {
        let mut rng = fastrand::Rng::with_seed(*seed);
        let now = Instant::now();
        let mut rollout = Rollout::new(progressive(), now);
        (0..2_000).any(|number| {
            let upstream = if number % 4 == 0 { "canary" } else { "stable" };
            let news = match rng.f64() < 0.05 {
                true => fails(&mut rollout, upstream),
                false => works(&mut rollout, upstream, 1 + rng.u64(0..20), 1 + rng.u64(0..20)),
            };
            matches!(news, Some(News::RolledBack(_)))
        })
    });
    let rolled_back = rolled_back.count();
    assert!(rolled_back <= 25, "{rolled_back} of 500");
}

#[test]
fn a_canary_that_is_slower_is_rolled_back_for_that() {
    for (what, establish, first_byte) in [("to be established", 40, 3), ("to the first byte", 3, 40)] {
        let now = Instant::now();
        let mut rollout = Rollout::new(progressive(), now);
        (0..200).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
        (0..200).for_each(|_| assert_eq!(works(&mut rollout, "canary", establish, first_byte), None));
        let said = rollout.tick(now);
        let Some(News::RolledBack(why)) = said else { panic!("{said:?}") };
        assert!(why.contains(what) && why.contains("40."), "{why}");
    }
}

/// The hand has the last word.
#[test]
fn weights_set_by_hand_stop_what_moved_by_itself() {
    let now = Instant::now();
    let mut rollout = Rollout::new(progressive(), now);
    let named = |name: &str, weight| (name.to_owned(), weight);
    for (wanted, why) in [
        (vec![named("other", 1)], "not in this split"),
        (vec![named("canary", 1001)], "above 1000"),
        (vec![named("canary", 1), named("canary", 2)], "twice"),
        (vec![named("canary", 0)], "nobody"),
        (vec![], "nobody"),
    ] {
        let problem = rollout.set(&wanted).unwrap_err();
        assert!(problem.contains(why), "{problem}");
        assert!(matches!(rollout.view().phase, Phase::Running { .. }), "nothing has changed");
    }
    rollout.set(&[named("canary", 10), named("stable", 90)]).unwrap();
    assert_eq!(rollout.view().split, shares(&[("stable", 90), ("canary", 10)]));
    assert!((0..100).all(|_| fails(&mut rollout, "canary").is_none()));
    assert_eq!(rollout.view().phase, Phase::ByHand);
}

/// A session of hours that breaks: it was counted when it was established, and now it is counted as failed.
#[test]
fn what_was_established_in_an_earlier_step_may_fail_in_this_one() {
    let start = Instant::now();
    let mut rollout = Rollout::new(progressive(), start);
    (0..50).for_each(|_| rollout.established("canary", Some(Duration::from_millis(3))));
    assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(25)));
    let broken = End { established: true, failed: true, first_byte: None };
    let why = (1..=50).find_map(|number| Some((number, rollout.ended("canary", broken)?)));
    let Some((2, News::RolledBack(why))) = why else { panic!("{why:?}") };
    assert!(why.contains("50 connections met it, 2 of them failed"), "{why}");
}

/// In the last step the stable one gets nothing any more: it is compared with what it has shown before, and what becomes of its old
/// sessions, when its servers are taken away, excuses nothing.
#[test]
fn the_last_step_is_measured_by_what_the_stable_one_has_shown() {
    let start = Instant::now();
    let settings = || Settings {
        progressive: progressive().progressive.map(|them| Progressive { steps: vec![50, 100], ..them }),
        ..progressive()
    };
    let begun = |stable_fails: u32| {
        let mut rollout = Rollout::new(settings(), start);
        for number in 0..200 {
            let news = match number % 100 < stable_fails {
                true => fails(&mut rollout, "stable"),
                false => works(&mut rollout, "stable", 3, 3),
            };
            assert_eq!(news, None);
            assert_eq!(works(&mut rollout, "canary", 3, 3), None);
        }
        assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(100)));
        rollout
    };
    // Both fail as often.
    let mut rollout = begun(5);
    let news = (0..2_000).find_map(|number| match number % 20 == 0 {
        true => fails(&mut rollout, "canary"),
        false => works(&mut rollout, "canary", 3, 3),
    });
    assert_eq!(news, None);
    // All of the old sessions break, and then the canary.
    let mut rollout = begun(0);
    let broken = End { established: true, failed: true, first_byte: None };
    (0..1_000).for_each(|_| drop(rollout.ended("stable", broken)));
    let met = (1..500).find(|_| fails(&mut rollout, "canary").is_some());
    assert!(met.is_some_and(|met| met < 400), "{met:?}");
}
