//! Real servers with TLS that demands a client certificate, each on a port of its own and gone when dropped.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::pki::{Pki, fixture};
use super::process::Process;
use super::programs::tool;
use super::{PATIENCE, free_address};

/// A running server.
pub struct Server {
    address: SocketAddr,
    process: Process,
    _directory: TempDir,
}

impl Server {
    /// Where it listens with TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process beneath.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Redis 7, TLS only.
    pub fn redis(pki: &Pki) -> Server {
        Server::start("redis-server", |address, directory| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", "0", "--tls-port", &address.port().to_string()]);
            command
                .arg("--tls-cert-file")
                .arg(&pki.server.certificate)
                .arg("--tls-key-file")
                .arg(&pki.server.key);
            command.arg("--tls-ca-cert-file").arg(pki.ca()).args(["--tls-auth-clients", "yes"]);
            command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
            command
        })
    }

    /// Redis 7 without TLS.
    pub fn redis_without_tls() -> Server {
        Server::start("redis-server", |address, directory| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory);
            command
        })
    }

    /// `openssl s_server`, which sends every line back with its letters in reverse order.
    pub fn openssl(pki: &Pki) -> Server {
        Server::openssl_as(pki, "-rev")
    }

    /// `openssl s_server`, which answers HTTP with a page about the connection.
    pub fn openssl_www(pki: &Pki) -> Server {
        Server::openssl_as(pki, "-www")
    }

    fn openssl_as(pki: &Pki, what: &str) -> Server {
        Server::start("openssl s_server", |address, _| {
            let mut command = Command::new("openssl");
            command.args(["s_server", "-accept", &address.to_string(), what, "-quiet", "-Verify", "1"]);
            command.args(["-verify_return_error", "-CAfile"]).arg(pki.ca());
            command.arg("-cert").arg(&pki.server.certificate).arg("-key").arg(&pki.server.key);
            command
        })
    }

    /// `openssl s_server` with files of `tests/pki` and options of the test's own: what no newer library still does.
    pub fn openssl_with(certificate: &str, key: &str, options: &[&str]) -> Server {
        Server::start("openssl s_server", |address, _| {
            let mut command = Command::new("openssl");
            command.args(["s_server", "-accept", &address.to_string(), "-rev", "-quiet"]).args(options);
            command.arg("-cert").arg(fixture(certificate)).arg("-key").arg(fixture(key));
            command
        })
    }

    /// nginx' stream module, terminating TLS before the plaintext server at `behind`. When a connection is over, its log
    /// names the client's certificate: `TLSv1.3 SUCCESS CN=client.test`.
    pub fn nginx(pki: &Pki, behind: SocketAddr) -> Server {
        Server::start("nginx", |address, directory| {
            let [ca, certificate, key] = files(pki);
            let (at, file) = (directory.display(), directory.join("nginx.conf"));
            let text = format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
                 daemon off; master_process off; pid {at}/pid; error_log stderr info;\n\
                 events {{ worker_connections 4096; }}\n\
                 stream {{ log_format told '$ssl_protocol $ssl_client_verify $ssl_client_s_dn'; access_log /dev/stderr told;\n\
                 server {{\n\
                   listen {address} ssl; proxy_pass {behind};\n\
                   ssl_certificate {certificate}; ssl_certificate_key {key};\n\
                   ssl_client_certificate {ca}; ssl_verify_client on; ssl_protocols TLSv1.2 TLSv1.3;\n\
                 }} }}\n"
            );
            std::fs::write(&file, text).expect("nginx.conf is written");
            let mut command = Command::new("nginx");
            command.arg("-e").arg("stderr").arg("-p").arg(directory).arg("-c").arg(file);
            command
        })
    }

    /// Envoy, terminating TLS before the plaintext server at `behind`.
    pub fn envoy(pki: &Pki, behind: SocketAddr) -> Server {
        Server::start("envoy", |address, directory| {
            let [ca, certificate, key] = files(pki);
            let file = directory.join("envoy.json");
            let endpoint = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
            let config = serde_json::json!({"static_resources": {
                "listeners": [{"name": "tls", "address": endpoint(address), "filter_chains": [{
                    "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "tls", "cluster": "behind"}}],
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "require_client_certificate": true,
                        "common_tls_context": {
                            "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
                            "validation_context": {"trusted_ca": {"filename": ca}}}}}}]}],
                "clusters": [{"name": "behind", "connect_timeout": "3s", "load_assignment": {"cluster_name": "behind",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint(behind)}}]}]}}]}});
            std::fs::write(&file, config.to_string()).expect("envoy.json is written");
            Server::envoy_with(&file)
        })
    }

    /// HAProxy before a server at `to`; `options` of its line: which PROXY header it sends, whether it checks.
    pub fn haproxy(to: SocketAddr, options: &str) -> Server {
        Server::start("haproxy", |address, directory| {
            let file = directory.join("haproxy.cfg");
            let text = format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
                 frontend in\n  bind {address}\n  unique-id-format %[uuid]\n  default_backend out\n\
                 backend out\n  server one {to} {options}\n"
            );
            std::fs::write(&file, text).expect("haproxy.cfg is written");
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(file);
            command
        })
    }

    /// Envoy before a server at `to`, which it tells in a PROXY header of version 2 who its clients are.
    pub fn envoy_before(to: SocketAddr) -> Server {
        Server::start("envoy", |address, directory| {
            let file = directory.join("envoy.json");
            let endpoint = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
            let config = serde_json::json!({"static_resources": {
                "listeners": [{"name": "in", "address": endpoint(address), "filter_chains": [{
                    "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "in", "cluster": "out"}}]}]}],
                "clusters": [{"name": "out", "connect_timeout": "3s",
                    "transport_socket": {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                        "config": {"version": "V2"},
                        "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}},
                    "load_assignment": {"cluster_name": "out",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint(to)}}]}]}}]}});
            std::fs::write(&file, config.to_string()).expect("envoy.json is written");
            Server::envoy_with(&file)
        })
    }

    fn envoy_with(file: &Path) -> Command {
        let mut command = Command::new(tool("envoy/bin/envoy"));
        command.arg("-c").arg(file);
        command.args(["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]);
        command
    }

    /// A mock of SQL Server: TDS 7.4, whose TLS begins inside PRELOGIN. It never asks for a certificate.
    #[cfg(unix)]
    pub fn sql_server(pki: &Pki) -> Server {
        Server::mssql("optional", Some(pki))
    }

    /// The same with TDS 8: TLS from the first byte.
    #[cfg(unix)]
    pub fn sql_server_strict(pki: &Pki) -> Server {
        Server::mssql("strict", Some(pki))
    }

    /// The same with TDS 7.4 that refuses encryption.
    #[cfg(unix)]
    pub fn sql_server_without_tls() -> Server {
        Server::mssql("none", None)
    }

    #[cfg(unix)]
    fn mssql(mode: &str, pki: Option<&Pki>) -> Server {
        Server::start("mssql-mock-tds", |address, _| {
            let mut command = Command::new(tool("bin/mssql-mock-tds"));
            command.args([
                "-H",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
                "-v",
                "-m",
                mode,
            ]);
            if let Some(pki) = pki {
                command.arg("-c").arg(&pki.server.certificate).arg("-k").arg(&pki.server.key);
            }
            command
        })
    }

    pub(super) fn start(name: &str, command: impl FnOnce(SocketAddr, &Path) -> Command) -> Server {
        let directory = TempDir::with_prefix("nuncio-server-").expect("a directory for the server");
        let address = free_address();
        let mut process = Process::start(name, &mut command(address, directory.path()));
        // A bare connection: the servers' logs call it an early end, and do not mind.
        process.wait("it accepts connections", PATIENCE, |_| TcpStream::connect(address).ok());
        Server { address, process, _directory: directory }
    }
}

/// A directory that a server's parts get into when they have given up their rights.
#[cfg(unix)]
pub fn home() -> TempDir {
    let directory = TempDir::with_prefix("nuncio-server-").expect("a directory for the server");
    super::programs::run(Command::new("chmod").arg("755").arg(directory.path()), PATIENCE).answer();
    directory
}

fn files(pki: &Pki) -> [String; 3] {
    [&pki.ca(), &pki.server.certificate, &pki.server.key].map(|path| path.display().to_string())
}
