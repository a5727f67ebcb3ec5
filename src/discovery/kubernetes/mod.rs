//! `kubernetes`: the endpoints of a Service, as the API's EndpointSlices have them.
//!
//! Owns listing, watching, and what is done when either ends. Leaves what the slices say to `slices`, and the way to the API
//! to `http`. (A Service without an address of its own is also a name with addresses, `dns`, and with SRV records, `srv`:
//! those need no right to read the API, and know neither zones nor which endpoint is about to end.)

mod slices;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::slices::{Event, Page, Slices};
use super::http::{Answer, Lines, Question, Registry, encoded, theirs};
use super::known::pause;
use super::reading::ours;
use super::{Discover, Origin, Resolver, dns_set, token};
use crate::addr::{EndpointAddr, Host};
use crate::failure::{Failure, Reason};
use crate::tls::IdentitySettings;
use crate::upstream::EndpointSpec;

/// What is asked for, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The Service's name.
    pub service: String,
    /// `None`: the one that we run in.
    pub namespace: Option<String>,
    /// The port's name or number; `None`: there is only one.
    pub port: Option<String>,
    /// The API; `None`: that of the cluster we run in, as our service account.
    pub api: Option<Origin>,
    /// Where the token stands; with `api`, `None` is none.
    pub token_file: Option<PathBuf>,
    /// What the API's certificate is checked against; with `api`, `None` are the system's roots.
    pub ca: Option<PathBuf>,
}

impl Settings {
    /// Do both ask for the same endpoints?
    pub(super) fn names_the_same(&self, other: &Settings) -> bool {
        let asked = |settings: &Settings| Settings { token_file: None, ca: None, ..settings.clone() };
        asked(self) == asked(other)
    }
}

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a page of the list may take, and the beginning of a watch.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the API is asked to watch; less by up to a fifth, so that a fleet does not come back in step.
const WATCH: Duration = Duration::from_secs(300);
/// So much longer than that, nothing may come.
const GRACE: Duration = Duration::from_secs(30);
/// Slices a page: the API sends large lists in pieces.
const PAGE: u32 = 100;
/// So many of them are more than any Service has.
const PAGES: usize = 200;
/// The pause between two watches; drawn, since an API server that ends has them all begin anew.
const BREATH: Duration = Duration::from_millis(500);
/// A watch that ends sooner was not ended by its time: some proxies end each at once, some servers know no version to watch from.
const SHORT: Duration = Duration::from_secs(10);

/// Follows a Service.
pub(super) fn discover(settings: &Settings, resolver: &Resolver) -> Box<dyn Discover> {
    let api = Api::of(settings, Path::new(ACCOUNT), |name| std::env::var(name).ok());
    let identity = IdentitySettings { ca: api.ca.clone(), ..IdentitySettings::default() };
    let registry = Registry::new("Kubernetes", api.origin.clone(), identity, resolver);
    let (tell, told) = watch::channel(None);
    let follower = Follower {
        registry,
        api: Arc::new(api),
        service: settings.service.clone(),
        port: settings.port.clone(),
        version: None,
        slices: Slices::default(),
        tell,
        rng: Rng::new(),
    };
    Box::new(Kubernetes { told, task: tokio::spawn(follower.run()) })
}

type Told = Option<Result<Vec<EndpointSpec>, Failure>>;

/// A Service that is followed, by a task of its own: a watch is one long answer.
struct Kubernetes {
    told: watch::Receiver<Told>,
    task: JoinHandle<()>,
}

