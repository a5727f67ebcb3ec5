//! What an endpoint's health check says where it asks somebody (`kind = "http"`) or logs in (`user`): an endpoint may take
//! connections and be the wrong one, or let nobody in.

use std::time::Duration;

use serde::Serialize;

use crate::cli::rows::Rows;
use crate::establish::Target;
use crate::health::{Kind, Probe};
use crate::upstream::EndpointSpec;

/// Beside the verdict and not part of it: a replica has to fail a check for the primary, and is fine all the same.
#[derive(Serialize)]
pub(super) struct Health {
    /// What was asked.
    asked: String,
    passes: bool,
    /// Where it fails: what was seen.
    detail: Option<String>,
    next_step: Option<String>,
}

impl Health {
    /// As the checks of a running service do; `None`: they do not ask, and see no more than whoever dials.
    pub(super) async fn ask(target: &Target, spec: &EndpointSpec, limit: Duration) -> Option<Health> {
        let (asked, kind) = match (&target.http, &target.login) {
            (Some(http), _) => {
                let question = http.question(spec);
                let asked =
                    question.map_or_else(|failure| failure.to_string(), |question| question.to_string());
                (asked, Kind::Http)
            }
            (None, Some(login)) => (format!("logs in as '{}'", login.user), Kind::Protocol),
            (None, None) => return None,
        };
        let (detail, next_step) = match tokio::time::timeout(limit, target.check(spec, kind)).await {
            Ok(Ok(())) => (None, None),
            Ok(Err(failure)) => (Some(failure.detail.to_string()), Some(failure.next_step().to_owned())),
            Err(_) => (
                Some(format!("{asked}: not done within {}", humantime::format_duration(limit))),
                Some("is it slow, or does a firewall drop? Else raise health.timeout".to_owned()),
            ),
        };
        Some(Health { asked, passes: detail.is_none(), detail, next_step })
    }

    pub(super) fn tell(&self, rows: &mut Rows) {
        match &self.detail {
            None => rows.row("health", format!("passes: {}", self.asked)),
            Some(detail) => rows.row("health", format!("fails: {detail}")),
        }
        if let Some(next_step) = &self.next_step {
            rows.row("", next_step);
        }
    }
}
