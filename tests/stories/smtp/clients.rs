//! What clients see of a server that says exactly this, and what becomes of those that want TLS themselves.

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::super::harness::ambassador::Ambassador;
#[cfg(unix)]
use super::super::harness::mail::Mailer;
use super::super::harness::pki::SERVER_NAME;
use super::super::harness::smtp::{Scripted, Step, Typist, say, starttls_then};
use super::super::harness::{Pki, clients};
use super::{behind, told, unnumbered};

/// Inside TLS a server offers SCRAM bound to its channel. The client, which has no TLS, would take that for an attack.
#[test]
fn mechanisms_bound_to_the_servers_tls_are_taken_out_of_its_offer() {
    let pki = Pki::generate();
    let offer = "250-mx.upstream.test\r\n250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN\r\n\
                 250-AUTH=SCRAM-SHA-1-PLUS\r\n250-SIZE 1000\r\n250 STARTTLS\r\n";
    let inside = [
        Step::Hear,
        say(offer),
        Step::Hear,
        say("334 \r\n"),
        Step::Hear,
        say("235 2.7.0 welcome\r\n"),
        Step::Hear,
        // From here on nobody reads along: this is the server's own business.
        say(offer),
    ];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let mut client = Typist::connect(ambassador.listener("in"));
    assert_eq!(client.reply(), "220 mx.upstream.test ESMTP\r\n");
    assert_eq!(
        client.asks("ehlo client.test"),
        "250-mx.upstream.test\r\n250-AUTH SCRAM-SHA-256 PLAIN\r\n250 SIZE 1000\r\n"
    );
    assert_eq!(client.asks("AUTH PLAIN"), "334 \r\n");
    assert_eq!(client.asks("AGEAYg=="), "235 2.7.0 welcome\r\n");
    client.types("EHLO again\r\n");
    let whole: String = (0..1).map(|_| client.reply()).collect();
    assert_eq!(whole, offer);
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
    let heard = server.heard();
    assert_eq!(heard[1..], ["STARTTLS", "ehlo client.test", "AUTH PLAIN", "AGEAYg==", "EHLO again"]);
    assert_eq!(heard[0], "EHLO [127.0.0.1]");
}

/// Every word of the server in packets of one byte each, before TLS and inside it: the same comes of it.
#[test]
fn a_server_that_sends_one_byte_at_a_time_is_understood() {
    let pki = Pki::generate();
    let dribble = |words: &str| Step::Dribble(words.into());
    let steps = vec![
        dribble("220-mx.upstream.test\r\n220 at your service\r\n"),
        Step::Hear,
        dribble("250-mx\r\n250-starttls\r\n250 SIZE 1000\r\n"),
        Step::Hear,
        dribble("220 2.0.0 go ahead\r\n"),
        Step::Tls,
        Step::Hear,
        dribble("250-mx\r\n250-AUTH X-PLUS PLAIN\r\n250 SIZE 1000\r\n"),
        Step::Hear,
        dribble("250 2.1.0 Ok\r\n"),
    ];
    let server = Scripted::start(pki.server_config(), steps);
    let ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let mut client = Typist::connect(ambassador.listener("in"));
    assert_eq!(client.reply(), "220-mx.upstream.test\r\n220 at your service\r\n");
    assert_eq!(client.asks("EHLO client.test"), "250-mx\r\n250-AUTH PLAIN\r\n250 SIZE 1000\r\n");
    assert_eq!(client.asks("MAIL FROM:<>"), "250 2.1.0 Ok\r\n");
}

/// Its ClientHello is no SMTP: it gets none of the server's TLS, and the record has the mend.
#[test]
fn a_client_that_begins_with_tls_is_told_of_in_the_log() {
    let pki = Pki::generate();
    let server = Scripted::start(pki.server_config(), starttls_then(&[]));
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let tls = ClientConnection::new(pki.client_config(), name).unwrap();
    let mut stream = StreamOwned::new(tls, clients::connect(ambassador.listener("in")));
    let error = stream.conn.complete_io(&mut stream.sock).unwrap_err();
    drop(stream);
    assert!(!error.to_string().is_empty());
    let record = ambassador.wait_records(1).remove(0);
    insta::assert_snapshot!(unnumbered(&pki, &told(&record)), @r#"
failed at greet: bad_preface (client)
  the client began with TLS where plaintext SMTP is expected
  switch TLS off in the client: nuncio speaks TLS to the server
"#);
    assert_eq!(server.heard()[1..], ["STARTTLS"], "nothing of the client's");
}

/// Who must have STARTTLS leaves when it is not offered; the record has what it said, or what may have been.
#[cfg(unix)]
#[test]
#[ignore = "needs swaks and msmtp: tests/run installs them"]
fn clients_that_insist_on_tls_of_their_own_are_told_of_in_the_log() {
    let pki = Pki::generate();
    let inside =
        [Step::Hear, say("250-mx.upstream.test\r\n250 SIZE 1000\r\n"), Step::Hear, say("221 2.0.0 Bye\r\n")];
    let server = Scripted::start(pki.server_config(), starttls_then(&inside));
    let mut ambassador = Ambassador::start(&behind(&pki, &[server.address()], ""));
    let door = ambassador.listener("in");
    let ca = pki.ca().display().to_string();
    let trust = format!("--tls-trust-file={ca}");
    let mut shown = String::new();
    for (number, (mailer, arguments)) in [
        (Mailer::Swaks, vec!["--tls"]),
        (Mailer::Smtplib, vec!["starttls", &ca]),
        (Mailer::Msmtp, vec!["--tls=on", "--tls-starttls=on", &trust]),
        (Mailer::Swaks, vec!["--tls-on-connect"]),
        (Mailer::Smtplib, vec!["tls", &ca]),
        (Mailer::Msmtp, vec!["--tls=on", "--tls-starttls=off", &trust]),
    ]
    .into_iter()
    .enumerate()
    {
        let ran = mailer.send_with(door, "no", &arguments);
        assert!(!ran.status.success(), "{ran:#?}");
        let record = &ambassador.wait_records(number + 1)[number];
        shown += &format!("{mailer:?} {}: {}\n", arguments[0], unnumbered(&pki, &told(record)));
    }
    insta::assert_snapshot!(shown.replace(&ca, "CA"), @r#"
Swaks --tls: cancelled at greet: bad_preface (client)
  the client left when it saw what the server offers: it may insist on STARTTLS
  switch TLS off in the client: nuncio speaks TLS to the server
Smtplib starttls: cancelled at greet: bad_preface (client)
  the client left when it saw what the server offers: it may insist on STARTTLS
  switch TLS off in the client: nuncio speaks TLS to the server
Msmtp --tls=on: cancelled at greet: bad_preface (client)
  the client left when it saw what the server offers: it may insist on STARTTLS
  switch TLS off in the client: nuncio speaks TLS to the server
Swaks --tls-on-connect: failed at greet: bad_preface (client)
  the client began with TLS where plaintext SMTP is expected
  switch TLS off in the client: nuncio speaks TLS to the server
Smtplib tls: failed at greet: bad_preface (client)
  the client began with TLS where plaintext SMTP is expected
  switch TLS off in the client: nuncio speaks TLS to the server
Msmtp --tls=on: failed at greet: bad_preface (client)
  the client began with TLS where plaintext SMTP is expected
  switch TLS off in the client: nuncio speaks TLS to the server
"#);
}
