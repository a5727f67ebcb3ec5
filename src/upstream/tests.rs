//! An upstream as connections and the admin use it.

use super::*;

/// Notes what it is told, as lines.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn breaker(&self, upstream: &str, endpoint: &str, to: State, why: &str) {
        let why = why.split(';').next().unwrap();
        self.0.lock().unwrap().push(format!("{upstream} {endpoint} {}: {why}", to.label()));
    }
    fn health(&self, upstream: &str, endpoint: &str, up: bool, why: &str) {
        self.0.lock().unwrap().push(format!("{upstream} {endpoint} up={up}: {why}"));
    }
    fn panic(&self, upstream: &str, on: bool) {
        self.0.lock().unwrap().push(format!("{upstream} panic={on}"));
    }
    fn source(&self, upstream: &str, failing: Option<&str>) {
        self.0.lock().unwrap().push(format!("{upstream} source {}", failing.unwrap_or("answers")));
    }
}

fn upstream() -> (Arc<Upstream>, Arc<Notes>, Instant) {
    let notes = Arc::new(Notes::default());
    let retry = backoff::Settings::default();
    let upstream = Upstream::new("orders", Settings::default(), &retry, 1, notes.clone());
    let now = Instant::now();
    upstream.update(vec![EndpointSpec::new("db1:5432".parse().unwrap())], now);
    (upstream, notes, now)
}

#[test]
fn a_lease_counts_as_open_until_it_is_settled_or_dropped() {
    let (upstream, _, now) = upstream();
    let open = || upstream.view(now).endpoints[0].open;
    let mut lease = upstream.pick(now, None, &[]).unwrap();
    let dropped = upstream.pick(now, None, &[]).unwrap();
    assert_eq!((lease.label().as_ref(), open()), ("db1:5432", 2));
    drop(dropped);
    assert_eq!(open(), 1);
    lease.established(now, Duration::from_millis(3));
    lease.ended(now, None);
    let view = upstream.view(now);
    assert_eq!((view.endpoints[0].open, view.endpoints[0].established_total), (0, 1));
    assert_eq!(view.endpoints[0].establish_ms, Some(3));
}

/// The only place is taken; the one who waits sleeps until it comes free, and then has it.
#[tokio::test(start_paused = true)]
async fn who_waits_for_an_endpoint_sleeps_until_one_has_room() {
    let (upstream, _, now) = upstream();
    let limits = Limits { connections_per_endpoint: Some(1), ..Limits::default() };
    let retry = backoff::Settings::default();
    upstream.reconfigure(Settings { limits, ..Settings::default() }, &retry, now);
    let lease = || upstream.lease(None, &[], Duration::ZERO, Duration::from_secs(60));
    let held = lease().await.unwrap();
    let free = async {
        // Time passes only while all sleep.
        tokio::time::sleep(Duration::from_millis(3100)).await;
        assert_eq!(upstream.view(now).waiting, 1);
        drop(held);
    };
    let begun = tokio::time::Instant::now();
    let (leased, ()) = tokio::join!(lease(), free);
    assert!(leased.is_ok());
    assert_eq!(begun.elapsed(), Duration::from_millis(3100), "it was told, and did not find out by looking");
    let failure = upstream.pick(now, None, &[]).err().unwrap();
    assert_eq!(failure.reason, crate::failure::Reason::ConnectionLimitReached);
    let failure = lease().await.err().unwrap();
    assert_eq!(failure.reason, crate::failure::Reason::QueueTimeout);
    assert_eq!(begun.elapsed(), Duration::from_millis(8100));
}

