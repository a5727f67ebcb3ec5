//! What clients see of a server that says exactly this.

use super::super::harness::ambassador::Ambassador;
use super::super::harness::smtp::{Scripted, Step, Typist, say};
use super::super::harness::{Pki, config};
use super::ALL;

/// A line, and the list that it is answered.
#[track_caller]
fn list(client: &mut Typist, line: &str) -> String {
    let mut list = client.asks(line);
    while !list.ends_with("\r\n.\r\n") {
        let next = client.reply();
        assert!(!next.is_empty(), "it ends amid a list: {list}");
        list += &next;
    }
    list
}

/// APOP needs the greeting's stamp. A client without TLS takes STLS for a must, and -PLUS for an attack.
#[test]
fn a_pop3_client_gets_the_stamp_and_no_word_of_tls() {
    let pki = Pki::generate();
    let [pop3, ..] = ALL;
    let offer = "+OK\r\nSTLS\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256-PLUS\r\n.\r\n";
    let inside = [
        Step::Hear,
        say(offer),
        Step::Hear,
        say("+OK\r\nSCRAM-SHA-256-PLUS\r\nPLAIN\r\n.\r\n"),
        Step::Hear,
        say("-ERR [AUTH] no\r\n"),
        Step::Hear,
        say("+OK welcome\r\n"),
        Step::Hear,
        // From here on nobody reads along: this is the server's own business.
        say(offer),
    ];
    let server = Scripted::start(pki.server_config(), pop3.steps("", &inside));
    let mut ambassador = Ambassador::start(&pop3.behind(&pki, server.address(), ""));
    let mut client = Typist::connect(ambassador.listener("in"));
    assert_eq!(client.reply(), pop3.greeting());
    assert_eq!(list(&mut client, "capa"), "+OK\r\nUSER\r\nSASL PLAIN\r\n.\r\n");
    assert_eq!(list(&mut client, "AUTH"), "+OK\r\nPLAIN\r\n.\r\n");
    assert_eq!(client.asks("APOP u 00"), "-ERR [AUTH] no\r\n");
    assert_eq!(client.asks("APOP u c4c9334bac560ecc979e58001b3e22fb"), "+OK welcome\r\n");
    assert_eq!(list(&mut client, "CAPA"), offer);
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    assert_eq!(record["outcome"], "success", "{record}");
    let asked = ["STLS", "capa", "AUTH", "APOP u 00", "APOP u c4c9334bac560ecc979e58001b3e22fb", "CAPA"];
    assert_eq!(server.heard(), asked);
}

/// INN's innd takes feeds and leaves readers to nnrpd, which alone knows STARTTLS: it is asked for, as a reader would.
#[test]
fn a_reader_behind_innd_is_handed_over_to_nnrpd_first() {
    let pki = Pki::generate();
    let [_, nntp, _] = ALL;
    let steps = vec![
        say("200 innd ready (transit mode)\r\n"),
        Step::Hear,
        say("401 MODE-READER\r\n"),
        Step::Hear,
        say("201 nnrpd ready (no posting)\r\n"),
        Step::Hear,
        say("382 go\r\n"),
        Step::Tls,
        Step::Hear,
        say("101 list:\r\nVERSION 2\r\nSTARTTLS\r\nAUTHINFO USER SASL\r\nSASL X-PLUS\r\n.\r\n"),
        Step::Hear,
        say("211 0 1 0 local.test\r\n"),
    ];
    let server = Scripted::start(pki.server_config(), steps);
    let ambassador = Ambassador::start(&nntp.behind(&pki, server.address(), ""));
    let mut client = Typist::connect(ambassador.listener("in"));
    assert_eq!(client.reply(), "201 nnrpd ready (no posting)\r\n");
    assert_eq!(list(&mut client, "CAPABILITIES"), "101 list:\r\nVERSION 2\r\nAUTHINFO USER\r\n.\r\n");
    assert_eq!(client.asks("GROUP local.test"), "211 0 1 0 local.test\r\n");
    assert_eq!(server.heard(), ["STARTTLS", "MODE READER", "STARTTLS", "CAPABILITIES", "GROUP local.test"]);
}

/// What somebody on the way puts behind the answer would count as said inside TLS (CVE-2011-0411).
#[test]
fn bytes_injected_behind_the_answer_reach_nobody() {
    let pki = Pki::generate();
    for spoken in ALL {
        for injected in ["+OK EVIL\r\n281 EVIL\r\n250 EVIL\r\n", "\x16"] {
            let server = Scripted::start(pki.server_config(), spoken.steps(injected, &[]));
            let mut ambassador = Ambassador::start(&spoken.behind(&pki, server.address(), ""));
            let read = Typist::connect(ambassador.listener("in")).rest();
            assert!(read.starts_with(spoken.refuses) && !read.contains("EVIL"), "{read}");
            assert!(read.contains("CVE-2011-0411"), "{read}");
            let record = ambassador.wait_records(1).remove(0);
            assert_eq!(record["reason"], "negotiation_error", "{record}");
        }
    }
}

/// TLS 1.3 refuses a client's certificate when the client has its greeting already: it is told in place of its first answer,
/// and once more for those who take that for an old server's.
#[test]
fn a_late_refusal_answers_the_first_command() {
    let pki = Pki::generate();
    for spoken in ALL {
        let server = Scripted::start(pki.server_config(), spoken.steps("", &[Step::Hear]));
        let upstream = spoken.upstream(server.address(), "");
        let mut ambassador = Ambassador::start(&config::anonymous(&pki, &upstream));
        let mut client = Typist::connect(ambassador.listener("in"));
        assert_eq!(client.reply(), spoken.greeting());
        let read = client.asks(spoken.first);
        assert!(read.starts_with(spoken.refuses) && read.contains("certificate"), "{read}");
        assert_eq!(client.asks("NOOP"), read);
        let record = ambassador.wait_records(1).remove(0);
        assert_eq!(record["reason"], "client_certificate_refused", "{record}");
    }
}

/// Words that the client typed into a TLS session which it has not got: it is told, and the server hears none of them.
#[test]
fn a_client_that_begins_with_tls_is_told() {
    let pki = Pki::generate();
    for spoken in ALL {
        let server = Scripted::start(pki.server_config(), spoken.steps("", &[Step::Hear]));
        let mut ambassador = Ambassador::start(&spoken.behind(&pki, server.address(), ""));
        let mut client = Typist::connect(ambassador.listener("in"));
        assert_eq!(client.reply(), spoken.greeting());
        client.types(b"\x16\x03\x01\x02\0");
        let read = client.rest();
        assert!(read.starts_with(spoken.refuses) && read.contains("switch TLS off in the client"), "{read}");
        let record = ambassador.wait_records(1).remove(0);
        assert_eq!(
            (&record["reason"], &record["side"]),
            (&"bad_preface".into(), &"client".into()),
            "{record}"
        );
    }
}
