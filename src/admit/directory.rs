//! What the user databases say of a user: asked in a thread, waited for with a limit, remembered for a while.
//!
//! They may be a network away (LDAP, sssd), and their calls have no time limit. A reactor that made them would hold up
//! every connection it relays; tokio's blocking pool would hold up the end of the process until the last one returns. A
//! thread that nobody joins does neither. Leaves to `admit` what an answer, or none, means.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::lock;
use crate::socket::users;

/// A user as the databases have it.
#[derive(Debug)]
pub(super) struct Person {
    /// For a person.
    pub(super) name: String,
    /// All of its groups, where they were asked for.
    pub(super) groups: Vec<u32>,
}

/// Or why it cannot be told.
pub(super) type Answer = Result<Arc<Person>, Arc<str>>;

/// Whom we asked about.
pub(super) struct Directory {
    ask: Arc<dyn Fn(u32) -> Result<Person, String> + Send + Sync>,
    known: Mutex<HashMap<u32, Known>>,
    /// Look-ups that have not come back, of all directories of the process.
    busy: &'static AtomicUsize,
}

/// A look-up, under way or done. All who ask about the same user meanwhile wait for the same one.
#[derive(Clone)]
struct Known {
    asked: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

/// How long a connection waits, counted from when its user was first asked about.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is good for so long. One that has not come by then is asked for again.
const HOLDS_FOR: Duration = Duration::from_secs(10);
/// So long nobody asks again after a failure: each asks a database that is in trouble already.
const FAILURE_HOLDS_FOR: Duration = Duration::from_secs(2);
/// Users remembered.
const AT_MOST: usize = 1024;
/// Threads that may hang in a look-up.
const BUSY: usize = 32;

impl Directory {
    /// The host's own. Groups are looked up only where somebody is judged by them.
    pub(super) fn of_host(with_groups: bool) -> Directory {
        static OF_HOST: AtomicUsize = AtomicUsize::new(0);
        let ask = move |uid| {
            let groups = if with_groups { users::groups_of(uid)? } else { Vec::new() };
            Ok(Person { name: users::describe(uid), groups })
        };
        Directory { ask: Arc::new(ask), known: Mutex::default(), busy: &OF_HOST }
    }

    /// Who it is; an error after [`PATIENCE`] at the latest.
    pub(super) async fn look_up(&self, uid: u32) -> Answer {
        let Known { asked, mut answer } = self.asked(uid);
        let told = tokio::time::timeout_at(asked + PATIENCE, answer.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err("no answer".into())),
            Ok(Err(_)) => Err(format!("the look-up of uid {uid} was given up").into()),
            Err(_) => Err(format!(
                "the user databases did not tell who uid {uid} is within {}",
                humantime::format_duration(PATIENCE)
            )
            .into()),
        }
    }

    /// The look-up of this user: the latest, if it still counts, or one that begins now.
    fn asked(&self, uid: u32) -> Known {
        let now = Instant::now();
        let mut known = lock(&self.known);
        if let Some(latest) = known.get(&uid).filter(|latest| now - latest.asked < latest.holds_for()) {
            return latest.clone();
        }
        if known.len() >= AT_MOST {
            known.clear();
        }
        let latest = Known { asked: now, answer: self.ask(uid) };
        known.insert(uid, latest.clone());
        latest
    }

    fn ask(&self, uid: u32) -> watch::Receiver<Option<Answer>> {
        let (tell, answer) = watch::channel(None);
        let Some(busy) = Busy::enter(self.busy) else {
            let why =
                format!("uid {uid} was not looked up: the user databases have not answered {BUSY} times");
            tell.send_replace(Some(Err(why.into())));
            return answer;
        };
        let (ask, theirs) = (self.ask.clone(), tell.clone());
        let look_up = move || {
            let _busy = busy;
            theirs.send_replace(Some(ask(uid).map(Arc::new).map_err(Arc::from)));
        };
        if let Err(error) = thread::Builder::new().name("nuncio-users".into()).spawn(look_up) {
            tell.send_replace(Some(Err(format!("uid {uid} was not looked up: no thread: {error}").into())));
        }
        answer
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("known", &lock(&self.known).len()).finish_non_exhaustive()
    }
}

