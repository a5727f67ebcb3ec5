//! The rounds and the table.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::load::{self, Direction};
use crate::measure::{cpu_seconds, pss_kib};
use crate::pki::Pki;
use crate::proxies::{self, Kind, Proxy};

/// How much of everything.
struct Size {
    rounds: usize,
    bulk_connections: usize,
    bulk_bytes: u64,
    short: usize,
    idle: usize,
    trips: Duration,
    crowd: usize,
    crowd_time: Duration,
}

const FULL: Size = Size {
    rounds: 7,
    bulk_connections: 4,
    bulk_bytes: 512 << 20,
    short: 2000,
    idle: 1000,
    trips: Duration::from_secs(1),
    crowd: 9000,
    crowd_time: Duration::from_secs(10),
};

const QUICK: Size = Size {
    rounds: 3,
    bulk_connections: 4,
    bulk_bytes: 128 << 20,
    short: 400,
    idle: 200,
    trips: Duration::from_millis(300),
    crowd: 1000,
    crowd_time: Duration::from_secs(2),
};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Up,
    Down,
    Short,
    Resumed,
    Trip,
    Trips,
    Idle,
    Used,
    Crowd,
}

impl Column {
    /// All of them, from left to right.
    const ALL: [Column; 9] = {
        use Column::*;
        [Up, Down, Short, Resumed, Trip, Trips, Idle, Used, Crowd]
    };

    fn title(self) -> &'static str {
        match self {
            Column::Up => "up s/GiB",
            Column::Down => "down s/GiB",
            Column::Short => "short µs",
            Column::Resumed => "resumed %",
            Column::Trip => "trip×1 µs",
            Column::Trips => "trip×32 µs",
            Column::Idle => "idle KiB",
            Column::Used => "used KiB",
            Column::Crowd => "crowd ms/s",
        }
    }

    /// Whose number the ratio is to; `None`: a ratio says nothing.
    fn against(self) -> Option<Kind> {
        match self {
            Column::Up | Column::Down => Some(Kind::Floor),
            Column::Short | Column::Trip | Column::Trips | Column::Idle | Column::Used => Some(Kind::Nginx),
            Column::Resumed | Column::Crowd => None,
        }
    }
}

/// One peer's samples, a list a column.
struct Row {
    kind: Kind,
    samples: [Vec<f64>; Column::ALL.len()],
}

