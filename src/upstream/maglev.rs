//! Maglev hashing: a table that says at once which endpoint a source belongs to, the same in every ambassador of a fleet.
//!
//! The table is of the members, ready or not. A source whose endpoint cannot be had looks at further places of the table:
//! so an endpoint that fails, flaps or is full moves its own sources only, and costs no new table. After Eisenbud et al.,
//! "Maglev: A Fast and Reliable Software Network Load Balancer", 2016, with weights. Pure.

use super::balancer::{Candidate, mix, share_of};
use super::endpoint::EndpointId;

/// Who has which place. Built when the members or their weights change.
#[derive(Debug)]
pub struct Table {
    /// With the weight that each has in full.
    members: Vec<(EndpointId, u32)>,
    /// An index into `members` for each place.
    places: Box<[u16]>,
}

/// Somebody who wants places in a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    /// Its name in the set.
    pub id: EndpointId,
    /// See [`Candidate::key`].
    pub key: u64,
    /// Its share, 1 or more.
    pub weight: u32,
}

impl Table {
    /// Places; a prime, so that every step from any of them comes by all of them. 160 members still have their share to one
    /// part in a hundred each, and the table takes 32 KiB. The same whatever the number of members: another size would move
    /// every source.
    pub const SIZE: u16 = 16381;

    /// How often a source looks before the endpoints that can be had are compared one by one.
    const LOOKS: u64 = 32;

