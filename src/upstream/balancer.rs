//! Whose turn it is among the endpoints that may take a connection.
//!
//! Owns the ways to choose. Pure: time and chance are passed in, and nothing is allocated. Leaves to `set` who may be
//! chosen, to `latency` what is remembered of an endpoint's speed, and to `maglev` its table.

use std::time::Instant;

use super::endpoint::EndpointId;
use super::latency::Latency;
use super::maglev;

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
    /// The quicker of two chosen at random (by weight): time to be established, times open connections.
    PeakEwma,
    /// By the client's source and a table (Maglev hashing, by weight): as `SourceHash`, at the same cost however many there
    /// are.
    Maglev,
}

impl Balance {
    /// Does a source stay with its endpoint?
    pub fn goes_by_source(self) -> bool {
        match self {
            Balance::SourceHash | Balance::Maglev => true,
            Balance::LeastConnections | Balance::RoundRobin | Balance::Random | Balance::PeakEwma => false,
        }
    }
}

/// What the balancer knows of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidate {
    /// Its name in the set. Candidates stand in the order of their ids.
    pub id: EndpointId,
    /// The caller's own mark: its place in the set.
    pub index: usize,
    /// Its share, 1 or more, in whatever unit all of them have.
    pub weight: u32,
    /// Connections open or being established.
    pub open: u32,
    /// How long it takes to be established.
    pub latency: Latency,
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

    /// How long a connection is likely to take, with those before it: as long as it took lately, and that again for each one
    /// open. Those are set against its weight, `usual` being the others' average: while nothing is open, what differs is
    /// the time alone, and the draw goes by weight.
    fn cost(&self, usual: f64, now: Instant) -> f64 {
        let ahead = f64::from(self.open) * usual / f64::from(self.weight);
        match self.latency.at(now) {
            Some(seconds) => seconds * (1.0 + ahead),
            None if self.open == 0 => 0.0,
            None => Latency::UNKNOWN * (1.0 + ahead),
        }
    }
}

/// What there is to go by, beside the candidates.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The time.
    pub now: Instant,
    /// The client's source, where it has one.
    pub source: Option<u64>,
    /// For `Maglev`: the table of those among whom the candidates are.
    pub table: Option<&'a maglev::Table>,
}

/// By so much the other of two has to be quicker to be preferred: less is noise, for which no weight is given up.
const NOISE: f64 = 1.25;

/// The place in `candidates` of the one that gets the connection; `None`: there is none. Without a source, `SourceHash` and
/// `Maglev` are `Random`.
pub fn choose(
    balance: Balance,
    candidates: &mut [Candidate],
    Terms { now, source, table }: Terms<'_>,
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
        (Balance::PeakEwma, _) => {
            let (first, second) = draw_two(candidates, rng);
            let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
            let usual = total / candidates.len() as f64;
            let cost = |place: usize| candidates[place].cost(usual, now);
            Some(if cost(second) * NOISE < cost(first) { second } else { first })
        }
        (Balance::SourceHash, Some(source)) => best_for(candidates, source),
        // Where the table finds nobody, hardly anybody can be had.
        (Balance::Maglev, Some(source)) => {
            table.and_then(|table| table.find(source, candidates)).or_else(|| best_for(candidates, source))
        }
        (Balance::Random | Balance::SourceHash | Balance::Maglev, _) => Some(draw(candidates, None, rng)),
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
        let number = share_of(mix(candidate.key ^ mix(source))) + 0.5 / (1u64 << 53) as f64;
        -f64::from(candidate.weight) / number.ln()
    };
    // Each lot is drawn once: a logarithm is most of what a candidate costs.
    let lots = candidates.iter().map(lot).enumerate();
    lots.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(place, _)| place)
}

