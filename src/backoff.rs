//! How long to wait before another attempt, and whether there may be one.
//!
//! Owns exponential backoff with full jitter, the retry budget, and the sliding window that the budget and the circuit
//! breaker count with. Pure: the time and the generator are passed in. Leaves to `establish` when to ask.

use std::time::{Duration, Instant};

/// How often and how fast another attempt follows a failed one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Attempts in all, 1 or more.
    pub attempts: u32,
    /// The first pause's upper bound; doubles with every attempt. The pause itself is drawn from 0 to the bound.
    pub backoff_min: Duration,
    /// The pause's largest upper bound.
    pub backoff_max: Duration,
    /// Retries allowed per first attempt, over ten seconds, beyond a reserve of ten a second; 0 to 1.
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

/// The pause after the `attempt`th failed attempt (the first is 1): drawn from 0 to the bound, so that clients which
/// failed together do not come back together.
pub fn pause(settings: &Settings, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
    doubled(settings.backoff_min, attempt.saturating_sub(1), settings.backoff_max).mul_f64(rng.f64())
}

/// `first` doubled `times` times, at most `most`.
pub fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}

/// Bounds the retries of an upstream by its first attempts, so that an outage is not multiplied by them: over the last
/// ten seconds no more retries than a hundred and the configured share of the first attempts.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    /// First attempts and retries.
    window: Window,
}

impl Budget {
    /// Retries that are allowed within ten seconds whatever the traffic. A quiet upstream must be able to retry too: with two
    /// of three endpoints dying by turns, each costs a retry five times until its circuit opens, and again when it comes back.
    /// So few hurt nobody.
    pub const RESERVE: u32 = 100;

    /// A budget of `share` retries per first attempt.
    pub fn new(share: f64, now: Instant) -> Self {
        Budget { share, window: Window::new(Duration::from_secs(10), now) }
    }

    /// Another share from now on; what was counted stays counted.
    pub fn set_share(&mut self, share: f64) {
        self.share = share;
    }

    /// A connection makes its first attempt.
    pub fn deposit(&mut self, now: Instant) {
        self.window.add(now, 1, 0);
    }

    /// A connection wants another attempt; `true` spends it.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let (firsts, retries) = self.window.sums(now);
        let allowed = f64::from(retries) + 1.0 <= f64::from(Self::RESERVE) + self.share * f64::from(firsts);
        if allowed {
            self.window.add(now, 0, 1);
        }
        allowed
    }
}

/// Two counts over the last so long, in constant memory: a ring of ten slots, each a tenth of the length. What is
/// counted is forgotten between nine and ten tenths later.
#[derive(Clone, Debug)]
pub struct Window {
    slots: [(u32, u32); Window::SLOTS],
    width: Duration,
    origin: Instant,
    /// The slot's number since `origin` that was written last.
    latest: u64,
}

impl Window {
    const SLOTS: usize = 10;

    /// An empty window that looks back `length`.
    pub fn new(length: Duration, now: Instant) -> Self {
        let width = (length / Self::SLOTS as u32).max(Duration::from_millis(1));
        Window { slots: [(0, 0); Self::SLOTS], width, origin: now, latest: 0 }
    }

    /// Counts at `now`.
    pub fn add(&mut self, now: Instant, left: u32, right: u32) {
        self.turn(now);
        let slot = &mut self.slots[(self.latest % Self::SLOTS as u64) as usize];
        *slot = (slot.0.saturating_add(left), slot.1.saturating_add(right));
    }

    /// Takes back one of the left counts that was counted at `then`, if it is still remembered.
    pub fn take_back_left(&mut self, now: Instant, then: Instant) {
        self.turn(now);
        let number = self.number(then);
        if self.latest.saturating_sub(number) < Self::SLOTS as u64 {
            let slot = &mut self.slots[(number % Self::SLOTS as u64) as usize];
            slot.0 = slot.0.saturating_sub(1);
        }
    }

    /// Both sums over the window.
    pub fn sums(&mut self, now: Instant) -> (u32, u32) {
        self.turn(now);
        self.slots.iter().fold((0, 0), |sum: (u32, u32), slot| {
            (sum.0.saturating_add(slot.0), sum.1.saturating_add(slot.1))
        })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slots = [(0, 0); Self::SLOTS];
    }

    fn number(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.origin).as_nanos() / self.width.as_nanos()) as u64
    }

    /// Empties the slots that time has passed over. A `now` before the latest counts as the latest: threads read their
    /// clocks before they take the lock.
    fn turn(&mut self, now: Instant) {
        let number = self.number(now);
        let passed = number.saturating_sub(self.latest).min(Self::SLOTS as u64);
        for step in 1..=passed {
            self.slots[((self.latest + step) % Self::SLOTS as u64) as usize] = (0, 0);
        }
        self.latest = self.latest.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_a_bound_that_doubles_up_to_the_largest() {
        let settings = Settings::default();
        let mut rng = fastrand::Rng::with_seed(1);
        for (attempt, bound) in
            [(0, 25), (1, 25), (2, 50), (3, 100), (6, 800), (7, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            let bound = Duration::from_millis(bound);
            let drawn: Vec<_> = (0..200).map(|_| pause(&settings, attempt, &mut rng)).collect();
            assert!(drawn.iter().all(|pause| *pause <= bound), "attempt {attempt}");
            assert!(
                drawn.iter().any(|pause| *pause > bound.mul_f64(0.9)),
                "attempt {attempt}: the bound is used"
            );
            assert!(
                drawn.iter().any(|pause| *pause < bound.mul_f64(0.1)),
                "attempt {attempt}: the jitter is full"
            );
        }
    }

    #[test]
    fn a_quiet_upstream_may_retry_its_reserve_and_gets_it_back_after_ten_seconds() {
        let start = Instant::now();
        let mut budget = Budget::new(0.2, start);
        assert_eq!((0..500).filter(|_| budget.withdraw(start)).count(), 100);
        assert!(!budget.withdraw(start + Duration::from_secs(8)));
        assert!(budget.withdraw(start + Duration::from_secs(11)));
    }

    #[test]
    fn a_busy_upstream_retries_its_share_of_the_first_attempts() {
        let start = Instant::now();
        let mut budget = Budget::new(0.2, start);
        let mut retried = 0;
        for n in 0..10_000u64 {
            let now = start + Duration::from_millis(n);
            budget.deposit(now);
            retried += u32::from(budget.withdraw(now));
        }
        assert!((2000..=2100).contains(&retried), "{retried}");
    }

    #[test]
    fn a_window_forgets_what_is_older_than_itself_and_survives_long_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new(Duration::from_secs(1), start);
        window.add(at(0), 3, 0);
        window.add(at(950), 0, 2);
        assert_eq!(window.sums(at(999)), (3, 2));
        assert_eq!(window.sums(at(1000)), (0, 2));
        assert_eq!(window.sums(at(3_600_000)), (0, 0));
        window.add(at(3_600_000), 1, 0);
        assert_eq!(window.sums(at(0)), (1, 0), "a clock that was read early changes nothing");
        window.take_back_left(at(3_600_000), at(0));
        assert_eq!(window.sums(at(3_600_000)), (1, 0), "what is forgotten cannot be taken back");
        window.take_back_left(at(3_600_001), at(3_600_000));
        assert_eq!(window.sums(at(3_600_001)), (0, 0));
    }
}
