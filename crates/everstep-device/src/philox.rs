//! Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! A number is a pure function of (seed, stream, step, element): there is no state to save, and every executor
//! computes the same bits. `shaders/shared/philox.wgsl` is the twin of this file.

use rand::rand_core::{Infallible, TryRng};

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words from a 128-bit `counter` and a 64-bit `key`: ten rounds of Philox 4x32.
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let first = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// A random number source keyed by (`seed`, `stream`) and counted by (`step`, element).
///
/// Two generators with the same four numbers give the same words on every device. It implements `rand`'s
/// `Rng`, so `rand`'s distributions and `rand::RngExt` work on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generator {
    seed: u64,
    stream: u32,
    step: u64,
    position: u64,
    forks: u32,
}

impl Generator {
    /// The generator of stream 0 of `seed`, at step 0.
    pub fn new(seed: u64) -> Self {
        Self::with_stream(seed, 0)
    }

    /// The generator of one `stream` of `seed`, at step 0.
    pub fn with_stream(seed: u64, stream: u32) -> Self {
        Self { seed, stream, step: 0, position: 0, forks: 0 }
    }

    /// The same stream at another `step`, from its first element.
    pub fn at_step(&self, step: u64) -> Self {
        Self { step, position: 0, ..self.clone() }
    }

    /// A generator of a stream of its own. Stream 0 gives 1, 2, .. in turn; a fork gives streams drawn from its own
    /// number, with the highest bit set, so that they are neither its siblings' nor (but for one chance in 2^31) those
    /// of its siblings' forks.
    ///
    /// Each parameter that is initialised and each dropout layer takes one, so that adding a layer at the end
    /// leaves the numbers of those before it as they were.
    pub fn fork(&mut self) -> Self {
        self.forks += 1;
        let stream = match self.stream {
            0 => self.forks,
            parent => 1 << 31 | philox4x32_10([self.forks, parent, 0, 0], [0; 2])[0],
        };
        Self::with_stream(self.seed, stream)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// The four words of block `block`: elements `4 * block` to `4 * block + 3`.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        let counter = [block, self.step as u32, (self.step >> 32) as u32, self.stream];
        philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// The random word of element `element`.
    pub fn word(&self, element: u64) -> u32 {
        self.block((element / 4) as u32)[(element % 4) as usize]
    }

    /// The next uniform number in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        unit_interval(self.next_word())
    }

    /// The next number of the standard normal distribution (Box and Muller, 1958), computed in f64.
    pub fn normal(&mut self) -> f32 {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }

    /// The next number below `bound`, without bias (Lemire, 2019); 0 where `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = if bound == 0 { 0 } else { bound.wrapping_neg() % bound };
        loop {
            let product = u64::from(self.next_word()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    fn next_word(&mut self) -> u32 {
        let word = self.word(self.position);
        self.position += 1;
        word
    }
}

/// A word as a uniform number in [0, 1): its upper 24 bits times 2^-24, exact in f32.
#[inline(always)]
pub fn unit_interval(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

impl TryRng for Generator {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next_word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from(self.next_word()) | u64::from(self.next_word()) << 32)
    }

    fn try_fill_bytes(&mut self, destination: &mut [u8]) -> Result<(), Infallible> {
        for chunk in destination.chunks_mut(4) {
            chunk.copy_from_slice(&self.next_word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 1.14 (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_of_the_distributions() {
        let mut generator = Generator::new(3);
        let n = 100_000;
        let normals: Vec<f64> = (0..n).map(|_| f64::from(generator.normal())).collect();
        let mean = normals.iter().sum::<f64>() / n as f64;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        // Five standard errors: 5 / sqrt(n) for the mean, 5 * sqrt(2 / n) for the variance.
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
        let mean = (0..n).map(|_| f64::from(generator.uniform())).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        let mut counts = [0u32; 7];
        (0..n).for_each(|_| counts[generator.below(7) as usize] += 1);
        assert!(counts.iter().all(|&c| (f64::from(c) - n as f64 / 7.0).abs() < 5.0 * 111.0), "{counts:?}");
        assert_eq!(generator.below(0), 0);
    }

    #[test]
    fn streams_steps_and_forks_differ_and_repeat() {
        let first = |mut g: Generator| (g.uniform(), g.uniform());
        let mut root = Generator::new(1);
        let (a, b) = (root.fork(), root.fork());
        assert_ne!(first(a.clone()), first(b));
        assert_ne!(first(a.clone()), first(a.at_step(1)));
        assert_eq!(first(a.clone()), first(Generator::new(1).fork()));
        // Forks of forks meet nobody: blocks that hand their own generator on begin with numbers of their own.
        let mut streams = Vec::new();
        for mut block in [root.fork(), root.fork()] {
            streams.push(block.stream());
            for mut layer in [block.fork(), block.fork(), block.fork()] {
                streams.extend([layer.stream(), layer.fork().stream(), layer.fork().stream()]);
            }
        }
        streams.sort_unstable();
        assert!(streams.windows(2).all(|pair| pair[0] != pair[1]), "{streams:?}");
    }
}
