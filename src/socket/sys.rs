//! The system calls that std, tokio and socket2 do not wrap: the only unsafe code of the crate, each block with its proof.
//!
//! Everything here is a safe function over one call. What the answers mean is the callers' business.
#![expect(unsafe_code, reason = "calls into libc that no dependency wraps")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use super::TcpFacts;

/// Bytes sent that the peer has not acknowledged (TCP) or not read (Unix); `None` where the platform does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn unsent(socket: &impl AsFd) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int, and `bytes` is one that lives through the call; the descriptor is
    // borrowed from a live socket.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer == 0 { usize::try_from(bytes).ok() } else { None }
}

/// The platform has no question for it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unsent(_: &impl AsFd) -> Option<usize> {
    None
}

/// The first byte that waits, which stays where it is; `None`: the peer has closed.
pub(crate) fn peek_byte(socket: &impl AsFd) -> io::Result<Option<u8>> {
    let mut byte = [MaybeUninit::uninit()];
    match socket2::SockRef::from(socket).peek(&mut byte)? {
        0 => Ok(None),
        // SAFETY: the kernel has written as many bytes as it said, and that is one at least.
        _ => Ok(Some(unsafe { byte[0].assume_init() })),
    }
}

/// gethostname(3).
pub(crate) fn host_name() -> Option<String> {
    let mut name = [0_u8; 256];
    // SAFETY: at most as many bytes are written as are said to be there, and `name` has one more, which stays zero.
    let answer = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    if answer != 0 {
        return None;
    }
    CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(ToOwned::to_owned)
}

/// TCP_INFO of a connection.
#[cfg(target_os = "linux")]
fn tcp_info(socket: &impl AsFd) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has just that size; both live through the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return None;
    }
    // SAFETY: tcp_info is made of integers only, so the zeroes it began with are valid wherever the kernel wrote nothing.
    Some(unsafe { info.assume_init() })
}

/// What the kernel measured.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_facts(socket: &impl AsFd) -> Option<TcpFacts> {
    let info = tcp_info(socket)?;
    Some(TcpFacts {
        rtt: std::time::Duration::from_micros(u64::from(info.tcpi_rtt)),
        retransmits: info.tcpi_total_retrans,
    })
}

/// Has neither side ended the connection?
#[cfg(target_os = "linux")]
pub(crate) fn is_established(socket: &impl AsFd) -> Option<bool> {
    /// TCP_ESTABLISHED of the kernel's net/tcp_states.h, which libc does not carry.
    const ESTABLISHED: u8 = 1;
    tcp_info(socket).map(|info| info.tcpi_state == ESTABLISHED)
}

/// The platform's TCP_INFO, if any, has another shape.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_established(_: &impl AsFd) -> Option<bool> {
    None
}

/// The platform's TCP_INFO, if any, has another shape.
#[cfg(not(target_os = "linux"))]
pub(crate) fn tcp_facts(_: &impl AsFd) -> Option<TcpFacts> {
    None
}

/// Raises the soft limit of open descriptors to the hard one, and says what holds now.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit, and `limit` is one that lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024; // POSIX' usual minimum: the call cannot fail with these arguments.
    }
    // macOS says "unlimited" as the hard limit and then refuses more than OPEN_MAX.
    for wanted in [limit.rlim_max, limit.rlim_max.min(10_240)] {
        if wanted <= limit.rlim_cur {
            break;
        }
        let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max };
        // SAFETY: setrlimit reads one rlimit, and `raised` is one that lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return wanted;
        }
    }
    limit.rlim_cur
}

/// Sees to it that keys in memory never reach a core dump, nor another process of the same user.
pub fn forbid_core_dumps() -> io::Result<()> {
    // A core_pattern that is a pipe may ignore the limit, so that on Linux the process is marked as well; the mark alone
    // would do there, but the limit is what an operator looks for in /proc/PID/limits.
    #[cfg(target_os = "linux")]
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as libc::c_ulong, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: setrlimit reads one rlimit, and `none` is one that lives through the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The sockets that systemd passed, with their names. They are handed out once: a second call finds none.
#[cfg(target_os = "linux")]
pub(crate) fn inherited_sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: LISTEN_PID names this process, so these descriptors were opened for it and by nobody in it; `TAKEN` sees to
    // it that each gets one owner only. (That they are open was checked when their close-on-exec flag was set.)
    Ok(passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}

/// A user as the system's databases know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub(crate) name: CString,
    /// Its number.
    pub(crate) uid: u32,
    /// Its primary group.
    pub(crate) gid: u32,
}

