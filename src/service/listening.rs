//! listening: the sockets of a listener, which may come and go while it stays. Where all upstreams behind it say
//! `when_unready = "unlisten"`, they are closed while none of those can be used, so that a client's connect is refused by the
//! kernel and its own failover works; and bound again, at the very same addresses, as soon as one can.
//!
//! Owns that. What is open goes on, and who had connected already is let in, to be told no. Leaves whether an upstream can be
//! used to `upstream`, accepting to `accept`, and what is served on these sockets to `compose`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::accept::{Acceptor, Bound, Closed};
use crate::addr::{ListenAddr, ListenerName};
use crate::backoff;
use crate::drain::{Drain, Watch};
use crate::metrics::Metrics;
use crate::upstream::{Standing, Upstream};

/// Accepts until it is told to stop.
type Accept = dyn Fn(Acceptor, Watch) -> JoinHandle<()> + Send + Sync;

/// The sockets of one listener.
pub(super) struct Sockets {
    name: ListenerName,
    metrics: Arc<Metrics>,
    accept: Box<Accept>,
    state: Mutex<State>,
}

enum State {
    Listening {
        /// They stay open for as long as one of these lives, here or in the acceptor.
        bounds: Vec<Bound>,
        closed: Closed,
        stop: Drain,
        acceptor: JoinHandle<()>,
    },
    Unlistened {
        closed: Closed,
        since: SystemTime,
        /// Why it cannot be bound again, where it should be.
        problem: Option<String>,
        /// Who lets in those that had connected; the sockets are closed when it has ended.
        last: Option<JoinHandle<()>>,
    },
    /// For good.
    Gone,
}

impl Sockets {
    /// Accepts on these. `kept`: addresses that were listened on before, and are nothing to tell of.
    pub(super) fn open(
        name: ListenerName,
        metrics: Arc<Metrics>,
        acceptor: Acceptor,
        accept: Box<Accept>,
        kept: &[ListenAddr],
    ) -> Sockets {
        let sockets = Sockets { name, metrics, accept, state: Mutex::new(State::Gone) };
        sockets.listen(&mut sockets.state(), acceptor, kept);
        sockets
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, state: &mut State, acceptor: Acceptor, kept: &[ListenAddr]) {
        let bounds = acceptor.bounds().to_vec();
        for address in bounds.iter().map(Bound::local).filter(|address| !kept.contains(address)) {
            tracing::info!(listener = &*self.name, %address, "listening");
        }
        let closed = acceptor.when_closed();
        let (stop, watch) = Drain::new();
        let acceptor = (self.accept)(acceptor, watch);
        self.metrics.listening(&self.name, true);
        *state = State::Listening { bounds, closed, stop, acceptor };
    }

    /// Listens no more, until it does again. Resolves when everybody who had connected is let in, and the sockets are closed.
    async fn unlisten(&self) {
        let last = {
            let mut state = self.state();
            let before = std::mem::replace(&mut *state, State::Gone);
            let (next, last) = match before {
                State::Listening { bounds, closed, stop, acceptor } => {
                    tracing::warn!(
                        listener = &*self.name,
                        "nobody behind it can be used: it is closed until somebody can (when_unready = \"unlisten\"); \
                         what is open goes on"
                    );
                    self.metrics.listening(&self.name, false);
                    // First: its acceptor empties the queues of those that nobody else holds.
                    drop(bounds);
                    stop.start();
                    let since = SystemTime::now();
                    (State::Unlistened { closed, since, problem: None, last: None }, Some(acceptor))
                }
                State::Unlistened { closed, since, last, .. } => {
                    (State::Unlistened { closed, since, problem: None, last: None }, last)
                }
                State::Gone => (State::Gone, None),
            };
            *state = next;
            last
        };
        if let Some(last) = last {
            // An error: it panicked, and holds nothing any more either.
            last.await.ok();
        }
    }

    /// Listens again, if it does not.
    ///
    /// # Errors
    /// It cannot, for now.
    pub(super) fn relisten(&self) -> Result<(), ()> {
        let mut state = self.state();
        let State::Unlistened { closed, problem, .. } = &mut *state else { return Ok(()) };
        match closed.bind() {
            Ok(acceptor) => {
                self.listen(&mut state, acceptor, &[]);
                Ok(())
            }
            Err(why) => {
                if problem.as_ref() != Some(&why) {
                    tracing::warn!(
                        listener = &*self.name,
                        "it should be open again, and cannot: {why}; it is tried again and again"
                    );
                }
                *problem = Some(why);
                Err(())
            }
        }
    }

    /// Listens no more, for good. Whom it was accepting by ends by itself, with all who had connected let in.
    pub(super) fn end(&self) -> Option<JoinHandle<()>> {
        match std::mem::replace(&mut *self.state(), State::Gone) {
            State::Listening { bounds, stop, acceptor, .. } => {
                drop(bounds);
                stop.start();
                Some(acceptor)
            }
            State::Unlistened { last, .. } => last,
            State::Gone => None,
        }
    }

    /// The sockets that are open.
    pub(super) fn bounds(&self) -> Vec<Bound> {
        match &*self.state() {
            State::Listening { bounds, .. } => bounds.clone(),
            State::Unlistened { .. } | State::Gone => Vec::new(),
        }
    }

    /// Where clients can connect, or could and will again; ports filled in.
    pub(super) fn addresses(&self) -> Vec<ListenAddr> {
        match &*self.state() {
            State::Listening { closed, .. } | State::Unlistened { closed, .. } => {
                closed.addresses().cloned().collect()
            }
            State::Gone => Vec::new(),
        }
    }

