//! Signals and the service manager: stop, stop now, reload, ready.
//!
//! SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads. On Windows Ctrl-C and Ctrl-Break drain, and a
//! console that is closed, in the time that Windows gives; there is nothing that reloads.

use std::sync::Arc;

use super::Service;

/// Serves until told to stop, then drains. Returns how many connections had to be ended.
pub async fn serve_until_stopped(service: &Arc<Service>, mut signals: Signals) -> usize {
    manager::ready();
    while let Signal::Reload = signals.next().await {
        manager::reloading();
        let result = tokio::select! {
            result = service.reload() => result,
            // What it reads may lie on a network that hangs.
            () = signals.stop() => {
                tracing::warn!("the reload had not read everything yet, and is given up: nothing has changed");
                break;
            }
        };
        match result {
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
    #[cfg_attr(windows, expect(dead_code, reason = "no event of the console means it"))]
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

    /// A wish to reload waits meanwhile.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The events of the console that a service heeds. Until they are listened to, each of them ends the process: so that
/// comes first.
#[cfg(windows)]
pub struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    break_key: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
    /// When the open connections have to end, where Windows does not let a process drain for as long as it likes.
    latest: Option<tokio::time::Instant>,
}

#[cfg(windows)]
impl Signals {
    /// Windows ends a process five seconds after its console was closed, whatever it is doing: records that are not
    /// written by then are lost.
    const LAST: std::time::Duration = std::time::Duration::from_secs(3);

    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> std::io::Result<Signals> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Signals {
            interrupt: ctrl_c()?,
            break_key: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
            latest: None,
        })
    }

    async fn next(&mut self) -> Signal {
        let hurried = tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.break_key.recv() => false,
            _ = self.close.recv() => true,
            _ = self.shutdown.recv() => true,
        };
        if hurried {
            self.latest = Some(tokio::time::Instant::now() + Signals::LAST);
        }
        Signal::Stop
    }

    async fn stop(&mut self) {
        // A drain that has time can still be hurried: any second event ends it at once.
        match self.latest {
            Some(latest) => drop(tokio::time::timeout_at(latest, self.next()).await),
            None => {
                self.next().await;
            }
        }
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

/// There is nobody to tell.
#[cfg(windows)]
mod manager {
    pub(super) fn ready() {}
    pub(super) fn reloading() {}
    pub(super) fn stopping() {}
}
