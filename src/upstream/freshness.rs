//! How fresh a set is: when its source last gave it, and since when, and why, it does not. Pure.

use std::time::{Duration, Instant};

use serde::Serialize;

/// What is known of a set's source.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    answered: Option<Instant>,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    error: String,
    /// What was told of it last, and when.
    told: (String, Instant),
}

/// That it fails of something else is told so often at most: some registries put another number into each refusal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The same, for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceView {
    /// How long ago it gave the set; `None`: never yet.
    pub age_ms: Option<u64>,
    /// Since when it has not been asked with success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_for_ms: Option<u64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Freshness {
    /// The source has answered, or not. `Some`: that is news; with what is wrong, or that nothing is any more.
    pub(super) fn learn(&mut self, error: Option<&str>, now: Instant) -> Option<Option<String>> {
        match (error, &mut self.failing) {
            (Some(error), Some(failing)) => {
                error.clone_into(&mut failing.error);
                let (told, at) = &mut failing.told;
                let is_news = error != told && now.saturating_duration_since(*at) >= TOLD_EVERY;
                is_news.then(|| {
                    (*told, *at) = (error.to_owned(), now);
                    Some(error.to_owned())
                })
            }
            (Some(error), failing @ None) => {
                let told = (error.to_owned(), now);
                *failing = Some(Failing { since: now, error: error.to_owned(), told });
                Some(Some(error.to_owned()))
            }
            (None, failing) => {
                self.answered = Some(now);
                failing.take().map(|_| None)
            }
        }
    }

    /// What keeps it from naming the endpoints.
    pub(super) fn error(&self) -> Option<&str> {
        self.failing.as_ref().map(|failing| &*failing.error)
    }

    pub(super) fn view(&self, now: Instant) -> SourceView {
        let ms = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        SourceView {
            age_ms: self.answered.map(ms),
            failing_for_ms: self.failing.as_ref().map(|failing| ms(failing.since)),
            last_error: self.failing.as_ref().map(|failing| failing.error.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_is_told_of_when_it_begins_to_fail_and_when_it_answers_again() {
        let mut freshness = Freshness::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(freshness.learn(None, start), None);
        assert_eq!(freshness.learn(Some("no route"), after(1)), Some(Some("no route".into())));
        assert_eq!(freshness.learn(Some("no route"), after(2)), None);
        assert_eq!(freshness.learn(Some("HTTP 500"), after(3)), None, "it is another one, and too soon");
        let view = freshness.view(after(5));
        let error = Some("HTTP 500".to_owned());
        assert_eq!(view, SourceView { age_ms: Some(5000), failing_for_ms: Some(4000), last_error: error });
        assert_eq!(freshness.learn(Some("HTTP 500"), after(11)), Some(Some("HTTP 500".into())));
        let told = (12..41).filter(|at| freshness.learn(Some(&format!("id {at}")), after(*at)).is_some());
        assert_eq!(told.count(), 2);
        assert_eq!(freshness.learn(None, after(46)), Some(None));
        let view = freshness.view(after(46));
        assert_eq!(view, SourceView { age_ms: Some(0), failing_for_ms: None, last_error: None });
    }
}
