//! What lies where on a physical volume:
//!
//! ```text
//! label | label again | map | map again | a page of contents for each extent | the extents
//! ```
//!
//! An extent's page of contents is apart from it, so that starting reads one range of the device and not a
//! piece of every extent. Its first sector says whose life the extent lives and is written when that begins;
//! the contents come behind it when the extent is full. A sector is taken to be written whole or not at all.

use twox_hash::XxHash3_64;

use crate::limits::{CHUNK_BYTES, EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, EXTENTS_MAX, PHYSICAL_VOLUMES_MAX, VOLUMES_MAX};

/// Bytes that a device writes as one.
pub(super) const SECTOR: usize = 512;

/// Where the two labels lie.
pub(super) const LABELS: [u64; 2] = [0, 4096];
const MAPS_AT: u64 = 8192;

/// Bytes of a volume's entry in a map: UUID, size, length of the name, name.
pub(super) const VOLUME_ENTRY: usize = 16 + 8 + 1 + crate::limits::NAME_BYTES;

/// Checksum of what lies on disk. The seed keeps what belongs to one volume from being another's.
pub(super) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// Places of one physical volume, all in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) extent_bytes: u64,
    pub(super) extents: u64,
    /// Extents that there are pages and places in the map for: it may grow to so many.
    pub(super) room: u64,
}

impl Layout {
    /// As many extents as go into so many bytes; none if there is no room for two.
    pub(super) fn fit(size: u64, extent_bytes: u64) -> Option<Self> {
        if !extent_bytes.is_power_of_two() || !(EXTENT_BYTES_MIN..=EXTENT_BYTES_MAX).contains(&extent_bytes) {
            return None;
        }
        let tight = |extents| Self { extent_bytes, extents, room: extents };
        let mut layout = tight((size / extent_bytes).min(EXTENTS_MAX));
        // A few steps: what the pages and the map take is less than a hundredth.
        while layout.extents >= 2 && layout.end() > size {
            let step = (layout.end() - size).div_ceil(extent_bytes + layout.page_bytes()).max(1);
            layout = tight(layout.extents.saturating_sub(step));
        }
        // All of that hundredth is for them, and what is left before the first extent.
        let first = layout.extent_at(0).max(size / 100 / extent_bytes * extent_bytes);
        layout.room = EXTENTS_MAX.min(first / layout.page_bytes());
        while layout.page_at(layout.room as u32) > first {
            layout.room -= (layout.page_at(layout.room as u32) - first).div_ceil(layout.page_bytes() + 2);
        }
        layout.extents = layout.extents_in(size);
        (layout.extents >= 2).then_some(layout)
    }

    /// The same on a device that has become larger. Nothing of it moves.
    pub(super) fn grown(self, size: u64) -> Self {
        Self { extents: self.extents.max(self.extents_in(size)), ..self }
    }

    fn extents_in(&self, size: u64) -> u64 {
        (size.saturating_sub(self.extent_at(0)) / self.extent_bytes).min(self.room)
    }

    /// Of so many bytes it leaves no more unused than rounding does.
    pub(super) fn has_all(&self, size: u64) -> bool {
        size < self.end() + 2 * self.extent_bytes || self.extents == EXTENTS_MAX
    }

    /// Bytes that it may grow to.
    pub(super) fn size_max(&self) -> u64 {
        self.extent_at(self.room as u32)
    }

    /// Bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES.min(self.extent_bytes as usize / 4)
    }

    /// Bytes of all extents.
    pub(super) fn bytes(&self) -> u64 {
        self.extents * self.extent_bytes
    }

    pub(super) fn map_bytes(&self) -> u64 {
        let most = 64 + PHYSICAL_VOLUMES_MAX as u64 * 16 + (VOLUMES_MAX * VOLUME_ENTRY) as u64 + self.room;
        most.next_multiple_of(4096)
    }

    pub(super) fn map_at(&self, slot: u64) -> u64 {
        MAPS_AT + slot * self.map_bytes()
    }

    /// Bytes of a page of contents: room for an object of 4 KiB beside the other.
    pub(super) fn page_bytes(&self) -> u64 {
        (self.extent_bytes / 512).max(8192)
    }

    pub(super) fn page_at(&self, extent: u32) -> u64 {
        self.map_at(2) + u64::from(extent) * self.page_bytes()
    }

    pub(super) fn extent_at(&self, extent: u32) -> u64 {
        // The kernel's larger pages lie at multiples of their size: none has a part in two extents.
        let first = self.page_at(self.room as u32).next_multiple_of(self.extent_bytes);
        first + u64::from(extent) * self.extent_bytes
    }

    fn end(&self) -> u64 {
        self.extent_at(self.extents as u32)
    }

    /// Records begin at multiples of this many bytes, so that 16 bits say where.
    pub(super) fn unit(&self) -> u64 {
        (self.extent_bytes / (1 << 16)).max(64)
    }

    /// Where a record begins.
    pub(super) fn record_at(&self, place: super::directory::Place) -> u64 {
        self.extent_at(place.extent) + u64::from(place.slot) * self.unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_within_the_device() {
        for extent_bytes in [1 << 20, 4 << 20, 64 << 20] {
            for size in [8 << 20, 100 << 20, (10 << 30) + 12_345, 100 << 30, 1 << 42, 1 << 45] {
                let Some(layout) = Layout::fit(size, extent_bytes) else {
                    assert!(size < 5 * extent_bytes);
                    continue;
                };
                assert!(layout.end() <= size);
                let left = size - layout.end();
                assert!(left < 2 * extent_bytes || layout.extents == EXTENTS_MAX, "{left} of {size} unused");
                assert!(layout.extent_bytes / layout.unit() <= 1 << 16);
                assert!(layout.extents <= layout.room && layout.page_at(layout.room as u32) <= layout.extent_at(0));
                let by_config = (size / 100 * 99 / extent_bytes).min(EXTENTS_MAX);
                assert!(layout.extents >= by_config || size < 20 * extent_bytes, "{} of {by_config}", layout.extents);
                // A hundredth is for several times as many, or for a fifth more where extents are small.
                let most = if extent_bytes == 1 << 20 { size / 5 * 6 } else { size / 2 * 5 };
                assert!(layout.size_max() >= most || layout.room == EXTENTS_MAX, "{size} {}", layout.size_max());
                let grown = layout.grown(most);
                assert!(grown.end() <= most.max(layout.end()) && grown.extent_at(0) == layout.extent_at(0));
                assert_eq!(layout.grown(size / 2), layout);
            }
        }
        assert_eq!(Layout::fit(1 << 30, 3 << 20), None);
        assert_eq!(Layout::fit(0, 1 << 20), None);
    }
}
