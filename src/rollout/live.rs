//! The shares of one listener, shared by all its connections, and told to log and API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{End, News, Rollout, RolloutView, Settings};
use crate::addr::{ListenerName, UpstreamName};

/// How often it is looked at the times, which takes longer than to count.
const TICK: Duration = Duration::from_millis(500);

/// A listener's split.
#[derive(Debug)]
pub struct Split {
    listener: ListenerName,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rollout: Rollout,
    rng: fastrand::Rng,
    ticked: Instant,
}

impl Split {
    /// At its beginning.
    pub fn new(listener: ListenerName, settings: Settings, now: Instant) -> Arc<Split> {
        let inner = Inner { rollout: Rollout::new(settings, now), rng: fastrand::Rng::new(), ticked: now };
        Arc::new(Split { listener, inner: Mutex::new(inner) })
    }

    /// As the file has it.
    pub fn settings(&self) -> Settings {
        self.inner().rollout.settings().clone()
    }

    /// Whose turn it is; `key`: the source's.
    pub fn choose(&self, key: u64) -> Option<UpstreamName> {
        let inner = &mut *self.inner();
        inner.rollout.choose(key, &mut inner.rng).cloned()
    }

    /// A connection to `upstream` can carry data, after so long.
    pub fn established(&self, upstream: &str, took: Option<Duration>, now: Instant) {
        self.change(now, |rollout| {
            rollout.established(upstream, took);
            None
        });
    }

    /// A connection that was sent to `upstream` has ended, or never came to be.
    pub fn ended(&self, upstream: &str, end: End, now: Instant) {
        self.change(now, |rollout| rollout.ended(upstream, end));
    }

    /// See [`Rollout::set`].
    ///
    /// # Errors
    /// Why these weights cannot be had.
    pub fn set(&self, wanted: &[(String, u32)]) -> Result<(), String> {
        self.inner().rollout.set(wanted)?;
        let listener = &*self.listener;
        tracing::info!(listener, split = %in_words(&self.view()), "the split was set by hand");
        Ok(())
    }

    /// Whose it is.
    pub fn listener(&self) -> &ListenerName {
        &self.listener
    }

    /// As it is now.
    pub fn view(&self) -> RolloutView {
        self.inner().rollout.view()
    }

    /// Who serves a connection looks after it as well: where nobody comes, nothing has to move.
    fn change(&self, now: Instant, change: impl FnOnce(&mut Rollout) -> Option<News>) {
        let (news, view) = {
            let mut inner = self.inner();
            let mut news = change(&mut inner.rollout);
            if now.saturating_duration_since(inner.ticked) >= TICK {
                inner.ticked = now;
                news = news.or_else(|| inner.rollout.tick(now));
            }
            if news.is_none() {
                return;
            }
            (news, inner.rollout.view())
        };
        let (listener, split) = (&*self.listener, in_words(&view));
        match news {
            Some(News::Step(percent)) => tracing::info!(listener, percent, split, "the rollout goes on"),
            Some(News::Done) => tracing::info!(listener, split, "the rollout is done"),
            Some(News::RolledBack(why)) => {
                tracing::warn!(listener, why, split, "the rollout was rolled back")
            }
            None => {}
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_words(view: &RolloutView) -> String {
    let shares: Vec<_> =
        view.split.iter().map(|share| format!("{} {}", share.upstream, share.weight)).collect();
    shares.join(", ")
}
