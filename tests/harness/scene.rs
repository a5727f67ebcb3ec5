//! An ambassador before servers of the test's own, and what it must leave behind: one record a connection, nothing open.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::ambassador::Ambassador;
use super::pki::SERVER_NAME;
use super::{PATIENCE, Pki, clients, eventually};

/// A listener and the upstream behind it, which has the same name.
pub struct Route<'a> {
    /// The name of both.
    pub name: &'a str,
    /// The upstream's endpoints.
    pub endpoints: &'a [SocketAddr],
    /// Endpoints that are used when those are not ready, or were tried.
    pub backups: &'a [SocketAddr],
    /// Keys and tables of the upstream: `balance = "round_robin"`, `timeouts.idle = "1s"`, ...
    pub keys: &'a str,
}

/// The running ambassador. Every record is printed, those of bare probes too.
pub struct Scene {
    /// The process.
    pub ambassador: Ambassador,
    descriptors: usize,
}

impl Scene {
    /// One listener, named `test`. Unless `keys` say something of health, the upstream is not checked beside
    /// the traffic: what the test sees is its own doing.
    #[track_caller]
    pub fn start(pki: &Pki, endpoints: &[SocketAddr], keys: &str) -> Scene {
        Scene::with(pki, &[Route { name: "test", endpoints, backups: &[], keys }])
    }

    /// Several at once.
    #[track_caller]
    pub fn with(pki: &Pki, routes: &[Route<'_>]) -> Scene {
        Scene::of(&config(pki, routes))
    }

    /// With a file of the test's own.
    #[track_caller]
    pub fn of(config: &str) -> Scene {
        let mut ambassador = Ambassador::start(config);
        // Once the admin answers, everything is set up; its own connection takes a moment to close.
        ambassador.get("/healthz");
        let look = |_| {
            std::thread::sleep(Duration::from_millis(5));
            ambassador.process().descriptors()
        };
        let descriptors = (0..10).map(look).min().expect("ten looks");
        Scene { ambassador, descriptors }
    }

    /// Where clients of the listener `test` connect.
    pub fn address(&self) -> SocketAddr {
        self.ambassador.listener("test")
    }

    /// A client of the listener `test`.
    pub fn connect(&self) -> TcpStream {
        clients::connect(self.address())
    }

    /// Sends, half-closes and reads to the end.
    pub fn ask(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        clients::ask(self.address(), bytes)
    }

    /// Waits until everything is over, and returns the one record that must be there.
    #[track_caller]
    pub fn one_record(&mut self) -> Value {
        let [record] = self.all_records(1).try_into().expect("one was asked for");
        record
    }

    /// Waits until everything is over: so many records, each connection in one, nothing open, no descriptor kept.
    #[track_caller]
    pub fn all_records(&mut self, count: usize) -> Vec<Value> {
        self.ambassador.wait_records(count);
        self.settled();
        let records = self.ambassador.records();
        assert_eq!(records.len(), count, "{records:#?}");
        let mut ids: Vec<_> = records.iter().map(|record| record["id"].to_string()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id was given twice");
        records
    }

    /// Waits until no connection is open and the descriptors are those of the start.
    #[track_caller]
    pub fn settled(&mut self) {
        self.ambassador.wait_metric("nuncio_connections_open", &[], |open| open == 0.0);
        self.ambassador.wait_state("/api/v1/connections", "no connection is under way", |live| {
            (live["total"] == 0).then_some(())
        });
        let (process, at_start) = (self.ambassador.process(), self.descriptors);
        eventually(&format!("{at_start} descriptors as at the start"), PATIENCE, || {
            (process.descriptors() <= at_start).then_some(())
        });
    }
}

/// The file of a [`Scene`], for tests that have something to add.
pub fn config(pki: &Pki, routes: &[Route<'_>]) -> String {
    let path = |file: &std::path::Path| file.display().to_string();
    let mut text = format!(
        "[log]\nformat = \"json\"\nlevel = \"info,nuncio::record=debug\"\n\
         [identity.test]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
        path(&pki.ca()),
        path(&pki.client.certificate),
        path(&pki.client.key)
    );
    for Route { name, endpoints, backups, keys } in routes {
        let backups = backups.iter().map(|address| format!("{{ address = \"{address}\", backup = true }}"));
        let endpoints = endpoints.iter().map(|address| format!("\"{address}\""));
        let endpoints: Vec<_> = endpoints.chain(backups).collect();
        let server_name = if keys.contains("tls = \"off\"") {
            String::new()
        } else {
            let identity = if keys.contains("identity") { "" } else { "identity = \"test\"\n" };
            format!("server_name = \"{SERVER_NAME}\"\n{identity}")
        };
        let health = if keys.contains("health.") { "" } else { "health.kind = \"off\"\n" };
        text += &format!(
            "[listener.{name}]\naddress = \"127.0.0.1:0\"\nupstream = \"{name}\"\n\
             [upstream.{name}]\nendpoints = [{}]\n{health}{server_name}{keys}\n",
            endpoints.join(", ")
        );
    }
    text
}

/// A record in a line: outcome, then `stage/reason/side` where there is one, who closed first, and the attempts.
///
/// `failed handshake/handshake_timeout/upstream by ambassador; handshake/handshake_timeout, ok`
pub fn story(record: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut line = word(&record["outcome"]);
    if record.get("stage").is_some() {
        line += &format!(" {}/{}/{}", word(&record["stage"]), word(&record["reason"]), word(&record["side"]));
    }
    line += &format!(" by {}", word(&record["closed_by"]));
    let attempts = record["attempts"].as_array().cloned().unwrap_or_default();
    let attempts = attempts.iter().map(|attempt| match attempt.get("stage") {
        Some(stage) => format!("{}/{}", word(stage), word(&attempt["reason"])),
        None => "ok".to_owned(),
    });
    let attempts: Vec<_> = attempts.collect();
    if !attempts.is_empty() {
        line += &format!("; {}", attempts.join(", "));
    }
    line
}

/// Ends the sending side.
pub fn half_close(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("the connection is there");
}

/// Everything until the end, and how that came.
pub fn rest(mut stream: &TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
    (bytes, end)
}

/// Sends all of it.
pub fn send(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the other side takes it");
}
