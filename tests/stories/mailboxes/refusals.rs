//! No, as the people behind mail and news programs read it, and what the record says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::dovecot::{Door, Dovecot};
use super::super::harness::inn::Inn;
use super::super::harness::legacy::Client;
use super::super::harness::pki::{By, SERVER_NAME, Valid};
use super::super::harness::programs::Ran;
use super::super::harness::smtp::{Scripted, Step, Typist};
use super::super::harness::wording::redacted;
use super::super::harness::{Pki, free_address};
use super::{ALL, Spoken};

/// The last line that a program printed of what it was answered, without what differs from run to run.
fn printed(pki: &Pki, client: Client, ran: &Ran) -> String {
    assert!(!ran.status.success(), "{ran:#?}");
    let all = match client {
        // Its transcript.
        Client::SwaksLmtp => &ran.stdout,
        _ => &ran.stderr,
    };
    let line = all.lines().rev().find(|line| line.contains("nuncio: ")).unwrap_or_else(|| panic!("{ran:#?}"));
    let line = redacted(&line.replace(&pki.directory().display().to_string(), "/etc/nuncio"));
    let (before, id) = line.rsplit_once("connection ").expect("the record's id");
    let rest = id.trim_start_matches(|digit: char| digit.is_ascii_hexdigit());
    assert_eq!(id.len() - rest.len(), 16, "{line}");
    format!("{}: {before}connection ID{rest}\n", client.name())
}

fn clients(spoken: &Spoken) -> &'static [Client] {
    match spoken.protocol {
        "pop3" => &[Client::Poplib],
        "nntp" => &[Client::Nntplib],
        _ => &[Client::Lmtplib, Client::SwaksLmtp],
    }
}

/// What each client prints, and that the records have this reason.
#[track_caller]
fn refused(pki: &Pki, spoken: &Spoken, file: &str, reason: &str) -> String {
    let mut ambassador = Ambassador::start(file);
    let door = ambassador.listener("in");
    if reason == "circuit_open" {
        // Somebody has to find out.
        Typist::connect(door).rest();
        ambassador.wait_records(1);
    }
    let words: String =
        clients(spoken).iter().map(|client| printed(pki, *client, &client.ask(door))).collect();
    for record in &ambassador.wait_records(clients(spoken).len())[usize::from(reason == "circuit_open")..] {
        assert_eq!(record["reason"], reason, "{record}");
    }
    words
}

#[test]
#[ignore = "needs dovecot, inn2, swaks and root: tests/run installs them"]
fn mail_and_news_programs_print_why_they_are_refused() {
    let pki = Pki::generate();
    let (dovecot, inn) = (Dovecot::without_tls(), Inn::without_tls());
    let foreign = pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now);
    let foreign = Arc::new(pki.server_config_with(&foreign, By::Ca));
    let mut shown = String::new();
    for spoken in ALL {
        let behind = |server: SocketAddr, keys: &str| spoken.behind(&pki, server, keys);
        let breaker = "breaker = { consecutive = 1, open_for = \"30s\" }\n";
        let server = Scripted::start(foreign.clone(), spoken.steps("", &[]));
        let without = match spoken.protocol {
            "pop3" => dovecot.at(Door::Pop3),
            "nntp" => inn.address(),
            _ => dovecot.at(Door::Lmtp),
        };
        for (file, reason) in [
            (behind(free_address(), ""), "connection_refused"),
            (behind(free_address(), breaker), "circuit_open"),
            (behind(server.address(), ""), "tls_certificate_error"),
            (behind(without, ""), "negotiation_refused"),
        ] {
            shown += &refused(&pki, &spoken, &file, reason);
        }
    }
    insta::assert_snapshot!(shown, @"");
}

/// They wait for a server that does not greet while nuncio is told to end.
#[test]
#[ignore = "needs swaks: tests/run installs it"]
fn mail_and_news_programs_print_that_nuncio_is_going() {
    let pki = Pki::generate();
    let mut shown = String::new();
    for spoken in ALL {
        let silent = Scripted::start(pki.server_config(), vec![Step::Hear]);
        let keys = "timeouts.negotiate = \"20s\"\ntimeouts.establish = \"20s\"\n";
        let file = spoken.behind(&pki, silent.address(), keys);
        let file = format!("drain_timeout = \"0s\"\ndrain_jitter = \"0s\"\n{file}");
        let mut ambassador = Ambassador::start(&file);
        let door = ambassador.listener("in");
        let running: Vec<_> = clients(&spoken)
            .iter()
            .map(|client| (*client, thread::spawn(move || client.ask(door))))
            .collect();
        let waiting = running.len();
        ambassador
            .wait_state("/api/v1/connections", "all wait", |live| (live["total"] == waiting).then_some(()));
        ambassador.process().signal("TERM");
        for (client, running) in running {
            shown += &printed(&pki, client, &running.join().expect("it ran"));
        }
    }
    insta::assert_snapshot!(shown, @"");
}
