//! Asks the nuncio that runs: where its admin is, and what it answers there. Leaves to the commands what they ask for.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ConfigFlag, FAILED, REFUSED, complain, complaint, runtime};
use crate::addr::ListenAddr;
use crate::config;

/// How a command finds the one that runs.
#[derive(clap::Args)]
pub(super) struct AdminFlags {
    /// Where the admin answers: IP:PORT or unix:/PATH. Without it: as the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<ListenAddr>,
    #[command(flatten)]
    config: ConfigFlag,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl AdminFlags {
    /// The answers to all of `paths`, of one and the same admin.
    pub(super) fn ask(&self, paths: &[&str]) -> Result<Vec<Value>, ExitCode> {
        let addresses = match &self.admin {
            Some(address) => vec![address.clone()],
            None => self.configured()?,
        };
        let failed = |problems: &[String]| {
            complain(problems);
            ExitCode::from(FAILED)
        };
        let runtime =
            runtime().map_err(|error| failed(&[format!("the runtime could not be started: {error}")]))?;
        let mut problems = Vec::new();
        for address in &addresses {
            match runtime.block_on(async { tokio::time::timeout(PATIENCE, all_of(address, paths)).await }) {
                Ok(Ok(answers)) => return Ok(answers),
                Ok(Err(Trouble::Answered(words))) => return Err(failed(&[words])),
                Ok(Err(Trouble::Unreached(words))) => problems.push(format!("{address}: {words}")),
                Err(_) => problems.push(format!("{address}: no answer within {PATIENCE:?}")),
            }
        }
        problems.push("does it run, and is its admin there? --admin ADDRESS names another place".to_owned());
        Err(failed(&problems))
    }

    /// Unix sockets first: whoever may use them may also give orders.
    fn configured(&self) -> Result<Vec<ListenAddr>, ExitCode> {
        let file: PathBuf = self.config.path();
        let loaded = config::load(&file).map_err(|problems| {
            complaint::print(&complaint::of_file(&problems));
            ExitCode::from(REFUSED)
        })?;
        let mut addresses = loaded.config.admin.addresses;
        let written = !addresses.is_empty();
        // What another process has been given is known to that one only.
        addresses.retain(|address| match address {
            ListenAddr::Tcp(tcp) => tcp.port() != 0,
            ListenAddr::Unix(_) => true,
            ListenAddr::Systemd(_) => false,
        });
        addresses.sort_by_key(|address| !matches!(address, ListenAddr::Unix(_)));
        if addresses.is_empty() {
            let why = match written {
                true => {
                    "says nothing of where the admin can be asked (port 0, systemd:NAME): name it with --admin ADDRESS"
                }
                false => "has no admin: add address = \"127.0.0.1:9746\" to [admin]",
            };
            complain(&[format!("{} {why}", file.display())]);
            return Err(ExitCode::from(FAILED));
        }
        Ok(addresses)
    }
}

/// Why there is no answer.
enum Trouble {
    /// Nobody is there.
    Unreached(String),
    /// It answered, and that is no use.
    Answered(String),
}

async fn all_of(address: &ListenAddr, paths: &[&str]) -> Result<Vec<Value>, Trouble> {
    let unreached = |error: std::io::Error| Trouble::Unreached(error.to_string());
    let mut answers = Vec::new();
    for path in paths {
        answers.push(match address {
            ListenAddr::Tcp(tcp) => {
                let stream = tokio::net::TcpStream::connect(tcp).await.map_err(unreached)?;
                answer(stream, &tcp.to_string(), path).await?
            }
            #[cfg(unix)]
            ListenAddr::Unix(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await.map_err(unreached)?;
                answer(stream, "localhost", path).await?
            }
            ListenAddr::Systemd(_) => {
                return Err(Trouble::Unreached("only systemd knows where that is".to_owned()));
            }
            #[cfg(not(unix))]
            ListenAddr::Unix(_) => {
                return Err(Trouble::Unreached("this system has no Unix sockets".to_owned()));
            }
        });
    }
    Ok(answers)
}

async fn answer<S>(stream: S, host: &str, path: &str) -> Result<Value, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let unreached = |error: hyper::Error| Trouble::Unreached(format!("no HTTP answer: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreached)?;
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Trouble::Answered(format!("{path}: {error}")))?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut asking = std::pin::pin!(asking);
    // The connection does the reading; when it ends first, the answer is there, or there is none.
    let (status, body) = tokio::select! {
        answer = &mut asking => answer,
        _ = &mut connection => asking.await,
    }
    .map_err(unreached)?;
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        return Err(Trouble::Answered(text.trim().to_owned()));
    }
    serde_json::from_str(&text)
        .map_err(|error| Trouble::Answered(format!("{path}: that is no nuncio: {error}")))
}
