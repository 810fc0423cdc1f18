//! The config file: text, checked form, difference.
//!
//! ```text
//! path --load--> Sources --check--> Checked { Config, warnings } --diff--> Diff
//! ```
//!
//! [`load`] reads files and environment and judges nothing. [`check`] judges what was read, and
//! finds everything that is wrong with it, each problem with its place; with [`Probe::Nothing`]
//! it touches nothing outside, so a process without rights can check the same [`Sources`] again.
//! Shapes, defaults, JSON Schema and the reference in `docs/config.md` come from one table.

mod account;
mod check;
pub mod checked;
mod diff;
mod edit;
mod fill;
mod glob;
mod kind;
pub mod limits;
mod lower;
mod merge;
mod node;
mod problems;
mod reference;
mod report;
mod schema;
mod shape;
mod sources;
mod table;
mod values;
mod walk;
mod yaml;

pub use account::account;
pub use check::{Checked, Probe, check, check_text};
pub use diff::{Changes, Diff, diff};
pub use edit::{Edited, VolumeEdit, edit_volumes};
pub use glob::matches as glob_matches;
pub use reference::reference;
pub use report::{Problem, Report, Rule, Severity};
pub use schema::schema;
pub use sources::{Sources, default_control, load};

/// What the host says about a file, in lower case and without the error number.
fn host_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::NotADirectory => "a part of its path is no directory".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}

/// What a server is called in connection ids of QUIC, in hexadecimal; `None`: it is no such id.
#[must_use]
pub fn quic_id(text: &str) -> Option<checked::ServerId> {
    values::quic::server_id(text).ok()
}

/// The key of an external account, as it stands in a file.
///
/// # Errors
/// It is none; a text for the operator.
pub fn hmac_key(text: &str) -> Result<Vec<u8>, String> {
    values::acme::hmac_key(text.trim()).map_err(|wrong| wrong.message)
}
