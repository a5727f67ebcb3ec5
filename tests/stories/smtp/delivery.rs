//! Mails of programs that know no TLS, in the mailboxes of servers that take none without a certificate.

use std::net::{SocketAddr, TcpStream};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mail::{LIMIT, MailServer, Mailer, mail};
use super::super::harness::pki::SERVER_NAME;
use super::super::harness::smtp::Typist;
use super::super::harness::{PATIENCE, Pki};
use super::behind;

/// What Postfix writes into `Received:` of a client that has shown our certificate.
const VERIFIED: &str = "(Client CN \"client.test\", Issuer \"nuncio test CA\" (verified OK))";

/// Each client's mail is there, its header has the proofs, and its record is one of success.
#[track_caller]
fn each_client_delivers(server: &MailServer, ambassador: &mut Ambassador, proofs: &[&str]) {
    let door = ambassador.listener("in");
    for mailer in Mailer::ALL {
        let subject = format!("from {mailer:?}");
        mailer.send(door, &subject).answer();
        let mail = server.wait_mail(&subject);
        assert!(proofs.iter().all(|proof| mail.contains(proof)), "{mail}");
    }
    for record in ambassador.wait_records(Mailer::ALL.len()) {
        assert_eq!(
            (&record["outcome"], &record["tls"]["version"]),
            (&"success".into(), &"TLSv1.3".into()),
            "{record}"
        );
    }
}

#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn plaintext_clients_deliver_to_a_postfix_that_demands_a_certificate() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    each_client_delivers(&server, &mut ambassador, &["using TLSv1.3", VERIFIED]);
}

/// The greeting, and what was negotiated, wait with the connection: the client is told the one, and spared the other.
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn clients_deliver_through_connections_that_were_ready_before_they_came() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], "pool.min = 4\n"));
    ambassador.wait_metric("nuncio_pool_connections", &[("state", "ready")], |ready| ready == 4.0);
    each_client_delivers(&server, &mut ambassador, &["using TLSv1.3", VERIFIED]);
    let records = ambassador.records();
    assert!(records.iter().all(|record| record["warm_ms"].is_number()), "{records:?}");
}

#[test]
#[ignore = "needs exim, swaks and msmtp, and root: tests/run installs them"]
fn plaintext_clients_deliver_to_an_exim_that_demands_a_certificate() {
    let pki = Pki::generate();
    let server = MailServer::exim(&pki);
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    each_client_delivers(&server, &mut ambassador, &["TLS1.3", "(client CN=client.test, verified 1)"]);
}

/// Port 465: TLS from the first byte.
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn plaintext_clients_deliver_where_tls_begins_with_the_first_byte() {
    let pki = Pki::generate();
    let server = MailServer::postfix_with(&pki, &pki.server, &["smtpd_tls_wrappermode = yes"]);
    let keys = "tls = \"direct\"\nretry.attempts = 1\n";
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], keys));
    each_client_delivers(&server, &mut ambassador, &["using TLSv1.3", VERIFIED]);
}

/// A mail server as the client: it queues what it cannot hand on, and hands it on when it can.
#[test]
#[ignore = "needs postfix and swaks, and root: tests/run installs them"]
fn a_postfix_without_tls_hands_its_mails_on_through_nuncio() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let door = ambassador.listener("in");
    let relay = format!("relay_transport = smtp:[{}]:{}", door.ip(), door.port());
    let front = MailServer::postfix_with(
        &pki,
        &pki.server,
        &[
            "smtpd_tls_security_level = none",
            "smtp_tls_security_level = none",
            "virtual_mailbox_domains =",
            "relay_domains = upstream.test",
            "disable_dns_lookups = yes",
            &relay,
        ],
    );
    for number in 1..=3 {
        Mailer::Swaks.send(front.address(), &format!("number {number}")).answer();
    }
    for number in 1..=3 {
        let mail = server.wait_mail(&format!("number {number}"));
        assert!(mail.contains("using TLSv1.3") && mail.contains(VERIFIED), "{mail}");
    }
}

