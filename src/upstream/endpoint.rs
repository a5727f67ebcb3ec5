//! One endpoint: membership, health and breaker, with one reader.
