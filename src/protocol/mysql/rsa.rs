//! An RSA key of our own, for clients that would rather encrypt their password than send it over a connection without TLS.
//!
//! One for the process, made at its start and never written anywhere. It protects nothing that needs protection: between
//! client and nuncio the connection is as open as it was before. It is there because such a client has no other way to say
//! its password, and a server inside TLS none to hear it in this form.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use zeroize::Zeroizing;

/// A private key, and the public one as clients read it.
pub(super) struct Key {
    private: OaepPrivateDecryptingKey,
    pub(super) pem: String,
}

static KEY: LazyLock<Option<Key>> = LazyLock::new(|| Key::make().ok());

/// The process's own; `None`: none could be made.
pub(super) fn key() -> Option<&'static Key> {
    KEY.as_ref()
}

/// Makes it, which takes tenths of a second: not for a reactor. Whoever needs it meanwhile waits.
pub(super) fn prepare() {
    LazyLock::force(&KEY);
}

impl Key {
    /// 2048 bits: what servers make, and all that the oldest clients take.
    fn make() -> Result<Key, Unspecified> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048)?;
        let public: PublicKeyX509Der<'_> = private.public_key().as_der()?;
        Ok(Key { pem: pem(public.as_ref()), private: OaepPrivateDecryptingKey::new(private)? })
    }

    /// The password that a client sealed with this key and a nonce. `None`: it is none.
    pub(super) fn open(&self, sealed: &[u8], nonce: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut opened = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let length = self.private.decrypt(&OAEP_SHA1_MGF1SHA1, sealed, &mut opened, None).ok()?.len();
        opened.truncate(length);
        for (byte, mask) in opened.iter_mut().zip(nonce.iter().cycle()) {
            *byte ^= mask;
        }
        opened.ends_with(&[0]).then_some(opened)
    }
}

/// As RFC 7468 has it.
fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = [0, 1, 2].map(|at| group.get(at).copied().unwrap_or_default());
            let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
            for place in 0..4 {
                match place <= group.len() {
                    true => pem.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize])),
                    false => pem.push('='),
                }
            }
        }
        pem.push('\n');
    }
    pem + "-----END PUBLIC KEY-----\n"
}
