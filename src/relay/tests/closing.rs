//! Ends in order, and ends that only look so: half-close, goodbyes, truncation.

use super::*;

#[tokio::test]
async fn a_client_that_closed_still_gets_its_answer() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    expect(&mut server, b"question").await;
    expect_end(&mut server).await; // close_notify: without it this would be an error
    server.write_all(&pattern(1, 100_000)).await.unwrap();
    server.shutdown().await.unwrap();
    expect(&mut app, &pattern(1, 100_000)).await;
    expect_end(&mut app).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Client));
}

#[tokio::test]
async fn a_server_that_closed_still_gets_the_clients_data() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    expect(&mut app, b"bye").await;
    expect_end(&mut app).await;
    app.write_all(b"one more thing").await.unwrap();
    app.shutdown().await.unwrap();
    expect(&mut server, b"one more thing").await;
    expect_end(&mut server).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Upstream));
}

#[tokio::test]
async fn a_truncated_stream_is_delivered_and_then_reset() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    relay.client.unsent.store(1, Ordering::SeqCst);
    server.write_all(&pattern(1, 300_000)).await.unwrap();
    server.flush().await.unwrap();
    let (mut socket, _) = server.into_inner();
    socket.shutdown().await.unwrap(); // FIN, and no close_notify
    expect(&mut app, &pattern(1, 300_000)).await;
    relay.client.unsent.store(0, Ordering::SeqCst);
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert_eq!(
        (ended.how, ended.closed_by, ended.upstream_spoke),
        (How::Truncated, Some(Party::Upstream), true)
    );
}

#[tokio::test]
async fn a_server_that_answers_the_clients_goodbye_with_a_bare_fin_truncates_nothing() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    app.write_all(b"PING").await.unwrap();
    expect(&mut server, b"PING").await;
    server.write_all(b"PONG").await.unwrap();
    expect(&mut app, b"PONG").await;
    app.shutdown().await.unwrap();
    expect_end(&mut server).await;
    server.into_inner().0.shutdown().await.unwrap(); // FIN, and no close_notify
    expect_end(&mut app).await;
    let ended = relay.ended().await;
    closed_in_order(&ended);
    assert_eq!(ended.closed_by, Some(Party::Client));
}

#[tokio::test]
async fn an_answer_after_the_clients_goodbye_that_ends_in_a_bare_fin_may_be_cut_or_missing() {
    for answer in [&b"half an ans"[..], b""] {
        let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
        app.write_all(b"question").await.unwrap();
        app.shutdown().await.unwrap();
        expect(&mut server, b"question").await;
        expect_end(&mut server).await;
        server.write_all(answer).await.unwrap();
        server.flush().await.unwrap();
        server.into_inner().0.shutdown().await.unwrap();
        expect(&mut app, answer).await;
        let error = within(app.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(relay.ended().await.how, How::Truncated);
    }
}

#[tokio::test]
async fn a_liveness_probe_is_no_truncation_where_the_server_says_no_goodbye() {
    let (relay, app, mut server) = tls_over_tcp(Settings::default()).await;
    drop(app);
    expect_end(&mut server).await;
    server.into_inner().0.shutdown().await.unwrap();
    assert_eq!(relay.ended().await.how, How::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_reset_of_a_truncated_stream_waits_for_the_clients_host_to_have_it_all() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    relay.client.unsent.store(5_000, Ordering::SeqCst);
    server.write_all(b"half an ans").await.unwrap();
    server.flush().await.unwrap();
    drop(server.into_inner());
    expect(&mut app, b"half an ans").await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.client.was_reset());
    relay.client.unsent.store(3_000, Ordering::SeqCst); // that is progress, so patience starts again
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.client.was_reset());
    relay.client.unsent.store(0, Ordering::SeqCst);
    let client = relay.client.clone();
    assert_eq!(relay.ended().await.how, How::Truncated);
    assert!(client.was_reset());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_takes_the_rest_does_not_hold_an_ending_forever() {
    let (relay, _app, mut server) = tls_in_memory(Settings::default()).await;
    relay.client.unsent.store(5_000, Ordering::SeqCst);
    server.write_all(b"x").await.unwrap();
    drop(server.into_inner());
    let before = Instant::now();
    assert_eq!(relay.ended().await.how, How::Truncated);
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn a_truncated_stream_may_be_configured_to_look_orderly_but_is_recorded() {
    let settings = Settings { on_truncation: OnTruncation::Close, ..Settings::default() };
    let (relay, mut app, mut server) = tls_over_tcp(settings).await;
    server.write_all(b"answer").await.unwrap();
    server.flush().await.unwrap();
    server.into_inner().0.shutdown().await.unwrap();
    expect(&mut app, b"answer").await;
    expect_end(&mut app).await;
    drop(app);
    assert_eq!(relay.ended().await.how, How::Truncated);
}

#[tokio::test]
async fn a_server_that_only_takes_the_handshake_and_hangs_up_did_not_speak() {
    let (relay, _app, server) = tls_over_tcp(Settings::default()).await;
    drop(server.into_inner());
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.upstream_spoke), (How::Truncated, false));
}

/// MySQL's servers close as soon as they have read the client's goodbye: our close_notify meets a closed socket, which answers
/// with a reset. Where that is usual it is the end in order that it is meant to be; and so is a server's own bare FIN.
#[tokio::test]
async fn where_servers_slam_the_door_that_is_an_end_in_order() {
    let settings = Settings { on_truncation: OnTruncation::Usual, ..Settings::default() };
    for (says_goodbye, resets) in [(true, true), (true, false), (false, false)] {
        let (relay, mut app, mut server) = tls_over_tcp(settings.clone()).await;
        server.write_all(b"OK").await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, b"OK").await;
        if says_goodbye {
            app.write_all(b"QUIT").await.unwrap();
            app.shutdown().await.unwrap();
            expect(&mut server, b"QUIT").await;
            expect_end(&mut server).await;
        }
        let (mut socket, _) = server.into_inner();
        if resets {
            socket.set_zero_linger().unwrap();
            drop(socket);
        } else {
            socket.shutdown().await.unwrap();
        }
        expect_end(&mut app).await;
        drop(app);
        let ended = relay.ended().await;
        closed_in_order(&ended);
        assert_eq!(ended.closed_by, Some(if says_goodbye { Party::Client } else { Party::Upstream }));
    }
}

/// Usual or not: a record that is cut in its middle was cut by something, and a reset under a client that is there is one.
#[tokio::test]
async fn what_was_cut_off_is_told_there_too() {
    let settings = Settings { on_truncation: OnTruncation::Usual, ..Settings::default() };
    let (relay, mut app, server) = tls_over_tcp(settings.clone()).await;
    let (mut socket, _) = server.into_inner();
    socket.write_all(&[0x17, 3, 3, 0, 100, 1, 2, 3]).await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(within(app.read(&mut [0])).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(relay.ended().await.how, How::Truncated);

    let (relay, mut app, server) = tls_over_tcp(settings).await;
    let (socket, _) = server.into_inner();
    socket.set_zero_linger().unwrap();
    drop(socket);
    assert_eq!(within(app.read(&mut [0])).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(relay.ended().await.how, How::UpstreamReset);
}
