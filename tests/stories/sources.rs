//! An upstream whose source becomes another one by a reload; and files of a source that hang.

#![cfg(unix)]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::harness::ambassador::Ambassador;
use super::harness::peer::Peer;
use super::harness::{PATIENCE, Pki, Upstream, clients, config, eventually};

/// What answers where a Consul agent would: for each service the answer that it was given, and until then it keeps the question, as
/// it keeps each that asks for news. (A real agent is asked in `consul`; this one is slow when a story wants it to be.)
struct Agent {
    peer: Peer,
    says: Arc<Says>,
}

#[derive(Default)]
struct Says {
    answers: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<String>>,
    news: Condvar,
}

impl Agent {
    fn start() -> Agent {
        let says = Arc::new(Says::default());
        let peer = Peer::start({
            let says = says.clone();
            move |stream| {
                // An error: who asked has left.
                serve(stream, &says).ok();
            }
        });
        Agent { peer, says }
    }

    /// `consul = {...}`, with more of its keys.
    fn source(&self, service: &str, more: &str) -> String {
        let address = self.peer.address();
        format!("consul = {{ service = \"{service}\", address = \"http://{address}\"{more} }}\n{NO_HEALTH}")
    }

    fn answers(&self, service: &str, servers: &[&Upstream]) {
        let instance = |server: &&Upstream| {
            json!({
                "Node": { "Address": "127.0.0.1" },
                "Service": { "Address": server.address().ip().to_string(), "Port": server.address().port() },
            })
        };
        let body = json!(servers.iter().map(instance).collect::<Vec<_>>()).to_string();
        let answer = format!("200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.says(service, answer);
    }

    fn says(&self, service: &str, answer: String) {
        self.says.answers.lock().unwrap().insert(service.to_owned(), answer);
        self.says.news.notify_all();
    }

    /// Waits until it has been asked for a service.
    #[track_caller]
    fn is_asked(&self, words: &str) {
        eventually(&format!("the agent is asked {words}"), PATIENCE, || {
            self.says.asked.lock().unwrap().iter().any(|path| path.contains(words)).then_some(())
        });
    }
}

fn serve(mut stream: TcpStream, says: &Says) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    says.asked.lock().unwrap().push(head.clone());
    if path.contains("index=") {
        stream.read_exact(&mut [0])?;
        return Ok(());
    }
    let service = path.rsplit('/').next().and_then(|rest| rest.split('?').next()).unwrap_or_default();
    let answers = says.answers.lock().unwrap();
    let (answers, _) = says
        .news
        .wait_timeout_while(answers, 3 * PATIENCE, |answers| !answers.contains_key(service))
        .unwrap();
    let answer = answers.get(service).cloned().unwrap_or_default();
    drop(answers);
    write!(stream, "HTTP/1.1 {answer}")
}

const NO_HEALTH: &str = "[upstream.up.health]\nkind = \"off\"\n";

