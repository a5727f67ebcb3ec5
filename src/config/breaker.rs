//! What an `[upstream.NAME.breaker]` means, and what speaks against it.

use super::file;
use super::meaning::{Bound, in_order, time};
use super::reader::Reader;
use super::section::{At, Field};
use crate::failure::BreakerClass;
use crate::health::Kind;
use crate::upstream::breaker::{Settings, Trials, Weights};

/// How the upstream's health checks are done.
pub(super) struct Checks {
    /// What they do.
    pub(super) kind: Kind,
    /// The deepest that could be done.
    pub(super) deepest: Kind,
}

pub(super) fn breaker(written: file::Breaker, checks: Checks, reader: &mut Reader) -> Settings {
    let default = Settings::default();
    let (open_for, max_open) = in_order(
        Bound("open_for", &written.open_for, default.open_for),
        Bound("max_open", &written.max_open, default.max_open),
        time,
        reader,
    );
    if let Some(rate) = written.failure_rate.given().filter(|rate| rate.value == Some(0.0)) {
        reader.problem(
            &rate.place,
            "0 would open the circuit without a failure",
            "write a share above 0, or \"off\"",
        );
    }
    let early_close = written.early_close.or(default.early_close);
    if let Some(At { value: Some(zero_byte), place }) = written.zero_byte.given()
        && *zero_byte <= early_close
    {
        let message = format!("says nothing: an end within {} is an early_close already", time(early_close));
        reader.problem(place, message, "write a longer time, or \"off\"");
    }
    if let Field::Given(At { value: Trials::Checks, place }) = &written.trials {
        trials(&checks, place, reader);
    }
    let settings = Settings {
        consecutive: written.consecutive.or(default.consecutive),
        failure_rate: written.failure_rate.or(default.failure_rate),
        window: written.window.or(default.window),
        minimum: written.minimum.or(default.minimum),
        outlier: written.outlier.or(default.outlier),
        outlier_endpoints: written.outlier_endpoints.or(default.outlier_endpoints),
        open_for,
        max_open,
        half_open_trials: written.half_open_trials.or(default.half_open_trials),
        trials: written.trials.or(default.trials),
        max_ejected: written.max_ejected.or(default.max_ejected),
        early_close,
        zero_byte: written.zero_byte.or(default.zero_byte),
        slow_first_byte: written.slow_first_byte.or(default.slow_first_byte),
        shadow: written.shadow.or(default.shadow),
        weights: weights(&written.weights),
    };
    if let Field::Given(At { place, .. }) = &written.weights
        && BreakerClass::ALL.iter().all(|class| settings.weights.of(*class) == 0)
    {
        let mend = "give one a weight; or, to have no breaker, write consecutive = \"off\"";
        reader.problem(place, "leaves no failure that counts", mend);
    }
    settings
}

/// A check that sees less than a client meets would let clients in to a server that cannot serve them.
fn trials(checks: &Checks, place: &super::problem::Place, reader: &mut Reader) {
    let (message, mend) = match checks.kind {
        Kind::Off => (
            "waits for health checks, and there are none",
            "switch them on (health.kind; with MySQL health.user), or write trials = \"clients\"",
        ),
        Kind::Http => (
            "waits for health checks that go the clients' way, and kind = \"http\" goes its own",
            "write trials = \"clients\", or remove health.kind",
        ),
        kind if kind < checks.deepest => (
            "waits for health checks that go as deep as clients do, and these stop before that",
            "remove health.kind, or write trials = \"clients\"",
        ),
        Kind::Tcp | Kind::Tls | Kind::Protocol => return,
    };
    reader.problem(place, message, mend);
}

fn weights(written: &Field<file::Weights>) -> Weights {
    let mut weights = Weights::default();
    let Some(written) = written.value() else { return weights };
    for class in BreakerClass::ALL {
        let field = match class {
            BreakerClass::Refused => &written.refused,
            BreakerClass::Timeout => &written.timeout,
            BreakerClass::Handshake => &written.handshake,
            BreakerClass::CertificateRefused => &written.certificate_refused,
            BreakerClass::EarlyClose => &written.early_close,
            BreakerClass::ZeroByte => &written.zero_byte,
            BreakerClass::Slow => &written.slow,
            BreakerClass::Overloaded => &written.overloaded,
        };
        weights.set(class, field.or(weights.of(class)));
    }
    weights
}