/// Largest answer of a user database that is waited for: a group with tens of thousands of members fits.
const LARGEST_ENTRY: usize = 4 << 20;

/// Calls a `get…_r` function with growing scratch space until the entry fits.
fn entry<T>(
    mut call: impl FnMut(&mut [libc::c_char]) -> Result<Option<T>, libc::c_int>,
) -> io::Result<Option<T>> {
    let mut scratch = vec![0; 1024];
    loop {
        match call(&mut scratch) {
            Ok(found) => return Ok(found),
            Err(libc::EINTR) => {}
            Err(libc::ERANGE) if scratch.len() < LARGEST_ENTRY => scratch.resize(scratch.len() * 4, 0),
            // POSIX lets "no such entry" come back as any of these.
            Err(0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM) => return Ok(None),
            Err(code) => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// What a lookup found: the name is copied out while the scratch space still lives.
///
/// # Safety
/// If `code` is 0, `found` is null or points at a record that the lookup filled, and both the record and the scratch space
/// behind it live until this returns.
unsafe fn user_from(code: libc::c_int, found: *const libc::passwd) -> Result<Option<User>, libc::c_int> {
    if code != 0 {
        return Err(code);
    }
    // SAFETY: the caller's promise.
    let Some(record) = (unsafe { found.as_ref() }) else { return Ok(None) };
    // SAFETY: the name of a record that was filled is a NUL-terminated string in the scratch space.
    let name = unsafe { CStr::from_ptr(record.pw_name) };
    Ok(Some(User { name: name.into(), uid: record.pw_uid, gid: record.pw_gid }))
}

/// The user that we act as.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// The user of this name.
pub(crate) fn user_by_name(name: &CStr) -> io::Result<Option<User>> {
    entry(|scratch| {
        let mut record = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live objects of the sizes given, and `name` is NUL-terminated.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                record.as_mut_ptr(),
                scratch.as_mut_ptr(),
                scratch.len(),
                &raw mut found,
            )
        };
        // SAFETY: `record` and `scratch` outlive the call, and the lookup set `found` to `record` or null.
        unsafe { user_from(code, found) }
    })
}

/// The user of this number.
pub(crate) fn user_by_id(uid: u32) -> io::Result<Option<User>> {
    entry(|scratch| {
        let mut record = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live objects of the sizes given.
        let code = unsafe {
            libc::getpwuid_r(uid, record.as_mut_ptr(), scratch.as_mut_ptr(), scratch.len(), &raw mut found)
        };
        // SAFETY: `record` and `scratch` outlive the call, and the lookup set `found` to `record` or null.
        unsafe { user_from(code, found) }
    })
}

/// The number of the group of this name.
pub(crate) fn group_by_name(name: &CStr) -> io::Result<Option<u32>> {
    entry(|scratch| {
        let mut record = MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = ptr::null_mut();
        // SAFETY: all pointers are to live objects of the sizes given, and `name` is NUL-terminated.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                record.as_mut_ptr(),
                scratch.as_mut_ptr(),
                scratch.len(),
                &raw mut found,
            )
        };
        match code {
            0 if found.is_null() => Ok(None),
            // SAFETY: on success `found` points at `record`, which the call filled and which lives here.
            0 => Ok(Some(unsafe { (*found).gr_gid })),
            code => Err(code),
        }
    })
}

/// Every group of the user, its primary one among them.
pub(crate) fn groups_of(user: &User) -> Vec<u32> {
    // macOS declares groups as int here where all others have gid_t.
    #[cfg(target_vendor = "apple")]
    type Gid = libc::c_int;
    #[cfg(not(target_vendor = "apple"))]
    type Gid = libc::gid_t;

    let mut groups = vec![0_u32; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: at most `count` numbers of four bytes are written to `groups`, which has room for that many; the name is
        // NUL-terminated.
        let answer = unsafe {
            libc::getgrouplist(
                user.name.as_ptr(),
                user.gid as Gid,
                groups.as_mut_ptr().cast::<Gid>(),
                &raw mut count,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        if answer >= 0 {
            groups.truncate(count);
            return groups;
        }
        // Linux says in `count` how many there are, others leave it. The bound is far above what any system allows.
        let wanted = count.max(groups.len() * 2);
        if wanted > 1 << 20 {
            return vec![user.gid];
        }
        groups.resize(wanted, 0);
    }
}
