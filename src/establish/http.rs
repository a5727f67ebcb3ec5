//! http: the check that asks. Owns the way to the server that its URL names, which is the endpoint itself or somebody
//! beside it: resolved and dialled as the upstream's endpoints are, with TLS of its own. Leaves the question to `health`.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Manner, Reached, Target, reach};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::health::http::{Question, Url};
use crate::tls::ClientTls;
use crate::trail::Trail;
use crate::upstream::EndpointSpec;

/// What is asked of each endpoint, and how its server is spoken to.
pub struct HttpCheck {
    /// The URL, with places for the endpoint.
    pub url: Url,
    /// TLS for https: the upstream's identity, but none of its names, pins or ALPN. `None`: http.
    pub tls: Option<Arc<ClientTls>>,
}

impl HttpCheck {
    /// What an endpoint's server is asked.
    ///
    /// # Errors
    /// Never with a URL that was read as one.
    pub fn question(&self, spec: &EndpointSpec) -> Result<Question, Failure> {
        let ours = |problem| {
            Failure::new(Stage::Route, Reason::ProxyConfigurationError, Side::Ambassador, problem)
                .mend("mend health.url")
        };
        self.url.of(&spec.address).map_err(ours)
    }
}

/// Asks; the caller bounds the time beside the deadline of the way there.
pub(super) async fn check(target: &Target, spec: &EndpointSpec, deadline: Instant) -> Result<(), Failure> {
    let Some(http) = &target.http else {
        let problem = "there is no health.url to ask";
        return Err(Failure::new(Stage::Route, Reason::ProxyConfigurationError, Side::Ambassador, problem));
    };
    let question = http.question(spec)?;
    // The certificate has to carry the URL's host: nothing that says whom the endpoint's own has to carry counts here.
    let server = EndpointSpec::new(question.server().clone());
    let manner =
        Manner { tls: http.tls.as_ref(), negotiates: false, introduces: false, ..Manner::of(target) };
    let mut trail = Trail::default();
    let way = reach(target, manner, &server, deadline, &mut trail, None).await;
    let Reached { mut stream, secured, .. } = way.map_err(|failure| question.explain(failure))?;
    let (Some(secured), Some(tls)) = (secured, &http.tls) else { return question.ask(stream).await };
    let (answer, refusal) = secured.carry(&mut stream, tls, |stream| question.ask(stream)).await;
    match refusal {
        Some(refusal) if answer.is_err() => Err(question.explain(refusal)),
        Some(_) | None => answer,
    }
}
