//! What is told of the cache's pool on disk.

use sumun_engine::telemetry::Family;

use crate::cache::StorageReport;

/// Without rows where there is no pool.
pub(super) fn families(report: Option<&StorageReport>) -> [Family; 5] {
    let mut devices = Family::gauge(
        "sumun_cache_physical_volume_state",
        "1 for the state of each physical volume: working, slow, failed or leaving.",
    );
    let mut troubles = Family::counter(
        "sumun_cache_physical_volume_troubles_total",
        "Reads that failed (read), writes that took too long (slow_write), answers that were not stored since it did not keep up or failed (not_stored).",
    );
    for device in report.iter().flat_map(|report| &report.physical_volumes) {
        let path = ("path", &device.path.display().to_string().into());
        for state in ["working", "slow", "failed", "leaving"] {
            devices.push(&[path, ("state", &state.into())], u64::from(state == device.state));
        }
        let causes =
            [("read", device.read_errors), ("slow_write", device.slow_writes), ("not_stored", device.not_stored)];
        for (cause, count) in causes {
            troubles.push(&[path, ("cause", &cause.into())], count);
        }
    }
    let mut sizes = Family::gauge("sumun_cache_volume_bytes", "Bytes of each volume of the cache, over all devices.");
    let mut objects = Family::gauge("sumun_cache_volume_objects", "Answers that each volume holds.");
    for volume in report.iter().flat_map(|report| &report.volumes) {
        let label = ("volume", &volume.name.as_str().into());
        sizes.push(&[label], volume.bytes);
        objects.push(&[label], volume.objects);
    }
    let mut open = Family::gauge("sumun_cache_storage_open", "1 while the pool on disk is open.");
    if let Some(report) = report {
        open = open.with(u64::from(report.state == "open"));
    }
    [open, devices, troubles, sizes, objects]
}
