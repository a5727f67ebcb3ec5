//! What is counted per local user, where a listener asks for it: connections, those that are open, their bytes and their time.
//!
//! Owns who is counted apart, and by which name. Who a client is, `admit` finds out. So that no program can make the metrics
//! grow by changing its user, there are [`AT_MOST`] users with a count of their own; who comes later is counted among the others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::Serialize;

use super::held;
use crate::failure::Outcome;

/// Users with a count of their own, since the process started.
pub(super) const AT_MOST: usize = 64;
/// So long the user databases may take to name somebody; then it is the number, for good.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom nobody could tell, and who came too late for a count of their own. No user is called so here.
const UNKNOWN: &str = "unknown";
const OTHERS: &str = "other";

/// In the order of [`Tally::ended`].
const OUTCOMES: [Outcome; 4] = [Outcome::Success, Outcome::Failed, Outcome::Refused, Outcome::Cancelled];

/// The counters of one (user, upstream).
#[derive(Debug)]
pub struct UserSeries {
    sent: AtomicU64,
    received: AtomicU64,
    tally: Mutex<Tally>,
    /// What moments are counted from.
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Tally {
    ended: [u64; OUTCOMES.len()],
    /// How long these lasted in all.
    lasted: Duration,
    open: u32,
    /// When these were accepted, added up: with the time it is now that makes how long they have lasted, and no look at each.
    accepted: Duration,
}

/// What a user did, for whoever divides the costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UserView {
    /// The name that the metrics have too.
    pub user: Arc<str>,
    /// Its number; none for those who are not told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Where to; none for connections that did not come so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// Connections that are being relayed.
    pub open: u32,
    /// Connections that ended, by how.
    pub connections: BTreeMap<&'static str, u64>,
    /// Bytes from the clients, those of open connections too.
    pub bytes_sent: u64,
    /// Bytes to the clients, likewise.
    pub bytes_received: u64,
    /// How long they lasted in all, likewise.
    pub connection_seconds: f64,
}

impl UserSeries {
    fn new(epoch: Instant) -> UserSeries {
        UserSeries { sent: AtomicU64::new(0), received: AtomicU64::new(0), tally: Mutex::default(), epoch }
    }

    /// Adds bytes, as the client sees them.
    pub fn moved(&self, sent: u64, received: u64) {
        self.sent.fetch_add(sent, Relaxed);
        self.received.fetch_add(received, Relaxed);
    }

    /// One more is open, that was accepted at `accepted`.
    pub fn opened(&self, accepted: Instant) {
        let mut tally = held(&self.tally);
        tally.open += 1;
        tally.accepted += self.since_epoch(accepted);
    }

    /// One ended that had been open, and was accepted at `accepted`.
    pub fn closed(&self, outcome: Outcome, accepted: Instant) {
        let mut tally = held(&self.tally);
        tally.open = tally.open.saturating_sub(1);
        let accepted = self.since_epoch(accepted);
        tally.accepted = tally.accepted.saturating_sub(accepted);
        // The time under the lock: one scrape must not see more of it than the next.
        let lasted = self.epoch.elapsed().saturating_sub(accepted);
        tally.end(outcome, lasted);
    }

    /// One ended that never was open.
    pub fn ended(&self, outcome: Outcome, lasted: Duration) {
        held(&self.tally).end(outcome, lasted);
    }

    fn since_epoch(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.epoch)
    }

    /// How many ended, by how; how many are open; how long all lasted by now.
    fn look(&self) -> ([u64; OUTCOMES.len()], u32, Duration) {
        let tally = held(&self.tally);
        let open = self.epoch.elapsed().saturating_mul(tally.open).saturating_sub(tally.accepted);
        (tally.ended, tally.open, tally.lasted + open)
    }
}

impl Tally {
    fn end(&mut self, outcome: Outcome, lasted: Duration) {
        if let Some(place) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.ended[place] += 1;
        }
        self.lasted += lasted;
    }
}

/// Whose count it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Unknown,
    User(u32),
    Other,
}

/// Somebody with a count of his own.
#[derive(Debug)]
struct Person {
    asked: Instant,
    /// What the user databases say, once they have.
    told: Arc<OnceLock<Option<String>>>,
    /// What it is called from the first time that it was shown.
    name: Option<Arc<str>>,
}

/// All users.
#[derive(Debug)]
pub(super) struct Table {
    epoch: Instant,
    name_of: fn(u32) -> Option<String>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    people: BTreeMap<u32, Person>,
    /// By whose they are and their upstream, whose name is empty for those that never had one.
    series: BTreeMap<(Who, Arc<str>), Arc<UserSeries>>,
}

/// A row of the table. `name`: none as long as the user databases may still tell it.
struct Row {
    who: Who,
    name: Option<Arc<str>>,
    upstream: Arc<str>,
    series: Arc<UserSeries>,
}

impl Table {
    /// `name_of`: asks the user databases, and may take long.
    pub(super) fn new(name_of: fn(u32) -> Option<String>) -> Table {
        Table { epoch: Instant::now(), name_of, known: Mutex::default() }
    }

