//! What is in force, which the rules need not be: an operator may hold a circuit open or closed, and in shadow mode nothing
//! of what the rules come to is enforced. The rules go on beneath, and are told of as what they are.

use std::time::Instant;

use super::{Breaker, State, Transition};

/// How an operator holds a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nobody may pass, also not in a panic.
    Open,
    /// Everybody may.
    Closed,
}

impl Hold {
    /// The word in the API.
    pub fn label(self) -> &'static str {
        match self {
            Hold::Open => "open",
            Hold::Closed => "closed",
        }
    }
}

/// Whether a change of state came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It did.
    Enforced,
    /// The rules came to it, and something else is in force: shadow mode, or an operator's word.
    Shadow,
}

impl Mode {
    /// The word in labels.
    pub fn label(self) -> &'static str {
        match self {
            Mode::Enforced => "enforced",
            Mode::Shadow => "shadow",
        }
    }
}

impl Breaker {
    /// What is in force at `now`.
    pub fn state(&self, now: Instant) -> State {
        match self.in_place_of_rules() {
            Some(state) => state,
            None => self.detected(now),
        }
    }

    /// May a connection pass at `now`? When half-open: is a trial free?
    pub fn admits(&self, now: Instant) -> bool {
        match self.in_place_of_rules() {
            Some(state) => state == State::Closed,
            None => self.has_room(now),
        }
    }

    /// How an operator holds it.
    pub fn held(&self) -> Option<Hold> {
        self.held
    }

    /// Whether what the rules come to is in force.
    pub fn mode(&self) -> Mode {
        match self.in_place_of_rules() {
            Some(_) => Mode::Shadow,
            None => Mode::Enforced,
        }
    }

    /// An operator holds it so, or leaves it to its rules again.
    pub(in crate::upstream) fn hold(&mut self, hold: Option<Hold>, now: Instant) -> Option<Transition> {
        let before = self.state(now);
        self.held = hold;
        let why = match hold {
            Some(Hold::Open) => "an operator holds it open",
            Some(Hold::Closed) => "an operator holds it closed",
            None => "an operator left it to its rules again",
        };
        self.in_force_since(before, why, now)
    }

    /// What is in force changed without the rules coming to something else.
    pub(super) fn in_force_since(&self, before: State, why: &str, now: Instant) -> Option<Transition> {
        let to = self.state(now);
        (to != before).then(|| Transition { to, why: why.into(), mode: Mode::Enforced })
    }

    fn in_place_of_rules(&self) -> Option<State> {
        match self.held {
            Some(Hold::Open) => Some(State::Open),
            Some(Hold::Closed) => Some(State::Closed),
            None => self.settings.shadow.then_some(State::Closed),
        }
    }
}
