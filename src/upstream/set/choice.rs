//! Who gets a connection: the tiers counted, a tier, its zone, and then whoever the balancer chooses.
//!
//! Owns the rules of a pick that [`super`] states. Leaves what is known of each endpoint to `endpoint`, and the choice among
//! equals to `balancer`.

use std::sync::Arc;
use std::time::Instant;

use super::{Attempt, EndpointSet, Event, Picked, Unpicked, WhenUnready};
use crate::addr::EndpointAddr;
use crate::failure::{Failure, Reason, Side, Stage};
use crate::upstream::balancer::{self, Balance, Candidate, Terms, mix, share_of};
use crate::upstream::endpoint::{Endpoint, EndpointId, Ready};
use crate::upstream::maglev::{Member, Table};

/// Endpoints with the same priority. What is counted of them is true at the time of the last census.
#[derive(Debug, Default)]
pub(super) struct Tier {
    number: u16,
    /// In how many zones its members are.
    zones: usize,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    /// With a weight above 0, and not leaving, as all that follow.
    members: usize,
    weight: u64,
    /// Out by their circuits.
    out: usize,
    /// Ready, whether or not at their limit.
    alive: usize,
    alive_weight: u64,
    /// Of that, in the own zone.
    near_weight: u64,
    /// Ready ones that the connection has not tried.
    untried: usize,
}

impl Tier {
    /// How many are out beyond the cap.
    fn excess(&self, max_ejected: f64) -> usize {
        let cap = (self.counts.members as f64 * max_ejected).ceil() as usize;
        self.counts.out.saturating_sub(cap.max(1))
    }

    /// The share of the connections that it keeps, where others come after it.
    fn keeps(&self, spill_over: Option<f64>) -> f64 {
        match spill_over {
            Some(share) => self.counts.alive_weight as f64 / self.counts.weight.max(1) as f64 / share,
            None => 1.0,
        }
    }

    /// The share of its connections that the own zone keeps.
    fn keeps_near(&self) -> f64 {
        self.counts.near_weight as f64 * self.zones as f64 / self.counts.alive_weight.max(1) as f64
    }
}

/// Tables for `maglev`, made when they are first looked at: one for a tier, or for the own zone of a tier and what is left.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<((u16, bool), Option<Table>)>);

/// What a connection brings.
#[derive(Clone, Copy)]
struct Asking<'a> {
    now: Instant,
    source: Option<u64>,
    tried: &'a [EndpointId],
}

impl EndpointSet {
    /// One in so many first attempts goes to an endpoint let through, while others are ready.
    const PANIC_SHARE: u32 = 10;

    /// The endpoint for a connection that has tried `tried` before; `source` for the balance that goes by it.
    pub fn pick(
        &mut self,
        now: Instant,
        source: Option<u64>,
        tried: &[EndpointId],
        rng: &mut fastrand::Rng,
    ) -> Result<Picked, Unpicked> {
        let through = self.census(now, tried);
        let anyone_alive = self.tiers.iter().any(|tier| tier.counts.alive > 0);
        let in_panic = !through.is_empty()
            && (!anyone_alive || (tried.is_empty() && rng.u32(0..Self::PANIC_SHARE) == 0));
        let asking = Asking { now, source, tried };

        self.scratch.clear();
        if in_panic {
            self.gather_let_through(asking, &through);
        }
        if self.scratch.is_empty() && anyone_alive {
            self.gather_ready(asking, rng);
        }
        let Some(chosen) = self.balanced(asking, rng) else {
            return Err(match anyone_alive || in_panic {
                true => Unpicked::Full,
                false if self.settings.when_unready == WhenUnready::Wait => {
                    Unpicked::NotYet(self.nobody(now))
                }
                false => Unpicked::Nobody(self.nobody(now)),
            });
        };
        let endpoint = &mut self.endpoints[chosen];
        Ok(Picked {
            attempt: Attempt { endpoint: endpoint.id, pass: endpoint.admit(now) },
            spec: endpoint.spec.clone(),
            label: endpoint.label.clone(),
        })
    }

