//! Signals and the service manager: stop, stop now, reload, ready.
//!
//! SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads. Windows has Ctrl-C only, until it runs as a service.

use std::sync::Arc;

use super::Service;

/// Serves until told to stop, then drains. Returns how many connections had to be ended.
pub async fn serve_until_stopped(service: &Arc<Service>, mut signals: Signals) -> usize {
    manager::ready();
    while let Signal::Reload = signals.next().await {
        manager::reloading();
        match service.reload().await {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(problems) => {
                for problem in problems {
                    tracing::error!("not reloaded, nothing has changed: {problem}");
                }
            }
        }
        manager::ready();
    }
    manager::stopping();
    tracing::info!("draining: no new connections; a second signal ends the open ones now");
    let ended = service.drain(signals.stop()).await;
    tracing::info!(ended, "stopped");
    ended
}

enum Signal {
    Reload,
    Stop,
}

/// The signals that a service heeds. Until they are listened to, each of them kills the process: so that comes first.
#[cfg(unix)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    async fn stop(&mut self) {
        while let Signal::Reload = self.next().await {}
    }
}

/// What stops a service.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Stop,
            Err(error) => {
                tracing::warn!("Ctrl-C cannot be listened to ({error}): end the process to stop");
                std::future::pending().await
            }
        }
    }

    async fn stop(&mut self) {
        self.next().await;
    }
}

/// systemd's notifications (sd_notify(3)); without NOTIFY_SOCKET they do nothing.
#[cfg(unix)]
mod manager {
    use sd_notify::NotifyState;

    pub(super) fn ready() {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!("systemd was not told of the reload: {error}"),
        }
    }

    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!("systemd was not told: {error}");
        }
    }
}

#[cfg(not(unix))]
mod manager {
    pub(super) fn ready() {}
    pub(super) fn reloading() {}
    pub(super) fn stopping() {}
}