impl Row {
    fn median(&self, column: Column) -> Option<f64> {
        let mut sorted = self.samples[column as usize].clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Runs everything and prints the table. Options: `--quick`, `--only NAME,NAME`.
pub fn run(options: &[&str]) -> Result<(), String> {
    let size = if options.contains(&"--quick") { QUICK } else { FULL };
    let only = options.iter().position(|it| *it == "--only").and_then(|at| options.get(at + 1));
    let wanted = |kind: &Kind| only.is_none_or(|names| names.split(',').any(|name| name == kind.name()));
    let pki = Pki::generate();
    let upstream = Upstream::start(&pki)?;

    let mut notes = Vec::new();
    let mut running = Vec::new();
    for kind in Kind::ALL.into_iter().filter(wanted) {
        match Proxy::start(kind, upstream.of(kind), &pki) {
            Ok(proxy) => running.push(proxy),
            Err(why) => notes.push(format!("{} is left out: {why}", kind.name())),
        }
    }
    let mut rows: Vec<Row> =
        running.iter().map(|proxy| Row { kind: proxy.kind, samples: Default::default() }).collect();
    let mut take = |row: &mut Row, column: Column, sample: Result<f64, String>| match sample {
        Ok(sample) => row.samples[column as usize].push(sample),
        Err(why) => notes.push(format!("{}, {}: {why}", row.kind.name(), column.title())),
    };

    for round in 0..size.rounds {
        eprintln!("round {} of {}", round + 1, size.rounds);
        let turns: Vec<usize> = (0..running.len()).map(|turn| (turn + round) % running.len()).collect();
        for (column, direction) in [(Column::Up, Direction::Up), (Column::Down, Direction::Down)] {
            for &turn in &turns {
                take(&mut rows[turn], column, bulk(&running[turn], direction, &size));
            }
        }
        for &turn in turns.iter().filter(|turn| running[**turn].kind.has_tls()) {
            let proxy = &running[turn];
            match short(proxy, &upstream, &size) {
                Ok((cost, resumed)) => {
                    take(&mut rows[turn], Column::Short, Ok(cost));
                    take(&mut rows[turn], Column::Resumed, Ok(resumed));
                }
                Err(why) => take(&mut rows[turn], Column::Short, Err(why)),
            }
        }
        for (column, connections) in [(Column::Trip, 1), (Column::Trips, 32)] {
            for &turn in &turns {
                take(
                    &mut rows[turn],
                    column,
                    load::round_trips(running[turn].address, connections, size.trips),
                );
            }
        }
        // A process of its own each time: what an earlier measurement left in the allocator is not of this one.
        for &turn in turns.iter().filter(|turn| running[**turn].kind.has_tls()) {
            let kind = running[turn].kind;
            match Proxy::start(kind, upstream.of(kind), &pki).and_then(|fresh| idle(&fresh, size.idle)) {
                Ok((fresh, used)) => {
                    take(&mut rows[turn], Column::Idle, Ok(fresh));
                    take(&mut rows[turn], Column::Used, Ok(used));
                }
                Err(why) => take(&mut rows[turn], Column::Idle, Err(why)),
            }
        }
    }
    for (proxy, row) in running.iter().zip(&mut rows).filter(|(proxy, _)| proxy.kind.has_tls()) {
        eprintln!("{} idle connections through {}", size.crowd, proxy.kind.name());
        take(row, Column::Crowd, crowd(proxy, &size));
    }

    print(&rows, &size);
    for note in notes {
        println!("{note}");
    }
    Ok(())
}

fn bulk(proxy: &Proxy, direction: Direction, size: &Size) -> Result<f64, String> {
    let before = cpu_seconds(proxy.pid());
    load::bulk(proxy.address, direction, size.bulk_connections, size.bulk_bytes)?;
    let gib = (size.bulk_connections as u64 * size.bulk_bytes) as f64 / f64::from(1 << 30);
    Ok((cpu_seconds(proxy.pid()) - before) / gib)
}

/// CPU µs of one connection, and the share of handshakes that were resumed.
fn short(proxy: &Proxy, upstream: &Upstream, size: &Size) -> Result<(f64, f64), String> {
    let before = (cpu_seconds(proxy.pid()), upstream.handshakes(proxy.kind)?);
    load::short_connections(proxy.address, size.short)?;
    // The proxies are still closing the last ones.
    std::thread::sleep(Duration::from_millis(100));
    let after = (cpu_seconds(proxy.pid()), upstream.handshakes(proxy.kind)?);
    let (full, resumed) = (after.1.0 - before.1.0, after.1.1 - before.1.1);
    let share = 100.0 * resumed as f64 / (full + resumed).max(1) as f64;
    Ok(((after.0 - before.0) * 1e6 / size.short as f64, share))
}

/// KiB of one more idle connection: just opened, and after 64 KiB each way. Not of the first ones, which also bring the
/// program's code and its tables into memory: that is no connection's cost.
fn idle(proxy: &Proxy, count: usize) -> Result<(f64, f64), String> {
    let mut first = load::idle(proxy.address, FIRST)?;
    first.iter_mut().try_for_each(|stream| load::echo(stream, 64 * 1024))?;
    let empty = pss_kib(proxy.pid());
    let mut streams = load::idle(proxy.address, count)?;
    let fresh = pss_kib(proxy.pid());
    streams.iter_mut().try_for_each(|stream| load::echo(stream, 64 * 1024))?;
    let used = pss_kib(proxy.pid());
    Ok(((fresh - empty) / count as f64, (used - empty) / count as f64))
}

/// Connections that are open before others are weighed.
const FIRST: usize = 100;

/// CPU ms a second while thousands of connections do nothing.
fn crowd(proxy: &Proxy, size: &Size) -> Result<f64, String> {
    let streams = load::idle(proxy.address, size.crowd)?;
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu_seconds(proxy.pid());
    std::thread::sleep(size.crowd_time);
    let used = cpu_seconds(proxy.pid()) - before;
    drop(streams);
    Ok(used * 1e3 / size.crowd_time.as_secs_f64())
}

/// Each peer's upstream is a port of its own: their sockets in TIME_WAIT are not in each other's way, and their
/// handshakes are counted apart.
struct Upstream {
    child: Child,
    plain: SocketAddr,
    tls: Vec<SocketAddr>,
}

impl Upstream {
    fn start(pki: &Pki) -> Result<Upstream, String> {
        let ourselves = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = proxies::pinned_to(proxies::LOAD_CPU, ourselves)
            .arg("upstream")
            .arg(pki.directory())
            .arg(Kind::ALL.len().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
        }
        let mut ports = line.split_whitespace().filter_map(|port| port.parse::<u16>().ok());
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let plain = ports.next().map(at).ok_or("the upstream did not start")?;
        Ok(Upstream { child, plain, tls: ports.map(at).collect() })
    }

    fn of(&self, kind: Kind) -> SocketAddr {
        if kind.has_tls() { self.tls[kind as usize] } else { self.plain }
    }

    fn handshakes(&self, kind: Kind) -> Result<(u64, u64), String> {
        load::handshakes(self.plain, kind as usize)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // An error: it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn print(rows: &[Row], size: &Size) {
    println!(
        "\nmedians of {} rounds; proxies on CPU {}, upstream and client on CPU {}; TLS 1.3, AES-256-GCM, X25519, mTLS",
        size.rounds,
        proxies::PROXY_CPU,
        proxies::LOAD_CPU
    );
    println!(
        "bulk: {} connections of {} MiB; idle: {} connections beside {FIRST} others, fresh and after 64 KiB each way; crowd: {} idle ones",
        size.bulk_connections,
        size.bulk_bytes >> 20,
        size.idle,
        size.crowd
    );
    let titles: String = Column::ALL.iter().map(|column| format!("{:>16}", column.title())).collect();
    println!("\n{:<8}{titles}", "");
    let of = |kind: Kind, column: Column| rows.iter().find(|row| row.kind == kind)?.median(column);
    for row in rows {
        let cell = |column: &Column| {
            let value = row.median(*column)?;
            let digits = if value < 10.0 { 3 } else { 1 };
            let other = column.against().and_then(|kind| of(kind, *column)).filter(|other| *other > 0.0);
            let ratio = other.map_or(String::new(), |other| format!(" ({:.2})", value / other));
            Some(format!("{value:.digits$}{ratio}"))
        };
        let cells = Column::ALL.iter().map(|column| format!("{:>16}", cell(column).unwrap_or("-".into())));
        println!("{:<8}{}", row.kind.name(), cells.collect::<String>());
    }
    println!("\nin brackets: times the floor (bulk), times nginx (the rest)");
}
