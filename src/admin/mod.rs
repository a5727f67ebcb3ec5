//! The admin: health, readiness, metrics and the read side of the API over HTTP/1.1.
use crate::addr::ListenAddr;
/// Where it answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Addresses; empty: no admin.
    pub addresses: Vec<ListenAddr>,
}
