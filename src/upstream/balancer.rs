//! Whose turn it is among the endpoints that may take a connection.
//!
//! Owns the four ways to choose. Pure: chance is passed in, and nothing is allocated. Leaves to `set` who may be chosen.

/// How an endpoint is chosen among those that are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less loaded of two chosen at random (by weight).
    #[default]
    LeastConnections,
    /// In turn, smoothly by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// By the client's source, so that it stays with an endpoint (rendezvous hashing, by weight).
    SourceHash,
}

/// What the balancer knows of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The caller's own mark: its place in the set.
    pub index: usize,
    /// Its share, 1 or more.
    pub weight: u32,
    /// Connections open or being established.
    pub open: u32,
    /// What `SourceHash` mixes with the source: of the address, so that every ambassador of a fleet agrees.
    pub key: u64,
    /// Where it stands in the round: `RoundRobin` changes it, the caller keeps it.
    pub turn: i64,
}

impl Candidate {
    /// Fewer connections for its weight? Open ones only, not "open and one more": while nothing is open all are equal,
    /// and the draw, which goes by weight, decides. Otherwise the heaviest would get every connection of a quiet upstream.
    pub fn less_loaded_than(&self, other: &Candidate) -> bool {
        u64::from(self.open) * u64::from(other.weight) < u64::from(other.open) * u64::from(self.weight)
    }
}

/// The place in `candidates` of the one that gets the connection; `None`: there is none. Without a source, `SourceHash`
/// is `Random`.
pub fn choose(
    balance: Balance,
    candidates: &mut [Candidate],
    source: Option<u64>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    if candidates.len() < 2 {
        return candidates.len().checked_sub(1);
    }
    match (balance, source) {
        (Balance::LeastConnections, _) => {
            let (first, second) = draw_two(candidates, rng);
            Some(if candidates[second].less_loaded_than(&candidates[first]) { second } else { first })
        }
        (Balance::RoundRobin, _) => next_in_turn(candidates),
        (Balance::SourceHash, Some(source)) => best_for(candidates, source),
        (Balance::Random | Balance::SourceHash, _) => Some(draw(candidates, None, rng)),
    }
}

/// Two different ones, each by weight.
fn draw_two(candidates: &[Candidate], rng: &mut fastrand::Rng) -> (usize, usize) {
    let first = draw(candidates, None, rng);
    (first, draw(candidates, Some(first), rng))
}

/// One by weight, other than `without`.
fn draw(candidates: &[Candidate], without: Option<usize>, rng: &mut fastrand::Rng) -> usize {
    let share = |place: usize| if Some(place) == without { 0 } else { u64::from(candidates[place].weight) };
    let total: u64 = (0..candidates.len()).map(share).sum();
    let mut left = rng.u64(0..total.max(1));
    for place in 0..candidates.len() {
        match left.checked_sub(share(place)) {
            Some(rest) => left = rest,
            None => return place,
        }
    }
    candidates.len() - 1
}

/// Smooth weighted round robin: everyone gains its weight, the one that stands highest goes and pays the total. Weights
/// 5, 1, 1 give a a b a c a a and not five times a in a row.
fn next_in_turn(candidates: &mut [Candidate]) -> Option<usize> {
    let mut total = 0;
    for candidate in candidates.iter_mut() {
        candidate.turn += i64::from(candidate.weight);
        total += i64::from(candidate.weight);
    }
    let (place, next) =
        candidates.iter_mut().enumerate().rev().max_by_key(|(_, candidate)| candidate.turn)?;
    next.turn -= total;
    Some(place)
}

/// Weighted rendezvous: each draws a lot from its key and the source, the best lot wins. A source moves only when its
/// own endpoint leaves or a better one comes.
fn best_for(candidates: &[Candidate], source: u64) -> Option<usize> {
    let lot = |candidate: &Candidate| {
        // From the upper 53 bits, a number above 0 and below 1; -weight/ln(number) then wins in proportion to weight.
        let number = ((mix(candidate.key ^ mix(source)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(candidate.weight) / number.ln()
    };
    (0..candidates.len()).max_by(|a, b| lot(&candidates[*a]).total_cmp(&lot(&candidates[*b])))
}

/// A hash of text that is the same in every process and release (std's is not promised to be): FNV-1a, then mixed.
pub fn stable_hash(text: &[u8]) -> u64 {
    mix(text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// Every bit of the input moves every bit of the output (the finaliser of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Candidate {
                index,
                weight: *weight,
                open: 0,
                key: stable_hash(format!("10.0.0.{index}:5432").as_bytes()),
                turn: 0,
            })
            .collect()
    }

    /// How often each is chosen in `rounds`, as a share; connections are not kept open.
    fn shares(balance: Balance, weights: &[u32], rounds: u32) -> Vec<f64> {
        let mut candidates = candidates(weights);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0u32; weights.len()];
        for round in 0..rounds {
            let source = Some(mix(u64::from(round)));
            counts[choose(balance, &mut candidates, source, &mut rng).unwrap()] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(rounds)).collect()
    }

    #[test]
    fn every_balance_honours_weights_when_nothing_is_open() {
        for balance in [Balance::RoundRobin, Balance::Random, Balance::SourceHash] {
            let shares = shares(balance, &[5, 3, 2], 20_000);
            for (share, wanted) in shares.iter().zip([0.5, 0.3, 0.2]) {
                assert!((share - wanted).abs() < 0.02, "{balance:?}: {shares:?}");
            }
        }
        assert!((shares(Balance::LeastConnections, &[3, 1], 20_000)[0] - 0.75).abs() < 0.02);
    }

    #[test]
    fn connections_that_stay_open_settle_at_the_weights() {
        let mut candidates = candidates(&[4, 2, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..8000 {
            let place = choose(Balance::LeastConnections, &mut candidates, None, &mut rng).unwrap();
            candidates[place].open += 1;
        }
        for (candidate, wanted) in candidates.iter().zip([4000u32, 2000, 1000, 1000]) {
            assert!(candidate.open.abs_diff(wanted) < wanted / 20, "{candidates:?}");
        }
    }

    #[test]
    fn the_busier_of_two_is_never_chosen() {
        let mut candidates = candidates(&[1, 1]);
        candidates[0].open = 1;
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..1000 {
            assert_eq!(choose(Balance::LeastConnections, &mut candidates, None, &mut rng), Some(1));
        }
    }

    #[test]
    fn round_robin_spreads_a_heavy_endpoint_over_the_round() {
        let mut candidates = candidates(&[5, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(0);
        let order: Vec<_> =
            (0..7).filter_map(|_| choose(Balance::RoundRobin, &mut candidates, None, &mut rng)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_source_stays_with_its_endpoint_when_another_leaves() {
        let mut all = candidates(&[1, 1, 1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(0);
        for source in 0..500 {
            let before = choose(Balance::SourceHash, &mut all, Some(source), &mut rng).unwrap();
            let mut fewer: Vec<_> = all.iter().copied().filter(|candidate| candidate.index != 2).collect();
            let after = choose(Balance::SourceHash, &mut fewer, Some(source), &mut rng).unwrap();
            assert!(before == 2 || fewer[after].index == before);
        }
    }

    #[test]
    fn nobody_is_chosen_from_nothing_and_the_only_one_always() {
        let mut rng = fastrand::Rng::with_seed(0);
        for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::Random, Balance::SourceHash]
        {
            assert_eq!(choose(balance, &mut [], Some(1), &mut rng), None);
            assert_eq!(choose(balance, &mut candidates(&[9]), Some(1), &mut rng), Some(0));
        }
    }
}
