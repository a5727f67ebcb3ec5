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
            let mut first = pin!(FirstWords { flow, limit, sent: 0, asked: None, timer: None });
            let early = poll_fn(|cx| match relay.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending => match &mut lease {
                    Some((_, lease)) => first.as_mut().look(cx, lease).map(|()| None),
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
    fn look(self: Pin<&mut Self>, cx: &mut Context<'_>, lease: &mut Lease) -> Poll<()> {
        let this = self.get_mut();
        let now = Instant::now();
        let Some(limit) = this.limit else {
            return match this.flow.first_byte() {
                Some(_) => Poll::Ready(lease.answers(now.into_std())),
                None => Poll::Pending,
            };
        };
        if this.flow.has_answered() {
            return Poll::Ready(match this.asked.is_some_and(|asked| now >= asked + limit) {
                true => lease.failed_meanwhile(now.into_std(), BreakerClass::Slow),
                false => lease.answers(now.into_std()),
            });
        }
        let sent = this.flow.sent();
        if sent != this.sent {
            this.sent = sent;
            if this.asked.is_none() {
                lease.asks(now.into_std());
            }
            this.asked = Some(now);
            this.timer = Some(Box::pin(sleep_until(now + limit)));
        }
        match &mut this.timer {
            Some(timer) => {
                timer.as_mut().poll(cx).map(|()| lease.failed_meanwhile(now.into_std(), BreakerClass::Slow))
            }
            None => Poll::Pending,
        }
    }
}
