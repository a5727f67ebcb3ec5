//! record: what became of one connection, opened at accept and written exactly once.
//!
//! Owns the record of each connection, the table of those that are open, the memory of the last ones that ended, and the
//! line that is printed. A record that is dropped unwritten writes itself. Leaves it to `connection` to fill it in, and
//! to `metrics` to count. What an open connection costs here is kept well under a KiB.

mod context;
mod entry;
mod id;
mod journal;
mod output;
#[cfg(test)]
mod tests;
mod view;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::addr::{ClientAddr, ListenerName, UpstreamName};
use crate::context::{Context, Kind};
use crate::failure::{Failure, Outcome, Reason, Side, Stage};
use crate::metrics::{End, Open, Timed};
use crate::relay::Flow;
use crate::socket::{Process, TcpFacts};
use crate::tls;
use crate::trail::{Attempt, Times};

use self::context::Surroundings;
use self::entry::{Attempts, Counted, Entry, Relaying, Took, User};

pub use self::context::ContextView;
pub use self::id::ConnectionId;
pub use self::journal::Journal;
pub(crate) use self::output::Output;
pub use self::view::{AttemptView, ConnectionView, Millis, PeerView, State, Timestamp, TlsView};

/// How records are written: `[log]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of `key=value`.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// The record of one connection, filled in on its way.
#[derive(Debug)]
pub struct Record {
    /// The step that it is in.
    pub stage: Stage,
    /// What is known at its end. Boxed: until then it is nothing.
    at_end: Option<Box<AtEnd>>,
    journal: Arc<Journal>,
    entry: Arc<Entry>,
    /// Only while there is something that the entry has not got.
    draft: Option<Box<Draft>>,
    open: Option<Open>,
    written: bool,
}

/// What is filled in on the way. [`Record::relaying`] moves it to where it takes less room.
#[derive(Debug, Default)]
pub struct Draft {
    /// Where it was routed to.
    pub upstream: Option<UpstreamName>,
    /// The endpoint it is tried with, or was last.
    pub endpoint: Option<Arc<str>>,
    /// Every endpoint tried, in order; the one that worked too.
    pub attempts: Vec<Attempt>,
    /// How long each step took.
    pub times: Times,
    /// What the TLS handshake came to.
    pub tls: Option<tls::Summary>,
    /// The user that the client's process runs as.
    pub user: Option<u32>,
    /// Is it counted for that user?
    pub metered: bool,
    /// It only asks for another one's work to be cancelled.
    pub cancels: bool,
}

/// What has become of a connection so far.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// It only asks for another one's work to be cancelled.
    pub cancels: bool,
    /// It could carry data.
    pub established: bool,
    /// It was ready before its client came.
    pub was_warm: bool,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes from the upstream.
    pub received: u64,
    /// From the start of the relay to the upstream's first one.
    pub first_byte: Option<Duration>,
    /// Since it was accepted.
    pub lasted: Duration,
}

/// What is known of a connection at its end.
#[derive(Debug, Default)]
pub struct AtEnd {
    /// What the kernel says of the upstream's leg.
    pub tcp: Option<TcpFacts>,
    /// What the client's own TLS came to.
    pub client_tls: Option<tls::Summary>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// At the coarsest.
    pub outcome: Outcome,
    /// What went wrong; with `Cancelled`, what made it leave, if that is known.
    pub failure: Option<Failure>,
    /// Who ended it first.
    pub closed_by: Option<Side>,
    /// A bare liveness probe: nothing was sent, and the client went away before anything happened. Counted, but printed
    /// at debug only, and not remembered, so that a probe every second does not push out the connections worth reading.
    pub quiet: bool,
}

