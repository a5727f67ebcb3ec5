//! Prosody: clients over XMPP, with STARTTLS, and TLS at once on a port of its own. Its log names each client's certificate.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::pki::Leaf;
use super::process::Process;
use super::programs::{give_to, run_as};
use super::servers::home;
use super::{PATIENCE, Pki, free_address};

/// Whoever has logged in is told of, with the certificate that the server was shown.
const TELLS: &str = r#"
module:hook("authentication-success", function (event)
    local socket = event.session.conn:socket();
    local certificate = socket.getpeercertificate and socket:getpeercertificate();
    local subject = "none";
    for _, part in ipairs(certificate and certificate:subject() or {}) do
        if part.name == "commonName" then subject = "CN=" .. part.value; end
    end
    module:log("info", "%s came with the certificate: %s", event.session.username, subject);
end);
"#;

/// A running Prosody with the account `u@upstream.test`.
pub struct Prosody {
    starttls: SocketAddr,
    direct: SocketAddr,
    process: Process,
    _directory: TempDir,
}

impl Prosody {
    /// It demands TLS and a client's certificate.
    #[track_caller]
    pub fn start(pki: &Pki) -> Prosody {
        Prosody::presenting(pki, &pki.server)
    }

    /// The same with another certificate of its own.
    #[track_caller]
    pub fn presenting(pki: &Pki, own: &Leaf) -> Prosody {
        Prosody::with(Some((pki, own)))
    }

    /// It offers no STARTTLS.
    #[track_caller]
    pub fn without_tls() -> Prosody {
        Prosody::with(None)
    }

    #[track_caller]
    fn with(tls: Option<(&Pki, &Leaf)>) -> Prosody {
        let directory = home();
        let at = directory.path();
        let account = at.join("data/upstream%2etest/accounts");
        for sub in [&account, &at.join("modules")] {
            fs::create_dir_all(sub).expect("a directory beneath it");
        }
        fs::write(account.join("u.dat"), "return { [\"password\"] = \"pw\"; };\n").expect("an account");
        fs::write(at.join("modules/mod_tells.lua"), TELLS).expect("a module of our own");
        let [starttls, direct, servers] = [(); 3].map(|()| free_address());
        let has_tls = tls.is_some();
        let tls = match tls {
            Some((pki, own)) => {
                pki.copy_to(at);
                for (file, name) in [(&own.certificate, "server.pem"), (&own.key, "server.key")] {
                    fs::copy(file, at.join(name)).expect("a copy that it may read");
                }
                let ssl = |name: &str| {
                    format!(
                        "{name} = {{ certificate = \"{d}/server.pem\"; key = \"{d}/server.key\"; cafile = \"{d}/ca.pem\"; \
                         verify = {{ \"peer\", \"fail_if_no_peer_cert\" }} }}\n",
                        d = at.display()
                    )
                };
                format!(
                    "modules_enabled = {{ \"saslauth\"; \"tls\"; \"disco\"; \"ping\"; \"tells\" }}\n\
                     c2s_direct_tls_ports = {{ {} }}\nc2s_require_encryption = true\n{}{}",
                    direct.port(),
                    ssl("ssl"),
                    ssl("c2s_direct_tls_ssl")
                )
            }
            None => "modules_enabled = { \"saslauth\"; \"disco\"; \"ping\"; \"tells\" }\nmodules_disabled = { \"tls\" }\n\
                     c2s_direct_tls_ports = {}\nc2s_require_encryption = false\nallow_unencrypted_plain_auth = true\n"
                .to_owned(),
        };
        let config = format!(
            "data_path = \"{d}/data\"\nplugin_paths = {{ \"{d}/modules\" }}\ncertificates = \"/nonexistent\"\n\
             daemonize = false\ninterfaces = {{ \"127.0.0.1\" }}\nc2s_ports = {{ {} }}\ns2s_ports = {{ {} }}\n\
             s2s_direct_tls_ports = {{}}\nhttp_ports = {{}}\nhttps_ports = {{}}\nlog = {{ debug = \"*console\" }}\n\
             authentication = \"internal_plain\"\n{tls}VirtualHost \"upstream.test\"\n",
            starttls.port(),
            servers.port(),
            d = at.display()
        );
        let file = at.join("prosody.cfg.lua");
        fs::write(&file, config).expect("the configuration is written");
        give_to(at, "prosody");
        let mut command = Command::new("prosody");
        command.arg("--config").arg(file).arg("-F");
        run_as(&mut command, "prosody");
        let mut process = Process::start("prosody", &mut command);
        process.wait("it accepts connections", PATIENCE, |_| {
            let doors = if has_tls { vec![starttls, direct] } else { vec![starttls] };
            doors.into_iter().all(|door| TcpStream::connect(door).is_ok()).then_some(())
        });
        Prosody { starttls, direct, process, _directory: directory }
    }

    /// Where STARTTLS is asked for.
    pub fn starttls(&self) -> SocketAddr {
        self.starttls
    }

    /// Where TLS begins at once.
    pub fn direct(&self) -> SocketAddr {
        self.direct
    }

    /// The process beneath, whose lines are its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
