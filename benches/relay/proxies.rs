//! The peers: how each is told the same thing (plaintext in, TLS 1.3 with our certificate out, sessions resumed, no
//! log), and the process that runs it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load;
use crate::pki::{Pki, SERVER_NAME};

/// Where the proxies run.
pub const PROXY_CPU: &str = "0";
/// Where the upstream and the client run.
pub const LOAD_CPU: &str = "1";

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blocking copies and one cipher pass, without TLS.
    Floor,
    /// tokio-rustls with copy_bidirectional.
    Naive,
    /// nginx' stream module.
    Nginx,
    /// HAProxy in TCP mode.
    Haproxy,
    /// stunnel in client mode.
    Stunnel,
    /// Envoy's tcp_proxy.
    Envoy,
    /// What this is about.
    Nuncio,
}

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Kind; 7] =
        [Kind::Floor, Kind::Naive, Kind::Nginx, Kind::Haproxy, Kind::Stunnel, Kind::Envoy, Kind::Nuncio];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Floor => "floor",
            Kind::Naive => "naive",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Stunnel => "stunnel",
            Kind::Envoy => "envoy",
            Kind::Nuncio => "nuncio",
        }
    }

    /// Does it speak TLS to the upstream?
    pub fn has_tls(self) -> bool {
        self != Kind::Floor
    }
}

/// A running proxy; it ends when dropped.
pub struct Proxy {
    /// What it is.
    pub kind: Kind,
    /// Where it accepts plaintext.
    pub address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// The process whose tree is measured.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts one before the upstream's port, and waits until a request has come back through it.
    pub fn start(kind: Kind, upstream: SocketAddr, pki: &Pki) -> Result<Proxy, String> {
        let directory = TempDir::with_prefix("nuncio-bench-").map_err(|e| e.to_string())?;
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).map_err(|e| e.to_string())?;
        let setting = Setting { address, upstream, pki, directory: directory.path() };
        let log = fs::File::create(directory.path().join("log")).map_err(|e| e.to_string())?;
        let mut command = setting.command(kind)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let child = command.spawn().map_err(|e| e.to_string())?;
        let mut proxy = Proxy { kind, address, child, directory };
        proxy.wait_until_it_relays()?;
        Ok(proxy)
    }

    fn wait_until_it_relays(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let attempt = load::echo_once(self.address);
            let Err(error) = attempt else { return Ok(()) };
            let ended = self.child.try_wait().map_err(|e| e.to_string())?;
            if ended.is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let how =
                ended.map_or(format!("does not relay: {error}"), |status| format!("ended with {status}"));
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(it wrote nothing)");
            return Err(format!("{how}; {}", last.trim()));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error: it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `program` on one CPU, with as many descriptors as the host allows.
pub fn pinned_to(cpu: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["-c", cpu, "sh", "-c", "ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\""])
        .arg(program.as_ref());
    command
}

struct Setting<'a> {
    address: SocketAddr,
    upstream: SocketAddr,
    pki: &'a Pki,
    directory: &'a Path,
}

