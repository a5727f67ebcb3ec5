//! A histogram that is added to without a lock, and to which counts taken elsewhere can be added.
//!
//! prometheus-client's own takes a mutex for each sample and takes samples one by one; a relayed connection counts its
//! exchanges by itself and hands over the counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds, in seconds, of what happens within a connection: 0.25 ms to 10 s, as no stage is to take longer.
pub(super) const STAGE_BOUNDS: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds, in seconds, of whole connections: 10 ms to a day, as pools keep theirs for hours.
pub(super) const CONNECTION_BOUNDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Counts per bucket; clones count into the same buckets.
#[derive(Clone)]
pub(super) struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// In microseconds: in nanoseconds the sum of a few thousand day-long connections a day would overflow in weeks.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one. `bounds` ascend; what is above the last is counted apart.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0) }))
    }

    /// Counts one sample.
    pub(super) fn observe(&self, took: Duration) {
        self.add(took, 1);
    }

    /// Counts `times` samples that took about `took` each.
    pub(super) fn add(&self, took: Duration, times: u64) {
        let buckets = &*self.0;
        let seconds = took.as_secs_f64();
        let index = buckets.bounds.partition_point(|bound| *bound < seconds);
        buckets.counts[index].fetch_add(times, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        buckets.sum.fetch_add(micros.saturating_mul(times), Relaxed);
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").finish_non_exhaustive()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets = &*self.0;
        let bounds = buckets.bounds.iter().copied().chain([f64::INFINITY]);
        let counts: Vec<_> = bounds.zip(buckets.counts.iter().map(|count| count.load(Relaxed))).collect();
        // The count is the sum of what was just read, not a counter of its own: a sample that comes in meanwhile must
        // not make `_count` differ from the `+Inf` bucket.
        let count = counts.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_micros(buckets.sum.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &counts, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