impl Discover for Kubernetes {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Vec<EndpointSpec>, Failure>> + Send + '_>> {
        Box::pin(async move {
            loop {
                if self.told.changed().await.is_err() {
                    // It has panicked, and said so; the set stays as it is.
                    return std::future::pending().await;
                }
                if let Some(told) = self.told.borrow_and_update().clone() {
                    return told;
                }
            }
        })
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The API, and who we are to it.
#[derive(Debug, PartialEq)]
struct Api {
    origin: Origin,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    namespace: Namespace,
}

#[derive(Debug, PartialEq)]
enum Namespace {
    Named(String),
    /// Ours, which stands there.
    In(PathBuf),
}

impl Api {
    fn of(settings: &Settings, account: &Path, variable: impl Fn(&str) -> Option<String>) -> Api {
        let in_cluster = settings.api.is_none();
        let own = |file: &str| in_cluster.then(|| account.join(file));
        let origin = settings.api.clone().unwrap_or_else(|| {
            let host = variable("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse::<IpAddr>().ok());
            let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
            let by_name = EndpointAddr { host: Host::Name("kubernetes.default.svc".into()), port };
            Origin::new(true, host.map_or(by_name, |host| SocketAddr::new(host, port).into()))
        });
        Api {
            origin,
            token_file: settings.token_file.clone().or_else(|| own("token")),
            ca: settings.ca.clone().or_else(|| own("ca.crt")),
            namespace: match (&settings.namespace, own("namespace")) {
                (Some(namespace), _) => Namespace::Named(namespace.clone()),
                (None, Some(file)) => Namespace::In(file),
                (None, None) => Namespace::Named("default".to_owned()),
            },
        }
    }

    fn namespace(&self) -> Result<String, Failure> {
        match &self.namespace {
            Namespace::Named(name) => Ok(name.clone()),
            Namespace::In(file) => match std::fs::read_to_string(file) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(error) => {
                    let detail = format!("{}: {error}", file.display());
                    Err(ours(detail).mend(
                        "outside of a pod, write `api`, `token_file` and `ca`; in one, let its service account be mounted",
                    ))
                }
            },
        }
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Failure> {
        let token = self.token_file.as_ref().map(|file| token::header(file, "Bearer ")).transpose()?;
        Ok(token.into_iter().map(|token| (AUTHORIZATION, token)).collect())
    }
}

struct Follower {
    registry: Registry,
    api: Arc<Api>,
    service: String,
    port: Option<String>,
    /// Up to where the slices are known; `None`: they have to be listed.
    version: Option<String>,
    slices: Slices,
    tell: watch::Sender<Told>,
    rng: Rng,
}

impl Follower {
    async fn run(mut self) {
        let (mut failures, mut short) = (0, 0);
        loop {
            let begun = Instant::now();
            let rest = match self.version.clone() {
                None => self.list().await.map(|()| Duration::ZERO),
                Some(version) => self.watch(&version).await.map(|()| {
                    let rest = breath(short, &mut self.rng);
                    short = if begun.elapsed() < SHORT { short + 1 } else { 0 };
                    rest
                }),
            };
            match rest {
                Ok(rest) => {
                    failures = 0;
                    tokio::time::sleep(rest).await;
                }
                Err(failure) => {
                    failures += 1;
                    self.tell.send_replace(Some(Err(failure)));
                    tokio::time::sleep(pause(failures, &mut self.rng)).await;
                }
            }
        }
    }

    /// All slices, page by page; those of before count until the last one has come.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut slices = Slices::default();
        let mut more: Option<String> = None;
        for _ in 0..PAGES {
            let mut query = format!("&limit={PAGE}");
            if let Some(more) = &more {
                query += &format!("&continue={}", encoded(more));
            }
            let (path, headers) = self.asking(&query).await?;
            let question = Question { path, headers, limit: ANSWER, lines: None };
            let answer = self.registry.ask(question).await?;
            if answer.status == StatusCode::GONE {
                // It took so long that the rest of the list is of another time.
                if more.take().is_some() {
                    slices = Slices::default();
                    continue;
                }
            }
            self.good(&answer)?;
            let Page { version, next } = slices.page(&answer.body).map_err(|problem| self.odd(&problem))?;
            more = next;
            if more.is_none() {
                self.version = Some(version);
                self.slices = slices;
                self.tell.send_replace(Some(members(&self.slices, self.port.as_deref())));
                return Ok(());
            }
        }
        Err(self.odd(&format!("its list of EndpointSlices has no end after {PAGES} pages")))
    }

    /// What has changed since a version, until the API ends it.
    async fn watch(&mut self, version: &str) -> Result<(), Failure> {
        let seconds = WATCH.mul_f64(0.8 + 0.2 * self.rng.f64()).as_secs();
        let query = format!(
            "&watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
            encoded(version)
        );
        let (path, headers) = self.asking(&query).await?;
        let Follower { registry, slices, tell, version, port, .. } = self;
        let port = port.as_deref();
        let mut each = |line: Option<&[u8]>| -> Result<ControlFlow<()>, Failure> {
            // That it watches is news after a failure, and so is that nothing has changed. Of many changes that come together,
            // as of a rollout, what they all come to.
            let Some(line) = line else {
                tell.send_replace(Some(members(slices, port)));
                return Ok(ControlFlow::Continue(()));
            };
            match slices.event(line) {
                Ok(Event::At(now)) => {
                    *version = Some(now);
                    Ok(ControlFlow::Continue(()))
                }
                Ok(Event::Expired) => {
                    *version = None;
                    Ok(ControlFlow::Break(()))
                }
                Ok(Event::Failed(says)) => {
                    *version = None;
                    Err(theirs(Reason::DestinationUnavailable, format!("the watch failed: {says}")))
                }
                Err(problem) => {
                    *version = None;
                    Err(theirs(Reason::DestinationUnavailable, problem))
                }
            }
        };
        let lines = Some(Lines { at_most: WATCH + GRACE, each: &mut each });
        let answer = registry.ask(Question { path, headers, limit: ANSWER, lines }).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            // What has changed since then is not known there any more.
            StatusCode::GONE => {
                self.version = None;
                Ok(())
            }
            _ => self.good(&answer),
        }
    }

