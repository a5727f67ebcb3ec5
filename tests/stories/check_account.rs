//! The account that a check logs in by: what is wrong with it is told to whoever runs nuncio, and is not the server's fault.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::harness::ambassador::{Ambassador, run};
use super::harness::{PATIENCE, Pki, config, eventually, free_address};

fn checking(pki: &Pki, password: &Path) -> String {
    let endpoints = config::endpoints(&[free_address()]);
    let health = format!("user = \"check\", password_file = {password:?}, interval = \"20ms\"");
    config::mtls(pki, &format!("protocol = \"mysql\"\n{endpoints}health = {{ {health} }}\n"))
}

/// Checks that cannot log in say nothing about the endpoint, which goes on to be served: the log has to tell why, and does so
/// once, however often they are repeated, and again when the reason is another one.
#[test]
fn a_check_that_cannot_log_in_is_told_once_until_the_reason_changes() {
    let pki = Pki::generate();
    let password = pki.directory().join("check.password");
    let mut nuncio = Ambassador::start(&checking(&pki, &password));
    let first = nuncio.wait_line("checks say nothing about the endpoint");
    assert!(first.contains("\"level\":\"warn\"") && first.contains("check.password"), "{first}");
    fs::write(&password, "").expect("it is written");
    let second = nuncio.wait_line("is empty; for a user without a password leave the key out");
    assert!(second.contains("\"level\":\"warn\""), "{second}");
    fs::write(&password, "secret\n").expect("it is written");
    // From now on they say something: nobody listens there.
    eventually("a check has failed", PATIENCE, || {
        (nuncio.metric("nuncio_health_checks_total", &[("result", "failure")]) > 0.0).then_some(())
    });
    let told = nuncio.process().lines();
    let told: Vec<_> = told.iter().filter(|line| line.contains("checks say nothing")).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
}

/// A password that everybody on the host can read is warned of, as a key is: by `check`, and at the start.
#[test]
fn a_password_file_that_others_can_read_is_warned_of() {
    let pki = Pki::generate();
    let password = pki.directory().join("check.password");
    fs::write(&password, "secret\n").expect("it is written");
    let file = pki.directory().join("nuncio.toml");
    fs::write(&file, checking(&pki, &password)).expect("it is written");
    let file = file.to_str().expect("a path in UTF-8");
    for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o660, true)] {
        fs::set_permissions(&password, fs::Permissions::from_mode(mode)).expect("it is ours");
        let (code, _, told) = run(&["check", "--config", file], pki.directory());
        assert_eq!((code, told.contains("health: password_file ")), (Some(0), warned), "{mode:o}: {told}");
    }
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let mut nuncio = Ambassador::start(&checking(&pki, &password));
    let line = nuncio.wait_line("others can read it (mode 0644)");
    assert!(
        line.contains("\"level\":\"warn\"") && line.contains("upstream.up.health: password_file"),
        "{line}"
    );
}
