//! record: what became of one connection, opened at accept and written exactly once.
/// How records are written: `[log]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of `key=value`.
    #[default]
    Text,
    /// One JSON object.
    Json,
}
