//! The name of a connection, in the log, the API and on the wire.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Serialize, Serializer};

/// Names one connection of this process, and in practice of all: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// One that was never given out by this process.
    pub(super) fn next() -> ConnectionId {
        static START: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let start = *START.get_or_init(|| fastrand::u64(..));
        // Counted from a random start, then scrambled by a bijection (SplitMix64): unique without asking anyone, and
        // evenly spread, so that any of its bits can choose a shard.
        let count = COUNT.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut mixed = start.wrapping_add(count);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ConnectionId(mixed ^ (mixed >> 31))
    }

    /// Its number below `shards`.
    pub(super) fn shard(self, shards: usize) -> usize {
        self.0 as usize % shards
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for ConnectionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // from_str_radix would also take a sign.
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(id) if digits => Ok(ConnectionId(id)),
            _ => Err(format!("'{}' is not a connection's id: 16 hexadecimal digits", text.escape_debug())),
        }
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_and_are_read_back() {
        let ids: Vec<_> = (0..10_000).map(|_| ConnectionId::next()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_told_so() {
        for text in ["", "1", "+123456789abcdef", "g123456789abcdef", "00123456789abcdef0", "é12345678abcdef"]
        {
            assert!(text.parse::<ConnectionId>().is_err(), "{text}");
        }
    }
}
