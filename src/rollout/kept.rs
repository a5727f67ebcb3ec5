//! How far a rollout is, over a reload with other settings and over a restart.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Phase, Progressive, Rollout, Settings, Share, Trial};

/// Where a rollout stands, to go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Who has which share.
    pub split: Vec<Share>,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: Phase,
    /// What there was to see of the canary.
    #[serde(flatten)]
    pub trial: Trial,
}

impl Rollout {
    /// Where it was before the process began; its step begins again.
    ///
    /// # Errors
    /// What is kept is that of another rollout.
    pub fn resume(settings: Settings, kept: Kept, now: Instant) -> Result<Rollout, String> {
        let mut rollout = Rollout::new(settings, now);
        let Kept { split, phase, trial: Trial { canary, canary_connections, canary_failed } } = kept;
        if !rollout.is_canary(&canary) || !same_upstreams(&rollout.shares, &split) {
            let names: Vec<_> = split.iter().map(|share| &*share.upstream).collect();
            return Err(format!("it is of a split of {} with the canary {canary}", names.join(" and ")));
        }
        let percent = split.iter().find(|share| share.upstream == canary).map_or(0, |share| share.weight);
        match &phase {
            Phase::ByHand => {
                let by_hand: Vec<_> =
                    split.iter().map(|share| (share.upstream.to_string(), share.weight)).collect();
                rollout.set(&by_hand)?;
            }
            Phase::RolledBack { .. } => rollout.give_canary(0),
            Phase::Done | Phase::Running { .. } => rollout.give_canary(percent.min(100)),
            Phase::Fixed => return Err("it is of a split without a rollout".to_owned()),
        }
        rollout.phase = phase;
        rollout.met = (canary_connections, canary_failed);
        rollout.find_step(now);
        Ok(rollout)
    }

    /// What [`resume`](Self::resume) needs; `None`: nothing moves by itself.
    pub fn kept(&self) -> Option<Kept> {
        Some(Kept { split: self.shares.clone(), phase: self.phase.clone(), trial: self.trial()? })
    }

    /// Whether it stays what it is with these settings, and how far it is: the same upstreams, and the same one on trial or the same
    /// weights.
    pub fn outlives(&self, settings: &Settings) -> bool {
        let canary = |settings: &Settings| settings.progressive.as_ref().map(|them| them.canary.clone());
        match (canary(settings), canary(&self.settings)) {
            (Some(one), Some(other)) => one == other && same_upstreams(&settings.shares, &self.shares),
            (None, None) => settings.shares == self.settings.shares,
            _ => false,
        }
    }

    /// Goes on with other settings, which it [outlives](Self::outlives): a canary's share stays as near as the new steps have it.
    pub fn reconfigure(&mut self, settings: Settings, now: Instant) {
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        self.find_step(now);
    }

    /// Begins once more, as the file has it.
    pub fn restart(&mut self, now: Instant) {
        *self = Rollout::new(self.settings.clone(), now);
    }

    /// The step that gives the canary what it has: the greatest that gives it no more, or the first.
    fn find_step(&mut self, now: Instant) {
        let Some(Progressive { canary, steps, .. }) = &self.settings.progressive else { return };
        let share = self.shares.iter().find(|share| share.upstream == *canary);
        let percent = share.map_or(0, |share| share.weight);
        let step = steps.iter().rposition(|step| *step <= percent).unwrap_or(0);
        let (is_same, is_last) = (steps.get(step) == Some(&percent), step + 1 == steps.len());
        match self.phase {
            Phase::Done if is_same && is_last => {}
            Phase::Running { .. } if is_same => self.phase = Phase::Running { step: step + 1 },
            Phase::Done | Phase::Running { .. } => self.begin_step(step + 1, now),
            Phase::Fixed | Phase::RolledBack { .. } | Phase::ByHand => {}
        }
    }
}

fn same_upstreams(one: &[Share], other: &[Share]) -> bool {
    let is_in = |share: &Share| other.iter().any(|known| known.upstream == share.upstream);
    one.len() == other.len() && one.iter().all(is_in)
}
