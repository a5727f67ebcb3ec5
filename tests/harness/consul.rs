//! A Consul agent of its own, in development mode: what it knows is in its memory, and a restart forgets it.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::http::{self, Response};
use super::pki::Pki;
use super::process::Process;
use super::programs::tool;
use super::{eventually, free_address};

/// An agent takes some seconds to find that it is alone.
const START: Duration = Duration::from_secs(60);

/// A Consul agent.
pub struct Consul {
    address: SocketAddr,
    /// Where it is asked over TLS, by clients with a certificate only; and the file that says so.
    tls: Option<(SocketAddr, TempDir)>,
    /// Its other ports, which nobody here asks.
    others: [u16; 2],
    process: Option<Process>,
}

impl Consul {
    /// Starts one that knows no service.
    pub fn start() -> Consul {
        Consul::with(None)
    }

    /// The same, which can be asked over TLS as well, by clients that show a certificate of this CA.
    pub fn start_with_tls(pki: &Pki) -> Consul {
        let directory = TempDir::new().expect("a directory for its configuration");
        let address = free_address();
        let config = serde_json::json!({
            "ports": { "https": address.port() }, "verify_incoming_https": true,
            "ca_file": pki.ca(), "cert_file": pki.server.certificate, "key_file": pki.server.key,
        });
        fs::write(directory.path().join("tls.json"), config.to_string())
            .expect("its configuration is written");
        Consul::with(Some((address, directory)))
    }

    fn with(tls: Option<(SocketAddr, TempDir)>) -> Consul {
        let others = [free_address().port(), free_address().port()];
        let mut consul = Consul { address: free_address(), tls, others, process: None };
        consul.restart();
        consul
    }

    /// Where its API answers over TLS.
    #[track_caller]
    pub fn tls_address(&self) -> SocketAddr {
        self.tls.as_ref().expect("it was started with TLS").0
    }

    /// Where its API answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again where it was, with nothing in its memory.
    #[track_caller]
    pub fn restart(&mut self) {
        let ([serf, server], http) = (self.others, self.address.port());
        let mut command = Command::new(tool("consul/usr/bin/consul"));
        command.args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn"]);
        command.args(["-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1"]);
        command.arg(format!("-serf-lan-port={serf}")).arg(format!("-server-port={server}"));
        command.arg(format!("-http-port={http}"));
        if let Some((_, directory)) = &self.tls {
            command.arg("-config-file").arg(directory.path().join("tls.json"));
        }
        self.process = Some(Process::start("consul", &mut command));
        // With an index: it has found itself to be the leader.
        eventually("consul serves its catalogue", START, || {
            let answer = http::get(self.address, "/v1/catalog/nodes").ok()?;
            (answer.status == 200 && answer.body != "[]").then_some(())
        });
    }

    /// As `kill -9` would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// An instance of `service`, which passes its check.
    #[track_caller]
    pub fn register(&self, service: &str, address: SocketAddr, tags: &[&str]) {
        let (id, ip, port) = (id(address), address.ip(), address.port());
        let body = serde_json::json!({
            "Name": service, "ID": id, "Address": ip, "Port": port, "Tags": tags,
            "Check": { "CheckID": format!("check-{id}"), "TTL": "10m", "Status": "passing" },
        });
        self.put("/v1/agent/service/register", &body.to_string());
    }

    /// From now on it fails its check.
    #[track_caller]
    pub fn fail(&self, address: SocketAddr) {
        self.put(&format!("/v1/agent/check/fail/check-{}", id(address)), "");
    }

    /// It is gone.
    #[track_caller]
    pub fn deregister(&self, address: SocketAddr) {
        self.put(&format!("/v1/agent/service/deregister/{}", id(address)), "");
    }

    #[track_caller]
    fn put(&self, path: &str, body: &str) -> Response {
        let (address, length) = (self.address, body.len());
        let answer = http::request(
            address,
            &format!(
                "PUT {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
        .expect("consul answers");
        assert_eq!(answer.status, 200, "PUT {path}: {}", answer.body);
        answer
    }
}

fn id(address: SocketAddr) -> String {
    format!("instance-{}", address.port())
}
