//! The legacy clients: they know one address and speak plaintext.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::servers::{MANNERS, Manner};

/// What the clients saw.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) connections: AtomicU64,
    pub(super) failed: AtomicU64,
    stopped: AtomicBool,
    /// Round trips of the current second, in microseconds, by server.
    latency: Mutex<Vec<(Manner, Histogram<u64>)>>,
}

/// A minute, in microseconds: longer ones count as this.
const LONGEST: u64 = 60_000_000;

impl Tally {
    /// The clients' failures after this are the demo's own end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// (p50, p99) of a server's round trips since the last call.
    pub(super) fn take_latency(&self, manner: Manner) -> Option<(Duration, Duration)> {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, histogram) = latency.iter_mut().find(|(of, _)| *of == manner)?;
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        let both = (at(0.5), at(0.99));
        histogram.reset();
        Some(both)
    }

    fn round_trip(&self, manner: Manner, took: Duration) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = match latency.iter_mut().position(|(of, _)| *of == manner) {
            Some(known) => &mut latency[known].1,
            None => {
                let Ok(new) = Histogram::new_with_max(LONGEST, 2) else { return };
                latency.push((manner, new));
                let last = latency.len() - 1;
                &mut latency[last].1
            }
        };
        histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// Connects, exchanges some messages, closes; again and again.
pub(super) async fn client(ambassador: SocketAddr, tally: Arc<Tally>) {
    while !tally.stopped.load(Ordering::Relaxed) {
        let served = session(ambassador, &tally).await;
        if tally.stopped.load(Ordering::Relaxed) {
            return;
        }
        tally.connections.fetch_add(1, Ordering::Relaxed);
        if served.is_err() {
            tally.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn session(ambassador: SocketAddr, tally: &Tally) -> io::Result<()> {
    let stream = TcpStream::connect(ambassador).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut name = String::new();
    stream.read_line(&mut name).await?;
    let manner = MANNERS.into_iter().find(|manner| manner.name() == name.trim_end());
    let manner = manner.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let message = vec![b'n'; 8 * 1024];
    let mut answer = vec![0; message.len()];
    for _ in 0..fastrand::u32(10..40) {
        let begun = Instant::now();
        stream.write_all(&message).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await?;
        tally.round_trip(manner, begun.elapsed());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2..12))).await;
    }
    stream.shutdown().await
}
