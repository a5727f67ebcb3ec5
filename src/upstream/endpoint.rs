//! One endpoint: membership, health and circuit are three facts, and [`Endpoint::ready`] is their one reader.
//!
//! Owns the health streaks and what is remembered of an endpoint. Leaves the circuit's rules to `breaker` and the choice
//! among endpoints to `set`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::breaker::{self, Breaker, Hold, Pass, State, Transition};
use super::latency::Latency;
use super::{EndpointSpec, balancer};
use crate::addr::EndpointAddr;
use crate::failure::BreakerClass;

/// One endpoint of one set, for as long as it stays in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct EndpointId(pub(super) u64);

/// What active checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet, or not often enough: taken for usable.
    Unknown,
    /// Passes its checks.
    Up,
    /// Failed too many in a row.
    Down,
}

impl Health {
    /// The word in logs and the API.
    pub fn label(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        }
    }
}

/// Whether an endpoint may take a connection, and if not, the first fact that forbids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It may, if only as a trial.
    Yes,
    /// It is no longer a member: what is open may finish.
    Leaving,
    /// Its weight is 0.
    NoWeight,
    /// An operator keeps connections away from it.
    KeptOut,
    /// Active checks hold it down.
    Down,
    /// Its circuit is open, or half-open with every trial taken.
    CircuitOpen,
    /// It has as many connections as it may have: nothing else forbids it.
    Full,
}

/// The last thing that went wrong.
#[derive(Clone, Debug)]
pub(super) struct LastFailure {
    pub(super) at: Instant,
    pub(super) class: BreakerClass,
    pub(super) detail: Box<str>,
}

/// An endpoint and what is known of it.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) id: EndpointId,
    pub(super) spec: Arc<EndpointSpec>,
    pub(super) label: Arc<str>,
    pub(super) leaving: bool,
    /// By an operator: it takes no new connections.
    pub(super) drained: bool,
    pub(super) breaker: Breaker,
    /// Connections open or being established.
    pub(super) open: u32,
    /// As many as it may have.
    pub(super) most: Option<u32>,
    /// It is in the ambassador's own zone.
    pub(super) is_near: bool,
    /// It came, or came back, at this time: its share grows from then on, where the set starts slowly.
    pub(super) warming_since: Option<Instant>,
    /// It could not be used when that was looked at last, and has not come back since.
    is_out: bool,
    pub(super) latency: Latency,
    /// See [`balancer::Candidate`].
    pub(super) key: u64,
    pub(super) turn: i64,
    pub(super) last_failure: Option<LastFailure>,
    pub(super) established_total: u64,
    pub(super) failed_total: u64,
    /// How long the latest one took to be established.
    pub(super) took: Option<Duration>,
    health: Health,
    /// Checks in a row that said other than `health`.
    against: u32,
    check_failure: Option<Box<str>>,
}

impl Endpoint {
    /// What weight 1 is to the balancer, so that a part of it is a number too.
    pub(super) const UNIT: u32 = 1000;

    /// The part of its weight with which an endpoint begins where the set starts slowly: something has to warm it.
    const COLD: f64 = 0.1;

    /// A new member of a set, about which nothing is known.
    pub fn new(
        id: EndpointId,
        spec: EndpointSpec,
        settings: Arc<breaker::Settings>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let label: Arc<str> = spec.address.to_string().into();
        let name = spec.server_name.as_deref().unwrap_or_default();
        Endpoint {
            id,
            key: balancer::stable_hash(format!("{label} {name}").as_bytes()),
            // Not 0: a fleet that starts together would send all its first connections to the first endpoint.
            turn: rng.i64(0..=i64::from(spec.weight) * i64::from(Self::UNIT)),
            spec: Arc::new(spec),
            label,
            leaving: false,
            drained: false,
            breaker: Breaker::new(settings, now),
            open: 0,
            most: None,
            is_near: false,
            warming_since: None,
            is_out: false,
            latency: Latency::default(),
            last_failure: None,
            established_total: 0,
            failed_total: 0,
            took: None,
            health: Health::Unknown,
            against: 0,
            check_failure: None,
        }
    }

