//! Where an input is cut: the input itself decides.

/// Pseudo-random numbers from the bytes of an input: the same input is always cut in the same way.
pub(crate) struct Dice(u64);

impl Dice {
    /// FNV-1a over the bytes.
    pub(crate) fn of(data: &[u8]) -> Self {
        Self(
            data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
        )
    }

    /// A number below `bound` (xorshift64*).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    /// Pieces of random length, some of them empty.
    pub(crate) fn cut<'a>(&mut self, data: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = 1 + self.below(data.len() + 1);
        let mut pieces = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(self.below(longest + 1).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }
}
