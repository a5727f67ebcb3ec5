//! refuse: no, in the client's own protocol and where it can read it; else a reset.
//!
//! Owns how long a refused client is waited for, and how many of them at a time. Leaves the words to `protocol`, and to
//! `context` where the client has asked for a destination.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::context::{self, Hearing};
use crate::converse::{Trouble, converse};
use crate::failure::{Failure, Reason};
use crate::protocol::{Offer, Opening, Protocol, Refusal};
use crate::relay::{Leg, Packets};

/// How far the conversation with the client has come.
#[derive(Clone, PartialEq, Eq)]
pub enum Heard {
    /// Its first words were not read yet.
    Nothing,
    /// They were, and are these; empty where the protocol has none to read.
    Opening(Vec<u8>),
    /// It wants a session's work cancelled. A server answers that with nothing but an end, and a driver takes words for a
    /// fault of its own; a reset at least tells those who look that it came to nothing.
    Cancel,
    /// It has been greeted, and awaits an answer to this, as its protocol's greeter says it.
    Greeted(Vec<u8>),
}

impl Heard {
    /// What a client has opened with.
    pub fn opening(opening: &Opening) -> Heard {
        match opening.cancels {
            Some(_) => Heard::Cancel,
            None => Heard::Opening(opening.bytes.clone()),
        }
    }
}

/// Refused clients that are waited for at a time; more than these get a reset, so that refusing costs less than serving.
/// Each of them holds one of the process's permits meanwhile.
static PLACES: Semaphore = Semaphore::const_new(64);
/// Those that were not even let in: a flood of them must leave the others' places alone.
static PLACES_AT_THE_DOOR: Semaphore = Semaphore::const_new(16);

/// How long a refused client may take, to say what it must before it listens and to read what we say.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same at the end of a drain, which waits two seconds for all that is still open. A client of AMQP has three answers to
/// give before it reads ours.
const LAST_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a client may take to read the alert by which its TLS ended.
const FOR_AN_ALERT: Duration = Duration::from_millis(500);

/// What a client may still send us meanwhile.
const THROWN_AWAY: u64 = 64 * 1024;

/// Tells the client why, and closes its connection when dropped. `offer`: the TLS that it may ask for first.
pub async fn refuse<C: Leg>(
    client: &mut C,
    protocol: Protocol,
    offer: Offer,
    heard: Heard,
    failure: &Failure,
    id: &str,
) {
    let told = async {
        let (places, greeted) = match &heard {
            Heard::Nothing => (&PLACES_AT_THE_DOOR, false),
            Heard::Opening(_) => (&PLACES, false),
            Heard::Greeted(_) => (&PLACES, true),
            Heard::Cancel => return None,
        };
        let _place = places.try_acquire().ok()?;
        let patience = patience(failure);
        timeout(patience, async {
            let said = match heard {
                Heard::Nothing => {
                    let opening = opening(client, protocol, offer).await?;
                    if opening.cancels.is_some() {
                        return None;
                    }
                    opening.bytes
                }
                Heard::Opening(said) | Heard::Greeted(said) => said,
                Heard::Cancel => Vec::new(),
            };
            let mut words = protocol.refusal(&Refusal { failure, id, greeted, said: &said })?;
            converse(client, &mut *words).await.ok()?;
            if protocol.leaves_when_refused() {
                // An error, or none in time: it is closed either way.
                match timeout(patience / 2, until_it_leaves(client)).await {
                    Ok(Ok(_) | Err(_)) | Err(_) => {}
                }
            }
            end(client).await
        })
        .await
        .ok()?
    };
    if told.await.is_none() {
        client.reset_on_close();
    }
}

/// The same in the words in which it asked for a destination. `unheard`: it has to say so first.
pub async fn refuse_asking<C: Leg>(
    client: &mut C,
    hearing: &mut Hearing,
    unheard: bool,
    refusal: &context::Refusal<'_>,
) {
    let told = async {
        let places = if unheard { &PLACES_AT_THE_DOOR } else { &PLACES };
        let _place = places.try_acquire().ok()?;
        timeout(patience(refusal.failure), async {
            if unheard {
                match converse(client, hearing).await {
                    // What it said was wrong as well: it is told the first reason.
                    Ok(_) | Err(Trouble::Failed(_)) => {}
                    Err(Trouble::Left(_) | Trouble::Closed { .. } | Trouble::Io(_)) => return None,
                }
            }
            client.write_all(&hearing.refused(refusal)?).await.ok()?;
            end(client).await
        })
        .await
        .ok()?
    };
    if told.await.is_none() {
        client.reset_on_close();
    }
}

fn patience(failure: &Failure) -> Duration {
    if failure.reason == Reason::Draining { LAST_PATIENCE } else { PATIENCE }
}

/// Closes our side, and waits for the client's.
async fn end<C: Leg>(client: &mut C) -> Option<u64> {
    client.shutdown().await.ok()?;
    // Closed with something unread, the kernel would reset, and the reset overtake our words.
    until_it_leaves(client).await.ok()
}

