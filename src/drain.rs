//! drain
/// Sees a drain.
#[derive(Clone, Debug)]
pub struct Watch(tokio::sync::watch::Receiver<bool>);
