//! Exponential backoff with full jitter, and the retry budget.
use std::time::Duration;
/// How often and how fast another attempt follows a failed one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Attempts in all, 1 or more.
    pub attempts: u32,
    /// The first pause's upper bound; doubles with every attempt. The pause itself is drawn from 0 to the bound.
    pub backoff_min: Duration,
    /// The pause's largest upper bound.
    pub backoff_max: Duration,
    /// Retries allowed per first attempt, over ten seconds, beyond a reserve of ten; 0 to 1.
    pub budget: f64,
}
impl Default for Settings {
    fn default() -> Self {
        Settings {
            attempts: 3,
            backoff_min: Duration::from_millis(25),
            backoff_max: Duration::from_secs(1),
            budget: 0.2,
        }
    }
}
