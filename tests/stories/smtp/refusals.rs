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
        Mailer::Swaks => &ran.stdout,
        _ => &ran.stderr,
    };
    let is_answer = |line: &&str| line.starts_with('<') || !matches!(mailer, Mailer::Swaks);
    let lines: Vec<_> = lines.lines().filter(is_answer).map(str::trim_end).collect();
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

    let file = behind(&pki, &[free_address()], &format!("{once}breaker.consecutive = 1\n"));
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

    insta::assert_snapshot!(shown, @"");
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
    insta::assert_snapshot!(shown, @"");
}

#[test]
#[ignore = "needs postfix and swaks, and root: tests/run installs them"]
fn mail_programs_print_that_the_server_has_no_starttls() {
    let pki = Pki::generate();
    let mut server = MailServer::postfix_with(&pki, &pki.server, &["smtpd_tls_security_level = none"]);
    let file = behind(&pki, &[server.address()], "retry.attempts = 1\n");
    let shown = refused(&pki, "server without STARTTLS", &mut Ambassador::start(&file), 0);
    insta::assert_snapshot!(shown, @"");
    // We left with a word.
    let log = server.process().lines().join("\n");
    assert!(!log.contains("lost connection"), "{log}");
}

/// They wait for a server that does not greet while nuncio is told to end.
#[test]
#[ignore = "needs swaks: tests/run installs it"]
fn mail_programs_print_that_nuncio_is_going() {
    let pki = Pki::generate();
    let silent = Scripted::start(pki.server_config(), vec![Step::Hear]);
    let keys = "retry.attempts = 1\ntimeouts.negotiate = \"20s\"\ntimeouts.establish = \"20s\"\n";
    let file = format!("drain_timeout = \"0s\"\n{}", behind(&pki, &[silent.address()], keys));
    let mut ambassador = Ambassador::start(&file);
    let door = ambassador.listener("in");
    let running = BOTH.map(|mailer| (mailer, mailer.start(door, &[], &mail("no", "hello\n"))));
    ambassador.wait_state("/api/v1/connections", "both wait", |live| (live["total"] == 2).then_some(()));
    ambassador.process().signal("TERM");
    let words = running.map(|(mailer, running)| printed(mailer, &running.finish(LIMIT))).concat();
    let record = told(ambassador.wait_records(2).last().unwrap());
    insta::assert_snapshot!(unnumbered(&pki, &format!("{words}{record}")), @"");
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
    insta::assert_snapshot!(unnumbered(&pki, why), @"");
}
