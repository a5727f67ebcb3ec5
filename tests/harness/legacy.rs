//! Stock clients of old protocols, each doing the least that shows a session: logs in, asks, and prints what it was given.
//!
//! Those that are libraries of Python are in `ask.py`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::Pki;
use super::pki::Leaf;
use super::programs::{Ran, Running, tool};

/// How long a client has for what it does.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A client, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Python's imaplib: the subject of the first mail.
    Imaplib,
    /// Python's poplib: the same.
    Poplib,
    /// sieve-connect: puts a script there, and lists the scripts.
    SieveConnect,
    /// Python's smtplib.LMTP: delivers a mail.
    Lmtplib,
    /// swaks for LMTP: the same. Its transcript is its answer.
    SwaksLmtp,
    /// Python's nntplib: posts to a group.
    Nntplib,
    /// ldapsearch: reads an entry, as the directory's admin.
    Ldapsearch,
    /// ldapwhoami: who it is by its certificate. Only over TLS of its own.
    Ldapwhoami,
    /// python-ldap: as ldapsearch does.
    PythonLdap,
    /// ldap3, whom its certificate need not be its own: who it is by that.
    Ldap3,
    /// Java's JNDI: as ldapsearch does. Only in plaintext.
    Jndi,
    /// slixmpp: begins a session.
    Slixmpp,
    /// redis-cli: PING.
    RedisCli,
    /// mosquitto_pub leaves a message, which mosquitto_sub gets.
    Mosquitto,
    /// pika: publishes and consumes, logged in by certificate.
    Pika,
    /// FreeTDS's tsql: selects a number.
    Tsql,
}

/// What it speaks over.
#[derive(Clone, Copy)]
pub enum Over<'a> {
    /// Plaintext, as to nuncio.
    Plaintext,
    /// TLS by the protocol's own negotiation, with this certificate.
    Starttls(&'a Pki, Option<&'a Leaf>),
    /// TLS from the first byte.
    Tls(&'a Pki, Option<&'a Leaf>),
}

impl Over<'_> {
    /// `starttls` or `tls`, the CA's file, and those of certificate and key; nothing without TLS.
    fn words(self) -> Vec<OsString> {
        let (how, pki, client) = match self {
            Over::Plaintext => return Vec::new(),
            Over::Starttls(pki, client) => ("starttls", pki, client),
            Over::Tls(pki, client) => ("tls", pki, client),
        };
        let own = client.into_iter().flat_map(|client| [client.certificate.clone(), client.key.clone()]);
        [how.into(), pki.ca().into()].into_iter().chain(own.map(OsString::from)).collect()
    }

    /// Those files, each behind the option that it is given by.
    fn options(self, names: [&str; 3]) -> Vec<OsString> {
        let files = self.words().into_iter().skip(1);
        names.into_iter().zip(files).flat_map(|(name, file)| [name.into(), file]).collect()
    }
}

impl Client {
    /// As it is named where it is told of.
    pub fn name(self) -> &'static str {
        match self {
            Client::Imaplib => "imaplib",
            Client::Poplib => "poplib",
            Client::SieveConnect => "sieve-connect",
            Client::Lmtplib => "smtplib.LMTP",
            Client::SwaksLmtp => "swaks --protocol LMTP",
            Client::Nntplib => "nntplib",
            Client::Ldapsearch => "ldapsearch",
            Client::Ldapwhoami => "ldapwhoami",
            Client::PythonLdap => "python-ldap",
            Client::Ldap3 => "ldap3",
            Client::Jndi => "JNDI",
            Client::Slixmpp => "slixmpp",
            Client::RedisCli => "redis-cli",
            Client::Mosquitto => "mosquitto_pub, mosquitto_sub",
            Client::Pika => "pika",
            Client::Tsql => "tsql",
        }
    }

    /// What it does, in plaintext.
    #[track_caller]
    pub fn ask(self, to: SocketAddr) -> Ran {
        self.ask_over(to, Over::Plaintext)
    }

    /// The same over TLS of its own, where it has that.
    #[track_caller]
    pub fn ask_over(self, to: SocketAddr, over: Over<'_>) -> Ran {
        match self {
            Client::Imaplib => python("imaplib", to, over),
            Client::Poplib => python("poplib", to, over),
            Client::Lmtplib => python("lmtplib", to, over),
            Client::Nntplib => python("nntplib", to, over),
            Client::PythonLdap => python("python_ldap", to, over),
            Client::Ldap3 => python("ldap3", to, over),
            Client::Slixmpp => python("slixmpp", to, over),
            Client::Pika => python("pika", to, over),
            Client::SwaksLmtp => swaks(to, over),
            Client::SieveConnect => sieve_connect(to, over),
            Client::Ldapsearch | Client::Ldapwhoami => ldap(self, to, over),
            Client::Jndi => {
                let mut command = Command::new("java");
                command.args([
                    "-XX:TieredStopAtLevel=1",
                    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/DirectoryClient.java"),
                    &format!("ldap://{to}"),
                ]);
                run(&mut command, "")
            }
            Client::RedisCli => {
                let mut command = Command::new("redis-cli");
                command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string()]);
                let tls = over.options(["--cacert", "--cert", "--key"]);
                command.args((!tls.is_empty()).then_some("--tls")).args(tls).arg("PING");
                run(&mut command, "")
            }
            Client::Mosquitto => {
                let send = mosquitto("mosquitto_pub", to, over, &["-r", "-m", "hello"]);
                if send.status.success() {
                    mosquitto("mosquitto_sub", to, over, &["-C", "1", "-W", "10"])
                } else {
                    send
                }
            }
            Client::Tsql => {
                // By its own choice it begins with a version that no server has any more.
                let mut command = Command::new("env");
                command.args(["TDSVER=7.4", "tsql", "-o", "fhq", "-U", "sa", "-P", "x"]);
                command.args(["-H", &to.ip().to_string(), "-p", &to.port().to_string()]);
                run(&mut command, "select 1\ngo\nexit\n")
            }
        }
    }
}

