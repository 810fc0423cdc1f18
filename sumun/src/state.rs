//! What this host keeps between two starts, and where: a key of its own; see also
//! `supervisor/acme.rs`.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use sumun_host::{files, process, random};

/// 32 bytes that stay the same on this host, so that sticky cookies outlive a restart. Kept in the
/// file `secret` of [`directory`]. Where that cannot be: new ones for this run, with a warning.
pub(crate) fn host_key(state: Option<&Path>) -> io::Result<[u8; 32]> {
    let fresh = random::random_bytes::<32>()?;
    let kept = directory(state).and_then(|directory| {
        files::private_directory(&directory)?;
        files::secret_file(&directory.join("secret"), fresh)
    });
    Ok(kept.unwrap_or_else(|error| {
        tracing::warn!(
            "the host's key cannot be kept ({error}): sticky sessions without a `secret` of their own end with this \
             run, and a cache on disk begins anew"
        );
        fresh
    }))
}

/// What is in the keys of the cache, so that nobody can make two URLs meet: with the host's key it is the same
/// after a restart, and what is on disk can be found again.
pub(crate) fn cache_secret(host_key: &[u8; 32]) -> [u8; 16] {
    let tag = sign(&Key::new(HMAC_SHA256, host_key), b"cache keys");
    std::array::from_fn(|at| tag.as_ref().get(at).copied().unwrap_or_default())
}

/// 16 hexadecimal digits that name this run of the supervisor.
pub(crate) fn instance() -> io::Result<String> {
    Ok(format!("{:016x}", u64::from_be_bytes(random::random_bytes()?)))
}

/// The one that the config names; else `/var/lib/sumun` for root, and `$XDG_STATE_HOME/sumun` or
/// `~/.local/state/sumun` for others.
pub(crate) fn directory(state: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(state) = state {
        return Ok(state.to_owned());
    }
    if process::effective_uid() == 0 {
        return Ok(PathBuf::from("/var/lib/sumun"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|base| base.join("sumun"))
        .ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set"))
}
