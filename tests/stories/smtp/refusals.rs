//! No, as the people behind mail programs read it: what swaks and smtplib print, and what the record says of it.

use super::super::harness::ambassador::Ambassador;
use super::super::harness::mail::{LIMIT, MailServer, Mailer, mail};
use super::super::harness::pki::{By, SERVER_NAME, Valid};
use super::super::harness::programs::Ran;
use super::super::harness::smtp::{Scripted, Step, Typist, starttls_then};
use super::super::harness::{Pki, config, free_address};
use super::{behind, told, unnumbered, upstream};

/// Both whose words are shown.
const BOTH: [Mailer; 2] = [Mailer::Swaks, Mailer::Smtplib];

/// What a program printed of what it was answered.
fn printed(mailer: Mailer, ran: &Ran) -> String {
    assert!(!ran.status.success(), "{ran:#?}");
    let lines = match mailer {
        // Its transcript, without what it says itself.
        Mailer::Swaks => ran.stdout.clone(),
        _ => ran.stderr.replace("\\n", "\n"),
    };
    let is_answer = |line: &&str| line.starts_with('<') || !matches!(mailer, Mailer::Swaks);
    let mut lines: Vec<_> = lines.lines().filter(is_answer).map(str::trim_end).collect();
    // It says goodbye, and may be told the same again.
    let is_last = |line: &&str| line.starts_with("<** 421 ") || line.starts_with("<** 554 ");
    lines.truncate(lines.iter().position(is_last).map_or(lines.len(), |last| last + 1));
    format!("{mailer:?} [{}]\n{}\n", ran.status.code().unwrap_or(-1), lines.join("\n"))
}

/// Who is refused in what way: each program's words, and the record of the last.
#[track_caller]
fn refused(pki: &Pki, name: &str, ambassador: &mut Ambassador, before: usize) -> String {
    let door = ambassador.listener("in");
    let words = BOTH.map(|mailer| printed(mailer, &mailer.send(door, "no"))).concat();
    let records = ambassador.wait_records(before + BOTH.len());
    let record = told(records.last().unwrap());
    as_somebody(&unnumbered(pki, &format!("{name}\n{words}{record}\n\n")))
}

/// Whoever runs the tests is the user whom a listener refuses.
fn as_somebody(text: &str) -> String {
    let mut parts = text.split(" (uid ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let name = shown.rfind([' ', '\n']).map_or(0, |space| space + 1);
        let end = part.find(')').unwrap_or(0);
        shown.truncate(name);
        shown += &format!("erp (uid 1000{}", &part[end..]);
    }
    shown
}

/// With keys of the listener's.
fn with_listener(file: &str, keys: &str) -> String {
    file.replace("upstream = \"up\"\n", &format!("upstream = \"up\"\n{keys}\n"))
}

