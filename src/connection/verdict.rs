//! verdict: what the end of a relay means, for the client's record and for the endpoint's breaker.

use crate::establish::{JudgedBy, Target};
use crate::failure::{BreakerClass, Failure, Outcome, Reason, Side, Stage};
use crate::relay::{Ended, How, Objection, OnTruncation, Party, Remark};
use crate::tls::{self, ClientTls};

/// What the end of a relay means: for the client's record, and for the endpoint's breaker.
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) failure: Option<Failure>,
    pub(super) class: Option<BreakerClass>,
    pub(super) closed_by: Option<Side>,
}

/// Judges the end of a relay. `early`: it began within `breaker.early_close` of the handshake. `tls`: as the server is
/// reached.
pub(super) fn judge(
    ended: &Ended,
    early: bool,
    on_truncation: OnTruncation,
    tls: Option<&ClientTls>,
) -> Verdict {
    let closed_by = ended.closed_by.map(side);
    let silent = !ended.upstream_spoke;
    let slammed = silent && early && ended.closed_by == Some(Party::Upstream);
    let upstream = |reason, detail: &str| Failure::upstream(Stage::Relay, reason, detail);
    let by_failure = |mut failure: Failure| {
        if ended.greeting {
            failure.stage = Stage::Greet;
        }
        let outcome = match failure.reason {
            Reason::LifetimeReached | Reason::Draining => Outcome::Cancelled,
            // The operator knows that this server ends so: it is told, and is no trouble.
            Reason::Truncated if on_truncation == OnTruncation::Close => Outcome::Success,
            _ => Outcome::Failed,
        };
        // After its first byte, or later than `early_close`, an end says nothing about the endpoint's ability to serve.
        // A certificate that is refused is refused to all.
        let tells = |class: &BreakerClass| (silent && early) || *class == BreakerClass::CertificateRefused;
        let class = failure.breaker_class().filter(tells);
        Verdict { outcome, failure: Some(failure), class, closed_by }
    };
    // What the server said of it says more than how it then left; of an end by anybody else it says nothing.
    let server_left = matches!(ended.how, How::Closed | How::Truncated | How::UpstreamReset);
    if server_left && let Some(Remark { of: Party::Upstream, detail, mend }) = &ended.remark {
        return by_failure(upstream(Reason::NegotiationRefused, detail).mend(*mend));
    }
    // TLS 1.3 refuses a client's certificate after the handshake: what looks like a broken connection may be that.
    // Without an alert, only where the server broke it early: one that nobody used for an hour breaks for other reasons.
    // And some (nginx) hang up in all order.
    let how = if slammed && ended.how == How::Closed { &How::Truncated } else { &ended.how };
    if (slammed || matches!(how, How::TlsAlert(_) | How::TlsError(_)))
        && let Some(late) = tls.and_then(|tls| tls::late_failure(how, ended.upstream_spoke, tls))
    {
        return by_failure(late);
    }
    let failure = match &ended.how {
        How::Closed if slammed => upstream(Reason::EarlyClose, "the server closed before it sent a byte"),
        How::UpstreamReset if slammed => {
            upstream(Reason::EarlyClose, "the server reset the connection before it sent a byte")
        }
        How::Truncated if slammed => {
            upstream(Reason::EarlyClose, "the server dropped the connection before it sent a byte")
        }
        How::Closed if ended.refusable => {
            upstream(Reason::EarlyClose, "the server closed while the client awaited its answer")
        }
        How::Closed => {
            let (outcome, failure) = match &ended.remark {
                None => (Outcome::Success, None),
                Some(Remark { detail, mend, .. }) => {
                    let failure =
                        Failure::new(Stage::Greet, Reason::BadPreface, Side::Client, detail.as_ref());
                    (Outcome::Cancelled, Some(failure.mend(*mend)))
                }
            };
            return Verdict { outcome, failure, class: None, closed_by };
        }
        How::UpstreamReset => upstream(Reason::UpstreamReset, "the server reset the connection"),
        How::Truncated => upstream(
            Reason::Truncated,
            "the server ended the connection without saying that it was done (TLS close_notify): the last bytes may be missing",
        ),
        How::TlsAlert(_) | How::TlsError(_) => upstream(Reason::TlsProtocolError, "TLS failed"),
        How::ClientReset => {
            Failure::new(Stage::Relay, Reason::ClientReset, Side::Client, "the client reset the connection")
        }
        How::Vanished(party) => {
            let (side, who) = match party {
                Party::Client => (Side::Client, "client"),
                _ => (Side::Upstream, "server"),
            };
            let detail = format!(
                "the {who}'s host no longer answers, or took no data for tcp.user_timeout: TCP gave it up"
            );
            Failure::new(Stage::Relay, Reason::PeerVanished, side, detail)
        }
        How::Io { party, error } => {
            let (reason, side) = match party {
                Party::Client => (Reason::ClientReset, Side::Client),
                Party::Upstream => (Reason::UpstreamReset, Side::Upstream),
                Party::Ambassador => (Reason::ProxyInternalError, Side::Ambassador),
            };
            Failure::new(Stage::Relay, reason, side, error.as_str())
        }
        How::IdleTimeout => {
            ours(Reason::IdleTimeout, "no byte came from either side for as long as timeouts.idle allows")
        }
        How::HalfCloseTimeout => {
            let side = if ended.closed_by == Some(Party::Client) { Side::Upstream } else { Side::Client };
            let detail =
                "one side had closed, and the other sent nothing for as long as timeouts.half_close allows";
            Failure::new(Stage::Relay, Reason::HalfCloseTimeout, side, detail)
        }
        How::LifetimeReached => ours(Reason::LifetimeReached, "it was older than timeouts.lifetime allows"),
        How::Objected(Objection { to, detail, mend }) => match to {
            Party::Upstream => upstream(Reason::NegotiationError, detail),
            Party::Client => Failure::new(Stage::Greet, Reason::BadPreface, Side::Client, *detail),
            Party::Ambassador => ours(Reason::ProxyInternalError, detail),
        }
        .mend(*mend),
        How::TlsNotAskedFor => {
            let detail = "the client did not ask for TLS within the listener's preface_timeout, and this listener serves \
                          nobody without";
            Failure::new(Stage::Greet, Reason::PrefaceTimeout, Side::Client, detail).mend(
                "let the client ask for TLS (STARTTLS, STLS), or write tls = \"optional\" in its listener",
            )
        }
        How::Stopped => {
            ours(Reason::Draining, "nuncio is stopping, and the time for open connections was over")
        }
    };
    by_failure(failure)
}

