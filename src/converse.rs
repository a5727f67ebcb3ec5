//! converse: lets one side of a conversation ([`Talk`]) talk over a socket, until it is done or cannot be.
//!
//! The one loop behind a client's preface, a server's negotiation and a refusal that has to hear the client out first. Leaves
//! time to its callers, who also know what an end means.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

use crate::failure::Failure;
use crate::protocol::Talk;

/// The messages before TLS are short: most fit into one read of this size.
const READ: usize = 2 * 1024;

/// Why a conversation came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// The peer said something that ends it.
    Failed(Failure),
    /// The peer closed, for a reason that its words give away.
    Left(Failure),
    /// The peer closed; it had said something, or not.
    Closed {
        /// At least one byte had come.
        spoke: bool,
    },
    /// The socket failed.
    Io(io::Error),
}

/// Converses. The caller bounds the time; what a peer may say is bounded by the talk itself.
///
/// # Errors
/// See [`Trouble`].
pub async fn converse<S, T>(stream: &mut S, talk: &mut T) -> Result<T::Outcome, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Talk + ?Sized,
{
    // A check's password may be among it.
    let (mut heard, mut say) = (Vec::new(), Zeroizing::new(Vec::new()));
    let mut spoke = false;
    // A peer that is done with us may say why before it hangs up: our next write fails, but its words can still be read.
    let mut unwritable = None;
    loop {
        let outcome = talk.hear(&mut heard, &mut say);
        if unwritable.is_none()
            && !say.is_empty()
            && let Err(error) = stream.write_all(&say).await
        {
            unwritable = Some(error);
        }
        say.zeroize();
        if let Some(outcome) = outcome.map_err(Trouble::Failed)? {
            return match unwritable {
                None => Ok(outcome),
                Some(error) => Err(Trouble::Io(error)),
            };
        }
        let most = talk.may_read(&heard).map_or(READ, |most| most.min(READ));
        heard.reserve(most);
        match (&mut *stream).take(most as u64).read_buf(&mut heard).await {
            Ok(0) => {
                return Err(match (talk.ended(&heard), unwritable) {
                    (Some(failure), _) => Trouble::Left(failure),
                    (None, Some(error)) => Trouble::Io(error),
                    (None, None) => Trouble::Closed { spoke },
                });
            }
            Ok(_) => spoke = true,
            Err(error) => return Err(Trouble::Io(unwritable.unwrap_or(error))),
        }
    }
}