#[test]
#[ignore = "needs swaks: tests/run installs it"]
fn mail_programs_print_why_they_are_refused() {
    let pki = Pki::generate();
    let good = Scripted::start(pki.server_config(), starttls_then(&[Step::Hear]));
    let once = "retry.attempts = 1\n";
    let mut shown = String::new();

    let file = behind(&pki, &[free_address()], once);
    shown += &refused(&pki, "server down", &mut Ambassador::start(&file), 0);

    let file = behind(
        &pki,
        &[free_address()],
        &format!("{once}breaker = {{ consecutive = 1, open_for = \"30s\" }}\n"),
    );
    let mut ambassador = Ambassador::start(&file);
    Typist::connect(ambassador.listener("in")).reply();
    ambassador.wait_records(1);
    shown += &refused(&pki, "circuit open", &mut ambassador, 1);

    let foreign = pki.issue("foreign", &[SERVER_NAME], By::Foreign, Valid::Now);
    let config = pki.server_config_with(&foreign, By::Ca);
    let server = Scripted::start(std::sync::Arc::new(config), starttls_then(&[]));
    shown += &refused(&pki, "wrong CA", &mut Ambassador::start(&behind(&pki, &[server.address()], once)), 0);

    let file = with_listener(&behind(&pki, &[good.address()], once), "connections = 1");
    let mut ambassador = Ambassador::start(&file);
    let mut holder = Typist::connect(ambassador.listener("in"));
    holder.reply();
    shown += &refused(&pki, "too many connections", &mut ambassador, 0);
    drop(holder);

    let file = with_listener(&behind(&pki, &[good.address()], once), "allow_users = [\"nobody\"]");
    shown += &refused(&pki, "admission denied", &mut Ambassador::start(&file), 0);

    insta::assert_snapshot!(shown, @r#"
server down
Swaks [21]
<** 421-4.4.1 nuncio: 127.0.0.1:PORT refused the connection
<** 421-4.4.1 is the server running, and does it listen on this address and port?
<** 421 4.4.1 nuncio: connection_refused, connection ID
Smtplib [1]
SMTPConnectError: (421, b'4.4.1 nuncio: 127.0.0.1:PORT refused the connection
4.4.1 is the server running, and does it listen on this address and port?
4.4.1 nuncio: connection_refused, connection ID')
failed at connect: connection_refused (upstream)
  127.0.0.1:PORT refused the connection
  is the server running, and does it listen on this address and port?
circuit open
Swaks [21]
<** 421-4.3.2 nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s
<** 421-4.3.2 mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
<** 421 4.3.2 nuncio: circuit_open, connection ID
Smtplib [1]
SMTPConnectError: (421, b"4.3.2 nuncio: 127.0.0.1:PORT: circuit open after 1 x connection refused, tries again in N s
4.3.2 mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
4.3.2 nuncio: circuit_open, connection ID")
refused at route: circuit_open (upstream)
  127.0.0.1:PORT: circuit open after 1 × connection refused, tries again in N s
  mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
wrong CA
Swaks [21]
<** 421-4.7.5 nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
<** 421-4.7.5 put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
<** 421 4.7.5 nuncio: tls_certificate_error, connection ID
Smtplib [1]
SMTPConnectError: (421, b"4.7.5 nuncio: the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
4.7.5 put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
4.7.5 nuncio: tls_certificate_error, connection ID")
failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
  put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
too many connections
Swaks [21]
<** 421-4.4.5 nuncio: as many connections of this listener are open as may be: 1 (`connections`)
<** 421-4.4.5 raise the limit that the detail names, or find who holds the connections
<** 421 4.4.5 nuncio: connection_limit_reached, connection ID
Smtplib [1]
SMTPConnectError: (421, b'4.4.5 nuncio: as many connections of this listener are open as may be: 1 (`connections`)
4.4.5 raise the limit that the detail names, or find who holds the connections
4.4.5 nuncio: connection_limit_reached, connection ID')
refused at admit: connection_limit_reached (ambassador)
  as many connections of this listener are open as may be: 1 (`connections`)
  raise the limit that the detail names, or find who holds the connections
admission denied
Swaks [21]
<** 554-5.7.1 nuncio: user erp (uid 1000) may not use this listener
<** 554-5.7.1 add the user to the listener's `allow_users` (or `allow_groups`): erp (uid 1000)
<** 554 5.7.1 nuncio: admission_denied, connection ID
Smtplib [1]
SMTPConnectError: (554, b"5.7.1 nuncio: user erp (uid 1000) may not use this listener
5.7.1 add the user to the listener's `allow_users` (or `allow_groups`): erp (uid 1000)
5.7.1 nuncio: admission_denied, connection ID")
refused at admit: admission_denied (client)
  user erp (uid 1000) may not use this listener
  add the user to the listener's `allow_users` (or `allow_groups`): erp (uid 1000)
"#);
}

/// TLS 1.3 refuses a certificate late: after the replayed greeting, in place of the answer to EHLO. Postfix says so itself,
/// inside TLS; Exim by an alert, which nuncio puts into words.
#[test]
#[ignore = "needs postfix, exim and swaks, and root: tests/run installs them"]
fn mail_programs_print_that_our_certificate_was_refused() {
    let pki = Pki::generate();
    let stranger = pki.issue("stranger", &["client.test"], By::Foreign, Valid::Now);
    let mut shown = String::new();
    for (name, server) in [("Postfix", MailServer::postfix(&pki)), ("Exim", MailServer::exim(&pki))] {
        let file = config::mtls_as(&pki, &stranger, &upstream(&[server.address()], "retry.attempts = 1\n"));
        shown += &refused(&pki, name, &mut Ambassador::start(&file), 0);
    }
    insta::assert_snapshot!(shown, @r#"
Postfix
Swaks [22]
<-  220 mx.upstream.test ESMTP Postfix
<** 421 4.7.1 mx.upstream.test Error: Client certificate not trusted
Smtplib [1]
SMTPResponseException: (421, b"4.7.4 nuncio: the server took the handshake and then said no to EHLO: 421 4.7.1 mx.upstream.test Error: Client certificate not trusted
4.7.4 look in the server's log for why; it may not trust our certificate, or miss one
4.7.4 nuncio: negotiation_refused, connection ID")
failed at greet: negotiation_refused (upstream)
  the server took the handshake and then said no to EHLO: 421 4.7.1 mx.upstream.test Error: Client certificate not trusted
  look in the server's log for why; it may not trust our certificate, or miss one
Exim
Swaks [22]
<-  220 mx.upstream.test ESMTP Exim
<** 421-4.7.5 nuncio: the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert bad_certificate (42); it says that it accepts certificates issued by CN=nuncio test CA
<** 421-4.7.5 look in the server's log for what it missed: is CN=nuncio test CA in its CA file, is the certificate in date there, and meant for client authentication?
<** 421 4.7.5 nuncio: client_certificate_refused, connection ID
Smtplib [1]
SMTPHeloError: (421, b"4.7.5 nuncio: the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert bad_certificate (42); it says that it accepts certificates issued by CN=nuncio test CA
4.7.5 look in the server's log for what it missed: is CN=nuncio test CA in its CA file, is the certificate in date there, and meant for client authentication?
4.7.5 nuncio: client_certificate_refused, connection ID")
failed at greet: client_certificate_refused (upstream)
  the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert bad_certificate (42); it says that it accepts certificates issued by CN=nuncio test CA
  look in the server's log for what it missed: is CN=nuncio test CA in its CA file, is the certificate in date there, and meant for client authentication?
"#);
}

#[test]
#[ignore = "needs postfix and swaks, and root: tests/run installs them"]
fn mail_programs_print_that_the_server_has_no_starttls() {
    let pki = Pki::generate();
    let mut server = MailServer::postfix_with(&pki, &pki.server, &["smtpd_tls_security_level = none"]);
    let file = behind(&pki, &[server.address()], "retry.attempts = 1\n");
    let shown = refused(&pki, "server without STARTTLS", &mut Ambassador::start(&file), 0);
    insta::assert_snapshot!(shown, @r#"
server without STARTTLS
Swaks [21]
<** 421-4.7.4 nuncio: the server offers no STARTTLS, only: PIPELINING SIZE VRFY ETRN ENHANCEDSTATUSCODES 8BITMIME DSN SMTPUTF8 CHUNKING
<** 421-4.7.4 switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = "direct"
<** 421 4.7.4 nuncio: negotiation_refused, connection ID
Smtplib [1]
SMTPConnectError: (421, b'4.7.4 nuncio: the server offers no STARTTLS, only: PIPELINING SIZE VRFY ETRN ENHANCEDSTATUSCODES 8BITMIME DSN SMTPUTF8 CHUNKING
4.7.4 switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = "direct"
4.7.4 nuncio: negotiation_refused, connection ID')
failed at negotiate: negotiation_refused (upstream)
  the server offers no STARTTLS, only: PIPELINING SIZE VRFY ETRN ENHANCEDSTATUSCODES 8BITMIME DSN SMTPUTF8 CHUNKING
  switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = "direct"
"#);
    // We left with a word: whoever looked whether it listens is the only one who did not.
    let log = server.process().lines().join("\n");
    assert!(log.matches("lost connection").count() < 2, "{log}");
}

/// They wait for a server that does not greet while nuncio is told to end.
#[test]
#[ignore = "needs swaks: tests/run installs it"]
fn mail_programs_print_that_nuncio_is_going() {
    let pki = Pki::generate();
    let silent = Scripted::start(pki.server_config(), vec![Step::Hear]);
    let keys = "retry.attempts = 1\ntimeouts.negotiate = \"20s\"\ntimeouts.establish = \"20s\"\n";
    let file =
        format!("drain_timeout = \"0s\"\ndrain_jitter = \"0s\"\n{}", behind(&pki, &[silent.address()], keys));
    let mut ambassador = Ambassador::start(&file);
    let door = ambassador.listener("in");
    let running = BOTH.map(|mailer| (mailer, mailer.start(door, &[], &mail("no", "hello\n"))));
    ambassador.wait_state("/api/v1/connections", "both wait", |live| (live["total"] == 2).then_some(()));
    ambassador.process().signal("TERM");
    let words = running.map(|(mailer, running)| printed(mailer, &running.finish(LIMIT))).concat();
    let record = told(ambassador.wait_records(2).last().unwrap());
    insta::assert_snapshot!(unnumbered(&pki, &format!("{words}{record}")), @r#"
Swaks [21]
<** 421-4.3.2 nuncio: shutting down: no new connections are taken
<** 421-4.3.2 connect again: another instance, or this one after its restart, will answer
<** 421 4.3.2 nuncio: draining, connection ID
Smtplib [1]
SMTPConnectError: (421, b'4.3.2 nuncio: shutting down: no new connections are taken
4.3.2 connect again: another instance, or this one after its restart, will answer
4.3.2 nuncio: draining, connection ID')
refused at negotiate: draining (ambassador)
  shutting down: no new connections are taken
  connect again: another instance, or this one after its restart, will answer
"#);
}

/// Postfix as the client keeps the mail, and its own log has the reason.
#[test]
#[ignore = "needs postfix and swaks, and root: tests/run installs them"]
fn a_postfix_that_is_refused_keeps_the_mail_and_logs_why() {
    let pki = Pki::generate();
    let ambassador = Ambassador::start(&behind(&pki, &[free_address()], "retry.attempts = 1\n"));
    let door = ambassador.listener("in");
    let relay = format!("relay_transport = smtp:[{}]:{}", door.ip(), door.port());
    let mut front = MailServer::postfix_with(
        &pki,
        &pki.server,
        &[
            "smtpd_tls_security_level = none",
            "virtual_mailbox_domains =",
            "relay_domains = upstream.test",
            "disable_dns_lookups = yes",
            &relay,
        ],
    );
    Mailer::Swaks.send(front.address(), "kept").answer();
    let line = front.process().wait_line("status=deferred", LIMIT);
    let (_, why) = line.split_once("status=").unwrap();
    insta::assert_snapshot!(unnumbered(&pki, why), @r#"
deferred (host 127.0.0.1[127.0.0.1] refused to talk to me: 421-4.4.1 nuncio: 127.0.0.1:PORT refused the connection 421-4.4.1 is the server running, and does it listen on this address and port? 421 4.4.1 nuncio: connection_refused, connection ID)
"#);
}
