//! Servers that answer, refuse and are silent; limits that are close; and sets in which many things happen.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PLENTY: usize = usize::MAX;

fn id(number: u64) -> EndpointId {
    EndpointId(number)
}

fn settings(min: u32, max: u32) -> Settings {
    Settings { min, max, ..Settings::default() }
}

/// Of connections that are numbers, and always alive.
fn stock(min: u32, max: u32) -> Stock<u32, ()> {
    Stock::new(settings(min, max))
}

fn fine(_: &u32) -> Life {
    Life::Ready
}

fn anywhere(_: EndpointId) -> Option<u32> {
    Some(u32::MAX)
}

impl Stock<u32, ()> {
    /// All that may be dialled at a time.
    fn dials(&mut self, now: Instant) -> Vec<Dial> {
        std::iter::from_fn(|| self.next(PLENTY, now, anywhere, ())).collect()
    }

    fn ready_at(&self, number: u64) -> usize {
        self.shelves.get(&id(number)).map_or(0, |shelf| shelf.ready.len())
    }
}

fn members(numbers: std::ops::Range<u64>) -> Vec<Member> {
    numbers.map(|number| (id(number), u32::MAX)).collect()
}

/// Of an endpoint that nothing is known of one is dialled, and the others once that has worked.
#[test]
fn an_endpoint_is_dialled_once_and_then_more_at_a_time() {
    let (mut stock, now) = (stock(9, 9), Instant::now());
    stock.survey(&members(0..1), PLENTY, now, fine);
    let first = stock.dials(now);
    assert_eq!(first.len(), 1);
    assert_eq!(stock.came(first[0], Some(1), Some(9), now), None);
    assert_eq!(stock.dials(now).len(), HALF);
    assert_eq!((stock.view().ready, stock.view().dialling), (1, HALF));
}

/// Many endpoints never answer, and stand before those that do: these have all they want in hardly more time than it takes to
/// see which are silent, also while those are dialled again and again.
#[test]
fn those_that_never_answer_keep_nobody_else_waiting() {
    for (dark, within) in [(1, SECOND), (7, SECOND * 2), (100, SECOND * 20)] {
        let (mut stock, start) = (stock(10, 10), Instant::now());
        let all = members(0..dark + 3);
        let mut silent = VecDeque::new();
        // A dial takes a tenth of a second, or all of five.
        for tenth in 0..600 {
            let now = start + SECOND / 10 * tenth;
            if tenth % 5 == 0 {
                stock.survey(&all, PLENTY, now, fine);
            }
            while silent.front().is_some_and(|(until, _)| *until <= now) {
                let Some((_, dial)) = silent.pop_front() else { break };
                stock.came(dial, None, Some(u32::MAX), now);
            }
            for dial in stock.dials(now) {
                match dial.endpoint >= id(dark) {
                    true => drop(stock.came(dial, Some(1), Some(u32::MAX), now)),
                    false => silent.push_back((now + SECOND * 5, dial)),
                }
            }
            assert!(stock.dialling <= 6 * AT_ONCE, "{dark} dark: {}", stock.dialling);
            if now >= start + within {
                assert!(
                    (dark..dark + 3).all(|number| stock.ready_at(number) == 10),
                    "{dark} dark: {stock:?}"
                );
            }
        }
    }
}

/// They were all fine once; then most fall silent. What the others lack is still dialled while nothing comes of those.
#[test]
fn those_that_fall_silent_share_half_of_the_slots_once_that_is_known() {
    let (mut stock, mut now) = (stock(1, 8), Instant::now());
    let all = members(0..20);
    stock.survey(&all, PLENTY, now, fine);
    while let Some(dial) = stock.next(PLENTY, now, anywhere, ()) {
        stock.came(dial, Some(1), Some(u32::MAX), now);
    }
    assert_eq!(stock.count(), 20);
    // Clients take what there is; of the first 19 nothing more is to be had.
    for member in &all[..19] {
        stock.take(*member, PLENTY, now, fine);
    }
    for _ in 0..5 {
        for dial in stock.dials(now) {
            stock.came(dial, None, Some(u32::MAX), now);
        }
    }
    now += SECOND;
    stock.survey(&all, PLENTY, now, fine);
    assert_eq!(stock.dials(now).len(), HALF, "one each, of those that fail");
    for _ in 0..8 {
        stock.take(all[19], PLENTY, now, fine);
    }
    assert!(
        stock.dials(now).iter().all(|dial| dial.endpoint == id(19)),
        "the rest is for the one that answers"
    );
    assert_eq!(stock.dialling, AT_ONCE);
}

