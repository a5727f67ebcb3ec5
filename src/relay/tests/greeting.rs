//! Who reads along at the beginning: what it changes is changed, what it says is said first, and then it is gone.

use super::*;

const NO: Objection = Objection { to: Party::Client, detail: "it said no", mend: "say yes" };

/// The smallest greeter with everything to it: of the server's lines it takes out those that begin with `-`, at `?` it asks
/// the server itself, and with the line `!` it is done. A client that says `no` is objected to.
#[derive(Default)]
struct Lines {
    kept: Vec<u8>,
    answered: bool,
    done: bool,
}

impl Greeter for Lines {
    fn client_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        if heard == b"no" {
            return Err(NO);
        }
        self.answered = false;
        onward.up.extend_from_slice(heard);
        Ok(())
    }

    fn upstream_said(&mut self, heard: &[u8], onward: &mut Onward) -> Result<(), Objection> {
        self.kept.extend_from_slice(heard);
        while let Some(end) = self.kept.iter().position(|byte| *byte == b'\n')
            && !self.done
        {
            let line: Vec<u8> = self.kept.drain(..=end).collect();
            self.answered = true;
            match line[0] {
                b'-' => {}
                b'?' => onward.up.extend_from_slice(b"of our own\n"),
                b'!' => self.done = true,
                b'#' => {
                    self.answered = false;
                    let (detail, mend) = ("it said #", "say something else");
                    return Err(Objection { to: Party::Upstream, detail, mend });
                }
                _ => onward.down.extend(line),
            }
        }
        if self.done {
            onward.down.append(&mut self.kept);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn may_refuse(&self) -> bool {
        !self.answered
    }

    fn why_ended(&self) -> Option<Remark> {
        let (detail, mend) = ("it did not like it".into(), "say something else");
        self.answered.then_some(Remark { of: Party::Client, detail, mend })
    }
}

fn greeting(up: &[u8], down: &[u8]) -> Option<Box<Greeting>> {
    let onward = Onward { up: up.to_vec(), down: down.to_vec() };
    Some(Box::new(Greeting { onward, greeter: Some(Box::new(Lines::default())) }))
}

/// A relay with a greeting of these first words, over TCP.
async fn begun(up: &[u8], down: &[u8]) -> (Relay, TcpStream, TlsStream<TcpStream>) {
    let ((app, client), (upstream, server)) = (tcp_pair().await, tcp_pair().await);
    let mut upstream = Wire::new(upstream);
    let (carried, server) = secured(TLS13, &mut upstream, server).await;
    let greeting = greeting(up, down);
    let relay = Relay::greeting(Wire::new(client), upstream, Some(carried), greeting, Settings::default());
    (relay, app, within(server).await.unwrap())
}

#[tokio::test]
async fn first_words_come_first_and_lines_are_taken_out_until_it_is_done() {
    let (relay, mut app, mut server) = begun(b"hello, server\n", b"hello, client\n").await;
    expect(&mut server, b"hello, server\n").await;
    server.write_all(b"one\n-secret\ntwo\n?\n!\n-no secret any more\n").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut server, b"of our own\n").await;
    expect(&mut app, b"hello, client\none\ntwo\n-no secret any more\n").await;
    app.write_all(b"no").await.unwrap();
    expect(&mut server, b"no").await;
    // What is said first may be ours: its maker counts what of it is the client's.
    assert_eq!(relay.flow.sent(), 2);
    assert_eq!(relay.flow.received(), 14 + 8 + 20);
    drop(app);
    expect_end(&mut server).await;
    server.shutdown().await.unwrap();
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.greeting, ended.remark), (How::Closed, false, None));
}

/// Byte by byte or at once, with megabytes behind it and before it, over wires that take what they like.
#[tokio::test]
async fn however_bytes_are_split_nothing_is_lost_around_a_greeting() {
    for (seed, versions) in [(11, TLS13), (12, TLS12), (13, TLS13)] {
        let (mut app, client) = duplex(30_000);
        let (upstream, server) = duplex(50_000);
        let client = Wire::hostile(client, seed, 40_000);
        let mut upstream = Wire::hostile(upstream, seed + 100, 70_000);
        let (carried, server) = secured(versions, &mut upstream, server).await;
        let (up, down) = (pattern(seed, 700_000), pattern(seed + 1, 900_000));
        let relay =
            Relay::greeting(client, upstream, Some(carried), greeting(&up, &down), Settings::default());
        let mut server = within(server).await.unwrap();
        let told = async {
            expect(&mut app, &down).await;
            expect(&mut app, b"a\nb\n").await;
        };
        let heard = async {
            expect(&mut server, &up).await;
            for byte in b"a\n-x\nb\n!\n" {
                server.write_all(&[*byte]).await.unwrap();
                server.flush().await.unwrap();
            }
        };
        tokio::join!(told, heard);
        exchange(app, server, 500_000).await;
        closed_in_order(&relay.ended().await);
    }
}

