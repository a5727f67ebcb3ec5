//! PostgreSQL as it is run where certificates are taken seriously: TLS, SCRAM, and a client certificate of the role's own name.
//!
//! The clients are in `sql.rs`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::pki::{By, Leaf, Pki, SERVER_NAME, Valid};
use super::process::Process;
use super::programs::{Ran, Running, give_to, run, run_as, tool};
use super::{PATIENCE, free_address, template};

/// The user that clients log in as; its database has the same name.
pub const USER: &str = "app";
/// Its password.
pub const PASSWORD: &str = "correct-horse";

/// pg_hba.conf: TLS, SCRAM, and a certificate whose CN is the role.
pub const MUTUAL: &str = "hostssl all all all scram-sha-256 clientcert=verify-full\n\
                          hostssl replication all all scram-sha-256 clientcert=verify-full\n";
/// pg_hba.conf: a password is enough, with TLS or without.
pub const PASSWORD_ONLY: &str = "host all all all scram-sha-256\n";
/// pg_hba.conf: nobody, explicitly.
pub const REJECT: &str = "host all all all reject\n";
/// pg_hba.conf: nobody, since nobody is named.
pub const NO_ENTRY: &str = "";

/// Which PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// That of this Debian: 15.
    Debian,
    /// 18 or newer, of a later Debian: direct TLS, and version 3.2 of the protocol.
    Newest,
}

impl Release {
    /// One of its programs, without Debian's wrapper.
    #[track_caller]
    pub fn program(self, name: &str) -> PathBuf {
        let versions = match self {
            Release::Debian => PathBuf::from("/usr/lib/postgresql"),
            Release::Newest => tool("postgresql/usr/lib/postgresql"),
        };
        let installed = fs::read_dir(&versions).into_iter().flatten().flatten();
        let newest = installed.map(|version| version.path()).max();
        newest.expect("PostgreSQL: tests/run installs it").join("bin").join(name)
    }
}

/// What differs from a PostgreSQL 15 that demands certificates.
pub struct Setup<'a> {
    /// Which.
    pub release: Release,
    /// pg_hba.conf, for connections over TCP: [`MUTUAL`], ...
    pub hba: &'a str,
    /// Lines of postgresql.conf: `ssl=off`, `max_connections=5`, ...
    pub settings: &'a [&'a str],
    /// A certificate that is not the good one.
    pub server: Option<&'a Leaf>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup { release: Release::Debian, hba: MUTUAL, settings: &[], server: None }
    }
}

/// How a server is told to end.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// When its clients have left; new ones are told that it shuts down.
    Smart,
    /// Its clients are told and cut off.
    Fast,
    /// As if it had crashed, as far as its clients can see.
    Immediate,
}

/// A running PostgreSQL.
pub struct Postgres {
    address: SocketAddr,
    release: Release,
    settings: Vec<String>,
    directory: TempDir,
    process: Process,
}

impl Postgres {
    /// PostgreSQL 15 with the role [`USER`], to be reached with a certificate of [`client`].
    #[track_caller]
    pub fn start(pki: &Pki) -> Postgres {
        Postgres::with(pki, &Setup::default())
    }

    /// Another one.
    #[track_caller]
    pub fn with(pki: &Pki, setup: &Setup<'_>) -> Postgres {
        Postgres::prepared(pki, setup, copy_template)
    }

    /// A hot standby of `primary`, which follows it as of now.
    #[track_caller]
    pub fn standby_of(primary: &Postgres, pki: &Pki) -> Postgres {
        let setup = Setup { release: primary.release, ..Setup::default() };
        Postgres::prepared(pki, &setup, |release, directory| {
            let mut command = Command::new(release.program("pg_basebackup"));
            command.args(primary.admin().options()).arg("-D").arg(directory.join("db"));
            command.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]);
            run_as(&mut command, "postgres");
            run(&mut command, PATIENCE * 3).answer();
        })
    }

    #[track_caller]
    fn prepared(pki: &Pki, setup: &Setup<'_>, fill: impl FnOnce(Release, &Path)) -> Postgres {
        // Seven hundred small files, which a busy disk takes seconds for.
        let directory = template::in_memory("nuncio-postgres-");
        let at = directory.path();
        let server = setup.server.unwrap_or(&pki.server);
        for (file, name) in
            [(&pki.ca(), "ca.pem"), (&server.certificate, "server.pem"), (&server.key, "server.key")]
        {
            fs::copy(file, at.join(name)).expect("a copy that the server may read");
        }
        let hba = format!("local all all trust\nlocal replication all trust\n{}", setup.hba);
        fs::write(at.join("hba.conf"), hba).expect("hba.conf is written");
        give_to(at, "postgres");
        fill(setup.release, at);
        let settings: Vec<_> = setup.settings.iter().map(|line| (*line).to_owned()).collect();
        let address = free_address();
        let process = launch(setup.release, address, at, &settings);
        Postgres { address, release: setup.release, settings, directory, process }
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For the superuser's questions; it may outlive the server, and answers then that there is none.
    pub fn admin(&self) -> Admin {
        Admin { release: self.release, directory: self.directory.path().into(), port: self.address.port() }
    }

    /// What it has logged since it was started last.
    pub fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// The process of its postmaster.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it; with [`Stop::Smart`] that takes until its last client has left.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        self.process.signal(match how {
            Stop::Smart => "TERM",
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
        self.process.wait_exit(PATIENCE);
    }

    /// Starts it again where it was, with what it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.end("INT", PATIENCE);
        self.process = launch(self.release, self.address, self.directory.path(), &self.settings);
    }

    /// Makes a standby the primary, and returns when it is.
    #[track_caller]
    pub fn promote(&self) {
        assert_eq!(self.admin().sql("select pg_promote()"), "t", "{}", self.log());
    }

    /// How a client with this certificate connects without nuncio, as libpq has it.
    pub fn over_tls(&self, pki: &Pki, client: &Leaf) -> String {
        format!(
            "host={SERVER_NAME} hostaddr={} port={} user={USER} password={PASSWORD} dbname={USER} \
             sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            self.address.ip(),
            self.address.port(),
            pki.ca().display(),
            client.certificate.display(),
            client.key.display()
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Not killed: a killed one leaves its shared memory behind.
        self.process.end("QUIT", PATIENCE);
    }
}

