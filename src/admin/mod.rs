//! The admin: health, readiness, metrics, the read side of the API over HTTP/1.1, and operators' orders.
//!
//! Owns its listeners and their limits. Leaves what is asked to [`site`], what is ordered to
//! [`orders`], who may do either to [`guard`], and what is answered
//! to whoever implements [`Face`]. It runs on the control runtime: no client of it can hold up a relayed connection.

mod guard;
mod orders;
mod places;
mod site;
#[cfg(test)]
mod tests;
mod token;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::accept::{self, Socket};
use crate::addr::{ClientAddr, ListenAddr};
use crate::drain::Watch;
use crate::metrics::UserView;
use crate::record::{ConnectionId, ConnectionView};
use crate::rollout::RolloutView;
use crate::upstream::{EndpointView, Order, UpstreamView};

use self::guard::Reached;
use self::places::{Place, Places};
use self::site::Site;

pub use self::token::Token;

/// Of its Unix sockets: who may connect may give orders.
#[cfg(unix)]
const SOCKET_MODE: u32 = 0o660;

/// Where it answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Addresses; empty: no admin.
    pub addresses: Vec<ListenAddr>,
    /// Where the token stands with which orders are taken over TCP; `None`: there they are not.
    pub token_file: Option<PathBuf>,
}

/// Why a listener's connections cannot be divided so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undivided {
    /// There is no such listener, or it does not divide them.
    Unknown(String),
    /// Not with these weights.
    Impossible(String),
}

/// What the admin asks of the rest of the process. Every call is a quick look; none waits.
pub trait Face: Send + Sync {
    /// Can connections be served? Else every reason why not.
    fn ready(&self) -> Result<(), Vec<String>>;
    /// What orders over TCP have to carry, as it was read last; `None`: there are none.
    fn token(&self) -> Option<Arc<Token>>;
    /// What is running: version, since when, which configuration.
    fn status(&self) -> serde_json::Value;
    /// Every listener: where it listens, and how its connections are divided.
    fn listeners(&self) -> Vec<serde_json::Value>;
    /// Every upstream with its endpoints.
    fn upstreams(&self) -> Vec<UpstreamView>;
    /// Carries an operator's order out: the endpoints of that name, as they are then.
    ///
    /// # Errors
    /// There is no such upstream or endpoint; which there are.
    fn operate(&self, upstream: &str, endpoint: &str, order: Order) -> Result<Vec<EndpointView>, String>;
    /// Divides a listener's connections so: what is named, with its weight. `None`: as the file says, a rollout from its
    /// beginning.
    ///
    /// # Errors
    /// It cannot be, and why.
    fn divide(&self, listener: &str, wanted: Option<&[(String, u32)]>) -> Result<RolloutView, Undivided>;
    /// The metrics as OpenMetrics text.
    fn metrics(&self) -> String;
    /// What each local user did, where users are metered.
    fn users(&self) -> Vec<UserView>;
    /// The open connections, newest first.
    fn connections(&self) -> Vec<ConnectionView>;
    /// One connection, open or lately ended.
    fn connection(&self, id: ConnectionId) -> Option<ConnectionView>;
    /// The newest connection of a client's address, open or lately ended.
    fn connection_of(&self, client: &ClientAddr) -> Option<ConnectionView>;
}

/// What one client of the admin may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections to one address at a time; when there are more, who is silent for longest gives way.
    connections: usize,
    /// Silence that nobody has to give way for.
    grace: Duration,
    /// Time for a request's headers to come, and silence between two requests.
    headers: Duration,
    /// Age after which a connection is closed behind the answer that it is at.
    age: Duration,
    /// Time that this last answer may take to be read.
    farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let grace = Duration::from_millis(100);
        Limits { connections: 64, grace, headers: seconds(10), age: seconds(300), farewell: seconds(10) }
    }
}

/// A running admin. Dropping it closes its sockets and all connections to it.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<ListenAddr>,
    /// Dropping them ends them.
    tasks: JoinSet<()>,
    /// Dropping them removes the files.
    #[cfg(unix)]
    files: Vec<accept::SocketFile>,
}

impl Admin {
    /// The addresses it is bound to, with the ports that the system chose.
    pub fn addresses(&self) -> &[ListenAddr] {
        &self.addresses
    }

    fn answer_at(
        &mut self,
        socket: Socket,
        local: ListenAddr,
        site: &Arc<Site>,
        limits: Limits,
    ) -> io::Result<()> {
        let site = site.clone();
        match socket {
            Socket::Tcp(listener) => {
                let listener = Arc::new(TcpListener::from_std(listener)?);
                self.tasks.spawn(answer_all(site, limits, Reached::Tcp, move || {
                    let listener = listener.clone();
                    async move { listener.accept().await.map(|(stream, _)| stream) }
                }));
            }
            #[cfg(unix)]
            Socket::Unix(listener) => {
                let listener = Arc::new(tokio::net::UnixListener::from_std(listener)?);
                self.tasks.spawn(answer_all(site, limits, Reached::Unix, move || {
                    let listener = listener.clone();
                    async move { listener.accept().await.map(|(stream, _)| stream) }
                }));
            }
        }
        self.addresses.push(local);
        Ok(())
    }
}

