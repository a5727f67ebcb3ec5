//! The set: membership updates, picking, settling.
