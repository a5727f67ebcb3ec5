//! The two peers of our own: the floor under any relay with TLS, and what one writes in ten lines.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::pki::SERVER_NAME;
use crate::upstream;

/// Two blocking threads a connection that copy, with one AES-256-GCM pass over as many bytes as they move: the two
/// copies and the cipher that nobody can do without. What is sealed is a scratch buffer, since the bytes have to arrive.
pub fn floor(listen: &str, upstream: &str) -> Result<(), String> {
    let listener = TcpListener::bind(listen).map_err(|e| e.to_string())?;
    loop {
        let (client, _) = listener.accept().map_err(|e| e.to_string())?;
        let server = TcpStream::connect(upstream).map_err(|e| e.to_string())?;
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.set_nodelay(true).map_err(|e| e.to_string())?;
            let (from, to) = (from.try_clone(), to.try_clone());
            let (from, to) = (from.map_err(|e| e.to_string())?, to.map_err(|e| e.to_string())?);
            // An error is the end of a connection: the next round opens new ones.
            std::thread::spawn(move || copy_and_seal(&from, &to).and_then(|()| to.shutdown(Shutdown::Write)));
        }
    }
}

fn copy_and_seal(mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
    const RECORD: usize = 16 * 1024;
    let key = UnboundKey::new(&AES_256_GCM, &[1; 32]).map(LessSafeKey::new).map_err(std::io::Error::other)?;
    let (mut buffer, mut scratch) = (vec![0; 256 * 1024], [0; RECORD]);
    let mut sequence = 0_u64;
    loop {
        let count = match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => count,
        };
        for record in buffer[..count].chunks(RECORD) {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&sequence.to_be_bytes());
            sequence += 1;
            let tag = key.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut scratch[..record.len()],
            );
            drop(std::hint::black_box(tag.map_err(std::io::Error::other)?));
        }
        to.write_all(&buffer[..count])?;
    }
}

/// tokio-rustls and `copy_bidirectional` with its own buffers, on one thread.
pub fn naive(listen: &str, upstream: &str, pki: &str) -> Result<(), String> {
    let (chain, key) = upstream::identity(pki, "client")?;
    let config = ClientConfig::builder_with_provider(upstream::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(upstream::roots(pki)?)
        .with_client_auth_cert(chain, key)
        .map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| e.to_string())?;
    upstream::block_on(async {
        let listener = upstream::listen(listen)?;
        loop {
            let (mut client, _) = listener.accept().await.map_err(|e| e.to_string())?;
            let (connector, name, upstream) = (connector.clone(), name.clone(), upstream.to_owned());
            tokio::spawn(async move {
                client.set_nodelay(true)?;
                let server = tokio::net::TcpStream::connect(upstream).await?;
                server.set_nodelay(true)?;
                let mut server = connector.connect(name, server).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    })
}
