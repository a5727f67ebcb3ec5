//! Servers that say what they should not, or nothing: no client waits in vain, and each reads why.

use super::super::harness::Pki;
use super::super::harness::ambassador::Ambassador;
use super::super::harness::smtp::{Scripted, Step, Typist, say, starttls_then};
use super::{behind, told, unnumbered};

/// A client comes, greets where it is greeted, and reads to the end: what it read, and the record.
#[track_caller]
fn what_comes_of(pki: &Pki, steps: Vec<Step>, keys: &str) -> (String, String) {
    let server = Scripted::start(pki.server_config(), steps);
    let keys = format!("retry.attempts = 1\n{keys}");
    let mut ambassador = Ambassador::start(&behind(pki, &[server.address()], &keys));
    let mut client = Typist::connect(ambassador.listener("in"));
    let mut read = client.reply();
    if read.starts_with("220") {
        read += &client.asks("EHLO client.test");
    }
    read += &client.rest();
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    (unnumbered(pki, &read), unnumbered(pki, &told(&record)))
}

const GREETING: &str = "220 mx.upstream.test ESMTP\r\n";
const OFFER: &str = "250-mx.upstream.test\r\n250 STARTTLS\r\n";

/// What somebody on the way puts behind the answer to STARTTLS would count as said inside TLS (CVE-2011-0411).
#[test]
fn bytes_injected_behind_the_answer_to_starttls_reach_nobody() {
    let pki = Pki::generate();
    for injected in ["220 2.0.0 go ahead\r\n250-mx\r\n250 AUTH EVIL\r\n", "220 2.0.0 go ahead\r\n2"] {
        let steps = vec![say(GREETING), Step::Hear, say(OFFER), Step::Hear, say(injected), Step::Tls];
        let (read, told) = what_comes_of(&pki, steps, "");
        assert!(read.starts_with("421-4.5.0 nuncio: ") && !read.contains("EVIL"), "{read}");
        assert!(told.contains("CVE-2011-0411") && told.contains(" in plaintext came behind"), "{told}");
        assert!(told.starts_with("failed at negotiate: negotiation_error (upstream)"), "{told}");
    }
}

