//! ends: how the open connections of an endpoint are told to end: it left the set and their time is over, or its checks took it
//! down. Each endpoint has a drain of its own beneath the process's, so that a connection has one thing to wait for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::EndpointId;
use crate::drain::{Drain, Watch};

/// The drains of one upstream's endpoints.
#[derive(Debug, Default)]
pub(super) struct Ends {
    of: Mutex<HashMap<EndpointId, Drain>>,
}

/// When connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Now.
    Now,
    /// After this time.
    After(Duration),
}

impl Ends {
    /// When connections to this endpoint that begin now have to end; with `process` at the latest.
    pub(super) fn watch(&self, endpoint: EndpointId, process: &Watch) -> Watch {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.entry(endpoint).or_insert_with(|| process.child()).watch()
    }

    /// Those that are open end so. Others that begin after this, should it come back, have nothing to do with it.
    pub(super) fn end(&self, endpoint: EndpointId, ending: Ending) {
        let drain = self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(&endpoint);
        match (drain, ending) {
            (None, _) => {}
            (Some(drain), Ending::Now) => drain.end_now(),
            (Some(drain), Ending::After(limit)) => drain.start_for(limit, 0.0),
        }
    }

    /// Nobody is there any more, nor will be.
    pub(super) fn forget(&self, keep: impl Fn(EndpointId) -> bool) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).retain(|endpoint, _| keep(*endpoint));
    }
}
