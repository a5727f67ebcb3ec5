//! MySQL as MariaDB and as Oracle make it, run where certificates are taken seriously: TLS, and users whose certificate the
//! server knows.
//!
//! The clients are in `mysql_clients.rs`.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::pki::{By, Leaf, Pki, Valid};
use super::process::Process;
use super::programs::{Ran, give_to, run, run_as, tool};
use super::{PATIENCE, clients, free_address, template};

/// The user that clients log in as, with the plugin that its server prefers: mysql_native_password (MariaDB) or
/// caching_sha2_password (Oracle). The server knows the certificate: [`client`]. There is a database of the same name.
pub const USER: &str = "app";
/// The same user with MariaDB's other plugin, which the server has to switch clients to.
pub const ED25519: &str = "ed25519";
/// The same user with Oracle's older plugin.
pub const SHA256: &str = "sha256";
/// Their password.
pub const PASSWORD: &str = "correct-horse";
/// A user that may do nothing but log in: with any certificate of the CA, and no password.
pub const CHECK: &str = "checker";

/// The same user with the plugin of newer MariaDBs, which answers twice.
pub const PARSEC: &str = "parsec";

/// 96 MiB are MariaDB's default, for each server.
const SMALL_LOG: &str = "--innodb-log-file-size=8M";

/// Whose MySQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// MariaDB 10.11, of this Debian.
    MariaDb,
    /// MariaDB 11.8 or newer, of a later Debian.
    NewestMariaDb,
    /// Oracle's, 9 or newer, of a later Debian.
    Oracle,
}

impl Make {
    /// The two makers.
    pub const BOTH: [Make; 2] = [Make::MariaDb, Make::Oracle];

    /// A program of the server, told where all else is if it does not know.
    fn program(self, name: &str) -> Command {
        let (root, share) = match self {
            Make::MariaDb => {
                let mut command = Command::new(name);
                command.arg("--no-defaults");
                return command;
            }
            Make::NewestMariaDb => ("mariadb/usr", "share/mariadb"),
            Make::Oracle => ("mysql/usr", "share/mysql"),
        };
        let usr = tool(root).canonicalize().expect("a directory that is there");
        let directory = if name.contains("install") { "bin" } else { "sbin" };
        let mut command = Command::new(usr.join(directory).join(name));
        command.arg("--no-defaults").arg(option("basedir", &usr));
        command.arg(option("plugin-dir", &usr.join("lib/mysql/plugin")));
        command.arg(option("lc-messages-dir", &usr.join(share)));
        command
    }

    fn server(self) -> Command {
        if self == Make::Oracle {
            let mut command = self.program("mysqld");
            command.args(["--secure-file-priv=", "--mysqlx=OFF", "--skip-log-bin"]);
            command.arg("--innodb-redo-log-capacity=8M");
            command
        } else {
            let mut command = self.program("mariadbd");
            command.arg(SMALL_LOG);
            command
        }
    }

    /// Makes a data directory, with a root that has no password and no other user.
    fn init(self, data: &Path) {
        let mut command = if self == Make::Oracle {
            let mut command = self.server();
            command.arg("--initialize-insecure");
            command
        } else {
            let mut command = self.program("mariadb-install-db");
            command.args(["--auth-root-authentication-method=normal", "--skip-test-db", SMALL_LOG]);
            command
        };
        command.arg(option("datadir", data));
        run_as(&mut command, "mysql");
        run(&mut command, PATIENCE * 3).answer();
    }

