//! stock: what is kept ready at each endpoint, and which of them is dialled next. Pure: time is passed in, and so is what is
//! kept, whose life the caller knows.
//!
//! The rules:
//! 1. What is ready or being dialled counts as open: it stays within what the limits leave beside the clients' own. A client
//!    comes before all that is kept, so what no longer fits beside it is given up at once.
//! 2. [`AT_ONCE`] are dialled at a time, half of them at most at one endpoint: one, until that has worked once. Those that
//!    failed the last time share a half, one each. And a dial that has taken [`LATE`] keeps nobody else waiting: it is most
//!    likely to come to nothing, and costs next to nothing until then.
//! 3. An endpoint that fails is left alone for a while, longer each time, and so is one that hangs up on what waits.
//!
//! What an event costs goes by the endpoint that it is about, not by how many there are: only [`Stock::survey`] looks at all.

mod shelf;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use self::shelf::{Dialling, Shelf};
use super::{PoolView, Settings};
use crate::upstream::EndpointId;

/// So many are dialled at a time: a burst of clients is no reason for a burst of handshakes beside theirs.
pub const AT_ONCE: usize = 8;
/// At one endpoint, and at all that are in doubt: that failed the last time.
const HALF: usize = AT_ONCE / 2;
/// After this time a dial does not count as one of them any more.
const LATE: Duration = Duration::from_secs(1);

/// What has become of something that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It can be handed out.
    Ready,
    /// Its time is over.
    Aged,
    /// Its server has ended it.
    Dead,
}

/// An endpoint that may be used, and how many it may have beside the clients' connections.
pub type Member = (EndpointId, u32);

/// Something that has to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Where.
    pub endpoint: EndpointId,
    number: u64,
}

/// What is kept: `T` when it is ready, `D` while it is being dialled, which is dropped to give that up.
#[derive(Debug)]
pub struct Stock<T, D> {
    settings: Settings,
    shelves: HashMap<EndpointId, Shelf<T, D>>,
    /// Endpoints that lack some and may be dialled; those in doubt have a line of their own.
    line: VecDeque<EndpointId>,
    doubtful: VecDeque<EndpointId>,
    ready: usize,
    dialling: usize,
    /// Of those, that are not late.
    busy: usize,
    /// Of those, at endpoints in doubt.
    in_doubt: usize,
    dials: u64,
    given: u64,
    missed: u64,
}

impl<T, D> Stock<T, D> {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Self {
        Stock {
            settings,
            shelves: HashMap::new(),
            line: VecDeque::new(),
            doubtful: VecDeque::new(),
            ready: 0,
            dialling: 0,
            busy: 0,
            in_doubt: 0,
            dials: 0,
            given: 0,
            missed: 0,
        }
    }

    /// Ready, and being dialled.
    pub fn count(&self) -> usize {
        self.ready + self.dialling
    }

    /// How many there are.
    pub fn view(&self) -> PoolView {
        let Stock { ready, dialling, given, missed, .. } = *self;
        PoolView { ready, dialling, given_total: given, missed_total: missed }
    }

    /// Looks at everything: these are the members that may be used, and all of them together may have `most`. What has to be
    /// closed: too old, dead, more than is wanted or fits, or of an endpoint that may not be used.
    pub fn survey(
        &mut self,
        members: &[Member],
        most: usize,
        now: Instant,
        life: impl Fn(&T) -> Life,
    ) -> Vec<T> {
        let mut over = Vec::new();
        let known: HashSet<_> = members.iter().map(|(id, _)| *id).collect();
        let gone: Vec<_> = self.shelves.keys().copied().filter(|id| !known.contains(id)).collect();
        for id in &gone {
            self.shrink(*id, 0, &mut over);
            self.shelves.remove(id);
        }
        if !gone.is_empty() {
            self.line.retain(|id| known.contains(id));
            self.doubtful.retain(|id| known.contains(id));
        }
        for &(id, room) in members {
            let shelf = self.shelves.entry(id).or_default();
            let wanted = shelf.demand.wanted(&self.settings, now).min(room) as usize;
            for dialling in shelf.dialling.iter_mut().filter(|one| !one.is_late && one.since + LATE <= now) {
                dialling.is_late = true;
                self.busy -= 1;
                self.in_doubt -= usize::from(dialling.in_doubt);
            }
            let (mut aged, mut dead) = (false, false);
            for _ in 0..shelf.ready.len() {
                let Some(kept) = shelf.ready.pop_front() else { break };
                match life(&kept) {
                    Life::Ready => {
                        shelf.ready.push_back(kept);
                        continue;
                    }
                    Life::Aged => aged = true,
                    Life::Dead => dead = true,
                }
                self.ready -= 1;
                over.push(kept);
            }
            while shelf.ready.len() > wanted {
                self.ready -= 1;
                over.extend(shelf.ready.pop_front());
            }
            if aged {
                shelf.was_of_use();
            }
            if dead {
                // Whoever hangs up on those that wait does not want to be dialled at once.
                shelf.failed(now);
            }
            self.shrink(id, room as usize, &mut over);
            self.enter(id, room, now);
        }
        self.shrink_all(most, &mut over);
        over
    }

