//! watch: a relay whose first words are looked at while they come, where `breaker.slow_first_byte` or `breaker.zero_byte`
//! is set. A session may last for hours: what its beginning says of the endpoint is told at once, not at its end.
//!
//! Owns the clock. Leaves what a word or a silence counts to the breaker. A request to cancel is not looked at.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Served;
use crate::drain;
use crate::failure::BreakerClass;
use crate::relay::{Ended, Flow};
use crate::upstream::Lease;

/// As [`Served::relay`]. In a box: those who are not watched do not pay for it.
pub(super) fn relay<'a>(
    served: &'a mut Served,
    drain: &'a drain::Watch,
    flow: &'a Flow,
) -> Pin<Box<dyn Future<Output = Ended> + Send + 'a>> {
    let limit = served.target.judged_by.slow_first_byte;
    Box::pin(async move {
        // Put back for the end; the relay has no use for it.
        let mut lease = served.lease.take();
        let ended = {
            let mut relay = pin!(served.relay(drain, flow));
            let mut first = FirstWords { flow, limit, sent: 0, asked: None, timer: None };
            let early = poll_fn(|cx| match relay.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending => match &mut lease {
                    Some((_, lease)) => first.look(cx, lease).map(|()| None),
                    None => Poll::Ready(None),
                },
            })
            .await;
            match early {
                Some(ended) => ended,
                None => relay.await,
            }
        };
        served.lease = lease;
        ended
    })
}

/// Up to the first answer.
struct FirstWords<'a> {
    flow: &'a Flow,
    /// How late it may come.
    limit: Option<Duration>,
    /// What the client had said when it was last looked.
    sent: u64,
    /// When it last said something.
    asked: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl FirstWords<'_> {
    /// After each wake of the relay. Ready: they have been said, or come too late.
    fn look(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<()> {
        let now = Instant::now();
        let Some(limit) = self.limit else {
            return match self.flow.first_byte() {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
            .map(|()| lease.answers(now.into_std()));
        };
        let late = |asked: Option<Instant>| asked.is_some_and(|asked| now >= asked + limit);
        if self.flow.has_answered() && !late(self.asked) {
            lease.answers(now.into_std());
            return Poll::Ready(());
        }
        let sent = self.flow.sent();
        if sent != self.sent && !self.flow.has_answered() {
            self.sent = sent;
            if self.asked.is_none() {
                lease.asks(now.into_std());
            }
            self.asked = Some(now);
            self.timer = Some(Box::pin(sleep_until(now + limit)));
        }
        let timer = self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx));
        timer.map(|()| lease.failed_meanwhile(now.into_std(), BreakerClass::Slow))
    }
}
