//! All records: the table of open connections, the last ones that ended, and the way to the log.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use tracing::Level;

use super::entry::Entry;
use super::output::Output;
use super::view::{ConnectionView, PeerView, Timestamp, TlsView};
use super::{ConnectionId, Format};
use crate::addr::ClientAddr;
use crate::failure::Outcome;
use crate::metrics::{Live, Metrics, held};
use crate::tls;

/// The name that `log.level` can set a level for.
const TARGET: &str = "nuncio::record";
/// Ended connections that are remembered.
const REMEMBERED: usize = 1024;
/// Parts of the table, each with its own lock, so that reactors seldom meet and a look at all holds none up for long.
const SHARDS: usize = 16;
/// Kinds of TLS sessions remembered before those that no connection uses are let go.
const SESSIONS: usize = 64;

type Shard = Mutex<HashMap<ConnectionId, Arc<Entry>>>;

/// All records of this process.
#[derive(Debug)]
pub struct Journal {
    pub(super) metrics: Arc<Metrics>,
    format: Format,
    wanted: fn(Level) -> bool,
    open: [Shard; SHARDS],
    ended: Mutex<VecDeque<Arc<ConnectionView>>>,
    sessions: Mutex<HashMap<u64, Weak<TlsView>>>,
    hasher: RandomState,
    output: OnceLock<Output>,
    sink: Mutex<Option<Sink>>,
}

struct Sink(Box<dyn Write + Send>);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Journal {
    /// Prints to stdout what the log's filter lets through.
    pub fn new(format: Format, metrics: Arc<Metrics>) -> Arc<Journal> {
        Journal::printing_to(Box::new(std::io::stdout()), format, metrics, wanted_by_filter)
    }

    /// Prints elsewhere, what `wanted` lets through.
    pub fn printing_to(
        to: Box<dyn Write + Send>,
        format: Format,
        metrics: Arc<Metrics>,
        wanted: fn(Level) -> bool,
    ) -> Arc<Journal> {
        let journal = Arc::new(Journal {
            metrics,
            format,
            wanted,
            open: Default::default(),
            ended: Mutex::default(),
            sessions: Mutex::default(),
            hasher: RandomState::new(),
            output: OnceLock::new(),
            sink: Mutex::new(Some(Sink(to))),
        });
        let live: Weak<Journal> = Arc::downgrade(&journal);
        journal.metrics.before_scrape(live);
        journal
    }

    /// The open connections, newest first.
    pub fn live(&self) -> Vec<ConnectionView> {
        let mut views: Vec<_> = self.entries().iter().map(|entry| entry.now()).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.opened));
        views
    }

    /// A connection that is open, or among the last that ended.
    pub fn find(&self, id: ConnectionId) -> Option<ConnectionView> {
        let open = held(self.shard(id)).get(&id).cloned();
        // In this order: a connection that ends in between is found among the ended ones.
        open.map(|entry| entry.now()).or_else(|| {
            held(&self.ended).iter().rev().find(|view| view.id == id).map(|view| (**view).clone())
        })
    }

    /// The newest connection of this client that is open; without one, the last that ended. A proxy finds by its own address
    /// what it connected for others.
    pub fn find_by_client(&self, client: &ClientAddr) -> Option<ConnectionView> {
        let open =
            self.entries().into_iter().filter(|entry| entry.client() == client || entry.client == *client);
        let open = open.max_by_key(|entry| entry.accepted).map(|entry| entry.now());
        // In this order, as above.
        open.or_else(|| {
            let is_its = |view: &&Arc<ConnectionView>| {
                view.client == *client || view.context.as_ref().is_some_and(|context| context.is_via(client))
            };
            held(&self.ended).iter().rev().find(is_its).map(|view| (**view).clone())
        })
    }

    /// The connections that ended last, newest first.
    pub fn ended(&self) -> Vec<Arc<ConnectionView>> {
        held(&self.ended).iter().rev().cloned().collect()
    }

    /// How many are open, also those not established yet.
    pub fn open_count(&self) -> usize {
        self.open.iter().map(|shard| held(shard).len()).sum()
    }

    /// Waits until every record is printed; false if nobody read them within `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        self.output.get().is_none_or(|output| output.flush(limit))
    }

    pub(super) fn enter(&self, entry: &Arc<Entry>) {
        held(self.shard(entry.id)).insert(entry.id, entry.clone());
    }

    pub(super) fn leave(&self, entry: &Entry, view: ConnectionView, quiet: bool) {
        let level = match view.outcome {
            _ if quiet => Level::DEBUG,
            Some(Outcome::Failed | Outcome::Refused) => Level::WARN,
            Some(Outcome::Success | Outcome::Cancelled) | None => Level::INFO,
        };
        if (self.wanted)(level) {
            self.output().line(&view.line(self.format, Timestamp(SystemTime::now()), level));
        }
        if !quiet {
            let mut ended = held(&self.ended);
            if ended.len() == REMEMBERED {
                ended.pop_front();
            }
            ended.push_back(Arc::new(view));
        }
        // After it is among the ended, so that it can be found at any moment.
        let mut shard = held(self.shard(entry.id));
        shard.remove(&entry.id);
        if shard.capacity() > 256 && shard.len() < shard.capacity() / 8 {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }

    /// A handshake's summary without the certificate: what it says is kept once for all connections that agreed on the same.
    pub(super) fn smaller(&self, summary: tls::Summary) -> Arc<TlsView> {
        let tls::Summary { version, suite, group, resumed, alpn, peer } = summary;
        let key = self.hasher.hash_one((version, suite, group, resumed, &alpn, peer.as_deref()));
        let mut sessions = held(&self.sessions);
        if let Some(known) = sessions.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let peer = peer.map(|certificate| {
            let facts = tls::describe_peer(&certificate);
            PeerView { subject: facts.subject, san: facts.san }
        });
        let alpn = alpn.map(String::into_boxed_str);
        let view = Arc::new(TlsView { version, suite, group, resumed, alpn, peer });
        if sessions.len() >= SESSIONS {
            sessions.retain(|_, session| session.strong_count() > 0);
        }
        sessions.insert(key, Arc::downgrade(&view));
        view
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        let mut all = Vec::new();
        for shard in &self.open {
            all.extend(held(shard).values().cloned());
        }
        all
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        &self.open[id.shard(SHARDS)]
    }

    /// The thread is started by the first line: a process that prints none has none.
    fn output(&self) -> &Output {
        self.output.get_or_init(|| {
            let to =
                held(&self.sink).take().map_or_else(|| Box::new(std::io::sink()) as Box<_>, |sink| sink.0);
            let metrics = self.metrics.clone();
            Output::new(to, "records", move |lines, error| {
                metrics.records_lost(lines);
                if let Some(error) = error {
                    tracing::debug!(%error, lines, "records were not printed");
                }
            })
        })
    }
}

impl Live for Journal {
    fn settle(&self) {
        for entry in self.entries() {
            if let Some(relaying) = entry.relaying.get() {
                entry.settle(relaying);
            }
        }
    }
}

/// Each level needs a call of its own: `tracing` remembers the filter's answer per place in the source.
fn wanted_by_filter(level: Level) -> bool {
    match level {
        Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
        Level::INFO => tracing::enabled!(target: TARGET, Level::INFO),
        _ => tracing::enabled!(target: TARGET, Level::DEBUG),
    }
}
