//! What others may see of a connection while it goes on, and what the counters have of it so far.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::ConnectionId;
use super::context::Surroundings;
use super::view::{AttemptView, ConnectionView, Millis, State, Timestamp, TlsView};
use crate::addr::{ClientAddr, ListenerName, UpstreamName};
use crate::metrics::{Series, Timed, UserSeries};
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
    pub(super) flow: Flow,
    /// How much of the flow the counters have already.
    pub(super) counted: Counted,
    pub(super) relaying: OnceLock<Relaying>,
    pub(super) surroundings: OnceLock<Box<Surroundings>>,
}

#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) first_byte: AtomicBool,
}

/// What is known once the connection is established, and does not change after.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) upstream: Option<UpstreamName>,
    pub(super) endpoint: Option<Arc<str>>,
    pub(super) attempts: Attempts,
    pub(super) times: Times<Took>,
    pub(super) tls: Option<Arc<TlsView>>,
    pub(super) user: Option<User>,
    pub(super) series: Arc<Series>,
    /// Where its user is metered.
    pub(super) metered: Option<Arc<UserSeries>>,
}

/// The attempts at a connection. Most have one, which worked, at the endpoint that the record has anyway.
#[derive(Debug)]
pub(super) struct Attempts {
    failed: Box<[Attempt]>,
    worked: Option<Took>,
}

impl Attempts {
    /// `endpoint`: where the connection is, if it is.
    pub(super) fn new(mut all: Vec<Attempt>, endpoint: Option<&Arc<str>>) -> Attempts {
        let last = all.pop_if(|last| last.stage.is_none() && Some(&last.endpoint) == endpoint);
        Attempts { failed: all.into_boxed_slice(), worked: last.map(|last| Took::from(last.took)) }
    }

    fn views(&self, endpoint: Option<&Arc<str>>) -> Box<[AttemptView]> {
        let failed = self.failed.iter().map(AttemptView::from);
        let worked = endpoint.zip(self.worked).map(|(endpoint, took)| AttemptView {
            endpoint: endpoint.clone(),
            stage: None,
            reason: None,
            ms: Millis(took.into()),
        });
        failed.chain(worked).collect()
    }
}

/// How long a step took, in four bytes: to the microsecond, as it is shown, and up to 71 minutes, which no step takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took(NonZeroU32);

impl From<Duration> for Took {
    fn from(duration: Duration) -> Self {
        let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        Took(NonZeroU32::MIN.saturating_add(micros))
    }
}

impl From<Took> for Duration {
    fn from(took: Took) -> Self {
        Duration::from_micros(u64::from(took.0.get() - 1))
    }
}

/// A user's number, in four bytes where there may be none: all ones are nobody's, chown(2) reads them as "leave it".
#[derive(Clone, Copy, Debug)]
pub(super) struct User(NonZeroU32);

impl User {
    pub(super) fn new(uid: u32) -> Option<User> {
        NonZeroU32::new(!uid).map(User)
    }

    fn uid(self) -> u32 {
        !self.0.get()
    }
}

impl Entry {
    /// Gives the counters what has been moved since last time. The counters only ever rise, whoever calls this and when.
    pub(super) fn settle(&self, known: &Relaying) {
        let Relaying { series, metered, .. } = known;
        let new = |counted: &AtomicU64, now: u64| now.saturating_sub(counted.fetch_max(now, Relaxed));
        let sent = new(&self.counted.sent, self.flow.sent());
        let received = new(&self.counted.received, self.flow.received());
        if sent | received != 0 {
            series.moved(sent, received);
            if let Some(metered) = metered {
                metered.moved(sent, received);
            }
        }
        let Some(upstream) = &series.upstream else { return };
        if let Some(took) = self.flow.first_byte()
            && !self.counted.first_byte.swap(true, Relaxed)
        {
            upstream.stage(Timed::FirstByte, took);
        }
        for (took, count) in self.flow.untold() {
            upstream.exchanges(took, u64::from(count));
        }
    }

    pub(super) fn view(&self, known: Option<&Relaying>, duration: Duration) -> ConnectionView {
        let times = known.map(|known| known.times.map(|took| Millis(took.into()))).unwrap_or_default();
        let (sent, received) = (self.flow.sent(), self.flow.received());
        let exchanges = Some(self.flow.exchanges()).filter(|exchanges| exchanges.count > 0);
        let state = if self.relaying.get().is_some() { State::Relaying } else { State::Establishing };
        let surroundings = self.surroundings.get();
        let process = surroundings.and_then(|surroundings| surroundings.process.as_ref());
        ConnectionView {
            id: self.id,
            state,
            opened: Timestamp(self.opened),
            listener: self.listener.clone(),
            client: self.client().clone(),
            uid: known.and_then(|known| known.user).map(User::uid),
            pid: process.map(|(pid, _)| *pid),
            process: process.and_then(|(_, name)| name.clone()),
            context: surroundings.and_then(|surroundings| surroundings.context.clone()),
            upstream: known.and_then(|known| known.upstream.clone()),
            endpoint: known.and_then(|known| known.endpoint.clone()),
            outcome: None,
            stage: None,
            reason: None,
            side: None,
            closed_by: None,
            detail: None,
            next_step: None,
            attempts: known.map(|known| known.attempts.views(known.endpoint.as_ref())).unwrap_or_default(),
            queue_ms: times.queue,
            resolve_ms: times.resolve,
            connect_ms: times.connect,
            proxy_ms: times.proxy,
            negotiate_ms: times.negotiate,
            handshake_ms: times.handshake,
            warm_ms: times.warm,
            first_byte_ms: self.flow.first_byte().map(Millis),
            duration_ms: Millis(duration),
            bytes_sent: sent,
            bytes_received: received,
            throughput: throughput(sent.saturating_add(received), duration),
            exchanges: exchanges.map(|exchanges| exchanges.count),
            exchange_p50_ms: exchanges.and_then(|exchanges| exchanges.p50).map(Millis),
            exchange_p99_ms: exchanges.and_then(|exchanges| exchanges.p99).map(Millis),
            tls: known.and_then(|known| known.tls.clone()),
            client_tls: None,
            rtt_ms: None,
            retransmits: None,
        }
    }

    /// Who connected; where a proxy did, who connected to that.
    pub(super) fn client(&self) -> &ClientAddr {
        self.surroundings.get().and_then(|surroundings| surroundings.source()).unwrap_or(&self.client)
    }

    /// As it is now.
    pub(super) fn now(&self) -> ConnectionView {
        self.view(self.relaying.get(), self.accepted.elapsed())
    }
}

/// Bytes a second.
fn throughput(bytes: u64, duration: Duration) -> u64 {
    let micros = duration.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}
