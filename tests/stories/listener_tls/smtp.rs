//! Mail clients that insist on STARTTLS, or on TLS from the first byte.

use std::io::{Read, Write};

use super::super::harness::ambassador::Ambassador;
#[cfg(unix)]
use super::super::harness::mail::{MailServer, Mailer};
use super::super::harness::smtp::{Scripted, Step, Typist, say, starttls_then};
use super::super::harness::{Pki, clients, config};
use super::{behind, inside_tls, told};

const OFFER: &str = "250-mx.upstream.test\r\n250-AUTH PLAIN\r\n250 SIZE 1000\r\n";

/// The only connections are those of the tests.
fn upstream(address: std::net::SocketAddr) -> String {
    format!("protocol = \"smtp\"\nhealth.kind = \"off\"\n{}", config::endpoints(&[address]))
}

fn started(pki: &Pki, listener: &str, address: std::net::SocketAddr) -> Ambassador {
    Ambassador::start(&behind(pki, &pki.client, listener, &upstream(address)))
}

/// Each client in each way, to a Postfix that itself demands TLS and our certificate.
#[cfg(unix)]
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn clients_that_insist_on_starttls_deliver() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let ca = pki.ca().display().to_string();
    let trust = format!("--tls-trust-file={ca}");
    for tls in ["optional", "required"] {
        let mut ambassador =
            started(&pki, &format!("tls = \"{tls}\"\nidentity = \"door\""), server.address());
        let door = ambassador.listener("in");
        let with_tls = [
            (Mailer::Swaks, vec!["--tls", "--tls-verify", "--tls-ca-path", &ca]),
            (Mailer::Smtplib, vec!["starttls", &ca]),
            (Mailer::Msmtp, vec!["--tls=on", "--tls-starttls=on", &trust]),
        ];
        for (mailer, arguments) in &with_tls {
            let subject = format!("{tls} {mailer:?}");
            mailer.send_with(door, &subject, arguments).answer();
            assert!(server.wait_mail(&subject).contains("using TLSv1.3"));
        }
        for record in ambassador.wait_records(with_tls.len()) {
            assert_eq!(record["outcome"], "success", "{record}");
            assert_eq!(record["client_tls"]["version"], "TLSv1.3", "{record}");
        }
        let ran = Mailer::Smtplib.send(door, &format!("{tls} in plaintext"));
        match tls {
            "optional" => drop(server.wait_mail("optional in plaintext")),
            _ => assert!(ran.refusal().contains("530") && ran.refusal().contains("STARTTLS"), "{ran:#?}"),
        }
    }
}

/// Port 465, for clients that know no STARTTLS.
#[cfg(unix)]
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn clients_that_begin_with_tls_deliver() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    let ca = pki.ca().display().to_string();
    let trust = format!("--tls-trust-file={ca}");
    let keys = "tls = \"required\"\ntls_mode = \"direct\"\nidentity = \"door\"";
    let mut ambassador = started(&pki, keys, server.address());
    let door = ambassador.listener("in");
    for (mailer, arguments) in [
        (Mailer::Swaks, vec!["--tls-on-connect"]),
        (Mailer::Smtplib, vec!["tls", &ca]),
        (Mailer::Msmtp, vec!["--tls=on", "--tls-starttls=off", &trust]),
    ] {
        let subject = format!("{mailer:?}");
        mailer.send_with(door, &subject, &arguments).answer();
        assert!(server.wait_mail(&subject).contains("using TLSv1.3"));
    }
    for record in ambassador.wait_records(3) {
        assert_eq!(record["client_tls"]["version"], "TLSv1.3", "{record}");
    }
}

/// The client's STARTTLS ends at nuncio: its server hears EHLO, and EHLO again. What is said inside is said inside.
#[test]
fn the_servers_own_tls_and_the_clients_are_two() {
    let pki = Pki::generate();
    let inside = [Step::Hear, say(OFFER), Step::Hear, say(OFFER), Step::Hear, say("250 2.1.0 Ok\r\n")];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = started(&pki, "tls = \"required\"\nidentity = \"door\"", server.address());
    let mut client = Typist::connect(ambassador.listener("in"));
    assert_eq!(client.reply(), "220 mx.upstream.test ESMTP\r\n");
    assert_eq!(client.asks("EHLO me"), "250-mx.upstream.test\r\n250-SIZE 1000\r\n250 STARTTLS\r\n");
    assert_eq!(client.asks("MAIL FROM:<>"), "530 5.7.0 Must issue a STARTTLS command first\r\n");
    assert_eq!(client.asks("STARTTLS"), "220 2.0.0 Ready to start TLS\r\n");
    let mut client = Typist::over(inside_tls(&pki, client.into_stream()));
    assert_eq!(client.asks("EHLO me"), OFFER);
    assert_eq!(client.asks("MAIL FROM:<>"), "250 2.1.0 Ok\r\n");
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
    assert_eq!(server.heard()[1..], ["STARTTLS", "EHLO me", "EHLO me", "MAIL FROM:<>"]);
}

