//! What bounds a relay: back-pressure, silence, age, and being told to stop.

use super::*;

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_server_and_holds_bounded_memory() {
    let (relay, mut app, server) = tls_in_memory(Settings::default()).await;
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let sender = tokio::spawn(async move {
        let data = pattern(1, 4_000_000);
        server_out.write_all(&data).await.unwrap();
        server_out.shutdown().await.unwrap();
    });
    // The relay takes what fits, and no more: its read count stands still while the client does not read.
    let mut before = u64::MAX;
    while before != relay.flow.received() {
        before = relay.flow.received();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
    assert!(before <= 64 * 1024, "the client's pipe holds no more");
    assert!(!sender.is_finished());
    // The other direction is not held up by it.
    app.write_all(b"stop").await.unwrap();
    expect(&mut server_in, b"stop").await;
    expect(&mut app, &pattern(1, 4_000_000)).await;
    within(sender).await.unwrap();
    drop(app);
    relay.ended().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_after_the_idle_time_and_every_byte_starts_it_again() {
    let settings = Settings { idle: Some(Duration::from_secs(100)), jitter: 0.0, ..Settings::default() };
    let (relay, mut app, mut server) = tls_in_memory(settings).await;
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(99)).await;
        app.write_all(b"a").await.unwrap();
        expect(&mut server, b"a").await;
    }
    let ended = relay.ended().await;
    assert_eq!((ended.how, ended.closed_by), (How::IdleTimeout, Some(Party::Ambassador)));
    assert_eq!(start.elapsed().as_secs(), 99 * 3 + 100);
    expect_end(&mut server).await; // told in order: close_notify
    expect_end(&mut app).await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_may_be_silent_for_its_own_time_only() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    tokio::time::sleep(Duration::from_secs(3_000)).await; // no limit while both are open
    app.shutdown().await.unwrap();
    expect_end(&mut server).await;
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(59)).await;
        server.write_all(b"a").await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, b"a").await;
    }
    assert_eq!(relay.ended().await.how, How::HalfCloseTimeout);
    assert_eq!(start.elapsed().as_secs(), 59 * 3 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_half_close_shortens_a_longer_idle_time() {
    let settings = Settings { idle: Some(Duration::from_secs(1_000)), ..Settings::default() };
    let (relay, mut app, _server) = tls_in_memory(settings).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    app.shutdown().await.unwrap();
    let start = Instant::now();
    assert_eq!(relay.ended().await.how, How::HalfCloseTimeout);
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_even_a_busy_connection_somewhat_early() {
    let lifetime = Duration::from_secs(100);
    let mut ages = Vec::new();
    for _ in 0..8 {
        let settings = Settings { lifetime: Some(lifetime), jitter: 0.5, ..Settings::default() };
        let (relay, mut app, mut server) = tls_in_memory(settings).await;
        let start = Instant::now();
        while !relay.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if app.write_all(b"a").await.is_ok() && server.read(&mut [0; 9]).await.is_err() {
                break;
            }
        }
        assert_eq!(relay.ended().await.how, How::LifetimeReached);
        ages.push(start.elapsed());
    }
    assert!(
        ages.iter()
            .all(|age| *age > lifetime / 2 - Duration::from_secs(1)
                && *age <= lifetime + Duration::from_secs(1))
    );
    assert!(
        ages.iter().any(|age| age.abs_diff(ages[0]) > Duration::from_millis(200)),
        "all at once: {ages:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_by_an_idle_connection_and_told_in_order() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"a").await.unwrap();
    expect(&mut server, b"a").await;
    server.write_all(b"b").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"b").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    let ended = within(relay.task).await.unwrap();
    assert_eq!((ended.how, ended.closed_by), (How::Stopped, Some(Party::Ambassador)));
    assert!(!client.was_reset() && !upstream.was_reset());
    expect_end(&mut server).await;
    expect_end(&mut app).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_two_records_of_a_download_does_not_look_like_its_end() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    server.write_all(b"one of many").await.unwrap();
    server.flush().await.unwrap();
    expect(&mut app, b"one of many").await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(client.was_reset() && upstream.was_reset());
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_answer_does_not_look_like_an_empty_one_nor_an_upload_like_a_whole_one() {
    let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
    app.write_all(b"question").await.unwrap();
    expect(&mut server, b"question").await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let (client, upstream) = (relay.client.clone(), relay.upstream.clone());
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(client.was_reset() && upstream.was_reset());
    assert!(within(server.read(&mut [0])).await.is_err(), "close_notify");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_at_a_stop_is_delivered_but_not_for_long() {
    for (takes_it, seconds) in [(true, 0), (false, 1)] {
        let (relay, mut app, mut server) = tls_in_memory(Settings::default()).await;
        server.write_all(b"half an ans").await.unwrap();
        server.flush().await.unwrap();
        expect(&mut app, b"half an ans").await;
        relay.client.unsent.store(5_000, Ordering::SeqCst);
        let (client, before) = (relay.client.clone(), Instant::now());
        relay.stop.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!client.was_reset(), "5000 bytes are still on their way");
        if takes_it {
            client.unsent.store(0, Ordering::SeqCst);
        }
        assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
        assert!(client.was_reset());
        assert_eq!(before.elapsed().as_secs(), seconds);
    }
}

#[tokio::test]
async fn a_stop_is_heard_amid_a_transfer_and_does_not_look_like_the_answers_end() {
    let (relay, _app, mut server) = tls_in_memory(Settings::default()).await;
    let sender = tokio::spawn(async move { server.write_all(&pattern(1, 3_000_000)).await.is_err() });
    while relay.flow.received() == 0 {
        tokio::task::yield_now().await;
    }
    relay.stop.send(()).unwrap();
    assert_eq!(within(relay.task).await.unwrap().how, How::Stopped);
    assert!(relay.client.was_reset());
    assert!(within(sender).await.unwrap());
}