impl Record {
    /// Opens the record of a connection that was accepted at `at`.
    pub fn open(journal: &Arc<Journal>, listener: &ListenerName, client: &ClientAddr, at: Instant) -> Record {
        let entry = Arc::new(Entry {
            id: ConnectionId::next(),
            listener: listener.clone(),
            client: client.clone(),
            accepted: at,
            opened: SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH),
            flow: Flow::default(),
            counted: Counted::default(),
            relaying: OnceLock::new(),
            surroundings: OnceLock::new(),
        });
        journal.enter(&entry);
        let user = match client {
            ClientAddr::Unix { uid } => *uid,
            ClientAddr::Tcp(_) => None,
        };
        let draft = Draft { user, ..Draft::default() };
        Record {
            stage: Stage::Admit,
            at_end: None,
            journal: journal.clone(),
            entry,
            draft: Some(Box::new(draft)),
            open: None,
            written: false,
        }
    }

    /// Its name.
    pub fn id(&self) -> ConnectionId {
        self.entry.id
    }

    /// What is moved; the relay writes it.
    pub fn flow(&self) -> &Flow {
        &self.entry.flow
    }

    /// To fill it in.
    pub fn draft(&mut self) -> &mut Draft {
        self.draft.get_or_insert_default()
    }

    /// To fill in what is known at its end.
    pub fn at_end(&mut self) -> &mut AtEnd {
        self.at_end.get_or_insert_default()
    }

    /// What was told of it before its first byte; `None`: nothing, or nothing that could be understood. The first call counts.
    /// `process`: the client's, and how that calls itself.
    pub fn tell(&mut self, kind: Kind, context: Option<&Context>, process: Option<Process>) {
        if let Some(known) = Surroundings::new(kind, context, process, &self.entry.client) {
            self.entry.surroundings.get_or_init(|| Box::new(known));
        }
    }

    /// Where it was routed to; `None`: it did not come so far.
    pub fn upstream(&self) -> Option<&UpstreamName> {
        match self.entry.relaying.get() {
            Some(relaying) => relaying.upstream.as_ref(),
            None => self.draft.as_ref()?.upstream.as_ref(),
        }
    }

    /// What has become of it so far.
    pub fn seen(&self) -> Seen {
        let flow = &self.entry.flow;
        Seen {
            // What it was is forgotten with the draft, once it is established.
            cancels: self.draft.as_ref().is_some_and(|draft| draft.cancels),
            established: self.entry.relaying.get().is_some(),
            was_warm: self.entry.relaying.get().is_some_and(|relaying| relaying.times.warm.is_some()),
            sent: flow.sent(),
            received: flow.received(),
            first_byte: flow.first_byte(),
            lasted: self.entry.accepted.elapsed(),
        }
    }

    /// The connection is established: from here on it counts as open, and others see where it goes.
    pub fn relaying(&mut self) {
        if self.entry.relaying.get().is_some() {
            return;
        }
        self.stage = Stage::Relay;
        let relaying = self.known();
        if let Some(upstream) = &relaying.series.upstream {
            upstream.established(self.entry.accepted.elapsed());
        }
        self.open = Some(relaying.series.opened());
        if let Some(metered) = &relaying.metered {
            metered.opened(self.entry.accepted);
        }
        // It was empty just now, and only this record sets it.
        drop(self.entry.relaying.set(relaying));
    }

    /// Writes the record.
    pub fn close(mut self, ending: Ending) {
        self.write(ending);
    }

    /// Moves what was filled in to where it takes less room, and counts the steps.
    fn known(&mut self) -> Relaying {
        let Draft { upstream, endpoint, attempts, times, tls, user, metered, cancels: _ } =
            self.draft.take().map(|draft| *draft).unwrap_or_default();
        let series = self.journal.metrics.series(&self.entry.listener, upstream.as_ref(), endpoint.as_ref());
        let metered = metered.then(|| self.journal.metrics.user(user, upstream.as_ref()));
        if let Some(upstream) = &series.upstream {
            for (stage, took) in steps(&times) {
                upstream.stage(stage, took);
            }
        }
        Relaying {
            attempts: Attempts::new(attempts, endpoint.as_ref()),
            upstream,
            endpoint,
            times: times.map(Took::from),
            tls: tls.map(|summary| self.journal.smaller(summary)),
            user: user.and_then(User::new),
            series,
            metered,
        }
    }

    fn write(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.written, true) {
            return;
        }
        let duration = self.entry.accepted.elapsed();
        let made;
        let entry = self.entry.clone();
        let known = match entry.relaying.get() {
            Some(relaying) => relaying,
            None => {
                made = self.known();
                &made
            }
        };
        entry.settle(known);
        // Who leaves gives no reason, but leaves somewhere.
        let left = (ending.outcome == Outcome::Cancelled).then_some(self.stage);
        let stage = ending.failure.as_ref().map(|failure| failure.stage).or(left);
        let cause = ending.failure.as_ref().map(|failure| (failure.reason, failure.side));
        known.series.ended(End { outcome: ending.outcome, stage, cause }, duration);
        let was_open = self.open.take().is_some();
        match &known.metered {
            Some(metered) if was_open => metered.closed(ending.outcome, entry.accepted),
            Some(metered) => metered.ended(ending.outcome, duration),
            None => {}
        }
        let quiet = ending.quiet && !entry.surroundings.get().is_some_and(|surroundings| surroundings.asks());
        let mut view = entry.view(Some(known), duration);
        let AtEnd { tcp, client_tls } = self.at_end.take().map(|at_end| *at_end).unwrap_or_default();
        view.client_tls = client_tls.map(|summary| self.journal.smaller(summary));
        view.ended(ending, stage, tcp.as_ref());
        self.journal.leave(&entry, view, quiet);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        // A panic is no cancellation: it is our fault, and must show as such.
        let ending = if std::thread::panicking() {
            let detail = "a panic in the connection's task; its message is in the log";
            let reason = Reason::ProxyInternalError;
            Ending {
                outcome: Outcome::Failed,
                failure: Some(Failure::new(self.stage, reason, Side::Ambassador, detail)),
                closed_by: Some(Side::Ambassador),
                quiet: false,
            }
        } else {
            Ending { outcome: Outcome::Cancelled, failure: None, closed_by: None, quiet: false }
        };
        self.write(ending);
    }
}

