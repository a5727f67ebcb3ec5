//! What a listener's `split` and `rollout` mean.

use std::time::Duration;

use super::file;
use super::kinds::Entry;
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field};
use crate::addr::ListenAddr;
use crate::context::Kind;
use crate::protocol::Protocol;
use crate::rollout::{Progressive, Settings, Share};

/// How the listener at `place` divides its connections, with the problems of its keys noted. `None`: it does not.
pub(super) fn split(
    written: &file::Listener,
    upstreams: &[Entry<file::Upstream>],
    reader: &mut Reader,
) -> Option<Settings> {
    let Some(At { value: entries, place }) = written.split.given() else {
        without(written, reader);
        return None;
    };
    if let Some(one) = written.upstream.given() {
        reader.problem(&one.place, "stands beside `split`", "keep one of them");
    }
    let kind = written.context.or(Kind::None);
    if kind.names_destination() {
        let message = format!(
            "is drawn by chance, and with context = \"{}\" a destination chooses the upstream",
            kind.label()
        );
        reader.problem(place, message, "remove it, or use a listener of its own");
    }
    let mut shares: Vec<Share> = Vec::new();
    let mut protocol = None;
    for At { value: entry, place } in entries {
        let Some(At { value: name, place: named }) = entry.upstream.given() else { continue };
        if shares.iter().any(|share| *share.upstream == **name) {
            reader.problem(
                named,
                format!("{name} is there twice"),
                "keep one, with the weights of both added up",
            );
            continue;
        }
        if let Some(known) = upstreams.iter().find(|known| known.name == *name) {
            let its = known.section.protocol.or(Protocol::default());
            let first = *protocol.get_or_insert(its);
            if its != first {
                let message = format!(
                    "speaks {}, and the first of the split {}: a client of this listener can speak one only",
                    its.name(),
                    first.name()
                );
                reader.problem(place, message, "name upstreams of one protocol");
            }
        }
        shares.push(Share { upstream: name.as_str().into(), weight: entry.weight.or(1) });
    }
    if shares.is_empty() {
        reader.problem(
            place,
            "is empty",
            "write upstream = \"NAME\", or name two upstreams with their weights",
        );
    }
    let progressive = progressive(written, entries, &shares, reader);
    if progressive.is_none() && !shares.is_empty() && shares.iter().all(|share| share.weight == 0) {
        reader.problem(place, "gives nobody a connection: all weights are 0", "give one of them a weight");
    }
    if let Some(sticky) = written.sticky.given().filter(|sticky| sticky.value) {
        looks_alike(written, kind, &sticky.place, reader);
    }
    Some(Settings { shares, sticky: written.sticky.or(false), progressive })
}

fn without(written: &file::Listener, reader: &mut Reader) {
    if let Some(sticky) = written.sticky.given().filter(|sticky| sticky.value) {
        reader.problem(
            &sticky.place,
            "says how a split is drawn, and there is none",
            "add `split`, or remove it",
        );
    }
    if let Some(canary) = written.rollout.value().and_then(|rollout| rollout.canary.given()) {
        let mend = "add split = [{ upstream = \"stable\" }, { upstream = \"canary\" }] instead of `upstream`";
        reader.problem(
            &canary.place,
            "is one of two upstreams, and there is no `split` that names them",
            mend,
        );
    }
}

/// Where every client is the same source, all of them go the same way.
fn looks_alike(written: &file::Listener, kind: Kind, place: &Place, reader: &mut Reader) {
    let is_local = |address: &At<ListenAddr>| match &address.value {
        ListenAddr::Tcp(tcp) => tcp.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) | ListenAddr::Systemd(_) => true,
    };
    if kind == Kind::None && written.address.value().is_some_and(|all| all.iter().all(is_local)) {
        reader.warning(
            place,
            "the clients of this host look alike, those of one user at least: they all go to one upstream",
            "remove it, unless several users connect here",
        );
    }
}

fn progressive(
    written: &file::Listener,
    entries: &[At<file::SplitEntry>],
    shares: &[Share],
    reader: &mut Reader,
) -> Option<Progressive> {
    let At { value: rollout, place } = written.rollout.given()?;
    let Some(canary) = rollout.canary.given() else {
        if matches!(rollout.canary, Field::Absent) {
            reader.problem(place, "has no `canary`", "name the upstream of the split whose share is to grow");
        }
        return None;
    };
    if shares.len() != 2 || !shares.iter().any(|share| *share.upstream == *canary.value) {
        let mend =
            "write split = [{ upstream = \"stable\" }, { upstream = \"canary\" }], with the names of yours";
        reader.problem(&canary.place, "wants a split of two upstreams, of which it is one", mend);
    }
    for entry in entries {
        if let Some(weight) = entry.value.weight.given() {
            let message = "is fixed, and with `rollout` the weights move by themselves";
            reader.problem(&weight.place, message, "remove it, or `rollout`");
        }
    }
    let default = [1, 5, 25, 50, 100];
    let steps: Vec<u32> = match rollout.steps.given() {
        None => default.into(),
        Some(At { value: steps, place }) => {
            let steps: Vec<u32> = steps.iter().map(|step| step.value).collect();
            if steps.is_empty() {
                reader.problem(place, "is empty", "write for example steps = [1, 5, 25, 50, 100]");
            } else if !steps.is_sorted_by(|one, next| one < next) {
                reader.problem(
                    place,
                    "does not rise from step to step",
                    "write for example steps = [1, 5, 25, 50, 100]",
                );
            }
            steps
        }
    };
    Some(Progressive {
        canary: canary.value.as_str().into(),
        steps,
        pause: rollout.pause.or(Duration::from_secs(600)),
        minimum: rollout.minimum.or(100),
        failures: rollout.failures.or(0.01),
        slower: rollout.slower.or(0.5),
        state_file: rollout.state_file.value().cloned(),
    })
}
