//! A registry's weights as shares of 1 to 1000. Pure.

/// The largest share that an endpoint can have.
const LARGEST: u64 = 1000;

/// A weight of any size beside the heaviest. 0 among others is little, and not nothing (RFC 2782, Weight): the others are
/// stretched then, so that 1 is as little as it gets.
pub(super) fn share(weight: u32, heaviest: u32, some_have_none: bool) -> u32 {
    let (weight, heaviest) = (u64::from(weight), u64::from(heaviest));
    let share = match heaviest <= LARGEST && !some_have_none {
        true => weight,
        false => (weight * LARGEST + heaviest / 2) / heaviest.max(1),
    };
    share.clamp(1, LARGEST) as u32
}
