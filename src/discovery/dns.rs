//! Names to addresses, kept fresh: one task for each name in use, on the control runtime.
//!
//! Owns who waits for what: callers get what is known, or wait for the one look-up that is under way. Leaves the
//! decisions (how long, how often) to `known` and the asking to `ask`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::DnsSettings;
use super::ask;
use super::known::{Known, News};
use super::servers::Servers;
use crate::addr::Host;
use crate::failure::{Failure, Reason, Side, Stage};

/// Looks names up and remembers them. Cheap to clone; the look-ups run on the runtime that made it and end with its
/// last clone.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Arc<DnsSettings>,
    control: Handle,
    servers: Arc<Servers>,
    names: Mutex<HashMap<Arc<str>, Kept>>,
    /// How long a name that nobody uses is remembered: registries name others every day.
    forget_after: Duration,
}

/// A name and the task that keeps it.
struct Kept {
    entry: Arc<Entry>,
    task: AbortHandle,
}

/// One name: what its task and its users share.
struct Entry {
    name: Arc<str>,
    known: watch::Sender<Known>,
    /// A look-up is wanted before it is due.
    wanted: Notify,
    /// Somebody asked since the last look-up.
    used: AtomicBool,
    followers: AtomicUsize,
}

/// What is known of a name, for the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameView {
    /// The name as written.
    pub name: String,
    /// Its addresses as the DNS said last.
    pub addresses: Vec<IpAddr>,
    /// How long ago it said so.
    pub age_ms: Option<u64>,
    /// When it is asked again; `None`: when somebody uses the name.
    pub refresh_in_ms: Option<u64>,
    /// Since when no look-up has worked.
    pub failing_for_ms: Option<u64>,
    /// What the last look-up failed of.
    pub last_error: Option<String>,
}

impl Resolver {
    /// A resolver whose look-ups run on the current runtime. That the DNS cannot be reached, or that the host knows no
    /// server yet, is no error here: it may come.
    pub fn new(settings: &DnsSettings) -> Result<Resolver, String> {
        Resolver::forgetting(settings, Duration::from_secs(3600))
    }

    fn forgetting(settings: &DnsSettings, forget_after: Duration) -> Result<Resolver, String> {
        let control = Handle::try_current().map_err(|error| format!("the DNS needs a runtime: {error}"))?;
        let servers = Arc::new(Servers::new(settings));
        let settings = Arc::new(settings.clone());
        Ok(Resolver {
            inner: Arc::new(Inner { settings, control, servers, names: Mutex::default(), forget_after }),
        })
    }

    /// The addresses of a host, sorted. From memory while they hold; else this waits for the look-up, at most
    /// `dns.timeout`. May be awaited on any runtime.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Failure> {
        let name = match host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Name(name) => name,
        };
        let entry = self.entry(name);
        entry.used.store(true, Ordering::Relaxed);
        let (held, rounds, resting) = {
            let known = entry.known.borrow();
            (known.now(Instant::now(), &self.inner.settings), known.rounds, known.resting)
        };
        if let Some(held) = held {
            if resting {
                entry.want();
            }
            return held.map(|addresses| addresses.to_vec());
        }
        let mut watched = entry.known.subscribe();
        entry.want();
        // It cannot fail: the entry, held here, keeps the sender.
        let told = watched.wait_for(|known| known.rounds > rounds).await;
        let outcome = told.ok().and_then(|known| known.outcome());
        match outcome {
            Some(outcome) => outcome.map(|addresses| addresses.to_vec()),
            None => Err(Failure::new(
                Stage::Resolve,
                Reason::DnsError,
                Side::Ambassador,
                format!("{name}: the look-up ended without a result"),
            )),
        }
    }

    /// Has a name looked up that will soon be needed.
    pub fn prepare(&self, host: &Host) {
        if let Host::Name(name) = host {
            self.entry(name);
        }
    }

    /// An address of this host could not be connected to: perhaps it has moved. Looks it up soon, at most once a second.
    pub fn suspect(&self, host: &Host) {
        if let Host::Name(name) = host {
            self.entry(name).want();
        }
    }

    /// The DNS servers.
    pub(super) fn servers(&self) -> &Servers {
        &self.inner.servers
    }

    /// How long an answer holds that has this TTL.
    pub(super) fn holds(&self, ttl: Duration) -> Duration {
        self.inner.settings.holds(ttl)
    }

    /// What is known of each name, by name.
    pub fn snapshot(&self) -> Vec<NameView> {
        let now = Instant::now();
        let names = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<_> =
            names.iter().map(|(name, kept)| kept.entry.known.borrow().view(name, now)).collect();
        drop(names);
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// Keeps a name fresh for as long as the result lives.
    pub(super) fn follow(&self, name: &Arc<str>) -> Followed {
        let entry = self.entry(name);
        entry.followers.fetch_add(1, Ordering::Relaxed);
        let resting = entry.known.borrow().resting;
        if resting {
            entry.want();
        }
        Followed { watched: entry.known.subscribe(), entry, rounds: 0 }
    }

    fn entry(&self, name: &Arc<str>) -> Arc<Entry> {
        let mut names = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = names.get(name) {
            return kept.entry.clone();
        }
        let entry = Arc::new(Entry {
            name: name.clone(),
            known: watch::Sender::new(Known::about_to_be_asked()),
            wanted: Notify::new(),
            used: AtomicBool::new(true),
            followers: AtomicUsize::new(0),
        });
        let of = Arc::downgrade(&self.inner);
        let task = keep(entry.clone(), of, self.inner.servers.clone(), self.inner.settings.clone());
        let task = self.inner.control.spawn(task).abort_handle();
        names.insert(name.clone(), Kept { entry: entry.clone(), task });
        entry
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let names = self.names.get_mut().unwrap_or_else(PoisonError::into_inner);
        for kept in names.values() {
            kept.task.abort();
        }
    }
}

