//! What must hold for the config checker whatever is thrown at it. A broken rule is a panic.
//!
//! Included by the fuzz target and by the plain test that plays the kept corpus.

/// Any text is either a config or a report that can be shown, with places inside the text.
pub(crate) fn config_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match sumun_config::check_text("fuzz.yaml", text) {
        Ok(checked) => drop(checked.warnings.render(true)),
        Err(report) => {
            let shown = report.render(false);
            assert!(!shown.trim().is_empty(), "a refusal says why");
        }
    }
}
