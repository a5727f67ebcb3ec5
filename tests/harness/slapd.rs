//! OpenLDAP's slapd: a directory of one entry, with StartTLS, and `ldaps://`.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::pki::Leaf;
use super::process::Process;
use super::programs::run;
use super::servers::home;
use super::{PATIENCE, Pki, free_address};

const ENTRIES: &str = "dn: dc=upstream,dc=test\nobjectClass: dcObject\nobjectClass: organization\ndc: upstream\no: upstream\n\n\
                       dn: cn=box,dc=upstream,dc=test\nobjectClass: device\ncn: box\ndescription: hello\n";

/// A running slapd.
pub struct Slapd {
    ldap: SocketAddr,
    ldaps: SocketAddr,
    process: Process,
    _directory: TempDir,
}

impl Slapd {
    /// It demands a client's certificate, and TLS for everything.
    #[track_caller]
    pub fn start(pki: &Pki) -> Slapd {
        Slapd::presenting(pki, &pki.server)
    }

    /// The same with another certificate of its own.
    #[track_caller]
    pub fn presenting(pki: &Pki, own: &Leaf) -> Slapd {
        Slapd::with(Some((pki, own)))
    }

    /// It refuses StartTLS, and has no `ldaps://`.
    #[track_caller]
    pub fn without_tls() -> Slapd {
        Slapd::with(None)
    }

    #[track_caller]
    fn with(tls: Option<(&Pki, &Leaf)>) -> Slapd {
        let directory = home();
        let at = directory.path();
        let d = at.display();
        let schemas = ["core", "cosine", "inetorgperson"];
        let schemas = schemas.map(|name| format!("include /etc/ldap/schema/{name}.schema\n")).concat();
        let has_tls = tls.is_some();
        let tls = tls.map_or_else(String::new, |(pki, own)| {
            format!(
                "TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\nTLSVerifyClient demand\n\
                 security tls=1\n",
                pki.ca().display(),
                own.certificate.display(),
                own.key.display()
            )
        });
        let config = format!(
            "{schemas}pidfile {d}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n{tls}\
             database mdb\nmaxsize 1048576\nsuffix dc=upstream,dc=test\nrootdn cn=admin,dc=upstream,dc=test\nrootpw pw\n\
             directory {d}/db\n"
        );
        let [file, entries] = ["slapd.conf", "entries.ldif"].map(|name| at.join(name));
        fs::create_dir(at.join("db")).expect("a directory beneath it");
        fs::write(&file, config).expect("slapd.conf is written");
        fs::write(&entries, ENTRIES).expect("the entries are written");
        run(Command::new("slapadd").arg("-q").arg("-f").arg(&file).arg("-l").arg(entries), PATIENCE).answer();
        let [ldap, ldaps] = [(); 2].map(|()| free_address());
        let mut urls = format!("ldap://{ldap}/");
        if has_tls {
            urls += &format!(" ldaps://{ldaps}/");
        }
        // In the foreground, with what a connection, an operation and its result are.
        let mut command = Command::new("slapd");
        command.args(["-d", "stats", "-h", &urls, "-f"]).arg(file);
        let mut process = Process::start("slapd", &mut command);
        process.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(ldap).ok());
        Slapd { ldap, ldaps, process, _directory: directory }
    }

    /// Where StartTLS is asked for.
    pub fn ldap(&self) -> SocketAddr {
        self.ldap
    }

    /// Where TLS begins at once.
    pub fn ldaps(&self) -> SocketAddr {
        self.ldaps
    }

    /// The process beneath, whose lines are its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
