//! Users and groups by name or number, as the system's databases have them (passwd, LDAP, whatever NSS is set to ask).

#[cfg(unix)]
use std::ffi::CString;

#[cfg(unix)]
use super::sys;

/// The number of a user that is written as a name or a number.
#[cfg(unix)]
pub fn user_id(written: &str) -> Result<u32, String> {
    if let Ok(number) = written.parse() {
        return Ok(number);
    }
    match CString::new(written).map(|name| sys::user_by_name(&name)) {
        Ok(Ok(Some(user))) => Ok(user.uid),
        Ok(Ok(None)) | Err(_) => {
            Err(format!("there is no user '{written}' on this host: create it, or write its number"))
        }
        Ok(Err(error)) => Err(format!("user '{written}' could not be looked up: {error}")),
    }
}

/// The number of a group that is written as a name or a number.
#[cfg(unix)]
pub fn group_id(written: &str) -> Result<u32, String> {
    if let Ok(number) = written.parse() {
        return Ok(number);
    }
    match CString::new(written).map(|name| sys::group_by_name(&name)) {
        Ok(Ok(Some(gid))) => Ok(gid),
        Ok(Ok(None)) | Err(_) => {
            Err(format!("there is no group '{written}' on this host: create it, or write its number"))
        }
        Ok(Err(error)) => Err(format!("group '{written}' could not be looked up: {error}")),
    }
}

/// Every group of a user, by the databases; empty for a user that they do not know.
#[cfg(unix)]
pub fn groups_of(uid: u32) -> Result<Vec<u32>, String> {
    match sys::user_by_id(uid) {
        Ok(Some(user)) => Ok(sys::groups_of(&user)),
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(format!("the groups of uid {uid} could not be looked up: {error}")),
    }
}

/// What a user is called; `None`: nothing, or nobody knows.
#[cfg(unix)]
pub fn name_of(uid: u32) -> Option<String> {
    let user = sys::user_by_id(uid).ok()??;
    Some(user.name.to_string_lossy().into_owned())
}

/// For a person: `erp (uid 1001)`, or `uid 1001` where it has no name.
#[cfg(unix)]
pub fn describe(uid: u32) -> String {
    match name_of(uid) {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

/// Are we root?
#[cfg(unix)]
pub fn is_privileged() -> bool {
    sys::effective_user() == 0
}

/// There is no root here; administrators are ordinary users until they raise themselves.
#[cfg(not(unix))]
pub fn is_privileged() -> bool {
    false
}

/// Numbers of users mean nothing here.
#[cfg(not(unix))]
pub fn user_id(written: &str) -> Result<u32, String> {
    Err(format!("user '{written}': connections have no owner that this platform would tell"))
}

/// Numbers of groups mean nothing here.
#[cfg(not(unix))]
pub fn group_id(written: &str) -> Result<u32, String> {
    Err(format!("group '{written}': connections have no owner that this platform would tell"))
}

/// Nobody has groups here.
#[cfg(not(unix))]
pub fn groups_of(_: u32) -> Result<Vec<u32>, String> {
    Ok(Vec::new())
}

/// Users have no numbers here.
#[cfg(not(unix))]
pub fn name_of(_: u32) -> Option<String> {
    None
}

/// For a person.
#[cfg(not(unix))]
pub fn describe(uid: u32) -> String {
    format!("uid {uid}")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_number_a_group_and_a_name() {
        assert_eq!(user_id("root"), Ok(0));
        assert_eq!(user_id("4321"), Ok(4321));
        assert!(groups_of(0).unwrap().contains(&0));
        assert_eq!(describe(0), "root (uid 0)");
    }

    #[test]
    fn a_user_or_group_that_does_not_exist_is_named() {
        assert!(user_id("no-such-user").unwrap_err().contains("'no-such-user'"));
        assert!(group_id("no\0such").unwrap_err().contains("there is no group"));
        assert_eq!(groups_of(3_999_999_999), Ok(Vec::new()));
        assert_eq!(describe(3_999_999_999), "uid 3999999999");
    }
}
