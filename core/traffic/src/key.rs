//! Hash keys: stable between processes, machines and versions, so that several gateways send the
//! same key to the same server. Not for tables that an attacker may fill.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The key of some bytes: FNV-1a, then [`mix`], because FNV leaves its high bits poor on short input.
pub fn key_of(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
    mix(hash)
}

/// Spreads every input bit over all output bits (the finalizer of MurmurHash3). One-to-one.
#[inline]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// `random` or a hash, scaled to `0..bound` without a division; its high half is used.
#[inline]
pub(crate) fn scale(value: u64, bound: usize) -> usize {
    (((value >> 32) * bound as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable_and_spread() {
        assert_eq!(key_of(b""), mix(FNV_OFFSET));
        assert_eq!(key_of(b"client-1"), key_of(b"client-1"));
        let mut buckets = [0_u32; 16];
        for number in 0..16_000 {
            buckets[scale(key_of(format!("10.0.{}.{}", number / 256, number % 256).as_bytes()), 16)] += 1;
        }
        assert!(buckets.iter().all(|count| (800..1200).contains(count)), "{buckets:?}");
    }
}