impl Setting<'_> {
    fn command(&self, kind: Kind) -> Result<Command, String> {
        let Setting { address, upstream, pki, .. } = self;
        let ourselves = std::env::current_exe().map_err(|e| e.to_string())?;
        let run = |program: &str| pinned_to(PROXY_CPU, program);
        let mut command = match kind {
            Kind::Floor | Kind::Naive => {
                let mut command = pinned_to(PROXY_CPU, ourselves);
                command.args([kind.name(), &address.to_string(), &upstream.to_string()]);
                command
            }
            Kind::Nginx => run("nginx"),
            Kind::Haproxy => run("haproxy"),
            Kind::Stunnel => run("stunnel"),
            Kind::Envoy => pinned_to(PROXY_CPU, envoy_program()),
            Kind::Nuncio => run(env!("CARGO_BIN_EXE_nuncio")),
        };
        match kind {
            Kind::Floor => &mut command,
            Kind::Naive => command.arg(pki.directory()),
            Kind::Nginx => command
                .args(["-e", "stderr", "-p"])
                .arg(self.directory)
                .arg("-c")
                .arg(self.file(&self.nginx())?),
            Kind::Haproxy => command.arg("-db").arg("-f").arg(self.file(&self.haproxy()?)?),
            Kind::Stunnel => command.arg(self.file(&self.stunnel())?),
            Kind::Envoy => command
                .args(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart", "-c"])
                .arg(self.file(&self.envoy())?),
            Kind::Nuncio => command.args(["run", "--config"]).arg(self.file(&self.nuncio())?),
        };
        Ok(command)
    }

    /// Envoy knows a file by its suffix, and YAML holds JSON; the others do not look.
    fn file(&self, text: &str) -> Result<PathBuf, String> {
        let path = self.directory.join("configuration.yaml");
        fs::write(&path, text).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// CA, certificate, key.
    fn pem(&self) -> [String; 3] {
        [&self.pki.ca(), &self.pki.client.certificate, &self.pki.client.key]
            .map(|it| it.display().to_string())
    }

    fn nginx(&self) -> String {
        let Setting { address, upstream, directory, .. } = self;
        let [ca, certificate, key] = self.pem();
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; master_process off; worker_processes 1; pid {}/pid; error_log stderr emerg;\n\
             events {{ worker_connections 19900; }}\n\
             stream {{ server {{\n\
               listen {address} backlog=4096; proxy_pass {upstream}; proxy_timeout 1h;\n\
               proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;\n\
               proxy_ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384; proxy_ssl_conf_command Groups X25519;\n\
               proxy_ssl_certificate {certificate}; proxy_ssl_certificate_key {key};\n\
               proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on;\n\
               proxy_ssl_server_name on; proxy_ssl_name {SERVER_NAME};\n\
             }} }}\n",
            directory.display()
        )
    }

    fn haproxy(&self) -> Result<String, String> {
        let Setting { address, upstream, directory, .. } = self;
        let [ca, certificate, key] = self.pem();
        let bundle = directory.join("client.bundle");
        let read = |path: &str| fs::read_to_string(path).map_err(|e| e.to_string());
        fs::write(&bundle, read(&certificate)? + &read(&key)?).map_err(|e| e.to_string())?;
        Ok(format!(
            "global\n  nbthread 1\n  maxconn 9900\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             listen bench\n  bind {address} backlog 4096\n  maxconn 9900\n\
             \x20 server upstream {upstream} ssl crt {} ca-file {ca} verify required verifyhost {SERVER_NAME} \
             sni str({SERVER_NAME}) ssl-min-ver TLSv1.3 ciphersuites TLS_AES_256_GCM_SHA384\n",
            bundle.display()
        ))
    }

    fn stunnel(&self) -> String {
        let Setting { address, upstream, .. } = self;
        let [ca, certificate, key] = self.pem();
        format!(
            "foreground = yes\npid =\ndebug = crit\nsyslog = no\n\
             socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n\
             [bench]\nclient = yes\naccept = {address}\nconnect = {upstream}\n\
             CAfile = {ca}\ncert = {certificate}\nkey = {key}\nverifyChain = yes\ncheckHost = {SERVER_NAME}\n\
             sni = {SERVER_NAME}\nsslVersion = TLSv1.3\nciphersuites = TLS_AES_256_GCM_SHA384\ncurves = X25519\n\
             TIMEOUTidle = 3600\n"
        )
    }

    fn envoy(&self) -> String {
        let Setting { address, upstream, .. } = self;
        let [ca, certificate, key] = self.pem();
        let at = |address: &SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
        let config = serde_json::json!({"static_resources": {
            "listeners": [{"name": "bench", "address": at(address), "tcp_backlog_size": 4096, "filter_chains": [{
                "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "bench", "cluster": "upstream", "idle_timeout": "0s"}}]}]}],
            "clusters": [{"name": "upstream", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]},
                "load_assignment": {"cluster_name": "upstream",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}]},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": SERVER_NAME,
                    // One by default, and TLS 1.3 uses each once: four connections at a time would not resume.
                    "max_session_keys": 16,
                    "common_tls_context": {
                        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
                            "ecdh_curves": ["X25519"]},
                        "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
                        "validation_context": {"trusted_ca": {"filename": ca},
                            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]}}}}}]}});
        config.to_string()
    }

    fn nuncio(&self) -> String {
        let Setting { address, upstream, .. } = self;
        let [ca, certificate, key] = self.pem();
        format!(
            "[log]\nlevel = \"error\"\n\
             [runtime]\nthreads = 1\n\
             [identity.bench]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             [upstream.bench]\nendpoints = [\"{upstream}\"]\ntls = \"direct\"\nidentity = \"bench\"\n\
             server_name = \"{SERVER_NAME}\"\npost_quantum = false\n\
             [upstream.bench.health]\nkind = \"off\"\n\
             [listener.bench]\naddress = \"{address}\"\nupstream = \"bench\"\n"
        )
    }
}

/// Where `tests/run` has put it.
fn envoy_program() -> PathBuf {
    let tools = std::env::var_os("NUNCIO_TEST_TOOLS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools")), PathBuf::from);
    tools.join("envoy/bin/envoy")
}