/// It is left alone for a second, two, four, up to a minute; also where it can be dialled, and then hangs up on what waits.
#[test]
fn who_fails_or_hangs_up_is_left_alone_longer_each_time() {
    for hangs_up in [false, true] {
        let (mut stock, mut now) = (stock(3, 3), Instant::now());
        let all = members(0..1);
        let mut pauses = Vec::new();
        let mut failed_at = None;
        while pauses.len() < 9 {
            stock.survey(&all, PLENTY, now, |_| if hangs_up { Life::Dead } else { Life::Ready });
            if hangs_up && stock.view().ready == 0 && failed_at.is_none() && stock.dials == 1 {
                failed_at = Some(now);
            }
            let dials = stock.dials(now);
            if let Some(dial) = dials.first() {
                assert_eq!(dials.len(), 1, "in doubt");
                pauses.extend(failed_at.map(|at: Instant| (now - at).as_secs()));
                stock.came(*dial, hangs_up.then_some(1), Some(u32::MAX), now);
                // What has come after it is of no matter here.
                let shelf = stock.shelves.get_mut(&id(0)).unwrap();
                shelf.is_in_line = false;
                stock.line.clear();
                failed_at = Some(now);
            }
            now += SECOND;
        }
        // Where it hangs up, that is noticed a second later.
        let late = u64::from(hangs_up);
        let wanted: Vec<_> = [1, 2, 4, 8, 16, 32, 60, 60, 60].map(|pause| pause + late).into();
        assert_eq!(pauses, wanted, "hangs up: {hangs_up}");
    }
}

/// Six may be open at an endpoint. Whatever clients take, they and what is kept are never more; and no client is in the way of
/// another that way, as what is kept goes first.
#[test]
fn clients_and_what_is_kept_are_within_the_limit_together() {
    let (mut stock, now) = (stock(4, 8), Instant::now());
    let mut open = 0;
    let mut given = 0;
    for client in 0..6 {
        let room = |_| Some(6 - open);
        stock.survey(&[(id(0), 6 - open)], PLENTY, now, fine);
        while let Some(dial) = stock.next(PLENTY, now, room, ()) {
            stock.came(dial, Some(client), Some(6 - open), now);
        }
        assert!(stock.count() as u32 + open <= 6);
        assert_eq!(stock.count() as u32, 4.min(6 - open));
        open += 1;
        let (found, over) = stock.take((id(0), 6 - open), PLENTY, now, fine);
        given += u32::from(found.is_some());
        assert!(over.is_empty(), "who takes one makes room for himself");
        assert!(stock.count() as u32 + open <= 6);
    }
    assert_eq!((given, stock.count()), (6, 0));
}

/// What is being dialled is given up for a client whose connection would be one too many, and what comes of it all the same
/// is not kept.
#[test]
fn a_client_comes_before_what_is_being_dialled() {
    let mut stock: Stock<u32, Rc<()>> = Stock::new(settings(1, 1));
    let now = Instant::now();
    let kept = Rc::new(());
    stock.survey(&[(id(0), 1)], PLENTY, now, fine);
    let dial = stock.next(PLENTY, now, |_| Some(1), kept.clone()).unwrap();
    assert_eq!(Rc::strong_count(&kept), 2);
    assert_eq!(stock.take((id(0), 0), PLENTY, now, fine), (None, vec![]));
    assert_eq!((Rc::strong_count(&kept), stock.count()), (1, 0), "it was given up");
    assert_eq!(stock.came(dial, Some(7), Some(0), now), Some(7));
    assert_eq!(stock.view().ready, 0);
}

/// A limit of all endpoints together: a client of one that has nothing ready takes the place of what is kept at another.
#[test]
fn a_client_comes_before_what_is_kept_for_others() {
    let (mut stock, now) = (stock(2, 2), Instant::now());
    stock.survey(&members(0..2), 4, now, fine);
    let mut number = 0;
    while let Some(dial) = stock.next(4, now, anywhere, ()) {
        number += 1;
        stock.came(dial, Some(number), Some(u32::MAX), now);
    }
    assert_eq!((stock.ready_at(0), stock.ready_at(1)), (2, 2));
    for left in [3, 2] {
        let (found, over) = stock.take((id(0), u32::MAX), left, now, fine);
        assert!(found.is_some() && over.is_empty());
    }
    let (found, over) = stock.take((id(0), u32::MAX), 1, now, fine);
    assert!(found.is_none());
    assert_eq!((over.len(), stock.ready_at(1)), (1, 1));
}

