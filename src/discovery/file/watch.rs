//! What the kernel tells of a file, where it does: Linux, by inotify on the file's directory, since a file that is put in its
//! place by a rename is another one each time.

use std::path::Path;

#[cfg(target_os = "linux")]
pub(super) use linux::Watch;

/// Where nobody tells.
#[cfg(not(target_os = "linux"))]
pub(super) struct Watch;

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(super) fn none() -> Watch {
        Watch
    }

    pub(super) fn of(_: &Path) -> Watch {
        Watch
    }

    pub(super) fn has_ended(&self) -> bool {
        false
    }

    pub(super) async fn changed(&mut self) {
        std::future::pending().await
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsString;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;

    use rustix::fd::OwnedFd;
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;
    use tokio::io::unix::AsyncFd;

    use super::Path;

    /// The watch of a file's directory.
    pub(in super::super) struct Watch {
        name: OsString,
        /// `None`: the directory is not there, or there are too many watches already. Then the file is looked at now and then.
        events: Option<AsyncFd<OwnedFd>>,
    }

    impl Watch {
        /// Tells nothing.
        pub(in super::super) fn none() -> Watch {
            Watch { name: OsString::new(), events: None }
        }

        /// Of this file, where that can be had. Takes as long as it takes to find its directory.
        pub(in super::super) fn of(path: &Path) -> Watch {
            Watch { name: path.file_name().unwrap_or_default().to_owned(), events: watched(path).ok() }
        }

        /// Nothing more will be told.
        pub(in super::super) fn has_ended(&self) -> bool {
            self.events.is_none()
        }

        /// Something has become of the file.
        pub(in super::super) async fn changed(&mut self) {
            loop {
                let Some(events) = &self.events else { return std::future::pending().await };
                let Ok(mut ready) = events.readable().await else {
                    self.events = None;
                    return;
                };
                match drain(events.get_ref(), &self.name) {
                    Seen::Nothing => ready.clear_ready(),
                    Seen::Change => {
                        ready.clear_ready();
                        return;
                    }
                    Seen::End => {
                        self.events = None;
                        return;
                    }
                }
            }
        }
    }

    #[expect(
        deprecated,
        reason = "what is unsound about it are types that give another descriptor each time; OwnedFd is one and owns it"
    )]
    fn watched(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        add_watch(&events, directory, what)?;
        AsyncFd::new(events)
    }

    #[derive(PartialEq)]
    enum Seen {
        Nothing,
        Change,
        /// The directory has gone: whatever stands in its place has to be watched anew.
        End,
    }

    /// Everything that has been told so far.
    fn drain(events: &OwnedFd, name: &OsString) -> Seen {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(events, &mut buffer);
        let mut seen = Seen::Nothing;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return seen,
                Err(Errno::INTR) => continue,
                Err(_) => return Seen::End,
            };
            let gone = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
            if event.events().intersects(gone) {
                return Seen::End;
            }
            // Kubernetes renames `..data`, through which the links of a mounted ConfigMap lead.
            let ours = event.file_name().is_none_or(|told| {
                let told = told.to_bytes();
                told == name.as_os_str().as_bytes() || told.starts_with(b"..")
            });
            if ours {
                seen = Seen::Change;
            }
        }
    }
}
