//! Whose turn it is.
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