/// It had to end with its endpoint, and nothing else.
pub(super) fn of_its_endpoint(endpoint: &str) -> Failure {
    let detail = format!(
        "{endpoint} went down or left the set, and connections to it end then (health.close_when_down, leave_timeout)"
    );
    Failure::upstream(Stage::Relay, Reason::DestinationUnavailable, detail)
        .mend("connect anew: the endpoints that are left serve")
}

/// What the end of a relay counts against the endpoint as.
pub(super) fn class(verdict: &Verdict, ended: &Ended, by: &JudgedBy) -> Option<BreakerClass> {
    if ended.overloaded {
        return Some(BreakerClass::Overloaded);
    }
    let server_left = matches!(ended.how, How::Closed | How::Truncated | How::UpstreamReset)
        && ended.closed_by == Some(Party::Upstream);
    let said_nothing =
        server_left && !ended.upstream_spoke && by.zero_byte.is_some_and(|most| ended.closed_after <= most);
    verdict.class.or(said_nothing.then_some(BreakerClass::ZeroByte))
}

fn ours(reason: Reason, detail: &str) -> Failure {
    Failure::new(Stage::Relay, reason, Side::Ambassador, detail)
}

fn side(party: Party) -> Side {
    match party {
        Party::Client => Side::Client,
        Party::Upstream => Side::Upstream,
        Party::Ambassador => Side::Ambassador,
    }
}

