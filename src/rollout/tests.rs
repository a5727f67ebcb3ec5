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
            state_file: None,
        }),
    }
}

/// A whole connection that took so long to be established, and as long to the first byte.
fn works(rollout: &mut Rollout, upstream: &str, establish: u64, first_byte: u64) -> Option<News> {
    rollout.established(upstream, Some(Duration::from_millis(establish)));
    let first_byte = Some(Duration::from_millis(first_byte));
    rollout.ended(upstream, End { established: true, first_byte, ..End::default() })
}

impl Rollout {
    fn shown(&self) -> RolloutView {
        self.view(self.since)
    }
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
    assert_eq!(rollout.shown().split, shares(&[("stable", 95), ("canary", 5)]));
    let minute = |n: u32| start + Duration::from_secs(60) * n;
    assert_eq!(rollout.tick(minute(0)), None);
    assert_eq!(rollout.tick(minute(1)), Some(News::Waits(0, 50)), "nobody has met it yet");
    assert_eq!(rollout.tick(minute(1)), None, "that was told");
    for _ in 0..60 {
        works(&mut rollout, "stable", 3, 3);
        assert_eq!(works(&mut rollout, "canary", 3, 3), None, "its time is not over");
    }
    assert_eq!(rollout.tick(minute(1)), Some(News::Step(25)));
    assert_eq!(rollout.shown().split, shares(&[("stable", 75), ("canary", 25)]));
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(minute(2)), Some(News::Step(100)));
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(minute(3)), Some(News::Done));
    let (view, canary) = (rollout.view(start), "canary".into());
    assert_eq!(view.trial, Some(Trial { canary, canary_connections: 180, canary_failed: 0 }));
    assert_eq!(view.phase, Phase::Done);
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
        assert_eq!(rollout.shown().split, shares(&[("stable", 100), ("canary", 0)]));
        assert!(matches!(rollout.shown().phase, Phase::RolledBack { step: 1, .. }));
        worst = worst.max(met);
    }
    assert!(worst < 150, "{worst}");
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
        assert!(matches!(rollout.shown().phase, Phase::Running { .. }), "nothing has changed");
    }
    rollout.set(&[named("canary", 10), named("stable", 90)]).unwrap();
    assert_eq!(rollout.shown().split, shares(&[("stable", 90), ("canary", 10)]));
    assert!((0..100).all(|_| fails(&mut rollout, "canary").is_none()));
    assert_eq!(rollout.shown().phase, Phase::ByHand);
}

/// A session of hours that breaks: it was counted when it was established, and now it is counted as failed.
#[test]
fn what_was_established_in_an_earlier_step_may_fail_in_this_one() {
    let start = Instant::now();
    let mut rollout = Rollout::new(progressive(), start);
    (0..200).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
    (0..50).for_each(|_| rollout.established("canary", Some(Duration::from_millis(3))));
    assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(25)));
    let broken = End { established: true, failed: true, accepted: Some(start), first_byte: None };
    let why = (1..=50).find_map(|number| Some((number, rollout.ended("canary", broken)?)));
    let Some((2, News::RolledBack(why))) = why else { panic!("{why:?}") };
    assert!(why.contains("50 connections met it, 2 of them failed"), "{why}");
}

/// Sessions of hours, one in ten of which breaks in the end: the few that are new in a step are not what those of earlier steps are
/// counted against. Of a bad canary it is more than one in ten, and that is seen however many of the stable one's break meanwhile.
#[test]
fn sessions_of_earlier_steps_count_among_those_that_end_well() {
    let rolled_back = |of_canary: f64| {
        let one = |seed: &u64| {
            let (start, mut rng) = (Instant::now(), fastrand::Rng::with_seed(*seed));
            let mut rollout = Rollout::new(progressive(), start);
            (0..60).for_each(|_| rollout.established("canary", None));
            assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(25)));
            (0..10).for_each(|_| rollout.established("canary", None));
            (0..30).for_each(|_| rollout.established("stable", None));
            let is_over = (0..600).any(|number| {
                let (upstream, breaks) =
                    if number % 10 == 0 { ("canary", of_canary) } else { ("stable", 0.1) };
                let end = End {
                    established: true,
                    failed: rng.f64() < breaks,
                    accepted: Some(start),
                    first_byte: None,
                };
                rollout.ended(upstream, end).is_some()
            });
            assert_eq!(rollout.canary.connections, 10, "they are no reason to go on to the next step");
            is_over
        };
        (0..100).filter(one).count()
    };
    let (good, bad) = (rolled_back(0.1), rolled_back(0.5));
    assert!(good <= 2 && bad >= 95, "{good} of 100 good ones, {bad} of 100 bad ones");
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
    let broken = End { established: true, failed: true, accepted: Some(start), first_byte: None };
    (0..1_000).for_each(|_| drop(rollout.ended("stable", broken)));
    let met = (1..500).find(|_| fails(&mut rollout, "canary").is_some());
    assert!(met.is_some_and(|met| met < 400), "{met:?}");
}