impl Entry {
    /// Asks for a look-up, unless one is on its way: a thousand callers want one.
    fn want(&self) {
        let mut idle = false;
        set(self, |known| idle = !std::mem::replace(&mut known.busy, true));
        if idle {
            self.wanted.notify_one();
        }
    }

    fn in_use(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0 || self.used.load(Ordering::Relaxed)
    }
}

/// A name that is kept fresh.
pub(super) struct Followed {
    entry: Arc<Entry>,
    watched: watch::Receiver<Known>,
    rounds: u64,
}

impl Followed {
    /// What the next look-up says, also when that is the same as before.
    pub(super) async fn next(&mut self) -> Result<Arc<[IpAddr]>, Failure> {
        let seen = self.rounds;
        let told = self.watched.wait_for(|known| known.rounds > seen).await;
        match told.map(|known| (known.rounds, known.latest())) {
            Ok((rounds, latest)) => {
                self.rounds = rounds;
                latest
            }
            Err(_) => std::future::pending().await, // cannot be: the entry, held here, keeps the sender
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.entry.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The life of a name: look up, tell, wait until it is due, or wanted early, or used again.
async fn keep(entry: Arc<Entry>, of: Weak<Inner>, servers: Arc<Servers>, settings: Arc<DnsSettings>) {
    let mut rng = fastrand::Rng::new();
    loop {
        entry.used.store(false, Ordering::Relaxed);
        let result = ask::addresses(&servers, &entry.name).await;
        let now = Instant::now();
        let mut news = News::Same;
        let error = result.as_ref().err().cloned();
        entry.known.send_modify(|known| news = known.learn(now, result, &settings, &mut rng));
        tell(&entry, &news, error, now);

        let (due, earliest) = {
            let known = entry.known.borrow();
            (known.due().unwrap_or(now), known.earliest().unwrap_or(now))
        };
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {
                if !entry.in_use() {
                    set(&entry, |known| known.resting = true);
                    // Somebody may have come between the two lines above, and seen nothing that rests.
                    if !entry.in_use() && !wanted_again(&entry, &of).await {
                        return;
                    }
                }
            }
            () = entry.wanted.notified() => tokio::time::sleep_until(earliest.into()).await,
        }
        set(&entry, |known| {
            known.resting = false;
            known.busy = true;
        });
    }
}

/// Waits until somebody wants the name again; `false`: nobody did for so long that it is forgotten.
async fn wanted_again(entry: &Arc<Entry>, of: &Weak<Inner>) -> bool {
    loop {
        let Some(forget_after) = of.upgrade().map(|inner| inner.forget_after) else { return false };
        if tokio::time::timeout(forget_after, entry.wanted.notified()).await.is_ok() {
            return true;
        }
        let Some(inner) = of.upgrade() else { return false };
        let mut names = inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Held by the map and by this task. Whoever else holds it has taken it from the map, under this lock.
        if Arc::strong_count(entry) == 2 {
            names.remove(&entry.name);
            return false;
        }
    }
}

/// Changes what nobody waits for.
fn set(entry: &Entry, change: impl FnOnce(&mut Known)) {
    entry.known.send_if_modified(|known| {
        change(known);
        false
    });
}

fn tell(entry: &Entry, news: &News, error: Option<Failure>, now: Instant) {
    let view = entry.known.borrow().view(&entry.name, now);
    let name = &view.name;
    match (news, error) {
        (News::Fails, Some(error)) => match view.age_ms {
            Some(age) => {
                let age = humantime::format_duration(Duration::from_secs(age / 1000));
                let kept = view.addresses.len();
                tracing::warn!(
                    "{error}; the last answer for {name}, {kept} addresses and {age} old, stays in use"
                );
            }
            None => {
                tracing::warn!("{error}; {name} has no address until the DNS answers, and is asked again")
            }
        },
        (News::Works, _) => tracing::info!("the DNS answers for {name} again: {:?}", view.addresses),
        // Some zones give another few of many addresses each time.
        (News::Addresses, _) => tracing::debug!("{name} is {:?}", view.addresses),
        (News::Same | News::Fails, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registries name other hosts every day: of those that nobody uses any more, nothing stays.
    #[tokio::test]
    async fn a_name_that_nobody_uses_is_forgotten_and_one_that_is_followed_is_not() {
        let at_once = Duration::from_millis(20);
        let settings = DnsSettings { ttl_floor: at_once, ttl_ceiling: at_once, ..DnsSettings::default() };
        let resolver = Resolver::forgetting(&settings, at_once).unwrap();
        let names = || resolver.snapshot().into_iter().map(|view| view.name).collect::<Vec<_>>();
        let followed = resolver.follow(&"localhost".into());
        resolver.prepare(&Host::Name("one.invalid".into()));
        assert_eq!(names(), ["localhost", "one.invalid"]);
        let begun = Instant::now();
        while names() != ["localhost"] {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", names());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(followed);
        while !names().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", names());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(resolver.addresses(&Host::Name("localhost".into())).await.is_ok(), "it is looked up again");
    }
}