/// What the server can do is what its client sees, but for TLS itself; and what the client then does is up to the two.
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn what_the_server_offers_is_offered_and_works() {
    let pki = Pki::generate();
    let server = MailServer::postfix_with(&pki, &pki.server, &["message_size_limit = 20000000"]);
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let door = ambassador.listener("in");

    let mut directly = inside_tls(&pki, server.address());
    let mut client = Typist::connect(door);
    let greeting = client.reply();
    assert!(greeting.starts_with("220 mx.upstream.test ESMTP"), "{greeting}");
    let offer = client.asks("EHLO client.test");
    assert_eq!(offer, directly.asks("EHLO client.test"));
    for extension in ["PIPELINING", "SIZE 20000000", "8BITMIME", "CHUNKING", "DSN"] {
        assert!(offer.contains(extension), "{offer}");
    }
    // SIZE: it is the server that says no.
    let refused = client.asks("MAIL FROM:<a@client.test> SIZE=20000001");
    assert!(refused.starts_with("552 5.3.4 "), "{refused}");
    assert!(client.asks("RSET").starts_with("250 "));
    // 8BITMIME and CHUNKING, all in one segment.
    let chunk = "Subject: in chunks\r\n\r\nGrüße\r\n";
    let length = chunk.len();
    client.types(format!(
        "MAIL FROM:<a@client.test> BODY=8BITMIME\r\nRCPT TO:<b@upstream.test>\r\nBDAT {length} LAST\r\n{chunk}QUIT\r\n"
    ));
    let replies: Vec<_> = (0..5).map(|_| client.reply()).collect();
    assert!(replies[..3].iter().all(|reply| reply.starts_with("250 ")), "{replies:?}");
    assert!(replies[3].starts_with("221 ") && replies[4].is_empty(), "{replies:?}");
    drop(client);
    assert!(server.wait_mail("in chunks").contains("Grüße"));

    // PIPELINING, by a client that has it built in.
    let ran = Mailer::Swaks.send_with(door, "pipelined", &["--pipeline"]);
    assert!(
        ran.answer().contains("\n -> RCPT TO:<b@upstream.test>\n -> DATA\n<-  250 2.1.0 Ok\n"),
        "{ran:#?}"
    );
    server.wait_mail("pipelined");

    // Ten megabytes.
    let line = "all work and no play makes jack a dull boy, and this is line 0123456789 of it\n";
    let body = line.repeat(10_000_000 / line.len());
    for mailer in [Mailer::Smtplib, Mailer::Msmtp] {
        let subject = format!("large from {mailer:?}");
        mailer.start(door, &[], &mail(&subject, &body)).finish(LIMIT).answer();
        assert!(server.wait_mail(&subject).ends_with(&body), "another body than was sent");
    }
    for record in ambassador.wait_records(4) {
        assert_eq!(record["outcome"], "success", "{record}");
    }
}

/// Old machines: no EHLO, one byte a packet, and more than one mail on a connection.
#[test]
#[ignore = "needs postfix, and root: tests/run installs it"]
fn clients_that_are_slow_or_old_deliver_too() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let door = ambassador.listener("in");
    let lines = |subject: &str| {
        [
            "MAIL FROM:<a@client.test>".to_owned(),
            "RCPT TO:<b@upstream.test>".to_owned(),
            "DATA".to_owned(),
            format!("Subject: {subject}\r\n\r\nhello\r\n."),
        ]
    };
    // One byte a packet, with EHLO and with HELO; two mails, and a reset of the first attempt between them.
    for hello in ["EHLO client.test", "helo client.test"] {
        let mut client = Typist::connect(door);
        client.reply();
        let first = lines(&format!("{hello}, one"));
        let second = lines(&format!("{hello}, two"));
        let reset = ["MAIL FROM:<x@client.test>".to_owned(), "RSET".to_owned()];
        for line in [hello.to_owned()].iter().chain(&first).chain(&reset).chain(&second) {
            for byte in line.bytes() {
                client.types([byte]);
            }
            let reply = client.asks("");
            assert!(matches!(reply.as_bytes()[0], b'2' | b'3'), "{line}: {reply}");
        }
        assert!(client.asks("QUIT").starts_with("221 "));
        assert_eq!(client.reply(), "");
        for number in ["one", "two"] {
            let mail = server.wait_mail(&format!("{hello}, {number}"));
            assert!(mail.contains(VERIFIED), "{mail}");
        }
    }
    let records = ambassador.wait_records(2);
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:#?}");
}

/// Checks go through STARTTLS and our certificate, and take their leave: Postfix has nothing to complain of.
#[test]
#[ignore = "needs postfix, and root: tests/run installs it"]
fn checks_leave_no_complaint_in_the_servers_log() {
    let pki = Pki::generate();
    let mut server = MailServer::postfix(&pki);
    // Whoever looked whether it listens.
    server.process().wait_line("lost connection after CONNECT", PATIENCE);
    let before = server.process().lines().len();
    let keys = "health.interval = \"100ms\"\n";
    let ambassador = Ambassador::start(&behind(&pki, &[server.address()], keys));
    let checks = |result| ambassador.metric("nuncio_health_checks_total", &[("result", result)]);
    ambassador.wait_metric("nuncio_health_checks_total", &[("result", "success")], |checks| checks >= 20.0);
    let (good, all) = (checks("success"), ambassador.metric("nuncio_health_checks_total", &[]));
    assert!(all - good < 1.5, "{good} of {all}, of which one may be under way");
    let process = server.process();
    // The last of them has been written.
    process.wait("twenty have left", PATIENCE, |process| {
        let lines = process.lines();
        let leave =
            lines.iter().filter(|line| line.contains(": disconnect from ") && line.contains(" quit=1"));
        (leave.count() >= 20).then_some(())
    });
    let lines = process.lines().split_off(before);
    let complaints = ["lost connection", "SSL_accept error", "warning:", "error:", "fatal:", "abort"];
    let is_complaint = |line: &&String| complaints.iter().any(|complaint| line.contains(complaint));
    assert_eq!(lines.iter().filter(is_complaint).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(lines.iter().any(|line| line.contains("Trusted TLS connection established from")), "{lines:#?}");
}

/// A client of the server itself, in TLS.
fn inside_tls(pki: &Pki, server: SocketAddr) -> Typist<StreamOwned<ClientConnection, TcpStream>> {
    let mut client = Typist::connect(server);
    client.reply();
    assert!(client.asks("EHLO client.test").contains("STARTTLS"));
    assert!(client.asks("STARTTLS").starts_with("220 "));
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let tls = ClientConnection::new(pki.client_config(), name).unwrap();
    let mut stream = StreamOwned::new(tls, client.into_stream());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    Typist::over(stream)
}
