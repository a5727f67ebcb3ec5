//! The PROXY header of either version.
#![no_main]

#[path = "../context.rs"]
mod context;

use libfuzzer_sys::fuzz_target;
use nuncio::context::Kind;

fuzz_target!(|input: &[u8]| context::run(Kind::ProxyProtocol, input));
