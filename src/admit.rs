//! admit: who may come (networks, users), how many, how fast.
use ipnet::IpNet;

/// Who may use a listener, and how much of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Networks that may connect. Empty: loopback and Unix sockets only.
    pub allow: Vec<IpNet>,
    /// Users that may connect (names or numbers). Empty with `allow_groups` empty: every local user.
    pub allow_users: Vec<String>,
    /// Groups whose members may connect.
    pub allow_groups: Vec<String>,
    /// Open connections of the listener at a time.
    pub connections: Option<u32>,
    /// Open connections of one source at a time.
    pub connections_per_source: Option<u32>,
    /// New connections a second, as a token bucket of one second's size.
    pub rate: Option<u32>,
}
