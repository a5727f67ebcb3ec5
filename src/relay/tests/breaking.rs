//! Ends out of order: resets, refusals, a peer that is gone, records that are none.

use super::*;

#[tokio::test]
async fn a_client_that_resets_resets_the_upstream() {
    let (relay, mut app, mut server) = plain_over_tcp(Settings::default()).await;
    app.write_all(b"x").await.unwrap();
    expect(&mut server, b"x").await;
    app.set_zero_linger().unwrap();
    drop(app);
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::ClientReset, Some(Party::Client)));
    let error = within(server.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_upstream_that_takes_nothing_for_the_user_timeout_vanished_and_did_not_reset() {
    let ((app, client), (upstream, _server)) = (tcp_pair().await, tcp_pair().await);
    socket2::SockRef::from(&upstream).set_tcp_user_timeout(Some(Duration::from_millis(300))).unwrap();
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    let mut app = app;
    tokio::spawn(async move { while app.write_all(&[0; 64 * 1024]).await.is_ok() {} });
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::Vanished(Party::Upstream), Some(Party::Upstream)));
}

#[tokio::test]
async fn what_a_client_said_before_it_reset_still_reaches_the_upstream() {
    let ((mut app, client), (upstream, mut server)) = (duplex(64_000), duplex(10));
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    app.write_all(&pattern(1, 5_000)).await.unwrap();
    while relay.flow.sent() < 5_000 {
        tokio::task::yield_now().await;
    }
    drop(app);
    server.write_all(b"answer").await.unwrap(); // nobody takes it
    expect(&mut server, &pattern(1, 5_000)).await;
    let upstream = relay.upstream.clone();
    assert_eq!(relay.ended().await.how, How::ClientReset);
    assert!(upstream.was_reset());
}

#[tokio::test(start_paused = true)]
async fn the_reset_of_an_upstream_waits_for_its_host_to_have_what_the_client_said() {
    let ((mut app, client), (upstream, mut server)) = (duplex(1_000), duplex(1_000));
    let relay = Relay::start(Wire::new(client), Wire::new(upstream), None, Settings::default());
    app.write_all(b"the last order").await.unwrap();
    expect(&mut server, b"the last order").await;
    relay.upstream.unsent.store(5_000, Ordering::SeqCst);
    drop(app);
    server.write_all(b"answer").await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!relay.upstream.was_reset());
    relay.upstream.unsent.store(0, Ordering::SeqCst);
    let upstream = relay.upstream.clone();
    assert_eq!(relay.ended().await.how, How::ClientReset);
    assert!(upstream.was_reset());
}

#[tokio::test]
async fn an_upstream_that_resets_resets_the_client_after_what_it_said() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"last words").await.unwrap();
    expect(&mut app, b"last words").await;
    let (socket, _) = server.into_inner();
    socket.set_zero_linger().unwrap();
    drop(socket);
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::UpstreamReset, Some(Party::Upstream)));
}

#[tokio::test]
async fn a_late_refusal_of_our_certificate_is_read_even_when_our_write_fails_first() {
    let pki = Pki::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(TLS13)));
    let (app, client) = duplex(1_000);
    let (upstream, server) = duplex(64_000);
    let mut upstream = Wire::new(upstream);
    let refused = tokio::spawn(async move { acceptor.accept(server).await.is_err() });
    let config = pki.client_without_certificate();
    let secured = handshake(&mut upstream, config, server_name(), &mut Progress::default()).await.unwrap();
    let mut carried = secured.carried;
    carried.flush(&mut upstream).await.unwrap();
    assert!(within(refused).await.unwrap());

    upstream.writes_fail = true;
    let relay = Relay::start(Wire::new(client), upstream, Some(carried), Settings::default());
    let mut app = app;
    app.write_all(b"query").await.unwrap();
    let client = relay.client.clone();
    let ended = relay.ended().await;
    assert_eq!(ended.how, How::TlsAlert(AlertDescription::CertificateRequired));
    assert_eq!((ended.closed_by, ended.upstream_spoke), (Some(Party::Upstream), false));
    assert!(client.was_reset());
}

#[tokio::test]
async fn closing_right_after_the_handshake_tells_whether_our_certificate_was_taken() {
    let pki = Pki::new();
    for (config, expected) in [
        (pki.client(), How::Closed),
        (pki.client_without_certificate(), How::TlsAlert(AlertDescription::CertificateRequired)),
    ] {
        let acceptor = TlsAcceptor::from(Arc::new(pki.server(TLS13)));
        let (mut upstream, server) = tcp_pair().await;
        let server = tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(server).await {
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                stream.shutdown().await.unwrap();
            }
        });
        let secured =
            handshake(&mut upstream, config, server_name(), &mut Progress::default()).await.unwrap();
        assert!(secured.has_pending());
        assert_eq!(within(secured.carried.close(&mut upstream)).await, expected);
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_no_more_and_says_nothing_is_not_listened_to_for_long() {
    let (app, client) = duplex(1_000);
    let (upstream, _server) = duplex(1_000);
    let mut upstream = Wire::new(upstream);
    upstream.writes_fail = true;
    let mut app = app;
    app.write_all(b"query").await.unwrap();
    let relay = Relay::start(Wire::new(client), upstream, None, Settings::default());
    let before = Instant::now();
    assert_eq!(relay.ended().await.how, How::UpstreamReset);
    assert_eq!(before.elapsed().as_secs(), 1);
}

#[tokio::test]
async fn a_key_update_is_answered_while_nobody_says_anything() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"ping").await.unwrap();
    expect(&mut server, b"ping").await;
    for round in 1..=5 {
        let before = relay.upstream.written.load(Ordering::SeqCst);
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.flush().await.unwrap();
        within(async {
            while relay.upstream.written.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(relay.upstream.written.load(Ordering::SeqCst) - before, 5 + 5 + 1 + 16, "one KeyUpdate");
        // And both directions go on under their new keys.
        let text = format!("round {round}");
        app.write_all(text.as_bytes()).await.unwrap();
        expect(&mut server, text.as_bytes()).await;
        server.write_all(text.as_bytes()).await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, text.as_bytes()).await;
    }
    assert_eq!(relay.flow.exchanges().count, 5);
}

#[tokio::test]
async fn garbage_instead_of_records_is_an_error_after_all_that_was_valid() {
    let (relay, mut app, mut server) = tls_over_tcp(Settings::default()).await;
    server.write_all(b"valid").await.unwrap();
    server.flush().await.unwrap();
    let (mut socket, _) = server.into_inner();
    socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    expect(&mut app, b"valid").await;
    let error = within(app.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let ended = relay.ended().await;
    assert!(matches!(ended.how, How::TlsError(_)), "{ended:?}");
    // The server is told why.
    let mut rest = Vec::new();
    within(socket.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.len() > 20, "no alert in {rest:?}");
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_an_error() {
    let (relay, _app, server) = tls_over_tcp(Settings::default()).await;
    let (mut socket, _) = server.into_inner();
    socket.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
    socket.write_all(&[7; 20]).await.unwrap();
    assert!(matches!(relay.ended().await.how, How::TlsError(_)));
}
