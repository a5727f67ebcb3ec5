//! INN: news with STARTTLS. It never asks for a certificate.
//!
//! Two programs: nnrpd, which readers talk to, and innd, which takes what they post.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::programs::{give_to, run, run_as, tool};
use super::servers::home;
use super::{PATIENCE, Pki, free_address};

/// A running INN with the group `local.test`.
pub struct Inn {
    address: SocketAddr,
    nnrpd: Process,
    _innd: Process,
    _directory: TempDir,
}

impl Inn {
    /// Nobody reads or posts outside TLS.
    #[track_caller]
    pub fn start(pki: &Pki) -> Inn {
        Inn::with(Some(pki))
    }

    /// It offers STARTTLS, and fails when that is asked for.
    #[track_caller]
    pub fn without_tls() -> Inn {
        Inn::with(None)
    }

    #[track_caller]
    fn with(pki: Option<&Pki>) -> Inn {
        let directory = home();
        let at = directory.path();
        if let Some(pki) = pki {
            pki.copy_to(at);
        }
        lay_out(at, pki.is_some());
        give_to(at, "news");
        let mut history = program(at, "makedbz");
        history.args(["-i", "-o", "-f"]).arg(at.join("db/history"));
        run_as(&mut history, "news");
        let made = Process::start("makedbz", &mut history).wait_exit(PATIENCE);
        assert!(made.success(), "makedbz: {made}");
        let [address, feeds] = [(); 2].map(|()| free_address());
        let mut command = program(at, "innd");
        command.args(["-f", "-P", &feeds.port().to_string()]);
        run_as(&mut command, "news");
        let mut innd = Process::start("innd", &mut command);
        innd.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(feeds).ok());
        let mut command = program(at, "nnrpd");
        command.args(["-D", "-f", "-b", "127.0.0.1", "-p", &address.port().to_string()]);
        run_as(&mut command, "news");
        let mut nnrpd = Process::start("nnrpd", &mut command);
        nnrpd.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(address).ok());
        Inn { address, nnrpd, _innd: innd, _directory: directory }
    }

    /// Where readers come.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process that readers talk to.
    pub fn process(&mut self) -> &mut Process {
        &mut self.nnrpd
    }
}

/// Its directories and files.
fn lay_out(at: &Path, tls: bool) {
    let unpacked = tool("inn");
    run(Command::new("cp").arg("-r").arg(unpacked.join("etc/news")).arg(at.join("etc")), PATIENCE).answer();
    for sub in
        ["db", "run", "log", "http", "tmp", "incoming", "outgoing", "archive", "spool/articles", "overview"]
    {
        fs::create_dir_all(at.join(sub)).expect("a directory beneath it");
    }
    let (d, x) = (at.display(), unpacked.display());
    let mut inn = format!(
        "domain: upstream.test\npathhost: news.upstream.test\nmta: \"/bin/true %s\"\nhismethod: hisv6\n\
         ovmethod: tradindexed\nenableoverview: true\npathnews: {x}/usr/lib/news\npathbin: {x}/usr/lib/news/bin\n\
         pathdb: {d}/db\npathetc: {d}/etc\npathrun: {d}/run\npathlog: {d}/log\npathhttp: {d}/http\n\
         pathspool: {d}/spool\npatharticles: {d}/spool/articles\npathoverview: {d}/overview\n\
         pathincoming: {d}/incoming\npathoutgoing: {d}/outgoing\npatharchive: {d}/archive\npathtmp: {d}/tmp\n\
         runasuser: news\nrunasgroup: news\nbindaddress: 127.0.0.1\nnnrpdloadlimit: 0\n"
    );
    let mut demand = "";
    if tls {
        inn += &format!(
            "tlscapath: {d}\ntlscafile: {d}/ca.pem\ntlscertfile: {d}/server.pem\ntlskeyfile: {d}/server.key\n"
        );
        demand = "  require_encryption: true\n";
    }
    let groups =
        ["control", "control.cancel", "control.checkgroups", "control.newgroup", "control.rmgroup", "junk"];
    let groups: String = groups.iter().map(|group| format!("{group} 0000000000 0000000001 n\n")).collect();
    for (file, text) in [
        ("etc/inn.conf", inn),
        (
            "etc/readers.conf",
            format!(
                "auth all {{\n  hosts: \"*\"\n{demand}  default: \"u\"\n}}\n\
                 access all {{\n  users: \"u\"\n  newsgroups: \"*\"\n  access: RPA\n}}\n"
            ),
        ),
        ("etc/storage.conf", "method tradspool {\n  newsgroups: *\n  class: 0\n}\n".to_owned()),
        ("etc/newsfeeds", "ME:!*::\nt!:!*:Tf,Wnm:t\n".to_owned()),
        ("etc/incoming.conf", "peer ME {\n  hostname: \"localhost, 127.0.0.1\"\n}\n".to_owned()),
        ("db/active", groups + "local.test 0000000000 0000000001 y\n"),
        ("db/newsgroups", "local.test\tOurs\n".to_owned()),
        ("db/history", String::new()),
        ("db/active.times", String::new()),
        ("spool/tradspool.map", String::new()),
    ] {
        fs::write(at.join(file), text).expect("its files are written");
    }
}

/// One of its programs, with its own libraries and this configuration.
fn program(at: &Path, name: &str) -> Command {
    let unpacked = tool("inn");
    let mut libraries = unpacked.join("usr/lib/news").into_os_string();
    for directory in fs::read_dir(unpacked.join("usr/lib")).expect("INN is unpacked").flatten() {
        libraries.push(":");
        libraries.push(directory.path());
    }
    let mut command = Command::new(unpacked.join("usr/lib/news/bin").join(name));
    command.env("LD_LIBRARY_PATH", libraries).env("INNCONF", at.join("etc/inn.conf"));
    command
}
