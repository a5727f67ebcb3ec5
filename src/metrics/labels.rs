//! The labels of each metric, as types: a label that is forgotten does not compile.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;

use crate::addr::{ListenerName, UpstreamName};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfConnection {
    pub(super) listener: ListenerName,
    pub(super) upstream: UpstreamName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfStage {
    pub(super) upstream: UpstreamName,
    pub(super) stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfUpstream {
    pub(super) upstream: UpstreamName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfEndpoint {
    pub(super) upstream: UpstreamName,
    pub(super) endpoint: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfTransition {
    pub(super) upstream: UpstreamName,
    pub(super) endpoint: Arc<str>,
    pub(super) to: &'static str,
    pub(super) mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfAttempt {
    pub(super) upstream: UpstreamName,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfPool {
    pub(super) upstream: UpstreamName,
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfListener {
    pub(super) listener: ListenerName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfSplit {
    pub(super) listener: ListenerName,
    pub(super) upstream: UpstreamName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfCheck {
    pub(super) upstream: UpstreamName,
    pub(super) endpoint: Arc<str>,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfCertificate {
    pub(super) identity: String,
    pub(super) subject: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfReload {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfBuild {
    pub(super) version: &'static str,
}
