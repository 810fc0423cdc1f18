//! Programs that run beside us, and what makes sure that none of them stays behind.
//!
//! Every program gets a process group of its own, which dies with its [`Running`]. For the ways
//! in which no destructor runs (Ctrl-C, `kill -9`, a crash) there is the janitor: a shell in a
//! group of its own that holds the other end of a pipe. It is told of every group, folder and
//! network namespace; when the pipe closes, for whatever reason, it removes those still there.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process;
use crate::shell::Fallible;

const JANITOR: &str = r#"
IFS='
'
while read -r line; do
  verb=${line%% *}; key=${line#* }
  case $verb in
    forget) kept=
      for entry in $entries; do [ "${entry#* }" = "$key" ] || kept="$kept$entry
"; done
      entries=$kept ;;
    *) entries="$entries$line
" ;;
  esac
done
for entry in $entries; do
  key=${entry#* }
  case ${entry%% *} in group) kill -s KILL -- "-$key" 2>/dev/null ;; esac
done
for entry in $entries; do
  key=${entry#* }
  case ${entry%% *} in
    namespace) ip netns delete "$key" 2>/dev/null ;;
    path) rm -rf -- "$key" ;;
  esac
done
"#;

static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Tells the janitor one line: `group ID`, `path PATH`, `namespace NAME` or `forget KEY`.
fn tell_janitor(line: &str) -> Fallible<()> {
    let mut pipe = PIPE.lock().map_err(|_| "the janitor's pipe is poisoned")?;
    if pipe.is_none() {
        let mut janitor = Command::new("sh")
            .args(["-c", JANITOR])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        *pipe = janitor.stdin.take();
    }
    if let Some(pipe) = pipe.as_mut() {
        pipe.write_all(format!("{line}\n").as_bytes())?;
    }
    Ok(())
}

/// Removes this file or folder at the end of the run, if it is still there.
pub(crate) fn remove_at_end(path: &Path) -> Fallible<()> {
    tell_janitor(&format!("path {}", path.display()))
}

/// A folder that is removed at the end, whatever the end is.
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn create() -> Fallible<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sumun-xtask-{}-{number}", std::process::id()));
        // Not one that somebody else has put there.
        std::fs::create_dir(&path)?;
        remove_at_end(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into the folder and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Fallible<PathBuf> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // The janitor still knows the path and tries again.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A network namespace that is removed at the end. Its name starts with `sumun-`.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn create(name: &str) -> Fallible<Self> {
        let name = format!("sumun-{}-{name}", std::process::id());
        tell_janitor(&format!("namespace {name}"))?;
        crate::shell::output(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(crate::shell::output(Command::new("ip").args(["netns", "delete", &self.0])));
    }
}

/// A program that runs beside us; dies with this value.
pub(crate) struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command` in a process group of its own, what it prints going to a file.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &TemporaryFolder) -> Fallible<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = folder.path().join(format!("{name}-{number}.log"));
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        tell_janitor(&format!("group {}", child.id()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub(crate) fn printed(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Waits until a connection to `address` is accepted.
    pub(crate) fn wait_for(&mut self, address: SocketAddr, limit: Duration) -> Fallible<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended at its start with {status}\n{}", self.name, self.printed()).into());
            }
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
                Err(error) => {
                    return Err(
                        format!("{} does not answer at {address}: {error}\n{}", self.name, self.printed()).into()
                    );
                }
            }
        }
    }

    /// The exit status once it has ended by itself.
    pub(crate) fn ended(&mut self) -> Fallible<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its own end, at most for `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Fallible<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} did not end within {limit:?}\n{}", self.name, self.printed()).into());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal (`TERM`, `HUP`, `KILL`) to the first process alone.
    pub(crate) fn signal(&self, signal: &str) -> Fallible<()> {
        send_signal(signal, &self.id().to_string())
    }

    /// `kill -9` to the whole process group, at once.
    pub(crate) fn kill(&mut self) {
        // Descendants that left the group (a daemon's habit) are found by parentage.
        let strays = process::tree(self.child.id());
        // Failure means that the group is gone already, which is what is wanted.
        drop(send_signal("KILL", &format!("-{}", self.child.id())));
        for stray in strays.into_iter().filter(|&stray| stray != self.child.id()) {
            drop(send_signal("KILL", &stray.to_string()));
        }
        drop(self.child.wait());
        drop(tell_janitor(&format!("forget {}", self.child.id())));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn send_signal(signal: &str, target: &str) -> Fallible<()> {
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\" 2>/dev/null", signal, target]).status()?;
    if status.success() { Ok(()) } else { Err(format!("no process {target}").into()) }
}

/// A TCP port that was free a moment ago.
pub(crate) fn free_tcp_port() -> Fallible<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// 127.0.0.1 with this TCP port.
pub(crate) fn loopback(tcp_port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, tcp_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_janitor_removes_what_was_not_forgotten() {
        let folder = std::env::temp_dir().join(format!("sumun-janitor-test-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("nobody else has this name");
        let spawn = || Command::new("sleep").arg("600").process_group(0).spawn().expect("sleep is everywhere");
        let (mut lost, mut kept) = (spawn(), spawn());
        let mut janitor =
            Command::new("sh").args(["-c", JANITOR]).stdin(Stdio::piped()).spawn().expect("sh is everywhere");
        let lines =
            format!("group {}\ngroup {}\npath {}\nforget {}\n", kept.id(), lost.id(), folder.display(), kept.id());
        let mut pipe = janitor.stdin.take().expect("it was asked for");
        pipe.write_all(lines.as_bytes()).expect("it reads");
        drop(pipe);
        assert!(janitor.wait().expect("it ends").success());
        assert!(!lost.wait().expect("it is ours").success());
        assert!(kept.try_wait().expect("it is ours").is_none());
        assert!(!folder.exists());
        kept.kill().expect("it is ours");
        kept.wait().expect("it is ours");
    }
}
