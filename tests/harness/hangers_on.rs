//! Clients of an HTTP server that take its connections and leave it nothing to do: each kind keeps a place in its own way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// How a client keeps its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangerOn {
    /// Connects, and never says a word.
    Mute,
    /// Begins a request, and never ends it.
    HalfARequest,
    /// Has had its answer, and keeps the connection for later.
    KeptAlive,
}

impl HangerOn {
    /// All of them.
    pub const ALL: [HangerOn; 3] = [HangerOn::Mute, HangerOn::HalfARequest, HangerOn::KeptAlive];

    /// Connects and does as it does; the place is kept until what is returned is dropped.
    #[track_caller]
    pub fn hang_on(self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit is set");
        let whole = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
        match self {
            HangerOn::Mute => {}
            HangerOn::HalfARequest => self.says(&mut stream, whole.trim_end()),
            HangerOn::KeptAlive => {
                self.says(&mut stream, &whole);
                let mut status = [0; 12];
                // It may be sent away before: by others of its kind.
                if stream.read_exact(&mut status).is_ok() {
                    assert_eq!(&status, b"HTTP/1.1 200");
                }
            }
        }
        stream
    }

    fn says(self, stream: &mut TcpStream, text: &str) {
        // It may be sent away already: others come behind it.
        drop(stream.write_all(text.as_bytes()));
    }
}
