//! The likeliest errors as people meet them, in a row: read them as somebody who did not write them, and is tired.
//!
//! Each names where it is, what is wrong, and what to do.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::AlertDescription;
use tempfile::TempDir;

use super::harness::ambassador::{Ambassador, run};
use super::harness::hostile::Point;
use super::harness::peer::Peer;
use super::harness::pki::{fixture, serving};
use super::harness::wording::redacted;
use super::harness::{Hostile, Pki, Upstream, clients, free_address};

/// Whoever mistypes a command line reads this.
#[test]
fn wrong_usage_is_told_with_the_right_one() {
    let directory = TempDir::new().unwrap();
    let told = [
        "chek",
        "run --confg a.toml",
        "check a.toml",
        "probe",
        "probe orders",
        "probe db.corp.example",
        "probe https://db.corp.example:5433/",
        "probe orders --ca ca.pem",
        "probe db.corp.example:5433 --config nuncio.toml",
        "probe db.corp.example:5433 --cert client.pem",
        "bridge 127.0.0.1:5432",
        "bridge localhost:5432 db:5433",
        "bridge 0.0.0.0:5432 db:5433",
        "bridge 127.0.0.1:5432 db",
        "bridge 127.0.0.1:5432 db:5433 --tls on --protocol kafka --pin abc --allow lan --admin 0.0.0.0:80",
        "bridge 127.0.0.1:5432 db:5433 --tls off --ca ca.pem",
        "bridge 127.0.0.1:0 db:5433 --ca nowhere.pem",
    ]
    .map(|line| {
        let arguments: Vec<_> = line.split(' ').collect();
        let (code, out, err) = run(&arguments, directory.path());
        assert_eq!(out, "", "{line}");
        let err = err.replace(&directory.path().canonicalize().unwrap().display().to_string(), "HERE");
        format!("$ nuncio {line}\n{}\n[{}]\n", err.trim_end(), code.unwrap())
    });
    insta::assert_snapshot!(told.join("\n"), @r#"
$ nuncio chek
error: unrecognized subcommand 'chek'

  tip: a similar subcommand exists: 'check'

Usage: nuncio <COMMAND>

For more information, try '--help'.
[2]

$ nuncio run --confg a.toml
error: unexpected argument '--confg' found

  tip: a similar argument exists: '--config'

Usage: nuncio run --config <FILE>

For more information, try '--help'.
[2]

$ nuncio check a.toml
error: unexpected argument 'a.toml' found

  tip: the configuration is named with a flag: --config a.toml

Usage: nuncio check [OPTIONS]

For more information, try '--help'.
[2]

$ nuncio probe
/etc/nuncio/nuncio.toml: there is no such file
  mend: name the file with --config FILE, as in nuncio check --config FILE; without it, /etc/nuncio/nuncio.toml is read, and for an ordinary user on a terminal also ./nuncio.toml
[3]

$ nuncio probe orders
/etc/nuncio/nuncio.toml: there is no such file
  mend: name the file with --config FILE, as in nuncio check --config FILE; without it, /etc/nuncio/nuncio.toml is read, and for an ordinary user on a terminal also ./nuncio.toml

nuncio: to dial a server without a file, name its port: nuncio probe orders:PORT
[3]

$ nuncio probe db.corp.example
nuncio: 'db.corp.example' has no port: write db.corp.example:PORT
[2]

$ nuncio probe https://db.corp.example:5433/
nuncio: 'https://db.corp.example:5433/': write HOST:PORT alone, as in db.example.com:5432
[2]

$ nuncio probe orders --ca ca.pem
nuncio: --ca is for HOST:PORT: the file says how upstream 'orders' is dialled
[2]

$ nuncio probe db.corp.example:5433 --config nuncio.toml
nuncio: --config has no say in db.corp.example:5433: name an upstream of the file, or leave --config out
[2]

$ nuncio probe db.corp.example:5433 --cert client.pem
error: the following required arguments were not provided:
  --key <FILE>

Usage: nuncio probe --cert <FILE> --key <FILE> <UPSTREAM|HOST:PORT>

For more information, try '--help'.
[2]

$ nuncio bridge 127.0.0.1:5432
error: the following required arguments were not provided:
  <UPSTREAM>...

Usage: nuncio bridge <LISTEN> <UPSTREAM>...

For more information, try '--help'.
[2]

$ nuncio bridge localhost:5432 db:5433
nuncio: LISTEN: 'localhost:5432' is not IP:PORT, unix:/PATH or systemd:NAME
  mend: write 127.0.0.1:5432 or [::1]:5432
[2]

$ nuncio bridge 0.0.0.0:5432 db:5433
nuncio: LISTEN: other hosts could reach 0.0.0.0:5432, and act with our certificate
  mend: say who may: --allow 10.0.0.0/8; or listen on 127.0.0.1:5432
[2]

$ nuncio bridge 127.0.0.1:5432 db
nuncio: UPSTREAM: 'db' has no port
  mend: write db:PORT
[2]

$ nuncio bridge 127.0.0.1:5432 db:5433 --tls on --protocol kafka --pin abc --allow lan --admin 0.0.0.0:80
nuncio: --admin: other hosts could reach 0.0.0.0:80: all of them could read, and what is sent there goes in plaintext
  mend: write "127.0.0.1:80" or "unix:/run/nuncio/admin.sock"
nuncio: --protocol: "kafka" is not among them: a client asks any broker for the addresses of all, and goes there itself
  mend: one listener a broker, and the listeners' addresses as the brokers' advertised.listeners
nuncio: --tls: "on" is unknown; known: "negotiate", "direct", "off"
  mend: write a known one
nuncio: --pin: 'abc' does not say what it pins
  mend: write spki-sha256:… or leaf-sha256:… with the SHA-256 in base64 or hex; nuncio probe prints both
nuncio: --allow: "lan" is not a network
  mend: write an address or a network, such as "10.1.2.3", "10.0.0.0/8" or "fd00::/8"
[2]

$ nuncio bridge 127.0.0.1:5432 db:5433 --tls off --ca ca.pem
nuncio: --ca, --cert and --key: says how TLS is done, and --tls off sends everything in plaintext
  mend: remove it, or write --tls direct
[2]

$ nuncio bridge 127.0.0.1:0 db:5433 --ca nowhere.pem
nuncio: --ca nowhere.pem: there is no such file in HERE; put it there, or correct the path
[3]
"#);
}

/// Without a command, the help says what there is, and the exit code that it was not a command.
#[test]
fn no_command_at_all_gets_the_help() {
    let (code, out, err) = run(&[], Path::new("."));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let (asked, help, _) = run(&["--help"], Path::new("."));
    assert_eq!((asked, help), (Some(0), err));
}

/// Every command's help names what it wants and how it ends.
#[test]
fn the_help_of_each_command_reads_well() {
    let told = ["run", "bridge", "check", "probe"].map(|command| {
        let (code, help, _) = run(&[command, "--help"], Path::new("."));
        assert_eq!(code, Some(0));
        format!("$ nuncio {command} --help\n{help}")
    });
    insta::assert_snapshot!(told.join("\n"), @r#"
$ nuncio run --help
Run the service that a configuration describes

Usage: nuncio run [OPTIONS]

Options:
  -c, --config <FILE>  The configuration. Without it: /etc/nuncio/nuncio.toml; for an ordinary user
                       on a terminal also ./nuncio.toml
  -h, --help           Print help
  -V, --version        Print version

SIGTERM or Ctrl-C stops it: open connections get drain_timeout, a second signal ends them at once.
SIGHUP reads the configuration again; one that is refused changes nothing.
NUNCIO_LOG=debug in the environment says more.

Exit codes: 0 stopped, 3 the configuration or what it loads is refused, 2 wrong usage.

$ nuncio bridge --help
Run one listener and one upstream, without a configuration

Usage: nuncio bridge [OPTIONS] <LISTEN> <UPSTREAM>...

Arguments:
  <LISTEN>       Where the program connects to: IP:PORT or unix:/PATH
  <UPSTREAM>...  The servers, HOST:PORT each; without the port, the one that --protocol has

Options:
      --ca <FILE>           PEM file with the CAs that the server is checked against. Without it:
                            the system's
      --cert <FILE>         PEM file with our certificate, and the chain behind it
      --key <FILE>          PEM file with our certificate's private key
      --server-name <NAME>  The name that the server's certificate must carry (and that is asked
                            for, as SNI). Without it: the HOST
      --pin <PIN>           Accept this key or certificate, whatever its CA and name:
                            spki-sha256:... or leaf-sha256:..., as `nuncio probe` prints them. May
                            be given several times
      --protocol <NAME>     What is spoken, as `nuncio protocols` lists it. Without it: tcp, which
                            is anything
      --tls <MODE>          negotiate: asked for in the protocol's own words. direct: from the first
                            byte. off: none, everything goes in plaintext. Without it: negotiate
                            where the protocol can, else direct
      --allow <NETWORK>     A network that may connect, such as 10.0.0.0/8, where LISTEN is not on
                            loopback. May be given several times
      --admin <ADDRESS>     Answer liveness, metrics and the API here, such as 127.0.0.1:9746
      --json                Write the log and the records as JSON
  -h, --help                Print help
  -V, --version             Print version

Examples:
  A PostgreSQL that demands a client certificate, for a program that speaks plaintext:
    nuncio bridge 127.0.0.1:5432 db.example.com:5432 --protocol postgres \
      --ca ca.pem --cert client.pem --key client.key
  The same of a Redis, whose TLS begins with the first byte:
    nuncio bridge 127.0.0.1:6379 redis.example.com:6379 \
      --ca ca.pem --cert client.pem --key client.key
  Two servers, of which one may be down; whoever may use the socket file may connect:
    nuncio bridge unix:/run/ldap.sock ldap1.example.com:636 ldap2.example.com:636
  A server that no CA vouches for, by its key (nuncio probe 10.0.0.5:8443 prints it):
    nuncio bridge 127.0.0.1:8443 10.0.0.5:8443 --pin spki-sha256:...

Ctrl-C ends it: open connections get 30 seconds, a second Ctrl-C ends them at once.
Paths start from the current directory.

$ nuncio check --help
Read a configuration and every file that it names, and say everything that is wrong

Usage: nuncio check [OPTIONS]

Options:
  -c, --config <FILE>  The configuration. Without it: /etc/nuncio/nuncio.toml; for an ordinary user
                       on a terminal also ./nuncio.toml
      --online         Resolve and dial every endpoint too, and hang up
      --json           Answer as JSON
  -h, --help           Print help
  -V, --version        Print version

Exit codes: 0 everything is fine (there may be warnings), 3 the file or what it loads is refused,
4 it loads, but a certificate of ours is out of date or, with --online, an endpoint cannot be used.

$ nuncio probe --help
Dial a server as the service would: what each step took, the certificates, what is wrong and what
mends it

Usage: nuncio probe [OPTIONS] [UPSTREAM|HOST:PORT]

Arguments:
  [UPSTREAM|HOST:PORT]  An upstream of the file, or HOST:PORT and the flags below. Without it: every
                        upstream of the file

Options:
  -c, --config <FILE>       The configuration. Without it: /etc/nuncio/nuncio.toml; for an ordinary
                            user on a terminal also ./nuncio.toml
      --ca <FILE>           PEM file with the CAs that the server is checked against. Without it:
                            the system's
      --cert <FILE>         PEM file with our certificate, and the chain behind it
      --key <FILE>          PEM file with our certificate's private key
      --server-name <NAME>  The name that the server's certificate must carry (and that is asked
                            for, as SNI). Without it: the HOST
      --pin <PIN>           Accept this key or certificate, whatever its CA and name:
                            spki-sha256:... or leaf-sha256:..., as `nuncio probe` prints them. May
                            be given several times
      --protocol <NAME>     What is spoken, as `nuncio protocols` lists it. Without it: tcp, which
                            is anything
      --tls <MODE>          negotiate: asked for in the protocol's own words. direct: from the first
                            byte. off: none, everything goes in plaintext. Without it: negotiate
                            where the protocol can, else direct
      --json                Answer as JSON
  -h, --help                Print help
  -V, --version             Print version

Examples:
  What certificate does this server show, and does it take mine?
    nuncio probe db.example.com:5433 --ca ca.pem --cert client.pem --key client.key
  A mail server, whose TLS begins with STARTTLS:
    nuncio probe mail.example.com:25 --protocol smtp
  The server is reached by its address, and its certificate names it:
    nuncio probe 10.0.0.5:8443 --ca ca.pem --server-name db.example.com
  Every endpoint of [upstream.orders] in the file, as the service dials it:
    nuncio probe orders

Exit codes: 0 every endpoint is fine, 4 one is not, 3 a file is refused, 2 wrong usage.
"#);
}

