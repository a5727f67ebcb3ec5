//! So many connections an endpoint, and no more.

use super::*;

fn at_most(most: u32, specs: &[&str]) -> Story {
    Story::with(specs, |settings| settings.limits.connections_per_endpoint = Some(most))
}

impl Story {
    fn try_after(&mut self, tried: &[EndpointId]) -> Result<Picked, Unpicked> {
        self.set.pick(self.now, None, tried, &mut self.rng)
    }
}

/// Two of two each take four connections, the fifth has to wait, and has the place of the first that ends.
#[test]
fn beyond_the_limit_of_all_a_connection_has_to_wait() {
    let mut story = at_most(2, &["a", "b"]);
    let mut live: Vec<_> = (0..4).map(|_| story.pick().unwrap()).collect();
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
    assert_eq!(story.set.full(story.now), (2, 2));
    let ended = live.swap_remove(1);
    let label = ended.label.clone();
    story.set.released(ended.attempt);
    assert_eq!(story.pick().unwrap().label, label);
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
}

/// Who is busy is not gone: no backup comes in, no panic begins. Who is gone is another matter.
#[test]
fn a_busy_primary_sends_nobody_to_the_backups() {
    let mut story = at_most(1, &["a", "!b"]);
    let busy = story.pick().unwrap();
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
    assert!(!story.set.panicking());
    story.down("a");
    assert_eq!(&*story.pick().unwrap().label, "b:1");
    story.up("a");
    story.set.released(busy.attempt);
    assert_eq!(&*story.pick().unwrap().label, "a:1");
}

/// A retry whose only untried endpoint is busy goes back to one that it has tried rather than wait.
#[test]
fn a_retry_goes_back_rather_than_wait() {
    let mut story = at_most(1, &["a", "b"]);
    let first = story.pick().unwrap();
    let tried = if &*first.label == "a:1" { story.id("b") } else { story.id("a") };
    assert_eq!(story.pick_after(&[tried]).unwrap().attempt.endpoint(), tried);
}

/// The near endpoint is busy: a far one of the same tier serves. All of both are: it waits.
#[test]
fn a_busy_zone_sends_to_the_others() {
    let mut story = Story::with(&["a@1", "b@2"], |settings| {
        settings.limits.connections_per_endpoint = Some(1);
        settings.zone = Some("1".into());
    });
    assert_eq!(&*story.pick().unwrap().label, "a:1");
    assert_eq!(&*story.pick().unwrap().label, "b:1");
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
}

/// What spills over may go back when the backups are busy, and waits only when both are.
#[test]
fn with_spill_over_either_tier_takes_what_the_other_cannot() {
    let mut story = Story::with(&["a", "b", "!c"], |settings| {
        settings.limits.connections_per_endpoint = Some(3);
        settings.spill_over = Some(1.0);
    });
    story.down("b");
    for _ in 0..6 {
        story.pick().unwrap();
    }
    assert!(story.set.members().all(|member| member.open() == 3 || member.label.starts_with('b')));
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
}

/// In a panic the limit holds as well, and with nobody but busy ones let through, a connection waits as it does for others:
/// to be refused it would have to be told of a circuit that others pass.
#[test]
fn a_panic_keeps_to_the_limit() {
    let mut story = at_most(1, &["a", "b"]);
    story.open("a");
    story.open("b");
    let through = story.pick().unwrap();
    assert!(story.set.panicking());
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
    assert_eq!(story.set.full(story.now), (1, 1));
    story.set.released(through.attempt);
    assert!(story.pick().is_ok());
}

/// A limit that comes later holds for what is open already, and one that goes lets in who waits.
#[test]
fn a_limit_that_changes_counts_at_once() {
    let mut story = Story::new(&["a"]);
    let _open: Vec<_> = (0..3).map(|_| story.pick().unwrap()).collect();
    let mut settings = Settings { balance: Balance::Random, ..Settings::default() };
    settings.limits.connections_per_endpoint = Some(3);
    story.set.reconfigure(settings.clone(), story.now);
    assert!(matches!(story.try_after(&[]), Err(Unpicked::Full)));
    settings.limits.connections_per_endpoint = None;
    story.set.reconfigure(settings, story.now);
    assert!(story.pick().is_ok());
}
