//! Message brokers that know a client by its certificate: Mosquitto speaks MQTT, RabbitMQ AMQP 0-9-1.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::programs::{give_to, run_as};
use super::servers::{Server, home};
use super::{PATIENCE, Pki, free_address};

/// RabbitMQ takes five seconds of the processor to start.
const STARTS_WITHIN: Duration = Duration::from_secs(90);

impl Server {
    /// Mosquitto. In its log a client has the name of its certificate: `u'client.test'`.
    #[track_caller]
    pub fn mosquitto(pki: &Pki) -> Server {
        Server::mosquitto_with(&format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
            pki.ca().display(),
            pki.server.certificate.display(),
            pki.server.key.display()
        ))
    }

    /// Mosquitto for everybody, without TLS.
    #[track_caller]
    pub fn mosquitto_without_tls() -> Server {
        Server::mosquitto_with("allow_anonymous true\n")
    }

    #[track_caller]
    fn mosquitto_with(lines: &str) -> Server {
        Server::start("mosquitto", |address, directory| {
            let (ip, port, file) = (address.ip(), address.port(), directory.join("mosquitto.conf"));
            // As whoever starts it: the certificates are no one else's.
            let config = format!("user root\nlog_dest stderr\nlog_type all\nlistener {port} {ip}\n{lines}");
            fs::write(&file, config).expect("mosquitto.conf is written");
            let mut command = Command::new("mosquitto");
            command.arg("-c").arg(file);
            command
        })
    }
}

/// A running RabbitMQ.
pub struct RabbitMq {
    address: SocketAddr,
    process: Process,
    // By name only; its own, so that none is left behind.
    _epmd: Process,
    _directory: TempDir,
}

impl RabbitMq {
    /// It demands a client's certificate, and logs it in by the name in there: `client.test`.
    #[track_caller]
    pub fn start(pki: &Pki) -> RabbitMq {
        RabbitMq::with(Some(pki))
    }

    /// With passwords, as it is unless told otherwise: `guest`.
    #[track_caller]
    pub fn without_tls() -> RabbitMq {
        RabbitMq::with(None)
    }

    #[track_caller]
    fn with(pki: Option<&Pki>) -> RabbitMq {
        let directory = home();
        let at = directory.path();
        let d = at.display();
        let [address, names, nodes] = [(); 3].map(|()| free_address());
        let listens = match pki {
            Some(pki) => {
                pki.copy_to(at);
                format!(
                    "listeners.tcp = none\nlisteners.ssl.1 = {address}\nssl_options.cacertfile = {d}/ca.pem\n\
                     ssl_options.certfile = {d}/server.pem\nssl_options.keyfile = {d}/server.key\n\
                     ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
                     auth_mechanisms.1 = EXTERNAL\nssl_cert_login_from = common_name\n"
                )
            }
            None => format!("listeners.tcp.1 = {address}\nlisteners.ssl = none\n"),
        };
        let users = serde_json::json!({
            "users": [{"name": "client.test", "password_hash": "", "tags": ""},
                {"name": "guest", "password": "guest", "tags": ""}],
            "vhosts": [{"name": "/"}],
            "permissions": [
                {"user": "client.test", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        });
        for (file, text) in [
            (
                "rabbitmq.conf",
                format!(
                    "{listens}load_definitions = {d}/users.json\nlog.file = false\nlog.console = true\n\
                     log.console.level = info\n"
                ),
            ),
            ("users.json", users.to_string()),
            ("plugins", "[rabbitmq_auth_mechanism_ssl].\n".to_owned()),
        ] {
            fs::write(at.join(file), text).expect("its files are written");
        }
        give_to(at, "rabbitmq");
        let start = |name: &str, command: &mut Command| {
            command.env("HOME", at).env("ERL_EPMD_PORT", names.port().to_string());
            command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
            run_as(command, "rabbitmq");
            Process::start(name, command)
        };
        let mut epmd = start("epmd", &mut Command::new("epmd"));
        epmd.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(names).ok());
        // Debian's wrapper would write beneath /var.
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        for (name, value) in [
            ("NODENAME", "n@localhost".to_owned()),
            ("CONF_ENV_FILE", "/nonexistent".to_owned()),
            ("CONFIG_FILE", format!("{d}/rabbitmq.conf")),
            ("ENABLED_PLUGINS_FILE", format!("{d}/plugins")),
            ("MNESIA_BASE", format!("{d}/db")),
            ("LOG_BASE", format!("{d}/log")),
            ("GENERATED_CONFIG_DIR", format!("{d}/generated")),
            ("PID_FILE", format!("{d}/pid")),
            ("DIST_PORT", nodes.port().to_string()),
            ("SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ] {
            command.env(format!("RABBITMQ_{name}"), value);
        }
        let mut process = start("rabbitmq-server", &mut command);
        process.wait("it accepts connections", STARTS_WITHIN, |_| TcpStream::connect(address).ok());
        RabbitMq { address, process, _epmd: epmd, _directory: directory }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process beneath, whose lines are its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // Its script is told, and ends what it has started.
        self.process.end("TERM", PATIENCE);
    }
}
