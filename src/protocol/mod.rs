//! Protocols that begin in plaintext and then switch to TLS: one file each, once they are built. Nothing yet.