/// Whoever writes a file reads this. (All of them: tests/config/bad.)
#[test]
fn a_file_that_is_refused_is_told_where_and_why() {
    let directory = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let listener = "[listener.orders]\naddress = \"127.0.0.1:0\"\nupstream = \"orders\"\n\n";
    write("misspelled.toml", &format!("{listener}[upstream.orders]\nendpoint = [\"db:5433\"]\n"));
    write(
        "unit.toml",
        &format!("{listener}[upstream.orders]\nendpoints = [\"db:5433\"]\ntimeouts.connect = 3\n"),
    );
    write("name.toml", &format!("{listener}[upstream.order]\nendpoints = [\"db:5433\"]\n"));
    write(
        "open.toml",
        "[listener.orders]\naddress = \"0.0.0.0:5432\"\nupstream = { endpoints = [\"db:5433\"] }\n",
    );
    write("quotes.toml", "[listener.orders]\naddress = 127.0.0.1:5432\n");
    write(
        "taken.toml",
        &format!(
            "[listener.orders]\naddress = \"127.0.0.1:{port}\"\nupstream = {{ endpoints = [\"db:5433\"] }}\n"
        ),
    );
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.encrypted.key"].map(fixture);
    for (name, certificate, key) in [
        ("missing.toml", &fixture("nowhere.pem"), &key),
        ("encrypted.toml", &certificate, &key),
        ("pair.toml", &certificate, &fixture("server.key")),
        ("swapped.toml", &fixture("server.key"), &certificate),
    ] {
        let identity = format!(
            "[identity.corp]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
            ca.display(),
            certificate.display(),
            key.display()
        );
        write(
            name,
            &format!(
                "{listener}[upstream.orders]\nendpoints = [\"db:5433\"]\nidentity = \"corp\"\n{identity}"
            ),
        );
    }
    let told = [
        "absent",
        "misspelled",
        "unit",
        "name",
        "open",
        "quotes",
        "taken",
        "missing",
        "encrypted",
        "pair",
        "swapped",
    ]
    .map(|name| {
        let (code, out, err) = run(&["run", "--config", &format!("{name}.toml")], directory.path());
        assert_eq!((code, out.as_str()), (Some(3), ""), "{name}: {err}");
        let files = fixture("").display().to_string();
        let err = err.replace(&format!("sport = :{port}"), "sport = :PORT");
        redacted(&err.replace(&format!("{}/", files.trim_end_matches('/')), "/etc/nuncio/"))
    });
    insta::assert_snapshot!(told.join("\n\n"), @r#"
absent.toml: there is no such file
  mend: name the file with --config FILE, as in nuncio check --config FILE; without it, /etc/nuncio/nuncio.toml is read, and for an ordinary user on a terminal also ./nuncio.toml

misspelled.toml:6:1: upstream.orders.endpoint: there is no such key
  6 | endpoint = ["db:5433"]
    | ^^^^^^^^
  mend: did you mean `endpoints`?

unit.toml:7:20: upstream.orders.timeouts.connect: wants a duration such as "3s", and 3 has no unit
  7 | timeouts.connect = 3
    |                    ^
  mend: write the unit, in quotes: connect = "3s"

name.toml:3:12: listener.orders.upstream: there is no [upstream.orders]
  3 | upstream = "orders"
    |            ^^^^^^^^
  mend: did you mean "order"?

open.toml:2:11: listener.orders.address: other hosts could reach 0.0.0.0:5432, and act with our certificate
  2 | address = "0.0.0.0:5432"
    |           ^^^^^^^^^^^^^^
  mend: say who may: allow = ["10.0.0.0/8"]; or listen on 127.0.0.1:PORT

quotes.toml:2:16: 127.0.0.1:PORT is not a value of TOML
  2 | address = 127.0.0.1:PORT
    |                ^^^^^^^^^
  mend: strings stand in quotes: "127.0.0.1:PORT"

nuncio: listener.orders: cannot listen on 127.0.0.1:PORT: Address already in use (os error 98); `ss -ltnp sport = :PORT` shows who has it

nuncio: identity.corp: certificate /etc/nuncio/nowhere.pem: there is no such file; put it there, or correct the path
nuncio: identity.corp: key /etc/nuncio/client.encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in /etc/nuncio/client.encrypted.key -out /etc/nuncio/client.encrypted.key.plain

nuncio: identity.corp: key /etc/nuncio/client.encrypted.key: the key is encrypted, and nuncio has nobody to ask for its passphrase; write it without one and protect it by its file mode: openssl pkey -in /etc/nuncio/client.encrypted.key -out /etc/nuncio/client.encrypted.key.plain

nuncio: identity.corp: certificate /etc/nuncio/client.pem (CN=client) and key /etc/nuncio/server.key do not belong together; name the key that the certificate was requested with (of a pair, openssl x509 -noout -pubkey -in /etc/nuncio/client.pem and openssl pkey -pubout -in /etc/nuncio/server.key print the same)

nuncio: identity.corp: certificate /etc/nuncio/server.key: has a private key and no certificate; are `certificate` and `key` swapped?
nuncio: identity.corp: key /etc/nuncio/client.pem: has a certificate and no private key; are `certificate` and `key` swapped?
"#);
}

/// A name server that knows no name, and keeps silent about those that begin with "slow".
struct Names {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl Names {
    fn start() -> Names {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let answering = std::thread::spawn(move || {
            let mut query = [0; 512];
            while !stopped.load(SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
                if query[13..].starts_with(b"slow") {
                    continue;
                }
                query[2] |= 0x80; // an answer
                query[3] = 0x83; // recursion available, NXDOMAIN
                query[6..12].fill(0);
                socket.send_to(&query[..length], from).ok();
            }
        });
        Names { address, stop, answering: Some(answering) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.answering.take().unwrap().join().unwrap();
    }
}

/// Whoever runs the tests is the user whom listeners refuse.
fn as_somebody(text: &str) -> String {
    let Some(uid) = text.find(" (uid ") else { return text.to_owned() };
    let name = text[..uid].rfind(' ').map_or(0, |space| space + 1);
    let end = uid + text[uid..].find(')').expect("a closing parenthesis");
    format!("{}erp (uid 1000{}", &text[..name], &text[end..])
}

/// Whoever looks into the log after a connection failed reads this: `detail` and `next_step` of the record.
#[test]
fn a_connection_that_failed_is_told_by_its_record() {
    let pki = Pki::generate();
    let names = Names::start();
    let fixed = |certificate: &str| Upstream::with(serving(certificate, "server.key"), Duration::ZERO);
    let hostile = |kind: Hostile| kind.start(&pki);
    let good = Upstream::start(&pki);
    let (expired, wrong, own) =
        (fixed("server-expired.pem"), fixed("server.pem"), fixed("server-self-signed-ca.pem"));
    let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf".to_vec();
    let peers: Vec<(&str, Peer)> = [
        ("speaks_mysql", Hostile::PlaintextGreeting(mysql)),
        ("silent", Hostile::NeverAnswers),
        ("hangs_up_at_once", Hostile::ClosesAtOnce),
        (
            "has_no_common_cipher",
            Hostile::AlertAt(Point::InsteadOfServerHello, AlertDescription::HandshakeFailure),
        ),
        ("refuses_ours_late", Hostile::LateClientCertAlert),
        ("hangs_up_after_the_handshake", Hostile::ClosesAfterHandshake),
        ("truncates", Hostile::TruncatesAfter(10)),
    ]
    .map(|(name, kind)| (name, hostile(kind)))
    .into();

    let test_pki = format!("ca = '{}'", fixture("ca.pem").display());
    let ours = |leaf: (&Path, &Path)| {
        format!(
            "ca = '{}'\ncertificate = '{}'\nkey = '{}'",
            pki.ca().display(),
            leaf.0.display(),
            leaf.1.display()
        )
    };
    let common = format!(
        "[log]\nformat = \"json\"\n[dns]\nservers = [\"{}\"]\ntimeout = \"2s\"\n\
         [identity.other]\n{test_pki}\n[identity.corp]\n{}\n[identity.expired]\n{}\n[identity.nobody]\nca = '{}'\n\
         [identity.foreign]\nca = '{}'\n",
        names.address,
        ours((&pki.client.certificate, &pki.client.key)),
        ours((&fixture("client-expired.pem"), &fixture("client.key"))),
        pki.ca().display(),
        fixture("other-ca.pem").display(),
    );
    let told_by = |name: &str, address: &str, identity: &str, more: &str| {
        let allow = if name == "of_another_user" { "allow_users = [\"nobody\"]" } else { "" };
        // Short only where it is waited for: a busy machine takes its time with the others.
        let limit = match name {
            "silent" => "timeouts.handshake = \"400ms\"",
            "idle" => "timeouts.idle = \"400ms\"",
            _ => "",
        };
        let more = if more.is_empty() { "server_name = \"upstream.test\"" } else { more };
        let mut ambassador = Ambassador::start(&format!(
            "{common}[listener.orders]\naddress = \"127.0.0.1:0\"\nupstream = \"orders\"\n{allow}\n\
             [upstream.orders]\nendpoints = [\"{address}\"]\nidentity = \"{identity}\"\nhealth.kind = \"off\"\n\
             retry.attempts = 1\n{limit}\n{more}\n"
        ));
        let door = ambassador.listener("orders");
        // The first failure opens the circuit, the second connection meets it.
        let times = if name == "circuit_is_open" { 2 } else { 1 };
        for time in 1..=times {
            match name {
                // It sends nothing, and waits.
                "idle" => drop(clients::connect(door).read(&mut [0; 1])),
                // A refusal may be faster than connect(2).
                _ => drop(clients::reach(door).and_then(|mut stream| {
                    stream.write_all(b"hello")?;
                    stream.read_to_end(&mut Vec::new())
                })),
            }
            ambassador.wait_records(time);
        }
        let records = ambassador.records();
        let text = |key: &str| as_somebody(records[times - 1][key].as_str().unwrap_or("-"));
        format!(
            "{name}: {} at {}: {} ({})\n  {}\n  {}\n",
            text("outcome"),
            text("stage"),
            text("reason"),
            text("side"),
            text("detail"),
            text("next_step"),
        )
    };
    let nobody = || free_address().to_string();
    let pin = "pins = [\"spki-sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]";
    let [good, wrong, expired, own] =
        [&good, &wrong, &expired, &own].map(|server| server.address().to_string());
    let mut told = [
        ("nothing_listens", &*nobody(), "corp", ""),
        ("no_such_name", "db.corp.example:5433", "corp", ""),
        ("no_name_server", "slow.corp.example:5433", "corp", ""),
        ("unknown_ca", &wrong, "foreign", ""),
        ("newer_ca_of_that_name", &wrong, "corp", ""),
        ("wrong_name", &wrong, "other", "server_name = \"db.corp.example\""),
        ("expired", &expired, "other", ""),
        ("self_signed", &own, "other", ""),
        ("other_pin", &wrong, "nobody", pin),
        ("wants_ours_and_there_is_none", &good, "nobody", ""),
        ("ours_expired", &good, "expired", ""),
        ("circuit_is_open", &*nobody(), "corp", "breaker.consecutive = 1"),
        ("of_another_user", &good, "corp", ""),
        ("idle", &good, "corp", ""),
    ]
    .map(|(name, address, identity, more)| told_by(name, address, identity, more))
    .concat();
    for (name, peer) in &peers {
        told += &told_by(name, &peer.address().to_string(), "corp", "");
    }
    let directories =
        [pki.directory().display().to_string(), fixture("ca.pem").parent().unwrap().display().to_string()];
    let told = directories.iter().fold(told, |told, directory| told.replace(directory, "/etc/nuncio"));
    insta::assert_snapshot!(redacted(&told), @r#"
nothing_listens: failed at connect: connection_refused (upstream)
  127.0.0.1:PORT refused the connection
  is the server running, and does it listen on this address and port?
no_such_name: failed at resolve: dns_error (upstream)
  db.corp.example: no such name (127.0.0.1:PORT said NXDOMAIN of db.corp.example.)
  check the spelling of the endpoint's name, and ask the DNS for it by hand
no_name_server: failed at resolve: dns_timeout (upstream)
  slow.corp.example: 127.0.0.1:PORT did not answer in time
  check that the DNS servers in /etc/resolv.conf (or `dns.servers`) answer
unknown_ca: failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test was issued by CN=nuncio test CA, which is not in /etc/nuncio/other-ca.pem (there is CN=another CA)
  add the certificate of CN=nuncio test CA to /etc/nuncio/other-ca.pem if you trust it, or, if that is an intermediate, let the server send it along with its own certificate
newer_ca_of_that_name: failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test was not signed by the CN=nuncio test CA in /etc/nuncio/ca.pem: there are two of that name
  put the newer CA certificate into /etc/nuncio/ca.pem, beside the old one
wrong_name: failed at handshake: tls_certificate_error (upstream)
  the server's certificate is valid for upstream.test, *.pool.test, not for db.corp.example
  set server_name = "upstream.test" if that is the server that is meant; or give it a certificate for db.corp.example (subjectAltName)
expired: failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test expired at 2021-01-01T00:00:00Z, N years ago (this host's clock says NOW)
  have it renewed at the server, and the server reloaded; or set this host's clock right
self_signed: failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test is self-signed and says that it is a CA (CA:TRUE), which no server's may be
  give the server a certificate of its own, with CA:FALSE and subjectAltName; or, once you are sure that it is this server's own (serial 5f:a2:f7:b4:1a:d8:b8:de:dc:80:89:31:0b:fa:1d:e9:dd:10:12:a4), pin its key: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
other_pin: failed at handshake: tls_certificate_error (upstream)
  the server's certificate CN=upstream.test (serial 40:7e:e9:eb:57:7b:df:f7:dd:99:3e:90:93:5a:7c:cc:9a:55:ea:e4, valid from 2020-01-01T00:00:00Z) does not match the pin of this upstream
  if the server was given a new key, and only then, add it: pins = ["spki-sha256:woGzlUqkgztunMUiBlKvFI+7H1zEVNzEZlPmzd7ilrg="]
wants_ours_and_there_is_none: failed at handshake: client_certificate_refused (upstream)
  the server demands a client certificate and ended the connection with the alert certificate_required (116); none is configured
  set `certificate` and `key` in the [identity] that the upstream uses
ours_expired: failed at handshake: proxy_configuration_error (ambassador)
  our certificate CN=client in /etc/nuncio/client-expired.pem expired at 2021-01-01T00:00:00Z, N years ago (it is NOW here)
  have it renewed, put it in the file's place, and let nuncio read it: systemctl reload nuncio, or SIGHUP
circuit_is_open: refused at route: circuit_open (upstream)
  127.0.0.1:PORT: circuit open after 1 × connection refused, tries again in N s
  mend the endpoint's own failure, named in /api/v1/upstreams; the circuit closes by itself
of_another_user: refused at admit: admission_denied (client)
  user erp (uid 1000) may not use this listener
  add the user to the listener's `allow_users` (or `allow_groups`): erp (uid 1000)
idle: failed at relay: idle_timeout (ambassador)
  no byte came from either side for as long as timeouts.idle allows
  raise timeouts.idle above the client's own pool time-out
speaks_mysql: failed at handshake: tls_protocol_error (upstream)
  the server speaks plaintext where TLS was expected
  this looks like MySQL: set protocol = "mysql"
silent: failed at handshake: handshake_timeout (upstream)
  the server took the connection and did not answer our first TLS message (ClientHello, N bytes) within 400ms
  does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old firewall or server may drop a message of more than one packet: set `post_quantum = false`
hangs_up_at_once: failed at handshake: connection_terminated (upstream)
  the server closed the connection at our first TLS message (ClientHello), without an answer
  does the port speak TLS from its first byte? PostgreSQL, LDAP and SQL Server want a plaintext message first (protocol = "postgres", "ldap", "sqlserver"; tls = "negotiate"); if it does, an old TLS library may choke on a message of N bytes: set `post_quantum = false`
has_no_common_cipher: failed at handshake: tls_alert_received (upstream)
  the server has no way of doing TLS with us (alert handshake_failure (40)): it may have only old ciphers (RSA key exchange, CBC), or no certificate for this name
  give the server an ECDHE suite with AES-GCM, such as ECDHE-RSA-AES128-GCM-SHA256 (ssl_ciphers in PostgreSQL and nginx, ssl_cipher in MySQL, tls_high_cipherlist in Postfix); or set `server_name` to a name that it has a certificate for
refuses_ours_late: failed at handshake: client_certificate_refused (upstream)
  the server refused our certificate CN=client.test, issued by CN=nuncio test CA, with the alert decrypt_error (51)
  a signature did not hold: has the server another CN=nuncio test CA in its CA file, an older or a newer one? Put the one that issued our certificate there
hangs_up_after_the_handshake: failed at relay: early_close (upstream)
  the server took the handshake, asked for our certificate in it, and hung up before its first byte
  look in the server's log: it may have refused our certificate CN=client.test, issued by CN=nuncio test CA
truncates: failed at relay: truncated (upstream)
  the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing
  the server crashed or something cut the connection; if it always ends so, set on_truncation = "close"
"#);
}

/// At the start, before anybody came, the log has it as an error; and the service runs all the same.
#[test]
fn a_certificate_of_ours_out_of_date_is_an_error_at_the_start() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let [certificate, key] =
        ["client-expired.pem", "client.key"].map(|file| fixture(file).display().to_string());
    let mut ambassador = Ambassador::start(&format!(
        "[listener.a]\naddress = \"127.0.0.1:0\"\nupstream = \"a\"\n\
         [upstream.a]\nendpoints = [\"{}\"]\nserver_name = \"upstream.test\"\nidentity = \"a\"\nhealth.interval = \"50ms\"\n\
         [identity.a]\nca = '{}'\ncertificate = '{certificate}'\nkey = '{key}'\n",
        server.address(),
        pki.ca().display(),
    ));
    let line = ambassador.wait_line("CN=client expired at");
    assert!(line.contains("\"level\":\"error\""), "{line}");
    // Health checks meet it too: it says nothing about the server, and what a client is told stays the cause.
    ambassador.wait_metric("nuncio_health_checks_total", &[], |checks| checks >= 4.0);
    clients::ask(ambassador.listener("a"), b"hello").ok();
    let record = ambassador.wait_records(1).remove(0);
    let text = |key: &str| record[key].as_str().unwrap_or("-");
    let told = format!(
        "{} at {} ({})\n{}\n{}",
        text("reason"),
        text("stage"),
        text("side"),
        text("detail"),
        text("next_step")
    );
    let told = told.replace(&certificate, "/etc/nuncio/client.pem");
    insta::assert_snapshot!(redacted(&told), @r#"
proxy_configuration_error at handshake (ambassador)
our certificate CN=client in /etc/nuncio/client.pem expired at 2021-01-01T00:00:00Z, N years ago (it is NOW here)
have it renewed, put it in the file's place, and let nuncio read it: systemctl reload nuncio, or SIGHUP
"#);
}

/// At a start an expired certificate is better than nothing; a reload does not give up one that works for it.
#[cfg(unix)]
#[test]
fn a_reload_keeps_the_certificate_that_works() {
    let pki = Pki::generate();
    let server = Upstream::start(&pki);
    let config = |certificate: &Path, key: &Path| {
        format!(
            "[listener.a]\naddress = \"127.0.0.1:0\"\nupstream = \"a\"\n\
             [upstream.a]\nendpoints = [\"{}\"]\nserver_name = \"upstream.test\"\nidentity = \"a\"\n\
             [identity.a]\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n\
             [log]\nformat = \"json\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
            server.address(),
            pki.ca().display(),
            certificate.display(),
            key.display(),
        )
    };
    let mut ambassador = Ambassador::start(&config(&pki.client.certificate, &pki.client.key));
    ambassador.reload(&config(&fixture("client-expired.pem"), &fixture("client.key")));
    let line = ambassador.wait_line("not reloaded, nothing has changed");
    assert!(line.contains("CN=client expired at 2021-01-01T00:00:00Z"), "{line}");
    assert_eq!(clients::ask(ambassador.listener("a"), b"hello").unwrap(), b"hello");
}
