//! How much of a pool its own servers may hold by calling the pool again.
//!
//! A page that fetches another page of the same application through the gateway holds one thread
//! while it waits for a second one. Under load all threads wait and none is left to answer. With
//! half of the places closed to such calls, the other half always moves on.

/// Self calls at once: half of the pool's concurrency; where that is not bounded, half of the sum
/// of its servers' bounds; `None` (no bound) where a server has none either.
pub fn self_calls_max(concurrency: Option<u32>, server_bounds: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    let places = match concurrency {
        Some(places) => Some(u64::from(places)),
        None => server_bounds.map(|bound| bound.map(u64::from)).sum::<Option<u64>>(),
    };
    places.map(|places| u32::try_from(places / 2).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_there_is() {
        assert_eq!(self_calls_max(Some(11), [Some(100)].into_iter()), Some(5));
        assert_eq!(self_calls_max(None, [Some(10), Some(20)].into_iter()), Some(15));
        assert_eq!(self_calls_max(None, [Some(10), None].into_iter()), None);
        assert_eq!(self_calls_max(Some(1), [None].into_iter()), Some(0));
    }
}
