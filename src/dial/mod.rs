//! dial: TCP to one endpoint, its addresses raced (RFC 8305).
use std::net::IpAddr;
/// How sockets to the upstream are opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The local address to dial from.
    pub source_address: Option<IpAddr>,
    /// Keep-alive and user timeout.
    pub tcp: crate::socket::TcpSettings,
}
