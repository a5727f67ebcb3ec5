//! The files of Unix sockets: made with their mode and owner before anybody can connect, and removed when we are done.
//!
//! A file that a dead process left behind is replaced, one that somebody listens on is respected, and anything that is
//! not a socket is left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::Settings;
use crate::socket::users;

/// Who may connect to a Unix socket, by its file.
#[derive(Debug)]
pub(super) struct Access {
    mode: u32,
    owner: Option<u32>,
    group: Option<u32>,
}

impl Access {
    /// Names looked up.
    pub(super) fn new(settings: &Settings) -> Result<Access, String> {
        let owner = settings.owner.as_deref().map(users::user_id).transpose();
        let group = settings.group.as_deref().map(users::group_id).transpose();
        Ok(Access {
            mode: settings.mode,
            owner: owner.map_err(|problem| format!("owner: {problem}"))?,
            group: group.map_err(|problem| format!("group: {problem}"))?,
        })
    }

    /// Sets mode, owner and group.
    pub(super) fn give_to(&self, path: &Path) -> Result<(), String> {
        if self.owner.is_some() || self.group.is_some() {
            std::os::unix::fs::lchown(path, self.owner, self.group).map_err(|error| {
                format!(
                    "cannot give {} to its owner and group: {error}; only root may set the owner, and a group only who \
                     is in it",
                    path.display()
                )
            })?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
            .map_err(|error| format!("cannot set the mode of {}: {error}", path.display()))
    }
}

/// The file of a listening socket, removed with this value unless somebody has put another in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let file = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.into(), identity: (file.dev(), file.ino()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at the path is the one that we made.
    pub(super) fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// A socket with this mode for whoever accepts from it by himself.
///
/// # Errors
/// What keeps it from being bound, and what would mend that.
pub fn bind_alone(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), String> {
    bind(path, &Access { mode, owner: None, group: None }, BACKLOG)
}

/// Connections that wait for who accepts them by himself.
const BACKLOG: u32 = 128;

/// Binds and listens.
pub(super) fn bind(path: &Path, access: &Access, backlog: u32) -> Result<(UnixListener, SocketFile), String> {
    let refused = |error: io::Error| {
        format!("cannot listen on unix:{}: {error}{}", path.display(), next_step(path, &error))
    };
    let address = SockAddr::unix(path).map_err(|_| {
        let length = path.as_os_str().len();
        format!("cannot listen on unix:{}: the path has {length} bytes, and the system's limit for sockets is about 100; choose a shorter one", path.display())
    })?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(refused)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            make_room(path)?;
            socket.bind(&address).map_err(refused)?;
        }
        bound => bound.map_err(refused)?,
    }
    let file = SocketFile::new(path).map_err(refused)?;
    // Until listen(2) the kernel refuses everybody, so that nobody slips in under the mode that the umask left. (A
    // umask set around bind(2) would be for the whole process, and a file renamed into place leaves litter on a crash.)
    access.give_to(path)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(refused)?;
    socket.set_nonblocking(true).map_err(refused)?;
    Ok((socket.into(), file))
}

/// Removes what a dead process left behind; says why where it must stay.
fn make_room(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            return Err(format!(
                "cannot listen on unix:{shown}: there is a file that is no socket; remove it or choose another path"
            ));
        }
        Err(_) => return Ok(()), // gone in the meantime, or bind(2) will say what is wrong
    }
    match try_connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| {
                format!("cannot listen on unix:{shown}: nobody uses the socket there, but it cannot be removed: {error}")
            })?;
            tracing::info!(path = %shown, "a socket that nobody listened on was replaced");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue (EAGAIN) is somebody's too.
        Ok(()) => Err(in_use(path)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(path)),
        Err(error) => Err(format!(
            "cannot listen on unix:{shown}: there is a socket, and whether somebody listens on it cannot be told: \
             {error}; remove it if nobody does"
        )),
    }
}

fn in_use(path: &Path) -> String {
    let shown = path.display();
    format!(
        "cannot listen on unix:{shown}: another process does; `ss -xlp src {shown}` shows who, and each listener needs a \
         path of its own"
    )
}

/// Never waits, whatever the other process does.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// What would mend a refused path.
fn next_step(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("; there is no directory {shown}: create it (in a unit: RuntimeDirectory=)")
        }
        io::ErrorKind::PermissionDenied => format!("; nuncio's user may not create files in {shown}"),
        _ => String::new(),
    }
}