    /// The counters of a user at an upstream; the user is none that could not be told.
    pub(super) fn get(&self, uid: Option<u32>, upstream: Arc<str>) -> Arc<UserSeries> {
        let mut known = held(&self.known);
        let who = match uid {
            None => Who::Unknown,
            Some(uid) if known.people.contains_key(&uid) => Who::User(uid),
            Some(uid) if known.people.len() < AT_MOST => {
                known.people.insert(uid, self.ask(uid));
                Who::User(uid)
            }
            Some(_) => Who::Other,
        };
        if who == Who::Other && !known.series.keys().any(|(other, _)| *other == who) {
            tracing::warn!(
                "more than {AT_MOST} local users were metered: from now on others are counted as one, '{OTHERS}'"
            );
        }
        let make = || Arc::new(UserSeries::new(self.epoch));
        known.series.entry((who, upstream)).or_insert_with(make).clone()
    }

    /// In a thread that nobody waits for, as the databases may be a network away; there are no more of these than users.
    fn ask(&self, uid: u32) -> Person {
        let told = Arc::<OnceLock<_>>::default();
        let (name_of, tell) = (self.name_of, told.clone());
        let look_up = move || {
            tell.get_or_init(|| name_of(uid));
        };
        if thread::Builder::new().name("nuncio-users".into()).spawn(look_up).is_err() {
            told.get_or_init(|| None);
        }
        Person { asked: Instant::now(), told, name: None }
    }

    fn rows(&self) -> Vec<Row> {
        let mut known = held(&self.known);
        let Known { people, series } = &mut *known;
        name(people);
        let row = |((who, upstream), series): (&(Who, Arc<str>), &Arc<UserSeries>)| Row {
            who: *who,
            name: match who {
                Who::Unknown => Some(UNKNOWN.into()),
                Who::Other => Some(OTHERS.into()),
                Who::User(uid) => people.get(uid).and_then(|person| person.name.clone()),
            },
            upstream: upstream.clone(),
            series: series.clone(),
        };
        series.iter().map(row).collect()
    }

    /// What everybody did.
    pub(super) fn views(&self) -> Vec<UserView> {
        let view = |row: Row| {
            let uid = match row.who {
                Who::User(uid) => Some(uid),
                Who::Unknown | Who::Other => None,
            };
            let (ended, open, lasted) = row.series.look();
            UserView {
                user: row.name.unwrap_or_else(|| uid.map_or_else(|| OTHERS.into(), number)),
                uid,
                upstream: Some(row.upstream).filter(|name| !name.is_empty()),
                open,
                connections: OUTCOMES.iter().map(|outcome| outcome.label()).zip(ended).collect(),
                bytes_sent: row.series.sent.load(Relaxed),
                bytes_received: row.series.received.load(Relaxed),
                connection_seconds: lasted.as_secs_f64(),
            }
        };
        self.rows().into_iter().map(view).collect()
    }
}

/// Gives everybody a name whom the databases have told, or could have. A label holds for good, and no two are the same: what
/// they say of one user must not be counted for another.
fn name(people: &mut BTreeMap<u32, Person>) {
    let unnamed: Vec<u32> =
        people.iter().filter(|(_, person)| person.name.is_none()).map(|(uid, _)| *uid).collect();
    for uid in unnamed {
        let is_taken =
            |name: &str| people.values().any(|person| person.name.as_deref().is_some_and(|one| one == name));
        let Some(person) = people.get(&uid) else { continue };
        let name = match person.told.get() {
            Some(told) => told.as_deref().filter(|name| is_name(name) && !is_taken(name)).map(Arc::from),
            None if person.asked.elapsed() < PATIENCE => continue,
            None => None,
        };
        if let Some(person) = people.get_mut(&uid) {
            person.name = Some(name.unwrap_or_else(|| number(uid)));
        }
    }
}

/// Not what could be taken for somebody's number, or for what stands for many.
fn is_name(name: &str) -> bool {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    !is_number && !name.contains(char::is_control) && ![UNKNOWN, OTHERS].contains(&name)
}

fn number(uid: u32) -> Arc<str> {
    uid.to_string().into()
}