/// Nothing has reached the client yet: whoever knows why may still tell it.
#[tokio::test]
async fn a_server_that_hangs_up_on_a_waiting_client_leaves_that_client_to_be_told() {
    let (relay, app, mut server) = begun(b"hello\n", b"").await;
    let (client, seen) = (relay.client.clone(), relay.upstream.clone());
    expect(&mut server, b"hello\n").await;
    server.shutdown().await.unwrap();
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::Closed, Some(Party::Upstream)));
    assert!(ended.greeting && ended.refusable);
    assert!(!client.was_reset() && !seen.was_reset());
    drop(app);
    // And so with one that resets.
    let (relay, app, server) = begun(b"", b"").await;
    let client = relay.client.clone();
    let (socket, _) = server.into_inner();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    let ended = relay.ended().await;
    assert!(ended.refusable && !client.was_reset(), "{ended:?}");
    drop(app);
}

/// Part of what the server said in one breath was in order, and goes to the client before it is told of the rest.
#[tokio::test]
async fn what_comes_before_an_objection_is_delivered_before_the_client_is_told() {
    let (relay, mut app, mut server) = begun(b"", b"").await;
    let client = relay.client.clone();
    server.write_all(b"one\n#\n").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"one\n").await;
    let ended = relay.ended().await;
    assert!(matches!(ended.how, How::Objected(_)) && ended.refusable && !client.was_reset(), "{ended:?}");
}

/// A line has been delivered and nothing is awaited: a refusal would be mistaken for something else.
#[tokio::test]
async fn a_client_that_awaits_nothing_is_not_told() {
    let (relay, mut app, mut server) = begun(b"", b"").await;
    let client = relay.client.clone();
    server.write_all(b"line\n").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"line\n").await;
    let (socket, _) = server.into_inner();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    let ended = relay.ended().await;
    assert!(!ended.refusable && client.was_reset(), "{ended:?}");
}

/// It was told the end, and spoke all the same: nothing that is said to it now would follow.
#[tokio::test]
async fn a_client_that_speaks_after_the_end_is_not_told() {
    let (relay, mut app, mut server) = begun(b"", b"").await;
    server.write_all(b"line\n").await.unwrap();
    server.shutdown().await.unwrap();
    drop(server);
    expect(&mut app, b"line\n").await;
    expect_end(&mut app).await;
    within(async {
        // Until the server's host has answered that nobody is there.
        while !relay.task.is_finished() {
            app.write_all(b"more").await.ok();
            tokio::task::yield_now().await;
        }
    })
    .await;
    let ended = relay.ended().await;
    assert!(ended.closed_by == Some(Party::Upstream) && !ended.refusable, "{ended:?}");
}

#[tokio::test]
async fn a_client_that_leaves_may_have_a_reason() {
    let (relay, mut app, mut server) = begun(b"", b"").await;
    server.write_all(b"line\n").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"line\n").await;
    drop(app);
    expect_end(&mut server).await;
    server.shutdown().await.unwrap();
    let ended = relay.ended().await;
    assert_eq!(ended.closed_by, Some(Party::Client));
    assert_eq!(ended.remark.map(|remark| remark.detail), Some("it did not like it".into()));
}

#[tokio::test]
async fn what_a_greeter_objects_to_goes_no_further() {
    let (relay, mut app, mut server) = begun(b"", b"").await;
    app.write_all(b"no").await.unwrap();
    let ended = relay.ended().await;
    assert_eq!(ended.how, How::Objected(NO));
    assert!(ended.refusable);
    let mut heard = Vec::new();
    within(server.read_to_end(&mut heard)).await.ok(); // cut off, or closed: it is over either way
    assert!(heard.is_empty());
}
