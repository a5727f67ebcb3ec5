//! login: the check that logs in, where a server holds it against a host that its connections end before that. Owns the
//! way there and the password's way from its file. Leaves the words to `protocol`.

use tokio::time::Instant;

use super::{Reached, Target, try_endpoint};
use crate::account::Login;
use crate::converse::{Trouble, converse};
use crate::failure::{Failure, Reason, Side, Stage};
use crate::protocol::Credentials;
use crate::trail::Trail;
use crate::upstream::EndpointSpec;

/// Logs in and takes its leave; the caller bounds the time beside the deadline of the way there.
pub(super) async fn check(
    target: &Target,
    login: &Login,
    spec: &EndpointSpec,
    deadline: Instant,
) -> Result<(), Failure> {
    // Before the dial, and each time: a new password counts at once, and none stays in memory.
    let password = login.password_aside().await.map_err(ours)?;
    let credentials = Credentials { user: login.user.clone(), password };
    let Reached { mut stream, negotiated, secured, .. } =
        try_endpoint(target, spec, deadline, &mut Trail::default()).await?;
    let (Some(secured), Some(tls), Some(mut talk)) =
        (secured, &target.tls, target.protocol.login(&negotiated, credentials))
    else {
        return Err(ours("a check logs in only through TLS".into()));
    };
    let (told, refusal) = secured
        .carry(&mut stream, tls, |mut stream| async move {
            converse(&mut stream, &mut *talk).await.map_err(|trouble| failed(trouble, talk.awaits()))
        })
        .await;
    match refusal {
        Some(refusal) if told.is_err() => Err(refusal),
        Some(_) | None => told,
    }
}

fn failed(trouble: Trouble, awaited: &str) -> Failure {
    match trouble {
        Trouble::Failed(failure) | Trouble::Left(failure) => failure,
        Trouble::Closed { .. } | Trouble::Io(_) => Failure::upstream(
            Stage::Greet,
            Reason::EarlyClose,
            format!("the server closed the connection instead of sending {awaited}"),
        ),
    }
}

fn ours(problem: String) -> Failure {
    Failure::new(Stage::Greet, Reason::ProxyConfigurationError, Side::Ambassador, problem)
        .mend("mend health.user and health.password_file")
}
