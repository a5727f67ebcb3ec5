//! unready: no endpoint of an upstream can be used. Whether that is so, when time alone may change it, and who is told.
//!
//! "Usable" is one fact for all who ask, /readyz among them: some endpoint would take a connection, now or once one of those
//! that it has ends. An open circuit does not; from the moment at which it may be tried it does again, until somebody tries.
//! Endpoints that a panic lets connections through to do not count: that is a gamble. Leaves what clients meet to those who
//! serve them: the queue (`wait`), `connection` (`reset`), the listening sockets (`unlisten`).

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::endpoint::Ready;
use super::set::EndpointSet;
use super::{Core, Upstream};
use crate::failure::Failure;

/// What a client meets while its upstream has no usable endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenUnready {
    /// No, at once and in the client's own words.
    #[default]
    Refuse,
    /// A reset, at once.
    Reset,
    /// Nobody listens.
    Unlisten,
    /// It waits.
    Wait,
}

impl WhenUnready {
    /// The word in the file.
    pub fn label(self) -> &'static str {
        match self {
            WhenUnready::Refuse => "refuse",
            WhenUnready::Reset => "reset",
            WhenUnready::Unlisten => "unlisten",
            WhenUnready::Wait => "wait",
        }
    }
}

/// Whether an upstream has a usable endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has. Only an event can change that.
    Usable,
    /// It has none.
    Unready {
        /// When that may have changed without any event: a circuit's time is over.
        until: Option<Instant>,
    },
}

impl Standing {
    /// Has it one?
    pub fn is_usable(self) -> bool {
        self == Standing::Usable
    }
}

impl EndpointSet {
    /// Whether a connection would find an endpoint at `now`.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.members().any(|member| matches!(member.ready(now), Ready::Yes | Ready::Full)) {
            true => Standing::Usable,
            false => Standing::Unready { until: self.changes_at(now) },
        }
    }

    /// When a circuit changes next by time alone.
    pub(super) fn changes_at(&self, now: Instant) -> Option<Instant> {
        self.members().filter_map(|member| member.breaker.changes_at(now)).min()
    }
}

/// Those who want to hear of an upstream's standing, and what they heard last.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Weak<Notify>>,
    told: Option<Standing>,
}

impl Core {
    /// Those who have to be told that it is another one than before. Without watchers, which is nearly always, nothing is asked.
    pub(super) fn standing_changed(&mut self) -> Vec<Arc<Notify>> {
        let Watchers { all, told } = &mut self.watchers;
        if all.is_empty() {
            return Vec::new();
        }
        let standing = Some(self.set.standing(Instant::now()));
        if std::mem::replace(told, standing) == standing {
            return Vec::new();
        }
        all.retain(|watcher| watcher.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Upstream {
    /// What its clients meet while it has no usable endpoint.
    pub fn when_unready(&self) -> WhenUnready {
        self.lock().set.when_unready()
    }

    /// Whether it has a usable endpoint.
    pub fn standing(&self, now: Instant) -> Standing {
        self.lock().set.standing(now)
    }

    /// Tells `watcher` of each change of its standing from now on, for as long as that lives. Where time alone may change it,
    /// [`Standing`] says when: that is not told.
    pub fn watch_standing(&self, watcher: &Arc<Notify>) {
        let watchers = &mut self.lock().watchers;
        watchers.all.retain(|known| known.strong_count() > 0);
        watchers.all.push(Arc::downgrade(watcher));
        // The next look of anybody tells it anew.
        watchers.told = None;
    }

    /// Why nobody is served at `now`, where who comes waits for that to end.
    pub(super) fn awaited(&self, now: Instant) -> Option<Failure> {
        self.lock().set.awaited(now)
    }
}
