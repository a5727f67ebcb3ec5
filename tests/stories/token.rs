//! Orders over TCP: with the token of `admin.token_file`, and without it not.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::harness::ambassador::{Ambassador, refused, run};
use super::harness::http::{self, Response};
use super::harness::{Pki, Upstream, clients, config};

const FIRST: &str = "first-token-0123456789";
const SECOND: &str = "second-token-0123456789";

struct Scene {
    nuncio: Ambassador,
    server: Upstream,
    pki: Pki,
    directory: tempfile::TempDir,
}

impl Scene {
    /// The admin at TCP and at a Unix socket; `keys`: the rest of its section.
    fn start(keys: impl Fn(&std::path::Path) -> String) -> Scene {
        let directory = tempfile::TempDir::with_prefix("nuncio-token-").expect("a directory");
        let (pki, file) = (Pki::generate(), directory.path().join("admin.token"));
        let server = Upstream::start(&pki);
        write(&file, FIRST);
        let config = config(&pki, server.address(), &directory.path().join("admin.sock"), &keys(&file));
        Scene { nuncio: Ambassador::start(&config), server, pki, directory }
    }

    fn with_token() -> Scene {
        Scene::start(token_file)
    }

    fn token_file(&self) -> PathBuf {
        self.directory.path().join("admin.token")
    }

    fn config(&self) -> String {
        let socket = self.directory.path().join("admin.sock");
        config(&self.pki, self.server.address(), &socket, &token_file(&self.token_file()))
    }

    fn path(&self, order: &str) -> String {
        format!("/api/v1/upstreams/up/endpoints/{}/{order}", self.server.address())
    }

    fn over_tcp(&self, line: &str, headers: &str) -> Response {
        let admin = self.nuncio.admin();
        http::request(admin, &request(line, &format!("Host: {admin}\r\n{headers}"))).expect("an answer")
    }

    fn with(&self, token: &str, order: &str) -> Response {
        let header = format!("Authorization: Bearer {token}\r\n");
        self.over_tcp(&format!("POST {}", self.path(order)), &header)
    }

    fn at_socket(&self, line: &str, headers: &str) -> Response {
        let stream =
            UnixStream::connect(self.directory.path().join("admin.sock")).expect("the admin answers");
        http::request_on(stream, &request(line, &format!("Host: nuncio\r\n{headers}"))).expect("an answer")
    }

    fn is_drained(&self) -> bool {
        let upstreams = self.nuncio.get("/api/v1/upstreams").json();
        upstreams[0]["endpoints"][0]["operator"]["drained"] == true
    }
}

fn token_file(file: &std::path::Path) -> String {
    format!("token_file = {file:?}\n")
}

fn config(pki: &Pki, server: SocketAddr, socket: &std::path::Path, keys: &str) -> String {
    let upstream = config::endpoints(&[server]) + "health.kind = \"off\"\n";
    let admin = format!("[admin]\naddress = [\"unix:{}\", \"127.0.0.1:0\"]\n", socket.display());
    config::mtls(pki, &upstream) + &admin + keys
}

fn write(file: &std::path::Path, text: &str) {
    std::fs::write(file, text).expect("the token is written");
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).expect("its mode is set");
}

fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: 0\r\n\r\n")
}

/// An order over TCP is carried out with the token, and told what it lacks without it; the Unix socket asks for none, and a
/// page in a browser gets nothing even with it. What was wrong is in the log, and no token is anywhere.
#[test]
fn an_order_over_tcp_is_carried_out_with_the_token_and_refused_without() {
    let mut scene = Scene::with_token();
    let drain = format!("POST {}", scene.path("drain"));
    let without = scene.over_tcp(&drain, "");
    assert_eq!(without.status, 401, "{without:?}");
    assert_eq!(without.header("www-authenticate"), Some("Bearer realm=\"nuncio\""));
    assert!(without.json()["mend"].as_str().unwrap().contains("admin.token_file"), "{without:?}");
    let wrong = scene.with(SECOND, "drain");
    assert_eq!(wrong.status, 401, "{wrong:?}");
    assert_eq!(wrong.json()["error"], "that is not the token");
    let token = format!("Authorization: Bearer {FIRST}\r\n");
    let page = scene.over_tcp(&drain, &format!("{token}Origin: http://evil.example\r\n"));
    assert_eq!(page.status, 403, "{page:?}");
    assert!(!scene.is_drained(), "none of them was carried out");
    scene.nuncio.wait_line("came with a wrong token");

    let taken = scene.with(FIRST, "drain");
    assert_eq!(taken.status, 200, "{taken:?}");
    assert!(scene.is_drained());
    assert!(clients::ask(scene.nuncio.listener("in"), b"ping").is_err(), "it takes no connections");
    assert_eq!(scene.at_socket(&format!("POST {}", scene.path("undrain")), "").status, 200);
    assert!(!scene.is_drained());
    assert_eq!(clients::ask(scene.nuncio.listener("in"), b"ping").unwrap(), b"ping");

    let status = scene.nuncio.get("/api/v1/status").body;
    let said = scene.nuncio.process().lines().join("\n") + &status;
    assert!(!said.contains(FIRST) && !said.contains(SECOND), "{said}");
}

/// A token is replaced at a reload, at once and for all; a file that is none keeps the old one.
#[test]
fn a_token_is_replaced_by_a_reload_and_one_that_is_none_changes_nothing() {
    let mut scene = Scene::with_token();
    let config = scene.config();
    write(&scene.token_file(), "short");
    scene.nuncio.reload_refused(&config);
    let line = scene.nuncio.wait_line("admin.token_file");
    assert!(line.contains("has 5 characters") && !line.contains("short"), "{line}");
    assert_eq!(scene.with(FIRST, "drain").status, 200);

    write(&scene.token_file(), SECOND);
    scene.nuncio.reloaded(&config);
    assert_eq!(scene.with(FIRST, "undrain").status, 401);
    assert!(scene.is_drained());
    assert_eq!(scene.with(SECOND, "undrain").status, 200);
    assert!(!scene.is_drained());
}

/// Without `token_file` the admin's TCP address is for reading, whatever is sent along, and the answer names both ways out.
#[test]
fn without_a_token_file_no_order_is_taken_over_tcp() {
    let scene = Scene::start(|_| String::new());
    let answer = scene.with(FIRST, "drain");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("Unix socket") && answer.body.contains("admin.token_file"), "{answer:?}");
    assert!(!scene.is_drained());
    assert_eq!(scene.at_socket(&format!("POST {}", scene.path("drain")), "").status, 200);
    assert!(scene.is_drained());
}

/// A file that is no token is refused before anything listens, and one that others can read is warned of.
#[test]
fn check_and_run_look_at_the_token_file() {
    let scene = Scene::with_token();
    let (file, directory) = (scene.token_file(), scene.directory.path());
    std::fs::write(directory.join("nuncio.toml"), scene.config()).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let (code, said, warned) = run(&["check", "--config", "nuncio.toml"], directory);
    assert_eq!(code, Some(0), "{warned}");
    assert!(warned.contains("admin: token_file") && warned.contains("others can read it"), "{warned}");
    assert!(!format!("{said}{warned}").contains(FIRST));
    write(&file, "has a space in the middle");
    let (code, _, said) = run(&["check", "--config", "nuncio.toml"], directory);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("admin.token_file") && said.contains("no token can have"), "{said}");
    let (code, said) = refused(&scene.config(), |_| {});
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("admin.token_file") && !said.contains("has a space"), "{said}");
}
