//! An SMTP server that does what a test tells it to, a client that types, and what it is answered.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use super::clients;
use super::hostile::reset_on_close;
use super::peer::Peer;
use super::upstream::{TlsStream, handshake};

/// What such a server does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Says this.
    Say(Vec<u8>),
    /// Says this, each byte in a segment of its own.
    Dribble(Vec<u8>),
    /// Reads a line.
    Hear,
    /// Reads lines to the one that is a dot: a mail.
    HearMail,
    /// Is the server of a TLS handshake.
    Tls,
    /// Resets the connection.
    Reset,
    /// Ends the connection in order.
    Close,
    /// The same without a word of TLS.
    Cut,
}

/// Says this.
pub fn say(words: impl AsRef<[u8]>) -> Step {
    Step::Say(words.as_ref().to_vec())
}

/// Greeting, EHLO, STARTTLS, as a good server has them, up to TLS and then `inside`.
pub fn starttls_then(inside: &[Step]) -> Vec<Step> {
    let before = [
        say("220 mx.upstream.test ESMTP\r\n"),
        Step::Hear,
        say("250-mx.upstream.test\r\n250-STARTTLS\r\n250 SIZE 1000\r\n"),
        Step::Hear,
        say("220 2.0.0 go ahead\r\n"),
        Step::Tls,
    ];
    [&before, inside].concat()
}

/// The running server. Once its steps are over it reads on until the client leaves.
pub struct Scripted {
    peer: Peer,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Does these steps with each connection.
    pub fn start(config: Arc<ServerConfig>, steps: Vec<Step>) -> Scripted {
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let hearing = heard.clone();
        // An error: the client has left, which some tests want to see.
        let peer = Peer::start(move |stream| drop(serve(&config, stream, &steps, &hearing)));
        Scripted { peer, heard }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.peer.address()
    }

    /// The lines that it has read, without their ends.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("no connection panicked here").clone()
    }
}

enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Secured(tls) => &tls.sock,
        }
    }

    fn say(&mut self, words: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(words),
            Stream::Secured(tls) => tls.write_all(words).and_then(|()| tls.flush()),
        }
    }

    /// Up to a line's end, and not a byte further: what follows may be TLS.
    fn hear(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            match self {
                Stream::Plain(stream) => stream.read_exact(&mut byte)?,
                Stream::Secured(tls) => tls.read_exact(&mut byte)?,
            }
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

fn serve(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
    steps: &[Step],
    heard: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut stream = Stream::Plain(stream);
    let note = |line: &str| heard.lock().expect("no connection panicked here").push(line.to_owned());
    for step in steps {
        match step {
            Step::Say(words) => stream.say(words)?,
            Step::Dribble(words) => {
                for byte in words {
                    stream.say(&[*byte])?;
                }
            }
            Step::Hear => note(&stream.hear()?),
            Step::HearMail => {
                let mut line = String::new();
                while line != "." {
                    line = stream.hear()?;
                    note(&line);
                }
            }
            Step::Tls => {
                if let Stream::Plain(plain) = stream {
                    let tls = handshake(config, plain).ok_or(io::ErrorKind::ConnectionAborted)?;
                    stream = Stream::Secured(Box::new(tls));
                }
            }
            Step::Reset => return reset_on_close(stream.socket()),
            Step::Close => {
                if let Stream::Secured(tls) = &mut stream {
                    tls.conn.send_close_notify();
                    tls.flush()?;
                }
                return Ok(());
            }
            Step::Cut => return Ok(()),
        }
    }
    loop {
        note(&stream.hear()?);
    }
}

/// A client that types its commands.
pub struct Typist<S = TcpStream>(S);

impl Typist {
    /// Connects; the greeting is still to be read.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Typist {
        Typist(clients::connect(to))
    }
}

impl<S: Read + Write> Typist<S> {
    /// Goes on over this stream.
    pub fn over(stream: S) -> Typist<S> {
        Typist(stream)
    }

    /// The stream beneath.
    pub fn into_stream(self) -> S {
        self.0
    }

    /// Sends this.
    #[track_caller]
    pub fn types(&mut self, words: impl AsRef<[u8]>) {
        let sent = self.0.write_all(words.as_ref()).and_then(|()| self.0.flush());
        sent.expect("the other side takes it");
    }

    /// Reads one reply with all its lines; empty where the connection has ended.
    #[track_caller]
    pub fn reply(&mut self) -> String {
        let mut reply = Vec::new();
        let mut start = 0;
        while reply.last() != Some(&b'\n') || reply.get(start + 3) == Some(&b'-') {
            if reply.last() == Some(&b'\n') {
                start = reply.len();
            }
            let mut byte = [0];
            match self.0.read(&mut byte).expect("a reply in time, or the end") {
                0 => break,
                _ => reply.extend(byte),
            }
        }
        String::from_utf8(reply).expect("a reply is text")
    }

    /// All replies to the end.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let mut all = String::new();
        loop {
            match self.reply() {
                reply if reply.is_empty() => return all,
                reply => all += &reply,
            }
        }
    }

    /// A line, and what it is answered.
    #[track_caller]
    pub fn asks(&mut self, line: &str) -> String {
        self.types(format!("{line}\r\n"));
        self.reply()
    }
}