/// The end of a request to cancel. Its server answers by hanging up, as it likes: the endpoint is not judged by it.
pub(super) fn of_cancelling(ended: &Ended, target: &Target) -> Verdict {
    match ended.how {
        How::Closed | How::Truncated | How::UpstreamReset => {
            let closed_by = ended.closed_by.map(side);
            Verdict { outcome: Outcome::Success, failure: None, class: None, closed_by }
        }
        _ => {
            Verdict { class: None, ..judge(ended, false, target.relay.on_truncation, target.tls.as_deref()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As a relay ended that nothing is remarkable about.
    fn ended(how: How, by: Party, after: u64, spoke: bool) -> Ended {
        Ended {
            how,
            closed_by: Some(by),
            closed_after: Duration::from_millis(after),
            upstream_spoke: spoke,
            greeting: false,
            refusable: false,
            unanswered: Vec::new(),
            remark: None,
            overloaded: false,
        }
    }

    /// Whoever sits before a server that is not there may end its clients' sessions late and in order.
    #[test]
    fn a_server_that_leaves_without_a_byte_counts_within_the_time_that_is_set() {
        use BreakerClass::{EarlyClose, ZeroByte};
        use Party::{Client, Upstream};
        let by = JudgedBy {
            early_close: Duration::from_secs(1),
            zero_byte: Some(Duration::from_secs(9)),
            slow_first_byte: None,
        };
        for (how, party, after, spoke, expected) in [
            (How::Closed, Upstream, 900, false, Some(EarlyClose)),
            (How::Closed, Upstream, 1_100, false, Some(ZeroByte)),
            (How::Truncated, Upstream, 8_000, false, Some(ZeroByte)),
            (How::UpstreamReset, Upstream, 8_000, false, Some(ZeroByte)),
            (How::Closed, Upstream, 9_001, false, None),
            (How::Closed, Upstream, 8_000, true, None),
            (How::Closed, Client, 8_000, false, None),
            (How::ClientReset, Client, 8_000, false, None),
        ] {
            let ended = ended(how, party, after, spoke);
            let early = ended.closed_after <= by.early_close;
            let verdict = judge(&ended, early, OnTruncation::Reset, None);
            assert_eq!(class(&verdict, &ended, &by), expected, "{ended:?}");
            let off = JudgedBy { zero_byte: None, ..by };
            let still = expected.filter(|class| *class != ZeroByte);
            assert_eq!(class(&verdict, &ended, &off), still, "{ended:?}");
        }
    }

    /// However it ended, and although it spoke: a client may leave as soon as it has been told.
    #[test]
    fn a_server_that_says_it_is_full_counts_as_that() {
        use Party::{Client, Upstream};
        for (how, by) in [(How::Closed, Upstream), (How::Closed, Client), (How::ClientReset, Client)] {
            let ended = Ended { overloaded: true, ..ended(how, by, 5_000, true) };
            let verdict = judge(&ended, false, OnTruncation::Reset, None);
            assert_eq!(class(&verdict, &ended, &JudgedBy::default()), Some(BreakerClass::Overloaded));
        }
    }

    /// A server that said no to EHLO is the reason of the end that it then makes, and of none that others make: the client
    /// may stay, and be there yet when its time is over or nuncio stops.
    #[test]
    fn what_the_server_said_explains_only_its_own_leaving() {
        use Party::{Ambassador, Client, Upstream};
        for (how, by, reason) in [
            (How::Closed, Upstream, Reason::NegotiationRefused),
            (How::Truncated, Upstream, Reason::NegotiationRefused),
            (How::UpstreamReset, Upstream, Reason::NegotiationRefused),
            (How::ClientReset, Client, Reason::ClientReset),
            (How::Vanished(Client), Client, Reason::PeerVanished),
            (How::IdleTimeout, Ambassador, Reason::IdleTimeout),
            (How::LifetimeReached, Ambassador, Reason::LifetimeReached),
            (How::Stopped, Ambassador, Reason::Draining),
        ] {
            let remark = Remark { of: Upstream, detail: "it said no: 421".into(), mend: "ask it" };
            let ended =
                Ended { greeting: true, refusable: true, remark: Some(remark), ..ended(how, by, 0, true) };
            let verdict = judge(&ended, true, OnTruncation::Reset, None);
            let failure = verdict.failure.unwrap();
            assert_eq!(failure.reason, reason, "{:?}", ended.how);
            assert_eq!(failure.detail.contains("421"), by == Upstream, "{:?}", ended.how);
        }
    }
}