/// Binds every address and answers on the current runtime until the [`Admin`] is dropped. Either all are bound or none.
pub fn serve(settings: &Settings, face: Arc<dyn Face>, drain: Watch) -> Result<Admin, String> {
    serve_within(Limits::default(), settings, face, drain)
}

fn serve_within(
    limits: Limits,
    settings: &Settings,
    face: Arc<dyn Face>,
    drain: Watch,
) -> Result<Admin, String> {
    let site = Arc::new(Site::new(face, drain));
    let mut admin = Admin {
        addresses: Vec::new(),
        tasks: JoinSet::new(),
        #[cfg(unix)]
        files: Vec::new(),
    };
    for address in &settings.addresses {
        let failed = |error: io::Error| {
            let mend = match error.kind() {
                io::ErrorKind::AddrInUse => "is another nuncio running? Stop it, or change admin.address",
                io::ErrorKind::PermissionDenied => "change admin.address, or run with the rights to bind it",
                io::ErrorKind::NotFound => "create the directory first",
                _ => "change admin.address",
            };
            format!("admin.address {address} cannot be bound: {error}; {mend}")
        };
        match address {
            ListenAddr::Tcp(tcp) => {
                let listener = bind_tcp(*tcp).map_err(failed)?;
                let local = ListenAddr::Tcp(listener.local_addr().map_err(failed)?);
                admin.answer_at(Socket::Tcp(listener), local, &site, limits).map_err(failed)?;
            }
            #[cfg(unix)]
            ListenAddr::Unix(path) => {
                let (listener, file) = accept::bind_unix(path, SOCKET_MODE)
                    .map_err(|problem| format!("admin.address: {problem}"))?;
                admin.files.push(file);
                admin.answer_at(Socket::Unix(listener), address.clone(), &site, limits).map_err(failed)?;
            }
            #[cfg(not(unix))]
            ListenAddr::Unix(_) => {
                return Err(format!(
                    "admin.address {address}: this system has no Unix sockets; use 127.0.0.1:PORT"
                ));
            }
            ListenAddr::Systemd(name) => {
                let inherited =
                    accept::systemd_sockets(name).map_err(|error| format!("admin.address: {error}"))?;
                for (local, socket) in inherited {
                    // As the file's own addresses are held to: what is read needs no token, and nothing is encrypted.
                    if let ListenAddr::Tcp(tcp) = local
                        && !tcp.ip().to_canonical().is_loopback()
                    {
                        return Err(format!(
                            "admin.address {address}: other hosts could reach {tcp}; \
                             write ListenStream=127.0.0.1:{} in the .socket unit",
                            tcp.port()
                        ));
                    }
                    #[cfg(unix)]
                    if let ListenAddr::Unix(path) = &local {
                        asks_its_mode(address, path)?;
                    }
                    admin.answer_at(socket, local, &site, limits).map_err(failed)?;
                }
            }
        }
    }
    Ok(admin)
}

/// Who may give orders through it is said by its mode, which systemd would have at 0666; an abstract one has none.
#[cfg(unix)]
fn asks_its_mode(address: &ListenAddr, path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let is_open = std::fs::metadata(path).map_or(true, |metadata| metadata.permissions().mode() & 0o002 != 0);
    match is_open {
        false => Ok(()),
        true => Err(format!(
            "admin.address {address}: every user of this host could give orders through {}; write SocketMode=0660 in the \
             .socket unit",
            path.display()
        )),
    }
}

/// Accepts and answers, forever. An error of accept costs a pause, as the next one is likely the same.
async fn answer_all<S, F>(site: Arc<Site>, limits: Limits, reached: Reached, accept: impl Fn() -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>> + Send,
{
    let places = Places::new(limits.connections, limits.grace);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match accept().await {
            Ok(stream) => {
                let (site, place) = (site.clone(), places.take().await);
                connections.spawn(async move {
                    tokio::select! {
                        () = place.wanted() => tracing::debug!("a connection to the admin gives way to another one"),
                        () = answer_one(stream, site, limits, reached, &place) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

async fn answer_one<S>(stream: S, site: Arc<Site>, limits: Limits, reached: Reached, place: &Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let site = site.clone();
        place.heard();
        async move { Ok::<_, Infallible>(site.answer(&with_body(request, limits).await, reached)) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper's clock runs from the moment it waits for a request, so it bounds idle connections too.
            .header_read_timeout(limits.headers)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = match tokio::time::timeout(limits.age, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            // A client that does not read its answer is cut off.
            tokio::time::timeout(limits.farewell, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin ended");
    }
}

/// The request with what is behind its headers, where that matters. `None`: it is too much, did not come whole, or in time.
async fn with_body(request: Request<Incoming>, limits: Limits) -> Request<Option<Bytes>> {
    const LONGEST: usize = 64 << 10;
    let (head, body) = request.into_parts();
    let body = match head.method {
        Method::PUT => {
            let whole = Limited::new(body, LONGEST).collect();
            let come = tokio::time::timeout(limits.headers, whole).await;
            come.ok().and_then(Result::ok).map(|whole| whole.to_bytes())
        }
        _ => Some(Bytes::new()),
    };
    Request::from_parts(head, body)
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