    /// May it take a connection at `now`?
    pub fn ready(&self, now: Instant) -> Ready {
        if self.leaving {
            Ready::Leaving
        } else if self.spec.weight == 0 {
            Ready::NoWeight
        } else if self.drained || self.breaker.held() == Some(Hold::Open) {
            Ready::KeptOut
        } else if self.health == Health::Down {
            Ready::Down
        } else if !self.breaker.admits(now) {
            Ready::CircuitOpen
        } else if !self.has_room() {
            Ready::Full
        } else {
            Ready::Yes
        }
    }

    /// Is it below its limit?
    pub(super) fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.open < most)
    }

    /// How many more it may have.
    pub(super) fn room(&self) -> u32 {
        self.most.map_or(u32::MAX, |most| most.saturating_sub(self.open))
    }

    /// May it take connections at `now`, and not only trials, or could it if it had room?
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        matches!(self.ready(now), Ready::Yes | Ready::Full) && self.breaker.state(now) == State::Closed
    }

    /// Is it back, after it was held out by its checks or its circuit? Then it begins anew. A trial is no return.
    pub(super) fn look_whether_back(&mut self, now: Instant) {
        let is_in = match self.ready(now) {
            Ready::Yes | Ready::Full => self.breaker.state(now) == State::Closed,
            Ready::Leaving | Ready::NoWeight => return,
            Ready::KeptOut | Ready::Down | Ready::CircuitOpen => false,
        };
        if is_in && self.is_out {
            self.warming_since = Some(now);
        }
        self.is_out = !is_in;
    }

    /// Its weight at `now`, in the balancer's unit: all of it, or what it has come to if the set starts slowly.
    pub(super) fn weight_at(&self, now: Instant, slow_start: Option<Duration>) -> u32 {
        let in_full = self.weight_in_full();
        let Some((length, since)) = slow_start.zip(self.warming_since) else { return in_full };
        let grown = now.saturating_duration_since(since).as_secs_f64() / length.as_secs_f64();
        (f64::from(in_full) * grown.clamp(Self::COLD, 1.0)) as u32
    }

    /// Its weight in the balancer's unit.
    pub(super) fn weight_in_full(&self) -> u32 {
        self.spec.weight.saturating_mul(Self::UNIT)
    }

    /// Its name in the set's calls.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// As its source describes it.
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// What active checks say.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Its circuit.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Connections open or being established.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// What makes it this endpoint and no other. The share, the tier and the zone may change.
    pub(super) fn identity(&self) -> (EndpointAddr, Option<String>) {
        (self.spec.address.clone(), self.spec.server_name.clone())
    }

    pub(super) fn admit(&mut self, now: Instant) -> Pass {
        self.open += 1;
        self.breaker.admit(now)
    }

    pub(super) fn established(&mut self, pass: &mut Pass, now: Instant, took: Duration) {
        self.established_total += 1;
        self.took = Some(took);
        self.latency.took(now, took);
        self.breaker.established(pass, now);
    }

    pub(super) fn failed(
        &mut self,
        pass: Pass,
        now: Instant,
        class: BreakerClass,
        detail: &str,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        self.open -= 1;
        self.failed_total += 1;
        self.latency.failed(now);
        self.remember(now, class, detail);
        self.breaker.failed(pass, now, class, rng)
    }

    /// It goes on, and has shown what its endpoint is worth.
    pub(super) fn failed_meanwhile(
        &mut self,
        pass: &mut Pass,
        now: Instant,
        class: BreakerClass,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        self.failed_total += 1;
        self.remember(now, class, breaker::in_words(class));
        self.breaker.failed(pass.spend(), now, class, rng)
    }

    pub(super) fn ended_well(&mut self, pass: Pass) -> Option<Transition> {
        self.open -= 1;
        self.breaker.ended_well(pass)
    }

    pub(super) fn released(&mut self, pass: Pass) {
        self.open -= 1;
        self.breaker.released(pass);
    }

    /// Counts one active check. `Some(up)` at a flip: the first pass of an unknown one, then `rise` passes or `fall`
    /// failures in a row against what was held.
    pub(super) fn checked(&mut self, result: Result<(), &str>, rise: u32, fall: u32) -> Option<bool> {
        let passed = result.is_ok();
        self.check_failure = result.err().map(Into::into);
        let agrees = match self.health {
            Health::Unknown | Health::Up => passed,
            Health::Down => !passed,
        };
        if agrees {
            self.against = 0;
            if self.health == Health::Unknown {
                self.health = Health::Up;
                return Some(true);
            }
            return None;
        }
        self.against += 1;
        if self.against < if passed { rise } else { fall }.max(1) {
            return None;
        }
        self.against = 0;
        self.health = if passed { Health::Up } else { Health::Down };
        Some(passed)
    }

    /// As if it had never been checked.
    pub(super) fn forget_health(&mut self) {
        self.health = Health::Unknown;
        self.against = 0;
        self.check_failure = None;
        self.breaker.forget_checks();
    }

    pub(super) fn remember(&mut self, now: Instant, class: BreakerClass, detail: &str) {
        self.last_failure = Some(LastFailure { at: now, class, detail: detail.into() });
    }

    /// Why it takes no connection at `now`, in a few words for a failure's detail.
    pub(super) fn why_not(&self, now: Instant) -> String {
        let label = &self.label;
        match self.ready(now) {
            Ready::Yes => format!("{label}: ready"),
            Ready::Leaving => format!("{label}: no longer in the set"),
            Ready::NoWeight => format!("{label}: its weight is 0"),
            Ready::KeptOut if self.drained => format!("{label}: drained by an operator"),
            Ready::KeptOut => format!("{label}: its circuit is held open by an operator"),
            Ready::Down => {
                let why = self.check_failure.as_deref().unwrap_or("not yet passed often enough since");
                format!("{label}: health check failed: {why}")
            }
            Ready::CircuitOpen => {
                let why = self.breaker.why().unwrap_or_default();
                match (self.breaker.state(now), self.breaker.opens_again(now)) {
                    (State::Open, Some(again)) => {
                        let left = again.saturating_duration_since(now).as_secs_f64();
                        format!("{label}: circuit open after {why}, tries again in {left:.1} s")
                    }
                    (State::Open, None) => {
                        format!("{label}: circuit open after {why}, until a health check passes")
                    }
                    _ => format!("{label}: circuit open after {why}, a connection is trying it now"),
                }
            }
            Ready::Full => format!("{label}: at its limit of {} connections", self.open),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> (Endpoint, Instant, fastrand::Rng) {
        let mut rng = fastrand::Rng::with_seed(1);
        let now = Instant::now();
        let spec = EndpointSpec::new("db1:5432".parse().unwrap());
        (Endpoint::new(EndpointId(1), spec, Arc::default(), now, &mut rng), now, rng)
    }

    #[test]
    fn an_endpoint_that_was_never_checked_is_usable() {
        let (endpoint, now, _) = endpoint();
        assert_eq!((endpoint.health(), endpoint.ready(now)), (Health::Unknown, Ready::Yes));
    }

    #[test]
    fn health_flips_after_a_streak_and_is_told_only_then() {
        let (mut endpoint, now, _) = endpoint();
        let checks = [
            (true, Some(true)),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
        ];
        for (n, (passed, flip)) in checks.into_iter().enumerate() {
            let result = if passed { Ok(()) } else { Err("no answer") };
            assert_eq!(endpoint.checked(result, 2, 3), flip, "check {n}");
            assert_eq!(endpoint.ready(now) == Ready::Down, (6..11).contains(&n), "check {n}");
        }
    }

    #[test]
    fn each_reason_not_to_be_ready_is_told_in_words() {
        let (mut endpoint, now, mut rng) = endpoint();
        for _ in 0..5 {
            let pass = endpoint.admit(now);
            endpoint.failed(pass, now, BreakerClass::Refused, "refused", &mut rng);
        }
        assert_eq!(endpoint.ready(now), Ready::CircuitOpen);
        let why = endpoint.why_not(now);
        assert!(
            why.starts_with("db1:5432: circuit open after 5 × connection refused, tries again in "),
            "{why}"
        );
        for _ in 0..3 {
            endpoint.checked(Err("the certificate has expired"), 2, 3);
        }
        assert_eq!(endpoint.why_not(now), "db1:5432: health check failed: the certificate has expired");
    }
}
