//! A Knot DNS whose zone the test changes while it runs, and that can be killed and started again.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::process::Process;
use super::{PATIENCE, eventually, free_address};

/// The zone it serves.
pub const ZONE: &str = "upstream.test";

/// Knot DNS, authoritative for [`ZONE`], which takes dynamic updates.
pub struct Knot {
    address: SocketAddr,
    directory: TempDir,
    process: Option<Process>,
}

impl Knot {
    /// Starts it with an empty zone.
    pub fn start() -> Knot {
        let mut knot = Knot::prepare();
        knot.restart();
        knot
    }

    /// Its address and its files; nobody answers yet.
    pub fn prepare() -> Knot {
        let directory = TempDir::with_prefix("nuncio-knot-").expect("a directory for knot");
        let (at, address) = (directory.path().display(), free_address());
        for sub in ["zones", "run", "db"] {
            std::fs::create_dir(directory.path().join(sub)).expect("a directory beneath it");
        }
        let (ip, port) = (address.ip(), address.port());
        let config = format!(
            "server:\n  rundir: {at}/run\n  listen: {ip}@{port}\n\
             database:\n  storage: {at}/db\n\
             log:\n  - target: stderr\n    any: info\n\
             acl:\n  - id: update\n    address: 127.0.0.1\n    action: [update, transfer]\n\
             template:\n  - id: default\n    storage: {at}/zones\n\
             zone:\n  - domain: {ZONE}\n    acl: update\n"
        );
        std::fs::write(directory.path().join("knot.conf"), config).expect("knot.conf is written");
        let zone = "$TTL 1\n@ SOA ns h 1 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n";
        std::fs::write(directory.path().join(format!("zones/{ZONE}.zone")), zone)
            .expect("the zone is written");
        Knot { address, directory, process: None }
    }

    /// Where it answers, over UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it, again where it was.
    pub fn restart(&mut self) {
        let mut command = Command::new("knotd");
        command.arg("-c").arg(self.directory.path().join("knot.conf"));
        let mut process = Process::start("knotd", &mut command);
        process.wait_line("server started", PATIENCE);
        self.process = Some(process);
        eventually("knot serves its zone", PATIENCE, || self.nsupdate("").then_some(()));
    }

    /// As `kill -9` would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// `NAME.upstream.test` has these addresses from now on, each with a TTL of a second.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut lines = format!("update delete {name}.{ZONE}.\n");
        for address in addresses {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            lines += &format!("update add {name}.{ZONE}. 1 {kind} {address}\n");
        }
        assert!(self.nsupdate(&lines), "knot takes the update:\n{lines}");
    }

    /// `NAME.upstream.test` has these SRV records from now on (priority, weight, port and target), each with a TTL of a second.
    pub fn set_services(&self, name: &str, services: &[String]) {
        let mut lines = format!("update delete {name}.{ZONE}. SRV\n");
        for service in services {
            lines += &format!("update add {name}.{ZONE}. 1 SRV {service}\n");
        }
        assert!(self.nsupdate(&lines), "knot takes the update:\n{lines}");
    }

    fn nsupdate(&self, lines: &str) -> bool {
        let (ip, port) = (self.address.ip(), self.address.port());
        let mut child = Command::new("nsupdate")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsupdate: tests/run installs it");
        let script = format!("server {ip} {port}\nzone {ZONE}\n{lines}send\n");
        child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("nsupdate reads");
        child.wait().expect("nsupdate ends").success()
    }
}
