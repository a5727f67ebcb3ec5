//! flow: what moved and how fast it was answered, as counters that anyone may read while the relay writes them.
//!
//! One relay writes, so plain loads and stores do: no locked instruction for each buffer.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Eight buckets for three doublings, so a percentile is right to ±14 %, from 20 µs to 335 s. A histogram that is right to
/// two digits costs kilobytes, and there is one of these for each connection.
const BUCKETS: usize = PARTS * PART;
const FLOOR_MICROS: f32 = 20.0;
const PER_DOUBLING: f32 = 8.0 / 3.0;

/// Four neighbouring buckets stand together, and only where an answer took so long: most connections need few of the parts,
/// and those that were never used none.
const PART: usize = 4;
const PARTS: usize = 16;

/// Counters of one connection.
#[derive(Default)]
pub struct Flow {
    sent: AtomicU64,
    received: AtomicU64,
    /// Microseconds plus one; zero: none yet.
    first_byte: AtomicU64,
    waits: Waits,
}

/// A list of parts, in the order in which they were needed.
#[derive(Default)]
struct Waits(OnceLock<Box<Part>>);

struct Part {
    number: usize,
    buckets: [Bucket; PART],
    next: Waits,
}

#[derive(Default)]
struct Bucket {
    count: AtomicU32,
    /// How many of them [`Flow::untold`] has given away.
    told: AtomicU32,
}

/// How the upstream answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    /// Turns of the client that were answered.
    pub count: u64,
    /// From the last client byte of a turn to the first answering byte, in half of them at most.
    pub p50: Option<Duration>,
    /// The same in 99 of 100.
    pub p99: Option<Duration>,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow")
            .field("sent", &self.sent())
            .field("received", &self.received())
            .field("first_byte", &self.first_byte())
            .field("exchanges", &self.exchanges())
            .finish()
    }
}

impl Flow {
    /// Bytes that the client sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes that the client was given.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// From the start of the relay to the upstream's first byte.
    pub fn first_byte(&self) -> Option<Duration> {
        self.first_byte.load(Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    /// Has a turn of the client been answered?
    pub fn has_answered(&self) -> bool {
        self.waits.0.get().is_some()
    }

    /// How the upstream answered so far.
    pub fn exchanges(&self) -> Exchanges {
        let mut waits = [0; BUCKETS];
        for (place, bucket) in self.waits.buckets() {
            waits[place] = u64::from(bucket.count.load(Relaxed));
        }
        let count = waits.iter().sum();
        let percentile = |share: f64| {
            let wanted = ((count as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            waits.iter().position(|wait| {
                seen += wait;
                seen >= wanted
            })
        };
        Exchanges { count, p50: percentile(0.5).map(middle), p99: percentile(0.99).map(middle) }
    }

    /// How many exchanges took about how long that were not told before: each is told once, whoever asks and when.
    pub fn untold(&self) -> impl Iterator<Item = (Duration, u32)> {
        self.waits.buckets().filter_map(|(place, bucket)| {
            let count = bucket.count.load(Relaxed);
            let new = count.saturating_sub(bucket.told.fetch_max(count, Relaxed));
            (new > 0).then(|| (middle(place), new))
        })
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.store(self.sent.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.store(self.received.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub(crate) fn first_byte_after(&self, took: Duration) {
        self.first_byte.store(micros(took).saturating_add(1), Relaxed);
    }

    pub(crate) fn answered_after(&self, took: Duration) {
        let place = bucket(took);
        let count = &self.waits.part(place / PART).buckets[place % PART].count;
        count.store(count.load(Relaxed).saturating_add(1), Relaxed);
    }
}

impl Waits {
    /// The part of that number, made if nothing needed it before.
    fn part(&self, number: usize) -> &Part {
        let mut at = self;
        loop {
            let new = || Box::new(Part { number, buckets: Default::default(), next: Waits::default() });
            let part = at.0.get_or_init(new);
            if part.number == number {
                return part;
            }
            at = &part.next;
        }
    }

    /// All buckets that there are, each with its place among [`BUCKETS`].
    fn buckets(&self) -> impl Iterator<Item = (usize, &Bucket)> {
        std::iter::successors(self.0.get(), |part| part.next.0.get())
            .flat_map(|part| (part.number * PART..).zip(&part.buckets))
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(took: Duration) -> usize {
    // `as` saturates, and the floor takes what is below it.
    let place = (micros(took) as f32 / FLOOR_MICROS).log2() * PER_DOUBLING;
    (place as usize).min(BUCKETS - 1)
}

/// The geometric middle of a bucket.
fn middle(bucket: usize) -> Duration {
    Duration::from_micros((FLOOR_MICROS * ((bucket as f32 + 0.5) / PER_DOUBLING).exp2()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_pays_forty_bytes_and_sixty_for_each_magnitude_of_its_answers() {
        assert!(size_of::<Flow>() <= 40, "{}", size_of::<Flow>());
        assert!(size_of::<Part>() <= 56, "{}", size_of::<Part>());
    }

    #[test]
    fn each_exchange_is_told_once() {
        let flow = Flow::default();
        assert_eq!(flow.untold().count(), 0);
        let (fast, slow) = (Duration::from_micros(300), Duration::from_secs(2));
        flow.answered_after(slow);
        flow.answered_after(fast);
        flow.answered_after(fast);
        let mut counts: Vec<u32> = flow.untold().map(|(_, count)| count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
        assert_eq!(flow.untold().count(), 0);
        flow.answered_after(fast);
        let told: Vec<_> = flow.untold().collect();
        assert_eq!(told, [(middle(bucket(fast)), 1)]);
    }

    #[test]
    fn percentiles_are_right_to_a_seventh_from_20_microseconds_to_five_minutes() {
        for micros in [25u64, 100, 999, 5_000, 40_000, 1_000_000, 30_000_000, 300_000_000] {
            let flow = Flow::default();
            flow.answered_after(Duration::from_micros(micros));
            let told = flow.exchanges().p50.unwrap().as_secs_f64() * 1e6;
            let off = told / micros as f64;
            assert!((0.86..1.15).contains(&off), "{micros} µs told as {told}");
        }
    }

    #[test]
    fn one_slow_answer_in_fifty_shows_in_the_99th_percentile_only() {
        let flow = Flow::default();
        for turn in 0..100 {
            flow.answered_after(Duration::from_micros(if turn % 50 == 0 { 80_000 } else { 300 }));
        }
        let exchanges = flow.exchanges();
        assert_eq!(exchanges.count, 100);
        assert!(exchanges.p50.unwrap() < Duration::from_micros(400));
        assert!(exchanges.p99.unwrap() > Duration::from_millis(60));
    }

    #[test]
    fn without_an_exchange_there_is_nothing_to_tell() {
        let flow = Flow::default();
        assert_eq!(flow.exchanges(), Exchanges::default());
        assert_eq!(flow.first_byte(), None);
        flow.first_byte_after(Duration::ZERO);
        assert_eq!(flow.first_byte(), Some(Duration::ZERO));
        flow.answered_after(Duration::ZERO);
        flow.answered_after(Duration::MAX);
        assert_eq!(flow.exchanges().count, 2);
    }
}
