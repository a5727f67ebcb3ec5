//! Orders: to endpoints, `POST /api/v1/upstreams/{name}/endpoints/{address}/{order}`, and to listeners that divide their
//! connections, `PUT` and `DELETE /api/v1/listeners/{name}/split`. Owns reading them. Leaves carrying them out to whoever implements [`Face`](super::Face), and who may give them to `guard`.

use hyper::StatusCode;
use serde::Deserialize;

use super::guard::MayWrite;
use super::site::{Refusal, decoded};
use super::{Face, Undivided};
use crate::rollout::RolloutView;
use crate::upstream::{EndpointView, Order};

/// An order as its path has it.
#[derive(Debug, PartialEq)]
pub(super) struct Ordered {
    upstream: String,
    endpoint: String,
    order: Order,
}

/// What a path orders; `None`: it is no order's.
pub(super) fn read(path: &str) -> Option<Result<Ordered, Refusal>> {
    let mut parts = path.strip_prefix("/api/v1/upstreams/")?.split('/');
    let (upstream, "endpoints", endpoint, order, None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    let order = Order::ALL.into_iter().find(|known| known.label() == order)?;
    // A plus is a plus here: only behind a question mark it stands for a space.
    let name = |part: &str| decoded(&part.replace('+', "%2B"));
    let ordered = name(upstream)
        .and_then(|upstream| Ok(Ordered { upstream, endpoint: name(endpoint)?, order }))
        .map_err(|words| (StatusCode::BAD_REQUEST, words));
    Some(ordered)
}

/// Carries it out: what the endpoints of that name are then.
pub(super) fn carry_out(
    ordered: &Ordered,
    _: &MayWrite,
    face: &dyn Face,
) -> Result<Vec<EndpointView>, Refusal> {
    let Ordered { upstream, endpoint, order } = ordered;
    face.operate(upstream, endpoint, *order).map_err(|words| (StatusCode::NOT_FOUND, words))
}

/// The listener whose split a path is; `None`: it is no split's.
pub(super) fn split_of(path: &str) -> Option<Result<String, Refusal>> {
    let name = path.strip_prefix("/api/v1/listeners/")?.strip_suffix("/split")?;
    let name = decoded(&name.replace('+', "%2B")).map_err(|words| (StatusCode::BAD_REQUEST, words));
    Some(name)
}

/// An upstream's share, as an order has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    upstream: String,
    weight: u32,
}

/// Divides a listener's connections as `body` says, or else as the file does: how they are divided then.
pub(super) fn divide(
    listener: &str,
    body: Option<&[u8]>,
    _: &MayWrite,
    face: &dyn Face,
) -> Result<RolloutView, Refusal> {
    let wanted = body.map(wanted).transpose()?;
    face.divide(listener, wanted.as_deref()).map_err(|problem| match problem {
        Undivided::Unknown(words) => (StatusCode::NOT_FOUND, words),
        Undivided::Impossible(words) => (StatusCode::BAD_REQUEST, words),
    })
}

fn wanted(body: &[u8]) -> Result<Vec<(String, u32)>, Refusal> {
    let wanted: Vec<Wanted> = serde_json::from_slice(body).map_err(|error| {
        let words = format!(
            "that is no split: {error}. It is for example [{{\"upstream\": \"stable\", \"weight\": 90}}, {{\"upstream\": \"canary\", \"weight\": 10}}]"
        );
        (StatusCode::BAD_REQUEST, words)
    })?;
    Ok(wanted.into_iter().map(|Wanted { upstream, weight }| (upstream, weight)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_its_endpoint_and_what_is_to_be_done() {
        let read =
            |path: String| read(&path).map(|ordered| ordered.map(|it| (it.upstream, it.endpoint, it.order)));
        let ordered = |endpoint: &str, order| Some(Ok(("orders".to_owned(), endpoint.to_owned(), order)));
        let at = |rest: &str| format!("/api/v1/upstreams/orders/endpoints/{rest}");
        assert_eq!(read(at("db1:5432/drain")), ordered("db1:5432", Order::Drain));
        assert_eq!(read(at("[::1]:5432/open")), ordered("[::1]:5432", Order::Open));
        assert_eq!(read(at("%5B::1%5D%3A5432/auto")), ordered("[::1]:5432", Order::Auto));
        assert_eq!(read(at("a+b:1/close")), ordered("a+b:1", Order::Close));
        for none in ["db1:5432/explode", "db1:5432", "db1:5432/drain/", "db1:5432/drain/now", ""] {
            assert_eq!(read(at(none)), None, "{none}");
        }
        assert!(read(at("%f/drain")).unwrap().unwrap_err().1.contains("%XX"));
    }
}