/// How a client without TLS connects, as libpq has it.
pub fn plaintext(address: SocketAddr) -> String {
    format!(
        "host={} port={} user={USER} password={PASSWORD} dbname={USER} sslmode=disable",
        address.ip(),
        address.port()
    )
}

/// A client certificate for [`USER`], as `app.pem` and `app.key`.
pub fn client(pki: &Pki) -> Leaf {
    pki.issue(USER, &[USER], By::Ca, Valid::Now)
}

/// What a PostgreSQL is to those that replicate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary, and takes reads.
    Standby,
    /// It does not answer.
    Gone,
}

/// The superuser, by the socket that only this machine has.
#[derive(Clone, Debug)]
pub struct Admin {
    release: Release,
    directory: PathBuf,
    port: u16,
}

impl Admin {
    /// The answer, one row a line, columns separated by `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.ask(sql).answer().to_owned()
    }

    /// The same where the server may be gone.
    pub fn ask(&self, sql: &str) -> Ran {
        let mut command = Command::new(self.release.program("psql"));
        command.args(self.options()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", USER, "-c", sql]);
        run(&mut command, Duration::from_secs(30))
    }

    /// What it is now.
    pub fn role(&self) -> Role {
        match self.ask("select pg_is_in_recovery()").stdout.trim() {
            "f" => Role::Primary,
            "t" => Role::Standby,
            _ => Role::Gone,
        }
    }

    fn options(&self) -> Vec<String> {
        ["-h", &self.directory.display().to_string(), "-p", &self.port.to_string(), "-U", "postgres"]
            .map(str::to_owned)
            .into()
    }
}

#[track_caller]
fn launch(release: Release, address: SocketAddr, at: &Path, settings: &[String]) -> Process {
    let mut command = Command::new(release.program("postgres"));
    command.current_dir(at).arg("-D").arg(at.join("db"));
    let directory = at.display();
    let ours = [
        format!("listen_addresses={}", address.ip()),
        format!("port={}", address.port()),
        format!("unix_socket_directories={directory}"),
        format!("hba_file={directory}/hba.conf"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={directory}/server.pem"),
        format!("ssl_key_file={directory}/server.key"),
        format!("ssl_ca_file={directory}/ca.pem"),
        "log_connections=on".to_owned(),
        "fsync=off".to_owned(),
        "shared_buffers=16MB".to_owned(),
    ];
    for setting in ours.iter().chain(settings) {
        command.arg("-c").arg(setting);
    }
    run_as(&mut command, "postgres");
    let mut process = Process::start("postgres", &mut command);
    process.wait_line("ready to accept", PATIENCE);
    process
}

/// Makes `db` in `directory`.
fn copy_template(release: Release, directory: &Path) {
    template::copy(&format!("postgres-{release:?}"), &directory.join("db"), |at| init(release, at));
}

fn init(release: Release, database: &Path) {
    let mut command = Command::new(release.program("initdb"));
    command.arg("-D").arg(database).args(["-U", "postgres", "-A", "trust", "--no-sync", "--wal-segsize=1"]);
    command.args(["--no-locale", "-E", "UTF8"]);
    run_as(&mut command, "postgres");
    run(&mut command, PATIENCE * 3).answer();
    let mut command = Command::new(release.program("postgres"));
    command.args(["--single", "-j", "-c", "fsync=off", "-D"]).arg(database).arg("template1");
    run_as(&mut command, "postgres");
    // Single-user mode reads a statement up to an empty line. Each database is 7 MB to copy for each server: one goes,
    // and one becomes the user's.
    let statements = format!(
        "create role {USER} login replication password '{PASSWORD}';\n\n\
         alter database postgres rename to {USER};\n\n\
         alter database {USER} owner to {USER};\n\n\
         update pg_database set datistemplate = false where datname = 'template0';\n\n\
         drop database template0;\n\n"
    );
    Running::start(&mut command, &statements).finish(PATIENCE * 3).answer();
}
