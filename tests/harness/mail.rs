//! Mail servers that demand STARTTLS and a client certificate, and clients that send a mail to them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::pki::{Leaf, Pki};
use super::process::Process;
use super::programs::{Ran, Running, give_to, must_be_root, run, tool};
use super::servers::home;
use super::{PATIENCE, eventually, free_address};

/// Whose mailbox it is.
pub const TO: &str = "b@upstream.test";
const FROM: &str = "a@client.test";
/// For a client that sends one mail.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A running mail server; what it takes for [`TO`] can be read.
pub struct MailServer {
    address: SocketAddr,
    mailbox: PathBuf,
    process: Process,
    _directory: TempDir,
}

impl MailServer {
    /// Postfix. Its `Received:` header tells of TLS and of the client's certificate.
    #[track_caller]
    pub fn postfix(pki: &Pki) -> MailServer {
        MailServer::postfix_with(pki, &pki.server, &[])
    }

    /// Postfix with this certificate, and with lines of main.cf that differ: `smtpd_tls_security_level = none`,
    /// `smtpd_tls_wrappermode = yes`, ...
    #[track_caller]
    pub fn postfix_with(pki: &Pki, server: &Leaf, settings: &[&str]) -> MailServer {
        must_be_root("Postfix");
        let (address, directory) = (free_address(), home());
        let at = directory.path();
        for sub in ["etc", "spool", "data", "mail"] {
            fs::create_dir(at.join(sub)).expect("a directory beneath it");
        }
        give_to(&at.join("data"), "postfix");
        give_to(&at.join("mail"), "nobody");
        let (d, ca, certificate, key) = (
            at.display(),
            pki.ca().display().to_string(),
            server.certificate.display(),
            server.key.display(),
        );
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {d}/spool\ndata_directory = {d}/data\n\
             maillog_file = /dev/stdout\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             myhostname = mx.upstream.test\nmydestination =\nalias_maps =\nmynetworks = 127.0.0.0/8\n\
             smtpd_recipient_restrictions = permit_mynetworks, reject\n\
             virtual_mailbox_domains = upstream.test\nvirtual_mailbox_base = {d}/mail\n\
             virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
             smtpd_tls_security_level = encrypt\nsmtpd_tls_req_ccert = yes\nsmtpd_tls_received_header = yes\n\
             smtpd_tls_loglevel = 1\nsmtpd_tls_chain_files = {key}, {certificate}\nsmtpd_tls_CAfile = {ca}\n\
             smtpd_tls_session_cache_database =\n"
        );
        // Each key once: of a second one every process warns, and postlogd, which takes the warnings, may then wait for itself.
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let others = main.lines().filter(|line| settings.iter().all(|setting| key(setting) != key(line)));
        let main: Vec<_> = others.chain(settings.iter().copied()).collect();
        fs::write(at.join("etc/main.cf"), main.join("\n") + "\n").expect("main.cf is written");
        // Only what takes a mail and puts it into the mailbox, or hands it on; nothing is chrooted.
        let master = format!(
            "{address} inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
             tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\n\
             bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
             proxymap unix - - n - - proxymap\nvirtual unix - n n - - virtual\nerror unix - - n - - error\n\
             retry unix - - n - - error\nsmtp unix - - n - - smtp\nanvil unix - - n - 1 anvil\npostlog unix-dgram n - n - 1 postlogd\n"
        );
        fs::write(at.join("etc/master.cf"), master).expect("master.cf is written");
        // Makes the queue's directories.
        run(Command::new("postfix").arg("-c").arg(at.join("etc")).arg("check"), LIMIT).answer();
        let mut command = Command::new("/usr/lib/postfix/sbin/master");
        command.arg("-c").arg(at.join("etc")).arg("-s");
        MailServer::launch("postfix", &mut command, address, at.join("mail/box/new"), directory)
    }

    /// Exim, without what keeps a sender from being believed.
    #[track_caller]
    pub fn exim(pki: &Pki) -> MailServer {
        must_be_root("Exim");
        let (address, directory) = (free_address(), home());
        let at = directory.path();
        for sub in ["spool", "log", "mail"] {
            fs::create_dir(at.join(sub)).expect("a directory beneath it");
            give_to(&at.join(sub), "mail");
        }
        let program = tool("exim/usr/sbin/exim4");
        // It reads them when it has become its own user.
        pki.copy_to(&at.join("spool"));
        give_to(&at.join("spool"), "mail");
        let (d, exim, ip, port) = (at.display(), program.display(), address.ip(), address.port());
        let config = format!(
            "exim_path = {exim}\nexim_user = mail\nexim_group = mail\nkeep_environment =\n\
             primary_hostname = mx.upstream.test\nsmtp_banner = mx.upstream.test ESMTP Exim\nspool_directory = {d}/spool\nlog_file_path = {d}/log/%slog\n\
             pid_file_path = {d}/spool/pid\nlocal_interfaces = {ip}.{port}\nhost_lookup =\n\
             rfc1413_query_timeout = 0s\ntls_advertise_hosts = *\ntls_certificate = {d}/spool/server.pem\n\
             tls_privatekey = {d}/spool/server.key\ntls_verify_certificates = {d}/spool/ca.pem\ntls_verify_hosts = *\n\
             received_header_text = Received: $received_protocol $tls_in_ver \
             (client $tls_in_peerdn, verified $tls_in_certificate_verified)\n\
             acl_smtp_mail = acl_mail\nacl_smtp_rcpt = accept\n\
             begin acl\nacl_mail:\n  deny !encrypted = *\n    message = Must issue a STARTTLS command first\n  accept\n\
             begin routers\nall:\n  driver = accept\n  transport = box\n\
             begin transports\nbox:\n  driver = appendfile\n  maildir_format\n  directory = {d}/mail\n\
               create_directory\n  user = mail\n"
        );
        fs::write(at.join("exim.conf"), config).expect("exim.conf is written");
        let mut command = Command::new(program);
        command.arg("-C").arg(at.join("exim.conf")).arg("-bdf");
        MailServer::launch("exim4", &mut command, address, at.join("mail/new"), directory)
    }

    fn launch(
        name: &str,
        command: &mut Command,
        address: SocketAddr,
        mailbox: PathBuf,
        directory: TempDir,
    ) -> MailServer {
        let mut process = Process::start(name, command);
        process.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(address).ok());
        MailServer { address, mailbox, process, _directory: directory }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process beneath: Postfix logs there.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The mails that it has delivered so far.
    pub fn mails(&self) -> Vec<String> {
        // Not there: the first mail makes it.
        let files = fs::read_dir(&self.mailbox).into_iter().flatten().flatten();
        files.map(|file| fs::read_to_string(file.path()).expect("a mail can be read")).collect()
    }

    /// Waits for the mail with this subject.
    #[track_caller]
    pub fn wait_mail(&self, subject: &str) -> String {
        let line = format!("\nSubject: {subject}\n");
        eventually(&format!("the mail {subject:?} is delivered"), PATIENCE, || {
            self.mails().into_iter().find(|mail| mail.contains(&line))
        })
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        // Not killed: it ends those that it has started.
        self.process.end("TERM", PATIENCE);
    }
}

