//! The one source of chance in a simulation.
//!
//! xoshiro256++ (Blackman and Vigna, 2018), seeded through SplitMix64 as its authors recommend. It is written here and
//! not taken from a crate since a seed must mean the same run in every version: crates change what their generators
//! give.

pub(crate) struct Random([u64; 4]);

/// A million: probabilities are parts of it.
pub(crate) const MILLION: u32 = 1_000_000;

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut state = seed;
        let mut split = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        Random([split(), split(), split(), split()])
    }

    pub fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// One of the numbers below `count`, which is not 0. The lower ones are more likely by less than `count` in 2^64.
    pub fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(count)) >> 64) as u64
    }

    /// One of the numbers from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        let more = most.saturating_sub(least);
        match more.checked_add(1) {
            Some(count) => least + self.below(count),
            None => self.next(),
        }
    }

    /// Whether something happens that does in so many of a million cases. What never or always happens draws nothing,
    /// so that a fault that is switched off does not change the rest of the run.
    pub fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && (ppm >= MILLION || self.below(u64::from(MILLION)) < u64::from(ppm))
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a seed means must not change: the first numbers for it, from the authors' own programs.
    #[test]
    fn the_numbers_of_a_seed_stay_the_same() {
        let mut random = Random([1, 2, 3, 4]);
        let numbers: Vec<_> = (0..4).map(|_| random.next()).collect();
        assert_eq!(
            numbers,
            [41943041, 58720359, 3588806011781223, 3591011842654386]
        );
    }

    #[test]
    fn numbers_stay_within_their_bounds_and_reach_them() {
        let mut random = Random::new(7);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let number = random.between(10, 14);
            seen[(number - 10) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert!(!random.happens(0));
        assert!(random.happens(MILLION));
        assert_eq!(random.between(3, 3), 3);
    }
}
