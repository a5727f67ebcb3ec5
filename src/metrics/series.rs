//! What is counted per (listener, upstream, endpoint): connections, bytes, and how many are open.
//!
//! A connection looks its [`Series`] up once and then only adds to atomics. Series of endpoints that discovery took away
//! are dropped after a while, which prometheus-client's families cannot do, so this is a collector of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{UpstreamSeries, held};
use crate::failure::{Outcome, Reason, Side, Stage};
use crate::metrics::histogram::Histogram;
use crate::upstream::UpstreamView;

/// How long the series of an endpoint that left its set are still shown: several scrapes of the slowest scraper.
const KEPT: Duration = Duration::from_secs(3600);

/// How a connection ended, as labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// At the coarsest.
    pub outcome: Outcome,
    /// Where, unless it was a success.
    pub stage: Option<Stage>,
    /// Why and on whose side, unless it was a success or the client just left.
    pub cause: Option<(Reason, Side)>,
}

/// The counters of one (listener, upstream, endpoint).
#[derive(Debug)]
pub struct Series {
    sent: AtomicU64,
    received: AtomicU64,
    open: AtomicI64,
    ended: Mutex<HashMap<End, u64>>,
    durations: Histogram,
    /// What is counted per upstream; absent for connections that never had one.
    pub upstream: Option<Arc<UpstreamSeries>>,
}

impl Series {
    /// Adds bytes, as the client sees them.
    pub fn moved(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Relaxed);
        self.received.fetch_add(received, Relaxed);
    }

    /// One more is open. Until the guard is dropped.
    pub fn opened(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    /// One ended.
    pub fn ended(&self, end: End, duration: Duration) {
        *held(&self.ended).entry(end).or_default() += 1;
        self.durations.observe(duration);
    }
}

/// Counts as open until it is dropped.
#[derive(Debug)]
pub struct Open(Arc<Series>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug)]
struct Slot {
    series: Arc<Series>,
    gone_since: Option<Instant>,
}

/// All series. A name that a connection has not got (yet) is the empty one.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<Key, Slot>>);

impl Table {
    /// The series of a key; made by `durations` and `upstream` if it is not there yet.
    pub(super) fn get(
        &self,
        key: Key,
        made: impl FnOnce(&Key) -> (Histogram, Option<Arc<UpstreamSeries>>),
    ) -> Arc<Series> {
        let mut slots = held(&self.0);
        if let Some(slot) = slots.get_mut(&key) {
            slot.gone_since = None;
            return slot.series.clone();
        }
        let (durations, upstream) = made(&key);
        let series = Arc::new(Series {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            open: AtomicI64::new(0),
            ended: Mutex::default(),
            durations,
            upstream,
        });
        slots.insert(key, Slot { series: series.clone(), gone_since: None });
        series
    }

    /// Drops the series of endpoints that left their upstream long ago and that no connection holds. Series without an
    /// endpoint stay: there are few.
    pub(super) fn forget(&self, listed: &Listed<'_>, now: Instant) {
        held(&self.0).retain(|(_, upstream, endpoint), slot| {
            let is_listed = endpoint.is_empty() || listed.contains(&(&**upstream, &**endpoint));
            // A connection that holds the series will still add to it.
            !is_over(&mut slot.gone_since, is_listed, now) || Arc::strong_count(&slot.series) > 1
        });
    }
}

/// The endpoints that there are, with their upstreams.
pub(super) type Listed<'a> = HashSet<(&'a str, &'a str)>;

/// Those of `upstreams`.
pub(super) fn listed(upstreams: &[UpstreamView]) -> Listed<'_> {
    let all = upstreams.iter().flat_map(|view| view.endpoints.iter().map(move |endpoint| (view, endpoint)));
    all.map(|(view, endpoint)| (&*view.name, &*endpoint.address)).collect()
}

fn is_over(gone_since: &mut Option<Instant>, is_listed: bool, now: Instant) -> bool {
    if is_listed {
        *gone_since = None;
        return false;
    }
    now.saturating_duration_since(*gone_since.get_or_insert(now)) >= KEPT
}

/// Endpoints of which something was counted that is no connection, each with its upstream: they may never have had one.
#[derive(Debug, Default)]
pub(super) struct Judged(Mutex<HashMap<OfUpstream, Option<Instant>>>);

/// An upstream and one of its endpoints.
type OfUpstream = (Arc<str>, Arc<str>);

impl Judged {
    /// Something is counted.
    pub(super) fn note(&self, upstream: &Arc<str>, endpoint: &Arc<str>) {
        held(&self.0).entry((upstream.clone(), endpoint.clone())).or_default();
    }

    /// Those that left their upstream long ago, which are not noted any more.
    pub(super) fn forget(&self, listed: &Listed<'_>, now: Instant) -> Vec<OfUpstream> {
        let mut judged = held(&self.0);
        let gone = judged.extract_if(|(upstream, endpoint), gone_since| {
            is_over(gone_since, listed.contains(&(&**upstream, &**endpoint)), now)
        });
        gone.map(|(gone, _)| gone).collect()
    }
}

/// The registry wants to own its collectors, and [`super::Metrics`] wants to look series up.
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Table>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Copied out, so that no connection waits for the formatting.
        let all: Vec<(Key, Arc<Series>)> =
            held(&self.0.0).iter().map(|(key, slot)| (key.clone(), slot.series.clone())).collect();

        let help = "Connections that ended, by how";
        let mut family = encoder.encode_descriptor("nuncio_connections", help, None, MetricType::Counter)?;
        for ((listener, upstream, endpoint), series) in &all {
            let mut ended: Vec<_> = held(&series.ended).iter().map(|(end, count)| (*end, *count)).collect();
            ended.sort_by_key(|(end, _)| {
                (end.outcome.label(), end.stage, end.cause.map(|(reason, _)| reason.label()))
            });
            for (end, count) in ended {
                let labels = [
                    ("listener", &**listener),
                    ("upstream", &**upstream),
                    ("endpoint", &**endpoint),
                    ("outcome", end.outcome.label()),
                    ("stage", end.stage.map_or("", Stage::label)),
                    ("reason", end.cause.map_or("", |(reason, _)| reason.label())),
                    ("side", end.cause.map_or("", |(_, side)| side.label())),
                ];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }

        let help = "Connections that are being relayed";
        let mut family =
            encoder.encode_descriptor("nuncio_connections_open", help, None, MetricType::Gauge)?;
        for ((listener, upstream, endpoint), series) in &all {
            let labels = [("listener", &**listener), ("upstream", &**upstream), ("endpoint", &**endpoint)];
            family.encode_family(&labels)?.encode_gauge(&series.open.load(Relaxed))?;
        }

        let help = "Bytes relayed as the client sees them: sent to the upstream, received from it";
        let mut family = encoder.encode_descriptor("nuncio_bytes", help, None, MetricType::Counter)?;
        for ((listener, upstream, endpoint), series) in &all {
            for (direction, bytes) in [("sent", &series.sent), ("received", &series.received)] {
                let labels = [
                    ("listener", &**listener),
                    ("upstream", &**upstream),
                    ("endpoint", &**endpoint),
                    ("direction", direction),
                ];
                let bytes = bytes.load(Relaxed);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&bytes, None)?;
            }
        }
        Ok(())
    }
}
