//! Mail servers and clients among themselves, without nuncio: what the stories with nuncio rest on.

#![cfg(unix)]

use super::harness::Pki;
use super::harness::mail::{MailServer, Mailer};

/// A plaintext client is sent away, one with the certificate is not, and the mail's header tells which it was.
#[track_caller]
fn demands_a_certificate(pki: &Pki, server: &MailServer, proof: &str) {
    for mailer in Mailer::ALL {
        let ran = mailer.send(server.address(), "plain");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!ran.status.success() && said.contains("Must issue a STARTTLS command first"), "{ran:#?}");
    }
    for mailer in Mailer::ALL {
        let subject = format!("from {mailer:?}");
        mailer.send_over_tls(server.address(), &subject, pki, &pki.client).answer();
        let mail = server.wait_mail(&subject);
        assert!(mail.contains(proof) && mail.contains("TLS"), "{mail}");
    }
    assert_eq!(server.mails().len(), 3);
}

#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn postfix_demands_a_certificate_and_tells_of_it() {
    let pki = Pki::generate();
    let server = MailServer::postfix(&pki);
    demands_a_certificate(
        &pki,
        &server,
        "(Client CN \"client.test\", Issuer \"nuncio test CA\" (verified OK))",
    );
}

#[test]
#[ignore = "needs exim, swaks and msmtp, and root: tests/run installs them"]
fn exim_demands_a_certificate_and_tells_of_it() {
    let pki = Pki::generate();
    let server = MailServer::exim(&pki);
    demands_a_certificate(&pki, &server, "(client CN=client.test, verified 1)");
}

/// For stories of a server without TLS, and of one that has TLS from the first byte.
#[test]
#[ignore = "needs postfix, swaks and msmtp, and root: tests/run installs them"]
fn postfix_without_tls_takes_mail_of_every_client() {
    let pki = Pki::generate();
    let server = MailServer::postfix_with(&pki, &pki.server, &["smtpd_tls_security_level = none"]);
    for mailer in Mailer::ALL {
        let subject = format!("from {mailer:?}");
        mailer.send(server.address(), &subject).answer();
        assert!(!server.wait_mail(&subject).contains("TLS"));
    }
}