    /// This endpoint and no other, for a connection whose client named it. Who is not ready is not picked for that either:
    /// a circuit that is open protects the server from everybody.
    pub fn pick_only(&mut self, address: &EndpointAddr, now: Instant) -> Result<Picked, Unpicked> {
        self.census(now, &[]);
        let asked = |endpoint: &&mut Endpoint| !endpoint.leaving && endpoint.spec.address == *address;
        let Some(endpoint) = self.endpoints.iter_mut().find(asked) else {
            if !self.known {
                return Err(Unpicked::Nobody(self.nobody(now)));
            }
            let detail =
                format!("the client asks for the endpoint {address}, which the upstream has not got");
            let failure = Failure::new(Stage::Route, Reason::DestinationNotFound, Side::Client, detail);
            return Err(Unpicked::Nobody(
                failure.mend("ask for one of those in /api/v1/upstreams, spelt as there"),
            ));
        };
        let reason = match endpoint.ready(now) {
            Ready::Yes => {
                return Ok(Picked {
                    attempt: Attempt { endpoint: endpoint.id, pass: endpoint.admit(now) },
                    spec: endpoint.spec.clone(),
                    label: endpoint.label.clone(),
                });
            }
            Ready::Full => return Err(Unpicked::Full),
            Ready::CircuitOpen => Reason::CircuitOpen,
            Ready::Leaving | Ready::NoWeight | Ready::KeptOut | Ready::Down => Reason::DestinationUnavailable,
        };
        Err(Unpicked::Nobody(Failure::upstream(Stage::Route, reason, endpoint.why_not(now))))
    }

    /// Counts the tiers at `now`, for a connection that has tried `tried`, and tells when a panic begins or ends. Returns the
    /// places of those let through their open circuits, in order.
    pub(in crate::upstream) fn census(&mut self, now: Instant, tried: &[EndpointId]) -> Vec<usize> {
        for tier in &mut self.tiers {
            tier.counts = Counts::default();
        }
        for place in 0..self.endpoints.len() {
            self.advance(place, now);
            let endpoint = &self.endpoints[place];
            let ready = endpoint.ready(now);
            if matches!(ready, Ready::Leaving | Ready::NoWeight) {
                continue;
            }
            let Ok(tier) = self.tiers.binary_search_by_key(&endpoint.spec.tier, |tier| tier.number) else {
                continue;
            };
            let counts = &mut self.tiers[tier].counts;
            let weight = u64::from(endpoint.spec.weight);
            counts.members += 1;
            counts.weight += weight;
            counts.out += usize::from(ready == Ready::CircuitOpen);
            if matches!(ready, Ready::Yes | Ready::Full) {
                counts.alive += 1;
                counts.alive_weight += weight;
                counts.near_weight += if endpoint.is_near { weight } else { 0 };
                counts.untried += usize::from(!tried.contains(&endpoint.id));
            }
        }
        let through = self.let_through(now);
        if self.panicking == through.is_empty() {
            self.panicking = !through.is_empty();
            self.events.push(Event::Panic(self.panicking));
        }
        through
    }

    /// The places of those let through their open circuits. Only the tier that would serve panics, or with nobody ready each:
    /// backups that work are better than primaries that do not.
    fn let_through(&self, now: Instant) -> Vec<usize> {
        let share = self.settings.breaker.max_ejected;
        let serving = self.tiers.iter().position(|tier| tier.counts.alive > 0);
        if serving.is_none() && self.settings.when_unready == WhenUnready::Wait {
            return Vec::new();
        }
        let mut through = Vec::new();
        for (place, tier) in self.tiers.iter().enumerate() {
            if serving.is_none_or(|serving| serving == place) {
                through.extend(self.least_bad(tier.number, tier.excess(share), now));
            }
        }
        through.sort_unstable();
        through
    }

