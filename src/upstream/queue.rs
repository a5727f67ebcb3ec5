//! The bounded queue of connections that wait for a place at the upstream.
