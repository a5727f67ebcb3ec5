//! Clients of PostgreSQL, each told where to connect in the words of libpq: `host=... port=... sslmode=...`.

use std::process::Command;
use std::time::{Duration, Instant};

use super::eventually;
use super::postgres::{Postgres, Release};
use super::programs::{Ran, Running, run};

/// How long a client has for one question.
pub const LIMIT: Duration = Duration::from_secs(30);

/// psql: one row a line, columns separated by `|`.
#[track_caller]
pub fn psql(release: Release, conninfo: &str, sql: &str) -> Ran {
    run(&mut psql_command(release, conninfo, sql), LIMIT)
}

/// psql at a statement that takes a minute; returns when one of the servers is at it.
#[track_caller]
pub fn sleeping_psql(release: Release, conninfo: &str, servers: &[&Postgres]) -> Running {
    // The statement tells the server's log of itself: asking the server would take a connection, of which it may have few.
    let mark = format!("{:?}", Instant::now());
    let statement = format!("do $$begin raise log '{mark}'; perform pg_sleep(60); end$$");
    let mut psql = Running::start(&mut psql_command(release, conninfo, &statement), "");
    let begun = eventually("a server is at it, or psql gives up", LIMIT, || {
        let begun = servers.iter().any(|server| server.log().contains(&mark));
        (begun || !psql.is_running()).then_some(begun)
    });
    if begun { psql } else { panic!("{:#?}", psql.finish(LIMIT)) }
}

/// The same, interrupted as by ^C: what psql says then.
#[track_caller]
pub fn interrupted_psql(release: Release, conninfo: &str, servers: &[&Postgres]) -> Ran {
    let psql = sleeping_psql(release, conninfo, servers);
    psql.signal("INT");
    psql.finish(LIMIT)
}

fn psql_command(release: Release, conninfo: &str, sql: &str) -> Command {
    let mut command = Command::new(release.program("psql"));
    command.args(["-XAt", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-c", sql]);
    command
}

/// pgbench with these options; `-i` comes first, to make its tables.
#[track_caller]
pub fn pgbench(release: Release, conninfo: &str, options: &[&str]) -> Running {
    Running::start(Command::new(release.program("pgbench")).args(options).arg(conninfo), "")
}
