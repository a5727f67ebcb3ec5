//! preface: reads what a client of a client-first protocol says before anything is dialled.
//!
//! Owns its time limit, what a client's silence and leaving mean, and the client's TLS handshake where it asks for one first.
//! Leaves the words to `protocol`, and what was wrong with a handshake to `tls`.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::converse::{Trouble, converse};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::{Offer, Opening, Protocol, Talk, Wrapping};
use crate::relay::{Leg, Packets};

/// A client whose preface came to nothing.
#[derive(Debug)]
pub enum Unopened {
    /// It left, without having said a thing.
    Left,
    /// It left for a reason.
    LeftFor(Failure),
    /// It gave a reason to end it.
    Failed(Failure),
    /// Its TLS handshake came to nothing: it can be told nothing any more.
    Unsecured(Failure),
}

/// Reads the preface, each part of it within `limit`; empty where the protocol has none. `offer`: the TLS that the client may
/// ask for.
///
/// # Errors
/// See [`Unopened`].
pub async fn read<C: Leg>(
    client: &mut C,
    protocol: Protocol,
    mut offer: Offer,
    limit: Duration,
) -> Result<Opening, Unopened> {
    loop {
        let Some(mut talk) = protocol.preface(offer) else { return Ok(Opening::default()) };
        let opening = hear(client, &mut *talk, Stage::Admit, limit).await?;
        if !opening.wants_tls {
            return Ok(opening);
        }
        secure(client, protocol.wrapping(), opening.bytes, Stage::Admit, limit).await?;
        offer = Offer::Taken;
    }
}

/// Lets the client's TLS begin, up to the end of the handshake, which may travel in the protocol's own packets. `begun`: what
/// of it has come already.
///
/// # Errors
/// It came to nothing.
pub async fn secure<C: Leg>(
    client: &mut C,
    wrapping: Option<Box<dyn Wrapping>>,
    begun: Vec<u8>,
    stage: Stage,
    limit: Duration,
) -> Result<(), Unopened> {
    let failure = |reason, side, detail| Unopened::Unsecured(Failure::new(stage, reason, side, detail));
    if let Err(error) = client.start_tls(packets(wrapping), begun) {
        let detail = format!("TLS for the client cannot begin: {error}");
        return Err(failure(Reason::ProxyInternalError, Side::Ambassador, detail));
    }
    match timeout(limit, client.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let detail = format!("the client's TLS handshake with nuncio failed: {error}");
            Err(failure(Reason::ClientReset, Side::Client, detail))
        }
        Err(_) => {
            let limit = humantime::format_duration(limit);
            let detail = format!("the client did not finish its TLS handshake with nuncio within {limit}");
            Err(failure(Reason::PrefaceTimeout, Side::Client, detail))
        }
    }
}

fn packets(wrapping: Option<Box<dyn Wrapping>>) -> Option<Box<dyn Packets>> {
    wrapping.map(|wrapping| Box::new(wrapping) as Box<dyn Packets>)
}

/// Hears a client out within `limit`.
///
/// # Errors
/// See [`Unopened`].
pub async fn hear<S, T>(
    client: &mut S,
    talk: &mut dyn Talk<Outcome = T>,
    stage: Stage,
    limit: Duration,
) -> Result<T, Unopened>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let conversed = timeout(limit, converse(client, talk)).await;
    let failure = |reason, detail| Failure::new(stage, reason, Side::Client, detail);
    let awaited = talk.awaits();
    match conversed {
        Ok(Ok(heard)) => Ok(heard),
        Ok(Err(Trouble::Failed(failure))) => Err(Unopened::Failed(failure)),
        Ok(Err(Trouble::Left(failure))) => Err(Unopened::LeftFor(failure)),
        Ok(Err(Trouble::Closed { spoke: false })) => Err(Unopened::Left),
        Ok(Err(Trouble::Closed { spoke: true })) => {
            let detail = format!("the client closed instead of sending {awaited}");
            Err(Unopened::LeftFor(failure(Reason::BadPreface, detail)))
        }
        Ok(Err(Trouble::Io(error))) => {
            let detail = format!("the client went away instead of sending {awaited}: {error}");
            Err(Unopened::LeftFor(failure(Reason::ClientReset, detail)))
        }
        Err(_) => Err(Unopened::Failed(late(awaited, stage, limit))),
    }
}

/// A client that took too long for this.
pub fn late(awaited: &str, stage: Stage, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    let detail = format!("{awaited} did not come within {limit}");
    Failure::new(stage, Reason::PrefaceTimeout, Side::Client, detail)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

    /// What comes of a client that says this, and leaves or stays.
    async fn read_from(says: &[u8], leaves: bool) -> Unopened {
        let (mut ours, mut client) = duplex(4096);
        client.write_all(says).await.unwrap();
        let client = (!leaves).then_some(client);
        let unopened =
            read(&mut ours, Protocol::Postgres, Offer::No, Duration::from_secs(10)).await.unwrap_err();
        drop(client);
        unopened
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_for_a_reason_is_no_refusal() {
        let unopened = read_from(b"", true).await;
        assert!(matches!(&unopened, Unopened::Left), "{unopened:?}");
        for says in [SSL_REQUEST, &[0, 0, 0]] {
            let unopened = read_from(says, true).await;
            assert!(
                matches!(&unopened, Unopened::LeftFor(why) if why.reason == Reason::BadPreface),
                "{unopened:?}"
            );
        }
        let unopened = read_from(b"GET / HTTP/1.1\r\n\r\n", true).await;
        assert!(
            matches!(&unopened, Unopened::Failed(why) if why.reason == Reason::BadPreface),
            "{unopened:?}"
        );
        let unopened = read_from(SSL_REQUEST, false).await;
        assert!(
            matches!(&unopened, Unopened::Failed(why) if why.reason == Reason::PrefaceTimeout),
            "{unopened:?}"
        );
    }

    /// MySQL's clients wait for no answer to their request for TLS: what may come with it is the beginning of their handshake,
    /// and not ours to read.
    #[tokio::test]
    async fn what_comes_behind_a_request_for_tls_is_left_for_the_handshake() {
        let flags = [0, 0x0a, 0, 0]; // CLIENT_PROTOCOL_41, CLIENT_SSL
        let request = [&[32, 0, 0, 1][..], &flags, &[0; 28]].concat();
        let hello = b"\x16\x03\x01\x02\0\x01 and so on";
        for pieces in [vec![request.len() + hello.len()], vec![1; request.len() + hello.len()], vec![20, 40]]
        {
            let (mut ours, mut client) = duplex(4096);
            let says = [&request[..], hello].concat();
            let talking = async {
                let mut rest = &says[..];
                for length in pieces {
                    let (piece, behind) = rest.split_at(length.min(rest.len()));
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = behind;
                }
                client.shutdown().await.unwrap();
            };
            let mut talk =
                Protocol::Mysql.interview(&crate::protocol::Negotiated::default(), Offer::Optional).unwrap();
            let hearing = hear(&mut ours, &mut *talk, Stage::Greet, Duration::from_secs(10));
            let (heard, ()) = tokio::join!(hearing, talking);
            assert!(heard.unwrap().opening.wants_tls);
            let mut rest = Vec::new();
            ours.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, hello);
        }
    }
}
