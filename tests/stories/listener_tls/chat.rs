//! A chat client that asks for TLS, on its way from one stream to the other.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::super::harness::ambassador::Ambassador;
use super::super::harness::peer::Peer;
use super::super::harness::{Pki, clients, config};
use super::inside_tls;

const HEADER: &str = "<?xml version='1.0'?><stream:stream to='upstream.test' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";
const FEATURES: &str = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism>\
                        </mechanisms></stream:features>";

/// Says this, and reads up to that.
#[track_caller]
fn asks(mut stream: &TcpStream, words: &str, answer: &str) {
    stream.write_all(words.as_bytes()).expect("nuncio takes it");
    let mut heard = Vec::new();
    while !heard.ends_with(answer.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| {
            panic!("{error} behind {}", String::from_utf8_lossy(&heard));
        });
        heard.extend(byte);
    }
}

/// It ends the line of its request late, behind our answer, as some do; that is no handshake, and nothing else either. And when
/// its server goes before it has opened its stream anew, it is told so in a stream: it has the header of none yet.
#[test]
fn a_client_between_two_streams_gets_its_tls_and_is_told_in_a_stream() {
    let pki = Pki::generate();
    let server = Peer::start(|mut stream| {
        // Errors: nuncio has left.
        stream.write_all([HEADER, FEATURES].concat().as_bytes()).ok();
        io::copy(&mut stream, &mut io::sink()).ok();
    });
    let endpoints = config::endpoints(&[server.address()]);
    let mut ambassador = Ambassador::start(&format!(
        "[identity.door]\ncertificate = {:?}\nkey = {:?}\n\
         [listener.in]\naddress = \"127.0.0.1:0\"\nupstream = \"up\"\ntls = \"required\"\nidentity = \"door\"\n\
         [upstream.up]\nprotocol = \"xmpp\"\ntls = \"off\"\nhealth.kind = \"off\"\n{endpoints}",
        pki.server.certificate, pki.server.key
    ));
    let client = clients::connect(ambassador.listener("in"));
    asks(&client, HEADER, "</stream:features>");
    asks(
        &client,
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    );
    (&client).write_all(b"\r\n").expect("nuncio takes it");
    let mut client = inside_tls(&pki, client);
    client.conn.complete_io(&mut client.sock).expect("a handshake");
    server.kill();
    let mut told = String::new();
    client.read_to_string(&mut told).expect("words, and an end in order");
    drop(client);
    let record = ambassador.wait_records(1).remove(0);
    let told = told.replace(record["id"].as_str().expect("an id"), "ID");
    insta::assert_snapshot!(told, @r#"
<?xml version='1.0'?><stream:stream from='upstream.test' id='ID' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'><stream:error><remote-connection-failed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xml:lang='en' xmlns='urn:ietf:params:xml:ns:xmpp-streams'>nuncio: the server closed while the client awaited its answer; look in the server&apos;s log for why it hung up (early_close, connection ID)</text></stream:error></stream:stream>
"#);
}
