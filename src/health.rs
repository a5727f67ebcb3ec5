//! Active health checks: who is checked when.
//!
//! Owns the pace: one check at a time for each endpoint, spread at the start, jittered ever after. Leaves the check
//! itself to the [`Probe`] (a connection as `establish` would make it), and to `upstream` what its results come to.

pub mod http;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{self, JoinSet};

use crate::account::Login;
use crate::failure::{BreakerClass, Failure, Reason, Side, Stage};
use crate::upstream::{EndpointId, EndpointSpec, Upstream};

/// How an upstream's endpoints are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is done; `None`: the deepest that the upstream has.
    pub kind: Option<Kind>,
    /// What [`Kind::Http`] asks; without that kind, nothing.
    pub url: Option<http::Url>,
    /// Whom [`Kind::Protocol`] logs in as; `None`: it leaves before that.
    pub login: Option<Login>,
    /// Time between two checks of an endpoint.
    pub interval: Duration,
    /// Time one may take.
    pub timeout: Duration,
    /// Passed checks in a row that make it healthy.
    pub rise: u32,
    /// Failed checks in a row that make it unhealthy.
    pub fall: u32,
    /// Share of `interval` by which each pause is drawn shorter or longer.
    pub jitter: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kind: None,
            url: None,
            login: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            jitter: 0.1,
        }
    }
}

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: only the breaker judges.
    Off,
    /// Connects.
    Tcp,
    /// Connects and goes through the TLS handshake, our certificate included.
    Tls,
    /// As far as the protocol goes without credentials: asks for TLS in its words, shakes hands, takes its leave. Or logs in.
    Protocol,
    /// Asks a URL, of the endpoint or of somebody who knows it.
    Http,
}

impl Kind {
    /// The deepest that an upstream has, by whether it is reached over TLS, and whether its protocol is known.
    pub fn deepest(tls: bool, known: bool) -> Kind {
        match (tls, known) {
            (true, true) => Kind::Protocol,
            (true, false) => Kind::Tls,
            (false, _) => Kind::Tcp,
        }
    }
}

/// Checks one endpoint.
pub trait Probe: Send + Sync {
    /// One check. It may be dropped at any point: its time is up, or its endpoint has gone.
    fn check<'a>(
        &'a self,
        spec: &'a EndpointSpec,
        kind: Kind,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

    /// One has come to an end, its time included.
    fn told(&self, _spec: &EndpointSpec, _passed: bool) {}
}