/// How many of so many rollouts are rolled back, where of both sides as many fail, and all take as long; `share` of all
/// connections go to the canary. It is looked at the times after every 50th connection.
fn rolled_back_by_chance(
    share: f64,
    connections: u32,
    fails_of_both: f64,
    millis: impl Fn(&mut fastrand::Rng) -> f64,
) -> u32 {
    const ROLLOUTS: u64 = 100;
    let one = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = Instant::now();
        let mut rollout = Rollout::new(progressive(), now);
        (0..connections).any(|number| {
            let upstream = if rng.f64() < share { "canary" } else { "stable" };
            let mut took = || Duration::from_secs_f64(millis(&mut rng) / 1e3);
            let (establish, first_byte) = (took(), took());
            let news = match rng.f64() < fails_of_both {
                true => fails(&mut rollout, upstream),
                false => {
                    rollout.established(upstream, Some(establish));
                    rollout.ended(
                        upstream,
                        End { established: true, first_byte: Some(first_byte), ..End::default() },
                    )
                }
            };
            let news = news.or_else(|| if number % 50 == 0 { rollout.tick(now) } else { None });
            matches!(news, Some(News::RolledBack(_)))
        })
    };
    (0..ROLLOUTS).map(|seed| u32::from(one(seed))).sum()
}

/// A time with a long tail: one in a hundred takes ten times as long as the one in the middle.
fn long_tailed(rng: &mut fastrand::Rng) -> f64 {
    let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
    5.0 * normal.exp()
}

/// Nobody is worse, whatever is usual: then chance alone rolls next to nothing back, whoever has how many of the connections.
#[test]
fn a_canary_no_worse_than_the_stable_one_is_not_rolled_back_by_chance() {
    for share in [0.05, 0.5, 0.9] {
        for fails in [0.0, 0.05, 0.3] {
            let rolled_back = rolled_back_by_chance(share, 1_500, fails, long_tailed);
            assert!(rolled_back <= 5, "{rolled_back} of 100, with {share} of all and {fails} failing");
        }
    }
}

/// The network between breaks as a step begins: both fail, and what the stable one has shown before is not held against the canary.
#[test]
fn an_outage_that_hits_both_is_not_the_canarys_fault() {
    let start = Instant::now();
    let mut rollout = Rollout::new(progressive(), start);
    (0..1_000).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(25)));
    for _ in 0..50 {
        (0..3).for_each(|_| assert_eq!(fails(&mut rollout, "stable"), None));
        assert_eq!(fails(&mut rollout, "canary"), None);
    }
    // The stable one is well again, and the canary is not.
    let news = (0..200).find_map(|_| {
        (0..3).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
        fails(&mut rollout, "canary")
    });
    assert!(matches!(news, Some(News::RolledBack(_))), "{news:?}");
}

/// With one step there is nothing that the stable one could show: what fails is rolled back all the same.
#[test]
fn a_canary_that_gets_everything_at_once_is_rolled_back_too() {
    let settings = Settings {
        progressive: progressive().progressive.map(|them| Progressive { steps: vec![100], ..them }),
        ..progressive()
    };
    let mut rollout = Rollout::new(settings, Instant::now());
    let met = (0..100).find(|number| match number % 5 == 4 {
        true => fails(&mut rollout, "canary").is_some(),
        false => works(&mut rollout, "canary", 3, 3).is_some(),
    });
    assert!(met.is_some_and(|met| met < 50), "{met:?}");
    assert_eq!(rollout.shown().split, shares(&[("stable", 100), ("canary", 0)]));
}

/// A canary that hangs, and clients that do not wait for it: none of its connections ends with an error, and it is rolled
/// back. Not so where they leave as soon as they might have been served, or where they leave the stable one too.
#[test]
fn clients_that_give_up_while_the_canary_is_dialled_count_once_it_takes_too_long() {
    let millis = Duration::from_millis;
    // Of the stable one 3 ms are usual, and 5 allowed (the noise of 2 ms is more than half as much again).
    let begun = || {
        let mut rollout = Rollout::new(progressive(), Instant::now());
        (0..100).for_each(|_| assert_eq!(works(&mut rollout, "stable", 3, 3), None));
        rollout
    };
    let mut rollout = begun();
    let news = (1..100).find_map(|number| Some((number, rollout.given_up("canary", millis(200))?)));
    let Some((met @ 1..10, News::RolledBack(why))) = news else { panic!("{news:?}") };
    assert!(
        why.contains(&format!("{met} of them were given up by clients that had waited longer than 5.0 ms")),
        "{why}"
    );
    assert_eq!(
        rollout.shown().trial.map(|trial| (trial.canary_connections, trial.canary_failed)),
        Some((met, met))
    );

    let mut rollout = begun();
    assert!((0..1_000).all(|_| rollout.given_up("canary", millis(4)).is_none()));
    assert_eq!(rollout.shown().trial.map(|trial| trial.canary_connections), Some(0), "that says nothing");

    let mut rollout = begun();
    for _ in 0..1_000 {
        (0..19).for_each(|_| assert_eq!(rollout.given_up("stable", millis(200)), None));
        assert_eq!(rollout.given_up("canary", millis(200)), None);
    }
}

