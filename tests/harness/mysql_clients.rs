//! Clients of MySQL and MariaDB, each told where and how to log in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::mysql::{PASSWORD, USER};
use super::pki::{Leaf, Pki, SERVER_NAME};
use super::programs::{Ran, Running, run, tool};

/// How long a client has for its questions.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Where a client connects, as whom, and how.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where.
    pub at: At,
    /// As whom.
    pub user: &'static str,
    /// Its password.
    pub password: &'static str,
    /// The client's own TLS.
    pub tls: ClientTls,
    /// It may ask the server for an RSA key to encrypt its password with. Oracle's mysql and JDBC do so only then; PyMySQL
    /// does anyway; the others never do for caching_sha2_password.
    pub public_key: bool,
    /// It compresses what it sends.
    pub compress: bool,
}

/// Where a client connects.
#[derive(Clone, Debug)]
pub enum At {
    /// A host and a port.
    Tcp(SocketAddr),
    /// A socket of this machine. JDBC knows none.
    Unix(PathBuf),
}

/// What a client wants of TLS.
#[derive(Clone, Debug)]
pub enum ClientTls {
    /// None, and that was said.
    Disabled,
    /// What the client does when nothing is said of it.
    Unsaid,
    /// It insists, and looks at no certificate.
    Demanded,
    /// It checks the server's certificate, and has one itself: authority, certificate, key.
    Mutual([PathBuf; 3]),
}

impl Login {
    /// [`USER`] without TLS, as most programs have it: nothing is said of it.
    pub fn at(address: SocketAddr) -> Login {
        Login {
            at: At::Tcp(address),
            user: USER,
            password: PASSWORD,
            tls: ClientTls::Unsaid,
            public_key: false,
            compress: false,
        }
    }

    /// The same at a socket of this machine.
    pub fn on(socket: &Path) -> Login {
        Login { at: At::Unix(socket.into()), ..Login::at(([127, 0, 0, 1], 0).into()) }
    }

    /// Another user.
    pub fn user(self, user: &'static str) -> Login {
        Login { user, ..self }
    }

    /// With this certificate over TLS, to a server with one of [`SERVER_NAME`].
    pub fn over_tls(self, pki: &Pki, leaf: &Leaf) -> Login {
        let files = [&pki.ca(), &leaf.certificate, &leaf.key].map(PathBuf::clone);
        Login { tls: ClientTls::Mutual(files), ..self }
    }
}

/// A client, by the library that it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// mariadb of this Debian.
    MariaDb,
    /// mariadb of a later one. It insists on TLS unless told otherwise.
    NewestMariaDb,
    /// Oracle's mysql.
    Oracle,
    /// mysql-connector-python, on Oracle's library in C.
    Connector,
    /// mysql-connector-python, on nothing.
    PureConnector,
    /// PyMySQL, on nothing.
    PyMysql,
    /// MariaDB's JDBC driver. It has no certificate of its own here.
    Jdbc,
}

impl Client {
    /// Each of them, the newest mariadb aside.
    pub const ALL: [Client; 6] = [
        Client::MariaDb,
        Client::Oracle,
        Client::Connector,
        Client::PureConnector,
        Client::PyMysql,
        Client::Jdbc,
    ];

    /// Connects, asks one thing after the other, and prints the answers: one row a line, columns separated by a tab. The
    /// libraries prepare each statement first, where they can. Python's have `change user`, which is to the
    /// same one, and `be killed`, after which they connect again.
    #[track_caller]
    pub fn ask(self, login: &Login, statements: &[&str]) -> Ran {
        let mut command = match self {
            Client::MariaDb | Client::NewestMariaDb | Client::Oracle => {
                return self.run(login, &statements.iter().fold(String::new(), |all, one| all + one + ";\n"));
            }
            Client::Connector => python("connector", login),
            Client::PureConnector => python("connector-pure", login),
            Client::PyMysql => python("pymysql", login),
            Client::Jdbc => jdbc(login),
        };
        run(command.args(statements), LIMIT)
    }

    /// mariadb or mysql with this on its standard input.
    #[track_caller]
    pub fn run(self, login: &Login, script: &str) -> Ran {
        self.start(login, script).finish(LIMIT)
    }

