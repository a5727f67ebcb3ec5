//! What is shown of a rollout.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Phase, Progressive, Rollout, Share};
use crate::addr::UpstreamName;

/// A rollout as it is now, for the API and the metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolloutView {
    /// Who has which share now.
    pub split: Vec<Share>,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// Where the weights move by themselves, or have.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// What the step waits for, while there is one.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// Of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Who is on trial.
    pub canary: UpstreamName,
    /// Connections that met it since it began.
    pub canary_connections: u64,
    /// Those of them that failed.
    pub canary_failed: u64,
}

/// Of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// How many steps there are.
    pub steps: usize,
    /// The canary's connections in this one.
    pub step_connections: u64,
    /// How many there must be before the next one.
    pub step_minimum: u32,
    /// How long it takes at least from now on.
    pub step_seconds_left: u64,
}

impl Rollout {
    pub(super) fn trial(&self) -> Option<Trial> {
        let canary = self.settings.progressive.as_ref()?.canary.clone();
        Some(Trial { canary, canary_connections: self.met.0, canary_failed: self.met.1 })
    }

    fn progress(&self, now: Instant) -> Option<Progress> {
        let Progressive { steps, pause, minimum, .. } = self.settings.progressive.as_ref()?;
        let Phase::Running { .. } = self.phase else { return None };
        let left = pause.saturating_sub(now.saturating_duration_since(self.since));
        Some(Progress {
            steps: steps.len(),
            step_connections: self.canary.connections,
            step_minimum: *minimum,
            step_seconds_left: left.as_millis().div_ceil(1000) as u64,
        })
    }

    /// As it is now.
    pub fn view(&self, now: Instant) -> RolloutView {
        RolloutView {
            split: self.shares.clone(),
            phase: self.phase.clone(),
            trial: self.trial(),
            progress: self.progress(now),
        }
    }
}