/// One in a hundred of the stable one's clients is impatient whatever happens, and so is one of the canary's.
#[test]
fn impatient_clients_alone_roll_nothing_back() {
    let rolled_back = (0..100).filter(|seed| {
        let mut rng = fastrand::Rng::with_seed(*seed);
        let mut rollout = Rollout::new(progressive(), Instant::now());
        (0..4_000).any(|_| {
            let upstream = if rng.f64() < 0.2 { "canary" } else { "stable" };
            let patience = Duration::from_secs_f64(rng.f64() * 0.1);
            let takes = Duration::from_secs_f64(long_tailed(&mut rng) / 1e3);
            match rng.f64() < 0.05 && patience < takes {
                true => rollout.given_up(upstream, patience).is_some(),
                false => works(&mut rollout, upstream, takes.as_millis() as u64, 3).is_some(),
            }
        })
    });
    assert_eq!(rolled_back.count(), 0);
}

/// What a reload with other parameters leaves as it is.
#[test]
fn a_reload_with_other_parameters_goes_on_where_it_was() {
    let start = Instant::now();
    let minute = |n: u32| start + Duration::from_secs(60) * n;
    let with_steps = |steps: &[u32]| {
        let progressive = progressive().progressive;
        Settings {
            progressive: progressive.map(|them| Progressive { steps: steps.to_vec(), ..them }),
            ..self::progressive()
        }
    };
    let in_second_step = || {
        let mut rollout = Rollout::new(with_steps(&[5, 25, 100]), start);
        (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
        assert_eq!(rollout.tick(minute(1)), Some(News::Step(25)));
        (0..40).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
        rollout
    };
    // Steps before and after, and what the canary has at the end; how many of its connections count in its step.
    for (steps, step, percent, connections) in [
        (&[5, 25, 100][..], 2, 25, 40),
        (&[25, 100], 1, 25, 40),
        (&[1, 5, 10, 25, 50, 100], 4, 25, 40),
        (&[10, 50, 100], 1, 10, 0),
        (&[50, 100], 1, 50, 0),
        (&[5, 20], 2, 20, 0),
    ] {
        let mut rollout = in_second_step();
        assert!(rollout.outlives(&with_steps(steps)));
        rollout.reconfigure(with_steps(steps), minute(1));
        let view = rollout.view(minute(1));
        assert_eq!(view.phase, Phase::Running { step }, "{steps:?}");
        assert_eq!(view.split, shares(&[("stable", 100 - percent), ("canary", percent)]), "{steps:?}");
        let progress = view.progress.map(|progress| (progress.steps, progress.step_connections));
        assert_eq!(progress, Some((steps.len(), connections)), "{steps:?}");
    }
    // The pause alone: it is over at once, or later.
    let mut rollout = in_second_step();
    let pause = |secs| {
        let progressive = progressive().progressive;
        let pause = Duration::from_secs(secs);
        Settings {
            progressive: progressive.map(|them| Progressive { pause, minimum: 40, ..them }),
            ..self::progressive()
        }
    };
    rollout.reconfigure(pause(600), minute(2));
    assert_eq!(rollout.tick(minute(2)), None);
    rollout.reconfigure(pause(1), minute(2));
    assert_eq!(rollout.tick(minute(2)), Some(News::Step(100)));
    // A rollout that was done goes on where there is more to do, and only there.
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(minute(3)), Some(News::Done));
    rollout.reconfigure(with_steps(&[50, 100]), minute(3));
    assert_eq!(rollout.shown().phase, Phase::Done);
    rollout.reconfigure(with_steps(&[50]), minute(3));
    assert_eq!(
        (rollout.shown().phase, rollout.shown().split),
        (Phase::Running { step: 1 }, shares(&[("stable", 50), ("canary", 50)]))
    );
}