async fn until_it_leaves<C: Leg>(client: &mut C) -> io::Result<u64> {
    tokio::io::copy(&mut client.take(THROWN_AWAY), &mut tokio::io::sink()).await
}

/// Gives a client whose TLS we ended the time to read the alert that says why, and closes its connection when dropped.
pub async fn part<C: Leg>(socket: &mut C) {
    let Ok(_place) = PLACES.try_acquire() else { return };
    let told = async {
        socket.shutdown().await?;
        until_it_leaves(socket).await
    };
    // An error, or none in time: it is closed either way.
    match timeout(FOR_AN_ALERT, told).await {
        Ok(Ok(_) | Err(_)) | Err(_) => {}
    }
}

/// What the client has to say before it listens; nothing in most protocols. Who speaks plaintext where that is not served is
/// refused for one reason as well as for the other.
async fn opening<C: Leg>(client: &mut C, protocol: Protocol, offer: Offer) -> Option<Opening> {
    let mut offer = if offer == Offer::Required { Offer::Optional } else { offer };
    loop {
        let Some(mut preface) = protocol.preface(offer) else { return Some(Opening::default()) };
        let opening = converse(client, &mut *preface).await.ok()?;
        if !opening.wants_tls {
            return Some(opening);
        }
        let packets = protocol.wrapping().map(|wrapping| Box::new(wrapping) as Box<dyn Packets>);
        client.start_tls(packets, opening.bytes).ok()?;
        offer = Offer::Taken;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::failure::{Reason, Side, Stage};
    use crate::relay::testkit::Wire;

    const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";
    const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";

    /// What a PostgreSQL client hears that says this, and whether it is reset.
    async fn told(says: &[u8], heard: Heard) -> (Vec<u8>, bool) {
        let (ours, mut client) = duplex(4096);
        let mut ours = Wire::new(ours);
        let seen = ours.seen.clone();
        client.write_all(says).await.unwrap();
        let failure = Failure::new(Stage::Admit, Reason::ConnectionLimitReached, Side::Ambassador, "full");
        let mut answer = Vec::new();
        let refused = async move {
            refuse(&mut ours, Protocol::Postgres, Offer::No, heard, &failure, "ID").await;
        };
        let listened = async {
            client.read_to_end(&mut answer).await.unwrap();
            drop(client);
        };
        tokio::join!(refused, listened);
        (answer, seen.was_reset())
    }

    /// Java's JNDI, on a busy machine, looks at the answer when the connection has ended, and then does not.
    #[tokio::test(start_paused = true)]
    async fn who_leaves_by_itself_is_given_the_time_to() {
        for (protocol, says, waits) in [
            (Protocol::Ldap, &b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0"[..], true),
            (Protocol::Postgres, STARTUP, false),
        ] {
            for leaves in [true, false] {
                let (ours, mut client) = duplex(4096);
                let mut ours = Wire::new(ours);
                client.write_all(says).await.unwrap();
                let failure =
                    Failure::new(Stage::Admit, Reason::ConnectionLimitReached, Side::Ambassador, "full");
                let begun = tokio::time::Instant::now();
                let refused = async move {
                    refuse(&mut ours, protocol, Offer::No, Heard::Nothing, &failure, "ID").await;
                };
                let listened = async {
                    client.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
                    assert_eq!(begun.elapsed(), Duration::ZERO, "the answer is prompt");
                    if leaves {
                        client.shutdown().await.unwrap();
                    }
                    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
                    drop(client);
                };
                tokio::join!(refused, listened);
                let held = if waits && !leaves { PATIENCE / 2 } else { Duration::ZERO };
                assert_eq!(begun.elapsed(), held, "{protocol:?}");
            }
        }
    }

    #[tokio::test]
    async fn who_logs_in_is_told_and_who_cancels_is_reset() {
        for (says, heard) in
            [(STARTUP, Heard::Nothing), (b"", Heard::Opening(Vec::new())), (b"", Heard::Greeted(Vec::new()))]
        {
            let (answer, reset) = told(says, heard).await;
            assert!(answer.starts_with(b"E\0\0") && !reset, "{answer:?}");
        }
        for (says, heard) in [(CANCEL, Heard::Nothing), (b"", Heard::Cancel)] {
            assert_eq!(told(says, heard).await, (Vec::new(), true));
        }
    }

    /// Whom a drain ends may have more to say than others before it listens, and its host is often busy then.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_second_is_told_that_nuncio_stops() {
        let (mut ours, mut client) = {
            let (ours, client) = duplex(4096);
            (Wire::new(ours), client)
        };
        let failure = Failure::new(Stage::Queue, Reason::Draining, Side::Ambassador, "shutting down");
        let refusing = refuse(&mut ours, Protocol::Postgres, Offer::No, Heard::Nothing, &failure, "ID");
        let asking = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(STARTUP).await.unwrap();
            let mut answer = [0];
            client.read_exact(&mut answer).await.expect("an answer");
            drop(client);
            answer
        };
        let ((), answer) = tokio::join!(refusing, asking);
        assert_eq!(&answer, b"E");
    }
}
