//! The shares of one listener, shared by all its connections, told to log and API, and kept in a file where that is wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{End, Kept, News, Phase, Rollout, RolloutView, Settings, state_file};
use crate::addr::{ListenerName, UpstreamName};

/// How often it is looked at the times, which takes longer than to count.
const TICK: Duration = Duration::from_millis(500);

/// One file is written at a time: who comes later has the later state.
static KEEPING: Mutex<()> = Mutex::new(());

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
    /// Another one is in its place. Its connections may last, and what becomes of them is nobody's news.
    retired: bool,
}

impl Split {
    /// In the place of `known`: goes on as that one where both are of the same upstreams, else from where the file has it
    /// (`kept`), else begins.
    pub fn next(
        known: Option<Arc<Split>>,
        listener: &ListenerName,
        settings: Settings,
        kept: Result<Option<Kept>, String>,
        now: Instant,
    ) -> Arc<Split> {
        if let Some(known) = known {
            if known.outlives(&settings) {
                known.inner().rollout.reconfigure(settings, now);
                known.keep();
                return known;
            }
            known.retire();
        }
        let rollout = begin(listener, settings, kept, now);
        let inner = Inner { rollout, rng: fastrand::Rng::new(), ticked: now, retired: false };
        let split = Arc::new(Split { listener: listener.clone(), inner: Mutex::new(inner) });
        split.keep();
        split
    }

    /// See [`Rollout::outlives`].
    pub fn outlives(&self, settings: &Settings) -> bool {
        self.inner().rollout.outlives(settings)
    }

    /// No new connections come here any more.
    pub fn retire(&self) {
        self.inner().retired = true;
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
    pub fn established(self: &Arc<Self>, upstream: &str, took: Option<Duration>, now: Instant) {
        self.change(now, |rollout| {
            rollout.established(upstream, took);
            None
        });
    }

    /// Its client has left before a connection to `upstream` could be established.
    pub fn given_up(self: &Arc<Self>, upstream: &str, waited: Duration, now: Instant) {
        self.change(now, |rollout| rollout.given_up(upstream, waited));
    }

    /// A connection that was sent to `upstream` has ended, or never came to be.
    pub fn ended(self: &Arc<Self>, upstream: &str, end: End, now: Instant) {
        self.change(now, |rollout| rollout.ended(upstream, end));
    }

    /// See [`Rollout::set`]; `None`: as the file has it, from the beginning.
    ///
    /// # Errors
    /// Why these weights cannot be had.
    pub fn set(self: &Arc<Self>, wanted: Option<&[(String, u32)]>, now: Instant) -> Result<(), String> {
        match wanted {
            Some(wanted) => self.inner().rollout.set(wanted)?,
            None => self.inner().rollout.restart(now),
        }
        self.keep();
        let (listener, split) = (&*self.listener, in_words(&self.view(now)));
        match wanted {
            Some(_) => tracing::info!(listener, split, "the split was set by hand"),
            None => tracing::info!(listener, split, "the split is the file's again"),
        }
        Ok(())
    }

    /// Whose it is.
    pub fn listener(&self) -> &ListenerName {
        &self.listener
    }

    /// As it is now.
    pub fn view(&self, now: Instant) -> RolloutView {
        self.inner().rollout.view(now)
    }

    /// Who serves a connection looks after it as well: where nobody comes, nothing has to move.
    fn change(self: &Arc<Self>, now: Instant, change: impl FnOnce(&mut Rollout) -> Option<News>) {
        let (news, view) = {
            let mut inner = self.inner();
            if inner.retired {
                return;
            }
            let mut news = change(&mut inner.rollout);
            if now.saturating_duration_since(inner.ticked) >= TICK {
                inner.ticked = now;
                news = news.or_else(|| inner.rollout.tick(now));
            }
            let Some(news) = news else { return };
            (news, inner.rollout.view(now))
        };
        if !matches!(news, News::Waits(..)) {
            self.keep();
        }
        let (listener, split) = (&*self.listener, in_words(&view));
        match news {
            News::Step(percent) => tracing::info!(listener, percent, split, "the rollout goes on"),
            News::Waits(connections, minimum) => {
                tracing::info!(
                    listener,
                    connections,
                    minimum,
                    split,
                    "the rollout waits until more connections have met the canary in this step"
                )
            }
            News::Done => tracing::info!(listener, split, "the rollout is done"),
            News::RolledBack(why) => tracing::warn!(listener, why, split, "the rollout was rolled back"),
        }
    }

    /// Writes down how far it is, where that is wanted, and where nobody waits for the disk.
    fn keep(self: &Arc<Self>) {
        let progressive = self.settings().progressive;
        let Some(path) = progressive.and_then(|progressive| progressive.state_file) else { return };
        let split = self.clone();
        let keep = move || {
            let _one_at_a_time = KEEPING.lock().unwrap_or_else(PoisonError::into_inner);
            let kept =
                Some(split.inner()).filter(|inner| !inner.retired).and_then(|inner| inner.rollout.kept());
            let written = kept.map_or(Ok(()), |kept| state_file::write(&path, &kept));
            if let Err(error) = written {
                let (listener, state_file) = (&*split.listener, path.display());
                tracing::warn!(
                    listener,
                    %state_file,
                    %error,
                    "how far the rollout is cannot be kept: after a restart it begins again, with a canary that was rolled back \
                     too; let nuncio's user write that directory (systemd: StateDirectory=nuncio)"
                );
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(keep)),
            Err(_) => keep(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As it was kept, or from the beginning; tells which.
fn begin(
    listener: &ListenerName,
    settings: Settings,
    kept: Result<Option<Kept>, String>,
    now: Instant,
) -> Rollout {
    let listener = &**listener;
    let resumed =
        kept.and_then(|kept| kept.map(|kept| Rollout::resume(settings.clone(), kept, now)).transpose());
    let state_file = settings.progressive.as_ref().and_then(|progressive| progressive.state_file.clone());
    let rollout = match resumed {
        Ok(Some(rollout)) => rollout,
        Ok(None) => Rollout::new(settings, now),
        Err(why) => {
            let state_file = state_file.unwrap_or_default();
            let state_file = state_file.display();
            tracing::warn!(listener, %state_file, why, "the rollout cannot go on from its state_file, and begins again");
            Rollout::new(settings, now)
        }
    };
    let view = rollout.view(now);
    let (split, of) = (in_words(&view), view.progress.as_ref().map(|progress| progress.steps));
    match view.phase {
        Phase::Fixed => {}
        Phase::Running { step } => {
            tracing::info!(listener, step, of, split, "the rollout begins with this step")
        }
        Phase::Done => tracing::info!(listener, split, "the rollout was done before"),
        Phase::ByHand => tracing::info!(listener, split, "the split was set by hand before"),
        Phase::RolledBack { why, .. } => {
            tracing::warn!(
                listener,
                why,
                split,
                "the rollout was rolled back before, and stays so until DELETE /api/v1/listeners/{listener}/split begins it again"
            )
        }
    }
    rollout
}

fn in_words(view: &RolloutView) -> String {
    let shares: Vec<_> =
        view.split.iter().map(|share| format!("{} {}", share.upstream, share.weight)).collect();
    shares.join(", ")
}
