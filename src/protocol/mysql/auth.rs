//! The plugins that clients log in by, as far as TLS in the middle changes what is said.
//!
//! Over a connection that it takes for open, a client of caching_sha2_password or sha256_password sends its password only
//! encrypted with the server's RSA key, and asks for that. A server inside TLS expects the password itself.

/// What a client is logged in by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Plugin {
    /// A hash first, which the server knows by heart or not: then the password.
    CachingSha2,
    /// The password at once.
    Sha256,
    /// Also the password, and the server is to see it. Clients do so only where told to.
    Clear,
    /// The server's own dialogue, PAM's among them.
    Dialog,
    /// Nothing that TLS changes: mysql_native_password, client_ed25519, parsec and the others.
    #[default]
    Other,
}

/// What a client says where a server inside TLS expects the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Something that the server is to judge: the password itself.
    Plain,
    /// It asks for the server's RSA key.
    AsksKey,
    /// The password, encrypted with a key that is not ours.
    Sealed,
}

/// What is wrong with [`Answer::Sealed`], and what to do.
pub(super) const SEALED: (&str, &str) = (
    "the client sent its password encrypted with an RSA key that it was given beforehand, which only the server itself can open",
    "take the server's key file out of the client (--server-public-key-path, serverRSAPublicKeyFile), and let it ask for the \
     key (--get-server-public-key, allowPublicKeyRetrieval=true)",
);

impl Plugin {
    pub(super) fn of(name: &[u8]) -> Plugin {
        match name {
            b"caching_sha2_password" => Plugin::CachingSha2,
            b"sha256_password" => Plugin::Sha256,
            b"mysql_clear_password" => Plugin::Clear,
            b"dialog" => Plugin::Dialog,
            _ => Plugin::Other,
        }
    }

    /// What a client means by its first answer to it.
    pub(super) fn answers(self, said: &[u8]) -> Answer {
        match self {
            Plugin::Sha256 => self.tells(said),
            // Its first answer is a hash.
            Plugin::CachingSha2 | Plugin::Clear | Plugin::Dialog | Plugin::Other => Answer::Plain,
        }
    }

    /// What a client means that is to tell its password.
    pub(super) fn tells(self, said: &[u8]) -> Answer {
        match (self, said) {
            (Plugin::Sha256, [1]) | (Plugin::CachingSha2, [2]) => Answer::AsksKey,
            (Plugin::Sha256 | Plugin::CachingSha2, said) if !is_password(said) => Answer::Sealed,
            _ => Answer::Plain,
        }
    }
}

/// A password ends with a zero byte, and has none inside; without one it is that byte, or nothing. What an RSA key of some
/// usual length has sealed may look so too, but is no text.
fn is_password(said: &[u8]) -> bool {
    let Some((last, password)) = said.split_last() else { return true };
    let may_be_sealed = matches!(said.len(), 128 | 256 | 384 | 512);
    *last == 0 && !password.contains(&0) && !(may_be_sealed && std::str::from_utf8(password).is_err())
}
