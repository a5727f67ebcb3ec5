//! Proxies between nuncio and its servers, and servers that want the PROXY protocol: real ones, gone when dropped.

use std::process::Command;

use super::pki::Pki;
use super::servers::Server;

impl Server {
    /// tinyproxy: CONNECT to any port, for whoever says `erp` and `secret`.
    pub fn tinyproxy() -> Server {
        Server::start("tinyproxy", |address, directory| {
            let file = directory.join("tinyproxy.conf");
            let text = format!(
                "Listen 127.0.0.1\nPort {}\nTimeout 60\nMaxClients 100\nAllow 127.0.0.1\nBasicAuth erp secret\n",
                address.port()
            );
            std::fs::write(&file, text).expect("tinyproxy.conf is written");
            let mut command = Command::new("tinyproxy");
            command.arg("-d").arg("-c").arg(file);
            command
        })
    }

    /// microsocks: SOCKS5 for whoever says `erp` and `secret`.
    pub fn microsocks() -> Server {
        Server::start("microsocks", |address, _| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &address.port().to_string(), "-u", "erp", "-P", "secret"]);
            command
        })
    }

    /// HAProxy as a server behind mTLS that serves nobody without a PROXY header, and answers any request with what that told: the
    /// client's address and port, where it connected to, and the connection's name.
    pub fn haproxy_that_tells(pki: &Pki) -> Server {
        Server::start("haproxy", |address, directory| {
            let both = directory.join("server.pem");
            let [certificate, key] = [&pki.server.certificate, &pki.server.key]
                .map(|file| std::fs::read_to_string(file).expect("a PEM file"));
            std::fs::write(&both, certificate + &key).expect("server.pem is written");
            let file = directory.join("haproxy.cfg");
            let text = format!(
                "defaults\n mode http\n timeout client 30s\n timeout connect 5s\n timeout server 30s\n\
                 frontend in\n bind {address} accept-proxy ssl crt {} ca-file {} verify required\n\
                 http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id]\"\n",
                both.display(),
                pki.ca().display()
            );
            std::fs::write(&file, text).expect("haproxy.cfg is written");
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(file);
            command
        })
    }
}
