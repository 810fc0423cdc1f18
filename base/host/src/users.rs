//! Users of this host, and becoming one of them.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user of our own comes before the one that everybody shares.
const UNPRIVILEGED: [&str; 2] = ["sumun", "nobody"];

/// Whom a process can become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// For people; the number where it has no name.
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All of its groups, `gid` among them.
    pub groups: Vec<u32>,
}

/// The user of this name; `None` where there is none. Asks everything that the host's name service
/// switch knows, not /etc/passwd alone.
pub fn by_name(name: &str) -> io::Result<Option<Account>> {
    let found = or_nobody(User::from_name(name))?;
    found.map(account).transpose()
}

/// The user of this number. It needs no entry anywhere where `gid` is given, and then has that group
/// alone; `None` where neither is there.
pub fn by_ids(uid: u32, gid: Option<u32>) -> io::Result<Option<Account>> {
    let entry = or_nobody(User::from_uid(Uid::from_raw(uid)))?;
    match gid {
        None => entry.map(account).transpose(),
        Some(gid) => {
            let name = entry.map_or_else(|| uid.to_string(), |entry| entry.name);
            Ok(Some(Account { name, uid, gid, groups: vec![gid] }))
        }
    }
}

/// The user for who is root and need not be: `sumun`, else `nobody`.
pub fn unprivileged() -> io::Result<Option<Account>> {
    for name in UNPRIVILEGED {
        if let Some(account) = by_name(name)? {
            return Ok(Some(account));
        }
    }
    Ok(None)
}

/// Who the calling thread is: a name, or the number where there is none.
pub fn current_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(entry)) => entry.name,
        Ok(None) | Err(_) => uid.to_string(),
    }
}

/// What some systems say instead of "no entry".
fn or_nobody(found: nix::Result<Option<User>>) -> io::Result<Option<User>> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        other => Ok(other?),
    }
}

fn account(entry: User) -> io::Result<Account> {
    let name = CString::new(entry.name.as_str()).map_err(io::Error::other)?;
    let groups = getgrouplist(&name, entry.gid)?.into_iter().map(Gid::as_raw).collect();
    Ok(Account { name: entry.name, uid: entry.uid.as_raw(), gid: entry.gid.as_raw(), groups })
}

/// Makes the calling thread this user, for good: real, effective and saved ids and all groups. A
/// process becomes it where this is done before it has a second thread. Capabilities go with the
/// last id that is 0.
pub fn become_account(account: &Account) -> io::Result<()> {
    becoming(account)()
}

/// The same for later: nothing but system calls is left to be done, as a process needs it that has just
/// been forked.
pub(crate) fn becoming(account: &Account) -> impl Fn() -> io::Result<()> + Send + Sync + use<> {
    let gid = rustix::process::Gid::from_raw(account.gid);
    let uid = rustix::process::Uid::from_raw(account.uid);
    let groups: Vec<_> = account.groups.iter().map(|group| rustix::process::Gid::from_raw(*group)).collect();
    move || {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }
}

/// Does `work` on a thread of its own with the rights of this user: what it can reach, with access
/// lists and everything else that the kernel looks at.
pub fn as_account<T: Send>(account: &Account, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let before = dumpable_behavior()?;
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sumun-user".to_owned());
        let thread = thread.spawn_scoped(scope, || become_account(account).map(|()| work()))?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the look with another user's eyes failed")))
    });
    // The kernel protects the memory of a process from that user from here on. With the thread gone
    // there is nothing to protect, and a crash may leave a core as before.
    if before == DumpableBehavior::Dumpable {
        set_dumpable_behavior(before)?;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found() {
        let root = by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
        assert!(root.groups.contains(&0));
        assert_eq!(by_name("no-such-user-here").unwrap(), None);
        assert_eq!(by_ids(0, None).unwrap().unwrap(), root);
        assert_eq!(by_ids(4_000_000_001, None).unwrap(), None);
        let number = by_ids(4_000_000_001, Some(7)).unwrap().unwrap();
        assert_eq!((number.name.as_str(), number.gid, number.groups), ("4000000001", 7, vec![7]));
    }

    #[test]
    fn work_is_done_as_somebody_else_and_we_stay_who_we_are() {
        let before = rustix::process::geteuid();
        let account = by_ids(4_000_000_001, Some(4_000_000_002)).unwrap().unwrap();
        let ids = as_account(&account, || (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
        if before.is_root() {
            assert_eq!(ids.unwrap(), (4_000_000_001, 4_000_000_002));
        } else {
            assert_eq!(ids.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
        assert_eq!(rustix::process::geteuid(), before);
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
    }
}
