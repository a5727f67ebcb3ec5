//! carry: plaintext talk through TLS with whoever wants a stream. For health checks that ask a question in the server's
//! own protocol; a connection's bytes go through the relay directly.
//!
//! It is the relay, between the connection and a pipe: there is no second way to seal and to open records.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use tokio::io::DuplexStream;

use super::{ClientTls, Secured, late_failure};
use crate::failure::Failure;
use crate::relay::{self, Flow, Leg};

/// What one side may write before the other has read.
const PIPE: usize = 16 * 1024;
/// How long our close_notify and the server's may take when all is said.
const FAREWELL: Duration = Duration::from_millis(200);

impl Secured {
    /// Holds a conversation. Beside what it came to: the refusal that the server sent meanwhile, where it sent one, as of
    /// our certificate in TLS 1.3; the conversation itself sees no more of that than an end. The caller bounds the time.
    pub async fn carry<S, F>(
        self,
        stream: &mut S,
        tls: &ClientTls,
        talk: impl FnOnce(DuplexStream) -> F,
    ) -> (F::Output, Option<Failure>)
    where
        S: Leg,
        F: Future,
    {
        let (near, mut far) = tokio::io::duplex(PIPE);
        let carry = async move {
            let (flow, settings) = (Flow::default(), relay::Settings::default());
            relay::run(&mut far, stream, Some(self.carried), None, &settings, &flow, pending()).await
            // Here `far` goes, and with it the conversation, if it still waits for something.
        };
        let (mut talk, mut carry) = (pin!(talk(near)), pin!(carry));
        let (came_to, ended) = tokio::select! {
            biased;
            came_to = &mut talk => (came_to, tokio::time::timeout(FAREWELL, carry).await.ok()),
            ended = &mut carry => (talk.await, Some(ended)),
        };
        let refusal = ended.and_then(|ended| late_failure(&ended.how, ended.upstream_spoke, tls));
        (came_to, refusal)
    }
}

impl Leg for DuplexStream {
    fn unsent(&self) -> Option<usize> {
        None
    }

    fn reset_on_close(&self) {
        // Dropped, it ends the conversation; there is nobody who could take that for an orderly end.
    }
}
