//! Whole conversations through a relay and its greeter, in virtual time: silence for a day, and each way to break off.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::relay::testkit::{Ware, Wire};
use crate::relay::{self, Carried, Ended, Engine, Fault, Flow, How, Opened, Party, Settings};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Who says what in one go, and what the other side gets of it.
struct Turn {
    by: Party,
    says: Vec<u8>,
    becomes: Vec<u8>,
    /// As long as the client has seen nothing of this turn, it understands a refusal.
    refusable: bool,
}

/// What is said from the first word inside TLS to the last.
struct Conversation {
    protocol: Protocol,
    opening: &'static [u8],
    greeting: &'static [u8],
    turns: Vec<Turn>,
}

impl Conversation {
    fn all() -> [Conversation; 10] {
        [
            Conversation::postgres(),
            Conversation::smtp(),
            Conversation::pop3(),
            Conversation::nntp(),
            Conversation::ldap(),
            Conversation::xmpp(),
            Conversation::imap(),
            Conversation::sieve(),
            Conversation::redis(),
            Conversation::sqlserver(),
        ]
    }

    fn turn(&mut self, by: Party, says: &[u8], becomes: &[u8], refusable: bool) {
        self.turns.push(Turn { by, says: says.into(), becomes: becomes.into(), refusable });
    }

    fn client(&mut self, says: &[u8], refusable: bool) {
        self.turn(Party::Client, says, says, refusable);
    }

    fn server(&mut self, says: &[u8], refusable: bool) {
        self.turn(Party::Upstream, says, says, refusable);
    }

