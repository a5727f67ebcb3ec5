//! People and programs that talk to each other: chat, news, message brokers.

use super::super::harness::Pki;
use super::super::harness::brokers::RabbitMq;
use super::super::harness::inn::Inn;
use super::super::harness::legacy::Client;
use super::super::harness::prosody::Prosody;
use super::super::harness::servers::Server;
use super::mail::nginx_told;
use super::{Meeting, Table, told};

#[test]
#[ignore = "needs prosody, slixmpp and root: tests/run installs them"]
fn table_xmpp() {
    let pki = Pki::generate();
    let mut table = Table::of("xmpp");
    for keys in ["", "tls = \"direct\"\n"] {
        let mut prosody = Prosody::start(&pki);
        let client = Client::Slixmpp;
        let meeting = Meeting {
            server: "Prosody",
            at: if keys.is_empty() { prosody.starttls() } else { prosody.direct() },
            keys,
            client: client.name(),
            ask: &|at| client.ask(at),
            says: "<auth ",
            given: "a session as u@upstream.test",
        };
        table.line(&pki, &meeting, || {
            told(&mut || prosody.process().lines().join("\n"), "u came with the certificate: ", '\n')
        });
    }
    table.write();
}

/// INN never asks for a certificate: nginx before it does.
#[test]
#[ignore = "needs inn2, nginx and root: tests/run installs them"]
fn table_nntp() {
    let pki = Pki::generate();
    let client = Client::Nntplib;
    let mut table = Table::of("nntp");
    let inn = Inn::start(&pki);
    let meeting = Meeting {
        server: "INN",
        at: inn.address(),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "GROUP local.test",
        given: "240 Article received",
    };
    let none = table.not_demanded(&pki, &meeting);
    table.line(&pki, &meeting, || none);
    let inn = Inn::without_tls();
    let mut nginx = Server::nginx(&pki, inn.address());
    let meeting =
        Meeting { server: "nginx before INN", at: nginx.address(), keys: "tls = \"direct\"\n", ..meeting };
    table.line(&pki, &meeting, || nginx_told(&mut nginx));
    table.write();
}

#[test]
#[ignore = "needs mosquitto and mosquitto-clients: tests/run installs them"]
fn table_mqtt() {
    let pki = Pki::generate();
    let mut broker = Server::mosquitto(&pki);
    let client = Client::Mosquitto;
    let mut table = Table::of("mqtt");
    let meeting = Meeting {
        server: "Mosquitto",
        at: broker.address(),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "MQTT",
        given: "hello",
    };
    table.line(&pki, &meeting, || {
        let name = told(&mut || broker.process().lines().join("\n"), "k60, u'", '\'');
        format!("takes `{name}`, its CN, as the user")
    });
    table.write();
}

#[test]
#[ignore = "needs rabbitmq-server, pika and root: tests/run installs them"]
fn table_amqp() {
    let pki = Pki::generate();
    let mut broker = RabbitMq::start(&pki);
    let client = Client::Pika;
    let mut table = Table::of("amqp");
    let meeting = Meeting {
        server: "RabbitMQ",
        at: broker.address(),
        keys: "",
        client: client.name(),
        ask: &|at| client.ask(at),
        says: "EXTERNAL",
        given: "consumed hello",
    };
    table.line(&pki, &meeting, || {
        let log = &mut || {
            let lines = broker.process().lines();
            lines.iter().find(|line| line.contains("authenticated")).cloned().unwrap_or_default()
        };
        format!("logs in `{}`, its CN", told(log, "user '", '\''))
    });
    table.write();
}
