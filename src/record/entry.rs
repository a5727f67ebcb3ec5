//! What others may see of a connection while it goes on, and what the counters have of it so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::ConnectionId;
use super::view::{AttemptView, ConnectionView, Millis, State, Timestamp, TlsView};
use crate::addr::{ClientAddr, ListenerName, UpstreamName};
use crate::metrics::{Series, Timed, held};
use crate::relay::Flow;
use crate::trail::{Attempt, Times};

/// What the table of open connections holds of one: what others may look at while it goes on.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: ConnectionId,
    pub(super) listener: ListenerName,
    pub(super) client: ClientAddr,
    pub(super) accepted: Instant,
    pub(super) opened: SystemTime,
    pub(super) flow: Arc<Flow>,
    /// How much of the flow the counters have already.
    pub(super) counted: Counted,
    pub(super) relaying: OnceLock<Box<Relaying>>,
}

#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) first_byte: AtomicBool,
    /// Exchanges by bucket; empty until there is one.
    pub(super) waits: Mutex<Vec<u32>>,
}

/// What is known once the connection is established, and does not change after.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) upstream: Option<UpstreamName>,
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) attempts: Box<[Attempt]>,
    pub(super) times: Times,
    pub(super) tls: Option<Arc<TlsView>>,
    pub(super) user: Option<u32>,
    pub(super) series: Arc<Series>,
}

impl Entry {
    /// Gives the counters what has been moved since last time. The counters only ever rise, whoever calls this and when.
    pub(super) fn settle(&self, series: &Series) {
        let new = |counted: &AtomicU64, now: u64| now.saturating_sub(counted.fetch_max(now, Relaxed));
        let sent = new(&self.counted.sent, self.flow.sent());
        let received = new(&self.counted.received, self.flow.received());
        if sent | received != 0 {
            series.moved(sent, received);
        }
        let Some(upstream) = &series.upstream else { return };
        if let Some(took) = self.flow.first_byte()
            && !self.counted.first_byte.swap(true, Relaxed)
        {
            upstream.stage(Timed::FirstByte, took);
        }
        let mut told = held(&self.counted.waits);
        for (place, (took, count)) in self.flow.waits().enumerate() {
            if count == 0 {
                continue;
            }
            if told.len() <= place {
                told.resize(place + 1, 0);
            }
            let new = count.saturating_sub(told[place]);
            if new > 0 {
                told[place] = count;
                upstream.exchanges(took, u64::from(new));
            }
        }
    }

    pub(super) fn view(&self, known: Option<&Relaying>, duration: Duration) -> ConnectionView {
        let times = known.map(|known| known.times).unwrap_or_default();
        let (sent, received) = (self.flow.sent(), self.flow.received());
        let exchanges = Some(self.flow.exchanges()).filter(|exchanges| exchanges.count > 0);
        let state = if self.relaying.get().is_some() { State::Relaying } else { State::Establishing };
        ConnectionView {
            id: self.id,
            state,
            opened: Timestamp(self.opened),
            listener: self.listener.clone(),
            client: self.client.clone(),
            uid: known.and_then(|known| known.user),
            upstream: known.and_then(|known| known.upstream.clone()),
            endpoint: known.and_then(|known| known.endpoint.clone()),
            outcome: None,
            stage: None,
            reason: None,
            side: None,
            closed_by: None,
            detail: None,
            next_step: None,
            attempts: known
                .map(|known| known.attempts.iter().map(AttemptView::from).collect())
                .unwrap_or_default(),
            queue_ms: times.queue.map(Millis),
            resolve_ms: times.resolve.map(Millis),
            connect_ms: times.connect.map(Millis),
            proxy_ms: times.proxy.map(Millis),
            negotiate_ms: times.negotiate.map(Millis),
            handshake_ms: times.handshake.map(Millis),
            first_byte_ms: self.flow.first_byte().map(Millis),
            duration_ms: Millis(duration),
            bytes_sent: sent,
            bytes_received: received,
            throughput: throughput(sent.saturating_add(received), duration),
            exchanges: exchanges.map(|exchanges| exchanges.count),
            exchange_p50_ms: exchanges.and_then(|exchanges| exchanges.p50).map(Millis),
            exchange_p99_ms: exchanges.and_then(|exchanges| exchanges.p99).map(Millis),
            tls: known.and_then(|known| known.tls.clone()),
            rtt_ms: None,
            retransmits: None,
        }
    }

    /// As it is now.
    pub(super) fn now(&self) -> ConnectionView {
        self.view(self.relaying.get().map(|relaying| &**relaying), self.accepted.elapsed())
    }
}

/// Bytes a second.
fn throughput(bytes: u64, duration: Duration) -> u64 {
    let micros = duration.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}
