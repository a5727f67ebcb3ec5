//! The whole process against its peers, in one run: `cargo bench --bench relay`, or `-- --quick` for a look.
//!
//! The proxies are pinned to one CPU; the mTLS upstream and the client share another. Peers take turns in every round,
//! so that what else the machine does falls on all of them, and each number is the median of the rounds. Compare only
//! within a table. A peer that cannot be started is named with the reason and left out.
//!
//! This file owns the order of things and the table; `proxies` starts peers, `load` drives them, `measure` reads /proc,
//! `upstream` is the far end, `copiers` the two peers of our own.

#[cfg(target_os = "linux")]
pub mod copiers;
#[cfg(target_os = "linux")]
pub mod load;
#[cfg(target_os = "linux")]
pub mod measure;
#[cfg(target_os = "linux")]
#[path = "../../tests/harness/pki.rs"]
pub mod pki;
#[cfg(target_os = "linux")]
pub mod proxies;
#[cfg(target_os = "linux")]
pub mod rounds;
#[cfg(target_os = "linux")]
pub mod upstream;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["upstream", pki, ports] => upstream::run(pki, ports),
        ["floor", listen, upstream] => copiers::floor(listen, upstream),
        ["naive", listen, upstream, pki] => copiers::naive(listen, upstream, pki),
        ["pinned", options @ ..] => rounds::run(options),
        // Ours and cargo's own `--bench`.
        options => proxies::pinned_to(proxies::LOAD_CPU, std::env::current_exe().unwrap_or_default())
            .arg("pinned")
            .args(options)
            .status()
            .map_err(|error| error.to_string())
            .and_then(|status| if status.success() { Ok(()) } else { Err(format!("the bench: {status}")) }),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the bench reads /proc: it runs on Linux only");
}
