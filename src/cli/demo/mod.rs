//! `nuncio demo`: the whole of it on one screen, with nothing installed.
//!
//! A throw-away CA, three servers that demand a client certificate (one steady, one slow, one that fails on a schedule),
//! an ambassador in front of them, clients that speak plaintext, and a table of what happens. Everything is on loopback;
//! the certificates live in a directory that is removed at the end.

mod pki;
mod servers;
mod table;
mod traffic;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FAILED, complain, runtime};
use crate::addr::ListenAddr;
use crate::config;
use crate::service::Service;

use self::pki::Pki;
use self::servers::Server;
use self::traffic::Tally;

#[derive(clap::Args)]
pub(super) struct Flags {
    /// Stop by itself after so many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Clients that keep connecting.
    #[arg(long, value_name = "N", default_value_t = 8)]
    clients: u32,
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let outcome = runtime()
        .map_err(|error| vec![format!("the runtime could not be started: {error}")])
        .and_then(|runtime| runtime.block_on(show(flags)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            complain(&problems);
            ExitCode::from(FAILED)
        }
    }
}

async fn show(flags: &Flags) -> Result<(), Vec<String>> {
    let one = |what: &str, error: &dyn std::fmt::Display| vec![format!("{what}: {error}")];
    // Before the keys are there, so that no signal ends the demo without removing them.
    let mut stop = Stop::listen().map_err(|error| one("signals cannot be listened to", &error))?;
    let pki = Pki::make().map_err(|error| one("the demo's certificates", &error))?;
    let mut servers = Vec::new();
    for manner in servers::MANNERS {
        let server = Server::start(manner, &pki).await.map_err(|error| one("the demo's servers", &error))?;
        servers.push(server);
    }
    let service = start_ambassador(&pki, &servers).await?;
    let listening = service.listening();
    let Some(ListenAddr::Tcp(address)) =
        listening.first().and_then(|(_, addresses)| addresses.first()).cloned()
    else {
        return Err(vec!["the demo's ambassador does not listen".into()]);
    };

    let tally = Arc::new(Tally::default());
    for _ in 0..flags.clients.clamp(1, 1000) {
        tokio::spawn(traffic::client(address, tally.clone()));
    }
    let until = flags.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut screen = table::Screen::new(address, service.admin_addresses());
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tick.tick() => screen.draw(&*service, &servers, &tally),
            () = stop.wanted() => break,
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
    }
    tally.stop();
    service.drain(std::future::ready(())).await;
    screen.close(&tally);
    Ok(())
}

/// What ends the demo early: ^C, SIGTERM, and a terminal that is closed.
#[cfg(unix)]
struct Stop([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Stop {
    fn listen() -> std::io::Result<Stop> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Stop([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn wanted(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// ^C, a closed console, and the end of the session.
#[cfg(windows)]
struct Stop(
    tokio::signal::windows::CtrlC,
    tokio::signal::windows::CtrlClose,
    tokio::signal::windows::CtrlShutdown,
);

#[cfg(windows)]
impl Stop {
    fn listen() -> std::io::Result<Stop> {
        use tokio::signal::windows::{ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Stop(ctrl_c()?, ctrl_close()?, ctrl_shutdown()?))
    }

    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
            _ = self.2.recv() => {}
        }
    }
}

/// The demo's own configuration, as a file would have it. The usual admin port, or any if it is taken.
async fn start_ambassador(pki: &Pki, servers: &[Server]) -> Result<Arc<Service>, Vec<String>> {
    let mut last = Vec::new();
    for port in [9746, 0] {
        let text = configuration(pki, servers, port);
        let loaded = config::from_text("the demo's configuration", &text)
            .map_err(|problems| vec![problems.to_string()])?;
        match Service::start(loaded.config, None).await {
            Ok(service) => return Ok(service),
            Err(problems) => last = problems,
        }
    }
    Err(last)
}

fn configuration(pki: &Pki, servers: &[Server], admin_port: u16) -> String {
    let path =
        |file: &str| serde_json::Value::from(pki.path(file).to_string_lossy().replace('$', "$$")).to_string();
    let endpoints: Vec<_> = servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
    format!(
        r#"
        log.level = "off"
        admin.address = "127.0.0.1:{admin_port}"

        [identity.demo]
        ca = {ca}
        certificate = {certificate}
        key = {key}

        [upstream.demo]
        endpoints = [{endpoints}]
        identity = "demo"
        server_name = "{name}"
        breaker = {{ consecutive = 3, open_for = "2s", max_open = "4s" }}
        health = {{ interval = "2s", timeout = "1s" }}

        [listener.demo]
        address = "127.0.0.1:0"
        upstream = "demo"
        "#,
        ca = path("ca.pem"),
        certificate = path("client.pem"),
        key = path("client.key"),
        endpoints = endpoints.join(", "),
        name = pki::SERVER_NAME,
    )
}