    /// What the server does before it takes clients, at each start.
    fn users(self, tls: Tls) -> String {
        let require = |what| if tls == Tls::Required { what } else { "" };
        let subject = require("REQUIRE SUBJECT '/CN=app'");
        let user = |name: &str, with: &str, require: &str| {
            format!("DROP USER IF EXISTS {name}@'%';\nCREATE USER {name}@'%' {with} {require};\n")
        };
        let mut sql = format!("CREATE DATABASE IF NOT EXISTS {USER};\n");
        let logins = match self {
            Make::MariaDb | Make::NewestMariaDb => {
                let other = if self == Make::MariaDb { ED25519 } else { PARSEC };
                // They come from localhost, and would be taken for nobody.
                sql += "DELETE FROM mysql.global_priv WHERE user = '';\nFLUSH PRIVILEGES;\n";
                sql += &format!("INSTALL SONAME 'auth_{other}';\n");
                let by = |plugin| format!("IDENTIFIED VIA {plugin} USING PASSWORD('{PASSWORD}')");
                [(USER, by("mysql_native_password")), (other, by(other))]
            }
            Make::Oracle => {
                let by = |plugin| format!("IDENTIFIED WITH {plugin} BY '{PASSWORD}'");
                [(USER, by("caching_sha2_password")), (SHA256, by("sha256_password"))]
            }
        };
        for (name, with) in logins {
            sql += &user(name, &with, subject);
            // mariadb-slap makes the other database, and drops it.
            for database in [USER, "mysqlslap"] {
                sql += &format!("GRANT ALL ON {database}.* TO {name}@'%';\n");
            }
        }
        sql + &user(CHECK, "", require("REQUIRE X509"))
    }
}

/// What a server does with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nobody comes in without it, and without a certificate.
    Required,
    /// It is there for those who want it.
    Offered,
    /// It is not there.
    Absent,
}

/// What differs from a MariaDB that demands certificates.
pub struct Setup<'a> {
    /// Whose.
    pub make: Make,
    /// What it does with TLS.
    pub tls: Tls,
    /// Options of the server: `max_connections=5`, ...
    pub settings: &'a [&'a str],
    /// A certificate that is not the good one.
    pub server: Option<&'a Leaf>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup { make: Make::MariaDb, tls: Tls::Required, settings: &[], server: None }
    }
}

/// Options of a server that blocks a host whose connections were given up five times, and tells of it. It never blocks
/// localhost, but [`ANOTHER_HOST`].
pub const BLOCKING: &[&str] = &["max-connect-errors=5", "performance-schema=ON"];
/// An address of this host that is not what servers know by the name of localhost.
pub const ANOTHER_HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A running server.
pub struct Mysql {
    make: Make,
    address: SocketAddr,
    settings: Vec<String>,
    // Ends before its directory goes.
    process: Process,
    directory: TempDir,
}

impl Mysql {
    /// One that demands certificates.
    #[track_caller]
    pub fn start(pki: &Pki, make: Make) -> Mysql {
        Mysql::with(pki, &Setup { make, ..Setup::default() })
    }

    /// Another one.
    #[track_caller]
    pub fn with(pki: &Pki, setup: &Setup<'_>) -> Mysql {
        let (make, address) = (setup.make, free_address());
        let directory = template::in_memory("nuncio-mysql-");
        let at = directory.path();
        let server = setup.server.unwrap_or(&pki.server);
        for (file, name) in
            [(&pki.ca(), "ca.pem"), (&server.certificate, "server.pem"), (&server.key, "server.key")]
        {
            fs::copy(file, at.join(name)).expect("a copy that the server may read");
        }
        fs::write(at.join("init.sql"), make.users(setup.tls)).expect("init.sql is written");
        give_to(at, "mysql");
        template::copy(&format!("mysql-{make:?}"), &at.join("data"), |data| make.init(data));
        let tls = match (setup.tls, make) {
            (Tls::Required, _) => &["require-secure-transport=ON"][..],
            (Tls::Offered, _) => &[],
            (Tls::Absent, Make::Oracle) => &["tls-version="],
            (Tls::Absent, _) => &["skip-ssl"],
        };
        let settings: Vec<_> = tls.iter().chain(setup.settings).map(|line| (*line).to_owned()).collect();
        let process = launch(make, address, at, &settings);
        Mysql { make, address, settings, process, directory }
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged since it was started last: among others, connections that were given up.
    pub fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The administrator's question, by the socket that only this machine has: one row a line, columns separated by a tab.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.ask(sql).answer().to_owned()
    }

