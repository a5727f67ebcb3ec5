//! `nuncio status` and `nuncio connections`: the one that runs, asked from a shell.

use std::net::TcpStream;

use serde_json::Value;

use super::harness::ambassador::{Ambassador, run};
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually, free_address};

/// What runs, one line an endpoint, by the address of the flag or by that of the file, whose Unix socket comes first.
#[test]
fn status_tells_what_runs_and_why_an_endpoint_is_not_used() {
    let pki = Pki::generate();
    let (server, nobody) = (Upstream::start(&pki), free_address());
    let upstream = config::endpoints(&[server.address(), nobody]) + "health.interval = \"50ms\"\n";
    let socket = pki.directory().join("admin.sock");
    let admin = format!("[admin]\naddress = [\"127.0.0.1:0\", \"unix:{}\"]\n", socket.display());
    let mut nuncio = Ambassador::start(&(config::mtls(&pki, &upstream) + &admin));
    nuncio.wait_metric("nuncio_endpoint_up", &[], |up| up == 1.0);
    nuncio.wait_metric("nuncio_health_checks_total", &[("result", "failure")], |failed| failed >= 3.0);
    nuncio.wait_line("endpoint is down");

    let place = nuncio.admin().to_string();
    let (code, by_flag, err) = run(&["status", "--admin", &place], pki.directory());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let file = nuncio.config_file();
    let (code, by_file, err) = run(&["status", "--config", file.to_str().unwrap()], pki.directory());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{by_file}");
    for told in [by_flag, by_file] {
        let line =
            |word: &str| told.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{told}"));
        assert!(line("nuncio ").contains(&format!("pid {}", nuncio.process().pid())), "{told}");
        assert!(line("in ").contains(&nuncio.listener("in").to_string()), "{told}");
        let good = line(&server.address().to_string());
        assert!(good.contains("up") && good.ends_with("ready"), "{told}");
        let bad = line(&nobody.to_string());
        assert!(bad.contains("down") && bad.contains("not used; ") && bad.contains("refused"), "{told}");
        assert_eq!(good.find("closed"), bad.find("closed"), "columns: {told}");
    }
    let (_, json, _) = run(&["status", "--json", "--admin", &place], pki.directory());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["status"]["pid"], nuncio.process().pid());
    assert_eq!(json["upstreams"][0]["name"], "up");
}

/// Open ones in a table, and what became of the one from a local port: how it ended, why, and what to do.
#[test]
fn connections_are_listed_and_one_is_told_whole() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let upstream = |address| config::endpoints(&[address]) + "health.kind = \"off\"\nretry.attempts = 1\n";
    let mut nuncio = Ambassador::start(&config::mtls(&pki, &upstream(server.address())));
    let place = nuncio.admin().to_string();
    let ask = |arguments: &[&str]| {
        let (code, out, err) =
            run(&[&["connections", "--admin", &place], arguments].concat(), pki.directory());
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
        out
    };
    assert_eq!(ask(&[]), "no connection is open\n");
    let mut held: Vec<_> = (0..3).map(|_| clients::connect(nuncio.listener("in"))).collect();
    for client in &mut held {
        clients::echoes(client, b"ping").unwrap();
    }
    let client = held[0].local_addr().unwrap().to_string();
    let told = ask(&[]);
    assert_eq!(told.lines().count(), 4, "{told}");
    let line = told.lines().find(|line| line.contains(&client)).unwrap_or_else(|| panic!("{told}"));
    assert!(line.contains("relaying") && line.contains(&server.address().to_string()), "{told}");
    assert!(ask(&["--limit", "1"]).ends_with("the newest 1 of 3: --limit 3 shows all\n"));
    assert_eq!(ask(&["--upstream", "oth er"]), "no connection is open\n");
    let one = ask(&["--client", &client]);
    assert!(one.contains(", relaying") && one.contains("TLSv1.3"), "{one}");
    drop(held);

    nuncio.reloaded(&config::mtls(&pki, &upstream(free_address())));
    // Whoever is slow to look finds the connection reset already.
    let refused = eventually("it connects", PATIENCE, || TcpStream::connect(nuncio.listener("in")).ok());
    let client = refused.local_addr().unwrap().to_string();
    let one = eventually("it has ended", PATIENCE, || {
        Some(ask(&["--client", &client])).filter(|one| one.contains("ended"))
    });
    for says in ["failed at", "connect connection_refused (upstream)", "next step", "tried"] {
        assert!(one.contains(says), "{says}: {one}");
    }
    let id = eventually("its record", PATIENCE, || {
        let record = nuncio.records().into_iter().find(|record| record["client"] == client)?;
        record["id"].as_str().map(str::to_owned)
    });
    assert_eq!(ask(&[&id]), one);
    let json: Value = serde_json::from_str(&ask(&["--json", &id])).unwrap();
    assert_eq!(json["reason"], "connection_refused");
}

/// Whoever asks in the wrong place is told which, and what would be the right one.
#[test]
fn where_nobody_answers_the_commands_say_where_they_asked() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = free_address().to_string();
    let (code, out, err) = run(&["status", "--admin", &nobody], directory.path());
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains(&nobody) && err.contains("--admin ADDRESS"), "{err}");
    let listener = "[listener.a]\naddress = \"127.0.0.1:1\"\nupstream = { endpoints = [\"a:1\"] }\n";
    std::fs::write(directory.path().join("n.toml"), listener).unwrap();
    let (code, _, err) = run(&["connections", "--config", "n.toml"], directory.path());
    assert_eq!(code, Some(1));
    assert!(err.contains("n.toml has no admin: add address"), "{err}");
    let (code, _, err) = run(&["connections", "--config", "away.toml"], directory.path());
    assert_eq!(code, Some(3), "{err}");
    let (code, _, _) = run(&["connections", "not-an-id"], directory.path());
    assert_eq!(code, Some(2));
    let nuncio = Ambassador::start(listener.replace(":1\"\n", ":0\"\n").as_str());
    let place = nuncio.admin().to_string();
    let (code, _, err) = run(&["connections", "--admin", &place, "0000000000000000"], directory.path());
    assert_eq!(code, Some(1));
    assert!(err.contains("no connection 0000000000000000"), "{err}");
}
