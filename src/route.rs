//! route: which upstream, as a plain value computed before any dialling.
use crate::addr::UpstreamName;

/// What a listener's connections are routed by.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The upstream that the listener names.
    pub upstream: UpstreamName,
}