    /// A login by SCRAM, one query, and the end.
    fn postgres() -> Conversation {
        let opening = b"\0\0\0\x12\0\x03\0\0user\0app\0\0";
        let mut it = Conversation { protocol: Protocol::Postgres, opening, greeting: b"", turns: Vec::new() };
        let message = |kind: u8, body: &[u8]| {
            let length = u32::try_from(4 + body.len()).unwrap();
            [&[kind], &length.to_be_bytes()[..], body].concat()
        };
        it.turn(
            Party::Upstream,
            &message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
            &message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
            true,
        );
        it.client(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0fn,,n=,r=abcdefgh"), true);
        it.server(&message(b'R', b"\0\0\0\x0br=abcdefghij,s=c2FsdA==,i=4096"), true);
        it.client(&message(b'p', b"c=biws,r=abcdefghij,p=cHJvb2Y="), true);
        it.server(&message(b'R', b"\0\0\0\x0cv=c2lnbmF0dXJl"), true);
        it.server(&message(b'R', b"\0\0\0\0"), true);
        it.server(&message(b'S', b"server_version\x0015.9\0"), true);
        it.server(&message(b'N', b"SWARNING\0Mcollation\0\0"), true);
        it.server(&message(b'K', b"\0\0\x12\x34secr"), true);
        it.server(&message(b'Z', b"I"), false);
        it.client(&message(b'Q', b"select 1\0"), false);
        it.server(&[message(b'D', b"\0\x01\0\0\0\x011"), message(b'C', b"SELECT 1\0")].concat(), false);
        it.server(&message(b'Z', b"I"), false);
        it.client(&message(b'X', b""), false);
        it
    }

    /// A mail, its commands pipelined.
    fn smtp() -> Conversation {
        let greeting = b"220-mx.upstream.test ESMTP\r\n220 at your service\r\n";
        let mut it = Conversation { protocol: Protocol::Smtp, opening: b"", greeting, turns: Vec::new() };
        it.client(b"EHLO client.test\r\n", true);
        it.turn(
            Party::Upstream,
            b"250-mx\r\n250-STARTTLS\r\n250-AUTH PLAIN SCRAM-SHA-256-PLUS\r\n250-SIZE 9\r\n250 PIPELINING\r\n",
            b"250-mx\r\n250-AUTH PLAIN\r\n250-SIZE 9\r\n250 PIPELINING\r\n",
            true,
        );
        it.client(b"NOOP\r\n", false);
        it.server(b"250 2.0.0 yes\r\n", true);
        it.client(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@upstream.test>\r\nDATA\r\n", false);
        it.server(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n", false);
        it.client(b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n", false);
        it.server(b"250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n", false);
        it
    }

    /// A look at what there is, a password, one mail.
    fn pop3() -> Conversation {
        let greeting = b"+OK ready <1896.697170952@upstream.test>\r\n";
        let mut it = Conversation { protocol: Protocol::Pop3, opening: b"", greeting, turns: Vec::new() };
        it.client(b"CAPA\r\n", true);
        it.turn(
            Party::Upstream,
            b"+OK\r\nSTLS\r\nUSER\r\nSASL PLAIN X-PLUS\r\nPIPELINING\r\n.\r\n",
            b"+OK\r\nUSER\r\nSASL PLAIN\r\nPIPELINING\r\n.\r\n",
            true,
        );
        it.client(b"UTF8\r\n", false);
        it.server(b"+OK\r\n", true);
        it.client(b"AUTH LOGIN\r\n", false);
        it.server(b"+ VXNlcm5hbWU6\r\n", true);
        it.client(b"*\r\n", false);
        it.server(b"-ERR cancelled\r\n", true);
        it.client(b"USER u\r\n", false);
        it.client(b"PASS pw\r\n", true);
        it.server(b"+OK\r\n", true);
        it.server(b"+OK 1 5\r\n", true);
        it.client(b"RETR 1\r\nQUIT\r\n", false);
        it.server(b"+OK\r\nhello\r\n.\r\n+OK bye\r\n", false);
        it
    }

    /// A look at what there is, and a group.
    fn nntp() -> Conversation {
        let greeting = b"200 news.upstream.test ready\r\n";
        let mut it = Conversation { protocol: Protocol::Nntp, opening: b"", greeting, turns: Vec::new() };
        it.client(b"CAPABILITIES\r\n", true);
        it.turn(
            Party::Upstream,
            b"101 list:\r\nVERSION 2\r\nSTARTTLS\r\nAUTHINFO USER SASL\r\nSASL X-PLUS\r\n.\r\n",
            b"101 list:\r\nVERSION 2\r\nAUTHINFO USER\r\n.\r\n",
            true,
        );
        it.client(b"MODE READER\r\n", false);
        it.server(b"201 no posting\r\n", true);
        it.client(b"G", false);
        it.client(b"ROUP local.test\r\n", true);
        it.server(b"211 0 1 0 local.test\r\n", true);
        it.client(b"QUIT\r\n", false);
        it.server(b"205 bye\r\n", false);
        it
    }

    /// A login of two messages, a search, and the end.
    fn ldap() -> Conversation {
        let mut it =
            Conversation { protocol: Protocol::Ldap, opening: b"", greeting: b"", turns: Vec::new() };
        it.client(b"\x30\x10\x02\x01\x01\x60\x0b\x02\x01\x03\x04\0\xa3\x04\x04\x02me", true);
        it.server(b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x0e\x04\0\x04\0", true);
        // Between the two it awaits nothing.
        it.client(b"\x30", false);
        it.client(b"\x10\x02\x01\x02\x60\x0b\x02\x01\x03\x04\0\xa3\x04\x04\x02me", true);
        it.server(b"\x30\x84\0\0\0\x0c\x02\x01\x02\x61\x07\x0a\x01\0\x04\0\x04\0", true);
        it.client(b"\x30\x05\x02\x01\x03\x63\x00", false);
        it.server(b"\x30\x0c\x02\x01\x03\x65\x07\x0a\x01\0\x04\0\x04\0", false);
        it.client(b"\x30\x05\x02\x01\x04\x42\x00", false);
        it
    }

    /// As MQTT and AMQP are too: nothing is changed, and the client is refused until the server's first byte.
    fn redis() -> Conversation {
        let mut it =
            Conversation { protocol: Protocol::Redis, opening: b"", greeting: b"", turns: Vec::new() };
        it.client(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n", true);
        it.client(b"PING\r\n", true);
        it.server(b"+OK\r\n", true);
        it.server(b"+PONG\r\n", false);
        it.client(b"QUIT\r\n", false);
        it.server(b"+OK\r\n", false);
        it
    }

    /// Through TLS from the first byte: PRELOGIN inside it, a login, and a query.
    fn sqlserver() -> Conversation {
        let opening = b"\x12\x01\0\x1a\0\0\x01\0\0\0\x0b\0\x06\x01\0\x11\0\x01\xff\x09\0\0\0\0\0\x02";
        let answer = b"\x04\x01\0\x1a\0\0\x01\0\0\0\x0b\0\x06\x01\0\x11\0\x01\xff\x10\0\0\0\0\0";
        let mut it =
            Conversation { protocol: Protocol::Sqlserver, opening, greeting: b"", turns: Vec::new() };
        it.turn(Party::Upstream, &[&answer[..], b"\x01"].concat(), &[&answer[..], b"\x02"].concat(), true);
        it.client(b"\x10\x01\0\x14\0\0\x01\0\x0c\0\0\0\x04\0\0\x74 so on", true);
        it.server(b"\x04\x01\0\x0c\0\0\x01\0\xad...", true);
        it.client(b"\x01\x01\0\x0c\0\0\x01\0go\r\n", false);
        it.server(b"\x04\x01\0\x0c\0\0\x01\0\xfd...", false);
        it
    }

    /// A login, and the stream after it.
    fn xmpp() -> Conversation {
        let opening = b"<stream:stream to='a.test' xmlns='jabber:client' version='1.0' xmlns:stream='http://etherx.jabber.org/streams'>";
        let mut it = Conversation { protocol: Protocol::Xmpp, opening, greeting: b"", turns: Vec::new() };
        let header = [b"<?xml version='1.0'?>", &opening[..]].concat();
        let offer = |mechanisms: &str| {
            let space = "urn:ietf:params:xml:ns:xmpp-sasl";
            format!(
                "<stream:features><mechanisms xmlns='{space}'>{mechanisms}</mechanisms></stream:features>"
            )
        };
        let [bound, unbound] = ["X-PLUS", "X"].map(|name| format!("<mechanism>{name}</mechanism>"));
        it.server(&header, true);
        it.turn(
            Party::Upstream,
            offer(&[&bound[..], &unbound].concat()).as_bytes(),
            offer(&unbound).as_bytes(),
            true,
        );
        it.client(b"<", true);
        it.client(b"a", true);
        it.client(b"uth/>", false);
        it.server(b"<success/>", false);
        it.client(opening, false);
        it.server(b"</stream:stream>", false);
        it
    }

    /// Where TLS began with the first byte: a login that goes wrong, one with literals, and a look at what there is.
    fn imap() -> Conversation {
        let mut it =
            Conversation { protocol: Protocol::Imap, opening: b"", greeting: b"", turns: Vec::new() };
        it.turn(
            Party::Upstream,
            b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=X-PLUS] hi\r\n",
            b"* OK [CAPABILITY IMAP4rev1] hi\r\n",
            true,
        );
        it.client(b"a AUTHENTICATE PLAIN\r\n", true);
        it.server(b"+ \r\n", true);
        it.client(b"AHgAeA==\r\n", true);
        it.server(b"a NO wrong\r\n", true);
        it.client(b"b LOGIN {1}\r\n", true);
        it.server(b"+ go\r\n", true);
        it.client(b"u {2+}\r\npw\r\n", true);
        it.turn(Party::Upstream, b"* CAPABILITY STARTTLS A\r\n", b"* CAPABILITY A\r\n", true);
        it.server(b"b OK in\r\n", true);
        it.client(b"c SELECT INBOX\r\n", false);
        it.server(b"* 1 EXISTS\r\nc OK\r\n", false);
        it.client(b"d LOGOUT\r\n", false);
        it.server(b"* BYE\r\nd OK\r\n", false);
        it
    }

    /// The server says again what it can do, and a script is listed.
    fn sieve() -> Conversation {
        let mut it =
            Conversation { protocol: Protocol::Sieve, opening: b"", greeting: b"", turns: Vec::new() };
        it.turn(Party::Upstream, b"\"SASL\" \"PLAIN X-PLUS\"\r\n", b"\"SASL\" \"PLAIN\"\r\n", true);
        it.turn(Party::Upstream, b"\"STARTTLS\"\r\n", b"", true);
        it.server(b"OK {2}\r\nhi\r\n", true);
        it.client(b"AUTHENTICATE \"PLAIN\" {8+}\r\nAHgAeA==\r\n", true);
        it.server(b"NO\r\n", true);
        it.client(b"AUTHENTICATE \"PLAIN\"\r\n", true);
        it.server(b"\"\"\r\n", true);
        it.client(b"\"AHgAeQ==\"\r\n", true);
        it.server(b"OK\r\n", true);
        it.client(b"LISTSCRIPTS\r\n", false);
        it.server(b"\"a\" ACTIVE\r\nOK\r\n", false);
        it
    }

    /// Each place before a byte: number of the turn, number of the byte.
    fn places(&self) -> Vec<(usize, usize)> {
        let bytes = |(number, turn): (usize, &Turn)| (0..turn.says.len()).map(move |byte| (number, byte));
        self.turns.iter().enumerate().flat_map(bytes).collect()
    }

    /// What a side has been told once `turns` are over; the other is `by`.
    fn told(&self, by: Party, turns: usize) -> Vec<u8> {
        let first = if by == Party::Client { self.opening } else { self.greeting };
        let said = self.turns[..turns].iter().filter(|turn| turn.by == by);
        said.fold(first.to_vec(), |told, turn| [told, turn.becomes.clone()].concat())
    }
}

/// A conversation under way.
struct Scene {
    app: DuplexStream,
    server: DuplexStream,
    breaks: [Arc<AtomicBool>; 2],
    relay: JoinHandle<Ended>,
    /// Held by whoever would keep the session's key.
    keeper: Arc<()>,
}

impl Scene {
    fn start(conversation: &Conversation, idle: Option<Duration>) -> Scene {
        let (app, client) = duplex(64 * 1024);
        let (upstream, server) = duplex(64 * 1024);
        let breaks: [Arc<AtomicBool>; 2] = Default::default();
        let [mut client, mut upstream] = [(client, &breaks[0]), (upstream, &breaks[1])]
            .map(|(stream, broken)| Wire::new(Breakable { stream, broken: broken.clone() }));
        let settings = Settings { idle, jitter: 0.0, ..Settings::default() };
        let keeper = Arc::new(());
        let kept = keeper.clone();
        let opening = Opening { bytes: conversation.opening.to_vec(), ..Opening::default() };
        let negotiated = Negotiated { greeting: conversation.greeting.to_vec() };
        let greeting = conversation.protocol.greet(Meeting {
            opening,
            negotiated,
            secured: true,
            offer: Offer::No,
            keep_key: Box::new(move |_| drop(kept)),
        });
        let relay = tokio::spawn(async move {
            let flow = Flow::default();
            let (greeting, engine) = (Some(Box::new(greeting)), None::<Carried<NoTls>>);
            relay::run(&mut client, &mut upstream, engine, greeting, &settings, &flow, pending()).await
        });
        Scene { app, server, breaks, relay, keeper }
    }

    async fn say(&mut self, by: Party, words: &[u8]) {
        let stream = if by == Party::Client { &mut self.app } else { &mut self.server };
        stream.write_all(words).await.unwrap();
        settled().await;
    }

    /// Says everything before a place.
    async fn say_until(&mut self, conversation: &Conversation, (turn, byte): (usize, usize)) {
        settled().await;
        for turn in &conversation.turns[..turn] {
            self.say(turn.by, &turn.says).await;
        }
        let turn = &conversation.turns[turn];
        self.say(turn.by, &turn.says[..byte]).await;
    }

    /// The end of the relay, and what client and server had been told by then.
    async fn ended(self) -> (Ended, [Vec<u8>; 2]) {
        let ended = timeout(10 * DAY, self.relay).await.expect("it ends").unwrap();
        assert_eq!(Arc::strong_count(&self.keeper), 1, "nothing is held");
        let mut told = [Vec::new(), Vec::new()];
        for (mut stream, told) in [self.app, self.server].into_iter().zip(&mut told) {
            // Broken off by itself, a side hears no more.
            stream.read_to_end(told).await.unwrap();
        }
        (ended, told)
    }
}

/// Lets the relay do what there is to do.
async fn settled() {
    sleep(Duration::from_millis(1)).await;
}

/// A stream that can end with a reset.
struct Breakable {
    stream: DuplexStream,
    broken: Arc<AtomicBool>,
}

impl Ware for Breakable {}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before;
        let reset = is_end && self.broken.load(SeqCst);
        Poll::Ready(if reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Greeters see plaintext, with TLS and without.
enum NoTls {}

impl Engine for NoTls {
    fn fits(&self, _: usize) -> usize {
        match *self {}
    }

    fn seal(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, Fault> {
        match *self {}
    }

    fn open(&mut self, _: &mut [u8], _: usize, _: usize) -> Opened {
        match *self {}
    }

    fn take_pending(&mut self) -> Vec<u8> {
        match *self {}
    }

    fn has_pending(&self) -> bool {
        match *self {}
    }

    fn close(&mut self) {
        match *self {}
    }
}

/// All that was said before a place was told, and of what is only half said nothing else; and a client is left to be refused
/// exactly where it would understand that.
#[track_caller]
fn nothing_is_lost(
    conversation: &Conversation,
    place: (usize, usize),
    ended: &Ended,
    [to_client, to_server]: &[Vec<u8>; 2],
) {
    let (turn, byte) = place;
    let now = &conversation.turns[turn];
    let whole = conversation.told(Party::Upstream, turn);
    let next = conversation.told(Party::Upstream, turn + 1);
    assert!(to_client.starts_with(&whole) && next.starts_with(to_client), "at {place:?}: {ended:?}");
    let mut said = conversation.told(Party::Client, turn);
    if now.by == Party::Client {
        said.extend_from_slice(&now.says[..byte]);
    }
    assert_eq!(*to_server, said, "at {place:?}: {ended:?}");
    let refusable = now.refusable && *to_client == whole && ended.closed_by != Some(Party::Client);
    assert_eq!(ended.refusable, refusable, "at {place:?}: {ended:?}");
}

/// Neither side minds how long the other takes, within the greeting and after it: a day of silence before each byte.
#[tokio::test(start_paused = true)]
async fn a_day_of_silence_before_each_byte_changes_nothing() {
    for conversation in Conversation::all() {
        for (idle, pause) in [(None, DAY), (Some(DAY), 23 * HOUR)] {
            let mut scene = Scene::start(&conversation, idle);
            for turn in &conversation.turns {
                for byte in &turn.says {
                    sleep(pause).await;
                    scene.say(turn.by, &[*byte]).await;
                }
            }
            scene.app.shutdown().await.unwrap();
            settled().await;
            scene.server.shutdown().await.unwrap();
            let (ended, [to_client, to_server]) = scene.ended().await;
            assert_eq!((ended.how, ended.greeting), (How::Closed, false));
            let turns = conversation.turns.len();
            assert_eq!(to_client, conversation.told(Party::Upstream, turns));
            assert_eq!(to_server, conversation.told(Party::Client, turns));
        }
    }
}

/// Wherever the last byte is followed by none: a day later it is over, to the second.
#[tokio::test(start_paused = true)]
async fn silence_anywhere_ends_it_when_its_time_is_over() {
    for conversation in Conversation::all() {
        for place in conversation.places() {
            let mut scene = Scene::start(&conversation, Some(DAY));
            scene.say_until(&conversation, place).await;
            let last = Instant::now();
            let (ended, told) = scene.ended().await;
            assert_eq!((&ended.how, ended.closed_by), (&How::IdleTimeout, Some(Party::Ambassador)));
            assert!(last.elapsed().abs_diff(DAY) < Duration::from_secs(1), "at {place:?}");
            nothing_is_lost(&conversation, place, &ended, &told);
        }
    }
}

/// Either side closes or resets before any byte, and the other one never even notices: it is over within the time of a
/// half-closed connection.
#[tokio::test(start_paused = true)]
async fn an_abrupt_end_anywhere_ends_it_in_time() {
    for conversation in Conversation::all() {
        for place in conversation.places() {
            for (by, broken) in [
                (Party::Client, false),
                (Party::Client, true),
                (Party::Upstream, false),
                (Party::Upstream, true),
            ] {
                let mut scene = Scene::start(&conversation, None);
                scene.say_until(&conversation, place).await;
                let (number, stream) = match by {
                    Party::Client => (0, &mut scene.app),
                    _ => (1, &mut scene.server),
                };
                scene.breaks[number].store(broken, SeqCst);
                stream.shutdown().await.unwrap();
                let begun = Instant::now();
                let (ended, told) = scene.ended().await;
                assert_eq!(ended.closed_by, Some(by), "at {place:?}: {ended:?}");
                assert!(begun.elapsed() <= Duration::from_secs(61), "at {place:?}: {ended:?}");
                nothing_is_lost(&conversation, place, &ended, &told);
            }
        }
    }
}
