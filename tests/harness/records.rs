//! TLS 1.3 records written by hand after a real handshake: alerts and messages that no library would send.

use std::io::{self, Write};
use std::net::TcpStream;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ServerConfig};

use super::upstream::TlsStream;

/// Content types (RFC 8446, section 5.1).
pub mod content {
    /// Alerts.
    pub const ALERT: u8 = 21;
    /// Handshake messages, key updates among them.
    pub const HANDSHAKE: u8 = 22;
    /// What the application sent.
    pub const DATA: u8 = 23;
}

/// A KeyUpdate message that asks for one in return (RFC 8446, section 4.6.3).
pub const KEY_UPDATE_REQUESTED: &[u8] = &[24, 0, 0, 1, 1];

/// The sending half of a connection whose keys were taken from rustls.
pub struct Records {
    stream: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// Makes `config` give its keys away, and use the one suite that [`Records`] has.
pub fn allow(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
}

impl Records {
    /// Takes over a TLS 1.3 connection with AES-256-GCM.
    pub fn take_over(tls: TlsStream) -> Records {
        let (connection, stream) = tls.into_parts();
        let secrets = connection.dangerous_extract_secrets().expect("secret extraction is enabled");
        let (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) = secrets.tx else {
            panic!("the connection does not use AES-256-GCM");
        };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("a key of 32 bytes"));
        Records { stream, key, iv: iv.as_ref().try_into().expect("an IV of 12 bytes"), sequence }
    }

    /// Sends one record.
    pub fn send(&mut self, content: u8, bytes: &[u8]) -> io::Result<()> {
        let mut inner = [bytes, &[content]].concat();
        let length = u16::try_from(inner.len() + AES_256_GCM.tag_len()).expect("a record fits 16 bits");
        let [high, low] = length.to_be_bytes();
        let header = [23, 3, 3, high, low];
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence += 1;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut inner)
            .expect("a record can be sealed");
        self.stream.write_all(&[&header[..], &inner].concat())
    }

    /// The socket beneath.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