    /// The same where the server may be gone.
    pub fn ask(&self, sql: &str) -> Ran {
        let mut command = Command::new("mariadb");
        command.arg("--no-defaults").arg(option("socket", &socket(self.directory.path())));
        command.args(["-uroot", "-NB", "-e", sql]);
        run(&mut command, Duration::from_secs(30))
    }

    /// A counter of the server's own: `Aborted_connects`, `Threads_connected`, ...
    #[track_caller]
    pub fn status(&self, name: &str) -> u64 {
        let row = self.sql(&format!("show global status like '{name}'"));
        row.split('\t').nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{name}: {row}"))
    }

    /// Whether one of its clients is at a statement with this in it.
    #[track_caller]
    pub fn is_at(&self, statement: &str) -> bool {
        let running = self.sql("select info from information_schema.processlist where id <> connection_id()");
        running.contains(statement)
    }

    /// How many connections of [`ANOTHER_HOST`] a [`BLOCKING`] server has counted as given up, since the last that was not.
    #[track_caller]
    pub fn connect_errors(&self) -> u64 {
        let sql = "select sum_connect_errors from performance_schema.host_cache where ip = ";
        let row = self.sql(&format!("{sql}'{ANOTHER_HOST}'"));
        if row.is_empty() { 0 } else { row.parse().expect("a number") }
    }

    /// Forgets the passwords that caching_sha2_password has seen: the next login of each user takes the long way.
    #[track_caller]
    pub fn forget_passwords(&self) {
        self.sql("flush privileges");
    }

    /// Ends it in order: its clients are cut off.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process.signal("TERM");
        self.process.wait_exit(PATIENCE * 3);
    }

    /// Starts it again where it was, with what it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.end("TERM", PATIENCE * 3);
        self.process = launch(self.make, self.address, self.directory.path(), &self.settings);
    }
}

/// The certificate that the servers know of [`USER`], as `app.pem` and `app.key`.
pub fn client(pki: &Pki) -> Leaf {
    pki.issue(USER, &[USER], By::Ca, Valid::Now)
}

/// What a server says first to somebody who leaves then, and comes from [`ANOTHER_HOST`].
#[track_caller]
pub fn greeting_to_another_host(server: SocketAddr) -> String {
    let mut packet = [0; 200];
    let length = clients::connect_from(ANOTHER_HOST, server).read(&mut packet).expect("a packet");
    String::from_utf8_lossy(&packet[..length]).into_owned()
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn socket(at: &Path) -> PathBuf {
    at.join("data/s")
}

#[track_caller]
fn launch(make: Make, address: SocketAddr, at: &Path, settings: &[String]) -> Process {
    let mut command = make.server();
    command.arg(option("datadir", &at.join("data"))).arg(option("socket", &socket(at)));
    command.arg(option("pid-file", &at.join("data/pid"))).arg(option("init-file", &at.join("init.sql")));
    command.args([format!("--bind-address={}", address.ip()), format!("--port={}", address.port())]);
    for (name, file) in [("ssl-ca", "ca.pem"), ("ssl-cert", "server.pem"), ("ssl-key", "server.key")] {
        command.arg(option(name, &at.join(file)));
    }
    command.args(["--local-infile=ON", "--max-allowed-packet=64M"]);
    command.args(["--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0"]);
    command.args(["--innodb-doublewrite=OFF", "--performance-schema=OFF"]);
    command.args(settings.iter().map(|setting| format!("--{setting}")));
    run_as(&mut command, "mysql");
    // It asks for the names of other hosts than localhost, and is to go on soon where nobody answers.
    command.env("RES_OPTIONS", "timeout:1 attempts:1");
    let mut process = Process::start("mysql", &mut command);
    process.wait_line("ready for connections", PATIENCE * 3);
    process
}