    /// The same, under way.
    #[track_caller]
    pub fn start(self, login: &Login, script: &str) -> Running {
        let mut command = match self {
            Client::MariaDb => terminal("mariadb".into(), self, login),
            Client::NewestMariaDb => {
                let mut command = terminal(tool("mariadb/usr/bin/mariadb"), self, login);
                let libraries = tool("mariadb/usr/lib").read_dir().expect("a directory that is there");
                let plugins = libraries.flatten().map(|entry| entry.path().join("libmariadb3/plugin"));
                let plugins = plugins.filter(|path| path.exists()).last().expect("it has plugins");
                command.arg(format!("--plugin-dir={}", plugins.display()));
                command
            }
            Client::Oracle => {
                let mut command = terminal(tool("mysql/usr/bin/mysql"), self, login);
                // Where it looks by default there is none.
                command.arg(format!("--plugin-dir={}", tool("mysql/usr/lib/mysql/plugin").display()));
                command
            }
            _ => panic!("{self:?} takes no script"),
        };
        command.args([
            "--batch",
            "--skip-column-names",
            "--local-infile=1",
            "--max-allowed-packet=64M",
            USER,
        ]);
        Running::start(&mut command, script)
    }
}

/// mariadb-slap with these options.
#[track_caller]
pub fn slap(login: &Login, options: &[&str]) -> Running {
    Running::start(terminal("mariadb-slap".into(), Client::MariaDb, login).args(options), "")
}

/// A program of the makers' own.
fn terminal(program: PathBuf, client: Client, login: &Login) -> Command {
    let oracle = client == Client::Oracle;
    let mut command = Command::new("env");
    // Oracle's warn of a password on the command line; MariaDB's newest takes another way for one's absence.
    if oracle {
        command.arg(format!("MYSQL_PWD={}", login.password));
    }
    command.arg(program).args(["--no-defaults", "--user", login.user]);
    if !oracle {
        command.arg(format!("--password={}", login.password));
    }
    match &login.at {
        At::Tcp(address) => {
            command.args(["--protocol=tcp", "--host", &address.ip().to_string()]);
            command.args(["--port", &address.port().to_string()]);
        }
        At::Unix(socket) => {
            command.arg("--socket").arg(socket);
        }
    }
    match &login.tls {
        ClientTls::Unsaid => {}
        ClientTls::Disabled => {
            command.arg(if oracle { "--ssl-mode=DISABLED" } else { "--skip-ssl" });
        }
        ClientTls::Demanded => {
            command.arg(if oracle { "--ssl-mode=REQUIRED" } else { "--ssl" });
        }
        ClientTls::Mutual(files) => {
            for (name, file) in ["ssl-ca", "ssl-cert", "ssl-key"].iter().zip(files) {
                command.arg(format!("--{name}={}", file.display()));
            }
            command.arg(if oracle { "--ssl-mode=VERIFY_IDENTITY" } else { "--ssl-verify-server-cert" });
        }
    }
    if login.public_key && oracle {
        command.arg("--get-server-public-key");
    }
    if login.compress {
        command.arg("--compress");
    }
    command
}

fn python(driver: &str, login: &Login) -> Command {
    let mut given = json!({ "user": login.user, "password": login.password, "database": USER });
    match &login.at {
        At::Tcp(address) => {
            given["host"] = address.ip().to_string().into();
            given["port"] = address.port().into();
        }
        At::Unix(socket) => given["unix_socket"] = socket.display().to_string().into(),
    }
    match &login.tls {
        ClientTls::Unsaid => {}
        ClientTls::Disabled => given["tls"] = json!({ "ssl_disabled": true }),
        ClientTls::Demanded => given["tls"] = json!({}),
        ClientTls::Mutual([ca, cert, key]) => {
            given["tls"] = json!({ "ssl_ca": ca, "ssl_cert": cert, "ssl_key": key });
        }
    }
    given["compress"] = login.compress.into();
    let mut command = Command::new(tool("python/bin/python"));
    command.args(["-I", "-c", include_str!("mysql_client.py"), driver, &given.to_string()]);
    command
}

fn jdbc(login: &Login) -> Command {
    let At::Tcp(address) = login.at else { panic!("JDBC connects to no socket") };
    let mut given = format!("host={} port={} dbname={USER}", address.ip(), address.port());
    given += &format!(" user={} password={} allowLocalInfile=true", login.user, login.password);
    given += &format!(" useServerPrepStmts=true useCompression={}", login.compress);
    given += &format!(" allowPublicKeyRetrieval={}", login.public_key);
    given += match &login.tls {
        ClientTls::Unsaid => "",
        ClientTls::Disabled => " useSsl=false",
        ClientTls::Demanded => " useSsl=true trustServerCertificate=true",
        ClientTls::Mutual(_) => panic!("JDBC has no certificate for {SERVER_NAME}"),
    };
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-cp", "/usr/share/java/mariadb-java-client.jar"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/SqlClient.java"));
    command.args(["mariadb", &given]);
    command
}
