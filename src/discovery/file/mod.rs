//! `file`: the endpoints that a file names, which somebody else writes.
//!
//! Owns when it is read, and when what was read is taken for the whole: not before the file has been the same for a while.
//! Leaves what is in it to `read`, and to `watch` how a change is noticed at once.

mod read;
mod watch;

use std::fs::{File as Opened, Metadata};
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::read::{Contents, Notation};
use self::watch::Watch;
use super::Discover;
use super::reading::{Reading, ours};
use crate::failure::Failure;
use crate::upstream::EndpointSpec;

/// How often the file is looked at, beside what the kernel tells: of a file on another host, or behind a symbolic link into
/// another directory, it tells nothing.
const LOOK: Duration = Duration::from_secs(2);
/// For so long the file has to be the same before it is read: who writes it in its place does so in several steps. More than
/// a tick of any file system's clock, so that no later write leaves it with the same stamp.
const SETTLE: Duration = Duration::from_millis(50);
/// The same, of a file that would look whole if its end were missing.
const SETTLE_OPEN_ENDED: Duration = Duration::from_secs(1);
/// A file that is written all the time is told of after this.
const RESTLESS: Duration = Duration::from_secs(10);
/// The largest file that is read.
const LARGEST: u64 = 4 << 20;

/// Follows a file.
pub(super) fn discover(path: &Path) -> Box<dyn Discover> {
    Box::new(File {
        path: path.to_owned(),
        watch: Watch::none(),
        reading: Reading::new(),
        seen: None,
        last: None,
    })
}

/// Can it be read, by its name? `Err`: what to write instead.
///
/// # Errors
/// The name says neither JSON nor TOML.
pub fn fits(path: &Path) -> Result<(), String> {
    Notation::of(path).map(drop)
}

struct File {
    path: PathBuf,
    watch: Watch,
    reading: Reading,
    /// As it was when it was read last.
    seen: Option<Stamp>,
    last: Option<Result<Vec<EndpointSpec>, Failure>>,
}

/// By this a change is seen without reading.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Another one is another file: put in its place by a rename.
    node: Option<(u64, u64)>,
    /// Beside `modified`, which whoever writes can set as he likes.
    changed: Option<(i64, i64)>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        #[cfg(unix)]
        let (node, changed) = {
            use std::os::unix::fs::MetadataExt;
            let node = (metadata.dev(), metadata.ino());
            (Some(node), Some((metadata.ctime(), metadata.ctime_nsec())))
        };
        #[cfg(not(unix))]
        let (node, changed) = (None, None);
        Stamp { length: metadata.len(), modified: metadata.modified().ok(), node, changed }
    }
}

impl Discover for File {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            if self.last.is_some() {
                tokio::select! {
                    () = self.watch.changed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            let path = self.path.clone();
            if let Some(answer) = self.whole().await.transpose() {
                self.last = Some(answer.map_err(|failure| Failure {
                    detail: format!("{}: {}", path.display(), failure.detail).into(),
                    ..failure
                }));
            }
            self.last.clone().unwrap_or_else(|| Ok(Vec::new()))
        })
    }
}

impl File {
    /// What the file says, once it has been the same for a while; `None`: it is as it was.
    async fn whole(&mut self) -> Result<Option<Vec<EndpointSpec>>, Failure> {
        self.renew_watch().await;
        // Where this ends early, the file has to be read again, be it as it was or not.
        let seen = self.seen.take();
        let begun = Instant::now();
        let (mut stamp, mut since) = (self.stamp().await?, begun);
        if seen == Some(stamp) {
            self.seen = seen;
            return Ok(None);
        }
        loop {
            tokio::time::sleep_until(since + SETTLE).await;
            let (read_at, answer) = self.read().await?;
            // At a start it may have been there for long.
            let lies_there = self.last.is_none() && read_at.is_older_than(SETTLE_OPEN_ENDED);
            let open_ended = answer.as_ref().is_ok_and(|contents| contents.open_ended) && !lies_there;
            if read_at == stamp && open_ended {
                tokio::time::sleep_until(since + SETTLE_OPEN_ENDED).await;
            }
            let now = self.stamp().await?;
            if (read_at, now) == (stamp, stamp) {
                self.seen = Some(stamp);
                return answer.map(|contents| Some(contents.endpoints));
            }
            (stamp, since) = (now, Instant::now());
            if begun.elapsed() > RESTLESS {
                let restless = humantime::format_duration(RESTLESS);
                return Err(ours(format!("it has been written to all the time, for {restless}"))
                    .mend("let its writer write another file, and put that in its place by a rename"));
            }
        }
    }

    async fn renew_watch(&mut self) {
        if self.watch.has_ended() {
            let path = self.path.clone();
            // Without one, the file is looked at now and then.
            if let Ok(watched) = self.reading.of(&"its directory", move || Ok(Watch::of(&path))).await {
                self.watch = watched;
            }
        }
    }

    async fn stamp(&self) -> Result<Stamp, Failure> {
        let path = self.path.clone();
        let look =
            move || std::fs::metadata(path).map(|it| Stamp::of(&it)).map_err(|error| unreadable(&error));
        self.reading.of(&"the file", look).await
    }

    /// What is in it, and what it was when it was opened.
    async fn read(&self) -> Result<(Stamp, Result<Contents, Failure>), Failure> {
        let path = self.path.clone();
        let read = move || {
            let mut bytes = Vec::new();
            let opened = Opened::open(&path).and_then(|file| {
                let stamp = Stamp::of(&file.metadata()?);
                file.take(LARGEST + 1).read_to_end(&mut bytes)?;
                Ok(stamp)
            });
            Ok((opened.map_err(|error| unreadable(&error))?, understood(&path, &bytes)))
        };
        self.reading.of(&"the file", read).await
    }
}

impl Stamp {
    /// Has it been so for that long, by this host's clock?
    fn is_older_than(&self, age: Duration) -> bool {
        let modified = self.modified.and_then(|at| SystemTime::now().duration_since(at).ok());
        modified.is_some_and(|modified| modified > age)
    }
}

fn understood(path: &Path, bytes: &[u8]) -> Result<Contents, Failure> {
    if bytes.len() as u64 > LARGEST {
        return Err(
            ours(format!("it is larger than {} MiB", LARGEST >> 20)).mend("is that the file that was meant?")
        );
    }
    let notation = Notation::of(path).map_err(ours)?;
    notation
        .read(bytes)
        .map_err(|problem| ours(problem).mend("mend the file; the last endpoints that it named stay in use"))
}

fn unreadable(error: &std::io::Error) -> Failure {
    ours(error.to_string())
        .mend("have it written there, readable for nuncio; it is looked for again every two seconds")
}