    /// What is asked for, and as whom.
    async fn asking(&self, query: &str) -> Result<(String, Vec<(HeaderName, HeaderValue)>), Failure> {
        let api = self.api.clone();
        let read = move || Ok((api.namespace()?, api.headers()?));
        let (namespace, headers) = self.registry.read(&"the token or the namespace", read).await?;
        let (namespace, service) = (encoded(&namespace), encoded(&self.service));
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let path = format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3D{service}{query}");
        Ok((path, headers))
    }

    fn good(&self, answer: &Answer) -> Result<(), Failure> {
        let status = answer.status;
        if status == StatusCode::OK {
            return Ok(());
        }
        let failure = self.odd(&format!("it answered {status}: {}", slices::message(&answer.body, answer)));
        Err(match status {
            StatusCode::UNAUTHORIZED => failure.mend("does token_file hold a token of this cluster that is still good?"),
            StatusCode::FORBIDDEN => failure.mend(
                "let the account get, list and watch endpointslices (discovery.k8s.io) in that namespace, by a Role and a RoleBinding",
            ),
            StatusCode::NOT_FOUND => failure.mend("is that a Kubernetes API of version 1.21 or later?"),
            _ => failure.mend("look in the API server's log; the last endpoints stay in use"),
        })
    }

    fn odd(&self, problem: &str) -> Failure {
        let detail = format!("Kubernetes at {}: {problem}", self.api.origin);
        theirs(Reason::DestinationUnavailable, detail).mend("is that the address of a Kubernetes API?")
    }
}

/// The pause after a watch, so many of which were short before.
fn breath(short: u32, rng: &mut Rng) -> Duration {
    BREATH.saturating_mul(1 << short.min(3)).mul_f64(0.5 + 0.5 * rng.f64())
}

fn members(slices: &Slices, port: Option<&str>) -> Result<Vec<EndpointSpec>, Failure> {
    slices.endpoints(port, |addresses| dns_set::with_a_route(addresses, dns_set::has_route)).map_err(
        |problem| {
            theirs(Reason::DestinationUnavailable, problem)
                .mend("write as `port` the name or the number of the Service's port")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { service: "db".into(), namespace: None, port: None, api: None, token_file: None, ca: None }
    }

    #[test]
    fn in_a_pod_the_service_account_says_who_we_are_and_where_the_api_is() {
        let account = tempfile::tempdir().unwrap();
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("10.96.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("6443".to_owned()),
            _ => None,
        };
        let api = Api::of(&settings(), account.path(), variable);
        assert_eq!(api.origin.to_string(), "https://10.96.0.1:6443");
        assert_eq!(api.ca, Some(account.path().join("ca.crt")));
        assert!(api.namespace().unwrap_err().next_step().contains("outside of a pod, write `api`"));
        std::fs::write(account.path().join("namespace"), "prod\n").unwrap();
        assert_eq!(api.namespace().unwrap(), "prod");
        for token in ["one", "two"] {
            std::fs::write(account.path().join("token"), token).unwrap();
            let [(_, value)] = &api.headers().unwrap()[..] else { panic!("one") };
            assert_eq!(value.as_bytes(), format!("Bearer {token}").as_bytes());
        }
        assert_eq!(
            Api::of(&settings(), account.path(), |_| None).origin.to_string(),
            "https://kubernetes.default.svc:443"
        );
    }

    #[test]
    fn with_another_api_nothing_of_the_pods_own_is_shown_to_it() {
        let settings = Settings { api: Some("https://k8s.example:6443".parse().unwrap()), ..settings() };
        let api = Api::of(&settings, Path::new(ACCOUNT), |_| None);
        assert_eq!((api.token_file.clone(), api.ca.clone()), (None, None));
        assert_eq!(api.namespace().unwrap(), "default");
    }

    /// An API server that ends has hundreds of watches begin anew, and one that knows no version to watch from ends each at once.
    #[test]
    fn watches_that_ended_together_do_not_begin_together_nor_all_the_time() {
        let rests = |short| (0..100).map(move |seed| breath(short, &mut Rng::with_seed(seed)));
        for (short, least, most) in [(0, 250, 500), (1, 500, 1000), (3, 2000, 4000), (1000, 2000, 4000)] {
            let all: Vec<_> = rests(short).map(|rest| rest.as_millis()).collect();
            assert!(all.iter().all(|rest| (least..=most).contains(rest)), "{short}: {all:?}");
            let half = all.iter().filter(|rest| **rest < (least + most) / 2).count();
            assert!((25..75).contains(&half), "{short}: {half}");
        }
    }
}