/// Each kind of trouble before TLS: what the client reads names it, and so does the record.
#[test]
fn what_is_amiss_before_tls_is_told_to_the_client_and_in_the_record() {
    let pki = Pki::generate();
    let short = "timeouts.negotiate = \"400ms\"\n";
    let mut shown = String::new();
    for (name, steps, keys) in [
        ("says 554 at once", vec![say("554 5.7.1 go away\r\n")], ""),
        ("says 421 at once", vec![say("421-4.3.2 busy\r\n421 4.3.2 come later\r\n"), Step::Cut], ""),
        ("says nothing", vec![Step::Hear], short),
        ("says half a greeting", vec![say("220-mx.up"), Step::Hear], short),
        ("hangs up at once", vec![Step::Cut], ""),
        ("resets after its greeting", vec![say(GREETING), Step::Hear, Step::Reset], ""),
        ("is SSH", vec![say("SSH-2.0-OpenSSH_9.2p1\r\n")], ""),
        ("is MySQL", vec![say(b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0")], ""),
        ("is a TLS alert", vec![say(b"\x15\x03\x03\0\x02\x02\x0a")], ""),
        ("does not know EHLO", vec![say(GREETING), Step::Hear, say("502 5.5.1 what?\r\n")], ""),
        ("has no STARTTLS", vec![say(GREETING), Step::Hear, say("250-mx\r\n250-SIZE 1\r\n250 DSN\r\n")], ""),
        (
            "says no to STARTTLS",
            vec![say(GREETING), Step::Hear, say(OFFER), Step::Hear, say("454 4.7.0 no key\r\n")],
            "",
        ),
        (
            "says yes and no TLS",
            vec![say(GREETING), Step::Hear, say(OFFER), Step::Hear, say("220 go\r\n"), Step::Hear],
            "timeouts.handshake = \"400ms\"\n",
        ),
        (
            "hangs up instead of TLS",
            vec![say(GREETING), Step::Hear, say(OFFER), Step::Hear, say("220 go\r\n"), Step::Cut],
            "",
        ),
    ] {
        let (read, told) = what_comes_of(&pki, steps, keys);
        // What the client reads has the record's detail and mend, and its reason.
        let reason = told.split([':', '(']).nth(1).unwrap_or_default().trim();
        let last = read.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("421 4.") && last.ends_with(&format!(" nuncio: {reason}, connection ID")),
            "{name}: {read}"
        );
        let words: String =
            read.lines().flat_map(|line| line.split(' ').skip(1)).collect::<Vec<_>>().join(" ");
        for part in told.lines().skip(1) {
            let part = part.trim().replace("...", "");
            assert!(words.contains(&part) || part.contains("\\x"), "{name}: {part}\n{read}");
        }
        shown += &format!("{name}: {told}\n");
    }
    insta::assert_snapshot!(shown, @r#"
says 554 at once: failed at negotiate: negotiation_refused (upstream)
  the server does not serve this host: 554 5.7.1 go away
  look in the server's log for why; it may not allow this host's address
says 421 at once: failed at negotiate: negotiation_refused (upstream)
  the server does not serve now: 421 4.3.2 busy 4.3.2 come later
  look in the server's log for why; it may have too many connections, from this host or in all
says nothing: failed at negotiate: negotiation_timeout (upstream)
  the server's greeting did not come within 400ms
  if this port speaks TLS from its first byte (465), set tls = "direct"; if the server greets late on purpose or looks its clients up in a slow DNS, raise timeouts.negotiate
says half a greeting: failed at negotiate: negotiation_timeout (upstream)
  the server's greeting did not come within 400ms
  is `protocol` the one that this server speaks? Some wait for the client to begin
hangs up at once: failed at negotiate: connection_terminated (upstream)
  the server hung up before its greeting
  look in the server's log: it may not allow this host's address, or have too many connections; or, if this port speaks TLS from its first byte (465), set tls = "direct"
resets after its greeting: failed at negotiate: connection_terminated (upstream)
  the connection broke while nuncio waited for the server's answer to EHLO: Connection reset by peer (os error 104)
  look in the server's log for why it hung up
is SSH: failed at negotiate: negotiation_error (upstream)
  what the server said first is no SMTP reply, but begins with "SSH-2.0-OpenSSH_9.2p1"
  is `protocol` the one that this server speaks?
is MySQL: failed at negotiate: negotiation_error (upstream)
  what the server said first is no SMTP reply, but begins with "J\x00"
  is `protocol` the one that this server speaks?
is a TLS alert: failed at negotiate: negotiation_error (upstream)
  what the server said first is no SMTP reply, but begins with "\x15"
  the port speaks TLS from its first byte: set tls = "direct"
does not know EHLO: failed at negotiate: negotiation_refused (upstream)
  the server does not know EHLO (502 5.5.1 what?), so it has no STARTTLS; its greeting was "220 mx.upstream.test ESMTP"
  switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = "direct"
has no STARTTLS: failed at negotiate: negotiation_refused (upstream)
  the server offers no STARTTLS, only: SIZE DSN
  switch STARTTLS on at the server (Postfix: smtpd_tls_security_level and a certificate; Exim: tls_advertise_hosts); or, if this port speaks TLS from its first byte (465), set tls = "direct"
says no to STARTTLS: failed at negotiate: negotiation_refused (upstream)
  the server offers STARTTLS and then said no to it: 454 4.7.0 no key
  look in the server's log for why: its certificate or key may not load
says yes and no TLS: failed at handshake: handshake_timeout (upstream)
  the server took the connection and did not answer our first TLS message (ClientHello, N bytes) within 400ms
  look in the server's log for why it did not begin the TLS that it had agreed to: its certificate or key may not load; or an old firewall or server may drop a message of more than one packet: set `post_quantum = false`
hangs up instead of TLS: failed at handshake: connection_terminated (upstream)
  the server closed the connection at our first TLS message (ClientHello), without an answer
  look in the server's log for why it did not begin the TLS that it had agreed to: its certificate or key may not load; or an old TLS library may choke on a message of N bytes: set `post_quantum = false`
"#);
}

/// Endless lines and endless replies are cut short, before TLS and for the greeting as for the rest.
#[test]
fn a_server_that_never_ends_its_words_is_stopped() {
    let pki = Pki::generate();
    let line = say([b"220 ".as_slice(), &vec![b'x'; 3_000_000]].concat());
    let reply = say(b"220-mx.upstream.test\r\n".repeat(100_000));
    let offer = say(b"250-X\r\n".repeat(100_000));
    for steps in [vec![line], vec![reply], vec![say(GREETING), Step::Hear, offer]] {
        let (read, told) = what_comes_of(&pki, steps, "");
        assert!(read.starts_with("421-4."), "{read}");
        assert!(told.contains("negotiation_error (upstream)"), "{told}");
        assert!(told.contains(" goes on beyond "), "{told}");
    }
}

/// Inside TLS the client has been greeted and awaits the answer to its EHLO: it is told there.
#[test]
fn what_is_amiss_inside_tls_is_told_in_place_of_the_answer() {
    let pki = Pki::generate();
    let mut shown = String::new();
    for (name, inside) in [
        ("hangs up in order", vec![Step::Hear, Step::Close]),
        ("hangs up", vec![Step::Hear, Step::Cut]),
        ("resets", vec![Step::Hear, Step::Reset]),
        ("hangs up within its answer", vec![Step::Hear, say("250-mx.upstream.test\r\n250-SI"), Step::Cut]),
        ("says no itself", vec![Step::Hear, say("421 4.7.1 mx.upstream.test not you\r\n"), Step::Close]),
    ] {
        let (read, told) = what_comes_of(&pki, starttls_then(&inside), "breaker.early_close = \"1m\"\n");
        shown += &format!("{name}:\n{read}\n{told}\n");
    }
    insta::assert_snapshot!(shown, @r#"
hangs up in order:
220 mx.upstream.test ESMTP
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
failed at greet: early_close (upstream)
  the server took the handshake, asked for our certificate in it, and hung up before its first byte
  look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
hangs up:
220 mx.upstream.test ESMTP
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
failed at greet: early_close (upstream)
  the server took the handshake, asked for our certificate in it, and hung up before its first byte
  look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
resets:
220 mx.upstream.test ESMTP
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
421-4.4.2 nuncio: the server took the handshake, asked for our certificate in it, and hung up before its first byte
421-4.4.2 look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
421 4.4.2 nuncio: early_close, connection ID
failed at greet: early_close (upstream)
  the server took the handshake, asked for our certificate in it, and hung up before its first byte
  look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
hangs up within its answer:
220 mx.upstream.test ESMTP
421-4.4.2 nuncio: the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing
421-4.4.2 the server crashed or something cut the connection; if it always ends so, set on_truncation = "close"
421 4.4.2 nuncio: truncated, connection ID
421-4.4.2 nuncio: the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing
421-4.4.2 the server crashed or something cut the connection; if it always ends so, set on_truncation = "close"
421 4.4.2 nuncio: truncated, connection ID
failed at greet: truncated (upstream)
  the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing
  the server crashed or something cut the connection; if it always ends so, set on_truncation = "close"
says no itself:
220 mx.upstream.test ESMTP
421 4.7.1 mx.upstream.test not you
421-4.7.4 nuncio: the server took the handshake and then said no to EHLO: 421 4.7.1 mx.upstream.test not you
421-4.7.4 look in the server's log for why; it may not trust our certificate, or miss one
421 4.7.4 nuncio: negotiation_refused, connection ID
421-4.7.4 nuncio: the server took the handshake and then said no to EHLO: 421 4.7.1 mx.upstream.test not you
421-4.7.4 look in the server's log for why; it may not trust our certificate, or miss one
421 4.7.4 nuncio: negotiation_refused, connection ID
failed at greet: negotiation_refused (upstream)
  the server took the handshake and then said no to EHLO: 421 4.7.1 mx.upstream.test not you
  look in the server's log for why; it may not trust our certificate, or miss one
"#);
}