fn run(command: &mut Command, input: &str) -> Ran {
    Running::start(command, input).finish(LIMIT)
}

fn python(client: &str, to: SocketAddr, over: Over<'_>) -> Ran {
    // What is Debian's is found by its own Python, whatever else is called so.
    let program = match client {
        "python_ldap" | "ldap3" => "/usr/bin/python3".into(),
        _ => tool("python/bin/python"),
    };
    let mut command = Command::new(program);
    command.args(["-I", "-W", "ignore", "-c", include_str!("ask.py"), client]);
    command.args([to.ip().to_string(), to.port().to_string()]).args(over.words());
    run(&mut command, "")
}

fn swaks(to: SocketAddr, over: Over<'_>) -> Ran {
    let mut command = Command::new("swaks");
    command.args(["--protocol", "LMTP", "--server", &to.ip().to_string(), "--port", &to.port().to_string()]);
    command.args([
        "--from",
        "a@client.test",
        "--to",
        "client.test",
        "--ehlo",
        "client.test",
        "--timeout",
        "20",
    ]);
    command.args(["--header", "Subject: by swaks"]);
    match over {
        Over::Plaintext => {}
        Over::Starttls(..) => drop(command.arg("--tls")),
        Over::Tls(..) => drop(command.arg("--tls-on-connect")),
    }
    command.args(over.options(["--tls-ca-path", "--tls-cert", "--tls-key"]));
    run(&mut command, "")
}

fn sieve_connect(to: SocketAddr, over: Over<'_>) -> Ran {
    let mut command = Command::new("sieve-connect");
    command.args(["--nosrv", "--server", &to.ip().to_string(), "--port", &to.port().to_string()]);
    command.args(["--user", "u", "--passwordfd", "0", "--authmech", "PLAIN"]);
    match over {
        Over::Plaintext => drop(command.arg("--clearchan")),
        Over::Starttls(..) | Over::Tls(..) => drop(command.arg("--noclearchan")),
    }
    command.args(over.options(["--tlscafile", "--clientcert", "--clientkey"])).arg("--list");
    run(&mut command, "pw\n")
}

fn ldap(client: Client, to: SocketAddr, over: Over<'_>) -> Ran {
    // Its files are settings of the environment, and not options.
    let mut command = Command::new("env");
    for (name, file) in
        ["LDAPTLS_CACERT", "LDAPTLS_CERT", "LDAPTLS_KEY"].iter().zip(over.words().into_iter().skip(1))
    {
        let mut setting = OsString::from(format!("{name}="));
        setting.push(file);
        command.arg(setting);
    }
    let scheme = if matches!(over, Over::Tls(..)) { "ldaps" } else { "ldap" };
    command.args([client.name(), "-H", &format!("{scheme}://{to}")]);
    command.args(matches!(over, Over::Starttls(..)).then_some("-ZZ"));
    match client {
        Client::Ldapwhoami => command.args(["-Q", "-Y", "EXTERNAL"]),
        _ => command
            .args(["-x", "-LLL", "-o", "ldif-wrap=no", "-D", "cn=admin,dc=upstream,dc=test", "-w", "pw"])
            .args(["-b", "cn=box,dc=upstream,dc=test", "description"]),
    };
    run(&mut command, "")
}

fn mosquitto(program: &str, to: SocketAddr, over: Over<'_>, what: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command
        .args(["-h", &to.ip().to_string(), "-p", &to.port().to_string(), "-t", "test", "-q", "1"])
        .args(what);
    command.args(over.options(["--cafile", "--cert", "--key"]));
    run(&mut command, "")
}
