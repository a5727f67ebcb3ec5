//! Tests of the whole program, one file a story. What they are made of is in `tests/harness/`.

#[cfg(test)]
#[path = "../harness/mod.rs"]
pub mod harness;

#[cfg(test)]
mod again;
#[cfg(test)]
mod ambassador;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod probe;

#[cfg(test)]
mod life;
#[cfg(test)]
mod upstreams;
