//! The table: redrawn in place on a terminal, one block a second elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::servers::Server;
use super::traffic::Tally;
use crate::addr::ListenAddr;
use crate::admin::Face;

/// Where it is drawn.
pub(super) struct Screen {
    head: String,
    terminal: bool,
    lines: usize,
    moved: Vec<u64>,
    at: Instant,
}

impl Screen {
    pub(super) fn new(listening: SocketAddr, admin: &[ListenAddr]) -> Screen {
        let admin: Vec<_> = admin.iter().map(|address| format!("http://{address}/")).collect();
        let head = format!(
            "nuncio demo: plaintext on {listening}, mutual TLS to three servers. Admin: {}. ^C ends it.\n",
            admin.join(", ")
        );
        Screen {
            head,
            terminal: std::io::stdout().is_terminal(),
            lines: 0,
            moved: Vec::new(),
            at: Instant::now(),
        }
    }

    pub(super) fn draw(&mut self, ambassador: &dyn Face, servers: &[Server], tally: &Tally) {
        let seconds = self.at.elapsed().as_secs_f64().max(0.001);
        self.at = Instant::now();
        let upstreams = ambassador.upstreams();
        let endpoints = upstreams.first().map(|upstream| upstream.endpoints.as_slice()).unwrap_or_default();

        let mut text = self.head.clone();
        text.push_str("\nserver   endpoint          health   circuit     open  served  failed     MiB/s       p50       p99\n");
        self.moved.resize(servers.len(), 0);
        for (server, before) in servers.iter().zip(&mut self.moved) {
            let moved = server.moved();
            let rate = (moved - *before) as f64 / seconds / f64::from(1 << 20);
            *before = moved;
            let address = server.address.to_string();
            let Some(endpoint) = endpoints.iter().find(|endpoint| *endpoint.address == *address) else {
                continue;
            };
            let (p50, p99) = match tally.take_latency(server.manner) {
                Some((p50, p99)) => (milliseconds(p50), milliseconds(p99)),
                None => ("-".into(), "-".into()),
            };
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{:<8} {address:<17} {:<8} {:<10} {:>5} {:>7} {:>7} {rate:>9.2} {p50:>9} {p99:>9}",
                server.manner.name(),
                endpoint.health,
                endpoint.breaker,
                endpoint.open,
                endpoint.established_total,
                endpoint.failed_total,
            )
            .unwrap_or_default();
        }
        text.push_str(&summary(tally));
        self.put(&text);
    }

    /// The last word.
    pub(super) fn close(&mut self, tally: &Tally) {
        let text = format!("{}stopped; the certificates are removed\n", summary(tally));
        self.terminal = false;
        self.put(&text);
    }

    fn put(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let back = match (self.terminal, self.lines) {
            (true, lines @ 1..) => format!("\x1b[{lines}A\x1b[J"),
            _ => String::new(),
        };
        self.lines = text.lines().count();
        // A reader that went away (a pipe into head) is no reason to stop the play.
        write!(out, "{back}{text}").and_then(|()| out.flush()).ok();
    }
}

fn summary(tally: &Tally) -> String {
    let failed = tally.failed.load(Ordering::Relaxed);
    let connections = tally.connections.load(Ordering::Relaxed);
    format!("\nclients: {connections} connections, {failed} of them failed\n")
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