#[test]
fn the_single_endpoint_that_fails_is_refused_at_once_and_recovers_by_a_trial() {
    let (upstream, notes, start) = upstream();
    for _ in 0..5 {
        let lease = upstream.pick(start, None, &[]).unwrap();
        lease.failed_with(start, BreakerClass::Refused, "10.0.0.5:5432 refused the connection");
    }
    assert_eq!(notes.take(), ["orders db1:5432 open: 5 × connection refused"]);
    let failure = upstream.pick(start, None, &[]).err().unwrap();
    assert_eq!(failure.reason, crate::failure::Reason::CircuitOpen);
    assert!(failure.detail.starts_with("db1:5432: circuit open after 5 × connection refused"), "{failure}");
    let view = upstream.view(start);
    assert!(!view.panicking && !view.endpoints[0].ready);
    assert!(view.endpoints[0].reopens_in_ms.is_some_and(|ms| (3750..=5000).contains(&ms)));
    let last = view.endpoints[0].last_failure.as_ref().unwrap();
    assert_eq!(&*last.detail, "10.0.0.5:5432 refused the connection");

    let later = start + Duration::from_secs(5);
    let mut trial = upstream.pick(later, None, &[]).unwrap();
    assert!(trial.is_trial());
    assert!(upstream.pick(later, None, &[]).is_err(), "one at a time");
    trial.established(later, Duration::from_millis(1));
    trial.ended(later, None);
    assert_eq!(notes.take().len(), 2, "half-open, then closed");
    assert!(!upstream.pick(later, None, &[]).unwrap().is_trial());
}

#[test]
fn a_view_is_json_with_the_words_of_the_interface() {
    let (upstream, _, now) = upstream();
    let id = upstream.endpoints()[0].0;
    upstream.check_result(id, now, Ok(Duration::from_millis(1)));
    let view = serde_json::to_value(upstream.view(now)).unwrap();
    assert_eq!(
        view,
        serde_json::json!({
            "name": "orders", "waiting": 0, "panicking": false,
            "endpoints": [{
                "address": "db1:5432", "weight": 1, "backup": false, "health": "up", "breaker": "closed",
                "open": 0, "ready": true, "panicking": false, "established_total": 0, "failed_total": 0,
            }],
        })
    );
}

#[test]
fn a_reload_that_changes_the_numbers_keeps_what_is_known_of_the_endpoints() {
    let (upstream, notes, now) = upstream();
    let mut open = upstream.pick(now, None, &[]).unwrap();
    open.established(now, Duration::from_millis(1));
    for _ in 0..5 {
        upstream.pick(now, None, &[]).unwrap().failed(now, BreakerClass::Refused);
    }
    assert_eq!(notes.take().len(), 1, "open");
    let mut settings = Settings { rise: 7, ..Settings::default() };
    settings.breaker.consecutive = Some(9);
    settings.breaker.max_open = Duration::from_secs(2);
    let retry = backoff::Settings { budget: 0.0, ..backoff::Settings::default() };
    upstream.reconfigure(settings.clone(), &retry, now);
    let view = upstream.view(now);
    let endpoint = &view.endpoints[0];
    assert_eq!((endpoint.breaker, endpoint.open, endpoint.failed_total), ("open", 1, 5));
    assert_eq!(endpoint.reopens_in_ms, Some(2000), "no longer than is allowed now");

    settings.breaker.consecutive = None;
    upstream.reconfigure(settings, &retry, now);
    assert_eq!(notes.take(), ["orders db1:5432 closed: its rules were turned off"]);
    assert!(upstream.view(now).endpoints[0].ready);
    open.ended(now, None);
    assert_eq!(upstream.view(now).endpoints[0].open, 0);
    assert_eq!((0..500).filter(|_| upstream.retry_allowed()).count(), 100);
}

#[test]
fn retries_are_bounded_by_the_budget() {
    let (upstream, _, _) = upstream();
    assert_eq!((0..500).filter(|_| upstream.retry_allowed()).count(), 100);
}