/// Who is in the set now.
fn set(ambassador: &Ambassador) -> Vec<String> {
    let upstreams = ambassador.get("/api/v1/upstreams").json();
    let endpoints = upstreams[0]["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().filter_map(|it| Some(it["address"].as_str()?.to_owned())).collect()
}

#[track_caller]
fn set_is(ambassador: &Ambassador, server: &Upstream) {
    let wanted = [server.address().to_string()];
    eventually(&format!("the set is {wanted:?}"), PATIENCE, || (set(ambassador) == wanted).then_some(()));
}

/// The file names service A, then service B, whose agent takes its time: from that moment no new connection goes to an instance of
/// A, and none is refused: it waits for B's. With another token for B nothing changes, also while the agent does not answer. With a
/// service C that the agent cannot tell of, connections are told so at once, and B's instances see none of them. A connection that
/// is open lives through it all.
#[test]
fn a_set_goes_with_its_source_and_who_comes_before_the_next_one_answers_waits_for_it() {
    let pki = Pki::generate();
    let (one, two) = (Upstream::start(&pki), Upstream::start(&pki));
    let agent = Agent::start();
    agent.answers("a", &[&one]);
    let with = |source: &str| config::mtls(&pki, source);
    let mut ambassador = Ambassador::start(&with(&agent.source("a", "")));
    let listener = ambassador.listener("in");
    assert_eq!(clients::ask(listener, b"ping").unwrap(), b"ping", "the first one waits for the first answer");
    let mut held = clients::connect(listener);
    clients::echoes(&mut held, b"before").unwrap();
    let seen_by_one = one.accepted();

    ambassador.reloaded(&with(&agent.source("b", "")));
    agent.is_asked("/b?");
    assert_eq!(set(&ambassador), Vec::<String>::new());
    let waiting: Vec<_> = (0..5).map(|_| thread::spawn(move || clients::ask(listener, b"ping"))).collect();
    ambassador.wait_state("/api/v1/upstreams", "they wait", |upstreams| {
        (upstreams[0]["waiting"] == 5).then_some(())
    });
    agent.answers("b", &[&two]);
    for client in waiting {
        assert_eq!(client.join().unwrap().unwrap(), b"ping");
    }
    set_is(&ambassador, &two);

    // Another token: the same instances, asked for otherwise. The file of the token is not there, so it fails.
    ambassador.reloaded(&with(&agent.source("b", ", token_file = \"/nonexistent/token\"")));
    ambassador.wait_state("/api/v1/upstreams", "the token is missed", |upstreams| {
        upstreams[0]["source"]["last_error"].as_str()?.contains("/nonexistent/token").then_some(())
    });
    assert_eq!(ambassador.metric("nuncio_discovery_failing", &[("upstream", "up")]), 1.0);
    set_is(&ambassador, &two);
    assert_eq!(clients::ask(listener, b"ping").unwrap(), b"ping");
    let seen_by_two = two.accepted();

    agent.says("c", "500 Internal Server Error\r\nContent-Length: 17\r\n\r\nNo cluster leader".to_owned());
    ambassador.reloaded(&with(&agent.source("c", "")));
    ambassador.wait_state("/api/v1/upstreams", "it cannot tell of C", |upstreams| {
        upstreams[0]["source"]["last_error"].as_str()?.contains("No cluster leader").then_some(())
    });
    let begun = Instant::now();
    assert!(clients::ask(listener, b"ping").is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "nobody waits for what has failed: {:?}",
        begun.elapsed()
    );
    let record = ambassador.wait_records(8).pop().unwrap();
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("not known yet: ") && detail.contains("No cluster leader"), "{record}");
    // Endpoints that are written are known at once.
    ambassador.reloaded(&with(&format!("endpoints = [\"{}\"]\n{NO_HEALTH}", two.address())));
    assert_eq!(clients::ask(listener, b"ping").unwrap(), b"ping");
    clients::echoes(&mut held, b"after").unwrap();
    assert_eq!((one.accepted(), two.accepted()), (seen_by_one, seen_by_two + 1));
}

/// The files that a source needs are on a disk that hangs (a pipe that nobody writes into does the same): the upstream beside it
/// serves, the admin answers, and it says which file it is. Once it can be read, the set is there.
#[test]
fn a_token_that_hangs_holds_up_nobody_else_and_is_told() {
    let pki = Pki::generate();
    let (one, two) = (Upstream::start(&pki), Upstream::start(&pki));
    let directory = tempfile::TempDir::new().unwrap();
    let token = directory.path().join("token");
    assert!(Command::new("mkfifo").arg(&token).status().unwrap().success());
    let agent = Agent::start();
    agent.answers("a", &[&one]);
    let beside = format!(
        "[listener.beside]\naddress = \"127.0.0.1:0\"\n\
         upstream = {{ endpoints = [\"{}\"], identity = \"test\", server_name = \"upstream.test\" }}\n",
        two.address()
    );
    let source = agent.source("a", &format!(", token_file = {token:?}"));
    let ambassador = Ambassador::start(&config::mtls(&pki, &(source + &beside)));
    let begun = Instant::now();
    ambassador.wait_state("/api/v1/upstreams", "it says what hangs", |upstreams| {
        let source = upstreams.as_array()?.iter().find(|upstream| upstream["name"] == "up")?;
        assert_eq!(clients::ask(ambassador.listener("beside"), b"ping").unwrap(), b"ping");
        source["source"]["last_error"].as_str()?.contains("could not be read within 5s").then_some(())
    });
    println!("it was told after {:.1?}", begun.elapsed());
    // Another file stands in its place, and the read that hangs is let go: the next one finds the other.
    let pipe = directory.path().join("pipe");
    fs::rename(&token, &pipe).unwrap();
    fs::write(&token, "s3cret\n").unwrap();
    fs::write(&pipe, "").unwrap();
    eventually("the set is there", 2 * PATIENCE, || {
        clients::ask(ambassador.listener("in"), b"ping").is_ok_and(|answer| answer == b"ping").then_some(())
    });
    agent.is_asked("x-consul-token: s3cret");
}