impl Known {
    fn holds_for(&self) -> Duration {
        match &*self.answer.borrow() {
            Some(Err(_)) => FAILURE_HOLDS_FOR,
            Some(Ok(_)) | None => HOLDS_FOR,
        }
    }
}

/// A look-up that has not come back.
struct Busy(&'static AtomicUsize);

impl Busy {
    fn enter(count: &'static AtomicUsize) -> Option<Busy> {
        let enter = |busy| (busy < BUSY).then_some(busy + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok().map(|_| Busy(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A directory that answers with `ask`, and has its own count of what hangs.
    pub(in super::super) fn answering(
        ask: impl Fn(u32) -> Result<Person, String> + Send + Sync + 'static,
    ) -> Directory {
        let busy = Box::leak(Box::default());
        Directory { ask: Arc::new(ask), known: Mutex::default(), busy }
    }

    /// One that never answers, until what is returned beside it is dropped.
    pub(in super::super) fn hanging() -> (Directory, mpsc::Sender<()>) {
        let (hold, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let directory = answering(move |_| {
            // An error: let go.
            lock(&held).recv().ok();
            Err("let go".into())
        });
        (directory, hold)
    }

    fn nobody() -> Person {
        Person { name: "nobody".into(), groups: vec![7] }
    }

    #[tokio::test]
    async fn many_who_ask_about_one_user_cost_one_look_up() {
        let (asks, count) = (Arc::new(AtomicUsize::new(0)), |asks: &AtomicUsize| asks.load(Ordering::SeqCst));
        let (asked, (hold, held)) = (asks.clone(), mpsc::channel::<()>());
        let held = Mutex::new(held);
        let directory = Arc::new(answering(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            lock(&held).recv().ok();
            Ok(nobody())
        }));
        let all: Vec<_> = (0..10)
            .map(|_| {
                let directory = directory.clone();
                tokio::spawn(async move { directory.look_up(1).await.unwrap().groups.clone() })
            })
            .collect();
        while count(&asks) == 0 {
            tokio::task::yield_now().await;
        }
        hold.send(()).unwrap();
        for one in all {
            assert_eq!(one.await.unwrap(), [7]);
        }
        assert_eq!(directory.look_up(1).await.unwrap().name, "nobody");
        assert_eq!(count(&asks), 1);
    }

    #[tokio::test]
    async fn a_failure_is_remembered_for_a_moment_and_then_asked_again() {
        let asks = Arc::new(AtomicUsize::new(0));
        let asked = asks.clone();
        let directory = answering(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err("the database is away".into()),
            _ => Ok(nobody()),
        });
        for _ in 0..10 {
            assert_eq!(&*directory.look_up(1).await.unwrap_err(), "the database is away");
        }
        assert_eq!(asks.load(Ordering::SeqCst), 1);
        lock(&directory.known).get_mut(&1).unwrap().asked -= FAILURE_HOLDS_FOR;
        assert_eq!(directory.look_up(1).await.unwrap().name, "nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_hangs_is_waited_for_once_and_takes_a_bounded_number_of_threads() {
        let (directory, hold) = hanging();
        let begun = Instant::now();
        let why = directory.look_up(1).await.unwrap_err();
        assert!(why.contains("did not tell who uid 1 is within 2s"), "{why}");
        assert!(begun.elapsed() >= PATIENCE);
        let again = Instant::now();
        directory.look_up(1).await.unwrap_err();
        assert_eq!(again.elapsed(), Duration::ZERO, "who comes later is told at once");
        for uid in 2..=BUSY as u32 {
            directory.look_up(uid).await.unwrap_err();
        }
        let why = directory.look_up(1000).await.unwrap_err();
        assert!(why.contains("not answered 32 times"), "{why}");
        drop(hold);
        // The clock that stands still would run on while a thread is waited for.
        let nobody_is_busy = || {
            while directory.busy.load(Ordering::SeqCst) > 0 {
                thread::yield_now();
            }
        };
        nobody_is_busy();
        tokio::time::advance(HOLDS_FOR).await;
        directory.asked(1000);
        nobody_is_busy();
        assert_eq!(&*directory.look_up(1000).await.unwrap_err(), "let go");
    }
}
