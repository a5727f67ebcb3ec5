//! Old servers, played by `openssl s_server`.

use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::*;

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A free port is found by binding it first: s_server cannot say which one it took.
async fn serve(certificate: &str, key: &str, options: &[&str]) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-cert"])
        .arg(pki(certificate))
        .arg("-key")
        .arg(pki(key))
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let server = Server(child, port);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server
}

async fn told_by(tls: &ClientTls, server: &Server) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.1)).await.unwrap();
    told(tls.handshake(&mut stream, AT, name("upstream.test"), LIMIT).await)
}

#[test]
#[ignore = "needs openssl"]
fn servers_that_are_too_old_are_told_which_setting_to_change() {
    run(async {
        let tls = client(Settings::default());
        for (certificate, key, options, says) in [
            (
                "server-v1-rsa.pem",
                "server-rsa.key",
                &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"][..],
                "ECDHE-RSA-AES128-GCM-SHA256",
            ),
            (
                "server-v1-rsa.pem",
                "server-rsa.key",
                &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                "switch TLS 1.2 or 1.3 on",
            ),
            (
                "server-v1-rsa.pem",
                "server-rsa.key",
                &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
                "switch TLS 1.2 or 1.3 on",
            ),
            (
                "server-weak.pem",
                "server-weak.key",
                &["-cipher", "ALL:@SECLEVEL=0"],
                "RSA with 2048 bits or more",
            ),
            (
                "server-weak.pem",
                "server-weak.key",
                &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0"],
                "RSA with 2048 bits or more",
            ),
        ] {
            let server = serve(certificate, key, options).await;
            let text = told_by(&tls, &server).await;
            assert!(text.contains(says), "{options:?}: {text}");
        }
        let newer = client(Settings { min_version: Version::Tls13, ..Settings::default() });
        let server = serve("server.pem", "server.key", &["-tls1_2"]).await;
        let text = told_by(&newer, &server).await;
        assert!(text.contains("tls_min = \"1.2\""), "{text}");
    });
}

#[test]
#[ignore = "needs openssl"]
fn a_server_that_demands_a_certificate_says_whose_it_takes() {
    run(async {
        let ca = pki("ca.pem");
        let options = ["-tls1_2", "-Verify", "1", "-verify_return_error", "-CAfile", ca.to_str().unwrap()];
        let server = serve("server.pem", "server.key", &options).await;
        let text = told_by(&client(Settings::default()), &server).await;
        assert!(text.contains("client_certificate_refused"), "{text}");
        assert!(text.contains("accepts certificates issued by CN=nuncio test CA"), "{text}");
        let stranger = ClientTls::new(&Settings::default(), Some(&identity("client-stranger.pem"))).unwrap();
        let text = told_by(&stranger, &server).await;
        assert!(text.contains("refused our certificate CN=stranger"), "{text}");
    });
}