/// In one segment with STARTTLS, or behind it before the handshake: nothing of it reaches the server, and the record says what
/// was tried.
#[test]
fn what_is_slipped_in_behind_starttls_is_refused() {
    let pki = Pki::generate();
    let inside = [Step::Hear, say(OFFER)];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = started(&pki, "tls = \"optional\"", server.address());
    let mut shown = String::new();
    for (number, in_one) in [true, false].into_iter().enumerate() {
        let mut client = Typist::connect(ambassador.listener("in"));
        client.reply();
        client.asks("EHLO me");
        if in_one {
            client.types("STARTTLS\r\nMAIL FROM:<evil@test>\r\n");
        } else {
            client.types("STARTTLS\r\n");
            assert!(client.reply().starts_with("220 "));
            client.types("MAIL FROM:<evil@test>\r\n");
        }
        // Words or an alert, and the end, which may be a reset.
        client.into_stream().read_to_end(&mut Vec::new()).ok();
        shown += &told(&ambassador.wait_records(number + 1)[number]);
    }
    assert!(!server.heard().iter().any(|line| line.contains("evil")), "{:?}", server.heard());
    insta::assert_snapshot!(shown, @r#"
failed at greet: bad_preface (client)
  the client sent plaintext behind its request for TLS, where only TLS may follow: it, or somebody on the way, tries to slip it in
  if the client itself does that, update it: it must await the answer to STARTTLS
failed at greet: tls_protocol_error (client)
  the client sent something else where its TLS handshake was due: plaintext, or what somebody slipped in
  switch TLS on in the client as the listener has it (tls_mode), or write tls = "optional" here
"#);
}

/// Ten megabytes down to a client that reads slowly, inside TLS on both sides: all of it arrives, and then the end.
#[test]
fn ten_megabytes_reach_a_client_that_reads_slowly() {
    let pki = Pki::generate();
    let line = "x".repeat(998) + "\r\n";
    let large = line.repeat(10_000);
    let inside = [Step::Hear, say(OFFER), Step::Hear, say(OFFER), Step::Hear, say(&large), Step::Close];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = started(&pki, "tls = \"required\"\nidentity = \"door\"", server.address());
    let mut client = Typist::connect(ambassador.listener("in"));
    client.reply();
    client.asks("EHLO me");
    client.asks("STARTTLS");
    let mut client = Typist::over(inside_tls(&pki, client.into_stream()));
    client.asks("EHLO me");
    client.types("DATA\r\n");
    let mut stream = client.into_stream();
    let (mut heard, mut some) = (0, vec![0; 4_000]);
    loop {
        match stream.read(&mut some).expect("an end with close_notify") {
            0 => break,
            read => heard += read,
        }
        if heard % 1_000_000 < 4_000 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    assert_eq!(heard, large.len());
    stream.conn.send_close_notify();
    stream.flush().ok(); // an error: nuncio has closed already
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
}

/// A client that does not trust the listener leaves with an alert, in the middle of a relay: the record has it and the mend,
/// and the endpoint is not blamed.
#[test]
fn a_client_that_does_not_trust_the_listener_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let inside = [Step::Hear, say(OFFER)];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = started(&pki, "tls = \"optional\"", server.address());
    let mut client = Typist::connect(ambassador.listener("in"));
    client.reply();
    client.asks("EHLO me");
    client.asks("STARTTLS");
    let mut stream = inside_tls(&pki, client.into_stream());
    assert!(stream.write_all(b"EHLO me\r\n").is_err());
    drop(stream);
    let record = ambassador.wait_records(1).remove(0);
    insta::assert_snapshot!(told(&record), @r#"
failed at greet: tls_alert_received (client)
  the client ended its TLS handshake with nuncio by the alert unknown_ca (48): it does not trust the listener's self-made certificate
  no client can verify a self-made certificate: give the listener an `identity` whose issuer the client trusts, or let the client encrypt without verifying (sslmode=require)
"#);
    assert_eq!(ambassador.metric("nuncio_breaker_state", &[]), 0.0);
    drop(clients::connect(ambassador.listener("in")));
}
