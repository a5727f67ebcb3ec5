//! PgBouncer: a pool that is itself a client of what is behind it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::pki::{Leaf, Pki};
use super::postgres::{PASSWORD, USER};
use super::process::Process;
use super::programs::{give_to, run_as};
use super::{PATIENCE, free_address};

/// A running PgBouncer, which takes plaintext clients of [`USER`].
pub struct PgBouncer {
    address: SocketAddr,
    process: Process,
    _directory: TempDir,
}

impl PgBouncer {
    /// Before a server that wants no TLS of it.
    #[track_caller]
    pub fn start(behind: SocketAddr) -> PgBouncer {
        PgBouncer::launch(behind, |_| "server_tls_sslmode = disable\n".to_owned())
    }

    /// Before a PostgreSQL that demands this certificate: without nuncio.
    #[track_caller]
    pub fn start_over_tls(behind: SocketAddr, pki: &Pki, client: &Leaf) -> PgBouncer {
        PgBouncer::launch(behind, |at| {
            for (file, name) in
                [(&pki.ca(), "ca.pem"), (&client.certificate, "c.pem"), (&client.key, "c.key")]
            {
                fs::copy(file, at.join(name)).expect("a copy that it may read");
            }
            let d = at.display();
            format!(
                "server_tls_sslmode = verify-full\nserver_tls_ca_file = {d}/ca.pem\n\
                 server_tls_cert_file = {d}/c.pem\nserver_tls_key_file = {d}/c.key\n"
            )
        })
    }

    #[track_caller]
    fn launch(behind: SocketAddr, tls: impl FnOnce(&Path) -> String) -> PgBouncer {
        let directory = TempDir::with_prefix("nuncio-pgbouncer-").expect("a directory for PgBouncer");
        let (at, address) = (directory.path(), free_address());
        let config = format!(
            "[databases]\n{USER} = host={} port={}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}/users\npool_mode = transaction\n{}",
            behind.ip(),
            behind.port(),
            address.ip(),
            address.port(),
            at.display(),
            tls(at)
        );
        fs::write(at.join("pgbouncer.ini"), config).expect("pgbouncer.ini is written");
        fs::write(at.join("users"), format!("\"{USER}\" \"{PASSWORD}\"\n")).expect("its users are written");
        give_to(at, "postgres");
        let mut command = Command::new("pgbouncer");
        command.arg(at.join("pgbouncer.ini"));
        // It does not run as root.
        run_as(&mut command, "postgres");
        let mut process = Process::start("pgbouncer", &mut command);
        process.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(address).ok());
        PgBouncer { address, process, _directory: directory }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process beneath.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
