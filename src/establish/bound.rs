//! bound: how long a connection may take to be established, by the file's word or by its client's own, and what is said when that
//! time is up.

use std::time::Duration;

use super::Target;
use crate::addr::EndpointAddr;
use crate::dial::header::Introduction;
use crate::failure::{Failure, Reason, Stage};

/// What a client wishes for its own connection, where that is less than the target allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Attempts, the first included.
    pub attempts: Option<u32>,
    /// The queue and all attempts together.
    pub deadline: Option<Duration>,
    /// This endpoint and no other.
    pub endpoint: Option<&'a EndpointAddr>,
    /// What the server is told of it, where it wants to know.
    pub introduction: Option<&'a Introduction>,
}

/// How long it may take to establish a connection, and by whose word.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) limit: Duration,
    set_by: &'static str,
}

impl Bound {
    pub(super) fn of(target: &Target, wish: Wish<'_>) -> Bound {
        match wish.deadline.filter(|deadline| *deadline < target.timeouts.establish) {
            Some(limit) => Bound { limit, set_by: "the client's own deadline" },
            None => Bound { limit: target.timeouts.establish, set_by: "timeouts.establish" },
        }
    }
}

pub(super) fn out_of_time(Bound { limit, set_by }: Bound, last: Option<Failure>) -> Failure {
    let limit = humantime::format_duration(limit);
    match last {
        Some(last) => Failure {
            reason: Reason::EstablishTimeout,
            detail: format!("not established within {limit} ({set_by}); last: {}", last.detail).into(),
            ..last
        },
        None => Failure::upstream(
            Stage::Connect,
            Reason::EstablishTimeout,
            format!("not established within {limit} ({set_by})"),
        ),
    }
}
