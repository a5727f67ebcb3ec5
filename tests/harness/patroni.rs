//! What Patroni tells load balancers of a PostgreSQL, without Patroni: `/primary` and `/replica` are 200 or 503.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::peer::Peer;
use super::postgres::{Admin, Role};

/// A REST API of one PostgreSQL.
pub struct Patroni {
    peer: Peer,
}

impl Patroni {
    /// Of this one, which is asked what it is whenever somebody wants to know.
    pub fn of(admin: Admin) -> Patroni {
        Patroni::start(move |_| admin.role())
    }

    /// Of several, each of which has its own beside it in life: here a query says which is meant, `?IP:PORT`.
    pub fn of_all<const N: usize>(members: [(SocketAddr, Admin); N]) -> Patroni {
        Patroni::start(move |query| {
            let meant = members.iter().find(|(address, _)| address.to_string() == query);
            meant.map_or(Role::Gone, |(_, admin)| admin.role())
        })
    }

    /// Of one that is what the test says; it is given the query.
    pub fn start(role: impl Fn(&str) -> Role + Send + Sync + 'static) -> Patroni {
        let peer = Peer::start(move |stream| {
            // An error: whoever asked has left.
            answer(stream, &role).ok();
        });
        Patroni { peer }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.peer.address()
    }
}

fn answer(mut stream: TcpStream, role: &impl Fn(&str) -> Role) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let asked = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = asked.split_once('?').unwrap_or((asked, ""));
    let role = role(query);
    let status = match (path, role) {
        ("/primary" | "/read-write", Role::Primary) | ("/replica", Role::Standby) => "200 OK",
        ("/primary" | "/read-write" | "/replica", _) => "503 Service Unavailable",
        _ => "404 Not Found",
    };
    // As Patroni answers: HTTP/1.0, no length, and the end of the connection is that of the answer.
    write!(
        stream,
        "HTTP/1.0 {status}\r\nServer: BaseHTTP/0.6 Python/3\r\nContent-Type: application/json\r\n\r\n\
         {{\"role\": \"{role:?}\"}}"
    )
}
