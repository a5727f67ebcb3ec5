//! Shares, and whose turn it is.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::addr::UpstreamName;

/// One of the upstreams, and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub upstream: UpstreamName,
    /// Beside the others' weights; 0: no new connections.
    pub weight: u32,
}

/// As a share of an endpoint.
pub const MAX_WEIGHT: u32 = 1000;

/// Whose turn it is. `key`: the source's, or a random one. A weight that grows takes from the others, and moves nobody else
/// (weighted rendezvous hashing). `None`: nobody has a weight.
pub fn choose(shares: &[Share], key: u64) -> Option<&UpstreamName> {
    let score = |share: &Share| {
        // Fixed keys: a fleet of ambassadors must agree.
        let mut hasher = DefaultHasher::new();
        (key, &*share.upstream).hash(&mut hasher);
        // Uniform in (0, 1).
        let uniform = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(share.weight) / uniform.ln()
    };
    let with_weight = shares.iter().filter(|share| share.weight > 0);
    with_weight.max_by(|one, other| score(one).total_cmp(&score(other))).map(|share| &share.upstream)
}