    /// The places of the `count` least bad of a tier's endpoints whose circuit is open.
    fn least_bad(&self, tier: u16, count: usize, now: Instant) -> Vec<usize> {
        if count == 0 {
            return Vec::new();
        }
        let out = |place: &usize| {
            let endpoint = &self.endpoints[*place];
            endpoint.spec.tier == tier && endpoint.ready(now) == Ready::CircuitOpen
        };
        let mut places: Vec<_> = (0..self.endpoints.len()).filter(out).collect();
        places.sort_by_key(|place| {
            let breaker = &self.endpoints[*place].breaker;
            (breaker.failed_trials(), breaker.opens_again(now))
        });
        places.truncate(count);
        places
    }

    /// Of those let through, those that the connection should try first.
    fn gather_let_through(&mut self, asking: Asking<'_>, through: &[usize]) {
        let rank = |endpoint: &Endpoint| (asking.tried.contains(&endpoint.id), endpoint.spec.tier);
        let with_room =
            through.iter().map(|place| &self.endpoints[*place]).filter(|endpoint| endpoint.has_room());
        let Some(best) = with_room.map(rank).min() else { return };
        self.gather(asking.now, |place, endpoint| {
            through.binary_search(&place).is_ok() && endpoint.has_room() && rank(endpoint) == best
        });
    }

    /// Of those that are ready, those among whom the balance decides. Nobody: all that serve are at their limits.
    fn gather_ready(&mut self, asking: Asking<'_>, rng: &mut fastrand::Rng) {
        let Asking { now, tried, .. } = asking;
        let any_untried = self.tiers.iter().any(|tier| tier.counts.untried > 0);
        let (chosen, last) = self.draw_tier(asking, any_untried, rng);
        self.gather(now, |_, endpoint| {
            let wanted = endpoint.spec.tier == chosen && !(any_untried && tried.contains(&endpoint.id));
            wanted && endpoint.ready(now) == Ready::Yes
        });
        if self.scratch.is_empty() {
            // Rather than wait: another tier that serves, or one that it has tried.
            let ready =
                |endpoint: &&Endpoint| endpoint.spec.tier <= last && endpoint.ready(now) == Ready::Yes;
            let Some(lowest) = self.endpoints.iter().filter(ready).map(|endpoint| endpoint.spec.tier).min()
            else {
                return;
            };
            self.gather(now, |_, endpoint| endpoint.spec.tier == lowest && ready(&endpoint));
        }
        self.keep_one_zone(asking, rng);
    }

    /// The tier that a connection goes to, and the last that serves: with it, or before it, one has to come free.
    fn draw_tier(&self, asking: Asking<'_>, any_untried: bool, rng: &mut fastrand::Rng) -> (u16, u16) {
        let spill_over = self.settings.spill_over;
        let keeps_all = |tier: &&Tier| tier.keeps(spill_over) >= 1.0;
        let alive = || self.tiers.iter().filter(|tier| tier.counts.alive > 0);
        let serves = alive().find(keeps_all).or_else(|| alive().next_back()).map_or(0, |tier| tier.number);
        let mut wanted = alive().filter(|tier| !any_untried || tier.counts.untried > 0).peekable();
        while let Some(tier) = wanted.next() {
            let keeps = tier.keeps(spill_over);
            if wanted.peek().is_none() || keeps >= 1.0 || self.lot(asking, tier.number, rng) < keeps {
                return (tier.number, serves.max(tier.number));
            }
        }
        (serves, serves)
    }

    /// Of candidates in the own zone and in others, either.
    fn keep_one_zone(&mut self, asking: Asking<'_>, rng: &mut fastrand::Rng) {
        let is_near = |candidate: &Candidate| self.endpoints[candidate.index].is_near;
        let near = self.scratch.iter().filter(|candidate| is_near(candidate)).count();
        if near == 0 || near == self.scratch.len() {
            return;
        }
        let number = self.endpoints[self.scratch[0].index].spec.tier;
        let Some(tier) = self.tiers.iter().find(|tier| tier.number == number) else { return };
        let keeps = tier.keeps_near();
        let stays = keeps >= 1.0 || self.lot(asking, !number, rng) < keeps;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.retain(|candidate| is_near(candidate) == stays);
        self.scratch = scratch;
    }