/// A hash of text that is the same in every process and release (std's is not promised to be): FNV-1a, then mixed.
pub fn stable_hash(text: &[u8]) -> u64 {
    mix(text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// Every bit of the input moves every bit of the output (the finaliser of SplitMix64).
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A hash as a share of a whole: 0 or more, below 1.
pub(super) fn share_of(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALL: [Balance; 6] = [
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::Random,
        Balance::SourceHash,
        Balance::PeakEwma,
        Balance::Maglev,
    ];

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Candidate {
                id: EndpointId(index as u64),
                index,
                weight: *weight,
                key: stable_hash(format!("10.0.0.{index}:5432").as_bytes()),
                ..Candidate::default()
            })
            .collect()
    }

    fn by(source: Option<u64>) -> Terms<'static> {
        Terms { now: Instant::now(), source, table: None }
    }

    /// How often each is chosen in `rounds`, as a share; connections are not kept open.
    fn shares(balance: Balance, weights: &[u32], rounds: u32) -> Vec<f64> {
        let mut candidates = candidates(weights);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0u32; weights.len()];
        for round in 0..rounds {
            let source = Some(mix(u64::from(round)));
            counts[choose(balance, &mut candidates, by(source), &mut rng).unwrap()] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / f64::from(rounds)).collect()
    }

    #[test]
    fn every_balance_honours_weights_when_nothing_is_open() {
        // Maglev without its table compares as SourceHash does.
        for balance in [Balance::RoundRobin, Balance::Random, Balance::SourceHash, Balance::Maglev] {
            let shares = shares(balance, &[5, 3, 2], 20_000);
            for (share, wanted) in shares.iter().zip([0.5, 0.3, 0.2]) {
                assert!((share - wanted).abs() < 0.02, "{balance:?}: {shares:?}");
            }
        }
        for balance in [Balance::LeastConnections, Balance::PeakEwma] {
            assert!((shares(balance, &[3, 1], 20_000)[0] - 0.75).abs() < 0.02, "{balance:?}");
        }
    }

    #[test]
    fn connections_that_stay_open_settle_at_the_weights() {
        for (balance, slack) in [(Balance::LeastConnections, 20), (Balance::PeakEwma, 8)] {
            let mut candidates = candidates(&[4, 2, 1, 1]);
            let mut rng = fastrand::Rng::with_seed(3);
            let terms = by(None);
            for candidate in &mut candidates {
                candidate.latency.took(terms.now, Duration::from_millis(5));
            }
            for _ in 0..8000 {
                let place = choose(balance, &mut candidates, terms, &mut rng).unwrap();
                candidates[place].open += 1;
            }
            for (candidate, wanted) in candidates.iter().zip([4000u32, 2000, 1000, 1000]) {
                assert!(candidate.open.abs_diff(wanted) < wanted / slack, "{balance:?}: {candidates:?}");
            }
        }
    }

    /// Ten times as slow as the others: it gets next to nothing, until its peak has faded; then it is tried again.
    #[test]
    fn a_slow_endpoint_is_left_alone_for_a_while() {
        let mut candidates = candidates(&[1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(5);
        let mut terms = by(None);
        for (candidate, ms) in candidates.iter_mut().zip([2, 2, 20]) {
            candidate.latency.took(terms.now, Duration::from_millis(ms));
        }
        let mut picks = |candidates: &mut [Candidate], now| {
            terms.now = now;
            (0..300).filter(|_| choose(Balance::PeakEwma, candidates, terms, &mut rng) == Some(2)).count()
        };
        let start = Instant::now();
        assert_eq!(picks(&mut candidates, start), 0);
        let later = start + 3 * Latency::DECAY;
        for candidate in &mut candidates[..2] {
            candidate.latency.took(later, Duration::from_millis(2));
        }
        assert!(picks(&mut candidates, later) > 50);
    }

    #[test]
    fn who_was_never_tried_is_tried_by_one_and_not_by_all_at_once() {
        let mut candidates = candidates(&[1, 1]);
        let mut rng = fastrand::Rng::with_seed(5);
        let terms = by(None);
        candidates[0].latency.took(terms.now, Duration::from_millis(2));
        for _ in 0..100 {
            assert_eq!(choose(Balance::PeakEwma, &mut candidates, terms, &mut rng), Some(1));
        }
        candidates[1].open = 1;
        for _ in 0..100 {
            assert_eq!(choose(Balance::PeakEwma, &mut candidates, terms, &mut rng), Some(0));
        }
    }

    #[test]
    fn the_busier_of_two_is_never_chosen() {
        let mut candidates = candidates(&[1, 1]);
        candidates[0].open = 1;
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..1000 {
            assert_eq!(choose(Balance::LeastConnections, &mut candidates, by(None), &mut rng), Some(1));
        }
    }

    #[test]
    fn round_robin_spreads_a_heavy_endpoint_over_the_round() {
        let mut candidates = candidates(&[5, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(0);
        let order: Vec<_> =
            (0..7).filter_map(|_| choose(Balance::RoundRobin, &mut candidates, by(None), &mut rng)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_source_stays_with_its_endpoint_when_another_leaves() {
        let mut all = candidates(&[1, 1, 1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(0);
        for source in 0..500 {
            let before = choose(Balance::SourceHash, &mut all, by(Some(source)), &mut rng).unwrap();
            let mut fewer: Vec<_> = all.iter().copied().filter(|candidate| candidate.index != 2).collect();
            let after = choose(Balance::SourceHash, &mut fewer, by(Some(source)), &mut rng).unwrap();
            assert!(before == 2 || fewer[after].index == before);
        }
    }

    #[test]
    fn nobody_is_chosen_from_nothing_and_the_only_one_always() {
        let mut rng = fastrand::Rng::with_seed(0);
        for balance in ALL {
            assert_eq!(choose(balance, &mut [], by(Some(1)), &mut rng), None);
            assert_eq!(choose(balance, &mut candidates(&[9]), by(Some(1)), &mut rng), Some(0));
        }
    }
}
