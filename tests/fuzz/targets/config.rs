//! A configuration file: any bytes are a configuration or a list of problems, each of which can be printed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Err(problems) = nuncio::config::from_text("fuzz.toml", text) {
        assert!(!problems.to_string().is_empty());
    }
});