/// At the latest after this time a new endpoint is seen, and checked for the first time at most as long after.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Checks the endpoints of an upstream for as long as it is polled. `settings.kind` should have been resolved with
/// [`Kind::deepest`]; without it, `Tcp` is what every upstream has.
pub async fn run(settings: Settings, upstream: Arc<Upstream>, dialer: Arc<dyn Probe>) {
    let kind = settings.kind.unwrap_or(Kind::Tcp);
    if kind == Kind::Off {
        return std::future::pending().await;
    }
    let mut pace = Pace::new(&settings, fastrand::Rng::new());
    let mut running = JoinSet::new();
    let mut seen = None;
    loop {
        let now = Instant::now();
        let updates = upstream.updates();
        if seen.replace(updates) != Some(updates) {
            for gone in pace.members(upstream.endpoints(), now) {
                gone.abort();
            }
        }
        for (id, spec) in pace.due(now) {
            let dialer = dialer.clone();
            let check = running.spawn(check(dialer, spec, kind, settings.timeout));
            pace.begun(id, check, now);
        }
        let wake = pace.next().map_or(now + LOOK_AROUND, |due| due.min(now + LOOK_AROUND));
        tokio::select! {
            Some(done) = running.join_next_with_id() => {
                let (task, result) = match done {
                    Ok((task, result)) => (task, Some(result)),
                    Err(error) => (error.id(), None), // its endpoint has gone, or the check panicked: no verdict
                };
                if let Some(id) = pace.ended(task, Instant::now())
                    && let Some(result) = result
                {
                    match result {
                        Ok(result) => {
                            pace.said_something(id);
                            upstream.check_result(id, Instant::now(), result);
                        }
                        Err(why) => {
                            if let Some(endpoint) = pace.news(id, &why) {
                                let upstream = upstream.name().as_ref();
                                tracing::warn!(upstream, endpoint, why, "checks say nothing about the endpoint");
                            }
                        }
                    }
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// What a check says about its endpoint.
type Verdict = Result<Duration, (BreakerClass, String)>;

/// One check; an error: what went wrong is on our side and says nothing about the endpoint.
async fn check(
    dialer: Arc<dyn Probe>,
    spec: Arc<EndpointSpec>,
    kind: Kind,
    limit: Duration,
) -> Result<Verdict, String> {
    let begun = Instant::now();
    let checked = tokio::time::timeout(limit, dialer.check(&spec, kind)).await;
    dialer.told(&spec, matches!(checked, Ok(Ok(()))));
    match checked {
        Ok(Ok(())) => Ok(Ok(begun.elapsed())),
        Ok(Err(failure)) => verdict(&failure),
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Ok(Err((BreakerClass::Timeout, format!("the check was not done within {limit}"))))
        }
    }
}

fn verdict(failure: &Failure) -> Result<Verdict, String> {
    let class = match (failure.breaker_class(), failure.stage, failure.side) {
        (Some(class), _, Side::Client | Side::Upstream) => class,
        // A name without an address cannot be connected to, whoever's fault it is.
        (_, Stage::Resolve, _) if failure.reason == Reason::DnsTimeout => BreakerClass::Timeout,
        (_, Stage::Resolve, _) => BreakerClass::Refused,
        // No descriptor, no source address, our own certificate: it would take every endpoint down at a time.
        (_, _, Side::Ambassador) => return Err(failure.to_string()),
        (None, ..) => BreakerClass::Refused,
    };
    Ok(Err((class, failure.to_string())))
}

/// When each endpoint is checked. The time is passed in. What an event costs hardly goes by how many endpoints there are:
/// there are thousands of both.
struct Pace {
    interval: Duration,
    jitter: f64,
    rng: fastrand::Rng,
    members: HashMap<EndpointId, Member>,
    /// Those that are not being checked, by when they are due.
    agenda: BTreeSet<(Instant, EndpointId)>,
    /// Those that are.
    running: HashMap<task::Id, EndpointId>,
}

struct Member {
    spec: Arc<EndpointSpec>,
    due: Instant,
    running: Option<task::AbortHandle>,
    /// Why its last check said nothing about it.
    in_vain: Option<String>,
}

impl Pace {
    fn new(settings: &Settings, rng: fastrand::Rng) -> Self {
        Pace {
            interval: settings.interval,
            jitter: settings.jitter.clamp(0.0, 1.0),
            rng,
            members: HashMap::new(),
            agenda: BTreeSet::new(),
            running: HashMap::new(),
        }
    }

    /// Follows the set; gives the checks of those that have left.
    fn members(
        &mut self,
        now_in: Vec<(EndpointId, Arc<EndpointSpec>)>,
        now: Instant,
    ) -> Vec<task::AbortHandle> {
        let mut before = std::mem::take(&mut self.members);
        for (id, spec) in now_in {
            let member = match before.remove(&id) {
                Some(member) => Member { spec, ..member },
                None => {
                    // Soon, for until then it counts as healthy; but not all in the same moment.
                    let due = now + self.interval.min(LOOK_AROUND).mul_f64(self.rng.f64());
                    self.agenda.insert((due, id));
                    Member { spec, due, running: None, in_vain: None }
                }
            };
            self.members.insert(id, member);
        }
        for (id, gone) in &before {
            self.agenda.remove(&(gone.due, *id));
        }
        let gone: Vec<_> = before.into_values().filter_map(|gone| gone.running).collect();
        for check in &gone {
            self.running.remove(&check.id());
        }
        gone
    }

    fn due(&self, now: Instant) -> Vec<(EndpointId, Arc<EndpointSpec>)> {
        let due = self.agenda.iter().take_while(|(due, _)| *due <= now);
        due.filter_map(|(_, id)| Some((*id, self.members.get(id)?.spec.clone()))).collect()
    }

    fn begun(&mut self, id: EndpointId, check: task::AbortHandle, now: Instant) {
        let share = 1.0 + self.jitter * (2.0 * self.rng.f64() - 1.0);
        if let Some(member) = self.members.get_mut(&id) {
            self.agenda.remove(&(member.due, id));
            self.running.insert(check.id(), id);
            member.running = Some(check);
            member.due = now + self.interval.mul_f64(share);
        }
    }

    /// A check that took longer than the interval does not make up for the time lost.
    fn ended(&mut self, check: task::Id, now: Instant) -> Option<EndpointId> {
        let id = self.running.remove(&check)?;
        let member = self.members.get_mut(&id)?;
        member.running = None;
        member.due = member.due.max(now);
        self.agenda.insert((member.due, id));
        Some(id)
    }

    /// A check said something about its endpoint.
    fn said_something(&mut self, id: EndpointId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.in_vain = None;
        }
    }

    /// A check said nothing about its endpoint, and why. That endpoint, where it was not told the last time.
    fn news(&mut self, id: EndpointId, why: &str) -> Option<String> {
        let member = self.members.get_mut(&id)?;
        let is_new = member.in_vain.as_deref() != Some(why);
        member.in_vain = Some(why.to_owned());
        is_new.then(|| member.spec.address.to_string())
    }

    /// When the next check is due; those under way report by themselves.
    fn next(&self) -> Option<Instant> {
        self.agenda.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::backoff;
    use crate::upstream::{self, Observer, breaker::State};

    const SECOND: Duration = Duration::from_secs(1);

    /// Does as it is told, and counts.
    #[derive(Default)]
    struct Told {
        fails: Mutex<Option<Failure>>,
        hangs: std::sync::atomic::AtomicBool,
        checks: AtomicUsize,
        at_a_time: AtomicUsize,
        most_at_a_time: AtomicUsize,
        /// Those that were told to have failed.
        failed: AtomicUsize,
    }

    impl Probe for Told {
        fn check<'a>(
            &'a self,
            _spec: &'a EndpointSpec,
            kind: Kind,
        ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
            assert_eq!(kind, Kind::Tls);
            Box::pin(async move {
                self.checks.fetch_add(1, Ordering::SeqCst);
                let now = self.at_a_time.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_at_a_time.fetch_max(now, Ordering::SeqCst);
                let _one_less = Less(&self.at_a_time);
                if self.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                match self.fails.lock().unwrap().clone() {
                    Some(failure) => Err(failure),
                    None => Ok(()),
                }
            })
        }

        fn told(&self, _spec: &EndpointSpec, passed: bool) {
            self.failed.fetch_add(usize::from(!passed), Ordering::SeqCst);
        }
    }

    struct Less<'a>(&'a AtomicUsize);

    impl Drop for Less<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Hears of flips, and how many checks there had been.
    struct Flips(Arc<Told>, mpsc::UnboundedSender<(bool, usize, String)>);

    impl Observer for Flips {
        fn breaker(&self, _upstream: &str, _endpoint: &str, _to: State, _why: &str) {}
        fn health(&self, _upstream: &str, _endpoint: &str, up: bool, why: &str) {
            self.1.send((up, self.0.checks.load(Ordering::SeqCst), why.into())).unwrap();
        }
        fn panic(&self, _upstream: &str, _on: bool) {}
        fn source(&self, _upstream: &str, _failing: Option<&str>) {}
    }

    type Heard = mpsc::UnboundedReceiver<(bool, usize, String)>;

    fn upstream(told: &Arc<Told>, endpoints: &[&str]) -> (Arc<Upstream>, Heard) {
        let (flips, heard) = mpsc::unbounded_channel();
        let settings = upstream::Settings { rise: 2, fall: 3, ..upstream::Settings::default() };
        let observer = Arc::new(Flips(told.clone(), flips));
        let upstream = Upstream::new("db", settings, &backoff::Settings::default(), 1, observer);
        upstream.update(specs(endpoints), Instant::now());
        (upstream, heard)
    }

    fn specs(endpoints: &[&str]) -> Vec<EndpointSpec> {
        endpoints.iter().map(|endpoint| EndpointSpec::new(endpoint.parse().unwrap())).collect()
    }

    fn settings() -> Settings {
        Settings {
            kind: Some(Kind::Tls),
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(100),
            ..Settings::default()
        }
    }

    fn failed(stage: Stage, reason: Reason, side: Side) -> Failure {
        Failure::new(stage, reason, side, "seen")
    }

    #[tokio::test]
    async fn an_endpoint_goes_down_after_fall_checks_and_comes_back_after_rise() {
        let told = Arc::new(Told::default());
        let (upstream, mut heard) = upstream(&told, &["10.0.0.1:5432"]);
        let task = tokio::spawn(run(settings(), upstream, told.clone()));
        assert!(heard.recv().await.unwrap().0);
        *told.fails.lock().unwrap() = Some(failed(Stage::Connect, Reason::ConnectionRefused, Side::Upstream));
        let before = told.checks.load(Ordering::SeqCst);
        let (up, checks, why) = heard.recv().await.unwrap();
        assert_eq!((up, checks), (false, before + 3));
        assert!(why.contains("connection_refused"), "{why}");
        *told.fails.lock().unwrap() = None;
        let before = told.checks.load(Ordering::SeqCst);
        let (up, checks, _) = heard.recv().await.unwrap();
        assert_eq!((up, checks), (true, before + 2));
        // Hanging is failing, one check after the other.
        told.hangs.store(true, Ordering::SeqCst);
        let (up, _, why) = heard.recv().await.unwrap();
        assert!(!up && why.contains("not done within 100ms"), "{why}");
        assert_eq!(told.failed.load(Ordering::SeqCst), 6, "three were refused, and three hung");
        assert_eq!(told.most_at_a_time.load(Ordering::SeqCst), 1);
        task.abort();
    }

    #[tokio::test]
    async fn endpoints_that_come_are_checked_and_those_that_go_are_not() {
        let told = Arc::new(Told::default());
        let (upstream, mut heard) = upstream(&told, &[]);
        let task = tokio::spawn(run(settings(), upstream.clone(), told.clone()));
        upstream.update(specs(&["10.0.0.1:5432", "10.0.0.2:5432"]), Instant::now());
        assert!(heard.recv().await.unwrap().0 && heard.recv().await.unwrap().0);
        told.hangs.store(true, Ordering::SeqCst);
        while told.at_a_time.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        upstream.update(Vec::new(), Instant::now());
        while told.at_a_time.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
    }

    /// A check of one has nothing to do with the others: to look at all of them for each would take minutes.
    #[tokio::test]
    async fn five_thousand_endpoints_are_checked_in_the_time_that_their_checks_take() {
        let told = Arc::new(Told::default());
        let (upstream, mut heard) = upstream(&told, &[]);
        let many: Vec<_> = (1..=5_000).map(|port| format!("10.0.0.1:{port}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        upstream.update(specs(&many), Instant::now());
        let settings = Settings { interval: SECOND * 600, ..settings() };
        let task = tokio::spawn(run(settings, upstream, told.clone()));
        let all = async {
            for _ in 0..5_000 {
                assert!(heard.recv().await.unwrap().0);
            }
        };
        tokio::time::timeout(SECOND * 12, all).await.expect("they were checked within twelve seconds");
        assert_eq!(told.checks.load(Ordering::SeqCst), 5_000);
        task.abort();
    }

    #[test]
    fn first_checks_are_soon_but_not_all_at_once_and_later_ones_keep_their_distance() {
        let (upstream, _heard) = upstream(&Arc::new(Told::default()), &[]);
        let many: Vec<_> = (1..=100).map(|port| format!("10.0.0.1:{port}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let now = Instant::now();
        upstream.update(specs(&many), now);
        let settings = Settings { interval: SECOND * 10, jitter: 0.1, ..settings() };
        let mut pace = Pace::new(&settings, fastrand::Rng::with_seed(1));
        pace.members(upstream.endpoints(), now);
        assert!(pace.due(now).len() <= 1);
        let half = pace.due(now + SECOND / 2).len();
        assert!((30..=70).contains(&half), "{half} of 100 within half a second");
        let all = pace.due(now + SECOND);
        assert_eq!(all.len(), 100);

        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let checks: Vec<_> =
            all.iter().map(|(id, _)| (*id, runtime.spawn(async {}).abort_handle())).collect();
        for (id, check) in &checks {
            pace.begun(*id, check.clone(), now + SECOND);
        }
        assert!(
            pace.due(now + SECOND * 100).is_empty(),
            "a second check of an endpoint that is being checked"
        );
        for (id, check) in &checks {
            assert_eq!(pace.ended(check.id(), now + SECOND * 2), Some(*id));
        }
        assert!(pace.due(now + SECOND * 9).is_empty());
        let in_time = pace.due(now + SECOND * 11).len();
        assert!((30..=70).contains(&in_time), "{in_time} of 100 on the dot");
        assert_eq!(pace.due(now + SECOND * 12).len(), 100);
    }

    #[test]
    fn a_fault_of_ours_says_nothing_about_the_endpoint() {
        for (stage, reason, side, class) in [
            (Stage::Connect, Reason::ConnectionRefused, Side::Upstream, Some(BreakerClass::Refused)),
            (Stage::Connect, Reason::ConnectionTimeout, Side::Upstream, Some(BreakerClass::Timeout)),
            (Stage::Handshake, Reason::TlsCertificateError, Side::Upstream, Some(BreakerClass::Handshake)),
            (Stage::Resolve, Reason::DnsTimeout, Side::Upstream, Some(BreakerClass::Timeout)),
            (Stage::Resolve, Reason::DnsError, Side::Upstream, Some(BreakerClass::Refused)),
            (Stage::Connect, Reason::ProxyInternalError, Side::Ambassador, None),
            (Stage::Connect, Reason::ProxyConfigurationError, Side::Ambassador, None),
        ] {
            let failure = failed(stage, reason, side);
            assert_eq!(verdict(&failure).ok().map(|result| result.unwrap_err().0), class, "{failure}");
        }
    }
    /// An operator has to hear of a check whose account is not let in, and of each other reason; but once.
    #[test]
    fn why_checks_are_in_vain_is_told_once_until_it_changes() {
        let (upstream, _heard) = upstream(&Arc::new(Told::default()), &["10.0.0.1:5432", "10.0.0.2:5432"]);
        let mut pace = Pace::new(&settings(), fastrand::Rng::with_seed(1));
        pace.members(upstream.endpoints(), Instant::now());
        let ids: Vec<_> = upstream.endpoints().into_iter().map(|(id, _)| id).collect();
        let (denied, no_file) = ("access denied", "there is no such file");
        for id in &ids {
            assert!(pace.news(*id, denied).is_some_and(|endpoint| endpoint.ends_with(":5432")));
        }
        // Its members are looked at anew each time.
        pace.members(upstream.endpoints(), Instant::now());
        assert_eq!(pace.news(ids[0], denied), None);
        assert!(pace.news(ids[0], no_file).is_some() && pace.news(ids[0], no_file).is_none());
        pace.said_something(ids[0]);
        assert!(pace.news(ids[0], no_file).is_some(), "it had passed meanwhile");
        assert_eq!(pace.news(ids[1], denied), None);
    }
}
