//! Tests of the whole program, one file a story. What they are made of is in `tests/harness/`.

#[cfg(test)]
#[path = "../harness/mod.rs"]
pub mod harness;

#[cfg(test)]
mod ambassador;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod probe;
