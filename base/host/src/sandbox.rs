//! Giving up rights for good: the user, capabilities, Landlock, seccomp.
//!
//! What is given up here cannot be had back by this process or anything it starts. The order
//! matters: rights that a later step needs are given up after it, and the filter of system calls
//! comes last.
//!
//! ```text
//! rules of Landlock (their paths are opened) ► no new privileges ► capabilities that execve could
//! bring ► user and groups ► all capabilities that are not needed ► Landlock ► filter of system calls
//! ```

pub mod acts;
pub mod calls;
mod filter;
mod landlock;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use crate::users::{self, Account, become_account};

/// The first version of Landlock's interface that knows TCP ports.
pub const LANDLOCK_WITH_PORTS: u32 = 4;

/// What stays allowed of the things that Landlock knows; everything else of them is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowances {
    /// Folders with everything below, and files: to be read. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// Folders in which regular files are also made, written and removed.
    pub write: Vec<PathBuf>,
    /// TCP ports to connect to, at any address.
    pub connect: Vec<u16>,
    /// TCP ports to bind; 0 is any that the kernel chooses.
    pub bind: Vec<u16>,
    /// UDP is served: datagrams in batches ([`calls::WITHOUT_UDP`]). To look up names, and to have UDP
    /// sockets at any address and port, nothing is needed: Landlock knows no UDP.
    pub udp: bool,
    /// Connections come from addresses of clients: CAP_NET_RAW is kept where this process has it. What
    /// else it is good for is refused by the filter of system calls.
    pub transparent: bool,
}

/// What holds from now on.
#[derive(Debug)]
pub struct Entered {
    /// Who we are now.
    pub user: String,
    /// Why we did not become somebody else, if that was to be.
    pub user_problem: Option<String>,
    pub kernel: Kernel,
    /// Entries of /proc that the rules are about: the kernel would make new ones, without rules,
    /// if nobody held these.
    _held: Vec<OwnedFd>,
}

/// What this kernel could do of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernel {
    /// Version of Landlock's interface; 0 without it.
    pub landlock: u32,
    pub seccomp: bool,
    /// A line for each thing that is not restricted, and why.
    pub missing: Vec<String>,
}

/// Gives up everything but `allowances`, for the whole process, which must not have a second thread
/// yet. Becomes `account` where there is one. What the kernel lacks is left out and told.
///
/// # Errors
/// There are more threads than one, or the kernel cannot even promise that no program brings new
/// privileges; nothing was given up then.
pub fn enter(account: Option<&Account>, allowances: &Allowances) -> io::Result<Entered> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("the sandbox has to be entered by one thread, and there are {threads}")));
    }
    let rules = landlock::prepare(allowances);
    let held = rules.held()?;
    set_no_new_privs(true)?;
    drop_bounding_capabilities();
    let user_problem = become_with(account, allowances.transparent)?.err();
    let user = users::current_name();
    let user_problem = user_problem.map(|error| error.to_string());
    let kernel = restrict(rules, allowances.udp);
    FILTERED.store(kernel.seccomp, Ordering::Relaxed);
    Ok(Entered { user, user_problem, kernel, _held: held })
}

static FILTERED: AtomicBool = AtomicBool::new(false);

/// Whether the filter of system calls holds for the whole process.
fn is_filtered() -> bool {
    FILTERED.load(Ordering::Relaxed)
}

/// Becomes `account` and gives up nothing else: for who wants no sandbox and yet another user. With
/// `transparent` CAP_NET_RAW is kept. Before there is a second thread.
pub fn only_become(account: &Account, transparent: bool) -> io::Result<()> {
    if transparent { become_with(Some(account), true)? } else { become_account(account) }
}

/// Becomes `account` where there is one, and gives up all capabilities but what `transparent` needs. The
/// inner error: it is still who it was.
fn become_with(account: Option<&Account>, transparent: bool) -> io::Result<io::Result<()>> {
    // They would go with the last id that is 0.
    set_keep_capabilities(transparent)?;
    let became = account.map_or(Ok(()), become_account);
    set_keep_capabilities(false)?;
    drop_capabilities(if transparent { CapabilitySet::NET_RAW } else { CapabilitySet::empty() })?;
    Ok(became)
}

/// What [`enter`] could do on this kernel, found out on a thread that ends with it.
pub fn kernel() -> io::Result<Kernel> {
    let thread = std::thread::Builder::new().name("sumun-sandbox".to_owned()).spawn(|| {
        set_no_new_privs(true)?;
        let least = Allowances::default();
        Ok(restrict(landlock::prepare(&least), least.udp))
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the sandbox could not be tried out")))
}

/// Landlock and the filter, for the calling thread and those that it starts.
fn restrict(rules: landlock::Rules, udp: bool) -> Kernel {
    let (landlock, mut missing) = rules.restrict();
    let filtered = filter::apply(udp);
    let seccomp = filtered.is_ok();
    missing.extend(filtered.err());
    Kernel { landlock, seccomp, missing }
}

/// What a program could bring with it by the file it lies in. Only who has CAP_SETPCAP may do this;
/// without it there is nothing to lose either, since no program brings privileges any more.
fn drop_bounding_capabilities() {
    for capability in CapabilitySet::all().iter() {
        let dropped = remove_capability_from_bounding_set(capability);
        if matches!(dropped, Err(rustix::io::Errno::PERM)) {
            break;
        }
    }
}

/// All but those of `kept` that this process has.
fn drop_capabilities(kept: CapabilitySet) -> io::Result<()> {
    // A kernel before 4.3 knows no ambient capabilities.
    match clear_ambient_capability_set() {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = kept & capabilities(None)?.permitted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// `landlock 7, seccomp, user nobody`
impl fmt::Display for Entered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, user {}", self.kernel, self.user)
    }
}

/// `landlock 7, seccomp`
impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            0 => formatter.write_str("no landlock")?,
            version => write!(formatter, "landlock {version}")?,
        }
        formatter.write_str(if self.seccomp { ", seccomp" } else { ", no seccomp" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_entered_with_more_threads_than_one() {
        // The test harness has one for itself and one for this test.
        let error = enter(None, &Allowances::default()).unwrap_err();
        assert!(error.to_string().contains("one thread"), "{error}");
        assert!(!rustix::thread::no_new_privs().unwrap());
    }

    #[test]
    fn trying_it_out_restricts_nobody_else() {
        let kernel = kernel().unwrap();
        assert_eq!(kernel.missing.is_empty(), kernel.landlock >= 6 && kernel.seccomp, "{kernel:?}");
        fs::read_dir("/proc/self/fd").unwrap();
        std::process::Command::new("true").status().unwrap();
    }

    #[test]
    fn in_words() {
        let kernel = Kernel { landlock: 7, seccomp: true, missing: Vec::new() };
        let entered = Entered { user: "nobody".to_owned(), user_problem: None, kernel, _held: Vec::new() };
        assert_eq!(entered.to_string(), "landlock 7, seccomp, user nobody");
        assert_eq!(Kernel::default().to_string(), "no landlock, no seccomp");
    }
}
