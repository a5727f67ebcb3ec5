//! No, in one line of POP3 or NNTP: what was seen, what to do, and where the log says more.

use crate::protocol::Refusal;
use crate::protocol::reply::printable;

/// Of a line with its end (RFC 2449, 4; RFC 3977, 3.1).
const MAX_LINE: usize = 512;

/// In place of a greeting, or of any command's answer and the next one's. `status`: what the line begins with.
pub(in crate::protocol) fn refusal(status: &str, refusal: &Refusal<'_>) -> Vec<u8> {
    let Refusal { failure, id, greeted, said: _ } = *refusal;
    let last = format!(" ({}, connection {id})", failure.reason);
    let room = MAX_LINE - "\r\n".len() - status.len() - " nuncio: ; ".len() - last.len();
    let (detail, mend) = (printable(&failure.detail), printable(failure.next_step()));
    let (detail, mend) = (detail.trim(), mend.trim());
    // Whichever is short leaves its room to the other.
    let detail = shortened(detail, (room / 2).max(room.saturating_sub(mend.len())));
    let mend = shortened(mend, room - detail.len());
    let mut said = format!("{status} nuncio: {detail}; {mend}{last}\r\n").into_bytes();
    if greeted {
        // For whoever takes it for the answer of a server that does not know what it can do, and goes on (nntplib).
        said.extend_from_within(..);
    }
    said
}

/// ASCII only: every index is a boundary.
fn shortened(text: &str, room: usize) -> String {
    match text.get(..room.saturating_sub(3)) {
        Some(kept) if text.len() > room => format!("{}...", kept.trim_end()),
        _ => text.to_owned(),
    }
}