    /// A client is sent to this endpoint, and counted there: beside it, the endpoint has `room` for so many, and all of them
    /// together for `most`. The oldest that is ready there: it would be in vain soonest. And what has to be closed.
    pub fn take(
        &mut self,
        (id, room): Member,
        most: usize,
        now: Instant,
        life: impl Fn(&T) -> Life,
    ) -> (Option<T>, Vec<T>) {
        let mut over = Vec::new();
        let shelf = self.shelves.entry(id).or_default();
        shelf.demand.asked(now);
        let mut found = None;
        while let Some(kept) = shelf.ready.pop_front() {
            self.ready -= 1;
            if life(&kept) == Life::Ready {
                shelf.was_of_use();
                found = Some(kept);
                break;
            }
            over.push(kept);
        }
        match found {
            Some(_) => self.given += 1,
            None => self.missed += 1,
        }
        self.shrink(id, room as usize, &mut over);
        self.shrink_all(most, &mut over);
        self.enter(id, room, now);
        (found, over)
    }

    /// Who is dialled next, if anybody may be: `room` says what a member that may be used has beside the clients' connections,
    /// `most` what all have together.
    pub fn next(
        &mut self,
        most: usize,
        now: Instant,
        mut room: impl FnMut(EndpointId) -> Option<u32>,
        given_up_with: D,
    ) -> Option<Dial> {
        loop {
            if self.busy >= AT_ONCE || self.count() >= most {
                return None;
            }
            let doubtful = if self.in_doubt < HALF { self.doubtful.pop_front() } else { None };
            let id = doubtful.or_else(|| self.line.pop_front())?;
            let Some(shelf) = self.shelves.get_mut(&id) else { continue };
            shelf.is_in_line = false;
            // Much may have changed since it stood in line.
            let Some(room) = room(id) else { continue };
            let in_doubt = shelf.is_in_doubt();
            if !shelf.lacks(&self.settings, room, now) {
                continue;
            }
            if in_doubt && self.in_doubt >= HALF {
                self.enter(id, room, now);
                continue;
            }
            self.dials += 1;
            let number = self.dials;
            let _given_up_with_this = given_up_with;
            shelf.dialling.push(Dialling {
                number,
                since: now,
                is_late: false,
                in_doubt,
                _given_up_with_this,
            });
            self.dialling += 1;
            self.busy += 1;
            self.in_doubt += usize::from(in_doubt);
            self.enter(id, room, now);
            return Some(Dial { endpoint: id, number });
        }
    }

    /// What a dial came to; `None`: nothing. Given back, it is not wanted any more.
    pub fn came(&mut self, dial: Dial, came_to: Option<T>, room: Option<u32>, now: Instant) -> Option<T> {
        let Some(shelf) = self.shelves.get_mut(&dial.endpoint) else { return came_to };
        let Some(place) = shelf.dialling.iter().position(|one| one.number == dial.number) else {
            return came_to;
        };
        let over = shelf.dialling.remove(place);
        match came_to {
            Some(ready) => {
                (shelf.is_proven, shelf.until) = (true, None);
                shelf.ready.push_back(ready);
                self.ready += 1;
            }
            None => shelf.failed(now),
        }
        self.dialling -= 1;
        self.busy -= usize::from(!over.is_late);
        self.in_doubt -= usize::from(!over.is_late && over.in_doubt);
        if let Some(room) = room {
            self.enter(dial.endpoint, room, now);
        }
        None
    }

    /// Everything that is ready; what is being dialled is given up.
    pub fn clear(&mut self) -> Vec<T> {
        let ready = self.shelves.drain().flat_map(|(_, shelf)| shelf.ready).collect();
        (self.ready, self.dialling, self.busy, self.in_doubt) = (0, 0, 0, 0);
        self.line.clear();
        self.doubtful.clear();
        ready
    }

    /// Puts an endpoint in line, if it lacks some, may be dialled and is not there yet.
    fn enter(&mut self, id: EndpointId, room: u32, now: Instant) {
        let Some(shelf) = self.shelves.get_mut(&id) else { return };
        if !shelf.is_in_line && shelf.lacks(&self.settings, room, now) {
            shelf.is_in_line = true;
            if shelf.is_in_doubt() { &mut self.doubtful } else { &mut self.line }.push_back(id);
        }
    }

    /// An endpoint keeps so many at most. First goes what is not ready yet, then what would be in vain soonest.
    fn shrink(&mut self, id: EndpointId, most: usize, over: &mut Vec<T>) {
        let Some(shelf) = self.shelves.get_mut(&id) else { return };
        while shelf.count() > most {
            if let Some(given_up) = shelf.dialling.pop() {
                self.dialling -= 1;
                self.busy -= usize::from(!given_up.is_late);
                self.in_doubt -= usize::from(!given_up.is_late && given_up.in_doubt);
            } else if let Some(oldest) = shelf.ready.pop_front() {
                self.ready -= 1;
                over.push(oldest);
            }
        }
    }

    /// All keep so many together. Who has most gives first.
    fn shrink_all(&mut self, most: usize, over: &mut Vec<T>) {
        while self.count() > most {
            let highest = self.shelves.values().map(Shelf::count).max().unwrap_or_default();
            let fullest = self.shelves.iter().filter(|(_, shelf)| shelf.count() == highest);
            let ids: Vec<_> = fullest.map(|(id, _)| *id).take(self.count() - most).collect();
            for id in ids {
                self.shrink(id, highest.saturating_sub(1), over);
            }
        }
    }
}

#[cfg(test)]
mod tests;
