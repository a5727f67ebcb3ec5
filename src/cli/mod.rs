//! cli
/// Parses the command line and runs it.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
