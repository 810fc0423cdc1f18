//! The fuzz target of the config as a plain test over the inputs that were found worth keeping.

#[path = "../../../fuzz/targets/config.rs"]
mod targets;

use std::fs;

#[test]
fn kept_inputs() {
    let folder = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../fuzz/corpus/config_text");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        // The harness shows it where the target panics.
        println!("{}", path.display());
        targets::config_text(&fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
