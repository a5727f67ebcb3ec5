//! A primary and its standby: which of them is the primary only Patroni can tell, and it changes under load.

use std::time::{Duration, Instant};

use super::super::harness::ambassador::Ambassador;
use super::super::harness::patroni::Patroni;
use super::super::harness::postgres::{Postgres, Release, Stop};
use super::super::harness::{PATIENCE, Pki, eventually, sql};
use super::{behind, through};

/// The primary crashes under pgbench, the standby is promoted: clients that connect again write again within seconds. Until
/// then each is told why not, at once; none is let through to a server that only reads.
#[test]
#[ignore = "needs postgresql-15: tests/run installs it"]
fn clients_that_connect_again_find_the_new_primary() {
    let pki = Pki::generate();
    let mut primary = Postgres::start(&pki);
    let standby = Postgres::standby_of(&primary, &pki);
    let servers = [primary.address(), standby.address()];
    let patroni = Patroni::of_all([(servers[0], primary.admin()), (servers[1], standby.admin())]);
    let rest = format!(
        "[upstream.up.health]\nkind = \"http\"\nurl = \"http://{}/primary?{{host}}:{{port}}\"\n\
         interval = \"500ms\"\nrise = 1\nfall = 2\n",
        patroni.address()
    );
    let nuncio = Ambassador::start(&behind(&pki, &servers, &rest));
    let up = |at: usize| nuncio.metric("nuncio_endpoint_up", &[("endpoint", &servers[at].to_string())]);
    eventually("the primary alone is up", PATIENCE, || (up(0) == 1.0 && up(1) == 0.0).then_some(()));
    let conninfo = through(&nuncio);
    sql::pgbench(Release::Debian, &conninfo, &["-i", "-q"]).finish(sql::LIMIT).answer();
    let load = sql::pgbench(Release::Debian, &conninfo, &["-n", "-c", "8", "-T", "120"]);
    let begun = "select count(distinct tid) > 8 from pgbench_history";
    eventually("pgbench is at it", sql::LIMIT, || (primary.admin().sql(begun) == "t").then_some(()));

    let crash = Instant::now();
    primary.stop(Stop::Immediate);
    let ran = load.finish(sql::LIMIT);
    assert!(ran.refusal().contains("Run was aborted"), "{ran:#?}");
    let cut = crash.elapsed();
    let mut refusals = Vec::new();
    let write = |refusals: &mut Vec<(Duration, String)>| {
        let begun = Instant::now();
        let ran = sql::psql(Release::Debian, &conninfo, "insert into pgbench_history(tid) values (4711)");
        if !ran.status.success() {
            refusals.push((begun.elapsed(), ran.stderr.clone()));
        }
        ran.status.success()
    };
    for _ in 0..3 {
        assert!(!write(&mut refusals), "there is no primary");
    }
    standby.promote();
    let promoted = crash.elapsed();
    eventually("a client writes again", Duration::from_secs(30), || write(&mut refusals).then_some(()));
    let written = crash.elapsed();
    println!(
        "after the crash: clients cut off in {cut:.1?}, the standby promoted in {promoted:.1?}, written again in \
         {written:.1?}, {:.1?} after the promotion; {} refusals, the slowest in {:.1?}",
        written - promoted,
        refusals.len(),
        refusals.iter().map(|(took, _)| *took).max().unwrap()
    );
    for (took, said) in &refusals {
        assert!(said.contains("FATAL:  nuncio: ") && !said.contains("read-only"), "{said}");
        assert!(*took < Duration::from_secs(5), "{took:?}: {said}");
    }
    let ran = sql::pgbench(Release::Debian, &conninfo, &["-n", "-c", "8", "-t", "20"]).finish(sql::LIMIT);
    assert!(ran.answer().contains("number of failed transactions: 0 "), "{ran:#?}");
    assert_eq!(standby.admin().sql("select count(*) from pgbench_history where tid = 4711"), "1");
}