    /// Why it cannot listen, where it should.
    pub(super) fn problem(&self) -> Option<String> {
        match &*self.state() {
            State::Unlistened { problem, .. } => problem.clone(),
            State::Listening { .. } | State::Gone => None,
        }
    }

    /// What the API shows of it.
    pub(super) fn tell(&self, view: &mut Value) {
        match &*self.state() {
            State::Listening { .. } | State::Gone => view["state"] = json!("listening"),
            State::Unlistened { since, problem, .. } => {
                view["state"] = json!("unlistened");
                view["since"] = json!(humantime::format_rfc3339_millis(*since).to_string());
                if let Some(problem) = problem {
                    view["problem"] = json!(problem);
                }
            }
        }
    }
}

/// Closes the sockets and opens them again, as those behind the listener come and go. With nobody behind it by whom that
/// would go, it opens them, if they are not, and that is all.
pub(super) async fn keep(sockets: Arc<Sockets>, behind: Vec<Arc<Upstream>>) {
    let news = Arc::new(Notify::new());
    behind.iter().for_each(|upstream| upstream.watch_standing(&news));
    let mut failed = 0;
    loop {
        let now = Instant::now();
        let wait = match together(behind.iter().map(|upstream| upstream.standing(now))) {
            Standing::Unready { until } => {
                failed = 0;
                sockets.unlisten().await;
                until.map(|until| until.saturating_duration_since(Instant::now()))
            }
            Standing::Usable => match sockets.relisten() {
                Ok(()) if behind.is_empty() => return,
                Ok(()) => {
                    failed = 0;
                    None
                }
                Err(()) => {
                    failed += 1;
                    Some(backoff::doubled(FIRST_PAUSE, failed - 1, LONGEST_PAUSE))
                }
            },
        };
        match wait {
            None => news.notified().await,
            Some(wait) => match tokio::time::timeout(wait, news.notified()).await {
                Ok(()) | Err(_) => {}
            },
        }
    }
}

/// Between two attempts to bind what somebody else has.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A listener's clients are served while one of those behind it can be used, or where nobody asks.
fn together(standings: impl Iterator<Item = Standing>) -> Standing {
    let mut all: Option<Standing> = None;
    for standing in standings {
        let Standing::Unready { until } = standing else { return Standing::Usable };
        let earlier = match all {
            Some(Standing::Unready { until }) => until,
            Some(Standing::Usable) | None => None,
        };
        all = Some(Standing::Unready { until: until.into_iter().chain(earlier).min() });
    }
    all.unwrap_or(Standing::Usable)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::accept;
    use crate::socket::TcpSettings;

    /// A client that waits in the kernel's queue, since there was no place for it, is let in before the socket closes: it was
    /// told that it is connected. The next one is refused by the kernel; and once it is open again, that is where it was.
    #[tokio::test]
    async fn who_had_connected_is_let_in_before_it_closes_and_it_opens_where_it_was() {
        let settings = accept::Settings {
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            mode: 0o660,
            owner: None,
            group: None,
            backlog: 16,
            tcp: TcpSettings::default(),
        };
        let acceptor = Acceptor::bind(&settings).unwrap();
        let permits = Arc::new(Semaphore::new(0));
        let (tell, mut let_in) = mpsc::unbounded_channel();
        let places = permits.clone();
        let accept = move |acceptor: Acceptor, watch| {
            let tell = tell.clone();
            let tell = move |accepted: accept::Accepted, _permit| tell.send(accepted.client).unwrap();
            tokio::spawn(acceptor.run(places.clone(), watch, tell))
        };
        let sockets = Sockets::open("in".into(), Metrics::new(), acceptor, Box::new(accept), &[]);
        let addresses = sockets.addresses();
        let [ListenAddr::Tcp(address)] = addresses[..] else { panic!("{addresses:?}") };
        let waiting = TcpStream::connect(address).await.unwrap();
        permits.add_permits(1);
        sockets.unlisten().await;
        let known = let_in.recv().await;
        assert_eq!(known.map(|client| client.to_string()), Some(waiting.local_addr().unwrap().to_string()));
        assert_eq!(
            TcpStream::connect(address).await.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        assert_eq!((sockets.bounds().len(), sockets.addresses()), (0, addresses.clone()));
        let mut view = json!({});
        sockets.tell(&mut view);
        assert_eq!(view["state"], "unlistened");

        // Nobody had the port meanwhile; another test may, for a moment.
        while sockets.relisten().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        TcpStream::connect(address).await.unwrap();
        assert_eq!(sockets.addresses(), addresses);
        sockets.end().unwrap().await.unwrap();
        assert!(sockets.relisten().is_ok() && sockets.bounds().is_empty(), "it ended for good");
    }

    /// One that serves is enough to stay open; with none, the first that may serve again opens it.
    #[test]
    fn a_listener_is_closed_only_while_nobody_behind_it_can_be_used() {
        let now = Instant::now();
        let at = |seconds| Standing::Unready { until: Some(now + Duration::from_secs(seconds)) };
        let never = Standing::Unready { until: None };
        for (standings, expected) in [
            (&[][..], Standing::Usable),
            (&[Standing::Usable], Standing::Usable),
            (&[never], never),
            (&[at(1), Standing::Usable], Standing::Usable),
            (&[Standing::Usable, never], Standing::Usable),
            (&[at(2), at(1), at(3)], at(1)),
            (&[never, at(2), never], at(2)),
        ] {
            assert_eq!(together(standings.iter().copied()), expected, "{standings:?}");
        }
    }
}
