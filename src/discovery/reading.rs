//! Reads of this host's files beside the reactor, which a file on the network could hold up for as long as it likes.
//!
//! Owns how long one is waited for, and that a source has only one under way: what hangs costs one thread, however often it
//! is asked for. Leaves what is in the files to whoever wants them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::failure::{Failure, Reason, Side, Stage};

/// A file that takes longer is on a disk or a network that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The reads of one source.
pub(super) struct Reading {
    /// Taken by the read that is under way, also when nobody waits for it any more.
    free: Arc<Semaphore>,
    patience: Duration,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading::with_patience(PATIENCE)
    }

    pub(super) fn with_patience(patience: Duration) -> Reading {
        Reading { free: Arc::new(Semaphore::new(1)), patience }
    }

    /// What `read` gives, which may take its time. `what` is read is told if it takes too much.
    pub(super) async fn of<T: Send + 'static>(
        &self,
        what: &(dyn fmt::Display + Sync),
        read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.patience;
        let late = || {
            let patience = humantime::format_duration(self.patience);
            ours(format!("{what}: it could not be read within {patience}")).mend(
                "see whether the disk or the network that it is on hangs; it is read again until it can be",
            )
        };
        let free = timeout_at(deadline, self.free.clone().acquire_owned()).await.map_err(|_| late())?;
        let reading = tokio::task::spawn_blocking(move || {
            let read = read();
            drop(free);
            read
        });
        match timeout_at(deadline, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(panicked)) => Err(ours(format!("{what}: {panicked}"))),
            Err(_) => Err(late()),
        }
    }
}

/// A fault of this host's files.
pub(super) fn ours(detail: String) -> Failure {
    Failure::new(Stage::Resolve, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    /// On one thread with everything else, as on a reactor: what hangs holds nobody up, is told, and is not begun a second time.
    #[tokio::test]
    async fn a_file_that_hangs_holds_nobody_up_and_hangs_once() {
        let reading = Reading::with_patience(Duration::from_millis(50));
        let begun = Arc::new(AtomicUsize::new(0));
        let (go_on, hangs) = channel::<()>();
        let counted = begun.clone();
        let first = reading.of(&"token_file /t", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            hangs.recv().ok();
            Ok("old")
        });
        let failure = first.await.unwrap_err();
        assert_eq!(&*failure.detail, "token_file /t: it could not be read within 50ms");
        for _ in 0..3 {
            let counted = begun.clone();
            let again = reading.of(&"token_file /t", move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok("new")
            });
            assert!(again.await.is_err());
        }
        assert!(begun.load(Ordering::Relaxed) <= 1, "one thread hangs, not four");
        drop(go_on);
        // It has become free by then; what the old read gave is of no use to anybody.
        let patient = Reading { patience: Duration::from_secs(20), ..reading };
        assert_eq!(patient.of(&"token_file /t", || Ok("new")).await.unwrap(), "new");
    }
}
