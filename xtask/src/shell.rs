//! Running other programs to their end, and the places where things are kept.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The error of everything here is a sentence for a person.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Asked when it runs: with a target folder that several checkouts share, what was compiled in may
    // be the folder of another one.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    own.parent().unwrap_or(&own).to_path_buf()
}

/// What outlives a run and may be deleted at any time: build results, Python environments.
pub(crate) fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir)
}

/// Where cargo builds to: `CARGO_TARGET_DIR`, or a folder that several checkouts share.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache_folder().join("sumun-target"), PathBuf::from)
}

/// `cargo`, run in the workspace and building to [`target_folder`].
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace()).env("CARGO_TARGET_DIR", target_folder());
    command
}

/// Whether a program of this name is on the PATH or in the system's folders, which a user's PATH
/// may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a program with its output on our terminal; says whether it ended well.
pub(crate) fn passes(command: &mut Command) -> Fallible<bool> {
    let status = command.status().map_err(|error| format!("{}: {error}", describe(command)))?;
    Ok(status.success())
}

/// Runs a program quietly; its standard output, or an error with what it wrote.
pub(crate) fn output(command: &mut Command) -> Fallible<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", describe(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}\n{stdout}{stderr}", describe(command), output.status).into())
}

/// Standard output and standard error together, however the program ended: several programs
/// print their version on the one or the other, and one of them fails while doing so.
pub(crate) fn all_output(command: &mut Command) -> Fallible<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", describe(command)))?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Root may install packages and make network namespaces.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|identifiers| identifiers.split_whitespace().nth(1))
            == Some("0")
    })
}
