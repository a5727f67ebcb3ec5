//! Dovecot: IMAP, POP3, ManageSieve and LMTP, with STARTTLS and, on ports of their own, TLS from the first byte.
//!
//! A client comes as whom its certificate names, whatever it says: what it finds in its mailbox tells.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::programs::{give_to, must_be_root};
use super::servers::home;
use super::{PATIENCE, Pki, free_address};

/// Where it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// IMAP, with STARTTLS.
    Imap,
    /// IMAP in TLS.
    Imaps,
    /// POP3, with STLS.
    Pop3,
    /// POP3 in TLS.
    Pop3s,
    /// ManageSieve, with STARTTLS.
    Sieve,
    /// LMTP, with STARTTLS. It wants no TLS and never asks for a certificate.
    Lmtp,
}

impl Door {
    /// Each of them.
    pub const ALL: [Door; 6] = [Door::Imap, Door::Imaps, Door::Pop3, Door::Pop3s, Door::Sieve, Door::Lmtp];
}

/// Who has mailboxes; all have the same password.
const USERS: [&str; 2] = ["u", "client.test"];

/// A running Dovecot.
pub struct Dovecot {
    doors: [SocketAddr; Door::ALL.len()],
    directory: TempDir,
    process: Process,
}

impl Dovecot {
    /// It demands the client's certificate before anyone logs in.
    #[track_caller]
    pub fn start(pki: &Pki) -> Dovecot {
        Dovecot::with(Some(pki), "")
    }

    /// It has never heard of TLS.
    #[track_caller]
    pub fn without_tls() -> Dovecot {
        Dovecot::with(None, "")
    }

    /// With lines of dovecot.conf that differ; no `pki`: without TLS.
    #[track_caller]
    pub fn with(pki: Option<&Pki>, lines: &str) -> Dovecot {
        must_be_root("Dovecot");
        let directory = home();
        let at = directory.path();
        let mail = at.join("mail");
        for user in USERS {
            for sub in ["new", "cur", "tmp", "sieve"] {
                fs::create_dir_all(mail.join(user).join(sub)).expect("a mailbox");
            }
            let text = format!("From: a@client.test\nSubject: the mailbox of {user}\n\nhello\n");
            fs::write(mail.join(user).join("cur/1:2,"), text).expect("a mail");
            let script = mail.join(user).join(format!("sieve/script-of-{user}.sieve"));
            fs::write(script, "keep;\n").expect("a script");
        }
        give_to(&mail, "mail");
        let users: String = USERS.iter().map(|user| format!("{user}:{{PLAIN}}pw\n")).collect();
        fs::write(at.join("users"), users).expect("the users");
        let doors = Door::ALL.map(|_| free_address());
        let file = at.join("dovecot.conf");
        fs::write(&file, config(at, pki, doors) + lines).expect("dovecot.conf is written");
        let mut process = Process::start("dovecot", Command::new("dovecot").arg("-F").arg("-c").arg(&file));
        process.wait("it accepts connections", PATIENCE, |_| {
            let open = |door: &Door| pki.is_some() || !matches!(door, Door::Imaps | Door::Pop3s);
            let mut open = Door::ALL.into_iter().filter(open);
            open.all(|door| TcpStream::connect(doors[door as usize]).is_ok()).then_some(())
        });
        Dovecot { doors, directory, process }
    }

    /// Where it listens for this.
    pub fn at(&self, door: Door) -> SocketAddr {
        self.doors[door as usize]
    }

    /// The process beneath, whose lines are its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The mails that it has taken for this user, the newest last.
    pub fn delivered(&self, user: &str) -> Vec<String> {
        let new = self.directory.path().join("mail").join(user).join("new");
        let mut files: Vec<_> = fs::read_dir(new).expect("the mailbox").flatten().collect();
        files.sort_by_key(|file| taken_at(&file.file_name().to_string_lossy()));
        files.iter().map(|file| fs::read_to_string(file.path()).expect("a mail can be read")).collect()
    }
}

/// Seconds and microseconds, these without zeros in front: `1795293696.M40233P123.host`.
fn taken_at(name: &str) -> [Option<u32>; 2] {
    let mut numbers = name.split(['.', 'M', 'P']).filter_map(|number| number.parse().ok());
    [numbers.next(), numbers.next()]
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        // Not killed: it ends those that it has started.
        self.process.end("TERM", PATIENCE);
    }
}

fn config(at: &Path, pki: Option<&Pki>, doors: [SocketAddr; Door::ALL.len()]) -> String {
    let [imap, imaps, pop3, pop3s, sieve, lmtp] = doors.map(|door| door.port());
    let d = at.display();
    let tls = match pki {
        Some(pki) => format!(
            "ssl = required\nssl_cert = <{}\nssl_key = <{}\nssl_ca = <{}\nssl_verify_client_cert = yes\n\
             ssl_require_crl = no\nauth_ssl_require_client_cert = yes\nauth_ssl_username_from_cert = yes\n\
             ssl_cert_username_field = commonName\n",
            pki.server.certificate.display(),
            pki.server.key.display(),
            pki.ca().display()
        ),
        None => "ssl = no\ndisable_plaintext_auth = no\n".to_owned(),
    };
    // Port 0 is no port.
    let [imaps, pop3s] = if pki.is_some() { [imaps, pop3s] } else { [0, 0] };
    format!(
        "base_dir = {d}/run\nstate_dir = {d}/run\ninstance_name = t{imap}\nlog_path = /dev/stderr\nlisten = 127.0.0.1\n\
         protocols = imap pop3 lmtp sieve\nauth_mechanisms = plain login external\nfirst_valid_uid = 1\n\
         mail_location = maildir:{d}/mail/%u\nhostname = mx.upstream.test\nmail_fsync = never\n{tls}\
         passdb {{\n driver = passwd-file\n args = {d}/users\n}}\n\
         userdb {{\n driver = static\n args = uid=mail gid=mail home={d}/mail/%u\n}}\n\
         service imap-login {{\n chroot =\n inet_listener imap {{\n port = {imap}\n }}\n\
          inet_listener imaps {{\n port = {imaps}\n ssl = yes\n }}\n}}\n\
         service pop3-login {{\n chroot =\n inet_listener pop3 {{\n port = {pop3}\n }}\n\
          inet_listener pop3s {{\n port = {pop3s}\n ssl = yes\n }}\n}}\n\
         service managesieve-login {{\n chroot =\n inet_listener sieve {{\n port = {sieve}\n }}\n}}\n\
         service lmtp {{\n inet_listener lmtp {{\n port = {lmtp}\n }}\n}}\n\
         service anvil {{\n chroot =\n}}\nservice stats {{\n chroot =\n}}\n"
    )
}
