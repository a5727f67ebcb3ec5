//! Clients of PostgreSQL, each told where to connect in the words of libpq: `host=... port=... sslmode=...`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::eventually;
use super::postgres::{Postgres, Release};
use super::programs::{Ran, Running, run, tool};

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

/// A program on psycopg that cancels its own statement from another thread: what the statement came to.
#[track_caller]
pub fn psycopg_cancels(conninfo: &str) -> Ran {
    let mut command = Command::new(tool("python/bin/python"));
    command.args(["-I", "-c", include_str!("sql_cancel.py"), conninfo]);
    run(&mut command, LIMIT)
}

/// pg_basebackup: everything that the server has, over replication connections, into a new directory.
#[track_caller]
pub fn basebackup(release: Release, conninfo: &str, into: &Path) -> Ran {
    let mut command = Command::new(release.program("pg_basebackup"));
    command.args(["-d", conninfo, "-X", "stream", "--checkpoint=fast", "--no-sync", "-D"]).arg(into);
    run(&mut command, LIMIT)
}

/// A client, by the library that it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// psql of this Debian.
    Psql,
    /// psql of the newest PostgreSQL.
    NewestPsql,
    /// psycopg 3, on libpq.
    Psycopg,
    /// asyncpg, on nothing.
    Asyncpg,
    /// pg8000, on nothing.
    Pg8000,
    /// PostgreSQL's JDBC driver. It has no certificate of its own here.
    Jdbc,
}

impl Driver {
    /// Each of them.
    pub const ALL: [Driver; 6] =
        [Driver::Psql, Driver::NewestPsql, Driver::Psycopg, Driver::Asyncpg, Driver::Pg8000, Driver::Jdbc];

    /// Connects, asks, and prints the first column of the answer; `sslmode` is `disable`, `prefer` or `verify-full`.
    #[track_caller]
    pub fn ask(self, conninfo: &str, sql: &str) -> Ran {
        let python = |driver: &str| {
            let mut command = Command::new(tool("python/bin/python"));
            command.args(["-I", "-c", include_str!("sql_client.py"), driver, conninfo, sql]);
            command
        };
        let mut command = match self {
            Driver::Psql => psql_command(Release::Debian, conninfo, sql),
            Driver::NewestPsql => psql_command(Release::Newest, conninfo, sql),
            Driver::Psycopg => python("psycopg"),
            Driver::Asyncpg => python("asyncpg"),
            Driver::Pg8000 => python("pg8000"),
            Driver::Jdbc => {
                let mut command = Command::new("java");
                command.args(["-XX:TieredStopAtLevel=1", "-cp", "/usr/share/java/postgresql.jar"]);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/SqlClient.java"));
                command.args(["postgresql", conninfo, sql]);
                command
            }
        };
        run(&mut command, LIMIT)
    }
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
