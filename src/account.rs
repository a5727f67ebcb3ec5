//! Who we are where a name and a password are wanted: at a server that is checked, at a proxy on the way. Leaves the login itself to
//! those who log in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

/// No secret is longer.
const LONGEST: u64 = 1024;

/// How long reading one may take: less than a check, whose endpoint is not to blame for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Files that are being read: what hangs on a file system that is away keeps no more threads than these.
static READS: Semaphore = Semaphore::const_new(16);

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Where its password stands; `None`: it has none.
    pub password_file: Option<PathBuf>,
}

impl Login {
    /// As [`Login::password`], for those who share their thread with connections: a file on the network may hang for as long as
    /// it likes. It is waited for a second at most.
    ///
    /// # Errors
    /// Likewise.
    pub async fn password_aside(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        // Nothing is read.
        if self.password_file.is_none() {
            return self.password();
        }
        let (login, deadline) = (self.clone(), Instant::now() + PATIENCE);
        let late = |_| format!("password_file: it could not be read within {} s", PATIENCE.as_secs());
        let place = timeout_at(deadline, READS.acquire()).await.map_err(late)?;
        let read = tokio::task::spawn_blocking(move || {
            let password = login.password();
            // Held until then, and not only for as long as somebody waits.
            drop(place);
            password
        });
        let read = timeout_at(deadline, read).await.map_err(late)?;
        read.unwrap_or_else(|panicked| Err(format!("password_file: {panicked}")))
    }

    /// What the file has, without the line's end that editors leave there.
    ///
    /// # Errors
    /// Why it cannot be read as a password.
    pub fn password(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let Some(path) = &self.password_file else { return Ok(Zeroizing::default()) };
        let complaint = |what: &dyn std::fmt::Display| format!("password_file {}: {what}", path.display());
        let password = secret(path).map_err(|problem| complaint(&problem))?;
        match password.len() {
            0 => Err(complaint(&"is empty; for a user without a password leave the key out")),
            _ if password.contains(&0) => Err(complaint(&"has a zero byte, which no password can have")),
            _ => Ok(password),
        }
    }
}

/// What a file with one secret has, without the line's end that editors leave there.
///
/// # Errors
/// Why it cannot be read.
pub fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut secret = Zeroizing::new(Vec::new());
    // One byte more than may be, and room for it: what grows leaves copies behind.
    secret.reserve_exact(LONGEST as usize + 1);
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut secret));
    read.map_err(|error| error.to_string())?;
    while secret.ends_with(b"\n") || secret.ends_with(b"\r") {
        secret.pop();
    }
    match secret.len() as u64 > LONGEST {
        true => Err("has more than 1024 bytes".to_owned()),
        false => Ok(secret),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// A file on a network that is away is as a pipe that nobody writes to. Its login waits; what shares its thread does not.
    #[tokio::test]
    async fn a_password_that_hangs_holds_up_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let login = Login { user: "erp".into(), password_file: Some(path.clone()) };
        let (go_on, goes_on) = mpsc::channel();
        let writes = std::thread::spawn(move || {
            let went_on = goes_on.recv_timeout(Duration::from_secs(5));
            std::fs::write(path, if went_on.is_ok() { "secret\n" } else { "nobody went on\n" })
        });
        let read = tokio::spawn(async move { login.password_aside().await });
        tokio::task::yield_now().await;
        go_on.send(()).ok();
        assert_eq!(&**read.await.unwrap().unwrap(), b"secret");
        writes.join().unwrap().unwrap();
    }

    /// Told as a fault of ours, before the time is over in which a check would hold it against its endpoint.
    #[tokio::test]
    async fn a_password_that_never_comes_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let login = Login { user: "erp".into(), password_file: Some(path.clone()) };
        let told = login.password_aside().await.unwrap_err();
        assert_eq!(told, "password_file: it could not be read within 1 s");
        // The thread that reads is let go.
        std::fs::write(path, "too late").unwrap();
    }
}
