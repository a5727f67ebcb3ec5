//! Standard error as whoever runs it may leave it: a pipe that nobody reads stops no traffic, and the last line is written.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use super::super::harness::{PATIENCE, ambassador, eventually, free_address};
use super::{World, listener_at, try_echo};

/// Ends with the test, also when that fails.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // Errors: it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A log that takes nothing from the start: it serves all the same, and once somebody reads, every line is there.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let world = World::new();
    let address = free_address();
    let file = world.pki.directory().join("nuncio.toml");
    std::fs::write(&file, world.up() + &listener_at("in", &address.to_string(), "")).unwrap();
    let (mut reader, mut log) = UnixStream::pair().unwrap();
    log.set_nonblocking(true).unwrap();
    while log.write(&[b'\n'; 4096]).is_ok() {}
    log.set_nonblocking(false).unwrap();

    let mut command = ambassador::program();
    command.arg("run").arg("--config").arg(&file);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(OwnedFd::from(log)).spawn().unwrap();
    let mut child = Ends(child);
    drop(command); // it holds our end of the log
    eventually("it serves", PATIENCE, || try_echo(address).ok());
    let mut said = String::new();
    let signal = format!("kill -TERM {}", child.0.id());
    assert!(std::process::Command::new("sh").args(["-c", &signal]).status().unwrap().success());
    reader.read_to_string(&mut said).unwrap();
    assert!(child.0.wait().unwrap().success());
    assert!(said.contains("listening") && said.contains("stopped"), "{}", said.trim());
}
