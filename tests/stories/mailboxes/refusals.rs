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
use super::super::harness::{Pki, free_address};
use super::super::smtp::unnumbered;
use super::{ALL, Spoken};

/// What a program printed of what it was answered, without what differs from run to run.
fn printed(pki: &Pki, client: Client, ran: &Ran) -> String {
    assert!(!ran.status.success(), "{ran:#?}");
    let lines = match client {
        // Its transcript, without what it says itself.
        Client::SwaksLmtp => {
            ran.stdout.lines().filter(|line| line.starts_with('<')).collect::<Vec<_>>().join("\n")
        }
        _ => ran.stderr.trim_end().replace("\\n", "\n"),
    };
    format!("{}\n{}\n", client.name(), unnumbered(pki, &lines))
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
        let breaker = "breaker = { consecutive = 1, open_for = \"45s\" }\n";
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
    insta::assert_snapshot!(shown, @r#"
poplib
error_proto: b'-ERR [SYS/TEMP] service unavailable, please wait; nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)'
poplib
error_proto: b"-ERR [SYS/TEMP] service unavailable, please wait; nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)"
poplib
error_proto: b"-ERR [SYS/PERM] service unavailable; nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)"
poplib
error_proto: b'-ERR [SYS/PERM] service unavailable; nuncio: the server said no to STLS: -ERR TLS support isn\'t enabled.; switch STLS on at the server (Dovecot: ssl = yes with ssl_cert and ssl_key; Courier: POP3_STARTTLS and TLS_CERTFILE; Cyrus: tls_server_cert and tls_server_key); or, if this port speaks TLS from its first byte (995), set tls = "direct" (negotiation_refused, connection ID)'
nntplib
NNTPTemporaryError: 400 nuncio: 127.0.0.1:PORT refused the connection; is the server running, and does it listen on this address and port? (connection_refused, connection ID)
nntplib
NNTPTemporaryError: 400 nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s; mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself (circuit_open, connection ID)
nntplib
NNTPTemporaryError: 400 nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name; put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one (tls_certificate_error, connection ID)
nntplib
NNTPTemporaryError: 400 nuncio: the server has STARTTLS and then said no to it: 580 Error initializing TLS; look in the server's log for why: its certificate or key may not load (negotiation_refused, connection ID)
smtplib.LMTP
SMTPConnectError: (421, b'4.4.1 nuncio: 127.0.0.1:PORT refused the connection
4.4.1 is the server running, and does it listen on this address and port?
4.4.1 nuncio: connection_refused, connection ID')
swaks --protocol LMTP
<** 421-4.4.1 nuncio: 127.0.0.1:PORT refused the connection
<** 421-4.4.1 is the server running, and does it listen on this address and port?
<** 421 4.4.1 nuncio: connection_refused, connection ID
smtplib.LMTP
SMTPConnectError: (421, b"4.3.2 nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s
4.3.2 mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
4.3.2 nuncio: circuit_open, connection ID")
swaks --protocol LMTP
<** 421-4.3.2 nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s
<** 421-4.3.2 mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
<** 421 4.3.2 nuncio: circuit_open, connection ID
smtplib.LMTP
SMTPConnectError: (421, b"4.7.5 nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
4.7.5 put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
4.7.5 nuncio: tls_certificate_error, connection ID")
swaks --protocol LMTP
<** 421-4.7.5 nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
<** 421-4.7.5 put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
<** 421 4.7.5 nuncio: tls_certificate_error, connection ID
smtplib.LMTP
SMTPConnectError: (421, b'4.7.4 nuncio: the server offers no STARTTLS, only: 8BITMIME CHUNKING ENHANCEDSTATUSCODES PIPELINING
4.7.4 switch STARTTLS on at the server (Dovecot: ssl = yes with ssl_cert and ssl_key; Cyrus: tls_server_cert and tls_server_key); or, if this port speaks TLS from its first byte, set tls = "direct"
4.7.4 nuncio: negotiation_refused, connection ID')
swaks --protocol LMTP
<** 421-4.7.4 nuncio: the server offers no STARTTLS, only: 8BITMIME CHUNKING ENHANCEDSTATUSCODES PIPELINING
<** 421-4.7.4 switch STARTTLS on at the server (Dovecot: ssl = yes with ssl_cert and ssl_key; Cyrus: tls_server_cert and tls_server_key); or, if this port speaks TLS from its first byte, set tls = "direct"
<** 421 4.7.4 nuncio: negotiation_refused, connection ID
"#);
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
    insta::assert_snapshot!(shown, @r#"
poplib
error_proto: b'-ERR [SYS/TEMP] service unavailable, please wait; nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)'
nntplib
NNTPTemporaryError: 400 nuncio: shutting down: no new connections are taken; connect again: another instance, or this one after its restart, will answer (draining, connection ID)
smtplib.LMTP
SMTPConnectError: (421, b'4.3.2 nuncio: shutting down: no new connections are taken
4.3.2 connect again: another instance, or this one after its restart, will answer
4.3.2 nuncio: draining, connection ID')
swaks --protocol LMTP
<** 421-4.3.2 nuncio: shutting down: no new connections are taken
<** 421-4.3.2 connect again: another instance, or this one after its restart, will answer
<** 421 4.3.2 nuncio: draining, connection ID
"#);
}
