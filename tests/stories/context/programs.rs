//! Clients as people have them: curl, and OpenSSH by its ProxyCommand.

use std::process::Command;

use super::super::harness::peer::Peer;
use super::super::harness::programs::{Ran, run};
use super::super::harness::scene::Scene;
use super::super::harness::servers::Server;
use super::super::harness::{PATIENCE, Pki, free_address};
use super::{asking, file};

fn curl(arguments: &[&str]) -> Ran {
    run(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments), PATIENCE * 2)
}

/// curl speaks HTTP in plaintext, through the tunnel that it asked for; the server demands mutual TLS.
#[test]
#[ignore = "needs curl and openssl"]
fn curl_reaches_a_server_behind_mutual_tls_through_either_proxy() {
    let pki = Pki::generate();
    let server = Server::openssl_www(&pki);
    for context in ["http_connect", "socks5"] {
        let mut scene = Scene::of(&asking(&pki, context, &[server.address()], ""));
        let nuncio = scene.address();
        let ran = match context {
            "socks5" => curl(&["--socks5-hostname", &nuncio.to_string(), "http://db.test:5432/"]),
            _ => {
                let proxy = format!("http://{nuncio}");
                curl(&[
                    "-v",
                    "--proxy",
                    &proxy,
                    "--proxytunnel",
                    "--proxy-header",
                    "Nuncio-Correlation: c-1",
                    "http://db.test:5432/",
                ])
            }
        };
        assert!(ran.answer().contains("TLSv1.3"), "{ran:#?}");
        if context == "http_connect" {
            assert!(ran.stderr.contains("< Proxy-Status: nuncio; next-hop="), "{}", ran.stderr);
        }
        let record = scene.one_record();
        assert_eq!(record["context"]["destination"], "db.test:5432", "{record:#}");
        assert_eq!(record["tls"]["version"], "TLSv1.3");
    }
}

/// Once, and no more: refused at once, with the reason where curl shows it.
#[test]
#[ignore = "needs curl"]
fn curl_is_told_at_once_why_its_one_attempt_came_to_nothing() {
    let pki = Pki::generate();
    let dead = free_address();
    for context in ["http_connect", "socks5"] {
        let mut scene = Scene::of(&asking(&pki, context, &[dead], ""));
        let nuncio = scene.address();
        let ran = match context {
            "socks5" => {
                let proxy = format!("socks5h://max-attempts=1:x@{nuncio}");
                curl(&["-v", "--proxy", &proxy, "http://db.test:5432/"])
            }
            _ => {
                let proxy = format!("http://{nuncio}");
                curl(&[
                    "-v",
                    "--proxy",
                    &proxy,
                    "--proxytunnel",
                    "--proxy-header",
                    "Nuncio-Max-Attempts: 1",
                    "http://db.test:5432/",
                ])
            }
        };
        let told = match context {
            "socks5" => "(5)",
            _ => "< Proxy-Status: nuncio; error=connection_refused; details=\"connection_refused: ",
        };
        assert!(ran.refusal().contains(told), "{}", ran.stderr);
        let record = scene.one_record();
        assert_eq!(
            (&record["reason"], record["attempts"].as_array().map(Vec::len)),
            (&"connection_refused".into(), Some(1))
        );
        let client = record["client"].as_str().unwrap();
        let found = scene.ambassador.get(&format!("/api/v1/connections/by-client/{client}")).json();
        assert_eq!((&found["id"], &found["reason"]), (&record["id"], &"connection_refused".into()));
    }
}

/// OpenSSH goes through a command that asks for the tunnel; what it meets behind it is the server's own banner.
#[test]
#[ignore = "needs ssh and socat"]
fn ssh_comes_through_its_proxy_command() {
    let pki = Pki::generate();
    let server = Peer::start(|mut stream| {
        std::io::Write::write_all(&mut stream, b"SSH-2.0-behind_nuncio\r\n").unwrap();
        // Until the client has shown its own, and leaves.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    });
    let listener = "context = \"http_connect\"\nupstreams = [\"db\"]";
    let mut scene = Scene::of(&file(
        &pki,
        listener,
        &[server.address()],
        "hosts = [\"host.test:22\"]\ntls = \"off\"\ntimeouts.idle = \"1s\"",
    ));
    let nuncio = scene.address();
    let command = format!("ProxyCommand=socat - PROXY:{}:%h:%p,proxyport={}", nuncio.ip(), nuncio.port());
    let ran = run(
        Command::new("ssh").args([
            "-v",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            &command,
            "nobody@host.test",
            "true",
        ]),
        PATIENCE * 2,
    );
    assert!(ran.refusal().contains("remote software version behind_nuncio"), "{}", ran.stderr);
    assert_eq!(scene.one_record()["context"]["destination"], "host.test:22");
}