/// As [`super::series::Collected`].
#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Table>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let rows: Vec<_> = (self.0.rows().into_iter())
            .filter_map(|row| Some((row.name?, row.upstream, row.series.look(), row.series)))
            .collect();
        // Where nobody is metered, there is nothing to explain either.
        if rows.is_empty() {
            return Ok(());
        }

        let help = "Connections of a local user that ended, by how";
        let mut family =
            encoder.encode_descriptor("nuncio_user_connections", help, None, MetricType::Counter)?;
        for (user, upstream, (ended, _, _), _) in &rows {
            for (outcome, count) in OUTCOMES.iter().zip(ended) {
                let labels = [("user", &**user), ("upstream", &**upstream), ("outcome", outcome.label())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }

        let help = "Connections of a local user that are being relayed";
        let mut family =
            encoder.encode_descriptor("nuncio_user_connections_open", help, None, MetricType::Gauge)?;
        for (user, upstream, (_, open, _), _) in &rows {
            let labels = [("user", &**user), ("upstream", &**upstream)];
            family.encode_family(&labels)?.encode_gauge(&i64::from(*open))?;
        }

        let help = "How long connections of a local user have lasted in all, open ones too";
        let name = "nuncio_user_connection_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (user, upstream, (_, _, lasted), _) in &rows {
            let labels = [("user", &**user), ("upstream", &**upstream)];
            let seconds = lasted.as_secs_f64();
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }

        let help = "Bytes relayed for a local user as it sees them: sent to the upstream, received from it";
        let mut family = encoder.encode_descriptor("nuncio_user_bytes", help, None, MetricType::Counter)?;
        for (user, upstream, _, series) in &rows {
            for (direction, bytes) in [("sent", &series.sent), ("received", &series.received)] {
                let labels = [("user", &**user), ("upstream", &**upstream), ("direction", direction)];
                let bytes = bytes.load(Relaxed);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&bytes, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until the databases have told every name that they were asked for.
    fn told(table: &Table) -> Vec<UserView> {
        while held(&table.known).people.values().any(|person| person.told.get().is_none()) {
            thread::yield_now();
        }
        table.views()
    }

    fn names(table: &Table) -> Vec<String> {
        told(table).iter().map(|view| view.user.to_string()).collect()
    }

    /// A program that changes its user for each connection costs others their place in the table at worst, and no memory.
    #[test]
    fn who_comes_when_the_table_is_full_is_counted_among_the_others() {
        let table = Table::new(|uid| Some(format!("user{uid}")));
        for uid in 0..10_000 {
            table.get(Some(uid), "db".into()).ended(Outcome::Success, Duration::ZERO);
        }
        // Who has a place keeps it.
        table.get(Some(3), "db".into()).ended(Outcome::Failed, Duration::ZERO);
        let views = told(&table);
        assert_eq!(views.len(), AT_MOST + 1);
        let of = |user: &str| views.iter().find(|view| *view.user == *user).unwrap();
        assert_eq!((of("user3").connections["success"], of("user3").connections["failed"]), (1, 1));
        assert_eq!(of(OTHERS).connections["success"], 10_000 - AT_MOST as u64);
        assert_eq!(of(OTHERS).uid, None);
    }

    /// Somebody may be called "other", or have a number for a name; two may have the same one. None is counted for another.
    #[test]
    fn a_name_that_could_be_taken_for_another_user_is_a_number_instead() {
        let table = Table::new(|uid| {
            let name = match uid {
                1 => "other",
                2 => "unknown",
                3 => "4",
                4 => "",
                5 => "a\nb",
                8 | 9 => "twin",
                10 => "DOMAIN\\erp",
                _ => return None,
            };
            Some(name.into())
        });
        for uid in 1..=10 {
            table.get(Some(uid), "db".into());
        }
        table.get(None, "db".into());
        assert_eq!(names(&table), ["unknown", "1", "2", "3", "4", "5", "6", "7", "twin", "9", "DOMAIN\\erp"]);
    }

    /// A dashboard's series must not change its name in the middle: it begins once that is known, with all that was counted.
    #[test]
    fn a_user_is_shown_once_its_name_is_known_and_keeps_it() {
        let table = Table::new(|_| Some("late".into()));
        let silent = |asked| Person { asked, told: Arc::default(), name: None };
        let (now, long_ago) = (Instant::now(), Instant::now().checked_sub(PATIENCE));
        held(&table.known).people.extend([(1, silent(now)), (2, silent(long_ago.unwrap()))]);
        for uid in [1, 2] {
            table.get(Some(uid), "db".into()).moved(1, 2);
        }
        let shown = || table.rows().iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        assert_eq!(shown(), [None, Some("2".into())]);
        for person in held(&table.known).people.values() {
            person.told.set(Some(format!("told{}", Arc::strong_count(&person.told)))).unwrap();
        }
        assert_eq!(shown(), [Some("told1".into()), Some("2".into())]);
    }

    /// Time of open connections is counted while it passes; their end adds nothing that was there already.
    #[test]
    fn time_passes_for_open_connections_and_never_runs_back() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let series = UserSeries::new(ago(30));
        let lasted = || series.look().2;
        let (first, second) = (ago(10), ago(5));
        series.opened(first);
        series.opened(second);
        let before = lasted();
        assert_eq!((before.as_secs(), series.look().1), (15, 2));
        series.closed(Outcome::Success, first);
        let between = lasted();
        assert!(between >= before && between.as_secs() == 15, "{between:?}");
        series.closed(Outcome::Cancelled, second);
        let after = lasted();
        assert!(after >= between && after.as_secs() == 15, "{after:?}");
        assert_eq!(lasted(), after, "none is open");
        series.ended(Outcome::Refused, Duration::from_secs(2));
        let (ended, open, lasted) = series.look();
        assert_eq!((ended, open, lasted.as_secs()), ([1, 0, 1, 1], 0, 17));
    }
}