    /// A number from 0 to 1, by chance or by the source, which then draws the same for as long as it comes.
    fn lot(&self, asking: Asking<'_>, about: u16, rng: &mut fastrand::Rng) -> f64 {
        match asking.source.filter(|_| self.settings.balance.goes_by_source()) {
            Some(source) => share_of(mix(mix(source) ^ (u64::from(about) + 1).rotate_right(16))),
            None => rng.f64(),
        }
    }

    fn gather(&mut self, now: Instant, wanted: impl Fn(usize, &Endpoint) -> bool) {
        let slow_start = self.settings.slow_start;
        let endpoints = self.endpoints.iter().enumerate();
        self.scratch.extend(endpoints.filter(|(index, endpoint)| wanted(*index, endpoint)).map(
            |(index, endpoint)| {
                let Endpoint { id, open, key, turn, latency, .. } = *endpoint;
                let weight = endpoint.weight_at(now, slow_start);
                Candidate { id, index, weight, open, latency, key, turn }
            },
        ));
    }

    /// The place of the candidate whose turn it is.
    fn balanced(&mut self, Asking { now, source, .. }: Asking<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let balance = self.settings.balance;
        let pool = match balance {
            Balance::Maglev if source.is_some() => self.pool(),
            _ => None,
        };
        let table = pool.and_then(|pool| self.tables.of(pool, &self.endpoints));
        let chosen = balancer::choose(balance, &mut self.scratch, Terms { now, source, table }, rng)
            .map(|place| self.scratch[place].index);
        for candidate in &self.scratch {
            self.endpoints[candidate.index].turn = candidate.turn;
        }
        chosen
    }

    /// The tier, and the side of it, that all candidates belong to.
    fn pool(&self) -> Option<(u16, bool)> {
        let mut pools = self.scratch.iter().map(|candidate| pool_of(&self.endpoints[candidate.index]));
        let pool = pools.next()?;
        pools.all(|other| other == pool).then_some(pool)
    }

    /// Somebody came or left, or is described otherwise.
    pub(super) fn members_changed(&mut self) {
        let Self { settings, endpoints, tiers, tables, .. } = self;
        tables.0.clear();
        let mut seen: Vec<(u16, Option<Arc<str>>)> = Vec::new();
        for endpoint in endpoints.iter_mut() {
            endpoint.most = settings.limits.connections_per_endpoint;
            endpoint.is_near = settings.zone.as_deref().is_some_and(|zone| endpoint.spec.is_for(zone));
            if !endpoint.leaving && endpoint.spec.weight > 0 {
                match &*endpoint.spec.for_zones {
                    [] => seen.push((endpoint.spec.tier, endpoint.spec.zone.clone())),
                    zones => seen.extend(zones.iter().map(|zone| (endpoint.spec.tier, Some(zone.clone())))),
                }
            }
        }
        seen.sort_unstable();
        seen.dedup();
        tiers.clear();
        for of_tier in seen.chunk_by(|a, b| a.0 == b.0) {
            let [(number, _), ..] = of_tier else { continue };
            tiers.push(Tier { number: *number, zones: of_tier.len(), counts: Counts::default() });
        }
    }
}

fn pool_of(endpoint: &Endpoint) -> (u16, bool) {
    (endpoint.spec.tier, endpoint.is_near)
}

impl Tables {
    fn of(&mut self, pool: (u16, bool), endpoints: &[Endpoint]) -> Option<&Table> {
        let known = self.0.iter().position(|(of, _)| *of == pool);
        let place = known.unwrap_or_else(|| {
            let members = endpoints
                .iter()
                .filter(|endpoint| !endpoint.leaving && endpoint.spec.weight > 0 && pool_of(endpoint) == pool)
                .map(|endpoint| Member {
                    id: endpoint.id,
                    key: endpoint.key,
                    weight: endpoint.weight_in_full(),
                });
            self.0.push((pool, Table::new(members.collect())));
            self.0.len() - 1
        });
        self.0[place].1.as_ref()
    }
}
