//! What this host keeps between two starts: a key of its own.

use std::io;
use std::path::PathBuf;

use sumun_host::{files, process, random};

/// 32 bytes that stay the same on this host, so that sticky cookies outlive a restart. Kept in
/// `/var/lib/sumun/secret` for root, else in `$XDG_STATE_HOME/sumun/secret` or
/// `~/.local/state/sumun/secret`. Where that cannot be: new ones for this run, with a warning.
pub(crate) fn host_key() -> io::Result<[u8; 32]> {
    let fresh = random::random_bytes::<32>()?;
    let kept = directory().and_then(|directory| {
        files::private_directory(&directory)?;
        files::secret_file(&directory.join("secret"), fresh)
    });
    Ok(kept.unwrap_or_else(|error| {
        tracing::warn!(
            "the host's key cannot be kept ({error}): sticky sessions without a `secret` of their own end with this run"
        );
        fresh
    }))
}

/// 16 hexadecimal digits that name this run of the supervisor.
pub(crate) fn instance() -> io::Result<String> {
    Ok(format!("{:016x}", u64::from_be_bytes(random::random_bytes()?)))
}

fn directory() -> io::Result<PathBuf> {
    if process::effective_uid() == 0 {
        return Ok(PathBuf::from("/var/lib/sumun"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|base| base.join("sumun"))
        .ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set"))
}
