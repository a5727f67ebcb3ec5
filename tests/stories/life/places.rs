//! The admin's places: clients that take them and do nothing lock nobody out.

use std::time::{Duration, Instant};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::hangers_on::HangerOn;
use super::super::harness::http;
use super::{World, listener};

/// More clients than there are places hang on, each in its own way: whoever has something to ask is answered all the same, long
/// before those are cut for their silence (ten seconds).
#[test]
fn who_asks_is_answered_while_all_places_are_held() {
    let world = World::new();
    for kind in HangerOn::ALL {
        let nuncio = Ambassador::start(&(world.up() + &listener("in", "")));
        let admin = nuncio.admin();
        let held: Vec<_> = (0..64).map(|_| kind.hang_on(admin)).collect();
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(http::get(admin, "/healthz").unwrap().body, "ok\n", "{kind:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{kind:?}: {:?}", begun.elapsed());
        }
        drop(held);
    }
}