/// By seed: endpoints come, go, fill up and fail, clients come, limits change. What is counted is what there is; what may be
/// dialled at a time, and where, is never exceeded; nothing is lost, and nothing is kept twice.
#[test]
fn whatever_happens_the_rules_hold() {
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let settings = settings(rng.u32(0..4), rng.u32(4..7));
        let mut stock: Stock<u32, ()> = Stock::new(settings);
        let mut now = Instant::now();
        let (mut made, mut alive) = (0, BTreeSet::new());
        let mut under_way: Vec<Dial> = Vec::new();
        let mut rooms: HashMap<EndpointId, u32> = HashMap::new();
        for step in 0..300 {
            now += Duration::from_millis(rng.u64(0..700));
            let place = id(rng.u64(0..12));
            let most = rng.usize(0..40);
            let life = |kept: &u32| match kept % 17 {
                0 => Life::Aged,
                1 => Life::Dead,
                _ => Life::Ready,
            };
            let mut over = Vec::new();
            match rng.u32(0..10) {
                0 => drop(rooms.insert(place, rng.u32(0..8))),
                1 => drop(rooms.remove(&place)),
                2..4 => {
                    let members: Vec<_> = rooms.iter().map(|(id, room)| (*id, *room)).collect();
                    over = stock.survey(&members, most, now, life);
                    assert!(stock.count() <= most, "seed {seed}, step {step}");
                    for (id, room) in members {
                        let count = stock.shelves[&id].count();
                        assert!(count <= room as usize, "seed {seed}, step {step}");
                    }
                }
                4..6 => {
                    let room = rooms.get(&place).copied().unwrap_or_default();
                    let (found, rest) = stock.take((place, room), most, now, life);
                    over = rest;
                    over.extend(found);
                    assert!(stock.count() <= most && stock.shelves[&place].count() <= room as usize);
                }
                6..8 if !under_way.is_empty() => {
                    let dial = under_way.swap_remove(rng.usize(0..under_way.len()));
                    let came_to = rng.bool().then(|| {
                        made += 1;
                        alive.insert(made);
                        made
                    });
                    over.extend(stock.came(dial, came_to, rooms.get(&dial.endpoint).copied(), now));
                }
                _ => {
                    let dial = stock.next(most, now, |id| rooms.get(&id).copied(), ());
                    assert!(dial.is_none() || stock.count() <= most, "seed {seed}, step {step}");
                    under_way.extend(dial);
                }
            }
            for gone in over {
                assert!(alive.remove(&gone), "seed {seed}, step {step}: {gone} was given twice");
            }
            let kept: Vec<u32> = stock.shelves.values().flat_map(|shelf| shelf.ready.clone()).collect();
            assert_eq!(kept.iter().copied().collect::<BTreeSet<_>>(), alive, "seed {seed}, step {step}");
            assert_eq!(stock.ready, kept.len(), "seed {seed}, step {step}");
            let dialling = || stock.shelves.values().flat_map(|shelf| &shelf.dialling);
            assert_eq!(stock.dialling, dialling().count(), "seed {seed}, step {step}");
            assert_eq!(
                stock.in_doubt,
                dialling().filter(|one| one.in_doubt && !one.is_late).count(),
                "seed {seed}"
            );
            assert_eq!(stock.busy, dialling().filter(|one| !one.is_late).count(), "seed {seed}");
            assert!(stock.busy <= AT_ONCE && stock.in_doubt <= HALF, "seed {seed}, step {step}");
            for shelf in stock.shelves.values() {
                assert!(shelf.dialling.len() <= HALF, "seed {seed}, step {step}");
            }
            for line in [&stock.line, &stock.doubtful] {
                let once: BTreeSet<_> = line.iter().collect();
                assert_eq!(once.len(), line.len(), "seed {seed}, step {step}: twice in line");
            }
        }
        alive.extend([0]);
        assert_eq!(stock.clear().len() + 1, alive.len(), "seed {seed}");
        assert_eq!(stock.count(), 0);
    }
}

/// Twenty thousand endpoints, each filled and asked once: that is some ten thousand times as much work as one, and not that
/// squared, which would take minutes.
#[test]
fn what_an_event_costs_does_not_go_by_how_many_endpoints_there_are() {
    let (mut stock, now) = (stock(1, 2), Instant::now());
    let all = members(0..20_000);
    let begun = Instant::now();
    stock.survey(&all, PLENTY, now, fine);
    while let Some(dial) = stock.next(PLENTY, now, anywhere, ()) {
        stock.came(dial, Some(1), Some(u32::MAX), now);
    }
    assert_eq!(stock.count(), 20_000);
    for member in &all {
        assert!(stock.take(*member, PLENTY, now, fine).0.is_some());
        let dial = stock.next(PLENTY, now, anywhere, ()).unwrap();
        stock.came(dial, Some(1), Some(u32::MAX), now);
    }
    stock.survey(&all[..10_000], 10, now, fine);
    assert_eq!(stock.count(), 10);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