/// What sends a mail.
#[derive(Clone, Copy, Debug)]
pub enum Mailer {
    /// swaks
    Swaks,
    /// Python's smtplib
    Smtplib,
    /// msmtp
    Msmtp,
}

impl Mailer {
    /// Each of them.
    pub const ALL: [Mailer; 3] = [Mailer::Swaks, Mailer::Smtplib, Mailer::Msmtp];

    /// Sends one mail to [`TO`] without TLS.
    #[track_caller]
    pub fn send(self, to: SocketAddr, subject: &str) -> Ran {
        self.send_with(to, subject, &[])
    }

    /// The same with more arguments; smtplib's are those of `send_mail.py`.
    #[track_caller]
    pub fn send_with(self, to: SocketAddr, subject: &str, arguments: &[&str]) -> Ran {
        self.start(to, arguments, &mail(subject, "hello\n")).finish(LIMIT)
    }

    /// Sends one mail with STARTTLS and this certificate: without nuncio.
    #[track_caller]
    pub fn send_over_tls(self, to: SocketAddr, subject: &str, pki: &Pki, client: &Leaf) -> Ran {
        let [ca, certificate, key] =
            [&pki.ca(), &client.certificate, &client.key].map(|file| file.display().to_string());
        let names = match self {
            Mailer::Swaks => ["--tls-ca-path", "--tls-cert", "--tls-key"],
            Mailer::Smtplib => return self.send_with(to, subject, &["starttls", &ca, &certificate, &key]),
            Mailer::Msmtp => ["--tls-trust-file", "--tls-cert-file", "--tls-key-file"],
        };
        let how: &[&str] = match self {
            Mailer::Swaks => &["--tls", "--tls-verify"],
            _ => &["--tls=on", "--tls-starttls=on"],
        };
        let files = [names[0], &ca, names[1], &certificate, names[2], &key];
        self.send_with(to, subject, &[how, &files].concat())
    }

    /// Starts to send this mail to [`TO`].
    #[track_caller]
    pub fn start(self, to: SocketAddr, arguments: &[&str], mail: &str) -> Running {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        let mut command = Command::new(match self {
            Mailer::Swaks => "swaks",
            Mailer::Smtplib => "python3",
            Mailer::Msmtp => "msmtp",
        });
        match self {
            Mailer::Swaks => {
                command.args(["--server", &host, "--port", &port, "--from", FROM, "--to", TO]);
                command.args(["--ehlo", "client.test", "--timeout", "20", "--data", "-"]).args(arguments);
            }
            Mailer::Smtplib => {
                command.args(["-I", "-c", include_str!("send_mail.py"), &host, &port, FROM, TO]);
                command.args(arguments);
            }
            Mailer::Msmtp => {
                command.args(["--host", &host, "--port", &port, "--from", FROM, "--timeout", "20"]);
                command.args(arguments).arg(TO);
            }
        }
        Running::start(&mut command, mail)
    }
}

/// A mail to [`TO`].
pub fn mail(subject: &str, body: &str) -> String {
    format!("From: {FROM}\nTo: {TO}\nSubject: {subject}\n\n{body}")
}
