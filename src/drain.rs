//! drain
/// Sees a drain.
#[derive(Clone, Debug)]
pub struct Watch(tokio::sync::watch::Receiver<bool>);
impl Watch {
    /// Has it begun?
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }
}
/// Begins a drain.
#[derive(Debug)]
pub struct Drain(tokio::sync::watch::Sender<bool>);
impl Drain {
    /// Not begun.
    pub fn new() -> (Drain, Watch) {
        let (sender, receiver) = tokio::sync::watch::channel(false);
        (Drain(sender), Watch(receiver))
    }
    /// Begins.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}
