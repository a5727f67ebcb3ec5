//! What is known of one name, and for how long: TTLs with floor and ceiling, the last good answer, the pauses after
//! failures. A value: the time and the generator are passed in.
//!
//! Leaves the asking to `ask` and the tasks to `dns`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::ask::Found;
use super::{DnsSettings, NameView};
use crate::failure::Failure;

/// The shortest time between two look-ups of a name after a failure, or when somebody asks for one early.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two look-ups that fail, without what is drawn on top.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What is known of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    /// Both, sorted. Never empty again once it was not.
    addresses: Arc<[IpAddr]>,
    /// When the DNS said so.
    answered: Option<Instant>,
    /// Until when a look-up is not needed; `None` before the first one.
    until: Option<Instant>,
    /// When the last look-up ended.
    tried: Option<Instant>,
    failing: Option<Failing>,
    /// Look-ups so far: who waits for the next one sees it here.
    pub(super) rounds: u64,
    /// A look-up is under way or about to begin: there is no need to ask for one.
    pub(super) busy: bool,
    /// Nobody uses the name: it is not refreshed until somebody does.
    pub(super) resting: bool,
}

#[derive(Clone, Debug)]
struct Failing {
    last: Failure,
    times: u32,
    since: Instant,
}

/// What a look-up changed, for the log.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    /// Nothing to say.
    Same,
    /// Other addresses than before.
    Addresses,
    /// It failed, after it had worked or for the first time.
    Fails,
    /// It works again.
    Works,
}

impl Known {
    /// Nothing yet, and a look-up on its way.
    pub(super) fn about_to_be_asked() -> Self {
        Known { busy: true, ..Known::default() }
    }

    /// The answer that holds now; `None`: a look-up has to be waited for.
    pub(super) fn now(&self, now: Instant, settings: &DnsSettings) -> Option<Result<Arc<[IpAddr]>, Failure>> {
        let until = self.until?;
        match &self.failing {
            // While the refresh at the end of the TTL is under way, nobody waits for it.
            None => (now < until + settings.timeout).then(|| Ok(self.addresses.clone())),
            // It is tried again in the background: the last good answer is all there is.
            Some(_) if !self.addresses.is_empty() => {
                (!self.resting || now < until).then(|| Ok(self.addresses.clone()))
            }
            // There is nothing to offer, so whoever asks may have it tried again; but not every connection anew.
            Some(failing) => {
                self.tried.is_some_and(|tried| now < tried + PAUSE).then(|| Err(failing.last.clone()))
            }
        }
    }

    /// The addresses and the failure as they are after a look-up, however old.
    pub(super) fn outcome(&self) -> Option<Result<Arc<[IpAddr]>, Failure>> {
        match &self.failing {
            Some(failing) if self.addresses.is_empty() => Some(Err(failing.last.clone())),
            _ => (!self.addresses.is_empty()).then(|| Ok(self.addresses.clone())),
        }
    }

    /// What the last look-up said, without what is remembered of earlier ones.
    pub(super) fn latest(&self) -> Result<Arc<[IpAddr]>, Failure> {
        match &self.failing {
            Some(failing) => Err(failing.last.clone()),
            None => Ok(self.addresses.clone()),
        }
    }

    /// When the next look-up is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }

    /// When the next look-up may be, at the earliest.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.tried.map(|tried| tried + PAUSE)
    }

    /// The result of a look-up.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        result: Result<Found, Failure>,
        settings: &DnsSettings,
        rng: &mut Rng,
    ) -> News {
        self.rounds += 1;
        self.busy = false;
        self.tried = Some(now);
        match result {
            Ok(found) => {
                self.v4 = found.v4.unwrap_or_else(|| std::mem::take(&mut self.v4));
                self.v6 = found.v6.unwrap_or_else(|| std::mem::take(&mut self.v6));
                let mut addresses: Vec<_> = self.v4.iter().chain(&self.v6).copied().collect();
                addresses.sort_unstable();
                addresses.dedup();
                let changed = *addresses != *self.addresses;
                if changed {
                    self.addresses = addresses.into();
                }
                self.answered = Some(now);
                self.until = Some(now + settings.holds(found.ttl));
                match (self.failing.take(), changed) {
                    (Some(_), _) => News::Works,
                    (None, true) => News::Addresses,
                    (None, false) => News::Same,
                }
            }
            Err(failure) => {
                let (times, since) = match &self.failing {
                    Some(failing) => (failing.times.saturating_add(1), failing.since),
                    None => (1, now),
                };
                self.failing = Some(Failing { last: failure, times, since });
                self.until = Some(now + pause(times, rng));
                if times == 1 { News::Fails } else { News::Same }
            }
        }
    }

    /// For people.
    pub(super) fn view(&self, name: &str, now: Instant) -> NameView {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ago = |at: Instant| millis(now.saturating_duration_since(at));
        NameView {
            name: name.into(),
            addresses: self.addresses.to_vec(),
            age_ms: self.answered.map(ago),
            refresh_in_ms: self
                .until
                .filter(|_| !self.resting)
                .map(|at| millis(at.saturating_duration_since(now))),
            failing_for_ms: self.failing.as_ref().map(|failing| ago(failing.since)),
            last_error: self.failing.as_ref().map(|failing| failing.last.to_string()),
        }
    }
}

