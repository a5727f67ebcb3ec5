//! What the source of an upstream's set says: taken into the set, and waited for where it has not said anything yet.
//!
//! Leaves to `set` what it means for the members, to `freshness` how old it is, and to `discovery` the source itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::freshness::Freshness;
use super::{Core, EndpointSpec, Upstream};
use crate::failure::Failure;

impl Upstream {
    /// What the source of the set says. What went wrong leaves the members as they are.
    pub fn learn(&self, answer: Result<Vec<EndpointSpec>, Failure>, now: Instant) {
        let news = {
            let mut core = self.lock();
            core.freshness
                .get_or_insert_default()
                .learn(answer.as_ref().err().map(|failure| &*failure.detail), now)
        };
        if let Some(failing) = news {
            self.observer.source(&self.name, failing.as_deref());
        }
        match answer {
            Ok(specs) => self.update(specs, now),
            Err(_) => drop(self.heard.send_replace(true)),
        }
    }

    /// Another source begins: how the one before did counts no more. `keeps`: it names the same endpoints, so those that are
    /// known stay until it has answered. Otherwise the configuration names none of them any more: they take no new connections
    /// unless the new source names them too, and until its first word nobody is known, as at the start.
    pub fn forget_source(&self, keeps: bool) {
        if !keeps {
            self.heard.send_replace(false);
            self.change(|core| core.set.forget_members());
            self.updates.fetch_add(1, Ordering::Release);
        }
        if self.lock().freshness.take().is_some_and(|freshness| freshness.error().is_some()) {
            self.observer.source(&self.name, None);
        }
    }

    /// Nothing is said where it does not come in time: that nobody is known is said by who asks for an endpoint then.
    pub(super) async fn first_word(&self, queued: Duration, limit: Duration) {
        let mut heard = self.heard.subscribe();
        let word = async {
            // It cannot fail: the sender is ours.
            heard.wait_for(|heard| *heard).await.ok();
        };
        self.queue.meanwhile(queued, limit, word).await;
    }
}

impl Core {
    /// Why nobody is served, where nobody is known because of the source: what it says.
    pub(super) fn with_what_the_source_says(&self, failure: Failure) -> Failure {
        match self.freshness.as_ref().and_then(Freshness::error) {
            Some(error) if !self.set.is_known() => {
                let detail = format!("the upstream's endpoints are not known yet: {error}").into();
                Failure { detail, ..failure }
            }
            Some(_) | None => failure,
        }
    }
}