impl ConnectionView {
    fn ended(&mut self, ending: Ending, stage: Option<Stage>, tcp: Option<&TcpFacts>) {
        let Ending { outcome, failure, closed_by, quiet: _ } = ending;
        self.state = State::Ended;
        self.outcome = Some(outcome);
        self.stage = stage;
        self.closed_by = closed_by;
        self.rtt_ms = tcp.map(|tcp| Millis(tcp.rtt));
        self.retransmits = tcp.map(|tcp| tcp.retransmits);
        if let Some(failure) = failure {
            self.reason = Some(failure.reason);
            self.side = Some(failure.side);
            self.next_step = Some(failure.next_step().into());
            self.detail = Some(failure.detail);
        }
    }
}

/// The steps that were taken, as the histogram names them.
fn steps(times: &Times) -> impl Iterator<Item = (Timed, Duration)> {
    let Times { queue, resolve, connect, proxy, negotiate, handshake, warm: _ } = *times;
    let all = [
        (Timed::Queue, queue),
        (Timed::Resolve, resolve),
        (Timed::Connect, connect),
        (Timed::Proxy, proxy),
        (Timed::Negotiate, negotiate),
        (Timed::Handshake, handshake),
    ];
    all.into_iter().filter_map(|(stage, took)| Some((stage, took?)))
}

impl From<&Attempt> for AttemptView {
    fn from(attempt: &Attempt) -> Self {
        let Attempt { endpoint, stage, reason, took } = attempt;
        AttemptView { endpoint: endpoint.clone(), stage: *stage, reason: *reason, ms: Millis(*took) }
    }
}
