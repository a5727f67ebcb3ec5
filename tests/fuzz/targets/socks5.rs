//! SOCKS5: a client's words up to its request.
#![no_main]

#[path = "../context.rs"]
mod context;

use libfuzzer_sys::fuzz_target;
use nuncio::context::Kind;

fuzz_target!(|input: &[u8]| context::run(Kind::Socks5, input));