/// Rolled back, or set by hand: so it stays over reloads with other parameters and over restarts, until somebody begins it again.
/// Another canary is another rollout.
#[test]
fn what_was_rolled_back_or_set_by_hand_stays_so() {
    let now = Instant::now();
    let mut rolled_back = Rollout::new(progressive(), now);
    (0..200).for_each(|_| assert_eq!(works(&mut rolled_back, "stable", 3, 3), None));
    while fails(&mut rolled_back, "canary").is_none() {}
    let mut by_hand = Rollout::new(progressive(), now);
    by_hand.set(&[("canary".to_owned(), 7), ("stable".to_owned(), 900)]).unwrap();
    let done = finished(now);
    let other = || {
        let progressive = progressive().progressive;
        Settings {
            progressive: progressive.map(|them| Progressive { minimum: 1, slower: 1.0, ..them }),
            ..self::progressive()
        }
    };
    for mut rollout in [rolled_back, by_hand, done] {
        let was = rollout.view(now);
        let kept = serde_json::to_string(&rollout.kept().unwrap()).unwrap();
        let restarted = Rollout::resume(other(), serde_json::from_str(&kept).unwrap(), now).unwrap();
        assert_eq!(restarted.view(now), was, "{kept}");
        rollout.reconfigure(other(), now);
        assert_eq!(rollout.view(now), was);
        rollout.restart(now);
        assert_eq!(rollout.shown().phase, Phase::Running { step: 1 });
        assert_eq!(rollout.shown().split, shares(&[("stable", 95), ("canary", 5)]));
        let another = Settings {
            shares: shares(&[("stable", 1), ("next", 1)]),
            progressive: progressive().progressive.map(|them| Progressive { canary: "next".into(), ..them }),
            ..progressive()
        };
        let reversed = Settings {
            progressive: progressive()
                .progressive
                .map(|them| Progressive { canary: "stable".into(), ..them }),
            ..progressive()
        };
        for another in [another, reversed, Settings { progressive: None, ..progressive() }] {
            assert!(!rollout.outlives(&another), "{another:?}");
            let refused = Rollout::resume(another, serde_json::from_str(&kept).unwrap(), now).unwrap_err();
            assert!(refused.contains("stable and canary with the canary canary"), "{refused}");
        }
    }
}

fn finished(now: Instant) -> Rollout {
    let settings = Settings {
        progressive: progressive().progressive.map(|them| Progressive {
            pause: Duration::ZERO,
            minimum: 1,
            ..them
        }),
        ..progressive()
    };
    let mut rollout = Rollout::new(settings, now);
    for percent in [25, 100] {
        works(&mut rollout, "canary", 3, 3);
        assert_eq!(rollout.tick(now), Some(News::Step(percent)));
    }
    works(&mut rollout, "canary", 3, 3);
    assert_eq!(rollout.tick(now), Some(News::Done));
    rollout
}

/// Weights by hand hold for as long as the file's own are the same.
#[test]
fn weights_set_by_hand_give_way_to_other_weights_in_the_file() {
    let fixed = |weights: [u32; 2], sticky| {
        let [stable, canary] = weights;
        Settings { shares: shares(&[("stable", stable), ("canary", canary)]), sticky, progressive: None }
    };
    let now = Instant::now();
    let mut rollout = Rollout::new(fixed([9, 1], false), now);
    rollout.set(&[("canary".to_owned(), 1)]).unwrap();
    assert!(rollout.outlives(&fixed([9, 1], true)) && !rollout.outlives(&fixed([8, 1], false)));
    rollout.reconfigure(fixed([9, 1], true), now);
    assert_eq!(
        (rollout.shown().phase, rollout.shown().split),
        (Phase::ByHand, shares(&[("stable", 0), ("canary", 1)]))
    );
    assert_eq!(rollout.kept(), None, "there is no rollout to go on with");
}

/// In the middle of a step: it begins again, and with it what is counted in it.
#[test]
fn a_restart_goes_on_with_the_step_that_was_under_way() {
    let start = Instant::now();
    let mut rollout = Rollout::new(progressive(), start);
    (0..60).for_each(|_| assert_eq!(works(&mut rollout, "canary", 3, 3), None));
    assert_eq!(rollout.tick(start + Duration::from_secs(60)), Some(News::Step(25)));
    let kept = rollout.kept().unwrap();
    let rollout = Rollout::resume(progressive(), kept, start).unwrap();
    let view = rollout.view(start);
    assert_eq!(
        (view.phase, view.split),
        (Phase::Running { step: 2 }, shares(&[("stable", 75), ("canary", 25)]))
    );
    assert_eq!(view.trial.map(|trial| trial.canary_connections), Some(60));
    assert_eq!(
        view.progress.map(|progress| (progress.step_connections, progress.step_seconds_left)),
        Some((0, 60))
    );
}
