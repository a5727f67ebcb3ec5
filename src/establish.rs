//! establish: a place in the queue, then endpoint after endpoint until one is connected through TLS or the budget is spent.
use std::time::Duration;
/// Bounds on each stage and on all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Name to addresses.
    pub resolve: Duration,
    /// TCP, over all addresses of one endpoint.
    pub connect: Duration,
    /// The plaintext messages before TLS.
    pub negotiate: Duration,
    /// TLS.
    pub handshake: Duration,
    /// Queue, and all attempts together.
    pub establish: Duration,
}
impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Timeouts {
            resolve: seconds(3),
            connect: seconds(3),
            negotiate: seconds(5),
            handshake: seconds(5),
            establish: seconds(10),
        }
    }
}
