//! sessions: which endpoint issued the key of which session, so that a request to cancel a session's work reaches it.
//!
//! Owns the table, bounded, and that a key is forgotten with its connection. A connection keeps its endpoint's whole entry:
//! an endpoint that has left the set still has sessions that may be cancelled.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::EndpointSpec;
use crate::protocol::SessionKey;

/// Keys kept at a time. Every open session has one; beyond this many the newest go unkept.
const MOST: usize = 1 << 20;

/// Where a session is.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// The endpoint.
    pub spec: Arc<EndpointSpec>,
    /// Its name in records and metrics.
    pub label: Arc<str>,
    /// The address that was connected: another one of the endpoint's name may be another server.
    pub address: Option<SocketAddr>,
}

/// The keys of one upstream's open sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    known: Mutex<HashMap<SessionKey, Whereabouts>>,
}

/// One session's place in the table, for as long as its connection is open.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    key: OnceLock<SessionKey>,
}

impl Sessions {
    /// A place for a session whose key is not known yet.
    pub fn open(self: &Arc<Self>) -> Arc<Session> {
        Arc::new(Session { sessions: self.clone(), key: OnceLock::new() })
    }

    /// Who issued this key.
    pub fn find(&self, key: &SessionKey) -> Option<Whereabouts> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Whereabouts>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Its server has told its key. The first one counts.
    pub fn keep(&self, key: SessionKey, at: Whereabouts) {
        let mut known = self.sessions.lock();
        // Two servers may give out the same key (it can be as short as 32 bits): the older session keeps it, because it
        // will also be the one to remove it.
        if known.len() < MOST && !known.contains_key(&key) && self.key.set(key.clone()).is_ok() {
            known.insert(key, at);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.sessions.lock().remove(&key);
        }
    }
}
