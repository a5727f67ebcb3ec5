//! The demo's end: whatever brings it, nothing is left behind.

use super::super::harness::process::Process;
use super::super::harness::{PATIENCE, ambassador};

/// A signal, or a terminal that is closed, ends the demo with all that it has made: no key stays behind. Its usual admin
/// port may be taken.
#[test]
fn the_demo_leaves_no_key_behind() {
    // An error: somebody else has it already.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9746");
    for signal in ["TERM", "HUP", "INT"] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = ambassador::program();
        command.arg("demo").env("TMPDIR", directory.path());
        let mut demo = Process::start("the demo", &mut command);
        let line = demo.wait_line("nuncio demo: plaintext on", PATIENCE);
        assert!(line.contains("Admin: http://127.0.0.1:") && !line.contains(":9746/"), "{line}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        demo.signal(signal);
        assert!(demo.wait_exit(PATIENCE).success());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "SIG{signal}");
    }
}