/// A client that names its endpoint gets that one or none: no other in its stead, none past its circuit, its limit or those who
/// wait, and none that the set has not got.
#[test]
fn an_endpoint_that_is_named_is_picked_alone_and_only_when_anybody_could_have_it() {
    let (upstream, _, now) = upstream();
    let limits = Limits { connections_per_endpoint: Some(1), ..Limits::default() };
    upstream.reconfigure(Settings { limits, ..Settings::default() }, &backoff::Settings::default(), now);
    let specs = ["db1:5432", "db2:5432"].map(|address| EndpointSpec::new(address.parse().unwrap()));
    upstream.update(specs.into(), now);
    let named = |address: &str| upstream.lease_only(now, &address.parse().unwrap(), true);
    let lease = named("db2:5432").unwrap();
    assert_eq!(&**lease.label(), "db2:5432");
    let full = named("db2:5432").err().unwrap();
    assert_eq!(full.reason, Reason::ConnectionLimitReached, "{full}");
    assert_eq!(&**named("db1:5432").unwrap().label(), "db1:5432");
    drop(lease);
    for _ in 0..5 {
        named("db2:5432").unwrap().failed(now, BreakerClass::Refused);
    }
    let open = named("db2:5432").err().unwrap();
    assert!(
        open.reason == Reason::CircuitOpen && open.detail.starts_with("db2:5432: circuit open"),
        "{open}"
    );
    let unknown = named("db3:5432").err().unwrap();
    assert_eq!((unknown.reason, unknown.side), (Reason::DestinationNotFound, Side::Client));
    let has = |address: &str| upstream.has(&address.parse().unwrap());
    assert!(has("db1:5432") && has("db2:5432") && !has("db3:5432"));
}

/// At the start, and after a reload to another source, its first word may come in a moment: who comes before it waits, as long as the
/// queue has room and time, and not once the source has said that it fails.
#[tokio::test(start_paused = true)]
async fn who_comes_before_the_first_word_of_a_source_waits_for_it() {
    let (upstream, _, now) = upstream();
    let long = Duration::from_secs(60);
    let connect = async || {
        let begun = tokio::time::Instant::now();
        let place = upstream.place(long).await?;
        let lease =
            upstream.lease(None, &[], begun.elapsed(), long).await.map(|lease| lease.label().to_string());
        drop(place);
        lease.map(|label| (label, begun.elapsed()))
    };
    assert_eq!(connect().await.unwrap(), ("db1:5432".to_owned(), Duration::ZERO));
    let soon = Duration::from_millis(700);
    upstream.forget_source(false);
    let answer = async {
        tokio::time::sleep(soon).await;
        assert_eq!(upstream.view(now).waiting, 1);
        upstream.learn(Ok(vec![EndpointSpec::new("db2:5432".parse().unwrap())]), now);
    };
    let (connected, ()) = tokio::join!(connect(), answer);
    assert_eq!(connected.unwrap(), ("db2:5432".to_owned(), soon));
    upstream.forget_source(true);
    assert_eq!(connect().await.unwrap().0, "db2:5432", "it names the same, only otherwise");

    upstream.forget_source(false);
    let failure = async {
        tokio::time::sleep(soon).await;
        upstream.learn(Err(Failure::upstream(Stage::Resolve, Reason::DnsTimeout, "silence")), now);
    };
    let begun = tokio::time::Instant::now();
    let (connected, ()) = tokio::join!(connect(), failure);
    assert!(connected.unwrap_err().detail.ends_with("not known yet: silence"));
    assert_eq!(begun.elapsed(), soon);
    upstream.forget_source(false);
    let begun = tokio::time::Instant::now();
    assert!(connect().await.is_err(), "it says nothing");
    assert_eq!(begun.elapsed(), Limits::default().queue_timeout);
}

/// More have waited for the first word of a source than its endpoint may have at a time: the others wait on, in turn.
#[tokio::test(start_paused = true)]
async fn whom_the_first_word_leaves_no_room_waits_in_turn() {
    let (upstream, _, now) = upstream();
    let limits = Limits { connections_per_endpoint: Some(1), ..Limits::default() };
    upstream.reconfigure(Settings { limits, ..Settings::default() }, &backoff::Settings::default(), now);
    upstream.forget_source(false);
    let long = Duration::from_secs(60);
    let connect = async || {
        let lease = upstream.lease(None, &[], Duration::ZERO, long).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        lease.map(drop).map_err(|failure| failure.to_string())
    };
    let answer = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        upstream.learn(Ok(vec![EndpointSpec::new("db2:5432".parse().unwrap())]), now);
    };
    let (one, other, ()) = tokio::join!(connect(), connect(), answer);
    assert_eq!((one, other), (Ok(()), Ok(())));
}
