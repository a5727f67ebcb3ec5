//! What a client is asked for, why it may leave then, and what of the conversation cannot be let go on.

use super::auth::{Plugin, SEALED};
use crate::relay::{Objection, Party, Remark};

/// What a client may leave for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To begin anew, by another plugin.
    Switch,
    /// For its password, where a client without TLS has to ask for a key first.
    Password,
    /// For more.
    More,
}

impl Asked {
    /// What a client that leaves now may have left for.
    pub(super) fn left_for(self, plugin: Plugin, is_behind_ssl_request: bool) -> Option<Remark> {
        let (detail, mend) = match (self, plugin) {
            (Asked::Password, Plugin::CachingSha2) if is_behind_ssl_request => (
                "the client left when the server asked for its password (caching_sha2_password, and not in the server's \
                 cache): without TLS of its own it sends one only encrypted, and did not ask for the key",
                ASK_FOR_KEY,
            ),
            (Asked::Password, Plugin::Sha256) if is_behind_ssl_request => (
                "the client left when the server asked for its password (sha256_password): without TLS of its own it sends \
                 one only encrypted, and did not ask for the key",
                ASK_FOR_KEY,
            ),
            (Asked::Switch, Plugin::Clear) => (
                "the client left when the server asked it for its password in the clear (mysql_clear_password)",
                "let it: --enable-cleartext-plugin, LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN=1; some send it over a Unix socket only",
            ),
            (Asked::Switch, _) => (
                "the client left when the server asked it to log in by another plugin: it may not have it, or no password",
                "look in the client's own log; the account's plugin is in the server's mysql.user",
            ),
            (Asked::Password | Asked::More, _) => return None,
        };
        Some(Remark { of: Party::Client, detail: detail.into(), mend })
    }
}

const ASK_FOR_KEY: &str = "let it ask for the server's RSA key, which nuncio gives it: --get-server-public-key, \
                           allowPublicKeyRetrieval=true, GET_SERVER_PUBLIC_KEY";

pub(super) const NO_KEY: Objection = Objection {
    to: Party::Ambassador,
    detail: "no RSA key could be made for the client's password",
    mend: "this is a defect of nuncio: please report it with the log line",
};

pub(super) const NOT_OPENED: Objection = Objection {
    to: Party::Client,
    detail: "what the client sent for its password was not encrypted with the key that it was given",
    mend: SEALED.1,
};

pub(super) fn too_long(to: Party) -> Objection {
    let detail = match to {
        Party::Client => "the client said more than 64 KiB before it was logged in",
        _ => "the server said more than 64 KiB at once before the client was logged in",
    };
    Objection { to, detail, mend: "is it MySQL that is spoken here?" }
}
