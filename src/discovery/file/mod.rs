//! `file`: the endpoints that a file names, which somebody else writes.
//!
//! Owns when it is read. Leaves what is in it to `read`, and to `watch` how a change is noticed at once.

mod read;
mod watch;

use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use self::read::Notation;
use self::watch::Watch;
use super::Discover;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::upstream::EndpointSpec;

/// How often the file is looked at, beside what the kernel tells: of a file on another host, or behind a symbolic link into
/// another directory, it tells nothing.
const LOOK: Duration = Duration::from_secs(2);
/// After a change, the rest of it is waited for: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// The largest file that is read.
const LARGEST: u64 = 16 << 20;

/// Follows a file.
pub(super) fn discover(path: &Path) -> Box<dyn Discover> {
    Box::new(File { path: path.to_owned(), watch: Watch::new(path), seen: None, last: None })
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
    /// As it was when it was read last.
    seen: Option<Stamp>,
    last: Option<Result<Vec<EndpointSpec>, Failure>>,
}

/// By this a change is seen without reading.
#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Discover for File {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            let mut told = self.last.is_none();
            if !told {
                tokio::select! {
                    () = self.watch.changed() => {
                        tokio::time::sleep(SETTLE).await;
                        told = true;
                    }
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            self.watch.renew(&self.path);
            let (path, seen) = (self.path.clone(), self.seen.filter(|_| !told));
            // A file on the network may hang for as long as it likes.
            let looked = tokio::task::spawn_blocking(move || look(&path, seen)).await;
            let (stamp, answer) = looked.unwrap_or_else(|error| (None, Some(Err(ours(error.to_string())))));
            self.seen = stamp;
            if let Some(answer) = answer {
                self.last = Some(answer.map_err(|failure| Failure {
                    detail: format!("{}: {}", self.path.display(), failure.detail).into(),
                    ..failure
                }));
            }
            self.last.clone().unwrap_or_else(|| Ok(Vec::new()))
        })
    }
}

/// Reads it, unless it is as it was `seen`.
fn look(path: &Path, seen: Option<Stamp>) -> (Option<Stamp>, Option<Result<Vec<EndpointSpec>, Failure>>) {
    let unreadable = |error: std::io::Error| {
        let mend = "have it written there, readable for nuncio; it is looked for again every two seconds";
        (None, Some(Err(ours(error.to_string()).mend(mend))))
    };
    let stamp = match std::fs::metadata(path) {
        Ok(metadata) => Stamp { length: metadata.len(), modified: metadata.modified().ok() },
        Err(error) => return unreadable(error),
    };
    if seen == Some(stamp) {
        return (seen, None);
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    if let Err(error) = opened.and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        return unreadable(error);
    }
    (Some(stamp), Some(read(path, &bytes)))
}

fn read(path: &Path, bytes: &[u8]) -> Result<Vec<EndpointSpec>, Failure> {
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

fn ours(detail: String) -> Failure {
    Failure::new(Stage::Resolve, Reason::ProxyConfigurationError, Side::Ambassador, detail)
}
