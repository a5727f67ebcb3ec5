//! LMTP (RFC 2033) with STARTTLS (RFC 3207): SMTP's machine, asked with LHLO.

use super::smtp::{FAREWELL, Kin, Negotiation, greet, refusal, upgrade};
use super::{Asking, Dialect, Facts, First, Meeting, Negotiated, Ports, Refusal, Say, Talk};
use crate::relay::Greeting;

const FACTS: Facts = Facts {
    name: "lmtp",
    title: "LMTP",
    first: First::Server,
    asks_with: Some("STARTTLS"),
    alpn: None,
    // None is registered. 24 stands for any private mail system, and is what most documentation has.
    ports: Ports { plain: Some(24), direct: None },
    refuses_with: "421 with the reason in words: the mail stays in the sender's queue",
    limits: "mechanisms bound to the server's TLS (SCRAM-…-PLUS) and STARTTLS are taken out of what the server offers; \
             where a listener has TLS, STARTTLS before MAIL ends there",
};

const LMTP: Kin = Kin {
    title: "LMTP",
    hello: "LHLO",
    answer_to_hello: "the server's answer to LHLO",
    switch_on: "switch STARTTLS on at the server (Dovecot: ssl = yes with ssl_cert and ssl_key; Cyrus: tls_server_cert \
                and tls_server_key); or, if this port speaks TLS from its first byte, set tls = \"direct\"",
    if_direct: "if this port speaks TLS from its first byte, set tls = \"direct\"",
    if_late: "if this port speaks TLS from its first byte, set tls = \"direct\"; if the server has too few processes, \
              raise their number",
    began_with_tls: "the client began with TLS where plaintext LMTP is expected",
    // Who delivers by LMTP has a queue, and 5xx would return all mail in it for a wrong line in a listener's `allow`.
    forbids: ("421", "4.7.1"),
    upgrade: upgrade(
        &["LHLO", "HELP", "NOOP", "QUIT", "RSET"],
        "the client began with TLS where it has to ask for it, in LMTP",
    ),
};

pub(super) struct Lmtp;

impl Dialect for Lmtp {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn negotiation(&self, asking: &Asking<'_>) -> Option<Box<dyn Talk<Outcome = Negotiated>>> {
        Some(Box::new(Negotiation::new(&LMTP, asking.as_host)))
    }

    fn greet(&self, meeting: Meeting) -> Greeting {
        greet(&LMTP, meeting)
    }

    fn refusal(&self, refused: &Refusal<'_>) -> Option<Box<dyn Talk<Outcome = ()>>> {
        Some(Box::new(Say(refusal(&LMTP, refused))))
    }

    fn farewell(&self) -> &'static [u8] {
        FAREWELL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Reason, Stage};
    use crate::protocol::Offer;
    use crate::relay::Onward;

    const LIKE_SMTP: &str = "220 box.example.com Dovecot ready.\r\n250-box.example.com\r\n250-STARTTLS\r\n250-8BITMIME\r\n\
                             250-PIPELINING\r\n250 DSN\r\n220 2.0.0 Begin TLS negotiation now.\r\n";

    fn asking() -> Box<dyn Talk<Outcome = Negotiated>> {
        let asking = Asking { as_host: "me.example.com", server_name: "", opening: b"", alone: true };
        Lmtp.negotiation(&asking).unwrap()
    }

    fn hear(server: &str) -> (String, Result<Option<Negotiated>, Failure>) {
        let mut said = Vec::new();
        let result = asking().hear(&mut server.into(), &mut said);
        (String::from_utf8(said).unwrap(), result)
    }

    /// SMTP's machine, but its own word: a server of LMTP must not take EHLO.
    #[test]
    fn a_server_is_asked_with_lhlo() {
        let greeting = LIKE_SMTP.split_inclusive('\n').next().unwrap().into();
        let asked = ("LHLO me.example.com\r\nSTARTTLS\r\n".to_owned(), Ok(Some(Negotiated { greeting })));
        assert_eq!(hear(LIKE_SMTP), asked);
        for (server, detail, mend) in [
            ("220 box\r\n250-box\r\n250 DSN\r\n", "offers no STARTTLS, only: DSN", "Dovecot: ssl = yes"),
            (
                "220 mx\r\n502 5.5.2 Error: command not recognized\r\n",
                "does not know LHLO",
                "switch STARTTLS on",
            ),
            ("+OK Dovecot ready.\r\n", "is no LMTP reply, but begins with \"+OK Dovecot", "`protocol`"),
            (&[LIKE_SMTP, "250 injected\r\n"].concat(), "bytes in plaintext came behind", "CVE-2011-0411"),
        ] {
            let failure = hear(server).1.unwrap_err();
            assert!(failure.detail.contains(detail), "{failure}");
            assert!(failure.next_step().contains(mend), "{failure}");
        }
        assert!(asking().ended(b"").unwrap().next_step().contains("tls = \"direct\""));
    }

    #[test]
    fn a_client_asks_lhlo_and_is_offered_no_tls() {
        let meeting = Meeting {
            opening: Default::default(),
            negotiated: Negotiated { greeting: b"220 box\r\n".into() },
            secured: true,
            offer: Offer::No,
            keep_key: Box::new(drop),
        };
        let Greeting { mut onward, greeter } = Lmtp.greet(meeting);
        let mut greeter = greeter.unwrap();
        greeter.client_said(b"LHLO me\r\n", &mut onward).unwrap();
        assert!(greeter.may_refuse());
        greeter.upstream_said(b"250-box\r\n250-STARTTLS\r\n250 AUTH X-PLUS PLAIN\r\n", &mut onward).unwrap();
        assert_eq!(onward.down, b"220 box\r\n250-box\r\n250 AUTH PLAIN\r\n");
        assert_eq!(onward.up, b"LHLO me\r\n");
        greeter.client_said(b"MAIL FROM:<>\r\n", &mut Onward::default()).unwrap();
        assert!(greeter.is_done());
    }

    /// Whatever the reason is, the mail stays where it is.
    #[test]
    fn no_refusal_returns_mail() {
        for reason in Reason::ALL {
            let failure = Failure::upstream(Stage::Admit, *reason, "seen");
            for greeted in [false, true] {
                let refusal = Refusal { failure: &failure, id: "1d", greeted, said: b"" };
                let mut said = Vec::new();
                assert_eq!(Lmtp.refusal(&refusal).unwrap().hear(&mut Vec::new(), &mut said), Ok(Some(())));
                let said = String::from_utf8(said).unwrap();
                assert!(said.starts_with("421-4.") && said.contains("nuncio: seen\r\n421-4."), "{said}");
                assert!(said.lines().all(|line| line.starts_with("421")), "{said}");
            }
        }
    }
}
