//! The counterpart of `sys` where there is no Unix: the same functions, saying that the platform does not tell.

use std::io;

use super::TcpFacts;

/// Not told by the platform.
pub(crate) fn unsent<S>(_: &S) -> Option<usize> {
    None
}

/// Not told by the platform.
pub(crate) fn tcp_facts<S>(_: &S) -> Option<TcpFacts> {
    None
}

/// The platform does not tell.
pub(crate) fn is_established<S>(_: &S) -> Option<bool> {
    None
}

/// As the system tells every program.
pub(crate) fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// Sockets are no descriptors here and have no limit of their own.
pub fn raise_descriptor_limit() -> u64 {
    u64::MAX
}

/// Whether a crash leaves a dump is the administrator's policy here (Windows Error Reporting), not the process's.
pub fn forbid_core_dumps() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