    /// `None`: they are too many, of whom some would have no place.
    pub fn new(mut members: Vec<Member>) -> Option<Table> {
        if members.is_empty() || members.len() > usize::from(Self::SIZE) / 4 {
            return None;
        }
        // Not in the order in which a source of the set named them.
        members.sort_unstable_by_key(|member| (member.key, member.id));
        let size = u64::from(Self::SIZE);
        let heaviest = members.iter().map(|member| u64::from(member.weight)).max().unwrap_or(1).max(1);
        // Each goes through the places in an order of its own: `next` on, always `step` further.
        let mut walks: Vec<(u64, u64, u64)> = members
            .iter()
            .map(|Member { key, .. }| (mix(*key) % size, mix(!*key) % (size - 1) + 1, 0))
            .collect();
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; usize::from(Self::SIZE)].into_boxed_slice();
        let mut left = places.len();
        'full: loop {
            for (index, (next, step, credit)) in (0u16..).zip(&mut walks) {
                // The heaviest takes a place in every round, the others as often as their weight allows.
                *credit += u64::from(members[usize::from(index)].weight);
                if *credit < heaviest {
                    continue;
                }
                *credit -= heaviest;
                while places[*next as usize] != FREE {
                    *next = (*next + *step) % size;
                }
                places[*next as usize] = index;
                left -= 1;
                if left == 0 {
                    break 'full;
                }
            }
        }
        let members = members.into_iter().map(|member| (member.id, member.weight)).collect();
        Some(Table { members, places })
    }

    /// Which of the candidates a source belongs to; they stand in the order of their ids. An endpoint whose weight is
    /// less than in full, for now, has that part of its sources, always the same. `None`: nothing was found in a few looks.
    pub fn find(&self, source: u64, candidates: &[Candidate]) -> Option<usize> {
        (0..Self::LOOKS).find_map(|look| {
            let lot = mix(source.wrapping_add(look.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let index = self.places[(lot % u64::from(Self::SIZE)) as usize];
            let (id, in_full) = self.members[usize::from(index)];
            let place = candidates.binary_search_by_key(&id, |candidate| candidate.id).ok()?;
            let Candidate { weight, key, .. } = candidates[place];
            let ramped_up = share_of(mix(lot ^ key)) * f64::from(in_full) < f64::from(weight);
            ramped_up.then_some(place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::balancer::stable_hash;
    use super::*;

    fn member(n: u64, weight: u32) -> Member {
        Member { id: EndpointId(n), key: stable_hash(format!("10.0.0.{n}:5432").as_bytes()), weight }
    }

    fn candidate(Member { id, key, weight }: Member) -> Candidate {
        Candidate { id, key, weight, ..Candidate::default() }
    }

    fn homes(members: &[Member], sources: u64) -> Vec<u64> {
        let table = Table::new(members.to_vec()).unwrap();
        let candidates: Vec<_> = members.iter().copied().map(candidate).collect();
        let home = |source| candidates[table.find(mix(source), &candidates).unwrap()].id.0;
        (0..sources).map(home).collect()
    }

    /// Each has its share of the sources, by weight.
    #[test]
    fn weights_are_the_shares() {
        let weights = [5, 3, 1, 1];
        let members: Vec<_> = (1..).zip(weights).map(|(n, weight)| member(n, weight)).collect();
        let homes = homes(&members, 50_000);
        for (n, weight) in (1..).zip(weights) {
            let share = homes.iter().filter(|home| **home == n).count() as f64 / 50_000.0;
            assert!((share - f64::from(weight) / 10.0).abs() < 0.01, "{n}: {share}");
        }
    }

    /// One of ten leaves for good: its sources move, and of all others one in fifty at most, wherever the list begins.
    #[test]
    fn when_one_leaves_hardly_any_other_source_moves() {
        let before: Vec<_> = (1..=10).map(|n| member(n, 1)).collect();
        let mut after: Vec<_> = before.iter().copied().filter(|member| member.id.0 != 4).collect();
        let was = homes(&before, 20_000);
        let is = homes(&after, 20_000);
        let stayed = was.iter().zip(&is).filter(|(was, _)| **was != 4);
        let moved = stayed.filter(|(was, is)| was != is).count();
        assert!(moved < 20_000 / 50, "{moved} of 20000 moved though their endpoint stayed");
        after.rotate_left(5);
        after.sort_by_key(|member| member.id);
        assert_eq!(is, homes(&after, 20_000));
    }

    /// One of ten is out for a while: its own sources spread over all others, and no other source moves at all.
    #[test]
    fn when_one_cannot_be_had_only_its_own_sources_move() {
        let members: Vec<_> = (1..=10).map(|n| member(n, 1)).collect();
        let table = Table::new(members.clone()).unwrap();
        let all: Vec<_> = members.iter().copied().map(candidate).collect();
        let rest: Vec<_> = all.iter().copied().filter(|candidate| candidate.id.0 != 4).collect();
        let mut gained = std::collections::BTreeMap::<u64, u32>::new();
        for source in (0..20_000).map(mix) {
            let home = all[table.find(source, &all).unwrap()].id.0;
            let now = rest[table.find(source, &rest).unwrap()].id.0;
            assert!(home == 4 || home == now);
            if home == 4 {
                *gained.entry(now).or_default() += 1;
            }
        }
        assert_eq!(gained.len(), 9, "{gained:?}");
        assert!(gained.values().all(|gained| (150..300).contains(gained)), "{gained:?}");
    }

    /// An endpoint that starts slowly takes its sources one after the other, and none of them leaves it again.
    #[test]
    fn a_weight_that_grows_brings_sources_home_and_sends_none_away() {
        let members: Vec<_> = (1..=4).map(|n| member(n, 1000)).collect();
        let table = Table::new(members.clone()).unwrap();
        let mut candidates: Vec<_> = members.iter().copied().map(candidate).collect();
        let mut at_home: Vec<u64> = Vec::new();
        for weight in [100, 300, 600, 1000] {
            candidates[1].weight = weight;
            let now: Vec<_> =
                (0..10_000).filter(|source| table.find(mix(*source), &candidates) == Some(1)).collect();
            assert!(at_home.iter().all(|source| now.contains(source)), "one left at {weight}");
            let (share, part) = (now.len() as f64 / 10_000.0, f64::from(weight) / 1000.0);
            assert!((share - part / (3.0 + part)).abs() < 0.02, "{share} at {weight}");
            at_home = now;
        }
    }

    #[test]
    fn thousands_have_no_table_and_one_has_all_of_it() {
        assert!(Table::new(Vec::new()).is_none());
        assert!(Table::new((0..10_000).map(|n| member(n, 1)).collect()).is_none());
        assert!(homes(&[member(1, 7)], 100).iter().all(|home| *home == 1));
        let uneven =
            homes(&(1..=4000).map(|n| member(n, if n == 1 { 1000 } else { 1 })).collect::<Vec<_>>(), 1000);
        assert!(uneven.iter().filter(|home| **home == 1).count().abs_diff(200) < 60);
    }
}
