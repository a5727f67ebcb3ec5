//! Whether a canary is worse than the stable one, in words. Leaves to `tally` what is a difference.

use std::time::Duration;

use super::Rollout;
use super::tally::{Rate, Tally, Timed, is_worse};

impl Rollout {
    /// In how far more of the canary's connections fail than may; `None`: that cannot be said.
    pub(super) fn fails_more(&self) -> Option<String> {
        let allowed = self.settings.progressive.as_ref()?.failures;
        let (canary, now) = (self.canary.failures(), self.stable.failures());
        let stable = now.and(self.before.failures());
        // Where all begin to fail at once, the steps before say nothing.
        let usual = stable.with_credit(self.canary_has_all());
        if canary.share() <= now.share() + allowed || !is_worse(canary, usual, allowed) {
            return None;
        }
        let Rate { bad, of } = canary;
        let left = match (self.canary.given_up, self.bound(Timed::Establish)) {
            (1.., Some(bound)) => format!(
                "; {} of them were given up by clients that had waited longer than {:.1} ms",
                self.canary.given_up,
                ms(bound)
            ),
            _ => String::new(),
        };
        Some(format!(
            "{bad} of {of} connections failed ({:.1} %), where the stable one's {:.1} % and {:.1} % more are allowed{left}",
            canary.share() * 100.0,
            stable.share() * 100.0,
            allowed * 100.0
        ))
    }

    /// The stable one's times: of this step, or else of the one before; `None`: it was not measured often enough.
    fn usual(&self, what: Timed) -> Option<&Tally> {
        [&self.stable, &self.before].into_iter().find(|tally| tally.knows(what))
    }

    /// What the canary's p99 may be.
    pub(super) fn bound(&self, what: Timed) -> Option<Duration> {
        let slower = self.settings.progressive.as_ref()?.slower;
        Some(self.usual(what)?.bound(what, slower))
    }

    /// In how far the canary is slower than it may be.
    pub(super) fn is_slower(&self) -> Option<String> {
        Timed::ALL.into_iter().find_map(|what| {
            let (usual, bound) = (self.usual(what)?, self.bound(what)?);
            self.canary.is_slower(what, bound, usual).then(|| {
                format!(
                    "its p99 {} is {:.1} ms, where the stable one's is {:.1} ms and at most {:.1} ms are allowed",
                    what.in_words(),
                    ms(self.canary.p99(what)),
                    ms(usual.p99(what)),
                    ms(bound)
                )
            })
        })
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
