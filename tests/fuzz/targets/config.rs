#![no_main]
use libfuzzer_sys::fuzz_target;
fuzz_target!(|t: &str| { let _n = t.len(); });