/// One second, doubling to twenty, and up to half of it more, so that many ambassadors that failed together do not ask in step.
pub(super) fn pause(times: u32, rng: &mut Rng) -> Duration {
    let least = PAUSE.saturating_mul(1 << times.saturating_sub(1).min(5)).min(LONGEST_PAUSE);
    least.mul_f64(1.0 + 0.5 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Reason, Stage};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> DnsSettings {
        DnsSettings { ttl_floor: SECOND * 5, ttl_ceiling: SECOND * 60, ..DnsSettings::default() }
    }

    fn found(v4: &[&str], v6: Option<&[&str]>, ttl: u64) -> Result<Found, Failure> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        Ok(Found { v4: Some(parse(v4)), v6: v6.map(parse), ttl: SECOND * ttl as u32 })
    }

    fn failed() -> Result<Found, Failure> {
        Err(Failure::upstream(Stage::Resolve, Reason::DnsTimeout, "silence"))
    }

    fn texts(known: &Known) -> Vec<String> {
        known.addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_ttl_holds_between_its_floor_and_its_ceiling() {
        let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
        for (ttl, kept) in [(0, 5), (20, 20), (86_400, 60)] {
            let mut known = Known::default();
            known.learn(now, found(&["10.0.0.1"], None, ttl), &settings(), &mut rng);
            assert_eq!(known.due(), Some(now + SECOND * kept), "TTL {ttl}");
        }
    }

    #[test]
    fn the_last_good_answer_outlives_any_number_of_failures_which_are_told_once() {
        let (mut now, mut rng) = (Instant::now(), Rng::with_seed(1));
        let mut known = Known::default();
        assert_eq!(known.learn(now, found(&["10.0.0.1"], None, 9), &settings(), &mut rng), News::Addresses);
        for times in 0..100 {
            now = known.due().unwrap();
            let news = known.learn(now, failed(), &settings(), &mut rng);
            assert_eq!(news, if times == 0 { News::Fails } else { News::Same });
            assert_eq!(
                known.now(now, &settings()).unwrap().unwrap()[0],
                "10.0.0.1".parse::<IpAddr>().unwrap()
            );
            let pause = known.due().unwrap() - now;
            assert!((SECOND..=SECOND * 30).contains(&pause), "{pause:?}");
        }
        let view = known.view("db", now);
        assert!(view.age_ms.unwrap() > 60_000 && view.failing_for_ms.unwrap() > 60_000, "{view:?}");
        assert!(view.last_error.unwrap().contains("dns_timeout"));
        assert_eq!(known.learn(now, found(&["10.0.0.1"], None, 9), &settings(), &mut rng), News::Works);
        assert_eq!(known.view("db", now).last_error, None);
    }

    /// Hundreds of ambassadors lose the same server at the same moment: no tenth of a second sees more than a fifth of them again.
    #[test]
    fn those_who_failed_together_do_not_come_back_together() {
        let mut at = [0; 10];
        for seed in 0..500 {
            let pause = pause(1, &mut Rng::with_seed(seed));
            at[((pause - PAUSE).as_millis() / 100) as usize] += 1;
        }
        assert!(at[..5].iter().all(|count| (50..150).contains(count)), "{at:?}");
    }

    #[test]
    fn a_family_that_could_not_be_asked_for_keeps_its_addresses_and_one_that_is_gone_loses_them() {
        let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
        let mut known = Known::default();
        known.learn(now, found(&["10.0.0.2", "10.0.0.1"], Some(&["::5"]), 9), &settings(), &mut rng);
        assert_eq!(texts(&known), ["10.0.0.1", "10.0.0.2", "::5"]);
        known.learn(now, found(&["10.0.0.1"], None, 9), &settings(), &mut rng);
        assert_eq!(texts(&known), ["10.0.0.1", "::5"]);
        known.learn(now, found(&["10.0.0.1"], Some(&[]), 9), &settings(), &mut rng);
        assert_eq!(texts(&known), ["10.0.0.1"]);
    }

    #[test]
    fn without_any_answer_the_failure_holds_for_a_moment_and_then_may_be_tried_again() {
        let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
        let mut known = Known::default();
        assert!(known.now(now, &settings()).is_none());
        known.learn(now, failed(), &settings(), &mut rng);
        assert!(known.now(now + PAUSE / 2, &settings()).unwrap().is_err());
        assert!(known.now(now + PAUSE, &settings()).is_none());
    }

    #[test]
    fn a_name_that_nobody_used_for_long_is_looked_up_before_its_old_answer_is_given() {
        let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
        let mut known = Known::default();
        known.learn(now, found(&["10.0.0.1"], None, 9), &settings(), &mut rng);
        known.resting = true;
        assert!(known.now(now + SECOND * 10, &settings()).is_some(), "the refresh may still be under way");
        assert!(known.now(now + SECOND * 3600, &settings()).is_none());
        known.learn(now + SECOND * 3600, failed(), &settings(), &mut rng);
        assert!(known.outcome().unwrap().is_ok(), "an old answer is better than none");
    }
}
